"""Many rules and seeds: fair, continued where it stopped, honest about what failed."""

import json
import logging
import os
import shlex
import signal
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from apical import rules
from apical.cli import app
from apical.errors import ConfigError, RunError
from apical.report.document import read
from apical.statistics import Spread
from apical.study import Comparison, Config, Interrupted, RuleConfig, RunFolder, compare
from apical.study.comparison import running
from apical.study.configuration.config import difference
from apical.study.executors import jobs
from apical.study.training import session
from waiting import PATIENCE, program, until

SMALL = ["model=mlp:6", "epochs=2", "batch_size=200"]
FAILS = "equilibrium_propagation:nudging=holomorphic"
PAIR = ["backprop", "feedback_alignment"]


@pytest.fixture
def config():
    return Config().with_settings(SMALL)


def weights(folder):
    return torch.load(folder / "model.pt", weights_only=True)


def test_the_document(config, tmp_path):
    made = compare(config, [*PAIR, "sign_symmetry:magnitude=fixed"], 2, tmp_path, jobs=1, title="A title")
    path = tmp_path / "comparison.json"
    document = json.loads(path.read_text())
    assert Comparison.load(tmp_path) == made == read(document)
    del document["digest"]
    assert made.to_dict() == document
    assert list(document) == [
        "format",
        "title",
        "created",
        "command",
        "environment",
        "task",
        "config",
        "arms",
        "floors",
    ]
    assert (document["format"], document["title"]) == (1, "A title")
    assert document["task"]["train"] + document["task"]["validation"] == 1442
    assert document["config"]["model"] == "mlp:6"
    assert document["environment"]["threads"] == 1
    path.write_text(path.read_text().replace('"title": "A title"', '"title": "A tattle"'))
    with pytest.raises(RunError, match="was changed since it was written"):
        Comparison.load(path)
    assert [arm["title"] for arm in document["arms"]][1:] == ["Feedback alignment", "Sign symmetry (magnitude=fixed)"]
    arm = document["arms"][1]
    assert list(arm) == [
        *("rule", "title", "summary", "paper", "settings", "notes", "badges", "tuning", "test_error", "runs", "cost")
    ]
    assert arm["settings"] == {
        "learning_rate": 0.05 * 0.2,  # the network rectifies
        "weight_decay": 0.0,
        "loss": None,
        "epochs": None,
        "protection": None,
        "joint": None,
        "options": {},
    }
    assert document["arms"][2]["settings"]["options"] == {"magnitude": "fixed"}
    assert [run["seed"] for run in arm["runs"]] == [0, 1]
    run = arm["runs"][1]
    assert (run["status"], run["error"]) == ("finished", None)
    assert [record["epoch"] for record in run["epochs"]] == [1, 2]
    folder = RunFolder(tmp_path / run["folder"])
    assert folder.epochs() == run["epochs"]
    assert folder.result()["test_accuracy"] == run["test_accuracy"]
    assert list(run["angles"]) == ["1", "3"]
    assert run["angles"]["1"] > 20 > run["angles"]["3"]
    assert set(arm["cost"]) == {"ratio", "low", "high", "repeats", "batch_size", "milliseconds", "plain_milliseconds"}
    assert arm["cost"]["low"] <= arm["cost"]["ratio"] <= arm["cost"]["high"]
    assert arm["cost"]["batch_size"] == 200


def test_a_comparison_on_a_stream(file, tmp_path):
    config = Config().with_settings(
        [f"task=npz:{file}", "model=mlp:6", "epochs=2", "validation=0", "stream=split", "stream.classes_per_task=1"]
    )
    made = compare(config, PAIR, 2, tmp_path / "all", jobs=1, protect=["none"], joint=True, floors=True)
    assert Comparison.load(tmp_path / "all") == made
    assert [arm.settings.joint for arm in made.arms] == [False, True, False, True]
    assert [arm.cost for arm in made.arms] == [None] * 4
    assert made.task.stream.labels == [[0], [1], [2]]
    first = made.arms[0]
    assert len(first.matrix()) == 3
    assert len(made.arms[1].matrix()) == 1
    assert first.metric("forgetting_max").n == 2
    alone = session.train(config.with_settings(["seed=1", "threads=1"]), tmp_path / "alone")
    assert first.runs[1].stream.matrix == [list(row) for row in alone.stream.matrix]
    assert {floor.title for floor in made.floors} >= {"Nearest class mean", "Streaming LDA"}
    ahead = made.above_floor(first)
    level = [run.metrics["accuracy"] for run in made.best_floor.runs]
    assert ahead.values == pytest.approx(
        [run.stream.metrics["accuracy"] - floor for run, floor in zip(first.runs, level, strict=True)]
    )
    assert "--protect none" in made.command
    assert made.command.startswith("apical continual")


