"""Statements about a measurement, alone or beside another: an error, a level, nearness, distance, epochs."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from apical.papers.measurement import Measurement
from apical.statistics import Spread, paired

# True: it holds. False: it does not. None: the measurement cannot decide.
Judgement = tuple[bool | None, str]


class Expectation(ABC):
    """What a claim says of an accuracy.

    Attributes:
        control: whether it is a level of our own or a measurement to compare with, not a claim of a paper.
    """

    control: ClassVar[bool] = False

    @property
    @abstractmethod
    def text(self) -> str:
        """In a few words."""

    @property
    def compared_with(self) -> str | None:
        """The name of another claim whose measurement is needed, if there is one."""
        return None

    def value(self, measured: Measurement) -> float:
        """The measured quantity that the claim speaks of: accuracy, unless it says otherwise."""
        return measured.mean

    def settle(self) -> tuple[bool, str] | None:
        """What `judge` returns, where that takes no measurement; None where it takes one."""
        return None

    @abstractmethod
    def judge(self, measured: Measurement, reference: Measurement | None) -> Judgement:
        """Whether it came out so, and by how much; None where that cannot be decided.

        Args:
            measured: the claim's own measurement.
            reference: that of the claim which `compared_with` names.
        """


class RelativeExpectation(Expectation):
    """What a claim says of an accuracy beside that of another claim, which has to be measured in the same way.

    Attributes:
        reference: the name of the other claim.
        whose: what it is called in a sentence.
    """

    reference: str
    whose: str

    @property
    def compared_with(self) -> str | None:
        return self.reference

    def judge(self, measured: Measurement, reference: Measurement | None) -> Judgement:
        if reference is None:
            return None, f"{self.whose} is not measured yet"
        if unlike := measured.unlike(reference):
            return None, f"{self.whose} is measured with {unlike}"
        return self.compare(measured, reference)

    @abstractmethod
    def compare(self, measured: Measurement, reference: Measurement) -> Judgement:
        """`judge`, where the other claim was measured with the same epochs, seeds and examples."""


@dataclass(frozen=True)
class Control(Expectation):
    """No claim: a measurement that claims are compared with."""

    control: ClassVar[bool] = True

    @property
    def text(self) -> str:
        return "a control"

    def judge(self, measured: Measurement, reference: Measurement | None) -> Judgement:
        return True, "what claims are compared with"


def _points(difference: float, beside: str) -> str:
    """A difference in percentage points, in words: "0.31 points above backprop"."""
    return f"{abs(difference):.2f} points {'above' if difference >= 0 else 'below'} {beside}"


def _all(found: Iterable[bool | None]) -> bool | None:
    """Whether all of some statements hold: None where one is not decided and none is wrong."""
    known = list(found)
    return False if False in known else None if None in known else True


def _between(difference: Spread, low: float, high: float) -> bool | None:
    """Whether a mean lies between two values: None while its confidence interval crosses one of them."""
    first, last = difference.confidence()
    if low <= first and last <= high:
        return True
    return False if last < low or first > high else None


@dataclass(frozen=True)
class ErrorRate(Expectation):
    """The paper's figure is a test error, of one run.

    It is reproduced when ours lies no further from it than two standard deviations of what one run can be expected to
    show: the chance in which test examples there are, and the spread over our seeds, of which a tenth of the figure (of
    the accuracy, where that is smaller) counts. Where the whole spread is needed to reach the figure, the measurement
    decides nothing.

    Attributes:
        percent: the figure.
    """

    percent: float

    @property
    def text(self) -> str:
        return f"{self.percent:.2f} % test error"

    def value(self, measured: Measurement) -> float:
        """The test error."""
        return 1 - measured.mean

    def judge(self, measured: Measurement, reference: Measurement | None) -> Judgement:
        error = self.percent / 100
        chance = math.sqrt(error * (1 - error) / measured.test_examples)
        spread, most = measured.deviation, min(error, 1 - error) / 10
        allowed = 2 * math.hypot(chance, min(spread, most))
        difference = self.value(measured) - error
        beside = _points(100 * difference, "the paper's error")
        why = f"{beside}; {100 * allowed:.2f} are within the spread"
        if spread > most:
            why += f", of which {100 * most:.2f} of {100 * spread:.2f} points count"
        if abs(difference) <= allowed:
            return True, why
        return None if abs(difference) <= 2 * math.hypot(chance, spread) else False, why


@dataclass(frozen=True)
class AtLeast(Expectation):
    """The mean accuracy reaches a level of our own.

    Attributes:
        percent: the level.
    """

    percent: float
    control: ClassVar[bool] = True

    @property
    def text(self) -> str:
        return f"at least {self.percent:.2f} % accuracy"

    def judge(self, measured: Measurement, reference: Measurement | None) -> Judgement:
        above = 100 * measured.mean - self.percent
        return above >= 0, _points(above, "the level")


@dataclass(frozen=True)
class Within(RelativeExpectation):
    """With the same seeds the mean accuracy is near that of another claim.

    Two networks that have learned nothing are near each other, too, so both have to be above a floor. The confidence
    interval of the difference has to lie within the margin, and so has the spread of the differences.

    Attributes:
        points: the largest difference, in percentage points, either way.
        reference: the name of the other claim.
        whose: what it is called in a sentence.
        floor: the accuracy in percent that both have to exceed; by default twice the chance of ten classes.
    """

    points: float
    reference: str
    whose: str
    floor: float = 20.0

    @property
    def text(self) -> str:
        return f"within {self.points:.2f} points of {self.whose}"

    def compare(self, measured: Measurement, reference: Measurement) -> Judgement:
        difference = paired(measured.percent, reference.percent)
        why = _points(difference.mean, self.whose)
        if 100 * min(measured.mean, reference.mean) <= self.floor:
            return None, f"{why}, and not both are above {self.floor:g} %"
        if (difference.deviation or 0.0) >= self.points:
            return None, f"{why}, and the spread of the difference, {difference.deviation:.2f}, is as wide"
        return _between(difference, -self.points, self.points), f"{why} ({_interval(difference)})"


def _interval(difference: Spread) -> str:
    low, high = difference.confidence()
    return f"95 %: {low:+.2f} to {high:+.2f}" if math.isfinite(low) else "one seed"


@dataclass(frozen=True)
class Behind(RelativeExpectation):
    """With the same seeds the mean accuracy is far below that of another claim: this is how not to do it.

    Attributes:
        points: by how many percentage points at least.
        reference: the name of the other claim.
        whose: what it is called in a sentence.
    """

    points: float
    reference: str
    whose: str

    @property
    def text(self) -> str:
        return f"at least {self.points:.2f} points below {self.whose}"

    def compare(self, measured: Measurement, reference: Measurement) -> Judgement:
        difference = paired(measured.percent, reference.percent)
        why = f"{_points(difference.mean, self.whose)} ({_interval(difference)})"
        return _between(difference, -math.inf, -self.points), why


@dataclass(frozen=True)
class Ahead(RelativeExpectation):
    """With the same seeds the accuracy is above that of another claim, and the confidence interval of the gain above 0.

    Attributes:
        reference: the name of the other claim.
        whose: what it is called in a sentence.
    """

    reference: str
    whose: str

    @property
    def text(self) -> str:
        return f"above {self.whose}"

    def compare(self, measured: Measurement, reference: Measurement) -> Judgement:
        gain = paired(measured.percent, reference.percent)
        shown = f"{gain.mean:+.2f} points beside {self.whose}, seed by seed ({_interval(gain)})"
        if gain.mean == gain.deviation == 0:
            return False, shown
        low, high = gain.confidence()
        return True if low > 0 else False if high < 0 else None, shown


@dataclass(frozen=True)
class Slower(RelativeExpectation):
    """A level of validation accuracy is reached after so many times the epochs that another claim takes.

    Attributes:
        percent: the level.
        least: the smallest ratio.
        most: the largest.
        reference: the name of the other claim.
        whose: what it is called in a sentence.
    """

    percent: float
    least: float
    most: float
    reference: str
    whose: str

    @property
    def text(self) -> str:
        return f"{self.percent:g} % after {self.least:g} to {self.most:g} times the epochs of {self.whose}"

    def compare(self, measured: Measurement, reference: Measurement) -> Judgement:
        own, others = (of.epochs_to(self.percent / 100) for of in (measured, reference))
        if not _all_known(others):
            return None, f"{self.whose} does not get there with every seed"
        if not _all_known(own):
            return False, "it does not get there with every seed"
        ratio = Spread(tuple(a / b for a, b in zip(_known(own), _known(others), strict=True)))
        means = Spread(_known(own)).mean, Spread(_known(others)).mean
        return _between(ratio, self.least, self.most), (
            f"{round(means[0], 1):g} epochs, {ratio.mean:.2g} times the {round(means[1], 1):g} of {self.whose}"
        )


def _known(epochs: Sequence[float | None]) -> tuple[float, ...]:
    return tuple(epoch for epoch in epochs if epoch is not None)


def _all_known(epochs: Sequence[float | None]) -> bool:
    return bool(epochs) and None not in epochs


@dataclass(frozen=True)
class Both(Expectation):
    """Two statements beside the same other claim, of which both have to hold.

    Attributes:
        first: a statement.
        second: another, beside the same claim.
    """

    first: RelativeExpectation
    second: RelativeExpectation

    @property
    def text(self) -> str:
        return f"{self.first.text}, and {self.second.text}"

    @property
    def compared_with(self) -> str | None:
        return self.first.compared_with

    def judge(self, measured: Measurement, reference: Measurement | None) -> Judgement:
        halves = [half.judge(measured, reference) for half in (self.first, self.second)]
        return _all(holds for holds, _ in halves), "; ".join(dict.fromkeys(why for _, why in halves))


@dataclass(frozen=True)
class Sooner(RelativeExpectation):
    """The validation error comes to stay below each of some levels in fewer epochs than with another claim.

    A level that neither stays below counts for nothing.

    Attributes:
        levels: of the error, in percent.
        reference: the name of the other claim.
        whose: what it is called in a sentence.
    """

    levels: tuple[float, ...]
    reference: str
    whose: str

    @property
    def text(self) -> str:
        return f"fewer epochs than {self.whose} to errors of {', '.join(f'{level:g}' for level in self.levels)} %"

    def compare(self, measured: Measurement, reference: Measurement) -> Judgement:
        pairs = {
            level: (measured.epochs_below(level / 100), reference.epochs_below(level / 100)) for level in self.levels
        }
        found = [_sooner(own, other) for own, other in pairs.values() if _all_known(own) or _all_known(other)]
        shown = [
            f"{level:g} % "
            + " against ".join(f"{Spread(_known(of)).mean:.2g}" if _all_known(of) else "never" for of in pair)
            for level, pair in pairs.items()
        ]
        return bool(found) and _all(found), f"epochs to stay below, beside {self.whose}: {', '.join(shown)}"


def _sooner(own: Sequence[float | None], other: Sequence[float | None]) -> bool | None:
    """Whether a level was reached in fewer epochs, with every seed."""
    if not _all_known(own):
        return False
    if not _all_known(other):
        return True
    low, high = paired(_known(own), _known(other)).confidence()
    return True if high < 0 else False if low >= 0 else None


@dataclass(frozen=True)
class Counted(Expectation):
    """A ratio of operations, which is counted and takes no measurement.

    Attributes:
        claimed: the paper's ratio.
        counted: ours.
        beside: what the operations are compared with.
    """

    claimed: float
    counted: float
    beside: str

    @property
    def text(self) -> str:
        return f"{self.claimed:.2f} times the operations of {self.beside}"

    def settle(self) -> tuple[bool, str]:
        return math.isclose(self.claimed, self.counted, rel_tol=0.01), f"counted: {self.counted:.3f} times"

    def judge(self, measured: Measurement, reference: Measurement | None) -> Judgement:
        return self.settle()
