"""The document that a comparison leaves: comparison.json, read by the page and by `Comparison.load`.

Its form is stable: `format` rises when a reader would have to change. Losses are means over examples,
accuracies fractions, angles degrees between the rule's update and the true gradient, by layer in forward order
(null where an update is zero). A number that is not finite is read as null.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from apical.errors import RunError
from apical.statistics import Spread, number, paired
from apical.study.runs import files
from apical.study.runs.results import Activity

FILE = "comparison.json"

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
    """What was learned: examples in each part, classes, the shape of one example; `stream` where there were tasks."""

    name: str
    train: int
    validation: int
    test: int
    classes: int
    input_shape: list[int]
    source: str
    licence: str
    stream: StreamInfo | None = None

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

    `epochs` are the records of its metrics.jsonl. A failed run has an `error`, and the epochs before it.
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


class Cost(Part):
    """Whole-step time as a ratio to plain PyTorch: the median, and the quartiles around it."""

    ratio: float
    low: Number
    high: Number
    repeats: int
    batch_size: int
    milliseconds: Number
    plain_milliseconds: Number


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


def _measured(cost: Any) -> Any:
    """A cost without a ratio was not measured."""
    return None if isinstance(cost, Mapping) and number(cost.get("ratio")) is None else cost


class Arm(Part, Streamed):
    """One rule: what it is, how it was set, its runs over seeds, what its step costs.

    `label`, which no file holds, is the title; in a comparison that has the title twice, with the settings that
    tell its arms apart.
    """

    rule: str
    title: str
    summary: str
    paper: str
    settings: ArmSettings
    notes: list[str]
    runs: list[Run]
    cost: Annotated[Cost | None, BeforeValidator(_measured)] = None
    label: str = Field(default="", exclude=True)

    def finished(self) -> list[Run]:
        """The runs that ended; only these enter a mean."""
        return [run for run in self.runs if run.status == "finished"]

    def failures(self) -> list[Run]:
        """The runs that ended in an error."""
        return [run for run in self.runs if run.status == "failed"]

    def accuracy(self) -> Spread | None:
        """On the test set, over the finished runs; None when there is none."""
        return Spread.of(run.test_accuracy for run in self.finished())

    def of_streams(self) -> list[StreamRun]:
        """What came of the stream, in the finished runs."""
        return [run.stream for run in self.finished() if run.stream is not None]

    def angle(self, layer: str) -> Spread | None:
        """Degrees to the true gradient at the end of training, over the finished runs that have one."""
        return Spread.of((run.angles or {}).get(layer) for run in self.finished())

    def activities(self) -> list[Activity]:
        """How the neurons of the finished runs fire, where they are of the kind that does."""
        return [run.spikes for run in self.finished() if run.spikes is not None]

    def angles(self) -> dict[str, float]:
        """The mean angle at the end of training, by layer."""
        layers = dict.fromkeys(layer for run in self.finished() for layer in run.angles or {})
        return {layer: spread.mean for layer in layers if (spread := self.angle(layer)) is not None}


class Floor(Part, Streamed):
    """A learner of one pass that every method against forgetting has to exceed, with its run of every seed."""

    title: str
    summary: str
    runs: list[StreamRun]

    def of_streams(self) -> list[StreamRun]:
        """Its runs."""
        return self.runs


class Comparison(Part):
    """Many rules and seeds on one task and network."""

    format: Literal[1] = 1
    title: str
    created: str
    command: str
    environment: dict[str, Any]
    task: TaskInfo
    config: dict[str, Any]
    arms: list[Arm]
    floors: list[Floor] = []

    @field_validator("arms")
    @classmethod
    def _labelled(cls, arms: list[Arm]) -> list[Arm]:
        return [arm.model_copy(update={"label": _label(arm, arms)}) for arm in arms]

    @property
    def layers(self) -> list[str]:
        """The layers whose angle was measured in any run, in forward order."""
        names: dict[str, None] = {}
        for run in (run for arm in self.arms for run in arm.runs):
            for angles in (run.angles, *(record.get("angles") for record in run.epochs)):
                names.update(dict.fromkeys(angles or {}))
        return list(names)

    @property
    def seeds(self) -> list[int]:
        """Every seed that was run, sorted."""
        return sorted({run.seed for arm in self.arms for run in arm.runs})

    @property
    def sample(self) -> str:
        """The number of finished runs behind a rule's numbers: "3", or "2 to 3" where some failed."""
        sizes = sorted({len(arm.finished()) for arm in self.arms if arm.finished()}) or [0]
        return str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"

    @property
    def reference(self) -> Arm | None:
        """Backpropagation, where it is among several rules on a single task."""
        found = [arm for arm in self.arms if arm.rule == "backprop"]
        return found[0] if found and len(self.arms) > 1 and self.task.stream is None else None

    @property
    def best_floor(self) -> Floor | None:
        """The floor with the highest mean accuracy at the end of the stream."""
        measured = [floor for floor in self.floors if floor.metric("accuracy")]
        return max(measured, key=lambda floor: _mean(floor.metric("accuracy")), default=None)

    def above_floor(self, arm: Arm) -> Spread | None:
        """The accuracy of an arm at the end of the stream minus that of the best floor, seed by seed."""
        floor = self.best_floor
        if floor is None or len(arm.of_streams()) != len(floor.runs):
            return None
        own, other = ([run.metrics["accuracy"] or 0.0 for run in runs] for runs in (arm.of_streams(), floor.runs))
        return paired(own, other)

    @property
    def failures(self) -> list[tuple[Arm, Run]]:
        """Every failed run with its arm."""
        return [(arm, run) for arm in self.arms for run in arm.failures()]

    @property
    def accuracy_decimals(self) -> int:
        """Decimals of a percentage that the size of the test set can carry."""
        return 2 if self.task.test >= 2000 else 1

    def to_dict(self) -> dict[str, Any]:
        """The document as nested dicts, ready for JSON and for the page."""
        return self.model_dump(mode="json")

    def write(self, folder: Path) -> Path:
        """Write comparison.json into `folder`, whole or not at all; returns its path.

        Raises:
            UnwrittenError: it cannot be written; the error has the comparison.
        """
        path = folder / FILE
        try:
            files.write_sealed(path, self.to_dict())
        except RunError as error:
            raise UnwrittenError(str(error), self) from error
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read comparison.json, or the one in a folder.

        Raises:
            RunError: it is not there, not such a document, or was changed since it was written.
        """
        path = Path(path).expanduser()
        file = path / FILE if path.is_dir() else path
        try:
            return cls.model_validate(files.read_sealed(file, lambda content: False))
        except ValidationError as error:
            raise RunError(f"{file} is not a comparison of format 1: {first_problem(error)}") from error


class UnwrittenError(RunError):
    """A comparison that ended and cannot be written.

    Attributes:
        comparison: it, to be shown at least.
    """

    def __init__(self, message: str, comparison: Comparison) -> None:
        super().__init__(message)
        self.comparison = comparison


def _mean(spread: Spread | None) -> float:
    return -1.0 if spread is None else spread.mean


def first_problem(error: ValidationError) -> str:
    """The first of pydantic's reports, with its place in the document."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names: {"optimizer": {"lr": 0.1}} becomes {"optimizer.lr": 0.1}."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _label(arm: Arm, arms: Sequence[Arm]) -> str:
    settings = flatten(arm.settings.model_dump())
    namesakes = [flatten(other.settings.model_dump()) for other in arms if other.title == arm.title]
    differing = [key for key in settings if any(other.get(key) != settings[key] for other in namesakes)]
    options = ", ".join(f"{key.removeprefix('options.')}={settings[key]}" for key in differing)
    return f"{arm.title} ({options})" if options else arm.title
