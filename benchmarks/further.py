"""Does NACA's idea work without a leak? Gates that read the sample alone, and plasticity modulated by label or novelty.

    python benchmarks/further.py             # MNIST: an hour of one core; continues where it stopped
    python benchmarks/further.py --small     # a sixth of its training images and small networks: a few minutes
    python benchmarks/further.py --digits    # a minute

Networks learn streams class-incrementally, in one pass: five tasks of two classes, and one class a task. Every arm has
the same number of tries, which are scored on a tenth of the training data (seed 100, the stream of five tasks); the
best one runs on all training data with paired seeds on both streams: seed s sets weights, order and draws of every arm.
Arms that keep examples keep as many as make their bytes those of streaming LDA on random features: weights, fixed
projections and tables count, as does its covariance. Each run is a line of JSON in the results; the table has 95 %
bootstrap intervals of paired differences.

Beyond replay, an arm is one of three ideas. gated: a fixed random projection of the sample opens the gates of some
hidden units, and hidden layers learn slowly, in the first task alone, or never. label: NACA's modulator scales how
plastic each hidden unit is. novelty: hidden layers learn more from unfamiliar examples. See docs/naca.md.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import apical
from apical import continual, data
from apical.continual import Replay, modulating
from apical.data import Examples, Task
from apical.measure import leakage
from apical.optim.consolidation import EWC, Assumptions, Protection
from apical.optim.consolidation.protection import bytes_of
from apical.statistics import Spread, paired

RESULTS = Path(__file__).parent / "results" / "further.jsonl"
TRIED = 100  # the seed of tries
Options = dict[str, float]


@dataclass(frozen=True)
class Size:
    """What is learned, and by how large networks."""

    task: str = "mnist"
    widths: tuple[int, ...] = (400, 400)
    wide: int = 1000  # of the arms with sparse gates and no memory
    features: int = 1000
    seeds: int = 5
    tries: int = 4
    tested: int = 500  # for leaks
    batch: int = 32
    rate: float = 1.0  # multiplies all learning rates: fewer examples want larger steps
    images: int | None = None  # of each class in training; None: all


SIZES = {
    "full": Size(),
    "small": Size(widths=(200, 200), wide=500, features=300, rate=2.0, images=1000),
    "digits": Size("digits", (64, 64), 200, 100, 2, 2, 100, 8, 10.0),
}


class FirstTask(Protection):
    """Hidden layers learn in the first task alone."""

    def end_task(self, examples: Examples) -> None:
        *hidden, _ = self.circuit.layers
        for layer in hidden:
            layer.synapses.module.requires_grad_(False)


Make = Callable[[Options, int, int], Protection]  # options, examples that may be kept, seed


@dataclass(frozen=True)
class Arm:
    """A way to learn a stream.

    Attributes:
        protect: makes the protection.
        keeps: whether it keeps examples.
        tries: options; `lr` of the optimizer, `slow`, the hidden layers' part of it, `share` of units that are open.
        wide: one wide hidden layer in place of two.
        descent: plain SGD and the squared error of sigmoids in place of Adam and cross-entropy, where no example is
            kept: there small steps of an error that does not compete forget least.
    """

    protect: Make
    tries: tuple[Options, ...]
    keeps: bool = False
    wide: bool = False
    descent: bool = False

    def widths(self, size: Size, inputs: int) -> tuple[int, ...]:
        """Of the input and the hidden layers."""
        return (inputs, *((size.wide,) if self.wide else size.widths))


def grid(**values: tuple[float, ...]) -> tuple[Options, ...]:
    """Every combination, four in all."""
    found: list[Options] = [{}]
    for name, own in values.items():
        found = [{**each, name: value} for each in found for value in own]
    return tuple(found)


def modulated(by: str, *, replayed: bool) -> Make:
    def make(options: Options, size: int, seed: int) -> Protection:
        kept = size if replayed or by == "novelty" else 0
        return continual.Neuromodulation(by=by, exponent=options["exponent"], replayed=replayed, size=kept, seed=seed)

    return make


def plain(options: Options, size: int, seed: int) -> Protection:
    return Protection()


def replay(options: Options, size: int, seed: int) -> Protection:
    return Replay(size=size, seed=seed)


RATES = (1e-4, 2e-4, 4e-4, 1e-3)
ARMS: Mapping[str, Arm] = {
    "naive": Arm(plain, grid(lr=RATES)),
    "EWC": Arm(
        lambda options, size, seed: EWC(strength=options["strength"]), grid(lr=(2e-4, 1e-3), strength=(1e2, 1e4))
    ),
    "replay": Arm(replay, grid(lr=RATES), True),
    "frozen + replay": Arm(replay, grid(lr=(3e-4, 1e-3, 3e-3, 1e-2), slow=(0,)), True),
    "slow + replay": Arm(replay, grid(lr=(4e-4, 1e-3), slow=(0.1, 0.3)), True),
    "gated, slow + replay": Arm(replay, grid(lr=(4e-4, 1e-3), slow=(0.3,), share=(0.2, 0.5)), True),
    "label + replay": Arm(modulated("label", replayed=True), grid(lr=(2e-4, 4e-4), exponent=(0.5, 1)), True),
    "novelty + replay": Arm(modulated("novelty", replayed=True), grid(lr=(2e-4, 4e-4), exponent=(1, 4)), True),
    "gated, frozen": Arm(plain, grid(lr=(1e-2, 3e-2), slow=(0,), share=(0.05, 0.1)), wide=True, descent=True),
    "gated, slow": Arm(plain, grid(lr=(1e-2, 3e-2), slow=(0.01,), share=(0.05, 0.1)), wide=True, descent=True),
    "gated, first task": Arm(
        lambda options, size, seed: FirstTask(),
        grid(lr=(1e-2, 3e-2), slow=(1,), share=(0.05, 0.1)),
        wide=True,
        descent=True,
    ),
    "label": Arm(modulated("label", replayed=False), grid(lr=(1e-2, 1e-1), exponent=(1, 4)), descent=True),
    "novelty": Arm(modulated("novelty", replayed=False), grid(lr=(1e-2, 1e-1), exponent=(1, 4)), True, descent=True),
}
FEATURES = "LDA on random features"
COMPARED = (FEATURES, "replay")
FLOORS = ("nearest class mean", "LDA on pixels", FEATURES, "the same, compute of replay", "LDA on gated features")
STREAMS: Mapping[str, Callable[[Task, int], continual.Stream]] = {
    "five": lambda task, seed: continual.split(task, 2),
    "ten": lambda task, seed: continual.one_class(task, shuffle=True, seed=seed),
}


class GatedFeatures:
    """A frozen hidden layer with gates by a random projection, read out by streaming LDA."""

    def __init__(self, inputs: int, features: int, seed: int) -> None:
        torch.manual_seed(seed)
        context = apical.Context("projection", share=0.5, seed=seed)
        hidden = (nn.Linear(inputs, features, bias=False), nn.ReLU(), apical.ContextGate(context))
        self.model = nn.Sequential(nn.Flatten(), context, *hidden).requires_grad_(False)
        self.floor = continual.StreamingLDA()

    def partial_fit(self, x: Tensor, y: Tensor) -> None:
        self.floor.partial_fit(self.model(x), y)

    def predict(self, x: Tensor, *, among: Any = None) -> Tensor:
        return self.floor.predict(self.model(x), among=among)


@dataclass(frozen=True)
class Learned:
    """What came of a run: bytes of all that the learner holds, and multiplications for each new example."""

    outcome: continual.Outcome
    answers: Callable[[Tensor], Tensor]
    bytes: int
    products: float


def network(size: Size, arm: Arm, options: Options, inputs: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    context = apical.Context("projection", share=options["share"], seed=seed) if "share" in options else None
    parts: list[nn.Module] = [nn.Flatten()] if context is None else [nn.Flatten(), context]
    widths = arm.widths(size, inputs)
    for below, units in pairwise(widths):
        parts += [nn.Linear(below, units), nn.ReLU()]
        parts += [] if context is None else [apical.ContextGate(context)]
    return nn.Sequential(*parts, nn.Linear(widths[-1], 10), *([nn.Sigmoid()] if arm.descent else []))


def squared(answer: Tensor, y: Tensor) -> Tensor:
    """The squared error to one-hot targets."""
    return (answer - F.one_hot(y, answer.shape[1])).square().sum(1).mean() / 2


def products(widths: tuple[int, ...], options: Options, assumed: Assumptions, compared: int) -> float:
    """Multiplications for a new example: forward, the errors' way down, the updates, projections, comparisons."""
    layers = [below * above for below, above in pairwise((*widths, 10))]
    step = sum(layers) + (layers[-1] if not options.get("slow", 1) else 2 * sum(layers) - layers[0])
    gates = widths[0] * sum(set(widths[1:])) if "share" in options else 0
    return (step + gates + compared * widths[0]) * (assumed.passes + assumed.epochs)


