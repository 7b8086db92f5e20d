"""The parts of a comparison's document below its arms: task, settings, runs, tuning, costs, floors."""

import math
from collections.abc import Mapping
from statistics import fmean
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict

from apical.statistics import Spread, number
from apical.study.comparison import badges
from apical.study.runs.results import Activity

BUSY = 0.25
"""Quartiles of a step's time that are further apart, as a part of the median, are those of a busy machine."""

Number = Annotated[float | None, BeforeValidator(number)]


class Part(BaseModel):
    """A part of the document: immutable, and without keys that this version does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class StreamInfo(Part):
    """The tasks that were learned one after another."""

    name: str
    scenario: str
    tasks: list[str]
    labels: list[list[int]]
    boundaries: bool


class TaskInfo(Part):
    """What was learned: examples in each part, classes, the shape of one example; `stream` where there were tasks.

    `train_by_class` and `test_by_class` count the examples of each class, in the training part with what validation
    takes of it. Where they are unknown, chance is that of classes of one size.
    """

    name: str
    train: int
    validation: int
    test: int
    classes: int
    input_shape: list[int]
    source: str
    licence: str
    train_by_class: list[int] = []
    test_by_class: list[int] = []
    stream: StreamInfo | None = None

    def chance(self, loss: str) -> badges.Chance | None:
        """What answers reach that ignore their input; None on a stream, whose tasks have chances of their own."""
        if self.stream is not None:
            return None
        even = [self.test / self.classes] * self.classes
        return badges.Chance.of(loss, self.train_by_class or even, self.test_by_class or even)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """From the record that a run keeps of its task, which holds more."""
        known = {key: record[key] for key in cls.model_fields if key in record}
        if "stream" in known:
            known["stream"] = StreamInfo(**{key: known["stream"][key] for key in StreamInfo.model_fields})
        return cls(**known)


class ArmSettings(Part):
    """What one rule was run with, where rules may differ.

    `loss` and `epochs` where they are not those that all share. Of a stream also the protection against forgetting, and
    whether all tasks were learned at once.
    """

    learning_rate: float
    weight_decay: float
    loss: str | None = None
    epochs: int | None = None
    protection: str | None = None
    joint: bool | None = None
    options: dict[str, Any]


class StreamRun(Part):
    """What came of a stream: see `apical.study.runs.results.StreamResult`."""

    matrix: list[list[float]]
    before: list[float] = []
    metrics: dict[str, Number]
    assumptions: dict[str, Any]
    leakage: dict[str, Any] | None = None

    @property
    def leaks(self) -> bool:
        """Whether answers depend on how the test data are cut into batches."""
        return self.leakage is not None and bool(self.leakage["leaks"])


class Run(Part):
    """One rule with one seed.

    `epochs` are the records of its metrics.jsonl. A failed run has an `error`, and the epochs before it. `badges`
    follow from these, see `apical.study.comparison.badges`.
    """

    seed: int
    status: Literal["finished", "failed"]
    error: str | None = None
    folder: str
    epochs: list[dict[str, Any]]
    test_accuracy: Number = None
    test_loss: Number = None
    angles: dict[str, Number] | None = None
    stream: StreamRun | None = None
    spikes: Activity | None = None
    badges: list[str] = []


class Tuning(Part):
    """How an arm's learning rate was chosen: by the highest mean validation accuracy, and of equal ones the lower loss.

    `accuracies` and `losses` are those of each rate on validation data cut from the training data, means over runs from
    `seeds`, none of which is reported; null where a run failed.
    """

    rates: list[float]
    seeds: list[int]
    accuracies: list[Number]
    losses: list[Number]

    @property
    def chosen(self) -> float:
        """The rate; the lowest where every one failed."""
        measured = zip(self.accuracies, self.losses, self.rates, strict=True)
        ranked = [(-a, math.inf if loss is None else loss, rate) for a, loss, rate in measured if a is not None]
        return min(ranked)[-1] if ranked else min(self.rates)

    @property
    def at_edge(self) -> bool:
        """Whether a rate outside the grid may do better."""
        return self.chosen in (min(self.rates), max(self.rates))


class Cost(Part):
    """Whole-step time as a ratio to plain PyTorch: the median, and the quartiles around it."""

    ratio: float
    low: Number
    high: Number
    repeats: int
    batch_size: int
    milliseconds: Number
    plain_milliseconds: Number

    @property
    def is_clear(self) -> bool:
        """Whether the machine was quiet enough for the ratio to mean something."""
        return self.low is None or self.high is None or self.high - self.low <= BUSY * self.ratio


class Streamed:
    """What of an arm or a floor is about its stream."""

    def of_streams(self) -> list[StreamRun]:
        """What came of the stream, in the finished runs."""
        raise NotImplementedError

    def metric(self, name: str) -> Spread | None:
        """A figure of the accuracy matrix, such as "forgetting_max", over the finished runs."""
        return Spread.of(run.metrics.get(name) for run in self.of_streams())

    def matrix(self) -> list[list[float]]:
        """The accuracy matrix, a mean over the finished runs; empty where there is none."""
        matrices = [run.matrix for run in self.of_streams()]
        return [[fmean(cell) for cell in zip(*rows, strict=True)] for rows in zip(*matrices, strict=True)]

    @property
    def leaks(self) -> bool:
        """Whether a finished run leaks."""
        return any(run.leaks for run in self.of_streams())


class Floor(Part, Streamed):
    """A learner of one pass that every method against forgetting has to exceed, with its run of every seed."""

    title: str
    summary: str
    runs: list[StreamRun]

    def of_streams(self) -> list[StreamRun]:
        """Its runs."""
        return self.runs
