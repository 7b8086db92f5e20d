"""A study trains by the optimizers that step by agreement, named on the command line like any other."""

import json

import pytest
from typer.testing import CliRunner

from apical.cli import app
from apical.study import RunFolder


@pytest.mark.parametrize(
    ("name", "least", "defaults"),
    [
        ("adaptation", 0.7, {"gain": 0.1, "slope": 10.0, "relaxation": 0.07}),
        ("rprop", 0.4, {}),
    ],
)
def test_one_epoch_of_digits(name, least, defaults, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "--task", "digits", "--model", "mlp:64", "--epochs", "1", "--optimizer", name, "--out", "here"]
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["test_accuracy"] > least
    assert RunFolder("here").config().optimizer.options == defaults
