"""Quantities through training, over the seeds of one rule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from apical.statistics import Spread, number
from apical.study.comparison.schema import Arm


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


def _records(arm: Arm) -> Iterator[tuple[int, Mapping[str, Any]]]:
    return ((int(record["epoch"]), record) for run in arm.finished() for record in run.epochs)


def curve(arm: Arm, quantity: str) -> Curve | None:
    """A scalar of the epoch records through training, such as "train_loss"."""
    return Curve.of((epoch, record.get(quantity)) for epoch, record in _records(arm))


def angle_curve(arm: Arm, layer: str) -> Curve | None:
    """Degrees to the true gradient through training."""
    return Curve.of((epoch, (record.get("angles") or {}).get(layer)) for epoch, record in _records(arm))


def quantities(arm: Arm) -> list[str]:
    """The quantities that the rule's signals are made of (event rates, burst rates, ...), as they were recorded."""
    by_layer = (values for _, record in _records(arm) for values in (record.get("carried") or {}).values())
    return list(dict.fromkeys(name for values in by_layer for name in values))


def carried_curve(arm: Arm, quantity: str) -> Curve | None:
    """The mean of one of these quantities through training, over all layers that have it."""
    return Curve.of((epoch, _over_layers(record.get("carried") or {}, quantity)) for epoch, record in _records(arm))


def _over_layers(carried: Mapping[str, Mapping[str, Any]], quantity: str) -> float | None:
    known = Spread.of(values.get(quantity) for values in carried.values())
    return known.mean if known else None
