"""What a training step of each rule costs beside plain PyTorch: time, matrix products, memory.

Time is measured by `apical.measure.step_cost`, each rule in pairs with plain PyTorch, so that a rule that iterates
takes no time from the others. Matrix products (`apical.measure.counting`) predict what the ratio of times comes to
where everything else costs nothing. Memory is the largest amount that a step holds beyond the amount before it, which
is gradients, activity and scratch space. Weights, and the rule's own state, are held all the time and given apart.
"""

import contextlib
import copy
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from apical import models
from apical import rules as registry
from apical.circuit import Circuit
from apical.errors import CircuitError, ConfigError, NonFiniteError
from apical.measure.cost import LEARNING_RATE, StepCost, step_cost
from apical.measure.counting import operations, own_bytes, period, step_bytes, stepper
from apical.options import unknown
from apical.rules import LearningRule

CLASSES = 10
WARMUP = 3
LEAST_TURNS = 5
MOST_TURNS = 200
SHORT = 1e-3  # seconds; a shorter step is timed several times in one turn

_VARIANTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "sign_symmetry": (":magnitude=uniform", ":magnitude=batchwise", ":magnitude=fixed"),
        "burstprop": ("", ":recurrent=true"),
        "dendritic_microcircuit": (":dynamics=two_step", ":dynamics=steady_state"),
        "segregated_dendrites": ("", ":feedback=direct,feedback.symmetric=true"),
        "predictive_coding": (
            *(":variant=fixed_prediction", ":variant=zero_divergence", ":variant=strict", ":variant=error_optimised"),
            # Its weights move during a step, by the learning rate of the optimizer that is timed.
            f":variant=incremental,learning_rate={LEARNING_RATE}",
        ),
        # A bounded activation lets a Hopfield network settle.
        "equilibrium_propagation": (":network=feedforward", ":network=hopfield,activation=hard_sigmoid"),
    }
)
"""The options, by rule, of the variants that differ in cost."""

MakeRule = Callable[[], LearningRule]


@dataclass(frozen=True)
class Network:
    """A network to measure on.

    Attributes:
        name: for options.
        title: what it is.
        input_shape: of one example.
        build: makes it.
    """

    name: str
    title: str
    input_shape: tuple[int, ...]
    build: Callable[[], nn.Module]


def _conv() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Conv2d(3, 64, 5, stride=2), nn.ReLU()),
            *(nn.Conv2d(64, 128, 5, stride=2), nn.ReLU()),
            *(nn.Conv2d(128, 256, 3), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(256 * 3 * 3, 1024), nn.ReLU(), nn.Linear(1024, CLASSES)),
        )


def _named(name: str, title: str, spec: str, input_shape: tuple[int, ...]) -> Network:
    return Network(
        name, title, input_shape, partial(models.build, spec, input_shape=input_shape, classes=CLASSES, seed=0)
    )


NETWORKS: Mapping[str, Network] = MappingProxyType(
    {
        network.name: network
        for network in (
            _named("mlp", "MLP 784-512-512-10", "mlp:512,512", (784,)),
            _named("lenet", "LeNet on 1x32x32", "lenet", (1, 32, 32)),
            Network("conv", "conv 64(5,s2)-128(5,s2)-256(3)-fc1024-10 on 3x32x32", (3, 32, 32), _conv),
            _named("resnet20", "ResNet-20 on 3x32x32", "resnet20", (3, 32, 32)),
        )
    }
)


@dataclass(frozen=True)
class Row:
    """One rule's step.

    Attributes:
        rule: with its options.
        time: beside plain PyTorch's; None where the rule cannot teach the network.
        products: multiplications and additions in its matrix products, as a ratio to plain PyTorch's.
        step_bytes: the most that a step holds beyond what is held between steps.
        own_bytes: of the rule's own state: feedback weights.
        refusal: why the rule cannot teach the network: it refuses it, or diverges on it.
    """

    rule: str
    time: StepCost | None = None
    products: float | None = None
    step_bytes: int | None = None
    own_bytes: int | None = None
    refusal: str = ""


@dataclass(frozen=True)
class Cell:
    """Every rule's step on one network, at one batch size and number of threads.

    Attributes:
        network: its name.
        batch_size: examples in a step.
        threads: of PyTorch.
        plain_milliseconds: plain PyTorch's step.
        plain_bytes: the most that it holds beyond what is held between steps.
        plain_operations: multiplications and additions in its matrix products.
        rows: the rules.
    """

    network: str
    batch_size: int
    threads: int
    plain_milliseconds: float
    plain_bytes: int | None
    plain_operations: float
    rows: tuple[Row, ...] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def default_rules() -> list[str]:
    """The labels of every registered rule and its main variants, as `apical.study.RuleConfig.parse` reads them."""
    return [f"{name}{options}" for name in registry.names() for options in _VARIANTS.get(name, ("",))]


