"""A run's weights on its own test set, and on other data."""

import json

import doomed
import numpy as np
import pytest
import torch

from apical import data
from apical.errors import CheckpointError, DataError, RunError
from apical.study import Config, Interrupted, RunFolder, evaluate, train
from apical.study.runs import display


@pytest.fixture
def arrays(tmp_path):
    """Raw values far from standard, whose test part has statistics of its own."""
    generator = np.random.default_rng(0)
    y = np.arange(300) % 3
    x = 50.0 + 10.0 * np.eye(3)[y] @ generator.normal(size=(3, 6)) + 5 * generator.normal(size=(300, 6))
    x[200:] *= 1.1
    path = tmp_path / "train.npz"
    np.savez(path, x_train=x[:200], y_train=y[:200], x_test=x[200:], y_test=y[200:])
    return path, x, y


@pytest.fixture
def trained(arrays, tmp_path):
    settings = [f"task=npz:{arrays[0]}", "model=mlp:8", "epochs=5", "threads=1", "rule=direct_feedback_alignment"]
    return train(Config().with_settings(settings), tmp_path / "run")


def test_the_runs_own_test_set_gives_the_runs_own_numbers(trained):
    evaluation = evaluate(trained.folder)
    assert (evaluation.loss, evaluation.accuracy) == (trained.test_loss, trained.test_accuracy)
    assert (evaluation.examples, evaluation.finished, evaluation.epoch) == (100, True, 5)
    weighted = np.average(evaluation.by_class, weights=np.bincount(np.arange(200, 300) % 3))
    assert weighted == pytest.approx(evaluation.accuracy)


def test_other_data_are_standardised_as_the_training_data_were(trained, arrays, tmp_path):
    _, x, y = arrays
    generator = np.random.default_rng(1)
    other = tmp_path / "other.npz"
    np.savez(other, x_train=generator.normal(size=(9, 6)), y_train=np.arange(9) % 3, x_test=x[200:], y_test=y[200:])
    evaluation = evaluate(trained.folder, task=f"npz:{other}")
    assert evaluation.accuracy == trained.test_accuracy
    assert evaluation.loss == pytest.approx(trained.test_loss, rel=1e-6)


@pytest.mark.parametrize("pair", [False, True])
def test_a_file_that_was_exchanged_is_refused_or_scaled_as_the_runs_own_was(pair, trained, arrays, tmp_path):
    """In other units, as after another conversion: the network expects those that it learned with."""
    path, x, y = arrays
    parts = (
        {"x": x, "y": y} if pair else {"x_train": x[:200] * 3, "y_train": y[:200], "x_test": x[200:], "y_test": y[200:]}
    )
    np.savez(path, **parts)
    with pytest.raises(RunError, match=r"not what it was: its data changed\. Train again .*--changed"):
        evaluate(trained.folder)
    evaluation = evaluate(trained.folder, changed=True)
    assert "its data changed" in evaluation.notes[0]
    assert evaluation.examples == (60 if pair else 100)
    if not pair:
        assert evaluation.accuracy == trained.test_accuracy
        assert evaluation.loss == pytest.approx(trained.test_loss, rel=1e-6)


@pytest.mark.parametrize(("name", "read"), [("run.json", "task"), ("result.json", "result")])
def test_no_byte_of_a_document_changes_unnoticed(name, read, trained):
    """One changed to a letter, another digit, or something that is no text."""
    path = trained.folder / name
    written = path.read_bytes()
    for place in range(0, len(written), 11):
        for byte in (b"7", b"e", b"\xff"):
            harmed = written[:place] + byte + written[place + 1 :]
            path.write_bytes(harmed)
            if not same(harmed, written):
                with pytest.raises(RunError, match=f"{name} (is missing or damaged|was changed|is damaged)"):
                    getattr(RunFolder(trained.folder), read)()


def same(text, other):
    """Whether two texts are the same to JSON: a blank at another place, the last digits of a number."""
    try:
        return json.loads(text) == json.loads(other)
    except ValueError:
        return False


def test_data_given_from_python(trained, arrays):
    task = data.load(f"npz:{arrays[0]}")
    assert evaluate(trained.folder, task=task).accuracy == trained.test_accuracy


