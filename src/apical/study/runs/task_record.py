"""The task of a run: loaded by name or given, described so that a resumed run can tell whether it is the same."""

import hashlib
from typing import Any

import numpy as np
import torch

from apical import data
from apical.errors import RunError
from apical.study.configuration.config import OWN_TASK, Config
from apical.study.runs import display
from apical.study.runs.folder import RunFolder

HASHED = 1000  # examples of each part whose values are in the fingerprint; all labels are


def load(config: Config, own: data.Task | None, *, progress: bool | None) -> data.Task:
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


def describe(task: data.Task, *, train: int, validation: int) -> dict[str, Any]:
    """The record that a run folder keeps of its data.

    Args:
        task: the data.
        train: the number of training examples.
        validation: the number of examples held out of the training part.
    """
    scaling = task.scaling
    return {
        "name": task.name,
        "train": train,
        "validation": validation,
        "test": len(task.test),
        "classes": task.classes,
        "input_shape": list(task.input_shape),
        "source": task.source,
        "licence": task.licence,
        "fingerprint": fingerprint(task),
        "scaling": scaling and {"mean": scaling.mean.tolist(), "std": scaling.std.tolist()},
    }


def scaling_of(run: RunFolder) -> data.Scaling:
    """The statistics that standardised the run's data, for other data that its weights are tried on.

    Data of the user's own that nothing standardised give one that changes nothing.
    """
    stored = run.task()["scaling"] or {"mean": 0.0, "std": 1.0}
    return data.Scaling(np.asarray(stored["mean"], np.float64), np.asarray(stored["std"], np.float64))


def fingerprint(task: data.Task) -> str:
    """A digest of the shapes, the labels, and the first values of both parts."""
    digest = hashlib.sha256(str((task.classes, task.train.x.shape, task.test.x.shape)).encode())
    for part in (task.train, task.test):
        digest.update(part.y.cpu().numpy().tobytes())
        digest.update(part.x[:HASHED].to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_unchanged(run: RunFolder, now: dict[str, Any]) -> None:
    """Make sure that a run continues with the data with which it started.

    Args:
        run: its folder.
        now: the record (`describe`) of the data that it would continue with.

    Raises:
        RunError: they differ.
    """
    then = run.task()
    different = [key for key in ("train", "validation", "test", "classes", "input_shape") if then[key] != now[key]]
    if then["fingerprint"] != now["fingerprint"]:
        what = ", ".join(f"{key}: {then[key]} then, {now[key]} now" for key in different) or "their values differ"
        raise RunError(f"the data of {run.path} ({then['name']}) are not those it began with ({what})")
