"""The feedback-alignment family straight from its equations, in plain loops over samples, units and synapses.

Notation of the papers: a_l = W_l h_(l-1) + b_l, h_l = phi(a_l), e = dL/da_L, and
dW_l = -eta delta_l h_(l-1)^T. Only the rule for delta_l differs. What is returned are gradients, so -dW_l / eta.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Array = np.ndarray
Phi = Callable[[float], float]

FUNCTIONS: dict[str, tuple[Phi, Phi]] = {
    "tanh": (lambda a: float(np.tanh(a)), lambda a: 1 - float(np.tanh(a)) ** 2),
    "relu": (lambda a: max(a, 0.0), lambda a: 1.0 if a > 0 else 0.0),
}


def matrix_vector(W: Array, h: Array) -> Array:
    out = np.zeros(W.shape[0])
    for i in range(W.shape[0]):
        for j in range(W.shape[1]):
            out[i] += W[i, j] * h[j]
    return out


def softmax_error(a: Array, target: int) -> Array:
    """dL/da of the cross-entropy of one sample."""
    shares = np.exp(a - a.max())
    shares /= shares.sum()
    shares[target] -= 1
    return shares


def answer(weights: list[Array], biases: list[Array], x: Array, phi: Phi) -> tuple[list[Array], list[Array]]:
    """All a_l and all h_l of one sample, h_0 = x; the last layer is linear."""
    drives, rates = [], [x]
    for layer, (W, b) in enumerate(zip(weights, biases, strict=True)):
        a = matrix_vector(W, rates[-1]) + b
        drives.append(a)
        rates.append(a if layer == len(weights) - 1 else np.array([phi(value) for value in a]))
    return drives, rates


def gradients(
    weights: list[Array],
    biases: list[Array],
    inputs: Array,
    targets: Array,
    function: str,
    delta_below: Callable[[int, Array, Array, int], Array],
) -> tuple[list[Array], list[Array]]:
    """Updates of a multilayer perceptron under the mean cross-entropy.

    Args:
        delta_below: what a layer's rates are told, before phi'(a_l): of the layer's number, the error of the layer
            above it, the output's error, and the target.
    """
    phi, slope = FUNCTIONS[function]
    to_weights = [np.zeros_like(W) for W in weights]
    to_biases = [np.zeros_like(b) for b in biases]
    samples = len(inputs)
    for x, target in zip(inputs, targets, strict=True):
        drives, rates = answer(weights, biases, x, phi)
        error = softmax_error(drives[-1], int(target))
        delta = error
        for layer in reversed(range(len(weights))):
            if layer < len(weights) - 1:
                told = delta_below(layer, delta, error, int(target))
                delta = np.array([told[i] * slope(drives[layer][i]) for i in range(len(told))])
            for i in range(len(delta)):
                to_biases[layer][i] += delta[i] / samples
                for j in range(len(rates[layer])):
                    to_weights[layer][i, j] += delta[i] * rates[layer][j] / samples
    return to_weights, to_biases


def feedback_alignment(feedback: list[Array]) -> Callable[[int, Array, Array, int], Array]:
    """B_(l+1) delta_(l+1), with the matrices given in the shape of W_(l+1)."""
    return lambda layer, above, error, target: matrix_vector(feedback[layer + 1].T, above)


def direct_feedback_alignment(feedback: list[Array]) -> Callable[[int, Array, Array, int], Array]:
    """B_l e, with the matrices given as (outputs, units)."""
    return lambda layer, above, error, target: matrix_vector(feedback[layer].T, error)


def direct_random_target_projection(feedback: list[Array]) -> Callable[[int, Array, Array, int], Array]:
    """-B_l y*, with the one-hot target y*."""

    def told(layer: int, above: Array, error: Array, target: int) -> Array:
        one_hot = np.zeros(len(error))
        one_hot[target] = 1
        return -matrix_vector(feedback[layer].T, one_hot)

    return told


def convolved(W: Array, b: Array, x: Array) -> Array:
    """A convolution over a line, (inputs, length) to (units, length - kernel + 1)."""
    units, inputs, kernel = W.shape
    out = np.zeros((units, x.shape[1] - kernel + 1))
    for u in range(units):
        for t in range(out.shape[1]):
            out[u, t] = b[u]
            for c in range(inputs):
                for k in range(kernel):
                    out[u, t] += W[u, c, k] * x[c, t + k]
    return out


def carried_down(B: Array, delta: Array, length: int) -> Array:
    """The transposed convolution: what a kernel B of the forward shape tells the line below."""
    units, inputs, kernel = B.shape
    out = np.zeros((inputs, length))
    for u in range(units):
        for t in range(delta.shape[1]):
            for c in range(inputs):
                for k in range(kernel):
                    out[c, t + k] += B[u, c, k] * delta[u, t]
    return out


def kernel_update(delta: Array, x: Array, kernel: int) -> Array:
    """The sum over all positions of post times pre."""
    out = np.zeros((delta.shape[0], x.shape[0], kernel))
    for u in range(delta.shape[0]):
        for c in range(x.shape[0]):
            for k in range(kernel):
                for t in range(delta.shape[1]):
                    out[u, c, k] += delta[u, t] * x[c, t + k]
    return out
