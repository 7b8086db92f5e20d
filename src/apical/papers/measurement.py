"""What was measured for a claim, as measured.json keeps it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from apical.statistics import Spread

EXAMPLES = ("task", "validation", "examples", "test")  # settings that decide which examples are learned and tested


def settings_of(recipe: Sequence[str]) -> dict[str, str]:
    """Settings, written as KEY=VALUE, by name; the last one of a name counts."""
    return dict(setting.split("=", 1) for setting in recipe)


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


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
        stale: why today's code gives other figures for the same seeds, where that is known.
        trace: digest of the code that measured, as `apical.papers.traces` has it; empty where it was not recorded.
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
    trace: str = ""

    @property
    def mean(self) -> float:
        """Accuracy, over the seeds."""
        return Spread(self.accuracies).mean

    @property
    def percent(self) -> tuple[float, ...]:
        """The accuracies in percent."""
        return tuple(100 * accuracy for accuracy in self.accuracies)

    @property
    def deviation(self) -> float:
        """Sample standard deviation over the seeds; 0 for one."""
        return Spread(self.accuracies).deviation or 0.0

    def unlike(self, other: "Measurement") -> str:
        """In which of epochs, seeds and examples another measurement differs; empty where it does not."""
        kinds = settings_of(self.recipe), settings_of(other.recipe)
        pairs = {
            "epochs": (self.epochs, other.epochs),
            "seeds": (self.seeds, other.seeds),
            "test examples": (self.test_examples, other.test_examples),
            **{key: (kinds[0].get(key), kinds[1].get(key)) for key in EXAMPLES if all(kinds)},
        }
        apart = [f"{key} {_shown(theirs)}, not {_shown(own)}" for key, (own, theirs) in pairs.items() if own != theirs]
        return "; ".join(apart)

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

    def epochs_to(self, accuracy: float) -> tuple[float | None, ...]:
        """Epochs until the validation part was first answered so well, of each seed; None where it never was."""
        return tuple(next((n for n, value in enumerate(own, 1) if value >= accuracy), None) for own in self.courses)

    def epochs_below(self, error: float) -> tuple[float | None, ...]:
        """The first epoch from which on the validation error stays below a level, of each seed.

        None where it is not below at the end of the seed's course.
        """
        last = [max((n for n, value in enumerate(own, 1) if value <= 1 - error), default=0) for own in self.courses]
        return tuple(n + 1 if n < len(own) else None for n, own in zip(last, self.courses, strict=True))