def test_equal_compute_and_equal_memory(file, tmp_path):
    config = Config().with_settings(
        [f"task=npz:{file}", "model=mlp:6", "epochs=2", "validation=0", "stream=split", "stream.classes_per_task=1"]
    )
    protect = ["none", "replay", "replay:batch=64", "online_ewc", "online_ewc:fisher=empirical"]
    options = {"jobs": 1, "protect": protect, "floors": True}
    made = compare(config, ["backprop"], 1, tmp_path, memory=300, equal_compute=True, joint=True, **options)
    none, replay, more, *_ = made.arms
    # The tasks have fewer examples than a batch, so that replay:batch=64 takes 1 + 64 / examples passes a step.
    most = 2 * more.runs[0].stream.assumptions["passes"]
    assert most > 6
    # Consolidation takes passes over the data: forward and backward, once or once for each of three classes.
    expected = {"none": most, "replay": most / 2, "exact": most - 7 / 3, "empirical": most - 1, "joint": most}
    found = [arm.settings.epochs for arm in made.arms if arm is not more]
    assert found == [round(epochs) for epochs in expected.values()]
    assert more.settings.epochs is None
    for arm in (replay, more):
        assert arm.runs[0].stream.assumptions["samples"] == 300 // (16 + 8 + 8)  # words of eight bytes, label, number
        assert arm.runs[0].stream.assumptions["bytes"] <= 300
    assert none.runs[0].stream.assumptions["samples"] == 0
    assert all(run.assumptions["bytes"] <= 300 for floor in made.floors for run in floor.runs)
    assert len(made.floors) == 3
    with pytest.raises(ConfigError, match="does not fit"):
        compare(config, ["backprop"], 1, tmp_path, memory=3, **options)


def test_a_single_task_has_nothing_to_protect(config, tmp_path):
    for options in ({"protect": ["none"]}, {"joint": True}, {"floors": True}):
        with pytest.raises(ConfigError, match="nothing to protect"):
            compare(config, PAIR, 1, tmp_path, **options)
    with pytest.raises(ConfigError, match="nothing to protect"):
        compare(config.with_settings(["protect=replay"]), PAIR, 1, tmp_path)
    with pytest.raises(ConfigError, match="one task"):
        compare(config.with_settings(["stream=permuted", "stream.tasks=1"]), PAIR, 1, tmp_path)


def test_each_run_is_what_training_alone_would_give(config, tmp_path):
    compare(config, PAIR, [3], tmp_path / "many", jobs=1, cost=False)
    one = config.with_settings(["rule=feedback_alignment", "seed=3", "threads=1", "alignment=1"])
    session.train(one, tmp_path / "one")
    among = RunFolder(tmp_path / "many" / "runs" / "feedback_alignment" / "seed-3")
    assert among.metrics.read_bytes() == RunFolder(tmp_path / "one").metrics.read_bytes()


@pytest.fixture
def file(tmp_path):
    """A small task in a file: processes that read it need not import scikit-learn."""
    y = np.arange(60) % 3
    x = np.eye(3)[y] + np.random.default_rng(0).normal(size=(60, 3))
    np.savez(tmp_path / "small.npz", x=x, y=y)
    return tmp_path / "small.npz"


def test_processes_change_nothing_and_failures_harm_nobody(file, tmp_path):
    """Units that rectify have no derivative in the complex plane, where one of the rules nudges."""
    given = Config().with_settings([f"task=npz:{file}", "model=mlp:6", "epochs=2"])
    chosen = ["backprop", FAILS, "feedback_alignment"]
    alone = compare(given, chosen, 2, tmp_path / "alone", jobs=1, cost=False)
    together = compare(given, chosen, 2, tmp_path / "together", jobs=2, cost=False)
    assert together.arms == alone.arms
    assert [run.status for arm in together.arms for run in arm.runs] == ["finished"] * 2 + ["failed"] * 2 + [
        "finished"
    ] * 2


