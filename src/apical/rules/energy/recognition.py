"""The loss, recognised from its derivative: which loss it is, and by what each sample's part is multiplied."""

from typing import NamedTuple

import torch
from torch import Tensor


class Recognised(NamedTuple):
    """A loss, as its derivative shows it: n dL/dy = factor * unit * (A'(y) - target).

    Attributes:
        loss: "cross_entropy" (A' is the softmax) or "squared_error" (A' is y).
        unit: the derivative's own factor: of a mean over positions, or of the squares.
        factor: what multiplies the loss: one number, or one for each sample and position, of the output's shape with
            one class.
    """

    loss: str
    unit: float
    factor: float | Tensor


def recognise(
    y: Tensor, error: Tensor, samples: float, batch_axis: int | None, axis: int, *, mean: bool, squares: bool
) -> Recognised | None:
    """Find the loss whose derivative this is, within 32 units of its precision.

        p - n e one-hot, p = softmax(y)                               cross-entropy
        p - e / s one-hot with a factor s > 0 for each sample         cross-entropy, if there are at least 3 classes
        p - n e one-hot with one label smoothing for the batch        cross-entropy, if there are at least 3 classes
        y - n e / c in {0, 1},   c in {1, 2 / K, 2}                   squared error of K outputs

    The number n is that by which the loss divides according to the circuit, the batch size, or 1. All else is None: two
    classes with unknown factors, soft targets, regression, low precision; and any loss inside compilers, which see no
    values.

    Args:
        y: (batch, outputs ...), the output.
        error: dL/dy.
        samples: the number by which the loss divided each sample's part, according to the circuit.
        batch_axis: of the output.
        axis: of the classes.
        mean: whether the loss is a mean over the outputs of a sample, too.
        squares: whether it may be a squared error.
    """
    if torch.compiler.is_compiling() or error.dtype not in (torch.float32, torch.float64) or not error.numel():
        return None
    batch = 1 if batch_axis is None else y.shape[batch_axis]
    outputs, classes = y.numel() / batch, y.shape[axis]
    if axis % y.dim() != batch_axis and classes > 1:
        positions = outputs / classes
        own = samples * positions if mean else samples
        factor = _of_cross_entropy(torch.softmax(y, axis), error, (own, batch * positions, batch, 1.0), axis)
        if factor is not None:
            return Recognised("cross_entropy", samples / own, factor)
    for count in dict.fromkeys((samples, batch, 1.0)) if squares else ():
        for unit in (1.0, 2.0 / outputs, 2.0):
            target = y - error * (count / unit)
            if bool(((target - (target > 0.5).to(y)).abs() <= _rounding(y) * (1 + y.abs())).all()):
                return Recognised("squared_error", unit, samples / count)
    return None


def _rounding(x: Tensor) -> float:
    return 32 * torch.finfo(x.dtype).eps


def _of_cross_entropy(p: Tensor, error: Tensor, counts: tuple[float, ...], axis: int) -> float | Tensor | None:
    """The factor of a cross-entropy beside the first of the counts; None where it is another loss."""
    for count in dict.fromkeys(counts):
        if _is_one_hot(p - error * count, axis, smoothed=False):
            return counts[0] / count
    if p.shape[axis] < 3:
        return None
    factor = _factors(p, error * counts[0], axis)
    if factor is not None:
        return factor
    for count in dict.fromkeys(counts):
        if _is_one_hot(p - error * count, axis, smoothed=True):
            return counts[0] / count
    return None


def _is_one_hot(target: Tensor, axis: int, *, smoothed: bool) -> bool:
    """Whether targets are one-hot, or all of them are with the same label smoothing."""
    classes = target.shape[axis]
    expected = torch.zeros_like(target).scatter_(axis, target.argmax(axis, keepdim=True), 1.0)
    if smoothed:
        expected.lerp_(torch.full_like(target, 1 / classes), target.amin().clamp(0, 1 / classes) * classes)
    return bool(((target - expected).abs() <= _rounding(target)).all())


def _factors(p: Tensor, error: Tensor, axis: int) -> Tensor | None:
    """Of each sample the s of s (p - one-hot), by the classes other than the target's; 0 where it learns nothing."""
    rounding, smallest = _rounding(p), torch.finfo(p.dtype).tiny
    place = error.argmin(axis, keepdim=True)
    others = p.scatter(axis, place, 0.0)
    factor = error.scatter(axis, place, 0.0).sum(axis, keepdim=True) / others.sum(axis, keepdim=True)
    factor = torch.where((error == 0).all(axis, keepdim=True), 0.0, factor)
    expected = factor * others
    # A small probability is as exact as its logarithm.
    room = rounding * expected * (1 - others.clamp_min(smallest).log()) + smallest
    at_target = error.gather(axis, place) + expected.sum(axis, keepdim=True)
    near = ((error.scatter(axis, place, 0.0) - expected).abs() <= room) & (
        at_target.abs() <= rounding * factor + smallest
    )
    return factor if bool((near & (factor >= 0)).all()) else None
