"""Does a stream cost more than one task, and replay more than a batch of twice the size?

    python benchmarks/continual.py

prints two tables of ratios, the median with the quartiles over rounds in which the arms alternate, on one thread, in
processor time:

1. `apical.continual.run` on a stream of ten permutations of a task, relative to as many steps on one task, and both
   relative to a plain PyTorch loop of these steps. Ten tests of ten tasks are part of a stream, and cost what the
   test data cost, so that the test part is cut to some images (--tested). The goal is 1.05.
2. A step with `Replay`, relative to a step without protection on a batch of twice the size.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import apical
from apical import continual, data
from apical.data import Examples, Task
from apical.statistics import quartiles

GOAL = 1.05
TASKS, BATCH = 10, 128
RULES = ("backprop", "feedback_alignment", "burst_ccn")


def network(source: Task, units: int) -> nn.Sequential:
    """A perceptron with two hidden layers."""
    torch.manual_seed(0)
    hidden = nn.Linear(source.train.x[0].numel(), units), nn.ReLU(), nn.Linear(units, units), nn.ReLU()
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(units, source.classes))


def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Small enough that nothing diverges while it is timed."""
    return torch.optim.SGD(parameters, lr=1e-3)


def plain_loop(model: nn.Module, source: Task, epochs: int) -> None:
    """What a user of PyTorch writes."""
    optimizer = sgd(list(model.parameters()))
    x, y = source.train.x, source.train.y
    for _ in range(epochs):
        for places in torch.randperm(len(y)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(x[places]), y[places]).backward()
            optimizer.step()


def seconds(arm: Callable[[], object]) -> float:
    """Processor time of one call."""
    start = time.process_time()
    arm()
    return time.process_time() - start


def alternating(arms: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """The times of all arms; each is first in another round, and the first round does not count."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    names = list(arms)
    for turn in range(rounds + 1):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            spent = seconds(arms[name])
            if turn:
                times[name].append(spent)
    return times


def ratio(own: list[float], other: list[float]) -> str:
    """The median of the ratios, with their quartiles."""
    low, middle, high = quartiles([a / b for a, b in zip(own, other, strict=True)])
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def streams(source: Task, units: int, rounds: int) -> None:
    """Table 1."""
    one = continual.permuted(source, 1, scenario="domain")
    ten = continual.permuted(source, TASKS, scenario="domain")
    steps = TASKS * -(-len(source.train) // BATCH)
    print(f"{TASKS} tasks, {steps} steps at batch {BATCH}, {len(source.test)} test examples a task; goal {GOAL}\n")
    print("| network | ten tasks / one task, run | one task, run / plain loop | ten tasks, run / plain loop |")
    print("|---|---|---|---|")
    for rule in (None, "backprop"):

        def made(rule: str | None = rule) -> nn.Module:
            model = network(source, units)
            return model if rule is None else apical.Circuit(model, rule)

        arms = {
            "plain": lambda: plain_loop(made(), source, TASKS),
            "one": lambda: continual.run(one, made(), epochs=TASKS, batch_size=BATCH, optimizer=sgd),
            "ten": lambda: continual.run(ten, made(), batch_size=BATCH, optimizer=sgd),
        }
        times = alternating(arms, rounds)
        cells = (("ten", "one"), ("one", "plain"), ("ten", "plain"))
        found = " | ".join(ratio(times[own], times[other]) for own, other in cells)
        print(f"| {rule or 'plain PyTorch module'} | {found} |", flush=True)


def replay(source: Task, units: int, rounds: int) -> None:
    """Table 2."""
    print("\n| rule | batch | Replay's step / step of twice the batch | of twice the batch / of the batch |")
    print("|---|---|---|---|")
    for rule in RULES:
        for batch in (8, BATCH):
            x, y = source.train.x[: 2 * batch], source.train.y[: 2 * batch]
            arms = {
                "replay": stepper(source, units, rule, continual.Replay(size=1000), x[:batch], y[:batch]),
                "double": stepper(source, units, rule, None, x, y),
                "single": stepper(source, units, rule, None, x[:batch], y[:batch]),
            }
            times = alternating(arms, 4 * rounds)
            first, second = ratio(times["replay"], times["double"]), ratio(times["double"], times["single"])
            print(f"| {rule} | {batch} | {first} | {second} |", flush=True)


def stepper(
    source: Task, units: int, rule: str, protection: continual.Replay | None, x: Tensor, y: Tensor
) -> Callable[[], None]:
    """Thirty steps of a learner of a stream."""
    stream = continual.permuted(source, 1, scenario="domain")
    circuit = apical.Circuit(network(source, units), rule, example=x)
    learner = continual.Learner(stream, circuit, sgd(list(circuit.parameters())), F.cross_entropy, protection)

    def steps() -> None:
        for _ in range(30):
            learner.step(x, y)

    steps()
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="mnist")
    parser.add_argument("--images", type=int, default=6000, help="training examples of a task")
    parser.add_argument("--tested", type=int, default=10, help="test examples of a task")
    parser.add_argument("--units", type=int, default=400, help="in each of two hidden layers")
    parser.add_argument("--rounds", type=int, default=11)
    given = parser.parse_args()
    torch.set_num_threads(1)
    loaded = data.load(given.task)
    train, test = (
        Examples(part.x[:count], part.y[:count])
        for part, count in ((loaded.train, given.images), (loaded.test, given.tested))
    )
    source = Task(loaded.name, train, test, loaded.classes)
    streams(source, given.units, given.rounds)
    replay(source, given.units, given.rounds)


if __name__ == "__main__":
    main()
