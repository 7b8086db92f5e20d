"""The command in this process, in an empty folder, on small data."""

import json
from collections.abc import Callable

import pytest
from cli_samples import clouds
from typer.testing import CliRunner, Result

from apical.cli import app


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clouds("clouds.npz")


@pytest.fixture
def apical() -> Callable[..., Result]:
    """Run the command; unless told otherwise, it must succeed."""

    def run(*arguments: str, exit_code: int = 0) -> Result:
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == exit_code, f"{result.output}\n{result.exception!r}"
        return result

    return run


@pytest.fixture
def answer(apical) -> Callable[..., object]:
    """What the command answers as JSON."""
    return lambda *arguments: json.loads(apical(*arguments, "--json").stdout)


@pytest.fixture
def complaint(apical) -> Callable[..., str]:
    """What the command says of a mistake: one panel on standard error, exit code 2. Its lines are joined."""

    def run(*arguments: str) -> str:
        result = apical(*arguments, exit_code=2)
        assert "Traceback" not in result.output
        assert result.stdout == ""
        panel = result.stderr[result.stderr.index("╭─ Error") :]
        assert panel.count("╭") == 1
        return " ".join(line.strip("│ ") for line in panel.splitlines()[1:-1])

    return run