def teach(stream: continual.Stream, size: Size, name: str, options: Options, seed: int, budget: int) -> Learned:
    """A run of an arm."""
    arm, inputs = ARMS[name], math.prod(stream.input_shape)
    widths = arm.widths(size, inputs)
    model = network(size, arm, options, inputs, seed)
    held = bytes_of([own.data for own in model.parameters()])
    held += 4 * inputs * sum(set(widths[1:])) if "share" in options else 0  # layers of one width share a projection
    tables = 4 * 10 * sum(widths[1:]) if name.startswith("label") else 0
    kept = (budget - held - tables) // (4 * inputs + 8) if arm.keeps else 0
    protection = arm.protect(options, kept, seed)
    circuit = apical.Circuit(protection.prepare(model, len(stream)), "backprop")
    slow = options.get("slow", 1)
    for own in list(model.parameters())[:-2]:
        own.requires_grad_(bool(slow))
    kind, loss = (torch.optim.SGD, squared) if arm.descent else (torch.optim.Adam, F.cross_entropy)

    def optimizer(learning: list[nn.Parameter]) -> torch.optim.Optimizer:
        rate = options["lr"] * size.rate
        hidden = [{"params": learning[:-2], "lr": rate * slow}] if slow else []
        return kind([*hidden, {"params": learning[-2:]}], lr=rate)

    outcome = continual.run(
        stream, circuit, batch_size=size.batch, optimizer=optimizer, loss=loss, protection=protection, seed=seed
    )
    circuit.eval()
    assumed = protection.assumptions()
    compared = modulating.COMPARED if name.startswith("novelty") else 0
    return Learned(outcome, circuit, held + assumed.bytes, products(widths, options, assumed, compared))


