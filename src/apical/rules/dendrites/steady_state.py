"""The steady state of the dendritic microcircuit: a system that the one relaxation brings to its fixed point."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from apical.errors import CircuitError
from apical.layers import ForwardState, Layer
from apical.layers.moving import MovingState
from apical.rules.dendrites.somas import Area
from apical.wiring import Wiring

_SLOWEST, _FASTER = 1 / 64, 1.1
_ROUNDING = 32  # in units of the last place of the potentials

Message = Callable[[Layer, Tensor, Tensor, Tensor], Tensor]
"""Of a layer, its input, its basal prediction and the signal at its pyramids: the signal at its input."""

State = tuple[Layer, Tensor, Tensor, Tensor]
"""A layer, the rate that arrives there, its basal prediction, and the signal at its pyramids."""


class SteadyState:
    """A chain of pyramids under a teacher. A step takes signals down, and the rates that follow from them up.

    The pace of the signals slows down where a step goes farther than the one before, and quickens where it does not.

    Args:
        areas: of the layers, by index.
        message: carries a signal down from a layer.
        samples: the number by which the loss divided each sample's part.
        wiring: of the circuit, a chain.
        free: the state of the free pass, of all layers.
        error: dL/dy.
    """

    def __init__(
        self,
        areas: Mapping[int, Area],
        message: Message,
        samples: float,
        wiring: Wiring,
        free: ForwardState,
        error: Tensor,
    ) -> None:
        self.areas = areas
        self.message = message
        self.samples = samples
        self.wiring = wiring
        # The chain settles as a whole, whichever of its parameters learn.
        whole = free.copy()
        whole.plan = wiring.plan((True,) * len(free.plan.requires_grad), False)
        self.moving = MovingState(whole, anchored=False)
        self.output = wiring.layers[-1]
        self._units = {layer.index: samples * areas[layer.index].gain for layer in wiring.layers}
        self._basals: dict[int, Tensor] = {}
        for layer in wiring.layers:
            drive = self.moving.state[layer].drive
            assert drive is not None
            self._basals[layer.index] = drive
        self._free_output = self._basals[self.output.index]
        self.error = error.to(self._free_output.dtype)
        self.signals = {index: torch.zeros_like(basal) for index, basal in self._basals.items()}
        self._is_stale = False
        self._pace = 1.0
        self._moves: list[float] = []
        self._residual = float("inf")

    def step(self, *, measured: bool) -> None:
        if self._is_stale:
            self.update()
        self._moves.clear()
        walk = self.wiring.backward(self.moving.state, self.error, free_buffers=False)
        for layer, own in walk:
            index = layer.index
            signal, basal = self.signals[index], self._basals[index]
            target = self.areas[index].to_pyramids(walk.receive(layer), own.saved)
            if layer is self.output:
                # The target stays where it is while the prediction moves towards it.
                target = target + (basal - self._free_output) / self.samples
            if measured:
                self._moves.append(_part_that_moves(target, signal, basal, self._units[index]))
            self.signals[index] = signal = torch.lerp(signal, target, self._pace)
            if walk.needs_input_grad(layer):
                walk.send(layer, self.message(layer, self.moving.pre(layer), basal, signal))
        self._is_stale = True

    def residual(self) -> float:
        """The largest move of a shift, as a part of the largest shift in its layer."""
        before, self._residual = self._residual, max(self._moves)
        faster = min(self._pace * _FASTER, 1.0)
        self._pace = max(self._pace / 2, _SLOWEST) if self._residual > before else faster
        return self._residual

    def update(self) -> None:
        """Let the shifted potentials of the hidden layers drive those above."""
        self.moving.update(self._potential)
        self._is_stale = False

    def states(self) -> Iterator[State]:
        """The states from the output down."""
        for layer in reversed(self.wiring.layers):
            yield layer, self.moving.pre(layer), self._basals[layer.index], self.signals[layer.index]

    def _potential(self, layer: Layer, moved: bool) -> Tensor | None:
        index = layer.index
        if moved:
            self._basals[index] = self.moving.drive(layer)
        return None if layer is self.output else self._basals[index] - self.signals[index] * self._units[index]


def _part_that_moves(target: Tensor, signal: Tensor, basal: Tensor, unit: float) -> float:
    """The largest move of a layer's shifts, less what is rounding, as a part of the largest shift."""
    rounding = _ROUNDING * torch.finfo(basal.dtype).eps * float(basal.abs().max())
    move = unit * float((target - signal).abs().max()) - rounding
    if move <= 0:
        return 0.0
    # Where the target is zero everywhere, all of the signal moves.
    return move / (unit * (float(target.abs().max()) or float(signal.abs().max())))


def refuse_what_cannot_settle(wiring: Wiring, areas: Mapping[int, Area]) -> None:
    """Refuse circuits that have no steady state here.

    Raises:
        CircuitError: a graph other than a chain, a taught input, or neurons that cannot fire again.
    """
    remedy = "Use dynamics='two_step', which works in any circuit."
    if not wiring.is_chain():
        raise CircuitError(
            "DendriticMicrocircuit: dynamics='steady_state' needs a plain chain of layers, each with interneurons that "
            f"mirror the next, and in this circuit rates part or meet. {remedy}"
        )
    if wiring.teach_input:
        raise CircuitError(
            "DendriticMicrocircuit: teach_input=True, but with dynamics='steady_state' the input has no pyramids that "
            f"could settle. {remedy}"
        )
    for layer in wiring.layers:
        area = areas[layer.index]
        random = [step for step in area.after if step.traits.random]
        if area.linearised or random:
            reason = (
                f"{random[0]!r} draws other random numbers each time"
                if random
                else f"one of {layer.steps!r} is neither an activation nor pooling"
            )
            raise CircuitError(
                f"{layer.name}: dynamics='steady_state' has the neurons fire repeatedly until they settle, and "
                f"{reason}. Remove it, or: {remedy}"
            )
