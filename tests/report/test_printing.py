"""Figures for print: every number beside them as CSV, the page's light colours, a legend, the same bytes each time."""

import csv
import sys

import numpy as np
import pytest

from apical.errors import ConfigError
from apical.report import printing, styles
from apical.report.document import read

pytest.importorskip("matplotlib", exc_type=ImportError)


@pytest.fixture
def comparison(document):
    return read(document)


def table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_figure_has_a_legend_light_colours_and_every_arm(comparison, tmp_path):
    printing.draw(comparison, tmp_path / "a.svg", ["accuracy", "loss", "validation", "angles"])
    drawn = (tmp_path / "a.svg").read_text()
    assert 'id="legend_1"' in drawn
    for colour in styles.LIGHT[: len(comparison.arms)]:
        assert colour in drawn
    # A panel for each layer, beside the other three.
    assert drawn.count('<g id="axes_') == 3 + len(comparison.layers)


def test_the_data_beside_a_figure_are_those_of_the_document(comparison, document, tmp_path):
    path = printing.draw(comparison, tmp_path / "deep" / "a.svg")
    assert path == tmp_path / "deep" / "a.csv"
    rows = table(path)
    for arm in document["arms"]:
        own = [row for row in rows if row["arm"] == arm["title"] and row["panel"] == "accuracy"]
        values = 100 * np.array([run["test_accuracy"] for run in arm["runs"]])
        assert [float(row["value"]) for row in own if row["seed"]] == pytest.approx(values)
        (mean,) = (row for row in own if not row["seed"])
        assert float(mean["value"]) == pytest.approx(values.mean())
        assert float(mean["deviation"]) == pytest.approx(values.std(ddof=1))
        losses = np.array([[record["train_loss"] for record in run["epochs"]] for run in arm["runs"]])
        curve = [row for row in rows if row["arm"] == arm["title"] and row["panel"] == "loss"]
        assert [int(row["epoch"]) for row in curve] == list(range(1, 21))
        assert [float(row["value"]) for row in curve] == pytest.approx(losses.mean(0))
        assert {row["n"] for row in curve} == {"3"}


@pytest.mark.parametrize("suffix", printing.FORMATS)
def test_the_same_data_give_the_same_file(suffix, comparison, tmp_path):
    paths = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for path in paths:
        printing.draw(comparison, path, ["accuracy"])
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    assert first.startswith({".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}[suffix])


def test_failed_runs_are_left_out(failing, tmp_path):
    rows = table(printing.draw(read(failing), tmp_path / "a.svg", ["accuracy"]))
    mirror = [row for row in rows if row["arm"] == "Weight mirror"]
    assert [row["n"] for row in mirror] == ["1", "1", "2"]
    assert "Direct random target projection" not in {row["arm"] for row in rows}


def test_what_cannot_be_drawn_is_refused(comparison, document, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"\.svg, \.png, \.pdf"):
        printing.draw(comparison, tmp_path / "a.gif")
    with pytest.raises(ConfigError, match="accuracy, loss, validation, angles"):
        printing.draw(comparison, tmp_path / "a.svg", ["cost"])
    for arm in document["arms"]:
        for run in arm["runs"]:
            run |= {"angles": None, "epochs": []}
    with pytest.raises(ConfigError, match="no run has numbers for angles"):
        printing.draw(read(document), tmp_path / "a.svg", ["angles"])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install .*apical\[figures\]"):
        printing.draw(comparison, tmp_path / "a.svg")
    assert list(tmp_path.iterdir()) == []