def fit(stream: continual.Stream, size: Size, name: str, seed: int) -> Learned:
    """A run of a floor."""
    inputs, features = math.prod(stream.input_shape), size.features
    if name == FLOORS[3]:  # inputs F + F^2 = products
        replayed = products(ARMS["replay"].widths(size, inputs), {}, Replay(size=1).assumptions(), 0)
        features = round(math.sqrt(inputs**2 / 4 + replayed) - inputs / 2)
    weights, random = 4 * inputs * features, inputs * features + features**2
    floor: Any
    if name == "nearest class mean":
        floor, weights, random = continual.NearestClassMean(), 0, inputs
    elif name == "LDA on pixels":
        floor, weights, random = continual.StreamingLDA(), 0, inputs**2
    elif name == "LDA on gated features":
        floor, weights, random = GatedFeatures(inputs, features, seed), 2 * weights, random + inputs * features
    else:
        floor = continual.RandomFeatures(continual.StreamingLDA(), features=features, seed=seed)
    outcome = continual.run(stream, floor)
    return Learned(outcome, floor.predict, getattr(floor, "floor", floor).bytes + weights, random)


@cache
def load(size: Size) -> Task:
    """The task, with some training images of each class."""
    task = data.load(size.task)
    if size.images is None:
        return task
    chosen = [(task.train.y == label).nonzero()[: size.images, 0] for label in range(task.classes)]
    return Task(task.name, task.train.take(torch.cat(chosen)), task.test, task.classes)


def budget_of(size: Size, inputs: int) -> int:
    """The bytes of streaming LDA on random features: their weights, the covariance, means and counts of classes."""
    return 4 * inputs * size.features + 8 * size.features**2 + 8 * 10 * (size.features + 1)


