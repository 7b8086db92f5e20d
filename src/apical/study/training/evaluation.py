"""A run's weights, measured on its own test set or on other data."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from apical import continual, data
from apical.errors import DataError, RunError
from apical.study.runs import fingerprint, task_record
from apical.study.runs.checkpoints import Checkpoint
from apical.study.runs.folder import RunFolder
from apical.study.runs.results import Evaluation
from apical.study.training import testing
from apical.study.training.criteria import LOSSES
from apical.study.training.loop import check_state
from apical.study.training.making import load_circuit, make_circuit, make_stream, reproducible


def evaluate(
    folder: str | Path, *, task: str | data.Task | continual.Stream | None = None, changed: bool = False
) -> Evaluation:
    """Measure the weights of a run: of a finished one those that it tested, else those of the last checkpoint.

    It also looks for a leak (`apical.measure.leakage`): whether answers depend on how the examples are cut
    into batches.

    Args:
        folder: of the run, which may still be training.
        task: whose test part to use: None for the run's own task, a name (`npz:PATH` for a file), or data. Named
            data are standardised with the statistics of the run's training data, as the network expects.
        changed: go on although network, rule, settings, versions or (without `task`) data are not those it was made
            with, with a note in what is returned.

    Raises:
        RunError: there is no such run, it has no checkpoint yet, its own task was given from Python, or it is not made
            of what it was.
        CheckpointError: no checkpoint is whole, or it does not fit the network.
        DataError: the data cannot be had, or do not fit the network.
    """
    run = RunFolder.open(folder)
    config, trained_on = run.config(), run.task()
    checkpoint = run.checkpoints.latest()
    if checkpoint is None:
        raise RunError(
            f"{run.path} has no checkpoint yet: wait for its first one, or go on with apical resume {run.path}"
        )
    tried: data.Task | continual.Stream
    scaling = task_record.scaling_of(run)
    if isinstance(task, str):
        tried = data.load(task, scaling=scaling)
    else:
        tried = task_record.load(config, task, progress=None)
    content, own = checkpoint.content, tried
    if changed and task is None and trained_on["scaling"]:
        tried = data.load(config.task, scaling=scaling, parts=True)
    classes = trained_on.get("stream", trained_on)["classes"]
    _check_fit(tried, trained_on, classes)
    loss = LOSSES[config.loss]
    check_state(content)
    if isinstance(tried, data.Task):
        tried = replace(tried, classes=classes)  # the data may lack the last ones
    stream, protection = make_stream(config, tried), config.protect.make()
    with reproducible(config):
        circuit = make_circuit(config, stream, protection)
        made_of = fingerprint.describe(config, own, circuit.model, circuit.encode, circuit.rule)
        if task is not None:
            del made_of["data"]
        found = fingerprint.changes(run.fingerprint(), made_of)
        note = fingerprint.allow(run, found, changed=changed, remedy="Train again (overwrite the run)")
        learner = continual.Learner(
            stream, circuit, config.optimizer.make(list(circuit.parameters())), loss, protection
        )
        load_circuit(circuit, content["best"] or content["circuit"])
        value, correct = testing.together(testing.every_task(learner, loss))
        leakage = testing.leakage(learner)
    labels = torch.cat([own.y for _, own in learner.tests]).to(correct.device)
    by_class = []
    for label in range(trained_on["classes"]):
        answered = correct[labels == label]
        by_class.append(answered.sum().item() / len(answered) if len(answered) else None)
    return Evaluation(
        folder=run.path,
        task=tried.name,
        epoch=content["best_epoch"] or content["epoch"],
        finished=run.result() is not None,
        examples=len(correct),
        loss=value,
        accuracy=correct.sum().item() / len(correct),
        by_class=tuple(by_class),
        leakage=leakage,
        notes=tuple(filter(None, [note, _older(run, checkpoint)])),
    )


def _older(run: RunFolder, checkpoint: Checkpoint) -> str:
    """A note where the weights are not those of the last checkpoint; "" where they are."""
    result, epoch = run.result(), checkpoint.content["epoch"]
    if checkpoint.damaged:
        lost = f"has damaged checkpoints ({', '.join(path.name for path in checkpoint.damaged)})"
    elif result is not None and result["epochs"] != epoch:
        lost = "has lost its last checkpoint"
    else:
        return ""
    return f"{lost}: the weights of {checkpoint.path.name}, after {epoch} epochs, were measured"


def _check_fit(tried: data.Task | continual.Stream, trained_on: dict[str, Any], classes: int) -> None:
    shape = tuple(trained_on["input_shape"])
    if tried.input_shape != shape:
        raise DataError(
            f"{tried.name}: an example has the shape {tried.input_shape}, and the run was trained on {shape} "
            f"({trained_on['name']}); bring the data to that shape"
        )
    parts = [task.test for task in tried] if isinstance(tried, continual.Stream) else [tried.test]
    if not sum(map(len, parts)):
        raise DataError(f"{tried.name}: its test part is empty")
    largest = max(int(part.y.max()) for part in parts)
    if largest >= classes:
        raise DataError(
            f"{tried.name}: has the class {largest}, and the network knows the classes 0 to {classes - 1}; leave the "
            "others out"
        )
