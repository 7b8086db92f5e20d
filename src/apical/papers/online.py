"""Claims of learning from few examples: an optimizer, tuned and tested as `apical.papers.few_examples` has it."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apical import data
from apical.papers import few_examples
from apical.papers.claim import Claim, Online
from apical.papers.outcomes import OutcomeJob, without_denormals


@dataclass(frozen=True)
class OnlineJob(OutcomeJob):
    """One optimizer with one network and one kind of inputs.

    Attributes:
        setting: what is learned, and by what network.
        method: the optimizer, by its name in `few_examples.METHODS`.
        seeds: how many are tested.
    """

    setting: Online
    method: str
    seeds: int

    def about(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self.setting), "method": self.method, "seeds": self.seeds}

    @without_denormals()
    def compute(self, advance: Callable[..., None]) -> dict[str, Any]:
        budget, setting = few_examples.Budget(seeds=self.seeds), self.setting
        task = data.load(self.task)
        outcomes = few_examples.cell(task, setting.inputs, setting.hidden, self.method, budget, advance)
        return {"test": len(task.test), "outcome": dataclasses.asdict(outcomes[setting.examples])}

    def figures(self) -> dict[str, Any]:
        """Of the work when it is done: see `apical.papers.measuring`."""
        content = self.outcome()
        return {
            "accuracies": tuple(content["outcome"]["accuracies"]),
            "seeds": tuple(range(self.seeds)),
            "epochs": 1,
            "test_examples": content["test"],
            "environment": content["environment"],
        }


def job_of(claim: Claim, folder: Path, seeds: int | None) -> OnlineJob:
    """What measures a claim."""
    setting = claim.protocol.online
    assert setting is not None
    count = seeds or claim.protocol.seeds
    place = folder / claim.name / "online" / f"seeds-{count}"
    return OnlineJob(claim.name, place, setting.task, setting, claim.rule, count)
