"""`apical hippocampus` in miniature: the page, the runs that test claims, and mistakes."""

import json

import pytest
from typer.testing import CliRunner

from apical.cli import app
from apical.hippocampus import demonstration, learner


@pytest.fixture
def small(monkeypatch):
    """Networks of a few cells, and one gain for the angles, which need a training for each."""
    tiny = learner.Setup(grid=24, cue=24, bins=12, dentate=40, ca3=30, ca1=30, share=0.2, epochs=4, batch=24)
    monkeypatch.setattr(learner.Setup, "small", lambda: tiny)
    monkeypatch.setattr(demonstration, "GAINS", (0.3,))


def test_a_page_and_a_summary(small, tmp_path):
    words = ["hippocampus", "--small", "--out", str(tmp_path), "--json"]
    result = CliRunner().invoke(app, [*words, "--test", "1", "--experiments", "cells"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["mismatch"]["trained"] < found["mismatch"]["untrained"]
    assert {each["seeds"] for each in found["claims"]} == {1}
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 1
    page = (tmp_path / "hippocampus.html").read_text()
    assert page.count('class="raster"') == 7 * 24 + 4  # cells of seven groups, and a matrix for each area
    assert page.count('class="chart"') == 4
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_table_and_the_path_of_the_page(small, tmp_path):
    result = CliRunner().invoke(app, ["hippocampus", "--small", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "CA3, untrained" in result.stdout
    assert str(tmp_path / "hippocampus.html") in result.stdout


@pytest.mark.parametrize("words", [["--rule", "naca"], ["--test", "-1"], ["--test", "1", "--experiments", "sells"]])
def test_mistakes_are_met_with_a_message(small, tmp_path, words):
    result = CliRunner().invoke(app, ["hippocampus", "--small", *words, "--out", str(tmp_path)])
    assert result.exit_code == 2, result.output
