"""A comparison as a tidy table: with pandas, without it, and as CSV."""

import csv
import sys
import types

import pytest

from apical.study import Comparison, Config, compare
from apical.study.comparison.frames import rows, write_csv


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    config = Config().with_settings(["model=mlp:6:tanh", "epochs=1", "batch_size=400"])
    return compare(config, ["backprop", "oja"], 2, tmp_path_factory.mktemp("made"), jobs=1, cost=False)


def test_a_row_for_each_arm_and_seed(comparison):
    table = rows(comparison)
    assert [(row["arm"], row["seed"]) for row in table] == [
        ("Backpropagation", 0),
        ("Backpropagation", 1),
        ("Oja's rule", 0),
        ("Oja's rule", 1),
    ]
    assert len({tuple(row) for row in table}) == 1
    backprop, oja = table[1], table[3]
    assert oja["points_from_backprop"] == pytest.approx(100 * (oja["test_accuracy"] - backprop["test_accuracy"]))
    assert backprop["points_from_backprop"] == 0.0
    assert backprop["angle_1"] == pytest.approx(0.0, abs=0.1)
    run = comparison.arms[1].runs[1]
    assert (oja["learning_rate"], oja["train_loss"]) == (0.05, run.epochs[-1]["train_loss"])
    assert oja["badges"] == "; ".join(run.badges)


def test_the_frame_is_pandas_or_plain(comparison, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert comparison.to_frame() == rows(comparison)
    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=lambda table: ("frame", table)))
    assert comparison.to_frame() == ("frame", rows(comparison))


def test_csv_holds_the_same(comparison, tmp_path):
    write_csv(rows(comparison), tmp_path / "a" / "b.csv")
    with (tmp_path / "a" / "b.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    expected = [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows(comparison)]
    assert found == expected


def test_paired_differences_use_the_answers_of_the_runs(comparison):
    """The test set's error by disagreements is smaller than that of two independent counts."""
    arm = comparison.arms[1]
    difference = comparison.difference(arm)
    assert difference.kept
    assert 0 < difference.test_error == arm.test_error
    forgotten = comparison.model_copy(
        update={"arms": [comparison.arms[0], arm.model_copy(update={"test_error": None})]}
    )
    without = forgotten.difference(forgotten.arms[1])
    assert not without.kept
    assert without.mean == difference.mean
    assert isinstance(forgotten, Comparison)
