"""`apical compare` and `apical report`: the table says what the runs found, and the page is there."""

import csv
import errno
import json
import math
import os
import re
from pathlib import Path

import pytest
from cli_samples import SMALL
from typer.testing import CliRunner

from apical import rules, study
from apical.cli import app
from apical.cli.comparing import read_seeds
from apical.cli.options import read_rules
from apical.study.comparison import parts
from apical.study.comparison.gathering import gather

FAST = [*SMALL, "--epochs", "1", "--jobs", "1", "--no-cost"]


def test_compare_shows_accuracy_angles_cost_and_the_page(apical, monkeypatch):
    monkeypatch.setattr(parts, "BUSY", math.inf)
    chosen = "backprop,feedback_alignment,sign_symmetry:magnitude=fixed,seed=3"
    shown = apical("compare", *SMALL, "--epochs", "2", "--seeds", "2", "--rules", chosen, "--jobs", "1").stdout
    (folder,) = Path("runs").iterdir()
    comparison = study.Comparison.load(folder)
    assert [arm.rule for arm in comparison.arms] == ["backprop", "feedback_alignment", "sign_symmetry"]
    assert comparison.arms[2].settings.options == {"magnitude": "fixed", "seed": 3}
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    for number, arm in enumerate(comparison.arms, 1):
        accuracy, angles = arm.accuracy(), arm.angles()
        row = f"{100 * accuracy.mean:.1f} ± {100 * accuracy.deviation:.1f} %"
        row += "".join(f" {angle:.1f}" for angle in angles.values()) + f" {arm.cost.ratio:.2f}"
        assert any(line.startswith(f"{number} ") and line.endswith(row) for line in lines)
        assert re.search(rf"\({arm.cost.low:.2f}-{arm.cost.high:.2f}\)", shown)
    page = folder / "report.html"
    assert lines[-1] == f"page {page}"
    assert "Sign symmetry" in page.read_text()
    assert max(map(len, shown.splitlines())) <= 80


def test_a_time_that_the_machine_was_too_busy_to_measure_is_not_shown(apical, answer, monkeypatch):
    monkeypatch.setattr(parts, "BUSY", -1.0)
    command = [
        "compare",
        *SMALL,
        "--epochs",
        "1",
        "--seeds",
        "1",
        "--rules",
        "backprop,oja",
        "--jobs",
        "1",
        "--out",
        "a",
    ]
    shown = " ".join(apical(*command).stdout.split())
    assert "The machine was too busy to time any rule." in shown
    assert "Step time" not in shown
    assert [arm["cost"] for arm in answer(*command)["arms"]] == [None, None]
    page = " ".join(Path("a/report.html").read_text().split())
    assert "The machine was too busy to time training steps." in page
    assert "Step time vs. PyTorch" not in page
    assert all(arm.cost is not None for arm in study.Comparison.load("a").arms)


def test_compare_as_json(answer):
    found = answer("compare", *FAST, "--seeds", "1,5", "--rules", "backprop feedback_alignment", "--out", "a")
    comparison = study.Comparison.load("a")
    assert [arm["rule"] for arm in found["arms"]] == ["backprop", "feedback_alignment"]
    for shown, arm in zip(found["arms"], comparison.arms, strict=True):
        assert [run.seed for run in arm.runs] == [1, 5]
        accuracy = arm.accuracy()
        assert shown["test_accuracy"] == {"mean": accuracy.mean, "deviation": accuracy.deviation, "count": accuracy.n}
        assert shown["angles"] == arm.angles()
    assert Path(found["page"]).is_file()


def test_rates_are_chosen_and_shown(apical, answer):
    command = ["compare", *FAST, "--seeds", "2", "--rules", "backprop,feedback_alignment", "--out", "a"]
    grid = ["--lr", "0.0001,0.02,0.05"]
    shown = " ".join(apical(*command, *grid).stdout.split())
    found = answer(*command, *grid)
    for arm in found["arms"]:
        assert arm["tuning"]["rates"] == [0.0001, 0.02, 0.05]
        assert arm["settings"]["learning_rate"] in arm["tuning"]["rates"]
        assert f"[rate {arm['settings']['learning_rate']:g}" in shown
    assert "Each rule took the best of the learning rates 0.0001, 0.02 and 0.05 by validation accuracy" in shown
    page = Path("a/report.html").read_text()
    assert "Learning rate</th>" in page
    assert "with the highest mean validation accuracy" in " ".join(page.split())


