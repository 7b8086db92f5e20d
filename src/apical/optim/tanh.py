"""tanh in place, in single precision on processors several times as fast as PyTorch's own.

An optimizer that squashes every gradient spends most of its step in tanh. Lambert's continued fraction, cut after its
seventh term, is a quotient of two short polynomials; at half the argument, and doubled by

    tanh(2 y) = 2 tanh(y) / (1 + tanh²(y)),

it is exact to the rounding of single precision everywhere, and relative to tanh itself: tiny ones keep every digit.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

# tanh(y) = y P(y²) / Q(y²), the seventh convergent of y / (1 + y² / (3 + y² / (5 + ...))); lowest power first.
NUMERATOR = (135135.0, 17325.0, 378.0, 1.0)
DENOMINATOR = (135135.0, 62370.0, 3150.0, 28.0)
# From 2 * 4.6 on, tanh is 1 in single precision.
HALF_RANGE = 4.6


def tanh_(value: Tensor, spare: tuple[Tensor, Tensor]) -> None:
    """Replace every entry by its tanh.

    Args:
        value: any shape, device and floating type.
        spare: memory of the same shape, device and type to calculate in.
    """
    if value.dtype != torch.float32 or value.device.type != "cpu":
        value.tanh_()
        return
    square, below = spare
    value.mul_(0.5).clamp_(-HALF_RANGE, HALF_RANGE)
    torch.mul(value, value, out=square)
    value.mul_(_cubic(NUMERATOR, square, below))
    _cubic(DENOMINATOR, square, below)
    # With tanh(y) = n / d: tanh(2 y) = 2 n d / (n² + d²).
    torch.mul(below, below, out=square)
    square.addcmul_(value, value)
    value.mul_(below).mul_(2.0).div_(square)


def _cubic(coefficients: tuple[float, float, float, float], at: Tensor, out: Tensor) -> Tensor:
    """The polynomial's value, by Horner's scheme; one operation for each power."""
    zeroth, first, second = (_constant(number) for number in coefficients[:3])
    torch.add(second, at, alpha=coefficients[3], out=out)
    torch.addcmul(first, out, at, out=out)
    torch.addcmul(zeroth, out, at, out=out)
    return out


@cache
def _constant(number: float) -> Tensor:
    return torch.tensor(number, dtype=torch.float32, device="cpu")