def test_what_is_finished_is_kept_and_what_is_new_added(config, tmp_path, monkeypatch):
    first = compare(config, PAIR, 1, tmp_path, jobs=1, cost=False)
    trained = []
    original = jobs.perform
    monkeypatch.setattr(jobs, "perform", lambda job: trained.append(job.folder) or original(job))
    more = compare(config, [*PAIR, "kolen_pollack"], 2, tmp_path, jobs=1, cost=False)
    assert [arm.runs[0] for arm in more.arms[:2]] == [arm.runs[0] for arm in first.arms]
    assert [str(folder.relative_to(tmp_path / "runs")) for folder in trained] == [
        "kolen_pollack/seed-0",
        "backprop/seed-1",
        "feedback_alignment/seed-1",
        "kolen_pollack/seed-1",
    ]


def test_a_begun_run_is_gone_on_with(config, tmp_path):
    whole = compare(config, PAIR, 1, tmp_path, jobs=1, cost=False)
    run = RunFolder(tmp_path / "runs" / "backprop" / "seed-0")
    before = run.checkpoints.paths()
    (run.path / "result.json").unlink()
    before[-1].unlink()
    assert compare(config, PAIR, 1, tmp_path, jobs=1, cost=False).arms == whole.arms
    assert before[0] in run.checkpoints.paths()


def test_other_settings_are_refused_or_overwritten(config, tmp_path):
    compare(config, PAIR, 1, tmp_path, jobs=1, cost=False)
    other = config.with_settings(["optimizer.lr=0.2"])
    with pytest.raises(RunError, match=r"other settings \(optimizer\.lr: 0\.05 there, 0\.2 now\).*overwrite"):
        compare(other, PAIR, 1, tmp_path, jobs=1, cost=False)
    again = compare(other, PAIR, 1, tmp_path, jobs=1, cost=False, overwrite=True)
    assert again.arms[0].runs[0].epochs[0]["learning_rate"] == 0.2


@pytest.fixture
def done(file, tmp_path):
    """A comparison of two rules on a file of one's own, as (configuration, comparison)."""
    given = Config().with_settings([f"task=npz:{file}", "model=mlp:6", "epochs=2"])
    return given, compare(given, PAIR, 1, tmp_path / "c", jobs=1, cost=False)


def exchange(file):
    """The same labels, of noise."""
    y = np.arange(60) % 3
    np.savez(file, x=np.random.default_rng(1).normal(size=(60, 3)), y=y)


def test_runs_of_other_data_are_refused_trained_again_or_kept_with_a_note(done, file, tmp_path):
    given, before = done
    exchange(file)
    again = partial(compare, given, PAIR, 1, tmp_path / "c", jobs=1, cost=False)
    with pytest.raises(RunError, match=r"backprop.seed-0 is not what it was: its data changed.*--overwrite.*--changed"):
        again()
    kept = again(changed=True)
    assert [arm.runs for arm in kept.arms] == [arm.runs for arm in before.arms]
    assert ["its data changed" in " ".join(arm.notes) for arm in kept.arms] == [True, True]
    fresh = again(overwrite=True)
    assert [arm.notes for arm in fresh.arms] == [arm.notes for arm in before.arms]
    assert fresh.arms == compare(given, PAIR, 1, tmp_path / "other", jobs=1, cost=False).arms
    assert fresh.arms[0].runs != before.arms[0].runs


def test_runs_of_another_encoder_are_refused(file, tmp_path):
    """A network over time is its layers and what makes its sequences."""
    net = tmp_path / "net.py"
    net.write_text(
        "from functools import partial\nfrom torch import nn\nfrom apical import neurons\n"
        "def make(input_shape, classes, moments=3):\n"
        "    inside = nn.Sequential(nn.Linear(3, 5), neurons.LIF(), nn.Linear(5, 3), neurons.LeakyReadout())\n"
        "    return neurons.OverTime(inside, partial(neurons.encoders.constant, moments=moments))\n"
    )
    given = Config().with_settings([f"task=npz:{file}", f"model={net}:make", "epochs=1"])
    again = partial(compare, given, ["backprop"], 1, tmp_path / "c", jobs=1, cost=False)
    made, kept = again(), again()
    assert kept == made.model_copy(update={"created": kept.created})
    net.write_text(net.read_text().replace("moments=3", "moments=4"))
    with pytest.raises(RunError, match="its network changed"):
        again()