@dataclass
class Results:
    """Runs that are known, a line of JSON each, by what they are runs of."""

    path: Path
    size: Size

    def __post_init__(self) -> None:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.known = {self._key(each): each for each in map(json.loads, lines)}

    def _key(self, run: Mapping[str, Any]) -> str:
        return json.dumps([run[part] for part in ("size", "kind", "stream", "arm", "options", "seed")], sort_keys=True)

    def get(self, kind: str, stream: str, arm: str, options: Options, seed: int) -> dict[str, Any]:
        """A run, known or new. A try learns nine tenths of the training data, and is tested on the rest."""
        run = {"size": asdict(self.size), "kind": kind, "stream": stream, "arm": arm, "options": options, "seed": seed}
        run = json.loads(json.dumps(run))
        if self._key(run) in self.known:
            return self.known[self._key(run)]
        start, task = time.perf_counter(), load(self.size)
        if kind == "try":
            train, validation = data.split(task.train, 0.1, seed=TRIED)
            task = Task(task.name, train, validation, task.classes)
        made = STREAMS[stream](task, seed)
        budget = budget_of(self.size, math.prod(made.input_shape))
        floor = arm in FLOORS
        learned = fit(made, self.size, arm, seed) if floor else teach(made, self.size, arm, options, seed, budget)
        run |= {"accuracy": learned.outcome.metrics.accuracy, "forgetting": learned.outcome.metrics.forgetting}
        run |= {"bytes": learned.bytes, "products": learned.products}
        if kind == "run" and not seed:
            chosen = torch.randperm(len(task.test.y), generator=torch.Generator().manual_seed(0))[: self.size.tested]
            found = leakage(learned.answers, task.test.x[chosen], task.test.y[chosen], batch_size=64)
            run["leak"] = [found.pure, found.mixed, found.single, found.leaks]
        run["seconds"] = round(time.perf_counter() - start, 1)
        with self.path.open("a") as lines:
            lines.write(json.dumps(run) + "\n")
        self.known[self._key(run)] = run
        print(kind, stream, arm, options, seed, f"{100 * run['accuracy']:.2f}", f"{run['seconds']} s", flush=True)
        return run

    def best(self, arm: str) -> Options:
        """The options of the best try."""
        if arm in FLOORS:
            return {}
        tries = [self.get("try", "five", arm, options, TRIED) for options in ARMS[arm].tries[: self.size.tries]]
        found: Options = max(tries, key=lambda run: run["accuracy"])["options"]
        return found


def difference(own: list[float], other: list[float]) -> str:
    """The mean of paired differences in points, with its 95 % interval."""
    spread = paired([100 * each for each in own], [100 * each for each in other])
    low, high = spread.interval()
    return f"{spread.mean:+.2f} ({low:+.2f}, {high:+.2f})"


def table(rows: Mapping[str, list[dict[str, Any]]]) -> str:
    """An arm a row, the best first."""
    accuracies = {arm: [run["accuracy"] for run in runs] for arm, runs in rows.items()}
    lines = [
        "| arm | accuracy, % | minus LDA on random features | minus replay | forgetting | MB | 10^6 products | leaks |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm, runs in sorted(rows.items(), key=lambda row: -sum(accuracies[row[0]])):
        others = [difference(accuracies[arm], accuracies[other]) if arm != other else "" for other in COMPARED]
        pure, mixed, single, leaks = runs[0]["leak"]
        leak = f"yes ({pure:.2f}, {mixed:.2f}, {single:.2f})" if leaks else "no"
        forgetting = Spread.of(run["forgetting"] for run in runs)
        cells = [arm, Spread(tuple(accuracies[arm])).text(2, factor=100), *others]
        cells += [forgetting.text(1, factor=100) if forgetting else "", f"{runs[0]['bytes'] / 1e6:.1f}"]
        cells += [f"{runs[0]['products'] / 1e6:.2f}", leak]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="small networks and 1,000 images of each class")
    parser.add_argument("--digits", action="store_true", help="smaller networks on digits, two seeds, two tries")
    parser.add_argument("--streams", nargs="+", default=list(STREAMS), choices=STREAMS)
    parser.add_argument("--arms", nargs="+", default=[*FLOORS, *ARMS], choices=[*FLOORS, *ARMS])
    parser.add_argument("--results", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    size = SIZES["digits" if chosen.digits else "small" if chosen.small else "full"]
    results = Results(chosen.results, size)
    arms = list(dict.fromkeys([*COMPARED, *chosen.arms]))
    for stream in chosen.streams:
        rows = {
            arm: [results.get("run", stream, arm, results.best(arm), seed) for seed in range(size.seeds)]
            for arm in arms
        }
        print(f"\n{STREAMS[stream](load(size), 0)}\n{table(rows)}\n", flush=True)
    print("options:", {arm: results.best(arm) for arm in arms if arm in ARMS})


if __name__ == "__main__":
    main()
