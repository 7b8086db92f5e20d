"""Streams of tasks through the trainer: a plain task is a stream of one, and the matrix is that of a plain loop."""

import json

import doomed
import pytest
import torch
from torch.nn import functional as F

from apical import continual, data
from apical.errors import ConfigError, DataError, NonFiniteError, RunError
from apical.models import build
from apical.study import Config, RunFolder, evaluate, resume, train
from apical.study.comparison.gathering import gather
from apical.study.training.making import seed_for


def settings(*changes):
    return Config().with_settings(
        ["task=own:blobs", "model=mlp:12", "batch_size=16", "threads=1", "epochs=3", "stream=split", *changes]
    )


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_the_matrix_is_that_of_a_plain_loop(scenario, tmp_path):
    result = train(
        settings(f"stream.scenario={scenario}", "optimizer.momentum=0"), tmp_path / "run", task=doomed.blobs()
    )
    stream = continual.split(doomed.blobs(), scenario=scenario, validation=0.1, seed=seed_for(0, "validation"))
    model = build("mlp:12", input_shape=(10,), classes=stream.outputs, seed=seed_for(0, "weights"))
    order = torch.Generator().manual_seed(seed_for(0, "order"))

    def accuracies():
        with torch.no_grad():
            return [
                (task.restrict(model(task.test.x)).argmax(1) == task.test.y).double().mean().item() for task in stream
            ]

    before, rows = accuracies(), []
    for task in stream:
        for _ in range(3):
            for x, y in data.batches(task.train, 16, generator=order, drop_last=True):
                model.zero_grad()
                F.cross_entropy(task.restrict(model(x)), y).backward()
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter -= 0.05 * parameter.grad
        rows.append(accuracies())
    assert result.stream.before == pytest.approx(before)
    assert [list(row) for row in result.stream.matrix] == [pytest.approx(row) for row in rows]
    assert result.test_accuracy == pytest.approx(sum(rows[-1]) / 2)
    expected = continual.metrics(rows, before=before)
    assert result.stream.metrics["forgetting_max"] == pytest.approx(expected.forgetting_max)
    assert result.stream.metrics["forward_transfer"] == pytest.approx(expected.forward_transfer)


def test_a_stream_of_one_is_the_plain_task(tmp_path):
    plain = train(settings("stream=single"), tmp_path / "plain", task=doomed.blobs())
    one = train(settings("stream.classes_per_task=4"), tmp_path / "one", task=doomed.blobs())
    assert plain.to_dict() == one.to_dict()
    assert (tmp_path / "plain/metrics.jsonl").read_bytes() == (tmp_path / "one/metrics.jsonl").read_bytes()
    assert plain.stream is None


def test_records_and_result_tell_of_every_task(tmp_path):
    result = train(settings(), tmp_path / "run", task=doomed.blobs())
    run = RunFolder(tmp_path / "run")
    assert [record["task"] for record in run.epochs()] == [0, 0, 0, 1, 1, 1]
    assert [record["epoch"] for record in run.epochs()] == [1, 2, 3, 4, 5, 6]
    tested = [record["tested"] for record in run.epochs() if record["tested"]]
    assert tested == [list(row) for row in result.stream.matrix]
    assert run.task()["stream"]["labels"] == [[0, 1], [2, 3]]
    assert json.loads((tmp_path / "run/result.json").read_text())["stream"]["matrix"] == tested
    assert result.stream.leakage["leaks"] is False
    assert result.stream.assumptions["samples"] == 0


def test_early_stopping_is_of_each_task(tmp_path):
    result = train(settings("epochs=60", "patience=2", "optimizer.lr=0.5"), tmp_path / "run", task=doomed.blobs())
    per_task = [record["task"] for record in RunFolder(tmp_path / "run").epochs()]
    assert 3 <= per_task.count(0) < 60
    assert 3 <= per_task.count(1) < 60
    assert len(result.stream.matrix) == 2


def test_joint_training_learns_all_tasks_at_once(tmp_path):
    result = train(settings("stream.joint=true", "epochs=10"), tmp_path / "run", task=doomed.blobs())
    assert len(result.stream.matrix) == 1
    assert len(result.stream.matrix[0]) == 2
    assert result.test_accuracy > 0.6
    assert result.stream.metrics.keys() == {"accuracy"}


def test_a_schedule_begins_with_every_task(tmp_path):
    train(settings("schedule=step", "schedule.every=1"), tmp_path / "run", task=doomed.blobs())
    rates = [record["learning_rate"] for record in RunFolder(tmp_path / "run").epochs()]
    assert rates == pytest.approx([0.05, 0.005, 0.0005] * 2)


