"""The task of a run: loaded by name or given, and described for readers of the run."""

from typing import Any

import numpy as np
import torch

from apical import continual, data
from apical.errors import RunError
from apical.study.configuration.config import OWN_TASK, Config
from apical.study.runs import display
from apical.study.runs.folder import RunFolder


def load(
    config: Config, own: data.Task | continual.Stream | None, *, progress: bool | None
) -> data.Task | continual.Stream:
    """The task that `config` names, or the user's own where it says so.

    Raises:
        DataError: it cannot be had.
        RunError: it is the user's own and was not given.
    """
    if own is not None:
        return own
    if config.task.startswith(OWN_TASK):
        raise RunError(f"task {config.task!r} is data of your own: pass it as task=... from Python")
    return data.load(config.task, progress=display.visible(progress))


def describe(
    task: data.Task | continual.Stream, stream: continual.Stream, *, train: int, validation: int
) -> dict[str, Any]:
    """The record that a run folder keeps of its data.

    Args:
        task: the data, or the user's own stream.
        stream: what is learned.
        train: the number of training examples of the first task.
        validation: the number of examples held out of them.
    """
    scaling = task.scaling if isinstance(task, data.Task) else None
    record = {
        "name": task.name,
        "train": train,
        "validation": validation,
        "test": len(task.test) if isinstance(task, data.Task) else sum(len(each.test) for each in stream),
        "classes": stream.outputs,
        "input_shape": list(stream.input_shape),
        "source": task.source if isinstance(task, data.Task) else "",
        "licence": task.licence if isinstance(task, data.Task) else "",
        "scaling": scaling and {"mean": scaling.mean.tolist(), "std": scaling.std.tolist()},
    }
    if isinstance(task, data.Task):
        for part, examples in (("train", task.train), ("test", task.test)):
            record[f"{part}_by_class"] = torch.bincount(examples.y.cpu(), minlength=task.classes).tolist()
    if len(stream) > 1:
        record["stream"] = {
            "name": stream.name,
            "classes": task.classes if isinstance(task, data.Task) else stream.outputs,  # before they were cut
            "scenario": stream.scenario,
            "tasks": [each.name for each in stream],
            "labels": [list(own) for own in stream.labels],
            "boundaries": stream.boundaries,
            "joint": stream.joint,
        }
    return record


def scaling_of(run: RunFolder) -> data.Scaling:
    """The statistics that standardised the run's data, for other data that its weights are tried on.

    Data of the user's own that nothing standardised give one that changes nothing.
    """
    stored = run.task()["scaling"] or {"mean": 0.0, "std": 1.0}
    return data.Scaling(np.asarray(stored["mean"], np.float64), np.asarray(stored["std"], np.float64))


def sizes(then: dict[str, Any], now: dict[str, Any]) -> str:
    """In what two records (`describe`) of data differ: "train: 144 then, 216 now"; else that it is in the values."""
    different = [key for key in ("train", "validation", "test", "classes", "input_shape") if then.get(key) != now[key]]
    return ", ".join(f"{key}: {then.get(key)} then, {now[key]} now" for key in different) or "values or labels differ"