def network(name: str) -> Network:
    """A network of `NETWORKS` by its name.

    Raises:
        ConfigError: there is none.
    """
    if name not in NETWORKS:
        raise ConfigError(unknown("network", name, NETWORKS))
    return NETWORKS[name]


def benchmark(
    networks: Sequence[str],
    batch_sizes: Sequence[int],
    rules: Mapping[str, MakeRule],
    *,
    threads: Sequence[int] = (1,),
    seconds: float = 5.0,
    memory: bool = False,
    check_finite: bool = True,
    announce: Callable[[str], None] | None = None,
) -> Iterator[Cell]:
    """Measure one cell after the other.

    Args:
        networks: names of `NETWORKS`.
        batch_sizes: examples in a step.
        rules: what makes each rule, by its label.
        threads: numbers of PyTorch's threads.
        seconds: to spend on the timing of a cell, the same for each rule; a slow rule takes longer, for a least
            number of turns.
        memory: also measure memory.
        check_finite: as for a circuit.
        announce: called with what is measured next.

    Yields:
        Each cell as soon as it is measured.

    Raises:
        ConfigError: an unknown network, no rule, or a number that is not positive.
    """
    chosen = [network(name) for name in networks]
    if not rules or not chosen:
        raise ConfigError("nothing to measure: name at least one network and one rule")
    if min((*batch_sizes, *threads), default=0) < 1 or not seconds > 0:
        raise ConfigError("batch sizes, threads and seconds must be above 0")
    for count in threads:
        for each in chosen:
            for batch_size in batch_sizes:
                if announce is not None:
                    announce(f"{each.name}, batch {batch_size}, {count} thread{'s' * (count != 1)}")
                with _threads(count):
                    cell = measure_cell(
                        each, batch_size, rules, seconds=seconds, memory=memory, check_finite=check_finite
                    )
                yield cell


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure_cell(
    network: Network,
    batch_size: int,
    makers: Mapping[str, MakeRule],
    *,
    seconds: float,
    memory: bool,
    check_finite: bool = True,
) -> Cell:
    """Every rule's step on one network and batch size; see `benchmark` for the arguments."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch_size, *network.input_shape, generator=generator)
    y = torch.randint(0, CLASSES, (batch_size,), generator=generator)
    model = network.build()
    plain_seconds = _seconds_of(stepper(copy.deepcopy(model), x, y))
    plain_operations = operations(copy.deepcopy(model), x, y)
    plain_bytes = step_bytes(copy.deepcopy(model), x, y) if memory else None

    def measure(label: str, make: MakeRule) -> Row:
        circuit = _circuit(model, make, x, check_finite)
        # An untimed trial determines how many turns there is time for.
        both = plain_seconds + _seconds_of(stepper(circuit, x, y))
        steps = max(1, round(SHORT / plain_seconds))
        steps = math.ceil(steps / period(circuit)) * period(circuit)
        turns = min(max(int(seconds / len(makers) / (both * steps)), LEAST_TURNS), MOST_TURNS)
        times = step_cost(
            model,
            {label: make},
            x,
            y,
            repeats=turns,
            warmup=WARMUP if turns > LEAST_TURNS else 1,
            steps_per_turn=steps,
            check_finite=check_finite,
        )
        return Row(
            label,
            time=times[label],
            products=operations(circuit, x, y) / plain_operations,
            step_bytes=step_bytes(circuit, x, y) if memory else None,
            own_bytes=own_bytes(circuit),
        )

    rows = []
    for label, make in makers.items():
        try:
            rows.append(measure(label, make))
        except (CircuitError, NonFiniteError) as error:
            rows.append(Row(label, refusal=str(error)))
    timed = [row.time.plain_milliseconds for row in rows if row.time is not None]
    return Cell(
        network=network.name,
        batch_size=batch_size,
        threads=torch.get_num_threads(),
        plain_milliseconds=statistics.median(timed) if timed else 1e3 * plain_seconds,
        plain_bytes=plain_bytes,
        plain_operations=plain_operations,
        rows=tuple(rows),
    )


def _circuit(model: nn.Module, make: MakeRule, x: Tensor, check_finite: bool = True) -> Circuit:
    circuit = Circuit(copy.deepcopy(model), make(), check_finite=check_finite)
    circuit(x)  # rules that need an answer's shapes make their feedback weights now
    return circuit


def _seconds_of(step: Callable[[], None]) -> float:
    taken = []
    for _ in range(WARMUP):
        started = time.perf_counter()
        step()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)
