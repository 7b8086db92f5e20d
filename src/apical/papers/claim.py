"""What a claim is: what a paper says, how it is measured again, what was measured, and what follows.

paper ── protocol ── claim ── expectation          written down by hand, one paper a file
                       │
                       └── measurement             measured.json, written by `apical reproduce NAME --record`
                                │
                             verdict               worked out from both, whenever somebody asks
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from apical.statistics import Spread, paired

Outcome = Literal["reproduced", "not reproduced", "out of reach", "not measured"]


@dataclass(frozen=True)
class Paper:
    """Where a claim was made.

    Attributes:
        key: its short name.
        title: its title.
        authors: as one cites them.
        year: of its publication.
        link: where to read it.
    """

    key: str
    title: str
    authors: str
    year: int
    link: str

    @property
    def citation(self) -> str:
        """Authors, year and title."""
        return f"{self.authors} ({self.year}). {self.title}."


@dataclass(frozen=True)
class Online:
    """Learning from a few examples that are each seen once, as `apical.papers.few_examples` measures it.

    Attributes:
        task: whose images.
        inputs: "standardised" or "raw".
        hidden: units of the network.
        examples: of each class.
    """

    task: str
    inputs: str
    hidden: int
    examples: int


@dataclass(frozen=True)
class Protocol:
    """How the claims of one table or figure are measured.

    Attributes:
        name: of all of them together.
        paper: that made them.
        where: the table or figure.
        theirs: the paper's protocol, a sentence or more.
        departures: where ours is another, a sentence each.
        settings: of `apical.study.Config`, as KEY=VALUE; `model=networks.py:NAME` is a network of the file beside this.
        epochs: of training.
        seeds: how many.
        online: what is measured in place of training by a rule: optimizers, which the claims then name as their rule.
    """

    name: str
    paper: Paper
    where: str
    theirs: str
    departures: tuple[str, ...]
    settings: tuple[str, ...]
    epochs: int
    seeds: int
    online: Online | None = None

    def claim(self, row: str, rule: str, says: "Expectation", rate: float, *settings: str) -> "Claim":
        """A claim measured in this way, by a learning rate and more settings of its own.

        Its name is the protocol's and the row's, in lower case with hyphens.
        """
        name = f"{self.name}-{row.lower().replace(' ', '-')}"
        return Claim(name, self, row, rule, says, (f"optimizer.lr={rate}", *settings))


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
        recipe: what it was measured with, as `Claim.recipe` was then; empty where nobody wrote it down.
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

    @property
    def mean(self) -> float:
        """Accuracy, over the seeds."""
        return Spread(self.accuracies).mean

    @property
    def deviation(self) -> float:
        """Sample standard deviation over the seeds; 0 for one."""
        return Spread(self.accuracies).deviation or 0.0

    def epochs_to(self, accuracy: float) -> float | None:
        """Epochs until the validation part was first answered so well, mean over seeds; None where one never did."""
        firsts = [next((n for n, value in enumerate(course, 1) if value >= accuracy), None) for course in self.courses]
        reached = Spread.of(firsts)
        return reached.mean if reached is not None and reached.n == len(firsts) else None


@dataclass(frozen=True)
class Verdict:
    """What follows.

    Attributes:
        outcome: the verdict.
        why: a sentence.
    """

    outcome: Outcome
    why: str


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

    @abstractmethod
    def judge(self, measured: Measurement, reference: Measurement | None) -> tuple[bool, str]:
        """Whether it came out so, and by how much.

        Args:
            measured: the claim's own measurement.
            reference: that of the claim which `compared_with` names.
        """


class Comparison(Expectation):
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
        side = "above" if difference > 0 else "below"
        return abs(difference) <= allowed, (
            f"{100 * abs(difference):.2f} points {side} the paper's error; {100 * allowed:.2f} are within the spread"
        )


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
        return above >= 0, f"{abs(above):.2f} points {'above' if above >= 0 else 'below'} the level"


@dataclass(frozen=True)
class Within(Comparison):
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

    def judge(self, measured: Measurement, reference: Measurement | None) -> tuple[bool, str]:
        if reference is None:
            return False, f"{self.whose} is not measured yet"
        difference = 100 * (measured.mean - reference.mean)
        side = "above" if difference > 0 else "below"
        return abs(difference) <= self.points, f"{abs(difference):.2f} points {side} {self.whose}"


@dataclass(frozen=True)
class Behind(Comparison):
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

    def judge(self, measured: Measurement, reference: Measurement | None) -> tuple[bool, str]:
        if reference is None:
            return False, f"{self.whose} is not measured yet"
        behind = 100 * (reference.mean - measured.mean)
        return behind >= self.points, f"{abs(behind):.2f} points {'below' if behind >= 0 else 'above'} {self.whose}"


@dataclass(frozen=True)
class Ahead(Comparison):
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

    def judge(self, measured: Measurement, reference: Measurement | None) -> tuple[bool, str]:
        if reference is None or reference.seeds != measured.seeds:
            return False, f"{self.whose} is not measured yet with these seeds"
        gain = paired(measured.accuracies, reference.accuracies)
        shown = f"{100 * gain.mean:+.2f} ± {100 * gain.standard_error:.2f} points beside {self.whose}, seed by seed"
        return gain.mean > 2 * gain.standard_error, shown


@dataclass(frozen=True)
class Slower(Comparison):
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

    def judge(self, measured: Measurement, reference: Measurement | None) -> tuple[bool, str]:
        if reference is None:
            return False, f"{self.whose} is not measured yet"
        own, others = (of.epochs_to(self.percent / 100) for of in (measured, reference))
        if own is None or others is None:
            return False, f"{self.whose if others is None else 'it'} does not get there with every seed"
        return self.least <= own / others <= self.most, (
            f"{round(own, 1):g} epochs, {own / others:.2g} times the {round(others, 1):g} of {self.whose}"
        )


@dataclass(frozen=True)
class Claim:
    """One figure of a paper, or one level to be reached.

    Attributes:
        name: on the command line.
        protocol: how it is measured.
        row: which row of the table, or which rule of the figure.
        rule: as it is written for `apical train --rule`.
        says: what should come out.
        settings: where it departs from the protocol's settings.
        out_of_reach: why it cannot be measured here; empty when it can.
        remark: what we think of a verdict, where it needs a word.
    """

    name: str
    protocol: Protocol
    row: str
    rule: str
    says: Expectation
    settings: tuple[str, ...] = ()
    out_of_reach: str = ""
    remark: str = ""

    @property
    def command(self) -> str:
        """What measures it again."""
        return f"apical reproduce {self.name}"

    @property
    def recipe(self) -> tuple[str, ...]:
        """All settings of its runs but the seed, as KEY=VALUE."""
        return (f"rule={self.rule}", *self.protocol.settings, *self.settings)

    def scaled_down(self, measured: Measurement) -> str:
        """In which way a measurement is smaller than the protocol; empty when it is not."""
        smaller = []
        if measured.epochs < self.protocol.epochs:
            smaller.append(f"{measured.epochs} of {self.protocol.epochs} epochs")
        if len(measured.seeds) < self.protocol.seeds:
            smaller.append(f"{len(measured.seeds)} of {self.protocol.seeds} seeds")
        return ", ".join(smaller)

    def verdict(self, measured: Measurement | None, reference: Measurement | None = None) -> Verdict:
        """What follows from a measurement.

        Args:
            measured: of this claim, if there is one.
            reference: of the claim that `says.compared_with` names, if there is one.
        """
        if measured is None:
            if self.out_of_reach:
                return Verdict("out of reach", self.out_of_reach)
            return Verdict("not measured", f"{self.command} --record measures it")
        if measured.recipe and measured.recipe != self.recipe:
            return Verdict(
                "not measured",
                f"its settings have changed since it was measured ({measured.date}); {self.command} --record does it",
            )
        holds, why = self.says.judge(measured, reference)
        smaller = self.scaled_down(measured)
        if smaller:
            why += f"; scaled down to {smaller}"
        if self.remark:
            why += f". {self.remark}"
        return Verdict("reproduced" if holds else "not reproduced", why)
