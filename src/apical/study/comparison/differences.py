"""Differences of two arms, seed by seed: how large, how well known, and whether there is one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from apical.statistics import Spread, student

ROUNDING = 1e-5
"""Losses of a first epoch that differ by less, relatively, are of the same updates up to rounding."""
DRIFT = 0.01
"""How far rounding may have taken the losses of later epochs apart, relatively."""

WIDE = 0.05
"""An interval that holds 0 and reaches further than this is too wide for a tie."""

Verdict = Literal["one seed", "tie", "unclear", "above", "below"]


@dataclass(frozen=True)
class Difference:
    """The accuracy of one arm minus that of another, over the seeds that both have finished.

    The interval of the mean over S seeds has two half-widths that add in squares:

        interval = mean -+ sqrt((t s)^2 / S + (z error_test)^2)

    s is the standard deviation of the difference over seeds, which share initial weights and batches, t Student's
    quantile with S - 1 degrees of freedom, and z the normal one. error_test is the standard error that a test set of n
    examples leaves, from the disagreements of the arms on it where their answers were kept, and otherwise
    sqrt((p (1 - p) + q (1 - q)) / n) for accuracies p and q. Such an interval holds at least as often as it says; a
    bootstrap of three seeds holds four times of five where it says 19 of 20.

    Attributes:
        gains: seed by seed.
        test_error: error_test.
        kept: whether it is from disagreements.
    """

    gains: Spread
    test_error: float
    kept: bool

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return self.gains.mean

    def interval(self, level: float = 0.95) -> tuple[float, float] | None:
        """The interval of the mean; None for a single seed."""
        if self.gains.n < 2:
            return None
        of_seeds = student(self.gains.n - 1, level) * self.gains.standard_error
        reach = math.hypot(of_seeds, student(math.inf, level) * self.test_error)
        return self.mean - reach, self.mean + reach

    @property
    def verdict(self) -> Verdict:
        """Whether there is a difference.

        "above" or "below" where the 95 % interval does not hold 0, else "tie", or "unclear" where it reaches further
        than `WIDE`; "one seed" shows nothing.
        """
        interval = self.interval()
        if interval is None:
            return "one seed"
        low, high = interval
        if low > 0 or high < 0:
            return "above" if low > 0 else "below"
        return "unclear" if max(-low, high) > WIDE else "tie"

    def to_dict(self) -> dict[str, Any]:
        """For JSON: fractions, not points; `bootstrap` is over the seeds alone, and too narrow where they are few."""
        low, high = self.interval() or (None, None)
        return {
            "mean": self.mean,
            "low": low,
            "high": high,
            "bootstrap": None if low is None else list(self.gains.interval()),
            "seeds": self.gains.n,
            "test_error": self.test_error,
            "test_error_from": "disagreements" if self.kept else "accuracies",
            "verdict": self.verdict,
        }


def sameness(
    own: Sequence[Sequence[Mapping[str, Any]]], other: Sequence[Sequence[Mapping[str, Any]]]
) -> Literal["exactly", "to rounding"] | None:
    """Whether runs of two arms were the same training, by the training loss of every epoch.

    Args:
        own: the records of each seed's epochs.
        other: of the same seeds.

    Returns:
        "exactly" where the losses are equal to the last bit; "to rounding" where those of the first epoch differ by
        less than `ROUNDING` and the later ones by less than `DRIFT`; else None.
    """
    if not own or any(len(one) != len(two) or not one for one, two in zip(own, other, strict=True)):
        return None
    exactly = True
    for one, two in zip(own, other, strict=True):
        for epoch, (first, second) in enumerate(zip(one, two, strict=True)):
            a, b = first["train_loss"], second["train_loss"]
            exactly = exactly and a == b
            if abs(a - b) > (DRIFT if epoch else ROUNDING) * abs(b):
                return None
    return "exactly" if exactly else "to rounding"
