"""The document that a comparison leaves: comparison.json, read by the page and by `Comparison.load`.

Its form is stable: `format` rises when a reader would have to change. Losses are means over examples,
accuracies fractions, angles degrees between the rule's update and the true gradient, by layer in forward order
(null where an update is zero). A number that is not finite is read as null.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator

from apical.errors import RunError
from apical.statistics import Spread, number, paired
from apical.study.comparison import badges
from apical.study.comparison.differences import Difference, sameness
from apical.study.comparison.parts import (
    ArmSettings,
    Cost,
    Floor,
    Number,
    Part,
    Run,
    Streamed,
    StreamRun,
    TaskInfo,
    Tuning,
)
from apical.study.runs import files
from apical.study.runs.results import Activity

FILE = "comparison.json"


def _measured(cost: Any) -> Any:
    """A cost without a ratio was not measured."""
    return None if isinstance(cost, Mapping) and number(cost.get("ratio")) is None else cost


class Arm(Part, Streamed):
    """One rule: what it is, how it was set, its runs over seeds, what its step costs.

    `label`, which no file holds, is the title; in a comparison that has the title twice, with the settings that
    tell its arms apart. `badges` are those of any run, and that of a rate at the edge of its grid; like `label` they
    are found whenever a document is made or read. `test_error` is the standard error of the difference to
    backpropagation that comes from the test set, by disagreements.
    """

    rule: str
    title: str
    summary: str
    paper: str
    settings: ArmSettings
    notes: list[str]
    badges: list[str] = Field(default_factory=list)
    tuning: Tuning | None = None
    test_error: Number = None
    runs: list[Run]
    cost: Annotated[Cost | None, BeforeValidator(_measured)] = None
    label: str = Field(default="", exclude=True)

    def finished(self) -> list[Run]:
        """The runs that ended; only these enter a mean."""
        return [run for run in self.runs if run.status == "finished"]

    def failures(self) -> list[Run]:
        """The runs that ended in an error."""
        return [run for run in self.runs if run.status == "failed"]

    def badge_texts(self) -> list[str]:
        """The badges, each with the number of seeds where not all have it: "diverged in 1 of 3 seeds"."""
        counts = {badge: sum(badge in run.badges for run in self.runs) for badge in self.badges}
        return [
            f"{badge} in {count} of {len(self.runs)} seeds" if 0 < count < len(self.runs) else badge
            for badge, count in counts.items()
        ]

    @property
    def is_unsound(self) -> bool:
        """Whether a run failed, diverged or is at chance, so that the mean accuracy says little."""
        return bool(self.failures()) or badges.DIVERGED in self.badges or badges.AT_CHANCE in self.badges

    @property
    def timing(self) -> Cost | None:
        """The cost, where it was measured on a machine that was not too busy for it."""
        return self.cost if self.cost is not None and self.cost.is_clear else None

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
    floors: list[Floor] = Field(default_factory=list)

    @field_validator("arms")
    @classmethod
    def _described(cls, arms: list[Arm], info: ValidationInfo) -> list[Arm]:
        task, config = info.data.get("task"), info.data.get("config")
        if task is None or config is None:  # these are wrong, and reported
            return arms
        return [_with_badges(arm, task, config).model_copy(update={"label": _label(arm, arms)}) for arm in arms]

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

    def difference(self, arm: Arm, other: Arm | None = None) -> Difference | None:
        """The accuracy of an arm minus that of another, by default backpropagation, over the seeds that both finished.

        None for backpropagation itself, where it is not among the arms, and where no seed finished in both.
        """
        reference = self.reference
        other = other or reference
        if other is None or other is arm:
            return None
        pairs = [(a.test_accuracy, b.test_accuracy) for a, b in _pairs(arm, other)]
        measured = [(a, b) for a, b in pairs if a is not None and b is not None]
        if not measured:
            return None
        own, others = zip(*measured, strict=True)
        gains = paired(own, others)
        if other is reference and arm.test_error is not None:
            return Difference(gains, arm.test_error, kept=True)
        variances = (mean * (1 - mean) for mean in (fmean(own), fmean(others)))
        return Difference(gains, math.sqrt(sum(variances) / self.task.test), kept=False)

    def twin(self, arm: Arm) -> tuple[Arm, Literal["exactly", "to rounding"]] | None:
        """The arm whose runs were the same training, and how nearly: backpropagation, or else an earlier one."""
        earlier = self.arms[: [each is arm for each in self.arms].index(True)]
        for other in [each for each in (self.reference, *earlier) if each is not None]:
            pairs = _pairs(arm, other)
            if arm is self.reference or len(pairs) != len(arm.runs) or len(pairs) != len(other.runs):
                continue
            same = sameness(*([run.epochs for run in runs] for runs in zip(*pairs, strict=True)))
            if same is not None:
                return other, same
        return None

    def to_frame(self) -> Any:
        """One row for each arm and seed: a pandas.DataFrame where pandas is installed, else a list of dicts.

        The columns are those of `apical.study.comparison.frames.rows`.
        """
        from apical.study.comparison import frames

        return frames.to_frame(self)

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


def _with_badges(arm: Arm, task: TaskInfo, config: Mapping[str, Any]) -> Arm:
    chance = task.chance(arm.settings.loss or config.get("loss", "cross_entropy"))
    runs = [
        run.model_copy(update={"badges": badges.of_run(chance, run.epochs, run.test_accuracy, run.error)})
        for run in arm.runs
    ]
    found = dict.fromkeys(badge for run in runs for badge in run.badges)
    edge = [badges.EDGE] * (arm.tuning is not None and arm.tuning.at_edge)
    return arm.model_copy(update={"runs": runs, "badges": [*found, *edge]})


def _pairs(arm: Arm, other: Arm) -> list[tuple[Run, Run]]:
    """The finished runs of two arms from the same seeds."""
    others = {run.seed: run for run in other.finished()}
    return [(run, others[run.seed]) for run in arm.finished() if run.seed in others]


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
