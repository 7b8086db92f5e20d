"""A quantity through training, over several seeds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from apical.statistics import Spread, number


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