def test_badges_and_the_paired_difference_are_in_json_and_on_the_terminal(apical, answer):
    command = ["compare", *FAST, "--seeds", "2", "--rules", "backprop,oja", "--out", "a", "--lr", "40,"]
    shown = " ".join(apical(*command).stdout.split())
    found = answer(*command)
    arms = study.Comparison.load("a").arms
    assert [arm["badges"] for arm in found["arms"]] == [arm.badges for arm in arms]
    assert "diverged" in found["arms"][0]["badges"]
    assert "[diverged" in shown
    assert "diverged</span>" in Path("a/report.html").read_text()
    assert found["arms"][0]["from_backprop"] is None
    difference = found["arms"][1]["from_backprop"]
    gains = [own.test_accuracy - other.test_accuracy for own, other in zip(arms[1].runs, arms[0].runs, strict=True)]
    assert difference["mean"] == pytest.approx(sum(gains) / 2)
    assert difference["low"] <= difference["mean"] <= difference["high"]
    assert found["headline"].startswith("Backpropagation (diverged")


def test_the_runs_as_csv(apical):
    apical("compare", *FAST, "--seeds", "2", "--rules", "backprop,oja", "--out", "a", "--csv", "tables/runs.csv")
    with Path("tables/runs.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [(row["rule"], row["seed"]) for row in table] == [
        (rule, seed) for rule in ("backprop", "oja") for seed in "01"
    ]
    runs = [run for arm in study.Comparison.load("a").arms for run in arm.runs]
    assert [float(row["test_accuracy"]) for row in table] == [run.test_accuracy for run in runs]


def test_a_figure_of_a_comparison_has_its_data_beside_it(apical, complaint):
    apical("compare", *FAST, "--seeds", "1", "--rules", "backprop,oja", "--out", "a")
    pytest.importorskip("matplotlib", exc_type=ImportError)
    shown = apical("figure", "a", "--out", "b/curves.svg", "--show", "loss, accuracy").stdout
    assert shown == "figure  b/curves.svg\ndata    b/curves.csv\n"
    assert "Oja" in Path("b/curves.csv").read_text()
    assert ".svg, .png, .pdf" in complaint("figure", "a", "--out", "b/curves.jpg")


@pytest.mark.parametrize("text", ["fast", "0.1,fast", ",", "0.1;0.2"])
def test_rates_that_are_no_numbers(text, complaint):
    assert "write a rate (--lr 0.05), or several (--lr 0.005,0.015,0.05)" in complaint("compare", "--lr", text)


def test_compare_takes_every_rule_when_none_is_named(answer):
    found = answer("compare", *FAST, "--seeds", "1")
    assert [arm["rule"] for arm in found["arms"]] == rules.names()


def test_the_same_command_keeps_its_runs_and_another_gets_another_folder(apical):
    command = ["compare", *FAST, "--seeds", "1", "--rules", "backprop"]
    apical(*command)
    (folder,) = Path("runs").iterdir()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.jsonl")}
    assert "runs that have finished are kept" in apical(*command, "--rules", "kolen_pollack").stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(list(folder.rglob("metrics.jsonl"))) == 2
    apical(*command, "--lr", "0.01")
    assert len(os.listdir("runs")) == 2


def test_a_rule_that_fails_is_in_the_table_and_the_others_finish(apical):
    Path("net.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Noisy(nn.Module):\n"
        "    def __init__(self, width):\n"
        "        super().__init__()\n"
        "        self.first, self.second = nn.Linear(width, 6), nn.Linear(6, 3)\n"
        "    def forward(self, x):\n"
        "        return self.second(torch.relu(self.first(x)) * 1e38 * 1e38)\n"
        "def make(input_shape, classes):\n"
        "    return Noisy(input_shape[0])\n"
    )
    command = ["--task", "npz:clouds.npz", "--model", "net.py:make", "--epochs", "1", "--jobs", "1", "--seeds", "1"]
    result = apical("compare", *command, "--rules", "backprop", exit_code=1)
    assert "failed" in result.stdout
    assert "Backpropagation, seed 0, failed:" in " ".join(result.stdout.split())


