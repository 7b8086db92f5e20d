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
        cuts: accuracy of each seed, for each of some ways to cut the test set into batches; empty where there is one.
        task_epochs: epochs that a task of a stream took, mean over tasks, of each seed; empty without a stream.
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
    cuts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    task_epochs: tuple[float, ...] = ()
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

    @property
    def tested(self) -> str:
        """Accuracy for each way to cut the test set, over the seeds."""
        if len(set(self.cuts.values())) == 1:
            return "the same in every cut"
        return ", ".join(f"{cut} {Spread(values).text(1, factor=100)} %" for cut, values in self.cuts.items())

    def epochs_to(self, accuracy: float) -> float | None:
        """Epochs until the validation part was first answered so well, mean over seeds; None where one never did."""
        firsts = [next((n for n, value in enumerate(course, 1) if value >= accuracy), None) for course in self.courses]
        reached = Spread.of(firsts)
        return reached.mean if reached is not None and reached.n == len(firsts) else None

    def epochs_below(self, error: float) -> float | None:
        """The first epoch from which on the validation error stays below a level, mean over seeds.

        None where it is not below at the end of a seed's course.
        """
        above = [[n for n, value in enumerate(course, 1) if value <= 1 - error] for course in self.courses]
        firsts = [epochs[-1] + 1 if epochs else 1 for epochs in above]
        settled = all(first <= len(course) for first, course in zip(firsts, self.courses, strict=True))
        return Spread(tuple(map(float, firsts))).mean if firsts and settled else None
