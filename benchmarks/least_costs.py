"""The least that learned and signed feedback weights cost, in plain PyTorch without any rule.

    python benchmarks/least_costs.py                 # 784-500-500-10, batch 8, one thread

Feedback that learns is a parameter with a gradient of its own, which an optimizer moves: backpropagation's step, a copy
of the gradient of each weight that errors pass, and SGD over it. Feedback of the forward weights' signs and fixed sizes
has to be made from the weights of each step: one `copysign`. No implementation in eager PyTorch is below that. The arms
take their steps in turn; a figure is the median of the ratios of neighbours, with quartiles, by processor time.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from apical.statistics import quartiles


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(784, 500), nn.ReLU(), nn.Linear(500, 500), nn.ReLU(), nn.Linear(500, 10))


def step(batch: int, kind: str) -> Callable[[], None]:
    model = network()
    weights = [model[2].weight, model[4].weight]  # those that a signal goes back through
    feedback = [nn.Parameter(torch.randn_like(weight)) for weight in weights]
    moved = feedback if kind == "learned" else []
    optimizer = torch.optim.SGD([*model.parameters(), *moved], lr=1e-6)
    x, y = torch.randn(batch, 784), torch.randint(0, 10, (batch,))

    def take() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        with torch.no_grad():
            for own, weight in zip(feedback, weights, strict=True):
                if kind == "learned":
                    own.grad = weight.grad.clone()
                elif kind == "signs":
                    torch.copysign(own, weight)
        optimizer.step()

    return take


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--turns", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    arms = {"plain": step(options.batch, ""), "same": step(options.batch, "")}
    arms |= {kind: step(options.batch, kind) for kind in ("learned", "signs")}
    spent: dict[str, list[float]] = {kind: [] for kind in arms}
    for _ in range(options.turns):
        for kind, take in arms.items():
            take()  # the other arms have used the caches since
            started = time.process_time()
            for _ in range(5):
                take()
            spent[kind].append(time.process_time() - started)
    for kind, own in spent.items():
        low, middle, high = quartiles([a / b for a, b in zip(own, spent["plain"], strict=True)])
        print(f"{kind:8s} {middle:.3f} ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
