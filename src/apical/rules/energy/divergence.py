"""Inference that runs away: noticed by the energy, stopped with the name of the layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from apical.errors import NonFiniteError
from apical.layers import Layer
from apical.rules.energy.inference import Inference
from apical.rules.energy.relaxation import Relaxation


def stop_where_diverged(
    inference: Inference,
    before: tuple[Tensor, Tensor] | None,
    pushed: Tensor,
    *,
    rule: str,
    falls: bool,
    remedy: str,
) -> None:
    """Stop where the states have diverged; inside the compiler nobody looks.

    Args:
        inference: what there was of it.
        before: the free output and the error there, of each sample; None where the output stays.
        pushed: the error at the output now.
        rule: for the message.
        falls: whether the energy, with the loss in it, has to be lower than at the free pass.
        remedy: for the message.

    Raises:
        NonFiniteError: the states are no numbers any more, or the energy has risen where it has to fall.
    """
    if torch.compiler.is_compiling():
        return
    states = inference.states
    posts = {layer: states.posts[layer.index] for layer in states.wiring.layers if layer.index in states.posts}
    energy = sum(float(post.square().sum()) for post in posts.values()) / 2
    if math.isfinite(energy):
        if before is None or not falls or not _climbed(states.y, *before, pushed, energy):
            return
    elif before is None or not math.isfinite(float(before[1].sum())):
        return  # lost before the first step: the circuit's own look finds where
    elif (lost := _lost(states.anew(), before[1])) is not None:
        raise NonFiniteError(
            f"{lost.name}: the teaching signal that {rule} brings to it holds NaN or infinity, and did so before the "
            "first step of inference. Lower the learning rate, or clip the gradient.",
            layer=lost.name,
        )
    worst = max(posts, key=lambda layer: float(posts[layer].abs().nan_to_num(math.inf).max()))
    raise NonFiniteError(
        f"{worst.name}: {rule} has diverged: {inference.taken} steps at rate {inference.rate:g} left more energy than "
        f"there was at the start, most of it here. {remedy}",
        layer=worst.name,
    )


def _climbed(y: Tensor, free: Tensor, first: Tensor, last: Tensor, energy: float) -> bool:
    """Whether the energy, with the loss in it, is higher than at the free pass; the loss's change by the trapezoid."""
    push = (first + last) / 2
    fall = float((push * (y - free)).sum())
    rounding = 32 * torch.finfo(y.dtype).eps * float((push.abs() * free.abs()).sum())
    return energy + fall > rounding


def _lost(states: Relaxation, first: Tensor) -> Layer | None:
    """The first layer on the way down whose signal is no number in the free state."""
    found: list[Layer] = []

    def visit(layer: Layer, message: Tensor | None) -> Tensor | None:
        signal = None if message is None else states.back(layer, message)
        if signal is not None and not bool(torch.isfinite(signal).all()):
            found.append(layer)
        return signal

    states.sweep(first, visit)
    return found[0] if found else None
