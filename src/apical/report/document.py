"""What a comparison document says, read into values that the page can rely on.

The document is the mapping that `comparison.json` holds. Reading is forgiving about what a run may lack
(angles, cost, a validation set; NaN counts as lacking) and strict about what makes it a comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apical.errors import DataError
from apical.report.curve import Curve
from apical.statistics import Spread, number

FORMAT = 1


@dataclass(frozen=True)
class Run:
    """One training from one seed."""

    seed: int | None
    status: str
    error: str | None
    folder: str | None
    epochs: Sequence[Mapping[str, Any]]
    test_accuracy: float | None
    test_loss: float | None
    angles: Mapping[str, Any]

    @property
    def failed(self) -> bool:
        """Whether it ended in an error; such a run enters no mean."""
        return self.status == "failed"


@dataclass(frozen=True)
class Cost:
    """Time of a whole training step as a ratio to plain PyTorch's: median and quartiles."""

    ratio: float
    low: float | None
    high: float | None
    repeats: int | None
    batch_size: int | None
    milliseconds: float | None
    plain_milliseconds: float | None


@dataclass(frozen=True)
class Arm:
    """One rule of a comparison, with its runs; `label` tells it from its neighbours."""

    rule: str
    label: str
    summary: str
    paper: str
    settings: Mapping[str, Any]
    notes: Sequence[str]
    runs: Sequence[Run]
    cost: Cost | None

    @property
    def loss(self) -> str:
        """The loss that it learned by, where that is not the one that all share: it then learned from a reward."""
        return str(self.settings.get("loss") or "")

    @property
    def finished(self) -> list[Run]:
        """The runs that count."""
        return [run for run in self.runs if not run.failed]

    @property
    def failures(self) -> list[Run]:
        """The runs that ended in an error."""
        return [run for run in self.runs if run.failed]

    @property
    def accuracy(self) -> Spread | None:
        """Test accuracy, 0 to 1, over the finished runs."""
        return Spread.of(run.test_accuracy for run in self.finished)

    def angle(self, layer: str) -> Spread | None:
        """Degrees to the true gradient at the end of training."""
        return Spread.of(run.angles.get(layer) for run in self.finished)

    def curve(self, quantity: str) -> Curve | None:
        """A scalar of the epoch records through training, such as "train_loss"."""
        return Curve.of((e, record.get(quantity)) for e, record in self._records())

    def angle_curve(self, layer: str) -> Curve | None:
        """Degrees to the true gradient through training."""
        return Curve.of((e, (record.get("angles") or {}).get(layer)) for e, record in self._records())

    @property
    def quantities(self) -> list[str]:
        """What the rule was seen to carry (event rates, burst rates, ...), in the order in which it showed them."""
        seen: dict[str, None] = {}
        for _, record in self._records():
            for carried in (record.get("carried") or {}).values():
                seen.update(dict.fromkeys(carried))
        return list(seen)

    def carried_curve(self, quantity: str) -> Curve | None:
        """The mean of a quantity that the rule carries through training, over all layers that have it."""
        return Curve.of((e, _over_layers(record.get("carried") or {}, quantity)) for e, record in self._records())

    def _records(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        return ((int(record["epoch"]), record) for run in self.finished for record in run.epochs)


def _over_layers(carried: Mapping[str, Mapping[str, Any]], quantity: str) -> float | None:
    known = Spread.of(of.get(quantity) for of in carried.values())
    return known.mean if known else None


@dataclass(frozen=True)
class Comparison:
    """Several rules (or one) on one task and network."""

    title: str
    created: str
    command: str
    environment: Mapping[str, Any]
    task: Mapping[str, Any]
    config: Mapping[str, Any]
    arms: Sequence[Arm]

    @property
    def layers(self) -> list[str]:
        """The layers whose angle is known anywhere, in forward order."""
        names: dict[str, None] = {}
        for arm in self.arms:
            for run in arm.runs:
                for angles in (run.angles, *(record.get("angles") or {} for record in run.epochs)):
                    names.update(dict.fromkeys(angles))
        return list(names)

    @property
    def seeds(self) -> list[int]:
        """Every seed that was run, sorted."""
        return sorted({run.seed for arm in self.arms for run in arm.runs if run.seed is not None})

    @property
    def sample(self) -> str:
        """How many finished runs stand behind a rule's numbers: "3", or "2 to 3" where some failed."""
        sizes = sorted({len(arm.finished) for arm in self.arms if arm.finished}) or [0]
        return str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"

    @property
    def reference(self) -> Arm | None:
        """Backpropagation, where it is among several rules."""
        found = [arm for arm in self.arms if arm.rule == "backprop"]
        return found[0] if found and len(self.arms) > 1 else None

    @property
    def failures(self) -> list[tuple[Arm, Run]]:
        """Every failed run with its arm."""
        return [(arm, run) for arm in self.arms for run in arm.failures]

    @property
    def accuracy_decimals(self) -> int:
        """Decimals of a percentage that the size of the test set can carry."""
        return 2 if (number(self.task.get("test")) or 0) >= 2000 else 1


def read(document: Mapping[str, Any]) -> Comparison:
    """The comparison that `document` holds.

    Raises:
        DataError: when it is not a comparison document, or one of a later format.
    """
    if not isinstance(document, Mapping) or not document.get("arms"):
        raise DataError(
            "This is not a comparison: it has no 'arms' (the rules that were run). "
            "`apical compare` writes a comparison.json that the page can be made from."
        )
    if document.get("format", FORMAT) != FORMAT:
        raise DataError(
            f"This comparison has format {document['format']!r}; this apical reads format {FORMAT}. "
            "Make the page with the version that wrote it (the document's environment names it)."
        )
    task = document.get("task") or {}
    return Comparison(
        title=str(document.get("title") or task.get("name") or "Comparison"),
        created=str(document.get("created") or ""),
        command=str(document.get("command") or ""),
        environment=document.get("environment") or {},
        task=task,
        config=document.get("config") or {},
        arms=[_arm(arm, label) for arm, label in zip(document["arms"], _labels(document["arms"]), strict=True)],
    )


def layer_title(layer: str) -> str:
    """A layer's module path as a reader takes it: "layer 3", but "features.conv1" as it is."""
    return f"layer {layer}" if layer.replace(".", "").isdigit() else layer


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names: {"optimizer": {"lr": 0.1}} becomes {"optimizer.lr": 0.1}."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _labels(arms: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rules' titles; where one stands twice, with the settings that tell its arms apart."""
    titles = [str(arm.get("title") or arm["rule"]) for arm in arms]
    settings = [flatten(arm.get("settings") or {}) for arm in arms]
    labels = []
    for title, own in zip(titles, settings, strict=True):
        namesakes = [other for name, other in zip(titles, settings, strict=True) if name == title]
        differing = [key for key in own if any(other.get(key) != own[key] for other in namesakes)]
        options = ", ".join(f"{key.removeprefix('options.')}={own[key]}" for key in differing)
        labels.append(f"{title} ({options})" if options else title)
    return labels


def _arm(arm: Mapping[str, Any], label: str) -> Arm:
    return Arm(
        rule=str(arm["rule"]),
        label=label,
        summary=str(arm.get("summary") or ""),
        paper=str(arm.get("paper") or ""),
        settings=flatten(arm.get("settings") or {}),
        notes=[str(note) for note in arm.get("notes") or ()],
        runs=[_run(run) for run in arm.get("runs") or ()],
        cost=_cost(arm.get("cost")),
    )


def _run(run: Mapping[str, Any]) -> Run:
    return Run(
        seed=run.get("seed"),
        status=str(run.get("status") or "finished"),
        error=run.get("error"),
        folder=run.get("folder"),
        epochs=run.get("epochs") or (),
        test_accuracy=number(run.get("test_accuracy")),
        test_loss=number(run.get("test_loss")),
        angles=run.get("angles") or {},
    )


def _cost(cost: Mapping[str, Any] | None) -> Cost | None:
    ratio = number(cost.get("ratio")) if cost else None
    if cost is None or ratio is None:
        return None
    return Cost(
        ratio=ratio,
        low=number(cost.get("low")),
        high=number(cost.get("high")),
        repeats=cost.get("repeats"),
        batch_size=cost.get("batch_size"),
        milliseconds=number(cost.get("milliseconds")),
        plain_milliseconds=number(cost.get("plain_milliseconds")),
    )
