"""Predictive coding in one wave: what a relaxation with fixed predictions comes to, without running it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor

from apical.layers import Credit, ForwardState, Layer, Synapses
from apical.rules.energy.relaxation import Hierarchy
from apical.wiring import Wiring


def shares(
    depth: int, steps: int, rate: float, momentum: float, tolerance: float | None
) -> tuple[list[float], float, int]:
    """How much of backpropagation's signal each level has after some steps of a relaxation with fixed predictions.

    With fixed predictions the errors follow a linear equation. Where every way from the output to a layer has the same
    number of errors on it, the error of level k is a multiple c_k of backpropagation's signal, from c_0 = 1 on:

        c_k <- c_k + rate (c_(k-1) - c_k)   =>   c_k(T) = P(a binomial of T draws with chance `rate` is at least k)

    Args:
        depth: the highest level.
        steps: most of them.
        rate: of the state.
        momentum: of the state.
        tolerance: largest move left, as a part of the signal, at which it has settled; None: take all steps.

    Returns:
        c_0 to c_depth, the largest move left, and the number of steps taken.
    """
    found = [1.0] + [0.0] * depth
    velocity = [0.0] * (depth + 1)
    residual, taken = 0.0, 0
    while taken < steps:
        taken += 1
        moves = [0.0] + [found[level - 1] - found[level] for level in range(1, depth + 1)]
        scales = [max(abs(found[level - 1]), abs(found[level])) for level in range(1, depth + 1)]
        # What no signal has reached has not settled.
        parts = [abs(move) / scale if scale else 1.0 for move, scale in zip(moves[1:], scales, strict=True)]
        residual = max([0.0, *parts])
        velocity = [momentum * before + move for before, move in zip(velocity, moves, strict=True)]
        found = [share + rate * speed for share, speed in zip(found, velocity, strict=True)]
        if tolerance is not None and residual <= tolerance:
            break
    return found, residual, taken


def teach_by_wave(
    wiring: Wiring,
    state: ForwardState,
    error: Tensor,
    weights: Mapping[Layer, Tensor],
    reciprocals: Mapping[Layer, Synapses],
    hierarchy: Hierarchy,
    parts: list[float] | None,
    show: Callable[[Layer, Tensor], None] | None,
) -> Iterator[Credit]:
    """One wave of errors from the output down, each layer's scaled to the share of its level.

    Args:
        wiring: the circuit's.
        state: what it kept of the free pass.
        error: dL/dy.
        weights: what carries signals down; a layer that is missing uses its own.
        reciprocals: feedback weights that take the increments of a layer's.
        hierarchy: the levels.
        parts: the share of each level; None: all of it.
        show: sees every layer's signal; None: nobody does.
    """
    walk = wiring.backward(state, error)
    for layer, own in walk:
        signal = walk.receive(layer)
        if signal is None:
            continue
        post = walk.somatic(layer, own, signal)
        del signal  # releases its memory
        if parts is not None:
            level = hierarchy.levels.get(layer.index, 0)
            ratio = 1.0
            if level:  # the signal has the share of the level above already
                ratio = parts[level] / parts[level - 1] if parts[level - 1] else 0.0
            if ratio != 1.0:
                post = post * ratio
        assert own.pre is not None
        if walk.needs_input_grad(layer):
            weight = weights.get(layer)
            down = layer.synapses.transpose_product(post, layer.weight if weight is None else weight, own.pre)
            walk.send(layer, down)
            del down
        if show is not None:
            show(layer, post)
        yield Credit(layer, own.pre, post, reciprocal=reciprocals.get(layer))
        del own, post
    yield from walk.credits()
