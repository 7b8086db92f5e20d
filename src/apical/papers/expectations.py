"""What a claim may say of an accuracy, alone or beside another claim."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from apical.papers.measurement import Measurement
from apical.statistics import paired


class Expectation(ABC):
    """What a claim says of an accuracy."""

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
    def judge(self, measured: Measurement, reference: Measurement | None) -> tuple[bool, str]:
        """Whether it came out so, and by how much.

        Args:
            measured: the claim's own measurement.
            reference: that of the claim which `compared_with` names.
        """


class RelativeExpectation(Expectation):
    """What a claim says of an accuracy beside that of another claim.

    Attributes:
        reference: the name of the other claim.
        whose: what it is called in a sentence.
    """

    reference: str
    whose: str

    @property
    def compared_with(self) -> str | None:
        return self.reference

    def judge(self, measured: Measurement, reference: Measurement | None) -> tuple[bool, str]:
        if reference is None:
            return False, f"{self.whose} is not measured yet"
        return self.compare(measured, reference)

    @abstractmethod
    def compare(self, measured: Measurement, reference: Measurement) -> tuple[bool, str]:
        """`judge`, where the other claim was measured."""


@dataclass(frozen=True)
class Control(Expectation):
    """No claim: a measurement that claims are compared with."""

    @property
    def text(self) -> str:
        return "a control"

    def judge(self, measured: Measurement, reference: Measurement | None) -> tuple[bool, str]:
        return True, "what claims are compared with"


def _points(difference: float, beside: str) -> str:
    """A difference in percentage points, in words: "0.31 points above backprop"."""
    return f"{abs(difference):.2f} points {'above' if difference >= 0 else 'below'} {beside}"


@dataclass(frozen=True)
class ErrorRate(Expectation):
    """The paper's figure is a test error, of one run.

    It is reproduced when ours lies no further from it than two standard deviations of what one run can be expected to
    show: the spread over our seeds, and the chance in which test examples there are.

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

    def judge(self, measured: Measurement, reference: Measurement | None) -> tuple[bool, str]:
        error = self.percent / 100
        chance = math.sqrt(error * (1 - error) / measured.test_examples)
        allowed = 2 * math.hypot(chance, measured.deviation)
        difference = self.value(measured) - error
        beside = _points(100 * difference, "the paper's error")
        return abs(difference) <= allowed, f"{beside}; {100 * allowed:.2f} are within the spread"


@dataclass(frozen=True)
class AtLeast(Expectation):
    """The mean accuracy reaches a level.

    Attributes:
        percent: the level.
    """

    percent: float

    @property
    def text(self) -> str:
        return f"at least {self.percent:.2f} % accuracy"

    def judge(self, measured: Measurement, reference: Measurement | None) -> tuple[bool, str]:
        above = 100 * measured.mean - self.percent
        return above >= 0, _points(above, "the level")


@dataclass(frozen=True)
class Within(RelativeExpectation):
    """The mean accuracy is near that of another claim.

    Attributes:
        points: the largest difference, in percentage points, either way.
        reference: the name of the other claim.
        whose: what it is called in a sentence.
    """

    points: float
    reference: str
    whose: str

    @property
    def text(self) -> str:
        return f"within {self.points:.2f} points of {self.whose}"

    def compare(self, measured: Measurement, reference: Measurement) -> tuple[bool, str]:
        difference = 100 * (measured.mean - reference.mean)
        return abs(difference) <= self.points, _points(difference, self.whose)


@dataclass(frozen=True)
class Behind(RelativeExpectation):
    """The mean accuracy is far below that of another claim: this is how not to do it.

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

    def compare(self, measured: Measurement, reference: Measurement) -> tuple[bool, str]:
        difference = 100 * (measured.mean - reference.mean)
        return difference <= -self.points, _points(difference, self.whose)


@dataclass(frozen=True)
class Ahead(RelativeExpectation):
    """With the same seeds the accuracy is above that of another claim, by more than two standard errors of the mean.

    Attributes:
        reference: the name of the other claim.
        whose: what it is called in a sentence.
    """

    reference: str
    whose: str

    @property
    def text(self) -> str:
        return f"above {self.whose}"

    def compare(self, measured: Measurement, reference: Measurement) -> tuple[bool, str]:
        if reference.seeds != measured.seeds:
            return False, f"{self.whose} is not measured yet with these seeds"
        gain = paired(measured.accuracies, reference.accuracies)
        shown = f"{100 * gain.mean:+.2f} ± {100 * gain.standard_error:.2f} points beside {self.whose}, seed by seed"
        low, high = (100 * end for end in gain.interval())
        shown += f" (95 % of resamples: {low:+.2f} to {high:+.2f})"
        return gain.mean > 2 * gain.standard_error, shown


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

    def compare(self, measured: Measurement, reference: Measurement) -> tuple[bool, str]:
        own, others = (of.epochs_to(self.percent / 100) for of in (measured, reference))
        if own is None or others is None:
            return False, f"{self.whose if others is None else 'it'} does not get there with every seed"
        return self.least <= own / others <= self.most, (
            f"{round(own, 1):g} epochs, {own / others:.2g} times the {round(others, 1):g} of {self.whose}"
        )


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

    def compare(self, measured: Measurement, reference: Measurement) -> tuple[bool, str]:
        pairs = {level: [of.epochs_below(level / 100) for of in (measured, reference)] for level in self.levels}
        known = {level: pair for level, pair in pairs.items() if pair != [None, None]}
        holds = all(own is not None and (other is None or own < other) for own, other in known.values())
        shown = [
            f"{level:g} % " + " against ".join("never" if epochs is None else f"{epochs:.2g}" for epochs in pair)
            for level, pair in pairs.items()
        ]
        return bool(known) and holds, f"epochs to stay below, beside {self.whose}: {', '.join(shown)}"


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

    def judge(self, measured: Measurement, reference: Measurement | None) -> tuple[bool, str]:
        return self.settle()
