"""Cost: what a whole training step takes, as a ratio to plain PyTorch."""

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from apical.circuit import Circuit
from apical.losses import Loss, loss_of
from apical.rules import LearningRule
from apical.statistics import quartiles

MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
LEARNING_RATE = 1e-4  # of `sgd`


@dataclass(frozen=True)
class StepCost:
    """What one rule's whole step takes beside plain PyTorch's, measured alternating.

    Attributes:
        ratio: median over the turns of (this step's time) / (plain PyTorch's step in the same turn).
        low: first quartile of the same.
        high: third quartile of the same.
        milliseconds: median time of this step.
        plain_milliseconds: median time of plain PyTorch's.
        repeats: number of turns.
        batch_size: samples in a step.
        threads: torch's threads.
    """

    ratio: float
    low: float
    high: float
    milliseconds: float
    plain_milliseconds: float
    repeats: int
    batch_size: int
    threads: int


def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Plain stochastic gradient descent, small enough that nothing diverges while it is timed."""
    return torch.optim.SGD(parameters, lr=LEARNING_RATE)


def step_cost(
    model: nn.Module,
    rules: Mapping[str, Callable[[], LearningRule]],
    x: Tensor,
    y: Tensor,
    *,
    loss: Loss = nn.functional.cross_entropy,
    optimizer: MakeOptimizer = sgd,
    repeats: int = 30,
    warmup: int = 3,
    steps_per_turn: int = 8,
    check_finite: bool = True,
    on_turn: Callable[[int], None] | None = None,
) -> dict[str, StepCost]:
    """Time whole training steps (zero_grad, forward, loss, backward, optimizer) against plain PyTorch.

    In every turn plain PyTorch and each rule make their step one after the other, so that a noisy machine
    disturbs all of them; each has a copy of the model and an optimizer of its own.

    Args:
        model: the network; it is copied.
        rules: for each arm, what makes its rule.
        x: (batch, ...), one batch.
        y: its targets.
        loss: of the answer and the targets; a rule that needs one of its own (its `learns_from`) has that.
        optimizer: makes the optimizer of an arm's parameters.
        repeats: turns that count.
        warmup: turns before that.
        steps_per_turn: steps that one timing covers; with 8, what a weight mirror does every eighth step is in each.
        check_finite: as for a circuit.
        on_turn: called with the number of turns done.

    Returns:
        the cost of every arm.
    """

    def stepper(network: nn.Module, loss: Loss) -> Callable[[], None]:
        descend = optimizer(list(network.parameters()))

        def step() -> None:
            descend.zero_grad()
            torch.autograd.backward(loss(network(x), y))
            descend.step()

        return step

    plain = copy.deepcopy(model)
    arms = {"": stepper(plain, loss)}
    for name, make in rules.items():
        circuit = Circuit(copy.deepcopy(model), make(), check_finite=check_finite)
        circuit(x)  # rules that need an answer's shapes make their feedback weights now
        arms[name] = stepper(circuit, loss_of(circuit, loss))
    times: dict[str, list[float]] = {name: [] for name in arms}
    names = list(arms)
    for turn in range(warmup + repeats):
        # The first one pays for a cold cache: each is first in another turn.
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            step = arms[name]
            start = time.perf_counter()
            for _ in range(steps_per_turn):
                step()
            spent = (time.perf_counter() - start) / steps_per_turn
            if turn >= warmup:
                times[name].append(spent)
        if on_turn is not None:
            on_turn(turn + 1)
    return {name: _cost(times[name], times[""], len(x)) for name in rules}


def _cost(own: list[float], plain: list[float], batch_size: int) -> StepCost:
    ratios = [a / b for a, b in zip(own, plain, strict=True)]
    low, ratio, high = quartiles(ratios)
    return StepCost(
        ratio=ratio,
        low=low,
        high=high,
        milliseconds=1e3 * median(own),
        plain_milliseconds=1e3 * median(plain),
        repeats=len(ratios),
        batch_size=batch_size,
        threads=torch.get_num_threads(),
    )