def test_a_stream_of_ones_own(tmp_path):
    stream = continual.from_tasks(
        [(doomed.blobs(seed=seed).train, doomed.blobs(seed=seed).test) for seed in (0, 1)], separate=True
    )
    given = settings("stream=single")
    result = train(given, tmp_path / "run", task=stream)
    assert len(result.stream.matrix) == 2
    with pytest.raises(RunError, match="of your own"):
        evaluate(tmp_path / "run")
    again = evaluate(tmp_path / "run", task=stream)
    assert again.examples == 80
    assert len(again.by_class) == 8
    other = continual.from_tasks([(doomed.blobs(seed=2).train, doomed.blobs(seed=2).test)] * 2, separate=True)
    (tmp_path / "run/result.json").unlink()
    with pytest.raises(RunError, match="its data changed"):
        resume(tmp_path / "run", task=other)


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("stream.scenario=task",),
        ("stream.scenario=domain",),
        ("stream=permuted", "stream.tasks=2"),
        ("stream=permuted", "stream.tasks=2", "stream.scenario=class"),
        ("stream=single",),
    ],
)
def test_evaluating_a_run_finds_what_it_tested(changes, tmp_path):
    result = train(settings(*changes), tmp_path / "run", task=doomed.blobs())
    evaluation = evaluate(tmp_path / "run", task=doomed.blobs())
    assert evaluation.accuracy == pytest.approx(result.test_accuracy)  # tasks of one size: the mean is the mean
    assert evaluation.loss == pytest.approx(result.test_loss)
    assert evaluation.leakage["leaks"] is False


def test_a_protection_sees_the_scenario_of_a_stream_of_ones_own(tmp_path):
    stream = continual.split(doomed.blobs(), scenario="task")
    result = train(settings("stream=single", "protect=xdg"), tmp_path / "run", task=stream)
    assert result.stream.assumptions["identity"] is True
    (found,) = gather([tmp_path / "run"])
    assert "context-dependent gating" in found.arms[0].title.lower()
    for changes, fact in ((["stream=split"], "stream"), (["stream=single", "patience=2"], "patience")):
        with pytest.raises(ConfigError, match=f"^{fact}: "):
            train(settings(*changes), tmp_path / "other", task=stream)
    with pytest.raises(ConfigError, match="xdg"):
        train(settings("stream=single", "protect=xdg"), tmp_path / "other", task=continual.split(doomed.blobs()))


def test_a_rule_with_a_loss_of_its_own_learns_where_the_outputs_of_one_task_compete(tmp_path):
    given = settings("rule=equilibrium_propagation", "stream.scenario=task", "epochs=1")
    assert len(train(given, tmp_path / "run", task=doomed.blobs()).stream.matrix) == 2


def test_divergence_names_the_protection(tmp_path):
    with pytest.raises(NonFiniteError, match="apical protections ewc"):
        train(settings("protect=ewc", "protect.strength=1e20"), tmp_path / "run", task=doomed.blobs())


def test_evaluating_finds_a_leak(tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "class Centred(nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x - x.mean(0)\n"
        "def make(input_shape, classes):\n"
        "    return nn.Sequential(Centred(), nn.Linear(input_shape[0], 8), nn.Tanh(), nn.Linear(8, classes))\n"
    )
    train(settings(f"model={tmp_path}/net.py:make", "stream=single"), tmp_path / "run", task=doomed.blobs())
    assert evaluate(tmp_path / "run", task=doomed.blobs()).leakage["leaks"] is True


@pytest.mark.parametrize(
    ("changes", "error", "fact"),
    [
        (["stream.classes_per_task=3"], ConfigError, "cannot be cut"),
        (["stream.classes_per_task=2.0"], ConfigError, "classes_per_task"),
        (["stream.classes=[0, 1]"], ConfigError, "stream.classes"),
        (["stream.classes=[[0, 1], [2.5]]"], ConfigError, "stream.classes"),
        (["stream=permuted", "stream.tasks=2.0"], ConfigError, "stream.tasks"),
        (["stream=rotated", "stream.angles=45"], ConfigError, "stream.angles"),
        (["stream.scenario=time"], ConfigError, "stream.scenario.*allowed: task, domain, class$"),
        (["protect=ewc", "protect.samples=10.0"], ConfigError, "protect.samples"),
        (["protect=ewc", "stream.joint=true"], ConfigError, "ewc"),
        (["protect=xdg", "stream.scenario=task", "stream.joint=true"], ConfigError, "xdg"),
        (["protect=replay", "stream=single"], ConfigError, "nothing to protect"),
        (["protect=replay", "stream.classes_per_task=4"], ConfigError, "nothing to protect"),
        (["stream.size=3"], ConfigError, "size"),
        (["stream=one_class", "stream.scenario=task"], ConfigError, "one scenario"),
        (["stream=rotated"], DataError, "rotated"),
        (["protect=nothing"], ConfigError, "nothing"),
    ],
)
def test_what_cannot_be_a_stream_is_refused_before_training(changes, error, fact, tmp_path):
    with pytest.raises(error, match=fact):
        train(settings(*changes), tmp_path / "run", task=doomed.blobs())
    assert not (tmp_path / "run").exists()
