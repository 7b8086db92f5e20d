"""A run that was interrupted, at whatever moment, ends in the bits of one that was not."""

import json
import logging
import random
import re
import signal
import sys
import time

import doomed
import pytest
import torch
from torch import nn

from apical.continual import protections
from apical.errors import CheckpointError, RunError
from apical.study import Interrupted, RunFolder, evaluate, resume, train
from apical.study.runs import display, fingerprint
from apical.study.training.loop import STATE
from waiting import program

ARMS = {
    "momentum": ["rule=kolen_pollack"],
    "adam": ["rule=sign_symmetry", "rule.magnitude=batchwise", "optimizer.name=adam", "schedule=cosine", "clip=0.5"],
    "adaptation": ["rule=feedback_alignment", "optimizer.name=adaptation", "optimizer.variant=sign", "optimizer.lr=1"],
    "patience": ["rule=brainprop", "exploration=0.3", "optimizer=rmsprop", "optimizer.lr=0.02", "patience=11"],
    "ewc": ["stream=split", "epochs=6", "optimizer=adam", "patience=5", "protect=ewc", "protect.fisher=sampled"],
    "replay": ["stream=split", "epochs=6", "rule=feedback_alignment", "protect=replay", "protect.size=20"],
    "warm-up": ["rule=direct_feedback_alignment", "schedule.warmup=1.5", "loss=mse", "optimizer.lr=0.01"],
}


