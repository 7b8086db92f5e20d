"""Standardisation: the statistics of a training part, and their use on any other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from apical.errors import DataError

_EXAMPLES_AT_A_TIME = 1024  # keeps the squares of 8-bit pixels in the processor's cache


@dataclass(frozen=True, eq=False)
class Scaling:
    """Standardisation `(value - mean) / std`, with statistics that were fitted to one array.

    Attributes:
        mean: float64, broadcasts against one example: (channels, 1, 1) for pictures, (features,) for rows.
        std: standard deviation (divisor n), of the same shape; 1 where the values do not vary.
    """

    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]

    @classmethod
    def fit(cls, x: npt.NDArray[Any], *, what: str) -> Scaling:
        """The statistics of `x`, (n, channels or features, ...): one for each index of axis 1.

        Rows of 8-bit values, (n, features) of uint8, are flattened pictures and get a single one. The sums
        over 8-bit values are exact, so their statistics are the same to the last bit everywhere.

        Args:
            x: at least one example of finite real numbers.
            what: what to call `x` in a message.

        Raises:
            DataError: the values are too large for their variance to be a number.
        """
        flattened = x.ndim == 2 and x.dtype == np.uint8
        axes = tuple(axis for axis in range(x.ndim) if flattened or axis != 1)
        if x.dtype == np.uint8:
            mean, variance = _pixel_moments(x, axes)
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                mean = x.mean(axis=axes, dtype=np.float64, keepdims=True)
                variance = x.var(axis=axes, dtype=np.float64, keepdims=True)
        if not np.isfinite(variance).all():
            raise DataError(f"{what}: values up to {np.abs(x).max():.3g} have no finite variance. Rescale them.")
        std = np.sqrt(variance)
        # A constant keeps a deviation of rounding errors, which would blow it up instead of giving zero.
        constant = std <= 1e-12 * np.abs(mean)
        return cls(mean[0], np.where(constant, 1.0, std)[0])

    def apply(self, x: npt.NDArray[Any], *, what: str) -> Tensor:
        """The standardised copy of `x`, (n, ...), as a float32 tensor.

        Raises:
            DataError: `x` does not fit these statistics, or a value is out of float32's range afterwards;
                the message calls `x` by the name `what`.
        """
        self._check_fits(x.shape[1:], what)
        precision = np.result_type(x.dtype, np.float32)  # float64 input is centred before it is rounded
        scaled = x.astype(precision, order="C")
        with np.errstate(over="ignore"):
            scaled -= self.mean.astype(precision)
            scaled /= self.std.astype(precision)
            scaled = scaled.astype(np.float32, copy=False)
        if x.dtype.kind == "f" and not np.isfinite(scaled).all():
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(scaled))[0])
            raise DataError(
                f"{what}: the value {x[index]} at {index} lies so far from the training data that float32 "
                "cannot hold it once standardised. Correct it or leave that example out."
            )
        return torch.from_numpy(scaled)

    def _check_fits(self, shape: tuple[int, ...], what: str) -> None:
        try:
            fits = np.broadcast_shapes(self.mean.shape, shape) == shape
        except ValueError:
            fits = False
        if not fits:
            raise DataError(
                f"{what}: an example has the shape {shape}, which does not fit the statistics of the "
                f"training data, {self.mean.shape}. Bring it to the shape of the training examples."
            )


def _pixel_moments(
    x: npt.NDArray[np.uint8], axes: tuple[int, ...]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and variance of 8-bit values from exact integer sums."""
    total = x.sum(axis=axes, dtype=np.uint64, keepdims=True)
    squares = np.zeros_like(total)
    for start in range(0, len(x), _EXAMPLES_AT_A_TIME):
        part = np.square(x[start : start + _EXAMPLES_AT_A_TIME], dtype=np.uint32)
        squares += part.sum(axis=axes, dtype=np.uint64, keepdims=True)
    count = x.size // total.size
    mean = total / count
    return mean, np.maximum(squares / count - mean**2, 0.0)
