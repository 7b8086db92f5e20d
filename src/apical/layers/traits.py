"""Traits: the properties of a step that learning rules ask for, so that no rule asks for its type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Traits:
    """Properties of a step between the synapses' drive and the rate.

    A trait that is not stated counts as absent: `Traits()` describes a step of which nothing is known.

    Attributes:
        activation: turns potentials into rates. Where a layer has such a step, its neurons fire there.
        elementwise: each output depends on one input only, by the same function for all units.
        monotone: elementwise, and no output falls where its input rises.
        saturating: outputs are bounded above and below.
        lowest_rate: the largest lower bound of the outputs; None where there is none or it is unknown.
        rectifies: computes max(0, x).
        holomorphic: accepts complex numbers, and is complex differentiable there.
        keeps_shape: outputs have the shape of the inputs.
        moves: outputs are the inputs, in another shape or order.
        masks: scales every input by a factor of at least 0 that does not depend on it, as dropout does.
        pools: "max" or "mean", where an output is the largest or the mean of a patch of the inputs.
        disjoint: pools over patches that do not overlap.
        random: draws random numbers.
        memory: the next answer depends on earlier ones, or running statistics move.
        replays: `Step.refire` uses the random numbers and the statistics of the first answer.
    """

    activation: bool = False
    elementwise: bool = False
    monotone: bool = False
    saturating: bool = False
    lowest_rate: float | None = None
    rectifies: bool = False
    holomorphic: bool = False
    keeps_shape: bool = False
    moves: bool = False
    masks: bool = False
    pools: Literal["max", "mean"] | None = None
    disjoint: bool = False
    random: bool = False
    memory: bool = False
    replays: bool = False

    @property
    def commutes_with_relu(self) -> bool:
        """Whether f(max(0, x)) = max(0, f(x)), by the traits above: changes of shape, masks and max-pooling."""
        return self.moves or self.masks or self.pools == "max"


UNKNOWN = Traits()
