"""What protections against forgetting cost: a training step beside plain PyTorch's, and the Fisher information.

    python benchmarks/protections.py

Each turn takes the steps of all protections one after the other, after a task that gave them something to protect. The
Fisher information is timed against a loop over samples, each with a backward pass for each class.
"""

import argparse
import copy
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import apical
from apical import measure
from apical.continual import protections
from apical.data import Examples
from apical.statistics import quartiles


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 10))


def conv() -> nn.Module:
    first = (nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(
        *first, nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1568, 10)
    )


NETWORKS = {"mlp": mlp, "conv": conv}


def plain_step(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    """A step of plain PyTorch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def protected_step(name: str, model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    """A step of a circuit with a protection that has a task behind it."""
    protection = protections.make(name)
    circuit = apical.Circuit(protection.prepare(copy.deepcopy(model), 2), "backprop")
    protection.attach(circuit, F.cross_entropy)
    optimizer = torch.optim.SGD(circuit.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        protection.loss(x, y)[1].backward()
        protection.correct()
        protection.step(optimizer)

    protection.begin_task(range(10))
    protection.select(0)
    step()
    protection.end_task(Examples(x, y))
    protection.begin_task(range(10))
    return step


def times(steps: dict[str, Callable[[], None]], repeats: int, per_turn: int = 4) -> dict[str, list[float]]:
    """Seconds of a step in each turn; each is first in another turn."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for turn in range(-3, repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            for _ in range(per_turn):
                steps[name]()
            if turn >= 0:
                found[name].append((time.perf_counter() - start) / per_turn)
    return found


def loop_over_samples(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The exact Fisher information, a backward pass for each sample and class."""
    own = dict(model.named_parameters())
    total = {name: torch.zeros_like(parameter) for name, parameter in own.items()}
    for sample in x:
        log_p = model(sample[None])[0].log_softmax(0)
        for place in range(len(log_p)):
            found = torch.autograd.grad(log_p[place], list(own.values()), retain_graph=True)
            for name, gradient in zip(own, found, strict=True):
                total[name].addcmul_(gradient, gradient, value=log_p[place].exp().item() / len(x))
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--batches", default="8,128")
    parser.add_argument("--protections", nargs="*", default=protections.names())
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--samples", type=int, default=256, help="of the Fisher information")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    for network in chosen.networks.split(","):
        torch.manual_seed(0)
        model = NETWORKS[network]()
        for batch in map(int, chosen.batches.split(",")):
            x, y = torch.rand(batch, 784), torch.randint(0, 10, (batch,))
            steps = {"": plain_step(copy.deepcopy(model), x, y)}
            steps |= {name: protected_step(name, model, x, y) for name in chosen.protections}
            found = times(steps, chosen.repeats)
            for name in chosen.protections:
                low, ratio, high = quartiles([a / b for a, b in zip(found[name], found[""], strict=True)])
                print(f"{network}, batch {batch}: {name:15} {ratio:6.3f} ({low:.3f}-{high:.3f})", flush=True)
        x = torch.rand(chosen.samples, 784)
        both = {
            "loop": lambda m=model, x=x: loop_over_samples(m, x),
            "batched": lambda m=model, x=x: measure.fisher(m, x),
        }
        seconds = {name: min(own) for name, own in times(both, 2, per_turn=1).items()}
        print(
            f"{network}, Fisher information of {chosen.samples} samples: {1e3 * seconds['batched']:.0f} ms, by a loop "
            f"{1e3 * seconds['loop']:.0f} ms, {seconds['loop'] / seconds['batched']:.1f} times as long",
            flush=True,
        )


if __name__ == "__main__":
    main()