def test_deep_networks_get_a_row_for_each_layer(apical):
    model = ["--task", "npz:clouds.npz", "--model", "mlp:6,6,6,6", "--epochs", "1", "--jobs", "1", "--no-cost"]
    shown = apical("compare", *model, "--seeds", "1", "--rules", "backprop,feedback_alignment").stdout
    (folder,) = Path("runs").iterdir()
    backprop, alignment = (arm.angles() for arm in study.Comparison.load(folder).arms)
    rows = [line.split() for line in shown.splitlines()]
    for layer in backprop:
        assert [layer, f"{backprop[layer]:.1f}", f"{alignment[layer]:.1f}"] in rows


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("backprop", ["backprop"]),
        ("backprop,feedback_alignment", ["backprop", "feedback_alignment"]),
        ("backprop feedback_alignment", ["backprop", "feedback_alignment"]),
        ("a:x=1,y=2,b, c:z=3 d", ["a:x=1,y=2", "b", "c:z=3", "d"]),
        ("a:x=[1, 2],b", ["a:x=[1, 2]", "b"]),
        ("a:x=fixed,y=0.5", ["a:x=fixed,y=0.5"]),
        ("", []),
    ],
)
def test_rules_on_one_line(text, expected):
    assert read_rules([text]) == expected


def test_rules_as_a_comparison_writes_them_are_read_back():
    labels = [study.RuleConfig.parse(rule).label for rule in ("backprop", "sign_symmetry:magnitude=fixed,seed=2")]
    assert read_rules([" ".join(labels)]) == read_rules([",".join(labels)]) == read_rules(labels) == labels


@pytest.mark.parametrize(("text", "expected"), [("3", 3), ("0,7", [0, 7]), ("0,", [0]), (" 1, 2", [1, 2])])
def test_seeds_are_how_many_or_which(text, expected):
    assert read_seeds(text) == expected


def test_report_puts_comparisons_and_single_runs_on_one_page(apical):
    apical("compare", *FAST, "--seeds", "1", "--rules", "backprop", "--out", "a", "--title", "The first of all")
    for rule, seed in (("backprop", "0"), ("feedback_alignment", "0"), ("feedback_alignment", "1")):
        apical("train", *SMALL, "--epochs", "1", "--rule", rule, "--seed", seed, "--out", f"{rule}-{seed}")
    shown = apical("report", "a", "backprop-0", "feedback_alignment-0", "feedback_alignment-1", "--out", "both.html")
    assert shown.stdout == "page  both.html\n"
    page = Path("both.html").read_text()
    assert "The first of all" in page
    assert "3 runs on clouds.npz" in page


def test_the_page_of_one_folder_goes_into_it(apical):
    apical("train", *SMALL, "--epochs", "1", "--out", "a")
    apical("report", "a")
    assert Path("a/report.html").is_file()


def test_a_page_that_cannot_be_written_is_named(apical, complaint):
    apical("train", *SMALL, "--epochs", "1", "--out", "a")
    Path("file").touch()
    assert "cannot write file: File exists; choose a path" in complaint("report", "a", "--out", "file/page.html")


@pytest.mark.parametrize(("name", "lost"), [("report.html", "report.html"), ("comparison.json", "comparison.json")])
def test_what_a_full_disk_loses_is_not_the_table(name, lost, monkeypatch):
    replace = os.replace

    def full(source, target):
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    result = CliRunner().invoke(app, ["compare", *FAST, "--rules", "bp,fa", "--seeds", "1", "--out", "a"])
    assert "test accuracy" in result.stdout
    assert f"{lost}: No space left on device; free some space" in result.stderr.replace("\n", "")
    assert result.exit_code == 2
    assert not list(Path("a").glob(f"*{name}*"))


