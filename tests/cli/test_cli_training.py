"""`apical train`, `apical resume` and `apical evaluate`: the library's results, shown; interruptions, survived."""

import json
import os
import signal
from pathlib import Path

import numpy as np
from cli_samples import SMALL, clouds

from apical import study
from waiting import PATIENCE, program


def test_train_does_what_its_options_say(answer):
    result = answer(
        *("train", *SMALL, "--rule", "sign_symmetry:magnitude=fixed,seed=4", "--epochs", "2", "--lr", "0.02"),
        *("--seed", "3", "--optimizer", "adam", "--device", "cpu", "--log", "none", "--set", "validation=0.2"),
        *("--set", "optimizer.betas=[0.8, 0.9]", "--out", "here"),
    )
    assert result["folder"] == "here"
    assert result["epochs"] == 2
    config = study.RunFolder("here").config()
    assert (config.model, config.batch_size, config.epochs, config.seed, config.validation) == ("mlp:6", 16, 2, 3, 0.2)
    assert (config.rule.name, config.rule.options) == ("sign_symmetry", {"magnitude": "fixed", "seed": 4})
    assert (config.optimizer.name, config.optimizer.lr) == ("adam", 0.02)
    assert config.optimizer.options == {"betas": [0.8, 0.9]}


def test_train_equals_the_library(answer):
    shown = answer("train", *SMALL, "--epochs", "3", "--out", "by-command")
    config = study.Config().with_settings(["task=npz:clouds.npz", "model=mlp:6", "batch_size=16", "epochs=3"])
    result = study.train(config, "by-library")
    assert shown == json.loads(json.dumps({"folder": "by-command", **result.to_dict(), "badges": []}))


def test_options_override_the_file_and_set_overrides_options(answer):
    Path("run.toml").write_text('task = "npz:clouds.npz"\nmodel = "mlp:6"\nepochs = 9\nbatch_size = 30\nseed = 5\n')
    answer("train", "--config", "run.toml", "--epochs", "8", "--set", "epochs=2", "--batch-size", "20", "--out", "a")
    config = study.RunFolder("a").config()
    assert (config.epochs, config.batch_size, config.seed) == (2, 20, 5)


def test_a_table_named_by_set_keeps_what_flags_say_of_it(answer):
    answer("train", *SMALL, "--lr", "0.003", "--epochs", "1", "--set", "optimizer=adam", "--out", "here")
    optimizer = study.RunFolder("here").config().optimizer
    assert (optimizer.name, optimizer.lr) == ("adam", 0.003)


def test_train_shows_accuracy_angles_and_the_folder(apical):
    shown = apical("train", *SMALL, "--epochs", "1", "--set", "alignment=1", "--rule", "feedback_alignment").stdout
    result = study.RunFolder("runs/clouds-feedback_alignment-1").result()
    assert f"{100 * result['test_accuracy']:.2f} %" in shown
    for layer, angle in result["angles"].items():
        assert [layer, f"{angle:.1f}°"] in [line.split() for line in shown.splitlines()]
    assert "runs/clouds-feedback_alignment-1" in shown


def test_badges_of_a_run_are_in_json_and_on_the_terminal(apical, answer):
    command = ["train", *SMALL, "--epochs", "2", "--lr", "40", "--set", "clip=0"]
    badges = answer(*command, "--out", "a")["badges"]
    assert "diverged" in badges
    assert f"badges         {', '.join(badges)}" in apical(*command, "--out", "b").stdout
    assert answer("train", *SMALL, "--epochs", "5", "--out", "c")["badges"] == []


def test_a_run_of_uneven_classes_is_measured_by_their_shares(answer):
    x, y = np.random.default_rng(0).normal(size=(200, 5)), (np.arange(200) % 10 == 0).astype(int)
    np.savez("uneven.npz", x_train=x[:100], y_train=y[:100], x_test=x[100:], y_test=y[100:])
    found = answer("train", "--task", "npz:uneven.npz", "--model", "mlp:4", "--epochs", "3")
    assert found["test_accuracy"] >= 0.85
    assert "at chance" in found["badges"]


def test_a_run_without_a_folder_never_meets_an_older_one(apical):
    for _ in range(2):
        apical("train", *SMALL, "--epochs", "1")
    assert sorted(os.listdir("runs")) == ["clouds-backprop-1", "clouds-backprop-2"]


def test_a_folder_that_holds_a_run_is_refused_unless_overwritten(apical, complaint):
    apical("train", *SMALL, "--epochs", "1", "--out", "a")
    said = complaint("train", *SMALL, "--epochs", "2", "--out", "a")
    assert "a holds a run already (finished)" in said
    apical("train", *SMALL, "--epochs", "2", "--out", "a", "--overwrite")
    assert study.RunFolder("a").config().epochs == 2


def test_evaluate_measures_the_runs_own_data_and_other_data(answer, apical, complaint):
    trained = answer("train", *SMALL, "--epochs", "8", "--out", "a")
    own = answer("evaluate", "a")
    assert own["accuracy"] == trained["test_accuracy"]
    assert own["examples"] == 30
    clouds("others.npz", seed=1)
    others = answer("evaluate", "a", "--task", "npz:others.npz")
    expected = study.evaluate("a", task="npz:others.npz")
    assert (others["task"], others["accuracy"]) == ("npz:others.npz", expected.accuracy)
    assert f"{100 * expected.accuracy:.2f} %" in apical("evaluate", "a", "--task", "npz:others.npz").stdout
    clouds("wide.npz", width=7)
    assert "an example has the shape (7,)" in complaint("evaluate", "a", "--task", "npz:wide.npz")


def test_resume_refuses_a_finished_run(apical, complaint):
    apical("train", *SMALL, "--epochs", "1", "--out", "a")
    assert "a has finished" in complaint("resume", "a")


def test_ctrl_c_saves_the_run_says_how_to_go_on_and_leaves_with_130(apical):
    endless = ["train", *SMALL, "--epochs", "1000000", "--out", "a", "--set", "threads=1"]
    environment = {**os.environ, "COLUMNS": "200"}
    with program("-m", "apical.cli", *endless, env=environment) as process:
        process.until(Path("a/metrics.jsonl").exists, "the first epoch")
        process.send_signal(signal.SIGINT)
        shown, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert shown == ""
    assert "go on with: apical resume a" in said
    assert "Traceback" not in said
    # Let it come to its end: the epochs that are left are a setting like any other.
    run = study.RunFolder("a")
    done = run.epochs()[-1]["epoch"]
    text = (run.path / "config.toml").read_text()
    (run.path / "config.toml").write_text(text.replace("epochs = 1000000", f"epochs = {done + 2}"))
    shown = apical("resume", "a", "--changed").stdout
    assert f"{done + 2} epochs" in shown
    assert "is not what it was: its settings changed" in shown
