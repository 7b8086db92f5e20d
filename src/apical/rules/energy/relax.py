"""Relaxation: the one loop in which every network that settles takes its steps.

A rule supplies a `System`: how a step moves the states, and how far they are from rest. `relax` takes the steps and
returns an `Outcome`, and a rule's `ConvergenceMonitor` judges it.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, Protocol

import torch
from torch import Tensor

from apical.errors import NonFiniteError

Record = Callable[[int, float | None], None]
"""Receives the number of steps taken and the residual, after every step."""


class UnsettledWarning(RuntimeWarning):
    """A relaxation ended before its network had settled."""


class System(Protocol):
    """States that settle: what a rule, or a variant of one, supplies."""

    def step(self, *, measured: bool) -> None:
        """Move the states once.

        Args:
            measured: whether `residual` is asked for after this step.
        """

    def residual(self) -> float:
        """How far the states still moved in the last step, by the system's own definition.

        Infinite while a signal has not reached every state; NaN where a state is not finite any more.
        """


@dataclass(frozen=True)
class Outcome:
    """The end of a relaxation.

    Attributes:
        steps: how many were taken.
        residual: after the last; None where it was not measured.
        tolerance: the residual at which the system has settled; None if none was asked for.
    """

    steps: int
    residual: float | None = None
    tolerance: float | None = None

    @property
    def settled(self) -> bool | None:
        """Whether the residual is within the tolerance; None where it was not measured."""
        if self.residual is None or self.tolerance is None:
            return None
        return self.residual <= self.tolerance

    @property
    def diverged(self) -> bool:
        """Whether states are not finite any more."""
        return self.residual is not None and math.isnan(self.residual)


class Relaxation:
    """A system on its way to rest.

    Args:
        system: it moves.
        steps: most of them.
        tolerance: the residual at which the system has settled; None: nothing is measured. Inside compilers nothing is
            measured either, and all steps are taken.
        stops: end with the step at which the system has settled. Otherwise all steps are taken, and only the last is
            measured.
        record: called after every step.

    Attributes:
        taken: the number of steps so far.
        residual: after the last measured step.
    """

    def __init__(
        self,
        system: System,
        steps: int,
        *,
        tolerance: float | None = None,
        stops: bool = True,
        record: Record | None = None,
    ) -> None:
        self.system = system
        self.steps = steps
        self.tolerance = None if torch.compiler.is_compiling() else tolerance
        self.stops = stops
        self.record = record
        self.taken = 0
        self.residual: float | None = None

    @property
    def done(self) -> bool:
        """Whether all steps are taken, or the system has settled."""
        if self.taken >= self.steps:
            return True
        return self.residual is not None and self.tolerance is not None and self.residual <= self.tolerance

    def step(self) -> None:
        """Take one step."""
        self.taken += 1
        measured = self.tolerance is not None and (self.stops or self.taken == self.steps)
        self.system.step(measured=measured)
        if measured:
            self.residual = self.system.residual()
        if self.record is not None:
            self.record(self.taken, self.residual)

    @property
    def outcome(self) -> Outcome:
        """Where the relaxation is now."""
        return Outcome(self.taken, self.residual, self.tolerance)


def relax(
    system: System,
    steps: int,
    *,
    tolerance: float | None = None,
    stops: bool = True,
    record: Record | None = None,
) -> Outcome:
    """Let a system take its steps; the arguments are those of `Relaxation`."""
    relaxation = Relaxation(system, steps, tolerance=tolerance, stops=stops, record=record)
    while not relaxation.done:
        relaxation.step()
    return relaxation.outcome


class ConvergenceMonitor:
    """Judges relaxations: warns once where one has not settled, and stops one that diverges.

    Args:
        rule: the name, for the messages.
        quantity: what the residual measures.
        if_unsettled: what to change where a relaxation does not settle.
        if_diverged: what to change where one diverges.
    """

    def __init__(self, rule: str, quantity: str, *, if_unsettled: str, if_diverged: str) -> None:
        self.rule = rule
        self.quantity = quantity
        self.if_unsettled = if_unsettled
        self.if_diverged = if_diverged
        self.warned = False

    def check(self, outcome: Outcome, error: Tensor | None = None) -> None:
        """Judge the end of a relaxation.

        Args:
            outcome: of the relaxation.
            error: that drove it. Where it is not finite itself, nothing is raised: the circuit's own check names the
                cause.

        Raises:
            NonFiniteError: the states are not finite any more.
        """
        if outcome.diverged and (error is None or bool(torch.isfinite(error).all())):
            self.stop(outcome.steps, "the states are not finite any more")
        if outcome.settled is False and not self.warned:
            self.warned = True
            warnings.warn(
                f"{self.rule}: after {outcome.steps} steps the states have not settled: {self.quantity} is "
                f"{outcome.residual:.1e}, and the tolerance is {outcome.tolerance:.1e}. {self.if_unsettled} This "
                "warning appears once.",
                UnsettledWarning,
                stacklevel=3,
            )

    def stop(self, steps: int, fact: str, layer: str | None = None) -> NoReturn:
        """Stop a relaxation that diverged.

        Args:
            steps: how many were taken.
            fact: what shows it.
            layer: the name of the layer where it shows; None: all of them.

        Raises:
            NonFiniteError: always.
        """
        where = "" if layer is None else f"{layer}: "
        raise NonFiniteError(
            f"{where}{self.rule} has diverged: after {steps} steps {fact}. {self.if_diverged}", layer=layer or "loss"
        )
