"""The step of apical.optim.Adaptation beside torch.optim.Adam's, on a model of ten million parameters, in turns.

    python benchmarks/adaptation.py

Only the optimizers' steps are timed. Each turn makes one step of each, and who goes first changes; the ratio to Adam
with its defaults is taken within the turn. The time is the processor's, which other programs disturb less.

Adam's time depends on its company: it allocates a temporary as large as a parameter, which is fast where other large
temporaries in the process have made the allocator keep its memory. So compare with all, and with Adam alone:

    python benchmarks/adaptation.py --arms base abs step sign "base, fused" "abs, fused" "step, fused" "sign, fused"

The fused forms compile in the turns that are left out.
"""

import argparse
import statistics
import time

import torch
from torch import nn

from apical.optim import Adaptation
from apical.statistics import quartiles
from apical.study.runs import environment

WARMUP = 3
OPTIONS = {"lr": 0.01, "gain": 0.1, "slope": 10.0, "relaxation": 0.07}


def network() -> nn.Module:
    """A multi-layer perceptron of 10.0 million parameters with gradients of about the size that training has."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 2200), nn.ReLU(), nn.Linear(2200, 2200), nn.ReLU(), nn.Linear(2200, 1550))
    for parameter in model.parameters():
        parameter.grad = 0.01 * torch.randn_like(parameter)
    return model


def wanted(name: str, arms: list[str] | None) -> bool:
    return arms is None or name == "Adam" or name in arms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--arms", nargs="*", help="some of the optimizers, by name; Adam always takes part")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    makers = {
        "Adam": lambda p: torch.optim.Adam(p),
        "Adam, foreach": lambda p: torch.optim.Adam(p, foreach=True),
        "Adam, fused": lambda p: torch.optim.Adam(p, fused=True),
        "base": lambda p: Adaptation(p, **OPTIONS),
        "abs": lambda p: Adaptation(p, **OPTIONS, variant="abs"),
        "step": lambda p: Adaptation(p, **OPTIONS, variant="step"),
        "sign": lambda p: Adaptation(p, **OPTIONS, variant="sign"),
        "base, foreach": lambda p: Adaptation(p, **OPTIONS, foreach=True),
        "base, fused": lambda p: Adaptation(p, **OPTIONS, fused=True),
        "abs, fused": lambda p: Adaptation(p, **OPTIONS, variant="abs", fused=True),
        "step, fused": lambda p: Adaptation(p, **OPTIONS, variant="step", fused=True),
        "sign, fused": lambda p: Adaptation(p, **OPTIONS, variant="sign", fused=True),
    }
    model = network()
    # One model for all: how large weights are changes no optimizer's time, and ten copies would not fit small machines.
    optimizers = {name: make(model.parameters()) for name, make in makers.items() if wanted(name, chosen.arms)}
    times: dict[str, list[float]] = {name: [] for name in optimizers}
    names = list(optimizers)
    for turn in range(chosen.turns + WARMUP):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            started = time.process_time()
            optimizers[name].step()
            times[name].append(time.process_time() - started)
    about = environment.describe()
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{count / 1e6:.1f} million parameters, {chosen.threads} thread(s), {about['cpu']}, PyTorch {about['torch']}")
    reference = times["Adam"][WARMUP:]
    for name in names:
        own = times[name][WARMUP:]
        low, ratio, high = quartiles([a / b for a, b in zip(own, reference, strict=True)])
        print(f"  {name:<20} {1000 * statistics.median(own):6.1f} ms   {ratio:.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
