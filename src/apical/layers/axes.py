"""Axes: where each rate has its batch axis, and by what a loss divided the signal of a sample."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from apical.errors import ConfigError
from apical.layers.memory import undisturbed
from apical.layers.nodes import Layer, Node
from apical.layers.passes import BackwardPlan, ForwardState, forward

Reduction = str | float | Callable[[Tensor], float]
"""How a loss reduces a batch: "mean", "sum", the divisor of a sample's part, or a function of dL/dy that returns it."""

BatchAxes = tuple[int | None, ...]
"""For every value of a circuit the axis of its rate that holds the batch, or None where it has none."""


def check_reduction(reduction: Reduction, batch_axis: int) -> None:
    """Refuse a reduction that is not "mean", "sum", a positive number or a callable, and an axis below 0.

    Raises:
        ConfigError: it is none of these.
    """
    if not isinstance(batch_axis, int) or isinstance(batch_axis, bool) or batch_axis < 0:
        raise ConfigError(f"batch_axis={batch_axis!r} is unknown. Pass the number of the input's axis, from 0 on.")
    if reduction in ("mean", "sum") or callable(reduction):
        return
    number = isinstance(reduction, int | float) and not isinstance(reduction, bool)
    if not (number and math.isfinite(float(reduction)) and float(reduction) > 0):
        raise ConfigError(
            f"reduction={reduction!r} is unknown. Pass 'mean' or 'sum', as the loss reduces its batch, or the number "
            "by which the loss divides each sample's part (or a function of dL/dy that returns it)."
        )


def divisor(reduction: Reduction, error: Tensor, batch_axis: int | None) -> float:
    """The number by which the loss divided each sample's derivative.

    Args:
        reduction: of the loss.
        error: dL/dy.
        batch_axis: of the output; None where there is one sample without a batch axis.
    """
    if reduction == "mean":
        return 1 if batch_axis is None else error.shape[batch_axis]
    if reduction == "sum":
        return 1
    found = reduction(error) if callable(reduction) else reduction
    assert not isinstance(found, str)
    return found


def sum_per_sample(x: Tensor, batch_axis: int | None) -> Tensor:
    """The sum over all axes but the batch: (batch,)."""
    others = [axis for axis in range(x.dim()) if axis != batch_axis]
    return x.sum(others) if others else x


def batch_first(x: Tensor, batch_axis: int) -> Tensor:
    """The same with the batch as the first axis."""
    return x if batch_axis == 0 else x.movedim(batch_axis, 0)


def batch_at(x: Tensor, batch_axis: int) -> Tensor:
    """The inverse of `batch_first`: the first axis back to its place."""
    return x if batch_axis == 0 else x.movedim(0, batch_axis)


def find_batch_axes(
    model: nn.Module,
    nodes: Sequence[Node],
    last_use: Sequence[tuple[int, ...]],
    output: int,
    x: Tensor,
    batch_axis: int,
) -> BatchAxes:
    """Find the axis of every rate whose size follows the batch axis of the input.

    Two forward passes, over two and over three samples, show it; buffers and random states stay as they were. Where the
    model cannot process these batches, an axis at the same place counts if it alone has the size of the batch.

    Args:
        model: whose buffers are kept.
        nodes: of the circuit.
        last_use: as for `passes.forward`.
        output: the value that is the output.
        x: an input.
        batch_axis: of the input.
    """
    if not 0 <= batch_axis < x.dim() or any(
        isinstance(node, Layer) and node.sources == (0,) and x.dim() <= node.synapses.sample_axes for node in nodes
    ):
        return (None,) * (len(nodes) + 1)  # one sample, without a batch axis
    shapes: list[list[torch.Size | None]] = []
    everything = BackwardPlan((), (True,) * (len(nodes) + 1), ())  # the state of every node, below all that learns too
    like = x.detach().movedim(batch_axis, 0)
    one = like[:1] if len(like) else like.new_zeros(1, *like.shape[1:])
    try:
        for samples in (2, 3):
            few = one.repeat_interleave(samples, 0).movedim(0, batch_axis)
            with undisturbed(model, x):
                state = forward(nodes, last_use, output, few, everything)[1]
            shapes.append([own.shape if own is not None else None for own in state.nodes])
    except (RuntimeError, ValueError, IndexError, AssertionError):
        with undisturbed(model, x):
            return _axes_by_size(nodes, forward(nodes, last_use, output, x.detach(), everything)[1], x, batch_axis)
    return (batch_axis, *(_axis(two, three) for two, three in zip(*shapes, strict=True)))


def _axis(two: torch.Size | None, three: torch.Size | None) -> int | None:
    """The one axis that holds two samples here and three there."""
    if two is None or three is None or len(two) != len(three):
        return None
    moved = [axis for axis, sizes in enumerate(zip(two, three, strict=True)) if sizes[0] != sizes[1]]
    return moved[0] if len(moved) == 1 and (two[moved[0]], three[moved[0]]) == (2, 3) else None


def _axes_by_size(nodes: Sequence[Node], state: ForwardState, x: Tensor, batch_axis: int) -> BatchAxes:
    """The batch axis of every value of one forward pass, where no other axis has the same size."""
    for node in nodes:
        pre = state[node].pre
        if isinstance(node, Layer) and pre is not None and pre.dim() <= node.synapses.sample_axes:
            return (None,) * (len(nodes) + 1)  # one sample, without a batch axis
    found: list[int | None] = [batch_axis]
    for node in nodes:
        places = [place for place, size in enumerate(state[node].shape) if size == x.shape[batch_axis]]
        found.append(batch_axis if places == [batch_axis] else None)
    return tuple(found)