def test_a_class_without_an_example_has_no_accuracy(trained, arrays, tmp_path):
    _, x, y = arrays
    other = tmp_path / "two.npz"
    two = y[200:] < 2
    np.savez(other, x_train=x[:99], y_train=y[:99] % 2, x_test=x[200:][two], y_test=y[200:][two])
    by_class = evaluate(trained.folder, task=f"npz:{other}").by_class
    assert by_class[2] is None
    assert None not in by_class[:2]


@pytest.mark.parametrize(
    ("columns", "classes", "says"),
    [(5, 3, r"shape \(5,\)"), (6, 4, "has the class 3, and the network knows the classes 0 to 2")],
)
def test_data_that_do_not_fit_the_network(trained, tmp_path, columns, classes, says):
    other = tmp_path / "other.npz"
    x, y = np.random.default_rng(0).normal(size=(40, columns)), np.arange(40) % classes
    np.savez(other, x=x, y=y)
    with pytest.raises(DataError, match=says):
        evaluate(trained.folder, task=f"npz:{other}")


def test_data_from_python_of_another_shape(trained):
    with pytest.raises(DataError, match=r"shape \(10,\), and the run was trained on \(6,\)"):
        evaluate(trained.folder, task=doomed.blobs())


def test_a_run_that_is_still_training(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(display.Bar, "step", lambda bar, steps: doomed.signal.raise_signal(15) if steps == 15 else None)
        with pytest.raises(Interrupted):
            train(doomed.config(tmp_path, "epochs=5"), tmp_path / "run", task=doomed.blobs())
    evaluation = evaluate(tmp_path / "run", task=doomed.blobs())
    assert (evaluation.epoch, evaluation.finished) == (1, False)


def test_early_stopping_leaves_the_best_weights_for_evaluation(tmp_path):
    given = doomed.config(tmp_path, "epochs=100", "patience=2", "optimizer.lr=0.3")
    result = train(given, tmp_path / "run", task=doomed.blobs())
    evaluation = evaluate(tmp_path / "run", task=doomed.blobs())
    assert result.tested_epoch < result.epochs
    assert (evaluation.epoch, evaluation.loss) == (result.tested_epoch, result.test_loss)


def test_what_cannot_be_evaluated(trained, tmp_path):
    with pytest.raises(RunError, match="does not exist"):
        evaluate(tmp_path / "none")
    config = trained.folder / "config.toml"
    written = config.read_text()
    config.write_text(written.replace("mlp:8", "mlp:9"))
    with pytest.raises(RunError, match="its network changed; its initial weights changed; its settings changed"):
        evaluate(trained.folder)
    with pytest.raises(CheckpointError, match="another network"):
        evaluate(trained.folder, changed=True)
    config.write_text(written)
    checkpoints = RunFolder(trained.folder).checkpoints.paths()
    for path in checkpoints:
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="damaged"):
        evaluate(trained.folder)
    for path in checkpoints:
        path.unlink()
    with pytest.raises(RunError, match="has no checkpoint yet"):
        evaluate(trained.folder)


def test_an_earlier_checkpoint_is_measured_with_a_note(trained):
    path = RunFolder(trained.folder).checkpoints.paths()[-1]
    path.write_bytes(path.read_bytes()[:-1])
    evaluation = evaluate(trained.folder)
    assert evaluation.epoch == 4
    assert f"damaged checkpoints ({path.name})" in evaluation.notes[0]
    path.unlink()
    assert "has lost its last checkpoint" in evaluate(trained.folder).notes[0]


def test_the_weights_that_are_left_are_the_plain_models(trained):
    from apical.study import build

    model = build("mlp:8", input_shape=(6,), classes=3, seed=0)
    model.load_state_dict(torch.load(trained.folder / "model.pt", weights_only=True))
    task = data.load(RunFolder(trained.folder).config().task)
    with torch.no_grad():
        accuracy = (model(task.test.x).argmax(1) == task.test.y).double().mean().item()
    assert accuracy == pytest.approx(trained.test_accuracy)