def bits(content):
    """Everything in a checkpoint, tensors as bytes."""
    if isinstance(content, torch.Tensor):
        return (content.dtype, tuple(content.shape), content.contiguous().numpy().tobytes())
    if isinstance(content, dict):
        return {key: bits(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [bits(value) for value in content]
    return content


def outcome(folder):
    """All of a finished run that must not depend on interruptions."""
    run = RunFolder(folder)
    return {
        "metrics": run.metrics.read_bytes(),
        "result": run.result(),
        "state": bits(run.checkpoints.latest().content),
        "model": bits(torch.load(run.model, weights_only=True)),
    }


@pytest.fixture
def uninterrupted(tmp_path):
    def run(*settings):
        given = doomed.config(tmp_path, *settings)
        train(given, tmp_path / "whole", task=doomed.blobs())
        return given, outcome(tmp_path / "whole")

    return run


@pytest.mark.parametrize("arm", ARMS)
def test_killed_at_random_again_and_again(arm, uninterrupted, tmp_path):
    """Within a step; in the call of any function, mostly while it saves; and at whatever it is about, from outside."""
    given, expected = uninterrupted("epochs=12", *ARMS[arm])
    folder = tmp_path / "killed"
    chance = random.Random(arm)

    def some_steps_on():
        saved = RunFolder(folder).checkpoints.latest()
        return (saved.content["step"] if saved else 0) + chance.randint(3, 6)

    for _ in range(3):
        for calls in (500, 8000):  # less than a step makes; about what four steps and a checkpoint make
            doom = (doomed.killed_after, some_steps_on(), chance.randint(1, calls))
            with doomed.Child(given, folder, *doom) as child:
                assert child.end() == (None, -signal.SIGKILL)
        with doomed.Child(given, folder, doomed.held_after, some_steps_on(), 4) as child:
            assert child.hear() == "there"
            time.sleep(chance.uniform(0, 0.02))  # it trains meanwhile, and waits before the end
            child.kill()
            assert child.end() == (None, -signal.SIGKILL)
    resume(folder, task=doomed.blobs())
    assert outcome(folder) == expected


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_killed_in_every_moment_of_writing(call, uninterrupted, tmp_path):
    """In place of the first, second, third ... time that it brings something to the disk."""
    given, expected = uninterrupted("epochs=2", "checkpoints.steps=6", "rule=kolen_pollack")
    count = 0
    word = None
    while word != "finished":
        count += 1
        folder = tmp_path / f"{call}-{count}"
        with doomed.Child(given, folder, doomed.killed_instead_of, call, count) as child:
            word, code = child.end()
        assert (word, code) in ((None, -signal.SIGKILL), ("finished", 0))
        if word is None:
            if RunFolder(folder).result() is None:
                doomed.begin_or_go_on(given, folder)
            assert outcome(folder) == expected
            assert not [path for path in folder.rglob("*.tmp") if path.parent.name == "checkpoints"]
    assert count > 8


def test_killed_within_every_write(uninterrupted, tmp_path):
    """With the first bytes of a file, or of one more line of it, on the disk, and the rest of them lost."""
    given, expected = uninterrupted("epochs=2", "checkpoints.steps=6", "rule=kolen_pollack")
    count, torn, word, size = 0, set(), None, 40
    while word != "finished":
        count += 1
        folder = tmp_path / f"torn-{count}"
        with doomed.Child(given, folder, doomed.killed_within_write, count, size) as child:
            word, code = child.end()
        assert (word, code) in ((None, -signal.SIGXFSZ), ("finished", 0))
        if word is None:
            halves = [path for path in folder.rglob("*.tmp") if path.stat().st_size == size]
            torn |= {re.sub(r"\d+", "checkpoint", path.name.split(".")[1]) for path in halves}
            metrics = RunFolder(folder).metrics
            torn |= {"metrics"} if metrics.exists() and not metrics.read_bytes().endswith(b"\n") else set()
            doomed.begin_or_go_on(given, folder)
            assert outcome(folder) == expected
    assert torn == {"environment", "run", "config", "checkpoint", "metrics", "model", "result"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("place", "count", "step"), [("step", 31, 32), ("epoch", 4, 36)])
def test_a_signal_saves_and_says_how_to_go_on(number, place, count, step, uninterrupted, tmp_path):
    given, expected = uninterrupted("epochs=20", "checkpoints.steps=0", "checkpoints.epochs=1000")
    folder = tmp_path / "stopped"
    with doomed.Child(given, folder, doomed.held_until_a_signal, place, count) as child:
        assert child.hear() == "there"
        child.kill(number)
        word, code = child.end()
    assert code == 0
    assert word[0] == number
    assert f"apical resume {folder}" in word[1]
    assert RunFolder(folder).checkpoints.latest().content["step"] == step
    resume(folder, task=doomed.blobs())
    assert outcome(folder) == expected


def test_a_second_signal_does_not_wait(tmp_path, monkeypatch):
    given = doomed.config(tmp_path)

    def twice(training):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("apical.study.training.loop.Training.check_weights", twice)
    with pytest.raises(KeyboardInterrupt) as caught:
        train(given, tmp_path / "run", task=doomed.blobs())
    assert not isinstance(caught.value, Interrupted)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """A run that was stopped within its third epoch, and its configuration."""

    def stop(*settings):
        given = doomed.config(tmp_path, "epochs=5", *settings)

        def step(bar, steps):
            if steps == 23:
                signal.raise_signal(signal.SIGTERM)

        with monkeypatch.context() as patch:
            patch.setattr(display.Bar, "step", step)
            with pytest.raises(Interrupted) as caught:
                train(given, tmp_path / "run", task=doomed.blobs())
        assert "step 24 (epoch 3 of 5)" in str(caught.value)
        return given

    return stop


@pytest.mark.parametrize("name", protections.names())
def test_every_protection_resumes_in_the_second_task(name, uninterrupted, tmp_path, monkeypatch):
    model = ["model=mlp:12"] if name == "owm" else []  # which knows no norms
    given, expected = uninterrupted("stream=split", "stream.scenario=task", "epochs=3", f"protect={name}", *model)

    def step(bar, steps):
        if steps == 17:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(display.Bar, "step", step)
        with pytest.raises(Interrupted):
            train(given, tmp_path / "run", task=doomed.blobs())
    resume(tmp_path / "run", task=doomed.blobs())
    assert outcome(tmp_path / "run") == expected


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [damage, lambda path: path.write_bytes(path.read_bytes()[:100])])
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(harm, stopped, uninterrupted, tmp_path, caplog):
    stopped()
    _, expected = uninterrupted("epochs=5")
    newest = RunFolder(tmp_path / "run").checkpoints.paths()[-1]
    harm(newest)
    with caplog.at_level(logging.WARNING, "apical"):
        result = resume(tmp_path / "run", task=doomed.blobs())
    assert f"checkpoint {newest.name} is damaged" in caplog.text
    assert f"checkpoint {newest.name} is damaged" in result.notes[0]
    assert {**outcome(tmp_path / "run"), "result": None} == {**expected, "result": None}
    assert result.to_dict() == {**expected["result"], "notes": result.notes}


def test_with_all_checkpoints_damaged_it_says_so(stopped, tmp_path):
    stopped()
    paths = RunFolder(tmp_path / "run").checkpoints.paths()
    for path in paths:
        damage(path)
    with pytest.raises(CheckpointError) as caught:
        resume(tmp_path / "run", task=doomed.blobs())
    assert all(path.name in str(caught.value) for path in paths)


def test_half_a_line_of_metrics_is_dropped(stopped, uninterrupted, tmp_path):
    stopped()
    _, expected = uninterrupted("epochs=5")
    for name in ("metrics.jsonl", "timing.jsonl"):
        with (tmp_path / "run" / name).open("a") as file:
            file.write('{"epoch": 3, "st')
    resume(tmp_path / "run", task=doomed.blobs())
    assert outcome(tmp_path / "run") == expected
    assert [line["epoch"] for line in RunFolder(tmp_path / "run").epochs()] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda text: b"", "the records of the epochs 1, 2 are lost"),
        (lambda text: text.replace(b"{", b"\xff{", 1), "the records of the epochs 1 are lost"),
        (lambda text: text.replace(b'"train_loss": 1', b'"train_loss": 7', 1), "its records may be wrong"),
        (lambda text: b"\n\n" + text[2:], "the records of the epochs 1 are lost"),
    ],
)
def test_damaged_metrics_are_told_and_the_weights_are_the_same(harm, says, stopped, uninterrupted, tmp_path):
    stopped()
    _, expected = uninterrupted("epochs=5")
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.write_bytes(harm(metrics.read_bytes()))
    result = resume(tmp_path / "run", task=doomed.blobs())
    assert says in result.notes[0]
    found = outcome(tmp_path / "run")
    assert found["model"] == expected["model"]
    assert found["result"] == {**expected["result"], "notes": list(result.notes)}
    assert [record["epoch"] for record in RunFolder(tmp_path / "run").epochs()][-3:] == [3, 4, 5]


