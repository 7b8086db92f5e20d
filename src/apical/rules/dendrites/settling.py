"""The steady state of the dendritic microcircuit, by iteration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from apical.layers import ForwardState, Layer, Step
from apical.wiring import Wiring

_SLOWEST, _FASTER = 1 / 64, 1.1
_ROUNDING = 32  # in units of the last place of the potentials


class Pyramids(Protocol):
    """What settling has to know of a layer (see `apical.rules.microcircuit.Area`)."""

    @property
    def after(self) -> tuple[Step, ...]:
        """What follows the pyramids' rate."""

    @property
    def gain(self) -> float:
        """What is left of an output error of one."""

    def fire(self, potential: Tensor) -> Tensor:
        """The pyramids' rate."""

    def to_pyramids(self, signal: Tensor, saved: list[Any]) -> Tensor:
        """A signal at the layer's rate, at the pyramids."""


@dataclass(frozen=True)
class Settling:
    """How to settle.

    Attributes:
        areas: by the layer's index.
        message: of a layer, its input, its basal prediction and its signal: the signal at its input.
        samples: what the loss's mean divided by.
        steps: most iterations.
        tolerance: largest move, as a part of the largest shift in a layer, at which it has settled.
    """

    areas: Mapping[int, Pyramids]
    message: Callable[[Layer, Tensor, Tensor, Tensor], Tensor]
    samples: float
    steps: int
    tolerance: float


State = tuple[Layer, Tensor, Tensor, Tensor]
"""A layer, the rate that arrives there, its basal prediction, and the signal at its pyramids."""


def settle(how: Settling, wiring: Wiring, state: ForwardState, error: Tensor) -> tuple[list[State], float]:
    """Let a chain settle under a teacher.

    Args:
        how: how to settle.
        wiring: a chain.
        state: its free answer.
        error: dL/dy.

    Returns:
        the states from the output down, and the largest move left, as the tolerance counts it; 0 inside the compiler,
        where nobody looks.
    """
    layers = wiring.layers
    areas = [how.areas[layer.index] for layer in layers]
    records = [state[layer] for layer in layers]
    pres, basals = [], []
    for record in records:
        assert record.pre is not None
        assert record.drive is not None
        pres.append(record.pre)
        basals.append(record.drive)
    saved = [record.saved[len(record.saved) - len(area.after) :] for record, area in zip(records, areas, strict=True)]

    def answer(signals: list[Tensor] | None) -> None:
        for place, area in enumerate(areas[:-1]):
            soma = basals[place]
            if signals is not None:
                soma = soma - signals[place] * (how.samples * area.gain)
            rate, saved[place] = area.fire(soma), []
            for step in area.after:
                rate, kept = step.forward(rate)
                saved[place].append(kept)
            pres[place + 1], basals[place + 1] = rate, layers[place + 1].synapses.forward(rate)

    precise = layers[0].weight.dtype
    if basals[0].dtype != precise:  # under autocast: small differences would not survive
        pres[0], error = pres[0].to(precise), error.to(precise)
        basals[0] = layers[0].synapses.forward(pres[0])
        answer(None)
    signals = [torch.zeros_like(basal) for basal in basals]
    pushed, free = areas[-1].to_pyramids(error, saved[-1]), basals[-1]
    watched = not torch.compiler.is_compiling()
    pace, residual = 1.0, float("inf") if watched else 0.0
    for _ in range(how.steps):
        before, moved = residual, []
        for place in reversed(range(len(layers))):
            if place == len(layers) - 1:
                # The target stays where it is while the prediction moves towards it.
                asked = pushed + (basals[-1] - free) / how.samples
            else:
                above = place + 1
                sent = how.message(layers[above], pres[above], basals[above], signals[above])
                asked = areas[place].to_pyramids(sent, saved[place])
            if watched:
                moved.append(_moved(asked, signals[place], basals[place], how.samples * areas[place].gain))
            signals[place] = torch.lerp(signals[place], asked, pace)
        if watched:
            residual = max(moved)
            if residual <= how.tolerance:
                break
            pace = max(pace / 2, _SLOWEST) if residual > before else min(pace * _FASTER, 1.0)
        answer(signals)
    states = zip(layers, pres, basals, signals, strict=True)
    return list(states)[::-1], residual


def _moved(asked: Tensor, signal: Tensor, basal: Tensor, unit: float) -> float:
    """The largest move of a layer's shifts, less what is rounding, as a part of the largest shift."""
    rounding = _ROUNDING * torch.finfo(basal.dtype).eps * float(basal.abs().max())
    move = unit * float((asked - signal).abs().max()) - rounding
    if move <= 0:
        return 0.0
    # Where nothing is asked for any more, all of what there was moves.
    return move / (unit * (float(asked.abs().max()) or float(signal.abs().max())))