def test_runs_of_another_network_or_rule_are_refused(file, tmp_path, monkeypatch):
    net, own = tmp_path / "net.py", tmp_path / "own.py"
    net.write_text("from torch import nn\ndef make(input_shape, classes): return nn.Sequential(nn.Linear(3, 3))")
    own.write_text("import apical\nclass Own(apical.FeedbackAlignment): title = 'Own'")
    given = Config().with_settings([f"task=npz:{file}", f"model={net}:make", "epochs=1"])
    again = partial(compare, given, [f"{own}:Own"], 1, tmp_path / "c", jobs=1, cost=False)
    made = again()
    assert made.arms[0].title == "Own"
    assert made.arms[0].accuracy() is not None
    kept = again()
    assert kept == made.model_copy(update={"created": kept.created})
    for path, says in ((net, "its network changed"), (own, "its rule changed")):
        written = path.read_text()
        path.write_text(f"{written}  # another")
        with pytest.raises(RunError, match=says):
            again()
        path.write_text(written)


@pytest.mark.parametrize("name", ["metrics.jsonl", "run.json", "result.json", "config.toml"])
def test_a_damaged_run_does_not_stop_the_others(name, done, tmp_path):
    given, before = done
    path = tmp_path / "c" / "runs" / "backprop" / "seed-0" / name
    content = path.read_bytes()
    path.write_bytes(content[:20] + b"\xff" + content[21:])
    made = compare(given, PAIR, 2, tmp_path / "c", jobs=1, cost=False)
    assert [run.status for run in made.arms[0].runs] == ["failed", "finished"]
    assert name in made.arms[0].runs[0].error
    assert made.arms[1].runs[0] == before.arms[1].runs[0]
    again = compare(given, PAIR, 1, tmp_path / "c", jobs=1, cost=False, overwrite=name != "metrics.jsonl")
    assert (again.arms == before.arms) == (name != "metrics.jsonl")


def test_fewer_rules_drop_no_arm(done, file, tmp_path, caplog):
    given, before = done
    with caplog.at_level(logging.WARNING, "apical"):
        made = compare(given, ["kolen_pollack"], 1, tmp_path / "c", jobs=1, cost=False)
    assert [arm.rule for arm in made.arms] == ["kolen_pollack", *PAIR]
    assert made.arms[1:] == before.arms
    assert made.title.startswith("3 learning rules on")
    assert "--rules kolen_pollack,backprop,feedback_alignment" in made.command
    assert "Feedback alignment is kept from the comparison of before" in caplog.text
    exchange(file)
    fewer = compare(given, ["kolen_pollack"], 1, tmp_path / "c", jobs=1, cost=False, overwrite=True)
    assert [arm.rule for arm in fewer.arms] == ["kolen_pollack"]
    assert "Feedback alignment of before is left out: its data changed" in caplog.text


@pytest.mark.parametrize(
    "rule", ["oja:readout=false", "predictive_coding:feedback=fixed,feedback.scale=2.0", "fa:scale=1"]
)
def test_the_command_of_a_comparison_is_read_back_to_it(rule, config, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "perform", lambda job: "not run")
    given = config.with_settings([f"rule={rule.partition(':')[0]}", "optimizer={name = 'adam', betas = [0.5, 0.9]}"])
    given = given.with_values({"rule": RuleConfig.parse(rule).model_dump(), "check_finite": False})
    made = compare(given, [rule, "bp"], 1, tmp_path, jobs=1, cost=False)
    with mock.patch("apical.study.compare", side_effect=InterruptedError) as called:
        CliRunner().invoke(app, shlex.split(made.command)[1:])
    again, named = called.call_args.args[:2]
    assert again == given
    assert [RuleConfig.parse(each) for each in named] == [RuleConfig.parse(rule), RuleConfig.parse("backprop")]


def test_a_run_that_fails_is_told_and_the_others_finish(config, tmp_path):
    picky = config.with_settings(["model=mlp:6"])
    made = compare(picky, ["backprop", FAILS], 2, tmp_path, jobs=1)
    fine, failed = made.arms
    assert [run.status for run in fine.runs] == ["finished"] * 2
    assert [run.status for run in failed.runs] == ["failed"] * 2
    assert "complex plane" in failed.runs[0].error
    assert failed.runs[0].test_accuracy is None
    assert failed.accuracy() is None
    assert failed.cost is None
    assert fine.cost is not None