def rolled():
    """The same examples, but for the inputs behind the first thousand, which have other labels now."""
    task = doomed.blobs(1500)
    task.train.x[1000:] = task.train.x[1000:].roll(1, 0)
    return task


def test_a_run_does_not_go_on_with_other_data(stopped, tmp_path, monkeypatch):
    stopped()
    with pytest.raises(RunError, match=r"not what it was: its data changed \(train: 144 then, 216 now.*--changed"):
        resume(tmp_path / "run", task=doomed.blobs(300))
    with pytest.raises(RunError, match=r"its data changed \(values or labels differ\)\. Train again"):
        resume(tmp_path / "run", task=doomed.blobs(seed=1))
    with pytest.raises(RunError, match="pass it as task"):
        resume(tmp_path / "run")


def test_every_input_and_label_is_in_the_fingerprint():
    digests = {fingerprint.of_data(doomed.blobs(1500)), fingerprint.of_data(rolled())}
    task = doomed.blobs(1500)
    assert fingerprint.of_data(task) in digests
    for part in (task.train, task.test):
        for place in range(0, part.x.numel(), 997):
            part.x.view(-1)[place] += 1  # in place: what is known of the task is of another version
            digests.add(fingerprint.of_data(task))
        part.y[-1] = (part.y[-1] + 1) % 4
        digests.add(fingerprint.of_data(task))
    places = sum(len(range(0, part.x.numel(), 997)) + 1 for part in (task.train, task.test))
    assert len(digests) == 2 + places


