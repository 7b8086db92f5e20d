"""Two source trees of apical, timed in pairs: does a change make the training steps of a rule slower?

    python benchmarks/compare_trees.py OLD/src NEW/src
    python benchmarks/compare_trees.py OLD/src NEW/src --rules backprop predictive_coding:variant=strict --batches 8

Each tree has a worker process, with one thread, and both run on the same core. They build the same network with the
same seeds, and time blocks of whole training steps (zero_grad, forward, loss, backward, SGD) in the order old, new,
new, old, so that drift of the machine cancels in the ratio of the blocks. The place of a network in memory, and of a
program, alone changes times by some hundredths: so both trees build the network again for every few blocks, and all
workers start again for every round over the rules.

A line of the table shows the median of new / old and its 95 % interval, by a bootstrap over rounds and the networks
built in them. It is marked where the upper bound is above 1.02 (batch 128 and larger) or 1.05 (smaller), and the exit
status is then 1. A rule that a tree refuses has a line that says so. The default takes some forty minutes. It needs a
quiet machine, and two trees that are not edited meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn

RULES = (
    *("backprop", "direct_feedback_alignment", "direct_random_target_projection", "feedback_alignment"),
    *("kolen_pollack", *(f"sign_symmetry:magnitude={magnitude}" for magnitude in ("uniform", "batchwise", "fixed"))),
    *("weight_mirror", "burst_ccn", "burstprop", "burstprop:recurrent=true"),
    *("dendritic_microcircuit:dynamics=two_step", "dendritic_microcircuit:dynamics=steady_state"),
    *("segregated_dendrites", "segregated_dendrites:feedback=direct,feedback.symmetric=true"),
    *("e_prop", "equilibrium_propagation:network=feedforward"),
    *("equilibrium_propagation:network=hopfield,activation=hard_sigmoid",),
    *("predictive_coding:variant=fixed_prediction", "predictive_coding:variant=zero_divergence"),
    *("predictive_coding:variant=strict", "predictive_coding:variant=error_optimised"),
    *("predictive_coding:variant=incremental,learning_rate=0.0001", "oja", "soft_hebb", "three_factor"),
    "countercurrent_inhibition",
    "naca",
    *("agrel", "brainprop"),
)
"""Those of `apical bench`, written here since the trees may differ in what they have."""

CLASSES = 10
LEARNING_RATE = 1e-6  # the weights stay what they are while steps are timed
BLOCK = 0.02  # seconds of steps in a block, so that a clock's resolution and cold caches do not count
ORDERS = ((0, 1, 1, 0), (1, 0, 0, 1))  # of the blocks on one network: old, new, new, old, and the reverse
LARGE_BATCH = 128
LIMIT, LIMIT_OF_SMALL_BATCHES = 1.02, 1.05
RESAMPLES = 2000
KEPT = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**34)}
"""glibc keeps freed memory: whether it asks the system for the pages of a large tensor is luck, and costs a third."""
FIRST_PASSES = (64, 16, 4)  # circuits with an absolute scale measure errors in these backward passes, and in few others
CLOCKS: Mapping[str, Callable[[], float]] = {"cpu": time.process_time, "wall": time.perf_counter}


# The networks: both trees time what is written here.


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 500), nn.ReLU(), nn.Linear(500, 500), nn.ReLU(), nn.Linear(500, CLASSES))


def conv() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 5, stride=2), nn.ReLU()),
        *(nn.Conv2d(32, 64, 5, stride=2), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(64 * 5 * 5, 128), nn.ReLU(), nn.Linear(128, CLASSES)),
    )


class Block(nn.Module):
    """Two convolutions with batch norm beside a connection that skips them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            *(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()),
            *(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.inner(x))


def residual() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(Block(16), Block(16), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(16 * 4 * 4, CLASSES)),
    )


NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (784,)),
    "conv": (conv, (3, 32, 32)),
    "residual": (residual, (3, 32, 32)),
}


# The worker: it uses only what is the same in all trees, Circuit, rules.make, learns_from and losses.LOSSES.


def packages() -> tuple[Any, Any, Any]:
    """The package apical of the worker's tree, its rules and its losses."""
    apical, rules, losses = map(importlib.import_module, ("apical", "apical.rules", "apical.losses"))
    assert apical.Circuit is not None  # imported when it is first used: a tree that cannot fails at the start
    return apical, rules, losses


def stepper(network: str, batch: int, name: str, options: Mapping[str, Any]) -> Callable[[], None]:
    """A whole training step of a rule on a network and one batch."""
    apical, rules, losses = packages()
    torch.manual_seed(0)
    make, shape = NETWORKS[network]
    model = make()
    x, y = torch.randn(batch, *shape), torch.randint(0, CLASSES, (batch,))
    rule = rules.make(name, **options)
    loss = losses.LOSSES.get(rule.learns_from, nn.functional.cross_entropy)
    circuit = apical.Circuit(model, rule)
    circuit(x)  # feedback weights that depend on the output's shape exist from here on
    optimizer = torch.optim.SGD(list(circuit.parameters()), lr=LEARNING_RATE)

    def step() -> None:
        optimizer.zero_grad()
        loss(circuit(x), y).backward()
        optimizer.step()

    if getattr(rule, "has_absolute_scale", False):
        step()
        started = time.perf_counter()
        step()
        spent = time.perf_counter() - started
        for _ in range(next((passes for passes in FIRST_PASSES if passes * spent < 1), FIRST_PASSES[-1])):
            step()
    return step


