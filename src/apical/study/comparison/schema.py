"""The document that a comparison leaves: comparison.json, read by the page and by `Comparison.load`.

Its form is stable: `format` rises when a reader would have to change. Losses are means over examples,
accuracies fractions, angles degrees between the rule's update and the true gradient, by layer in forward order
(null where an update is zero).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from apical.errors import RunError
from apical.statistics import Spread
from apical.study.runs import files

FILE = "comparison.json"


class Part(BaseModel):
    """A part of the document: immutable, and without keys that this version does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskInfo(Part):
    """What was learned: examples in each part, classes, the shape of one example."""

    name: str
    train: int
    validation: int
    test: int
    classes: int
    input_shape: list[int]
    source: str
    licence: str

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """From the record that a run keeps of its task, which holds more."""
        return cls(**{key: record[key] for key in cls.model_fields})


class ArmSettings(Part):
    """What one rule was run with, where rules may differ; `loss` where it is not the one that all share."""

    learning_rate: float
    weight_decay: float
    loss: str | None = None
    options: dict[str, Any]


class Run(Part):
    """One rule with one seed.

    `epochs` are the records of its metrics.jsonl. A failed run has an `error`, and whatever epochs it came to.
    """

    seed: int
    status: Literal["finished", "failed"]
    error: str | None = None
    folder: str
    epochs: list[dict[str, Any]]
    test_accuracy: float | None = None
    test_loss: float | None = None
    angles: dict[str, float | None] | None = None


class Cost(Part):
    """Whole-step time as a ratio to plain PyTorch: the median, and the quartiles around it."""

    ratio: float
    low: float
    high: float
    repeats: int
    batch_size: int
    milliseconds: float
    plain_milliseconds: float


class Arm(Part):
    """One rule: what it is, how it was set, its runs over seeds, what its step costs."""

    rule: str
    title: str
    summary: str
    paper: str
    settings: ArmSettings
    notes: list[str]
    runs: list[Run]
    cost: Cost | None = None

    def finished(self) -> list[Run]:
        """The runs that came to their end."""
        return [run for run in self.runs if run.status == "finished"]

    def accuracy(self) -> Spread | None:
        """On the test set, over the finished runs; None when there is none."""
        return Spread.of(run.test_accuracy for run in self.finished())

    def angles(self) -> dict[str, float]:
        """At the end of training, by layer, the mean over the finished runs that have one."""
        finished = self.finished()
        layers = dict.fromkeys(layer for run in finished for layer in run.angles or {})
        spreads = {layer: Spread.of((run.angles or {}).get(layer) for run in finished) for layer in layers}
        return {layer: spread.mean for layer, spread in spreads.items() if spread is not None}


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

    def to_dict(self) -> dict[str, Any]:
        """The document as nested dicts, ready for JSON and for the page."""
        return self.model_dump(mode="json")

    def write(self, folder: Path) -> Path:
        """Write comparison.json into `folder`, whole or not at all; returns its path."""
        path = folder / FILE
        files.atomic_write_json(path, self.to_dict())
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read comparison.json, or the one in a folder.

        Raises:
            RunError: it is not there, or not such a document.
        """
        path = Path(path)
        file = path / FILE if path.is_dir() else path
        try:
            return cls.model_validate_json(file.read_bytes())
        except OSError as error:
            raise RunError(f"cannot read the comparison {file}: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise RunError(f"{file} is not a comparison of format 1: {place}: {first['msg']}") from error