def test_data_in_memory_are_read_once(monkeypatch):
    task = doomed.blobs()
    first = fingerprint.of_data(task)
    monkeypatch.setattr(fingerprint, "_of_tensors", None)
    assert fingerprint.of_data(task) == first


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda folder: (folder / "net.py").write_text(doomed.NET.replace("0.3", "0.31")), "its network changed"),
        (lambda folder: (folder / "net.py").write_text(doomed.NET.replace("24", "25")), "its initial weights changed"),
        (lambda folder: settings(folder, "epochs = 5", "epochs = 6"), "its settings changed"),
        (lambda folder: settings(folder, "threads = 1", "threads = 0"), "its settings changed"),
    ],
)
def test_a_run_does_not_go_on_with_another_network_or_other_settings(harm, says, stopped, tmp_path):
    stopped()
    harm(tmp_path)
    with pytest.raises(RunError, match=says):
        resume(tmp_path / "run", task=doomed.blobs())


def settings(folder, old, new):
    path = folder / "run" / "config.toml"
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize("key", ["rule", "apical", "torch", "numpy"])
def test_a_run_does_not_go_on_by_another_rule_or_version_unless_told(key, stopped, tmp_path, monkeypatch):
    stopped()
    describe = fingerprint.describe
    monkeypatch.setattr(fingerprint, "describe", lambda *made_of: {**describe(*made_of), key: "9.9"})
    says = "its rule changed" if key == "rule" else rf"{key} \S+ then, 9\.9 now"
    with pytest.raises(RunError, match=f"not what it was: {says}. Train again"):
        resume(tmp_path / "run", task=doomed.blobs())
    result = resume(tmp_path / "run", task=doomed.blobs(), changed=True)
    assert re.search(says, result.notes[0])