def test_who_learns_from_a_reward_is_compared_and_says_so(config, tmp_path):
    made = compare(config, ["backprop", "brainprop", "agrel"], 1, tmp_path, jobs=1)
    assert [arm.settings.loss for arm in made.arms] == [None, "reward_prediction", "agrel"]
    assert ["scalar reward" in " ".join(arm.notes) for arm in made.arms] == [False, True, True]
    assert all(arm.cost is not None for arm in made.arms)
    assert [run.status for arm in made.arms for run in arm.runs] == ["finished"] * 3


def test_an_unforeseen_error_is_told_with_its_place(config, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(session, "begin", fail)
    made = compare(config, ["backprop"], 1, tmp_path, jobs=1, cost=False)
    assert made.arms[0].runs[0].error.startswith("ZeroDivisionError: by nothing (")
    assert "test_comparing.py:" in made.arms[0].runs[0].error


def test_a_shared_rate_is_scaled_as_a_rule_recommends(config, tmp_path, monkeypatch):
    monkeypatch.setattr(rules.get("feedback_alignment"), "recommended", {"learning_rate_factor": 0.5})
    made = compare(
        config.with_settings(["optimizer.lr=0.1", "model=mlp:6:tanh"]), PAIR, 1, tmp_path, jobs=1, cost=False
    )
    assert [arm.settings.learning_rate for arm in made.arms] == [0.1, 0.05]
    assert made.arms[0].notes == []
    assert "0.5 times the shared learning rate (0.05 instead of 0.1)" in made.arms[1].notes[0]
    assert RunFolder(tmp_path / "runs" / "feedback_alignment" / "seed-0").notes() == tuple(made.arms[1].notes)


def test_the_rule_of_the_configuration_lends_its_options(config, tmp_path):
    own = config.with_settings(["rule=sign_symmetry", "rule.magnitude=fixed"])
    made = compare(own, ["backprop", "sign_symmetry"], 1, tmp_path, jobs=1, cost=False)
    assert made.arms[1].settings.options == {"magnitude": "fixed"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seeds": 1.5}, "seeds 1.5"),
        ({"seeds": True}, "seeds True"),
        ({"seeds": "1"}, "seeds '1'"),
        ({"jobs": 0}, "jobs"),
    ],
)
def test_numbers_of_runs_and_processes_that_are_none(given, message, config, tmp_path):
    with pytest.raises(ConfigError, match=message):
        compare(config, "fa", **{"seeds": 1, "jobs": 1, "cost": False, "folder": tmp_path / "c", **given})


def test_one_rule_may_be_a_name_alone(config, tmp_path):
    assert [arm.rule for arm in compare(config, "fa", 1, tmp_path, jobs=1, cost=False).arms] == ["feedback_alignment"]


def test_rules_may_be_objects_classes_or_functions(config, tmp_path):
    given = ["fa", rules.Oja, rules.SignSymmetry(magnitude="fixed"), lambda: rules.KolenPollack(), "Backprop"]
    made = compare(config, given, 1, tmp_path, jobs=1, cost=False)
    assert [arm.rule for arm in made.arms] == [
        "feedback_alignment",
        "oja",
        "sign_symmetry",
        "kolen_pollack",
        "backprop",
    ]
    assert made.arms[2].settings.options["magnitude"] == "fixed"
    assert not any(arm.failures() for arm in made.arms)


@pytest.mark.parametrize(
    ("chosen", "seeds", "says"),
    [
        (["backprop", "backprop"], 1, "each once"),
        (["backprop"], 0, "at least one"),
        (["backprop"], [1, 1], "each once"),
        ([], 1, r"\(none\)"),
        (["backprob"], 1, "did you mean 'backprop'"),
    ],
)
def test_what_cannot_be_compared(chosen, seeds, says, config, tmp_path):
    with pytest.raises(ConfigError, match=says):
        compare(config, chosen, seeds, tmp_path, jobs=1)


def test_the_command_repeats_the_comparison(tmp_path):
    given = Config().with_settings([*SMALL, "optimizer.nesterov=true"])
    command = compare(given, PAIR, 1, tmp_path, jobs=1, cost=False).command
    assert command == (
        "apical compare --rules backprop,feedback_alignment --seeds 0, "
        "--set model=mlp:6 --set optimizer.nesterov=true --set epochs=2 --set batch_size=200"
    )