def serve(clock: Callable[[], float]) -> None:
    """Answer requests, each a line of JSON: to build a circuit, or to time a block of its steps."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever is printed goes to standard error
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # the system itself tends to use the first core
    torch.set_num_threads(1)
    step: Callable[[], None] = int  # until a circuit is built

    def spent(steps: int) -> float:
        started = clock()
        for _ in range(steps):
            step()
        return (clock() - started) / steps

    def answer(**content: Any) -> None:
        print(json.dumps(content), file=answers, flush=True)

    apical, _, _ = packages()
    gc.freeze()  # the collector does not visit imported modules while steps are timed
    answer(package=apical.__file__)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "network" in request:
                step = stepper(**request)
                gc.collect()
                step()
                answer(seconds=spent(1))
            else:
                if request["steps"] > 1:
                    step()  # the other worker has used the caches since
                answer(seconds=spent(request["steps"]))
        except Exception as error:
            refuses = "network" in request and type(error).__module__.startswith("apical.")
            answer(**{"refusal" if refuses else "failure": f"{type(error).__name__}: {error}"})


# The trees, as the comparison sees them.


class WorkerError(Exception):
    """A worker died over a request, or failed by an error other than a refusal."""


class RefusedError(Exception):
    """A tree refuses a case."""


class Tree:
    """A source tree, the folder that holds the package apical, and its worker, which ends with the `with` block."""

    def __init__(self, name: str, source: Path, clock: str) -> None:
        self.name = name
        self.source = source.resolve()
        self._clock = clock
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115

    def __enter__(self) -> Tree:
        try:
            self._start()
        except WorkerError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._errors.close()

    def _start(self) -> None:
        if not (self.source / "apical" / "__init__.py").is_file():
            raise WorkerError(
                f"{self.name}: {self.source} holds no package apical. Pass the folder that holds apical/, such as src."
            )
        settings = {"PYTHONPATH": str(self.source), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0", **KEPT}
        self._errors.seek(0)
        self._errors.truncate()
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--worker", self._clock],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **settings, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )
        package = Path(self._answer("its start")["package"])
        if not package.is_relative_to(self.source):
            raise WorkerError(f"{self.name}: apical was imported from {package.parent}, and not from {self.source}.")

    def ask(self, **request: Any) -> dict[str, Any]:
        """The worker's answer to a request; WorkerError where it fails. A worker that has died is started again."""
        if self._process is None:
            self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the missing answer shows it
            print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._answer(json.dumps(request))

    def _answer(self, due: str) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
            if "failure" in answer:
                raise WorkerError(f"{self.name}: {answer['failure']} at {due}.")
            return answer
        self._process.communicate()
        status, self._process = self._process.returncode, None
        ending = f"by {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"
        self._errors.seek(0)
        last = self._errors.read().strip().splitlines()[-3:]
        raise WorkerError("\n    ".join([f"{self.name}: the worker of {self.source} ended {ending} at {due}.", *last]))


@dataclass(frozen=True)
class Case:
    """What is timed: a rule on a network at a batch size."""

    network: str
    batch: int
    rule: str

    def __str__(self) -> str:
        return f"{self.network:9}{self.batch:>5}  {self.rule:66}"


Round = Sequence[tuple[float, float]]
"""The seconds of a step, old and new, on each network built in a round."""


def parse_rule(text: str) -> tuple[str, dict[str, Any]]:
    """`sign_symmetry:magnitude=fixed,seed=1` as a name and options; `feedback.scale=2` is one of the pathway."""
    name, _, listed = text.partition(":")
    options: dict[str, Any] = {}
    settings = [option.partition("=") for option in listed.split(",") if option]
    if len({key for key, _, _ in settings}) < len(settings):
        raise RefusedError(f"{text}: an option is given twice. Leave one of them out.")
    for key, _, value in settings:
        outer, _, inner = key.partition(".")
        if not inner:
            options[outer] = _value(value)
        elif isinstance(options.get(outer), dict):
            options[outer][inner] = _value(value)
        else:
            options[outer] = {"name": options.get(outer), inner: _value(value)}
    return name, options


def _value(text: str) -> Any:
    with contextlib.suppress(ValueError):
        return json.loads(text)
    return text


def period(rule: str) -> int:
    """The number of steps after which what a step does repeats: weight mirrors send noise in every eighth."""
    return int(parse_rule(rule)[1].get("every", 8 if "weight_mirror" in rule else 1))