def test_the_source_of_a_rule_and_of_its_bases_is_in_the_fingerprint(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(doomed.NET)
    (tmp_path / "own.py").write_text("from based import Base\nclass Rule(Base): pass\n")
    (tmp_path / "based.py").write_text("import apical\nclass Base(apical.KolenPollack): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    given = doomed.config(tmp_path, f"rule={tmp_path}/own.py:Rule")

    def of_rule():
        return fingerprint.describe(given, doomed.blobs(), nn.Linear(1, 1), nn.Identity(), given.rule.make())["rule"]

    found = [of_rule()]
    for name in ("own.py", "based.py"):
        (tmp_path / name).write_text((tmp_path / name).read_text() + "# another\n")
        found.append(of_rule())
    sys.modules.pop("based")
    assert len(set(found)) == 3


def test_a_run_of_before_fingerprints_goes_on_when_told(stopped, tmp_path):
    stopped()
    about = tmp_path / "run" / "run.json"
    content = json.loads(about.read_text())
    del content["fingerprint"], content["digest"]
    about.write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"keeps no fingerprint, as it is of an earlier apical.*Train again.*--changed"):
        resume(tmp_path / "run", task=doomed.blobs())
    assert "keeps no fingerprint" in resume(tmp_path / "run", task=doomed.blobs(), changed=True).notes[0]


def test_weights_that_do_not_fit_are_refused(stopped, tmp_path):
    stopped()
    (tmp_path / "net.py").write_text(doomed.NET.replace("16", "17"))
    with pytest.raises(CheckpointError, match="another network"):
        resume(tmp_path / "run", task=doomed.blobs(), changed=True)


@pytest.mark.parametrize("key", STATE)
def test_a_state_without_a_part_is_refused(key, stopped, tmp_path):
    """A checkpoint whose digest is right, as any program can write it."""
    stopped()
    checkpoints = RunFolder(tmp_path / "run").checkpoints
    content = dict(checkpoints.latest().content)
    checkpoints.save({**content, key: "none"})
    with pytest.raises(CheckpointError, match=f"no '{key}' of its type"):
        resume(tmp_path / "run", task=doomed.blobs())
    with pytest.raises(CheckpointError, match=f"no '{key}' of its type"):
        evaluate(tmp_path / "run", task=doomed.blobs())


@pytest.mark.parametrize("key", ["order", "choices", "random", "loss_sum"])
def test_a_state_of_another_form_is_refused(key, stopped, tmp_path):
    stopped()
    checkpoints = RunFolder(tmp_path / "run").checkpoints
    checkpoints.save({**checkpoints.latest().content, key: torch.zeros(3, 3)})
    with pytest.raises(CheckpointError, match="the checkpoint is of another"):
        resume(tmp_path / "run", task=doomed.blobs())


@pytest.mark.parametrize("key", ["task", "epoch", "first_epoch", "first_step", "best_epoch", "position"])
@pytest.mark.parametrize("place", [-1, 10**9])
def test_a_state_beyond_the_run_is_refused(key, place, stopped, tmp_path):
    """An epoch beyond the last one would never come to it."""
    stopped()
    checkpoints = RunFolder(tmp_path / "run").checkpoints
    checkpoints.save({**checkpoints.latest().content, key: place})
    with pytest.raises(CheckpointError, match="at a place that this run does not have"):
        resume(tmp_path / "run", task=doomed.blobs())


def test_a_checkpoint_without_the_length_of_the_metrics_is_refused(stopped, tmp_path):
    stopped()
    checkpoints = RunFolder(tmp_path / "run").checkpoints
    for size in ("none", None, [1]):
        checkpoints.save({**checkpoints.latest().content, "metrics_size": size})
        with pytest.raises(CheckpointError, match="the checkpoint is of another"):
            resume(tmp_path / "run", task=doomed.blobs())


def test_another_environment_is_noted(stopped, tmp_path, monkeypatch):
    stopped()
    monkeypatch.setattr("apical.study.runs.environment.cpu_name", lambda: "abacus")
    assert "abacus now" in resume(tmp_path / "run", task=doomed.blobs()).notes[0]


def test_a_finished_run_is_not_gone_on_with(tmp_path):
    train(doomed.config(tmp_path, "epochs=1"), tmp_path / "run", task=doomed.blobs())
    with pytest.raises(RunError, match=r"has finished: apical evaluate"):
        resume(tmp_path / "run", task=doomed.blobs())


def test_what_is_no_run_is_not_gone_on_with(tmp_path):
    with pytest.raises(RunError, match="does not exist"):
        resume(tmp_path / "none")
    with pytest.raises(RunError, match=r"holds no config\.toml"):
        resume(tmp_path)


def test_two_processes_do_not_share_a_run(tmp_path):
    folder = tmp_path / "run"
    with doomed.Child(doomed.config(tmp_path), folder, doomed.held_after, 1, 1) as child:
        assert child.hear() == "there"
        with pytest.raises(RunError, match=f"in use by process {child.process.pid} "):
            resume(folder, task=doomed.blobs())
        child.kill()
        assert child.end() == (None, -signal.SIGKILL)
    with RunFolder(folder).locked():
        pass


SCRIPT = """
import sys
from apical.study import Config, train
from apical.study.training.loop import Training

def end_epoch(training, original=Training.end_epoch):
    if training.epoch == 3:
        sys.stdin.read()
    return original(training)

Training.end_epoch = end_epoch
train(Config().with_settings(["epochs=1000", "threads=1"]), sys.argv[1])
"""


def test_a_program_of_its_own_is_killed_too(tmp_path):
    """Digits, as anyone would train on them; what it had learned by then is a prefix of what comes."""
    folder = tmp_path / "run"
    with program("-c", SCRIPT, folder) as process:
        process.until(lambda: len(RunFolder(folder).epochs()) == 3, "the third epoch")
        process.kill()
    done = RunFolder(folder).checkpoints.latest().content["epoch"]
    config = RunFolder(folder).config().with_values({"epochs": done + 1})
    train(config, tmp_path / "whole")
    (folder / "config.toml").write_text(config.to_toml())
    result = resume(folder, changed=True)
    assert "its settings changed" in result.notes[0]
    found, whole = outcome(folder), outcome(tmp_path / "whole")
    assert found == {**whole, "result": {**whole["result"], "notes": list(result.notes)}}
