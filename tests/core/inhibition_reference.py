"""Counter-current inhibition straight from its equations, cell by cell and sample by sample."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass
class Area:
    """One area: synapses, a norm over the batch or none, and the cells' activation ("relu", "tanh" or "k_winners")."""

    weight: Array
    bias: Array
    activation: str
    normalised: bool = False
    share: float = 1.0
    eps: float = 1e-5


def respond(area: Area, pre: Array) -> tuple[Array, Array, Array, Array]:
    """The rates, their slope at each cell's drive, the normalised drives and the scale of the norm."""
    drive = pre @ area.weight.T + area.bias
    scale = np.ones(drive.shape[1])
    if area.normalised:
        scale = 1 / np.sqrt(drive.var(0) + area.eps)
        drive = (drive - drive.mean(0)) * scale
    rate, slope = np.zeros_like(drive), np.zeros_like(drive)
    for sample, row in enumerate(drive):
        winners = max(1, math.floor(area.share * len(row) + 0.5))
        least = sorted(row)[-winners]
        for cell, a in enumerate(row):
            if area.activation == "tanh":
                rate[sample, cell], slope[sample, cell] = math.tanh(a), 1 - math.tanh(a) ** 2
            elif a > 0 and (area.activation == "relu" or a >= least):
                rate[sample, cell], slope[sample, cell] = a, 1.0
    return rate, slope, drive, scale


def inhibited(mismatch: float, rate: float, gain: float, tonic: float) -> tuple[float, float]:
    """The activity that inhibition leaves, and what it takes away over the gain."""
    inhibition = max(0.0, tonic + mismatch)  # I = [I0 + m]_+
    left = max(0.0, rate - gain * (inhibition - tonic))  # r~ = [r - g n]_+
    return left, (rate - left) / gain


def updates(
    areas: list[Area], readout: tuple[Array, Array], feedback: list[Array], x: Array, gain: float, tonic: float
) -> list[tuple[Array, Array]]:
    """The mean over samples of -dW / eta and -db / eta of every area, and of the read-out last.

    The loss is half the squared distance of output and input. `feedback` has C for every layer but the lowest, of the
    shape of the weights.
    """
    rates, slopes, drives, scales = [x], [], [], []
    for area in areas:
        rate, slope, drive, scale = respond(area, rates[-1])
        rates.append(rate)
        slopes.append(slope)
        drives.append(drive)
        scales.append(scale)
    signal = rates[-1] @ readout[0].T + readout[1] - x
    found = [(signal.T @ rates[-1] / len(x), signal.mean(0))]
    for place in reversed(range(len(areas))):
        mismatch = signal @ feedback[place]
        signal = np.zeros_like(mismatch)
        floor = -1.0 if areas[place].activation == "tanh" else 0.0
        for sample, cell in np.ndindex(*mismatch.shape):
            fires = rates[place + 1][sample, cell] - floor
            left, taken = inhibited(mismatch[sample, cell], fires, gain, tonic)
            assert left >= 0
            signal[sample, cell] = slopes[place][sample, cell] * taken
        if areas[place].normalised:
            hat = drives[place]
            signal = scales[place] * (signal - signal.mean(0) - hat * (signal * hat).mean(0))
        found.insert(0, (signal.T @ rates[place] / len(x), signal.mean(0)))
    return found
