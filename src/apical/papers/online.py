"""Claims of learning from few examples: an optimizer, tuned and tested as `apical.papers.few_examples` has it."""

import dataclasses
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from apical import data
from apical.errors import RunError
from apical.interrupts import stop_requests
from apical.papers import few_examples
from apical.papers.claim import Claim, Online
from apical.papers.measurement import Measurement
from apical.study import Interrupted
from apical.study.runs import environment, files


@dataclass(frozen=True)
class OnlineJob:
    """One optimizer with one network and one kind of inputs.

    Attributes:
        title: for a progress bar.
        setting: what is learned, and by what network.
        method: the optimizer, by its name in `few_examples.METHODS`.
        seeds: how many are tested.
        folder: for outcome.json.
    """

    title: str
    setting: Online
    method: str
    seeds: int
    folder: Path

    @property
    def task(self) -> str:
        """The name of its data."""
        return self.setting.task

    def differences(self) -> list[str]:
        """None: `outcome` itself refuses a folder of other settings."""
        return []

    def finished(self) -> bool:
        """Whether it was measured."""
        return self.outcome() is not None

    def outcome(self) -> dict[str, Any] | None:
        """What is in the folder; None until it was measured.

        Raises:
            RunError: it is damaged, or of another job.
        """
        path = self.folder / "outcome.json"
        if not path.exists():
            return None
        try:
            content: dict[str, Any] = json.loads(path.read_bytes())
            of = content["of"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} is damaged ({error}): remove it, and it is measured again") from error
        if of != self._about():
            raise RunError(f"{path} is of other settings: choose another folder")
        return content

    def _about(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self.setting), "method": self.method, "seeds": self.seeds}

    def perform(self) -> None:
        """Tune and test, and write outcome.json.

        Raises:
            Interrupted: a signal stopped it; the outcome so far is lost.
        """
        budget = few_examples.Budget(seeds=self.seeds)
        setting = self.setting
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)  # moments of weights that are hardly used fall to where processors are slow
        with stop_requests() as stop:

            def advance(steps: int) -> None:
                if stop.signal:
                    raise Interrupted("stopped in the middle of a cell", stop.signal)

            task = data.load(setting.task)
            outcomes = few_examples.cell(task, setting.inputs, setting.hidden, self.method, budget, advance)
        files.make_folder(self.folder)
        files.atomic_write_json(
            self.folder / "outcome.json",
            {
                "of": self._about(),
                "test": len(task.test),
                "environment": environment.describe(),
                "outcome": dataclasses.asdict(outcomes[setting.examples]),
            },
        )


def job_of(claim: Claim, folder: Path, seeds: int | None) -> OnlineJob:
    """What measures a claim."""
    setting = claim.protocol.online
    assert setting is not None
    count = seeds or claim.protocol.seeds
    return OnlineJob(claim.name, setting, claim.rule, count, folder / claim.name / "online" / f"seeds-{count}")


def measurement(claim: Claim, job: OnlineJob, kept: tuple[str, ...], command: str) -> Measurement:
    """What a cell that was measured says of a claim.

    Args:
        claim: that it was measured for.
        job: its job, performed.
        kept: of its environment.
        command: that measures it again.
    """
    content = job.outcome()
    assert content is not None
    return Measurement(
        accuracies=tuple(content["outcome"]["accuracies"]),
        seeds=tuple(range(job.seeds)),
        epochs=1,
        test_examples=content["test"],
        date=datetime.now(UTC).date().isoformat(),
        command=command,
        environment={key: content["environment"][key] for key in kept},
        recipe=claim.recipe,
    )
