"""A comparison as a tidy table: one row for each arm and seed."""

import csv
import io
from importlib import import_module
from pathlib import Path
from typing import Any

from apical.study.comparison.parts import Run
from apical.study.comparison.schema import Arm, Comparison
from apical.study.runs import files


def rows(comparison: Comparison) -> list[dict[str, Any]]:
    """One row for each arm and seed, all with the same columns; None where there is no value.

    Columns: arm (its label), rule, protection, seed, status, learning_rate, weight_decay, test_accuracy, test_loss,
    points_from_backprop (100 times the paired difference of accuracies), train_loss, validation_accuracy (both of the
    last epoch), epochs, badges (joined by "; "), step_time (of the arm, as a ratio to plain PyTorch), angle_LAYER for
    each layer (degrees, at the end), error, folder.
    """
    reference = comparison.reference
    level = {run.seed: run.test_accuracy for run in reference.finished()} if reference else {}
    return [_row(comparison, arm, run, level.get(run.seed)) for arm in comparison.arms for run in arm.runs]


def _row(comparison: Comparison, arm: Arm, run: Run, level: float | None) -> dict[str, Any]:
    last = run.epochs[-1] if run.epochs else {}
    ahead = None if level is None or run.test_accuracy is None else 100 * (run.test_accuracy - level)
    return {
        "arm": arm.label,
        "rule": arm.rule,
        "protection": arm.settings.protection,
        "seed": run.seed,
        "status": run.status,
        "learning_rate": arm.settings.learning_rate,
        "weight_decay": arm.settings.weight_decay,
        "test_accuracy": run.test_accuracy,
        "test_loss": run.test_loss,
        "points_from_backprop": ahead,
        "train_loss": last.get("train_loss"),
        "validation_accuracy": last.get("validation_accuracy"),
        "epochs": len(run.epochs),
        "badges": "; ".join(run.badges),
        "step_time": arm.timing.ratio if arm.timing else None,
        **{f"angle_{layer}": (run.angles or {}).get(layer) for layer in comparison.layers},
        "error": run.error,
        "folder": run.folder,
    }


def to_frame(comparison: Comparison) -> Any:
    """The rows as a pandas.DataFrame where pandas is installed, else as they are."""
    try:
        pandas = import_module("pandas")
    except ImportError:
        return rows(comparison)
    return pandas.DataFrame(rows(comparison))


def write_csv(table: list[dict[str, Any]], path: Path) -> None:
    """Write rows of the same columns as CSV, in UTF-8, whole or not at all.

    Raises:
        RunError: the file cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(table[0]))
    writer.writeheader()
    writer.writerows(table)
    files.make_folder(path.parent)
    files.atomic_write(path, text.getvalue().encode())
