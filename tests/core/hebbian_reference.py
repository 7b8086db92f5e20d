"""The Hebbian rules straight from their equations: plain loops over samples, positions, units and synapses, in float64.

Oja (1982):                  P dw_j = y_j (x - y_j w_j),  y_j = w_j x,  P = |x|^2
symmetric (Oja 1989):        P dw_j = y_j (x - sum_k y_k w_k)
Sanger (1989):               P dw_j = y_j (x - sum_(k <= j) y_k w_k)
Moraitis (2022), Journe (2023): dw_j = |r_j - 1|^p s_j y_j (x - u_j w_j),  y = softmax(u / T),  s_j = 1 where u_j is
                             the largest and -1 elsewhere,  r_j = |w_j|

What is returned is the change of the weights, averaged over samples and positions, not a gradient. A bias is the last
weight of a unit, and its input is 1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Array = np.ndarray
Unit = Callable[[Array, Array], Array]
"""All changes of one sample at one position: of the weights (units, inputs) and the input."""


def drive(W: Array, x: Array) -> Array:
    u = np.zeros(W.shape[0])
    for j in range(W.shape[0]):
        for i in range(W.shape[1]):
            u[j] += W[j, i] * x[i]
    return u


def oja(units: str) -> Unit:
    def change(W: Array, x: Array) -> Array:
        y = drive(W, x)
        dW = np.zeros_like(W)
        for j in range(W.shape[0]):
            known = {"independent": [j], "symmetric": range(W.shape[0]), "sanger": range(j + 1)}[units]
            for i in range(W.shape[1]):
                dW[j, i] = y[j] * (x[i] - sum(y[k] * W[k, i] for k in known))
        return dW

    return change


def soft_hebb(temperature: float, anti_hebbian: bool, power: float) -> Unit:
    def change(W: Array, x: Array) -> Array:
        u = drive(W, x)
        weights = [np.exp((value - max(u)) / temperature) for value in u]
        y = [weight / sum(weights) for weight in weights]
        winner = max(range(len(u)), key=lambda j: u[j])
        dW = np.zeros_like(W)
        for j in range(W.shape[0]):
            sign = -1.0 if anti_hebbian and j != winner else 1.0
            rate = abs(sum(W[j, i] ** 2 for i in range(W.shape[1])) ** 0.5 - 1) ** power
            for i in range(W.shape[1]):
                dW[j, i] = rate * sign * y[j] * (x[i] - u[j] * W[j, i])
        return dW

    return change


def patches(image: Array, kernel: int, stride: int, padding: int) -> list[Array]:
    """What the kernel of a convolution sees at every position, (channels * kernel * kernel,) each."""
    channels, height, width = image.shape
    padded = np.zeros((channels, height + 2 * padding, width + 2 * padding))
    padded[:, padding : padding + height, padding : padding + width] = image
    return [
        padded[:, top : top + kernel, left : left + kernel].reshape(-1)
        for top in range(0, padded.shape[1] - kernel + 1, stride)
        for left in range(0, padded.shape[2] - kernel + 1, stride)
    ]


def mean_change(
    unit: Unit, weight: Array, bias: Array | None, seen: list[list[Array]], powers: list[float]
) -> tuple[Array, Array | None]:
    """The mean change of a layer.

    Args:
        unit: the rule.
        weight: units first.
        bias: (units,), or None.
        seen: for every sample, for every position, what arrives there.
        powers: for every sample, by what its changes are divided.
    """
    W = weight.reshape(weight.shape[0], -1)
    if bias is not None:
        W = np.concatenate([W, bias[:, None]], axis=1)
    total = np.zeros_like(W)
    count = 0
    for positions, power in zip(seen, powers, strict=True):
        for x in positions:
            total += unit(W, np.append(x, 1.0) if bias is not None else x) / power
            count += 1
    total /= count
    if bias is None:
        return total.reshape(weight.shape), None
    return total[:, :-1].reshape(weight.shape), total[:, -1]
