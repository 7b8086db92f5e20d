"""MNIST by constant current: rules in a spiking network, 784-1000-10, 25 moments, the test set once at the end.

    python benchmarks/mnist_in_spikes.py --rules backprop,e_prop:feedback=symmetric --epochs 5 --seeds 3

A line of JSON a run, in the file of --out; a run that is there already is not repeated. Every rule: Adam, learning rate
0.001 falling to 0 along a cosine, batch 128, the last 5,000 training images left out.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

import apical
from apical import data, neurons
from apical.statistics import Spread
from apical.study.configuration import RuleConfig

RULES = "backprop,e_prop:feedback=symmetric,e_prop:feedback=random,e_prop:feedback=adaptive,feedback_alignment,"
RULES += "direct_feedback_alignment,kolen_pollack,naca"


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(784, 1000), neurons.LIF(0.9, 1.0, reset="subtract")),
        *(nn.Linear(1000, 10), neurons.LeakyReadout(0.9)),
    )


def run(label: str, seed: int, epochs: int, moments: int, task: data.Task) -> float:
    model = network(seed)
    circuit = apical.Circuit(
        model, RuleConfig.parse(label).make(), example=task.test.x[:2].expand(moments, -1, -1, -1, -1)
    )
    optimizer = torch.optim.Adam(circuit.parameters(), lr=1e-3)
    train = task.train.take(range(55_000))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * (55_000 // 128))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for x, y in data.batches(train, 128, generator=generator, drop_last=True):
            optimizer.zero_grad()
            F.cross_entropy(circuit(x.expand(moments, *x.shape)), y).backward()
            optimizer.step()
            scheduler.step()
    circuit.eval()
    with torch.no_grad():
        right = [
            (circuit(x.expand(moments, *x.shape)).argmax(1) == y).sum().item() for x, y in data.batches(task.test, 1000)
        ]
    return sum(right) / len(task.test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", default=RULES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--moments", type=int, default=25)
    parser.add_argument("--out", type=Path, default=Path("mnist_in_spikes.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    task = data.load("mnist")
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    found = {(one["rule"], one["seed"], one["epochs"]): one["accuracy"] for one in map(json.loads, lines)}
    for seed in range(options.seeds):
        for label in options.rules.split(","):
            key = (label, seed, options.epochs)
            if key not in found:
                found[key] = run(label, seed, options.epochs, options.moments, task)
                with options.out.open("a") as file:
                    record = {"rule": label, "seed": seed, "epochs": options.epochs, "accuracy": found[key]}
                    file.write(json.dumps(record) + "\n")
                print(f"{label}, seed {seed}: {100 * found[key]:.2f} %", flush=True)
    for label in options.rules.split(","):
        accuracies = [value for (rule, _, epochs), value in found.items() if (rule, epochs) == (label, options.epochs)]
        spread = Spread.of(accuracies)
        print(f"{label:40s} {spread.text(2, unit=' %', factor=100) if spread else '-'}")


if __name__ == "__main__":
    main()
