"""BrainProp and AGREL straight from their equations, in plain loops over samples, units and synapses.

Notation of the papers: fb is the attentional feedback, z the one-hot winner s, r its reward. What is returned is what a
loss that is a mean over the batch leaves in `.grad`: minus the mean of dW / eta.
"""

from __future__ import annotations

import math

import numpy as np
from reference import FUNCTIONS, Array, answer, matrix_vector

Updates = tuple[list[Array], list[Array]]


def attention(backwards: list[Array], drives: list[Array], winner: int, function: str) -> list[Array]:
    """fb_l of every layer: fb_L = z, fb_l = (V_(l+1) fb_(l+1)) * phi'(a_l), V of the shape of W^T."""
    derivative = FUNCTIONS[function][1]
    found = [np.array([1.0 if unit == winner else 0.0 for unit in range(len(drives[-1]))])]
    for layer in range(len(drives) - 1, 0, -1):
        arriving = matrix_vector(backwards[layer], found[0])
        found.insert(0, np.array([arriving[j] * derivative(a) for j, a in enumerate(drives[layer - 1])]))
    return found


def gated(
    weights: list[Array],
    biases: list[Array],
    backwards: list[Array],
    inputs: Array,
    winners: Array,
    numbers: list[float],
    function: str,
) -> Updates:
    """The mean over samples of - number * fb_l h_(l-1)^T."""
    dW = [np.zeros_like(W) for W in weights]
    db = [np.zeros_like(b) for b in biases]
    for x, winner, number in zip(inputs, winners, numbers, strict=True):
        drives, rates = answer(weights, biases, x, FUNCTIONS[function][0])
        for layer, fb in enumerate(attention(backwards, drives, int(winner), function)):
            for i in range(len(fb)):
                db[layer][i] -= number * fb[i] / len(inputs)
                for j in range(len(rates[layer])):
                    dW[layer][i, j] -= number * fb[i] * rates[layer][j] / len(inputs)
    return dW, db


def reward_prediction_errors(outputs: list[Array], winners: Array, rewards: Array) -> list[float]:
    """BrainProp: delta = r - q_s."""
    return [float(r - q[s]) for q, s, r in zip(outputs, winners, rewards, strict=True)]


def expansive_errors(outputs: list[Array], winners: Array, rewards: Array) -> list[float]:
    """AGREL: delta = 1 - p_s or -1; f(delta) = delta / (1 - delta) or -1."""
    found = []
    for y, s, r in zip(outputs, winners, rewards, strict=True):
        p = math.exp(y[s]) / sum(math.exp(value) for value in y)
        delta = 1 - p if r else -1.0
        found.append(delta / (1 - delta) if delta >= 0 else -1.0)
    return found
