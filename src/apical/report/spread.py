"""A number measured over several seeds: its mean, its spread, and every value behind them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


def number(value: Any) -> float | None:
    """`value` as a finite float; None where it is missing, not a number, NaN or infinite."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


@dataclass(frozen=True)
class Spread:
    """The values of one quantity over seeds, at least one, all finite."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[Any]) -> Spread | None:
        """The finite ones among `values`; None where there is none."""
        finite = tuple(x for x in map(number, values) if x is not None)
        return cls(finite) if finite else None

    @property
    def n(self) -> int:
        """How many seeds."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """The arithmetic mean."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation (n - 1 in the denominator); None for a single seed."""
        return statistics.stdev(self.values) if self.n > 1 else None

    def text(self, decimals: int, *, unit: str = "", factor: float = 1.0) -> str:
        """The mean and, over two seeds or more, the deviation: "97.1 ± 0.3 %"."""
        mean = f"{self.mean * factor:.{decimals}f}"
        if self.deviation is not None:
            mean += f" ± {self.deviation * factor:.{decimals}f}"
        return mean + unit


@dataclass(frozen=True)
class Curve:
    """A quantity through training: `points[i]` is its spread over the runs that recorded `epochs[i]`."""

    epochs: tuple[int, ...]
    points: tuple[Spread, ...]

    @classmethod
    def of(cls, records: Iterable[tuple[int, Any]]) -> Curve | None:
        """From (epoch, value) pairs of all runs; None where no value is finite."""
        by_epoch: dict[int, list[float]] = {}
        for epoch, value in records:
            finite = number(value)
            if finite is not None:
                by_epoch.setdefault(epoch, []).append(finite)
        epochs = tuple(sorted(by_epoch))
        return cls(epochs, tuple(Spread(tuple(by_epoch[e])) for e in epochs)) if epochs else None