def measure(trees: Sequence[Tree], case: Case, *, seconds: float) -> Round:
    """Build networks and time blocks on each, for some seconds, one network at least."""
    name, options = parse_rule(case.rule)
    build = {"network": case.network, "batch": case.batch, "name": name, "options": options}
    spent: list[tuple[float, float]] = []
    until = math.inf
    while not spent or time.perf_counter() < until:
        built = {tree.name: tree.ask(**build) for tree in trees}
        if not spent:
            until = time.perf_counter() + seconds  # the first circuit of a worker imports much
        refusals = {tree: answer["refusal"] for tree, answer in built.items() if "refusal" in answer}
        if refusals:
            who = "only " * (len(refusals) == 1) + " and ".join(refusals)
            raise RefusedError(f"refused by {who}: {'; '.join(dict.fromkeys(refusals.values()))}")
        longest = max(1e-6, *(answer["seconds"] for answer in built.values()))
        steps = period(case.rule) * math.ceil(BLOCK / (longest * period(case.rule)))
        products = [1.0, 1.0]
        for place in ORDERS[len(spent) % len(ORDERS)]:
            products[place] *= trees[place].ask(steps=steps)["seconds"]
        spent.append((math.sqrt(products[0]), math.sqrt(products[1])))
    return spent


def interval(rounds: Sequence[Round]) -> tuple[float, float, float]:
    """The median of new / old, and its 95 % interval by drawing rounds, and of each drawn round its networks."""
    ratios = [np.array([new / old for old, new in one]) for one in rounds]
    generator = np.random.default_rng(0)
    medians = []
    for _ in range(RESAMPLES):
        drawn = (ratios[number] for number in generator.integers(len(ratios), size=len(ratios)))
        medians.append(np.median(np.concatenate([generator.choice(one, len(one)) for one in drawn])))
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(np.median(np.concatenate(ratios))), float(low), float(high)


def line(case: Case, rounds: Sequence[Round]) -> tuple[str, bool]:
    """A line of the table, and whether it is marked."""
    pairs = list(itertools.chain(*rounds))
    old, new = 1e3 * np.median(np.array(pairs), axis=0)
    ratio, low, high = interval(rounds)
    limit = LIMIT if case.batch >= LARGE_BATCH else LIMIT_OF_SMALL_BATCHES
    marked = high > limit
    figures = f"{old:9.3f}{new:10.3f}{ratio:8.3f}   {low:.3f}-{high:.3f}{len(pairs):10}"
    return f"{case}{figures}{f'  above {limit:.2f}' if marked else ''}", marked


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, metavar="OLD", help="folder that holds the package apical")
    parser.add_argument("new", type=Path, metavar="NEW", help="another one")
    parser.add_argument("--rules", nargs="+", default=RULES, metavar="RULE", help="as name:option=value,option=value")
    parser.add_argument("--networks", default="mlp,conv", help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--batches", default="8,128", help="examples in a step")
    parser.add_argument("--seconds", type=float, default=20.0, help="to time each rule on each network and batch")
    parser.add_argument("--rounds", type=int, default=5, help="over all rules, each with workers of its own")
    parser.add_argument("--clock", choices=CLOCKS, default="cpu", help="cpu: the time of the worker alone")
    chosen = parser.parse_args()
    chosen.networks = chosen.networks.split(",")
    unknown = [name for name in chosen.networks if name not in NETWORKS]
    if unknown:
        parser.error(f"--networks {unknown[0]}: unknown. Use {', '.join(NETWORKS)}.")
    sizes = chosen.batches.split(",")
    if not all(size.isdecimal() and int(size) for size in sizes) or chosen.rounds < 1:
        parser.error("--batches and --rounds: write whole numbers above 0, with commas between batches.")
    chosen.batches = list(map(int, sizes))
    return chosen


def main() -> int:
    """Print the table; the exit status."""
    chosen = arguments()
    cases = list(itertools.starmap(Case, itertools.product(chosen.networks, chosen.batches, chosen.rules)))
    rounds: dict[Case, list[Round]] = {case: [] for case in cases}
    lost: dict[Case, Exception] = {}
    try:
        for number in range(chosen.rounds):
            print(f"round {number + 1} of {chosen.rounds}", file=sys.stderr, flush=True)
            with Tree("old", chosen.old, chosen.clock) as old, Tree("new", chosen.new, chosen.clock) as new:
                for case in (case for case in cases if case not in lost):
                    try:
                        rounds[case].append(measure((old, new), case, seconds=chosen.seconds / chosen.rounds))
                    except (RefusedError, WorkerError) as error:
                        lost[case] = error
    except WorkerError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted. Measured until then:", file=sys.stderr)
    failed = False
    print(f"{'network':9}{'batch':>5}  {'rule':66}{'old ms':>9}{'new ms':>10}{'ratio':>8}  95 % interval  networks")
    for case in cases:
        if case in lost:
            text, marked = f"{case}  {lost[case]}", isinstance(lost[case], WorkerError)
        elif rounds[case]:
            text, marked = line(case, rounds[case])
        else:
            continue
        failed |= marked
        print(text)
    return int(failed)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        serve(CLOCKS[sys.argv[2]])
    else:
        sys.exit(main())
