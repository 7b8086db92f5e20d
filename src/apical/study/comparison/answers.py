"""Which test examples a finished run answered correctly, kept so that two runs can be compared example by example."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from apical import data
from apical.study.executors.jobs import Job, load_task
from apical.study.runs import files
from apical.study.runs.folder import RunFolder
from apical.study.training import testing
from apical.study.training.criteria import LOSSES
from apical.study.training.making import load_circuit, make_circuit, make_stream, reproducible

Answers = npt.NDArray[np.bool_]
"""For each test example, whether it was answered correctly."""


@dataclass(frozen=True)
class TestedJob(Job):
    """A training run on a single task that also keeps its answers to the test data.

    Attributes:
        answers: the file for them.
    """

    answers: Path = field(kw_only=True)

    def finished(self) -> bool:
        return super().finished() and self.answers.is_file()

    def perform(self) -> None:
        if not super().finished():
            super().perform()
        content = io.BytesIO()
        np.save(content, answer(self.folder, load_task(self.task)))
        files.make_folder(self.answers.parent)
        files.atomic_write(self.answers, content.getvalue())


def answer(folder: Path, task: data.Task) -> Answers:
    """The answers of a finished run's weights, those that it tested.

    Args:
        folder: of the run.
        task: that it learned, not cut into tasks.
    """
    run = RunFolder.open(folder)
    config, checkpoint = run.config(), run.checkpoints.latest()
    assert checkpoint is not None  # a finished run has its last
    stream = make_stream(config, task)
    with reproducible(config):
        circuit = make_circuit(config, stream, config.protect.make())
        load_circuit(circuit, checkpoint.content["best"] or checkpoint.content["circuit"])
        test = stream[0].test.to(config.device)
        return testing.answer_all(circuit, test, LOSSES[config.loss], stream)[1].cpu().numpy()


def read(path: Path, result: dict[str, Any] | None) -> Answers | None:
    """The answers in a file; None where it is missing or damaged, or where they are not those of the run's result."""
    try:
        found: Answers = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = found.dtype == np.bool_ and found.ndim == 1 and found.size > 0
    return found if whole and result is not None and found.mean() == result["test_accuracy"] else None


def error_of_difference(own: Sequence[Answers], other: Sequence[Answers]) -> float:
    """The standard error that a test set of n examples gives a difference of mean accuracies, from disagreements.

        error^2 = (mean over i of d_i^2 - d^2) / n,   d = mean over i of d_i

    d_i is the mean over seeds of the number of right answers to example i by one, minus that by the other (0 where they
    agree). With one seed, b + c disagreements of which b favour one: ((b + c) / n - ((b - c) / n)^2) / n, as in
    McNemar's test.

    Args:
        own: of each seed, (n,).
        other: of the same seeds.
    """
    gain = np.mean([a.astype(float) - b for a, b in zip(own, other, strict=True)], axis=0)
    return float(np.sqrt(gain.var() / gain.size))
