"""How far e-prop's update is from that of backpropagation through time, in recurrent networks, by the window's length.

    python benchmarks/e_prop_and_bptt.py

A figure is the cosine between the two updates of all hidden synapses (input and recurrent), with symmetric feedback,
for Poisson input and a cross-entropy at the end of the window's mean: mean and range over seeds. Networks are
untrained; recurrent weights have the standard deviation `gain` / sqrt(units).
"""

import argparse
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

import apical
from apical import neurons

INPUTS, UNITS, CLASSES, BATCH = 40, 100, 10, 32
WINDOWS = (5, 10, 25, 50, 100)


def update(
    kind: Callable[..., nn.Module], rule: apical.LearningRule, moments: int, gain: float, seed: int
) -> torch.Tensor:
    """The update of the hidden synapses, in one row."""
    torch.manual_seed(seed)
    recurrent = nn.Linear(UNITS, UNITS, bias=False)
    nn.init.normal_(recurrent.weight, std=gain / UNITS**0.5)
    hidden = kind(0.9, 1.0, reset="subtract", recurrent=recurrent)
    model = nn.Sequential(nn.Linear(INPUTS, UNITS), hidden, nn.Linear(UNITS, CLASSES), neurons.LeakyReadout(0.9))
    x = (torch.rand(moments, BATCH, INPUTS) < 0.3).float()
    F.cross_entropy(apical.Circuit(model, rule)(x), torch.arange(BATCH) % CLASSES).backward()
    return torch.cat([own.grad.flatten() for own in (model[0].weight, recurrent.weight) if own.grad is not None])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    print("moments   " + "".join(f"{moments:>22}" for moments in WINDOWS))
    for kind in (neurons.LIF, neurons.ALIF):
        for gain in (0.0, 0.5, 1.0):
            row = []
            for moments in WINDOWS:
                found = []
                for seed in range(options.seeds):
                    rules = (apical.EProp(feedback="symmetric"), apical.Backprop())
                    one, two = (update(kind, rule, moments, gain, seed) for rule in rules)
                    found.append(float(F.cosine_similarity(one, two, 0)))
                row.append(f"{sum(found) / len(found):8.3f} ({min(found):.2f} to {max(found):.2f})")
            print(f"{kind.__name__:4} {gain:4.1f} " + "".join(f"{each:>22}" for each in row), flush=True)


if __name__ == "__main__":
    main()