def test_the_command_of_defaults_is_short(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "perform", lambda job: "not run")
    made = compare(Config(), folder=tmp_path, jobs=1)
    assert made.command == "apical compare"
    assert [arm.rule for arm in made.arms] == rules.names()
    assert {run.error for arm in made.arms for run in arm.runs} == {"not run"}


def test_stopped_in_one_process_it_goes_on(config, tmp_path, monkeypatch):
    whole = compare(config, PAIR, 2, tmp_path / "whole", jobs=1, cost=False)
    original = jobs.perform

    def perform(job):
        if job.folder.parts[-2:] == ("feedback_alignment", "seed-0"):
            signal.raise_signal(signal.SIGINT)
        return original(job)

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "perform", perform)
        with pytest.raises(Interrupted, match=r"1 of 4 runs finished .*the same command continues"):
            compare(config, PAIR, 2, tmp_path / "stopped", jobs=1, cost=False)
    assert not (tmp_path / "stopped" / "comparison.json").exists()
    assert compare(config, PAIR, 2, tmp_path / "stopped", jobs=1, cost=False).arms == whole.arms


def test_stopped_while_steps_are_timed(config, tmp_path, monkeypatch):
    def measure_costs(*_, on_turn):
        signal.raise_signal(signal.SIGTERM)
        on_turn(1)

    monkeypatch.setattr(running, "measure_costs", measure_costs)
    with pytest.raises(Interrupted, match="while steps were timed, with all runs finished"):
        compare(config, ["backprop"], 1, tmp_path, jobs=1)
    assert not (tmp_path / "comparison.json").exists()


SCRIPT = """
import sys
from apical.study import Config, Interrupted, compare
if __name__ == "__main__":
    config = Config().with_settings([f"task=npz:{sys.argv[1]}", "model=mlp:6", "epochs=100000"])
    try:
        compare(config, ["backprop", "feedback_alignment"], 2, sys.argv[2], jobs=2, cost=False)
    except Interrupted as error:
        print(error)
"""


def begun(folder):
    return [run for run in folder.glob("runs/*/seed-*") if len(RunFolder(run).epochs()) > 2]


def alive(group):
    """Processes of the group that have not ended."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    state, _, process_group = file.read().rpartition(")")[2].split()[:3]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(process_group) == group and state != "Z":
                found.append(int(entry))
    return found


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="processes are looked up in /proc")
@pytest.mark.parametrize("harm", ["ctrl-c", "kill the parent"])
def test_stopped_in_processes_none_is_left_behind(harm, file, tmp_path):
    """Ctrl-C reaches the whole group, as from a terminal; SIGKILL only the parent, whose children must notice."""
    with program("-c", SCRIPT, file, tmp_path) as process:
        process.until(lambda: len(begun(tmp_path)) == 2, "two runs at work")
        if harm == "ctrl-c":
            os.killpg(process.pid, signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE)
            assert "0 of 4 runs finished and the others saved" in out
            assert err == ""
            assert process.returncode == 0
            for run in begun(tmp_path):
                assert RunFolder(run).checkpoints.latest().content["epoch"] in (
                    len(RunFolder(run).epochs()),
                    len(RunFolder(run).epochs()) - 1,
                )
        else:
            process.kill()
            process.wait(PATIENCE)
        until(lambda: not alive(process.pid), "the end of all processes")
    for run in begun(tmp_path):
        assert RunFolder(run).checkpoints.latest() is not None
        with RunFolder(run).locked():
            pass


class TestDocument:
    """What is computed from the document."""

    def test_spread(self):
        spread = Spread.of([1.0, 2.0, 4.0])
        assert (spread.mean, spread.n) == (pytest.approx(7 / 3), 3)
        assert spread.deviation == pytest.approx((7 / 3) ** 0.5)
        assert Spread.of([1.0]).deviation is None
        assert Spread.of([]) is None

    def test_difference(self):
        then, now = {"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 4, "e": 5}}
        assert difference(then, now) == ["b.c: 2 there, 4 now", "b.d: 3 there, None now", "b.e: None there, 5 now"]

    def test_what_is_no_comparison_is_refused(self, tmp_path):
        with pytest.raises(RunError, match="No such file"):
            Comparison.load(tmp_path)
        (tmp_path / "comparison.json").write_text('{"format": 2}')
        with pytest.raises(RunError, match="is not a comparison of format 1: format"):
            Comparison.load(tmp_path)
