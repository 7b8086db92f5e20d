"""Firing again: what neurons do when a network settles, and what has to stay as it was in the free pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from apical.errors import CircuitError
from apical.kernels import tanh
from apical.layers import BackwardPlan, Step
from apical.layers.activations import ReLU, Tanh
from apical.layers.norms import BatchNorm
from apical.layers.shapes import ChannelDropout, Dropout
from apical.layers.steps import LocalGraph, Saved
from apical.wiring import Wiring


def widened(plan: BackwardPlan) -> BackwardPlan:
    """The same plan, with a record for what lies below all that learns but meets at a junction what moves."""
    values = list(plan.needs_signal)
    for node, is_layer in plan.order:
        if not is_layer:
            for source in node.sources:
                values[source] = True
    return plan._replace(needs_signal=tuple(values))


def refuse_what_cannot_fire_again(wiring: Wiring, rule: str, instead: str = "") -> None:
    """Refuse neurons whose answer to one drive changes from one call to the next.

    Raises:
        CircuitError: one of them draws random numbers, or moves statistics, out of the rule's sight.
    """
    for node in wiring.nodes:
        for step in node.steps:
            if not isinstance(step, LocalGraph):
                continue
            for part in step.module.modules():
                draws = isinstance(part, (nn.modules.dropout._DropoutNd, nn.RReLU))
                moves = isinstance(part, nn.modules.batchnorm._NormBase) and part.track_running_stats
                if draws or moves:
                    why = "draws other random numbers" if draws else "moves its running statistics"
                    raise CircuitError(
                        f"{node.name}: {rule} lets its neurons fire again while the network settles, and "
                        f"{type(part).__name__} {why} each time. Use nn.Dropout, nn.Dropout1d to 3d, nn.BatchNorm1d or "
                        f"2d, or a norm without running statistics in its place{instead}."
                    )


def fire_again(step: Step, x: Tensor, free: Saved, *, anchored: bool) -> tuple[Tensor, Saved]:
    """A step's answer to another argument, with the free pass's dropout mask and batch statistics.

    Args:
        step: of a layer's neurons.
        x: (batch, ...), the other argument.
        free: what the step kept in the free pass.
        anchored: whether the derivative of batch norm, which goes by way of the batch's statistics, stays the free
            pass's. Taken where the values have gone, beside statistics that are not theirs, it grows with their
            distance.
    """
    if isinstance(step, (Dropout, ChannelDropout)):
        return step.derivative(x, *free), free  # a mask is linear: it is its own derivative
    if isinstance(step, BatchNorm):
        _, mean, variance, batch_mean, batch_scale, from_batch, _ = free
        if from_batch:
            mean, variance = batch_mean, batch_scale.pow(-2).sub_(step.module.eps)
        own = step.module._parameters
        y = torch.ops.aten.native_batch_norm.default(
            x, own.get("weight"), own.get("bias"), mean, variance, False, 0.0, step.module.eps
        )[0]
        return y, (free[0].to(x.dtype) if anchored and from_batch else x, *free[1:])
    if isinstance(step, ReLU):
        y = torch.relu(x)  # never in place: the argument is needed
        return y, (y,)
    if isinstance(step, Tanh):
        y = tanh(x)
        return y, (y,)
    return step.forward(x)


def fire_all_again(
    steps: Sequence[Step], x: Tensor, free: Sequence[Saved], *, anchored: bool
) -> tuple[Tensor, list[Saved]]:
    """What several steps answer, one after the other, and what each keeps."""
    saved = []
    for step, known in zip(steps, free, strict=True):
        x, kept = fire_again(step, x, known, anchored=anchored)
        saved.append(kept)
    return x, saved
