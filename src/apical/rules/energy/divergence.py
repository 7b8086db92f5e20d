"""Inference of predictive coding that diverges: recognised by its energy, stopped with the name of the layer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from apical.errors import NonFiniteError
from apical.layers.moving import MovingState

if TYPE_CHECKING:
    from apical.rules.energy.inference import Inference


def check_energy(inference: Inference, at_start: tuple[Tensor, Tensor], pushed: Tensor, steps: int) -> None:
    """Stop where the states have diverged.

    Without symmetric feedback weights no energy descends: only states that are not finite any more count then.

    Args:
        inference: after some steps.
        at_start: the output of the free pass, and the error there, of each sample.
        pushed: the error at the output now.
        steps: how many were taken.

    Raises:
        NonFiniteError: the states are not finite any more, or the energy, with the loss in it, has risen where it has
            to fall.
    """
    rule = inference.rule
    posts = {
        layer: inference.posts[layer.index] for layer in inference.hierarchy.hidden if layer.index in inference.posts
    }
    energy = sum(float(post.square().sum()) for post in posts.values()) / 2
    if math.isfinite(energy):
        if not inference.energy_falls or not _has_risen(inference.y, *at_start, pushed, energy):
            return
    elif not math.isfinite(float(at_start[1].sum())):
        return  # lost before the first step: the circuit's own check finds the place
    else:
        _check_first_signals(inference, at_start[1])
    worst = max(posts, key=lambda layer: float(posts[layer].abs().nan_to_num(math.inf).max()))
    fact = "there is more energy than at the start, most of it" if math.isfinite(energy) else "the largest error is"
    rule.monitor.stop(steps, f"at rate {inference.rate:g} {fact} here", layer=worst.name)


def _has_risen(y: Tensor, free: Tensor, first: Tensor, last: Tensor, energy: float) -> bool:
    """Whether the energy, with the loss in it, is higher than at the free pass; the loss's change by the trapezoid."""
    push = (first + last) / 2
    fall = float((push * (y - free)).sum())
    rounding = 32 * torch.finfo(y.dtype).eps * float((push.abs() * free.abs()).sum())
    return energy + fall > rounding


def _check_first_signals(inference: Inference, error: Tensor) -> None:
    """Name the first layer on the way down whose signal is not finite in the state of the free pass.

    Raises:
        NonFiniteError: there is one.
    """
    state = MovingState(inference.free, anchored=True).state
    walk = inference.wiring.backward(state, error, free_buffers=False)
    for layer, own in walk:
        signal = walk.receive(layer)
        if signal is None:
            continue
        signal = walk.somatic(layer, own, signal)
        if not bool(torch.isfinite(signal).all()):
            raise NonFiniteError(
                f"{layer.name}: the teaching signal that {inference.rule.monitor.rule} brings to it holds NaN or "
                "infinity, and did so before the first step of inference. Lower the learning rate, or clip the "
                "gradient.",
                layer=layer.name,
            )
        if walk.needs_input_grad(layer):
            walk.send(layer, inference.send(layer, signal))
