"""The examples run as they stand, in an empty folder, and what they train comes out well above chance."""

import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def test_there_are_examples():
    assert EXAMPLES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path, tmp_path, monkeypatch, capsys):
    if "apical.reinforcement" in path.read_text(encoding="utf-8"):
        pytest.importorskip("gymnasium")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path)])  # as a reader types it, without options
    runpy.run_path(str(path), run_name="__main__")
    printed = capsys.readouterr().out
    assert printed.strip()
    accuracies = [float(number) for number in re.findall(r"(?<![\d.])0\.\d{3}\b", printed)]
    assert all(accuracy > 0.8 for accuracy in accuracies), printed


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_says_how_to_run_it(path):
    assert f"\npython examples/{path.name}\n" in path.read_text(encoding="utf-8")