def test_a_table_that_cannot_be_written_takes_nothing_else_with_it(complaint):
    assert "--csv .: is a folder. Name a file" in complaint("compare", *FAST, "--csv", ".", "--out", "a")
    assert not Path("a").exists()
    Path("file").touch()
    command = ["compare", *FAST, "--rules", "bp,fa", "--seeds", "1", "--out", "a", "--csv", "file/runs.csv"]
    result = CliRunner().invoke(app, command)
    assert "test accuracy" in result.stdout
    assert Path("a/report.html").exists()
    assert result.exit_code == 2


def test_arms_of_other_numbers_of_seeds_are_counted_as_they_are(apical):
    apical("compare", *FAST, "--rules", "backprop", "--seeds", "2", "--out", "a")
    command = ["compare", *FAST, "--rules", "oja", "--seeds", "3", "--out", "a"]
    assert "standard deviation over 2 to 3 seeds" in " ".join(apical(*command).stdout.split())
    page = Path("a/report.html").read_text()
    assert "All are means over two to three seeds" in page
    shown = " ".join(apical(*command[:-3], "1", "--out", "a").stdout.split())
    assert "From backprop" not in shown
    assert "--seeds 0,1 " in study.Comparison.load("a").command


def test_a_page_names_files_without_their_folders(apical, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    network = tmp_path / "my networks" / "net.py"
    network.parent.mkdir()
    network.write_text(
        "from torch import nn\ndef make(input_shape, classes): return nn.Linear(input_shape[0], classes)"
    )
    apical(
        *("compare", "--task", f"npz:{tmp_path}/clouds.npz", "--model", f"{network}:make", "--rules", "backprop"),
        *("--seeds", "1,", "--epochs", "1", "--no-cost", "--jobs", "1", "--out", str(tmp_path / "a")),
    )
    apical("train", "--task", f"npz:{tmp_path}/clouds.npz", "--model", f"{network}:make", "--epochs", "1", "--out", "b")
    apical("report", "b", "--out", "~/page.html")
    for page in (tmp_path / "a" / "report.html", Path.home() / "page.html"):
        text = page.read_text()
        assert "net.py:make" in text
        assert str(tmp_path) not in text


def test_single_runs_that_belong_together_become_one_comparison(apical):
    for name, more in {
        "a": ["--rule", "backprop"],
        "b": ["--rule", "feedback_alignment", "--seed", "1", "--lr", "0.01"],
        "c": ["--rule", "feedback_alignment", "--seed", "2", "--lr", "0.01"],
        "d": ["--rule", "feedback_alignment", "--lr", "0.02"],
        "other": ["--batch-size", "20"],
    }.items():
        apical("train", *SMALL, "--epochs", "1", *more, "--out", name)
    together, alone = gather(map(Path, ("a", "b", "other", "c", "d")))
    assert [(arm.rule, [run.seed for run in arm.runs]) for arm in together.arms] == [
        ("backprop", [0]),
        ("feedback_alignment", [1, 2]),
        ("feedback_alignment", [0]),
    ]
    assert [arm.settings.learning_rate for arm in together.arms][1:] == [0.01, 0.02]
    result = study.RunFolder("c").result()
    assert together.arms[1].runs[1].test_accuracy == result["test_accuracy"]
    assert together.task.test == 30
    assert [run.folder for arm in alone.arms for run in arm.runs] == ["other"]


def test_settings_that_were_edited_after_training_are_noted(apical):
    apical("train", *SMALL, "--epochs", "1", "--out", "a")
    assert gather([Path("a")])[0].arms[0].notes == []
    config = Path("a/config.toml")
    config.write_text(config.read_text().replace("seed = 0", "seed = 1", 1))
    assert gather([Path("a")])[0].arms[0].notes == ["is not what it was: its settings changed"]


def test_a_run_that_has_not_finished_is_said_to_be_so(apical):
    apical("train", *SMALL, "--epochs", "1", "--out", "a")
    Path("a/result.json").unlink()
    (run,) = gather([Path("a")])[0].arms[0].runs
    assert run.status == "failed"
    assert "apical resume a" in run.error


def test_json_of_a_comparison_has_no_numbers_that_are_none(apical):
    text = apical("compare", *FAST, "--seeds", "1", "--rules", "backprop", "--json").stdout
    json.loads(text, parse_constant=lambda constant: pytest.fail(constant))
