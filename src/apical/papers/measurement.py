"""What was measured for a claim, as measured.json keeps it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from apical.statistics import Spread


@dataclass(frozen=True)
class Measurement:
    """What was measured for a claim.

    Attributes:
        accuracies: on the test set, at the end, of each seed.
        seeds: the seeds.
        epochs: of training.
        test_examples: how many were tested.
        date: when, as YYYY-MM-DD.
        command: that measures it again.
        environment: versions and processor.
        recipe: what it was measured with, as `Claim.recipe` was then; empty where it was not recorded.
        angles: degrees between update and gradient at the end of training, by layer, mean over seeds; empty where they
            were not measured.
        stale: why today's code gives other figures for the same seeds; empty where it gives the same.
        courses: accuracy on the validation part after every epoch, of each seed; empty where there is no such part.
    """

    accuracies: tuple[float, ...]
    seeds: tuple[int, ...]
    epochs: int
    test_examples: int
    date: str
    command: str
    environment: Mapping[str, Any] = field(default_factory=dict)
    recipe: tuple[str, ...] = ()
    courses: tuple[tuple[float, ...], ...] = ()
    angles: Mapping[str, float] = field(default_factory=dict)
    stale: str = ""

    @property
    def mean(self) -> float:
        """Accuracy, over the seeds."""
        return Spread(self.accuracies).mean

    @property
    def deviation(self) -> float:
        """Sample standard deviation over the seeds; 0 for one."""
        return Spread(self.accuracies).deviation or 0.0

    @property
    def cosines(self) -> str:
        """Those of the angles, the first layer first."""
        return ", ".join(f"{math.cos(math.radians(angle)):.3f}" for angle in self.angles.values())

    def epochs_to(self, accuracy: float) -> float | None:
        """Epochs until the validation part was first answered so well, mean over seeds; None where one never did."""
        firsts = [next((n for n, value in enumerate(course, 1) if value >= accuracy), None) for course in self.courses]
        reached = Spread.of(firsts)
        return reached.mean if reached is not None and reached.n == len(firsts) else None
