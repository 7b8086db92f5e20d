"""What a run shows: nothing where nobody looks, a bar when asked, scalars for TensorBoard."""

import sys

import doomed
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from apical.errors import ConfigError
from apical.study import RunFolder, resume, train
from apical.study.runs import display


@pytest.fixture
def given(tmp_path):
    return doomed.config(tmp_path, "epochs=4")


@pytest.mark.parametrize("progress", [None, False])
def test_nothing_is_shown_where_no_terminal_is(progress, given, tmp_path, capfd):
    train(given, tmp_path / "run", task=doomed.blobs(), progress=progress)
    assert capfd.readouterr() == ("", "")


def test_a_bar_is_shown_when_asked_and_on_standard_error(given, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(display, "REFRESH", 0.0)
    train(given, tmp_path / "run", task=doomed.blobs(), progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "backprop" in err
    assert "epoch 4" in err
    assert "validation" in err
    assert "36/36" in err.replace("\x1b[32m", "").replace("\x1b[0m", "")


def scalars(folder):
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_gets_the_records(given, tmp_path):
    train(given.with_values({"log": "tensorboard"}), tmp_path / "run", task=doomed.blobs())
    shown = scalars(tmp_path / "run")
    records = RunFolder(tmp_path / "run").epochs()
    for tag, key in (("loss/train", "train_loss"), ("accuracy/validation", "validation_accuracy")):
        assert shown[tag] == [(record["step"], pytest.approx(record[key])) for record in records]
    assert [step for step, _ in shown["angle/0"]] == [18, 36]


@pytest.mark.parametrize("saved", [2, 4])
def test_a_resumed_run_shows_every_step_once(saved, given, tmp_path, monkeypatch):
    given = given.with_values({"log": "tensorboard", "checkpoints.epochs": saved, "checkpoints.steps": 0})
    original = display.Scalars.epoch

    def die(self, record):
        original(self, record)
        if record["epoch"] == 3:
            raise ZeroDivisionError  # any sudden end

    with monkeypatch.context() as patch:
        patch.setattr(display.Scalars, "epoch", die)
        with pytest.raises(ZeroDivisionError):
            train(given, tmp_path / "run", task=doomed.blobs())
    resume(tmp_path / "run", task=doomed.blobs())
    assert [step for step, _ in scalars(tmp_path / "run")["loss/train"]] == [9, 18, 27, 36]


def test_without_the_package_it_says_what_to_install(given, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install \"apical\[tensorboard\]\""):
        train(given.with_values({"log": "tensorboard"}), tmp_path / "run", task=doomed.blobs())
    assert not (tmp_path / "run").exists()
