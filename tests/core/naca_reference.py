"""NACA straight from its equations, in loops over classes, units and samples; and the gate of its authors' code."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Array = np.ndarray


def expectation(label: int, classes: int) -> Array:
    """E(y): 1/2 at a(i) and at b(i) = a(i) + 1, with i = label + 1."""
    raw = [math.sqrt(2 * math.log(classes / i)) for i in range(1, classes + 1)]
    a = math.floor(raw[label] / raw[0] * 2 * (classes - 1))
    b = math.floor(raw[label] / raw[0] * 2 * (classes - 1) + 1)
    code = np.zeros(2 * classes)
    code[a] = code[b] = 0.5
    return code


def phi(level: float, L: float, theta: float) -> float:
    """The modulation curve in its four phases, clamped above 2 L."""
    level = min(level, 2 * L)
    if level <= L / 2:
        return theta - (theta - 1) * (4 * level - L) ** 2 / L**2
    if level <= L:
        return 4 * (level - L) ** 2 / L**2
    if level <= 3 * L / 2:
        return -4 * (L - level) ** 2 / L**2
    return (theta - 1) * (4 * (2 * L - level) - L) ** 2 / L**2 - theta


def told(levels: Array, label: int, L: float, theta: float) -> Array:
    """phi(lambda_j) at every unit, from (2 classes, units)."""
    code = expectation(label, len(levels) // 2)
    out = np.zeros(levels.shape[1])
    for j in range(levels.shape[1]):
        out[j] = phi(sum(code[k] * levels[k, j] for k in range(len(levels))), L, theta)
    return out


def naca(levels: list[Array], L: float, theta: float) -> Callable[[int, Array, Array, int], Array]:
    """What a layer's rates are told, as `reference.gradients` calls it."""
    return lambda layer, above, error, target: told(levels[layer], target, L, theta)


def gate(image: Array, units: int, margin: float, sharpness: float) -> Array:
    """g_j, from the image of the context (a mean over a batch, or a sample)."""
    image = image.flatten()
    m = [image[math.floor(j * len(image) / units)] for j in range(units)]
    bias = max(m) - margin
    return np.array([1 / (1 + math.exp(min(700.0, -sharpness * (each - bias)))) for each in m])
