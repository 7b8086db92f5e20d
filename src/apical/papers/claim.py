"""What a claim is: what a paper says, how it is measured again, what was measured, and what follows.

paper ── protocol ── claim ── expectation          written down by hand, one paper a file
                       │
                       └── measurement             measured.json, written by `apical reproduce NAME --record`
                                │
                             verdict               computed from both, whenever it is read
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from apical.papers.expectations import Control, Expectation
from apical.papers.measurement import Measurement
from apical.statistics import Spread

Outcome = Literal["reproduced", "not reproduced", "inconclusive", "out of reach", "not measured", "control"]
# Which code made a measurement: today's, other code, or code that left no trace; empty without a measurement.
Code = Literal["", "today's", "other", "not known"]
FLAGS: Mapping[Code, str] = {
    "other": "stale: measured by other code",
    "not known": "not known whether today's code gives the same",
}
LEVELS: Mapping[bool | None, str] = {True: "met", False: "missed", None: "undecided"}


@dataclass(frozen=True)
class Paper:
    """Where a claim was made.

    Attributes:
        key: its short name.
        title: its title.
        authors: as one cites them.
        year: of its publication.
        link: where to read it.
        own: whether it stands for levels of our own: controls, not claims.
    """

    key: str
    title: str
    authors: str
    year: int
    link: str
    own: bool = False

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
        one_class: whether the classes are learned one after another, as `apical.papers.one_class` has it: the settings
            are its arguments, and the claims name a teaching signal or a floor as their rule.
        tuned: whether an optimizer is tuned for every rule, as `apical.papers.tuned` has it: the settings are those of
            its jobs, and `method=` of a claim names the optimizer.
        their_epochs: of the paper; 0 where it gives none, or stops on its test set.
        their_seeds: of the paper; 0 where it gives none.
        smaller: where ours is smaller than the paper's in another way: width, examples.
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
    one_class: bool = False
    tuned: bool = False
    their_epochs: int = 0
    their_seeds: int = 0
    smaller: tuple[str, ...] = ()

    def claim(self, row: str, rule: str, says: Expectation, rate: float, *settings: str) -> "Claim":
        """A claim measured in this way, by a learning rate and more settings of its own.

        Its name is the protocol's and the row's, in lower case with hyphens.
        """
        name = f"{self.name}-{row.lower().replace(' ', '-')}"
        return Claim(name, self, row, rule, says, (f"optimizer.lr={rate}", *settings))


@dataclass(frozen=True)
class Verdict:
    """What follows.

    Attributes:
        outcome: the verdict.
        why: a sentence.
        holds: what the measurement alone says of the statement, also where the outcome is "control": True, False, or
            None where it does not decide.
        code: which code measured it.
        level: whether a control reaches its level: "met", "missed" or "undecided"; empty where it has none.
    """

    outcome: Outcome
    why: str
    holds: bool | None = None
    code: Code = ""
    level: str = ""

    @property
    def flag(self) -> str:
        """A remark beside the verdict where today's code did not make the measurement; empty where it did."""
        return FLAGS.get(self.code, "")


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
        own: whether the statement is ours and the paper does not make it: a control.
    """

    name: str
    protocol: Protocol
    row: str
    rule: str
    says: Expectation
    settings: tuple[str, ...] = ()
    out_of_reach: str = ""
    remark: str = ""
    own: bool = False

    @property
    def command(self) -> str:
        """What measures it again."""
        return f"apical reproduce {self.name}"

    @property
    def recipe(self) -> tuple[str, ...]:
        """All settings of its runs but the seed, as KEY=VALUE."""
        return (f"rule={self.rule}", *self.protocol.settings, *self.settings)

    @property
    def control(self) -> bool:
        """Whether it is a level of our own, or a measurement to compare with, and has no verdict."""
        return self.own or self.says.control or self.protocol.paper.own

    def scaled_down(self, measured: Measurement) -> str:
        """In which way a measurement is smaller than the protocol or the paper; empty when it is not."""
        protocol = self.protocol
        epochs, seeds = max(protocol.epochs, protocol.their_epochs), max(protocol.seeds, protocol.their_seeds)
        smaller = [f"{measured.epochs} of {epochs} epochs"] if measured.epochs < epochs else []
        smaller += [f"{len(measured.seeds)} of {seeds} seeds"] if len(measured.seeds) < seeds else []
        return ", ".join((*smaller, *protocol.smaller))

    def verdict(
        self, measured: Measurement | None, reference: Measurement | None = None, trace: str | None = None
    ) -> Verdict:
        """What follows from a measurement.

        Args:
            measured: of this claim, if there is one.
            reference: of the claim that `says.compared_with` names, if there is one.
            trace: the digest of today's code for this claim (`apical.papers.traces`); None where it was not computed.
        """
        if known := self.says.settle():
            return Verdict("reproduced" if known[0] else "not reproduced", known[1], known[0])
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
        why += "".join(f"; {part}" for part in self._beside(measured, reference) if part)
        if self.remark:
            why += f". {self.remark}"
        level = LEVELS[holds] if self.control and not isinstance(self.says, Control) else ""
        return Verdict(self._outcome(holds, measured), why, holds, _code(measured, trace), level)

    def _outcome(self, holds: bool | None, measured: Measurement) -> Outcome:
        if self.control:
            return "control"
        if holds is None or len(measured.seeds) < 2 or self.scaled_down(measured):
            return "inconclusive"
        return "reproduced" if holds else "not reproduced"

    def _beside(self, measured: Measurement, reference: Measurement | None) -> Iterator[str]:
        """What a verdict says of a measurement beside the judgement; empty where there is nothing to say."""
        epochs, smaller = Spread.of(measured.task_epochs), self.scaled_down(measured)
        yield (
            f"cosine of the update to the gradient, from the first layer: {measured.cosines}" if measured.angles else ""
        )
        yield f"by test batches, {measured.tested}" if measured.cuts else ""
        yield f"{epochs.mean:.3g} epochs a class" if epochs else ""
        yield smaller and f"scaled down to {smaller}"
        yield "one seed decides nothing" if len(measured.seeds) < 2 else ""
        yield measured.stale and f"stale: {measured.stale}, and {self.command} --record measures it again"
        yield "what it is compared with is stale" if reference is not None and reference.stale else ""


def _code(measured: Measurement, trace: str | None) -> Code:
    if measured.stale or (measured.trace and trace is not None and trace != measured.trace):
        return "other"
    return "today's" if measured.trace else "not known"
