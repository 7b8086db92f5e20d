"""Predictive coding straight from the papers' equations: one sample, one unit and one synapse after the other.

A chain with values v_l at the somata: a_l = W_l phi(v_(l-1)) + b_l, e_l = v_l - a_l, F = 1/2 sum |e_l|^2 + C(a_L), and
v_l begins at a_l. Returned are prediction errors with the sign of a gradient, a - v, and what drives them, for each
sample: (post of every layer, pre of every layer).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from reference import Array, matrix_vector

Push = Callable[[Array], Array]
Ends = tuple[list[Array], list[Array]]


def phi(v: Array) -> Array:
    return np.array([np.tanh(value) for value in v])


def slope(v: Array) -> Array:
    return np.array([1 - np.tanh(value) ** 2 for value in v])


def carried(W: Array, signal: Array, v: Array) -> Array:
    """phi'(v) W^T signal."""
    return slope(v) * matrix_vector(W.T, signal)


def predictions(Ws: list[Array], bs: list[Array], x: Array, values: list[Array]) -> tuple[list[Array], list[Array]]:
    """Every a_l, and the rates that they come from, for values of the hidden layers."""
    pres = [x, *(phi(v) for v in values)]
    return [matrix_vector(W, pre) + b for W, b, pre in zip(Ws, bs, pres, strict=True)], pres


def free(Ws: list[Array], bs: list[Array], x: Array) -> list[Array]:
    drives: list[Array] = []
    for W, b in zip(Ws, bs, strict=True):
        drives.append(matrix_vector(W, phi(drives[-1]) if drives else x) + b)
    return drives


def strict(
    Ws: list[Array],
    bs: list[Array],
    x: Array,
    push: Push,
    steps: int,
    rate: float,
    momentum: float = 0.0,
    down: list[Array] | None = None,
) -> list[Ends]:
    """Whittington and Bogacz: all values at once down the energy; what the synapses see after 0, 1, ... steps."""
    down = Ws if down is None else down
    values = free(Ws, bs, x)[:-1]
    velocities = [np.zeros_like(v) for v in values]
    seen = []
    for step in range(steps + 1):
        drives, pres = predictions(Ws, bs, x, values)
        posts = [a - v for a, v in zip(drives, values, strict=False)] + [push(drives[-1])]
        seen.append((posts, pres))
        if step == steps:
            break
        for layer, v in enumerate(values):
            move = posts[layer] - carried(down[layer + 1], posts[layer + 1], v)
            velocities[layer] = momentum * velocities[layer] + move
        values = [v + rate * velocity for v, velocity in zip(values, velocities, strict=True)]
    return seen


def fixed_prediction(
    Ws: list[Array], bs: list[Array], x: Array, error: Array, steps: int, rate: float, momentum: float = 0.0
) -> Ends:
    """Millidge, Tschantz and Buckley: predictions and derivatives are those of the free pass."""
    drives = free(Ws, bs, x)
    values = [v.copy() for v in drives[:-1]]
    velocities = [np.zeros_like(v) for v in values]
    for _ in range(steps):
        posts = [a - v for a, v in zip(drives, values, strict=False)] + [error]
        for layer in range(len(values)):
            move = posts[layer] - carried(Ws[layer + 1], posts[layer + 1], drives[layer])
            velocities[layer] = momentum * velocities[layer] + move
        values = [v + rate * velocity for v, velocity in zip(values, velocities, strict=True)]
    return [a - v for a, v in zip(drives, values, strict=False)] + [error], [x, *(phi(a) for a in drives[:-1])]


def zero_divergence(Ws: list[Array], bs: list[Array], x: Array, push: Push) -> Ends:
    """Song, Lukasiewicz, Xu and Bogacz: strict inference at rate 1; layer L - t learns at step t and then only."""
    seen = strict(Ws, bs, x, push, len(Ws) - 1, 1.0)
    last = len(Ws) - 1
    return (
        [seen[last - layer][0][layer] for layer in range(len(Ws))],
        [seen[last - layer][1][layer] for layer in range(len(Ws))],
    )


def error_optimised(
    Ws: list[Array], bs: list[Array], x: Array, push: Push, steps: int, rate: float, momentum: float = 0.0
) -> Ends:
    """Goemaere et al.: descent on the errors, the values follow in one forward pass."""
    errors = [np.zeros(len(b)) for b in bs[:-1]]
    velocities = [np.zeros_like(e) for e in errors]
    for step in range(steps + 1):
        values: list[Array] = []
        for layer, e in enumerate(errors):
            values.append(matrix_vector(Ws[layer], phi(values[-1]) if values else x) + bs[layer] + e)
        drives, pres = predictions(Ws, bs, x, values)
        signal = push(drives[-1])
        if step == steps:
            return [-e for e in errors] + [signal], pres
        gradient = {}
        for layer in reversed(range(len(errors))):
            signal = carried(Ws[layer + 1], signal, values[layer])
            gradient[layer] = errors[layer] + signal
        for layer in range(len(errors)):
            velocities[layer] = momentum * velocities[layer] - gradient[layer]
        errors = [e + rate * velocity for e, velocity in zip(errors, velocities, strict=True)]
    raise AssertionError


def incremental(
    Ws: list[Array],
    bs: list[Array],
    inputs: Array,
    pushes: list[Push],
    steps: int,
    rate: float,
    learning_rate: float,
) -> tuple[list[Array], list[Array]]:
    """Salvatori et al.: values and weights move at every step, each by the state before; the weights at the end."""
    Ws, bs = [W.copy() for W in Ws], [b.copy() for b in bs]
    states = [free(Ws, bs, x)[:-1] for x in inputs]
    for _ in range(steps):
        to_weights, to_biases = [np.zeros_like(W) for W in Ws], [np.zeros_like(b) for b in bs]
        moved = []
        for x, values, push in zip(inputs, states, pushes, strict=True):
            drives, pres = predictions(Ws, bs, x, values)
            posts = [a - v for a, v in zip(drives, values, strict=False)] + [push(drives[-1])]
            for layer, (post, pre) in enumerate(zip(posts, pres, strict=True)):
                to_weights[layer] += np.outer(post, pre) / len(inputs)
                to_biases[layer] += post / len(inputs)
            moved.append(
                [
                    v + rate * (posts[layer] - carried(Ws[layer + 1], posts[layer + 1], v))
                    for layer, v in enumerate(values)
                ]
            )
        states = moved
        Ws = [W - learning_rate / steps * change for W, change in zip(Ws, to_weights, strict=True)]
        bs = [b - learning_rate / steps * change for b, change in zip(bs, to_biases, strict=True)]
    return Ws, bs
