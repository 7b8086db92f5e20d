"""A second evaluation of neurons, with the random draws and batch statistics of the first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from apical.kernels import tanh
from apical.layers.activations import ReLU, Tanh
from apical.layers.norms import BatchNorm
from apical.layers.shapes import ChannelDropout, Dropout
from apical.layers.steps import Saved, Step


def refire(step: Step, x: Tensor, free: Saved, *, anchored: bool) -> tuple[Tensor, Saved]:
    """A step's output for another argument, with the dropout mask and batch statistics of the free pass.

    Args:
        step: of a layer's neurons.
        x: (batch, ...), the other argument.
        free: what the step saved in the free pass.
        anchored: whether the derivative of batch norm, which includes that of the batch's statistics, stays the free
            pass's. Taken at the moved argument, beside statistics of another, it grows with their distance.
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


def refire_all(
    steps: Sequence[Step], x: Tensor, free: Sequence[Saved], *, anchored: bool
) -> tuple[Tensor, list[Saved]]:
    """The output of several steps, one after the other, and what each saved."""
    saved = []
    for step, known in zip(steps, free, strict=True):
        x, own = refire(step, x, known, anchored=anchored)
        saved.append(own)
    return x, saved
