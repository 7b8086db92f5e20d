"""Summaries of repeated measurements: mean and spread, paired differences, intervals, quartiles."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


def student(freedom: float, level: float = 0.95) -> float:
    """How many standard errors a two-sided interval of Student's t reaches; the normal one's for infinite freedom."""
    from scipy.special import stdtrit  # takes a tenth of a second to import

    return float(stdtrit(freedom, (1 + level) / 2))


def number(value: Any) -> float | None:
    """`value` as a finite float; None where it is missing, not a number, NaN or infinite."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


@dataclass(frozen=True)
class Spread:
    """The values of one quantity over repetitions (seeds, turns): at least one, all finite."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[Any]) -> Spread | None:
        """The finite numbers among `values`; None where there are none."""
        finite = tuple(x for x in map(number, values) if x is not None)
        return cls(finite) if finite else None

    @property
    def n(self) -> int:
        """The number of values."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """The arithmetic mean."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation (n - 1 in the denominator); None for a single value."""
        return statistics.stdev(self.values) if self.n > 1 else None

    @property
    def standard_error(self) -> float:
        """The standard error of the mean, deviation / sqrt(n); infinite for a single value."""
        return math.inf if self.deviation is None else self.deviation / math.sqrt(self.n)

    def confidence(self) -> tuple[float, float]:
        """Student's 95 % interval of the mean, which allows for few values; infinite for a single one."""
        if self.n == 1:
            return -math.inf, math.inf
        reach = student(self.n - 1) * self.standard_error
        return self.mean - reach, self.mean + reach

    def interval(self, level: float = 0.95, *, draws: int = 10_000, seed: int = 0) -> tuple[float, float]:
        """The percentile bootstrap interval of the mean: the same at every call, for one seed.

        Args:
            level: the probability that the interval holds, above 0 and below 1.
            draws: resamples of the values, with replacement.
            seed: of the resamples.
        """
        chosen = np.random.default_rng(seed).integers(self.n, size=(draws, self.n))
        tail = (1 - level) / 2
        low, high = np.quantile(np.asarray(self.values)[chosen].mean(axis=1), [tail, 1 - tail])
        return float(low), float(high)

    def text(self, decimals: int, *, unit: str = "", factor: float = 1.0) -> str:
        """The mean and, for two values or more, the deviation: "97.1 ± 0.3 %"."""
        mean = f"{self.mean * factor:.{decimals}f}"
        if self.deviation is not None:
            mean += f" ± {self.deviation * factor:.{decimals}f}"
        return mean + unit


def paired(own: Sequence[float], other: Sequence[float]) -> Spread:
    """The differences `own - other`, pair by pair: of the same seeds, in the same order."""
    return Spread(tuple(a - b for a, b in zip(own, other, strict=True)))


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The first quartile, the median and the third quartile; all three are the value where there is only one."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4)
    return low, middle, high
