"""Does NACA forget less, or does its gate read the class off the test batch? One class a task, and four ways to test.

    python benchmarks/naca.py

teaches 784-1000-10 networks (tanh, sigmoid) the classes of MNIST one after the other, a class a task, by each of some
teaching signals with each of four gates of the hidden layer, and tests them, 256 images of each class, on batches of
one class (256 and 10 images), on shuffled batches of 256, and on one image at a time. A gate that reads the test batch
does well on batches of one class alone. It prints the table, mean and range over seeds, and keeps every cell in
benchmarks/results/naca.json, from where it goes on when it is started again.

The protocol is that of the authors' code, scaled down: one pass over some images of each class in place of up to 100
with early stopping; plain SGD, batches of 256, the sum over a batch, learning rate 5e-4, squared error.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import apical
from apical import data

RESULTS = Path(__file__).parent / "results" / "naca.json"
BATCH, RATE = 256, 5e-4
TESTED = 256  # test images of each class
TESTS = ("pure 256", "pure 10", "mixed 256", "single")
GATES = ("none", "batch", "sample", "oracle")
# U(-1, 1) feedback, whose size is near that of the modulation curve's.
WIDE = {"init": "outputs", "scale": (10 / 3) ** 0.5}
SIGNALS = {
    "naca": lambda seed: apical.NACA(seed=seed),
    "drtp": lambda seed: apical.DirectRandomTargetProjection(**WIDE, seed=seed),
    "dfa": lambda seed: apical.DirectFeedbackAlignment(**WIDE, seed=seed),
    "fa": lambda seed: apical.FeedbackAlignment(seed=seed),
    "backprop": lambda seed: apical.Backprop(),
    "frozen": lambda seed: apical.Backprop(),
}


def network(inputs: int, gate: str, units: int) -> tuple[apical.Context, nn.Sequential]:
    """The network of the authors' code, and what its gate reads."""
    context = apical.Context(gate, contexts=10 if gate == "oracle" else None)
    hidden = (nn.Linear(inputs, units), nn.Tanh(), apical.ContextGate(context))
    return context, nn.Sequential(context, *hidden, nn.Linear(units, 10, bias=False), nn.Sigmoid())


def stream(part: data.Examples, images: int, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """The images of each class, in a random order of classes."""
    tasks = []
    for label in torch.randperm(10, generator=generator):
        found = (part.y == label).nonzero()[:, 0]
        found = found[torch.randperm(len(found), generator=generator)[:images]]
        tasks.append((part.x[found], part.y[found]))
    return tasks


def cut(part: data.Examples, test: str, generator: torch.Generator) -> list[Tensor]:
    """The places of test images in each batch."""
    shuffled = torch.randperm(len(part.y), generator=generator)
    kind, _, size = test.partition(" ")
    if kind == "single":
        return list(shuffled.split(1))
    groups = [shuffled] if kind == "mixed" else [shuffled[part.y[shuffled] == label] for label in range(10)]
    return [batch for group in groups for batch in group.split(int(size))]


def accuracy(model: nn.Module, context: apical.Context, part: data.Examples, batches: list[Tensor]) -> float:
    """The share of test images that are recognised when they are tested in these batches."""
    right = 0
    with torch.no_grad():
        for batch in batches:
            if context.mode == "oracle":
                context.tell(part.y[batch])
            right += int((model(part.x[batch]).argmax(1) == part.y[batch]).sum())
    return right / sum(map(len, batches))


def run(task: data.Task, signal: str, gate: str, seed: int, images: int, units: int) -> dict[str, float]:
    """Teach one network all classes, one after the other, and test it in every way."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    context, model = network(task.train.x.shape[1], gate, units)
    if signal == "frozen":
        model[1].requires_grad_(False)
    circuit = apical.Circuit(model, SIGNALS[signal](seed), reduction="sum")
    learned = [parameter for parameter in circuit.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learned, lr=RATE)
    for x, y in stream(task.train, images, generator):
        if gate == "oracle":
            context.tell(int(y[0]))
        for x_batch, y_batch in zip(x.split(BATCH), y.split(BATCH), strict=True):
            optimizer.zero_grad()
            (circuit(x_batch) - F.one_hot(y_batch, 10)).square().sum().div(2).backward()
            optimizer.step()
    model.eval()
    tested = data.Examples(*map(torch.cat, zip(*stream(task.test, TESTED, generator), strict=True)))
    return {test: accuracy(model, context, tested, cut(tested, test, generator)) for test in TESTS}


def load(name: str) -> data.Task:
    """The task with flat inputs of mean 0 and variance 1 over all pixels, as in the authors' code."""
    task = data.load(name)
    mean, spread = task.train.x.mean(), task.train.x.std()
    for part in (task.train, task.test):
        object.__setattr__(part, "x", ((part.x - mean) / spread).flatten(1))
    return task


def table(cells: dict[str, dict[str, float]], signals: list[str], gates: list[str], seeds: int) -> str:
    """Mean and range over seeds, in percent, a row for each signal and gate."""
    lines = [f"{'gate':8}{'signal':10}" + "".join(f"{test:>16}" for test in TESTS)]
    for gate in gates:
        for signal in signals:
            runs = [cells[f"{signal}/{gate}/{seed}"] for seed in range(seeds)]
            shown = []
            for test in TESTS:
                values = [100 * each[test] for each in runs]
                shown.append(f"{sum(values) / seeds:5.1f} ({min(values):.0f}-{max(values):.0f})".rjust(16))
            lines.append(f"{gate:8}{signal:10}" + "".join(shown))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="mnist", help="mnist, or any named task of ten classes")
    parser.add_argument("--signals", nargs="+", default=list(SIGNALS), choices=SIGNALS)
    parser.add_argument("--gates", nargs="+", default=list(GATES), choices=GATES)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--images", type=int, default=2000, help="of each class, each seen once")
    parser.add_argument("--units", type=int, default=1000, help="of the hidden layer")
    parser.add_argument("--results", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    protocol = {name: getattr(chosen, name) for name in ("task", "images", "units")}
    known = json.loads(chosen.results.read_text()) if chosen.results.exists() else {}
    cells = known["cells"] if known.get("protocol") == protocol else {}
    task = load(chosen.task)
    for seed in range(chosen.seeds):
        for gate in chosen.gates:
            for signal in chosen.signals:
                key = f"{signal}/{gate}/{seed}"
                if key not in cells:
                    cells[key] = run(task, signal, gate, seed, chosen.images, chosen.units)
                    chosen.results.write_text(json.dumps({"protocol": protocol, "cells": cells}, indent=1) + "\n")
                    print(key, {test: round(100 * value, 1) for test, value in cells[key].items()}, flush=True)
    print(table(cells, chosen.signals, chosen.gates, chosen.seeds))


if __name__ == "__main__":
    main()
