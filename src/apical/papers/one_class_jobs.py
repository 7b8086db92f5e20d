"""Claims of learning one class after another: a job is one network, which claims with other test batches share."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apical import data
from apical.papers import one_class
from apical.papers.claim import Claim
from apical.papers.measurement import settings_of
from apical.papers.outcomes import OutcomeJob


@dataclass(frozen=True)
class OneClassJob(OutcomeJob):
    """One network, or floor, that learns all classes from one seed.

    Attributes:
        signal: the teaching signal, or the floor.
        gate: of the hidden layer.
        hidden: units of the hidden layer.
        margin: of the gate.
        units: "sigmoid" or "tanh".
        epochs: of a class, at most.
        seed: of everything.
    """

    signal: str
    gate: str
    hidden: int
    margin: float
    units: str
    epochs: int
    seed: int

    def about(self) -> dict[str, Any]:
        return {key: value for key, value in dataclasses.asdict(self).items() if key not in ("title", "folder")}

    def compute(self, advance: Callable[..., None]) -> dict[str, Any]:
        task = data.load(self.task)
        outcome = one_class.run(
            task,
            self.signal,
            self.gate,
            self.seed,
            hidden=self.hidden,
            margin=self.margin,
            units=self.units,
            epochs=self.epochs,
            advance=advance,
        )
        return {"test": len(task.test), "outcome": dataclasses.asdict(outcome)}


def jobs_of(claim: Claim, folder: Path, epochs: int | None, seeds: int | None) -> Sequence[OneClassJob]:
    """What measures a claim: a job for each seed, in the same folder for all claims of the same networks."""
    of, most = settings_of(claim.recipe), epochs or claim.protocol.epochs
    place = folder / "-".join((of["task"], of["rule"], of["gate"], of["units"], of["hidden"])) / f"epochs-{most}"
    return [
        OneClassJob(
            claim.name,
            place / f"seed-{seed}",
            of["task"],
            signal=of["rule"],
            gate=of["gate"],
            hidden=int(of["hidden"]),
            margin=float(of["margin"]),
            units=of["units"],
            epochs=most,
            seed=seed,
        )
        for seed in range(seeds or claim.protocol.seeds)
    ]


def figures(claim: Claim, jobs: Sequence[OneClassJob]) -> dict[str, Any]:
    """What the networks of jobs that are done say of a claim: see `apical.papers.measuring`."""
    contents = [job.outcome() for job in jobs]
    cuts = {cut: tuple(float(each["outcome"]["accuracies"][cut]) for each in contents) for cut in one_class.CUTS}
    return {
        "accuracies": cuts[settings_of(claim.recipe)["test"]],
        "seeds": tuple(job.seed for job in jobs),
        "epochs": jobs[0].epochs,
        "test_examples": contents[0]["test"],
        "environment": contents[0]["environment"],
        "cuts": cuts,
        "task_epochs": tuple(float(each["outcome"]["task_epochs"]) for each in contents),
    }
