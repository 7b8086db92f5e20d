"""Traits: the properties of a step that learning rules ask for, so that no rule asks for its type."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from torch import nn

from apical.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Traits:
    """Properties of a step between the synapses' drive and the rate.

    A trait that is not stated counts as absent: `Traits()` describes a step of which nothing is known, and each rule
    says what it does with such a step.

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
        costs: adds the derivative of a cost of its own to every signal on its way down.
        random: draws random numbers.
        memory: the next answer depends on earlier ones, or running statistics move.
        replays: `Step.refire` uses the random numbers and the statistics of the first answer.
        in_time: a state passes from moment to moment of a sequence, whose moments the batch axis holds.
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
    costs: bool = False
    random: bool = False
    memory: bool = False
    replays: bool = False
    in_time: bool = False

    def __post_init__(self) -> None:
        if self.lowest_rate is not None and not math.isfinite(self.lowest_rate):
            raise ConfigError(f"lowest_rate={self.lowest_rate!r}: it must be a finite number. Leave it out.")

    @property
    def commutes_with_relu(self) -> bool:
        """Whether f(max(0, x)) = max(0, f(x)), by the traits above: changes of shape, masks and max-pooling."""
        return self.moves or self.masks or self.pools == "max"


UNKNOWN = Traits()

_Module = TypeVar("_Module", bound=type[nn.Module])


def has_traits(
    *, activation: bool = True, elementwise: bool = True, keeps_shape: bool = True, **more: Any
) -> Callable[[_Module], _Module]:
    """State the traits of a module of your own, which learning rules then rely on without a check.

    Modules without parameters and buffers that compute the same as a built-in activation need no statement: a circuit
    finds their traits when it is built. By default the module is an activation of each unit by itself.

    Example:
        >>> import torch, apical
        >>> @apical.layers.has_traits(lowest_rate=0.0, monotone=True)
        ... class SoftThreshold(torch.nn.Module):
        ...     def forward(self, x):
        ...         return torch.nn.functional.softplus(x - 1, beta=4)

    Args:
        activation: whether it turns potentials into rates.
        elementwise: whether each output depends on one input only.
        keeps_shape: whether outputs have the shape of the inputs.
        more: the other attributes of `Traits`.
    """
    traits = Traits(activation=activation, elementwise=elementwise, keeps_shape=keeps_shape, **more)

    def state(module: _Module) -> _Module:
        module._apical_traits = traits  # type: ignore[attr-defined]
        return module

    return state


def stated(module: nn.Module) -> Traits | None:
    """The traits that a module's class states, or None; a forward that overrides that class's own has none."""
    if "forward" in vars(module):
        return None
    for kind in type(module).__mro__:
        if "_apical_traits" in vars(kind):
            return vars(kind)["_apical_traits"]  # type: ignore[no-any-return]
        if "forward" in vars(kind):
            return None
    return None
