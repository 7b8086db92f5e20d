"""The runs of a comparison: which are made, in which folders, and the arms that come of them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from apical import data
from apical.errors import ConfigError
from apical.interrupts import Interrupted, StopRequest, stop_requests
from apical.study.comparison import answers, keeping, tuning
from apical.study.comparison.arms import arm, run_record
from apical.study.comparison.costs import TURNS, measure_costs
from apical.study.comparison.parts import Tuning
from apical.study.comparison.schema import Arm
from apical.study.configuration import Config, RuleConfig
from apical.study.configuration.resolution import Resolved, resolve
from apical.study.executors.jobs import Job, complete
from apical.study.runs import display
from apical.study.runs.folder import RunFolder


@dataclass(frozen=True)
class Planned:
    """An arm before its runs.

    Attributes:
        rule: the rule.
        config: what the arm is run with.
        tuning: how its learning rate was chosen, where it was.
        jobs: the runs of all seeds.
    """

    rule: RuleConfig
    config: Config
    tuning: Tuning | None = None
    jobs: tuple[Job, ...] = ()


Plan = Sequence[Planned]


@dataclass(frozen=True)
class Work:
    """How and where the runs of a comparison are made."""

    folder: Path
    processes: int | None
    progress: bool | None
    overwrite: bool
    changed: bool
    rectified: bool | None

    def __post_init__(self) -> None:
        if self.processes is not None and self.processes < 1:
            raise ConfigError(f"jobs = {self.processes}: at least one is needed; leave it out for one a processor")

    def tune(self, plan: Plan, grid: Sequence[float], reported: Sequence[int]) -> list[Planned]:
        """The plan with the rate that the grid's runs on validation data choose for each arm; of one rate, as it is."""
        if len(grid) < 2:
            return list(plan)
        seeds = tuning.tuning_seeds(reported)
        trials = [{rate: [self._trial(own, seed, rate) for seed in seeds] for rate in grid} for own in plan]
        with stop_requests() as stop:
            every = [job for rate in grid for of_arm in trials for job in of_arm[rate]]
            failures = self._complete(every, "choosing rates", stop)
        return [
            replace(own, tuning=tuning.tuned(each, seeds, failures)) for own, each in zip(plan, trials, strict=True)
        ]

    def with_runs(self, plan: Plan, seeds: Sequence[int]) -> list[Planned]:
        """The plan with the runs of all seeds."""
        return [replace(own, jobs=tuple(self._job(own, seed) for seed in seeds)) for own in plan]

    def train(self, plan: Plan, shared: Config, timed: data.Task | None) -> list[Arm]:
        """Train what the plan has, and time the steps of each rule on the task `timed`; the arms."""
        with stop_requests() as stop:
            failures = self._complete(every_run(plan), "comparing", stop)
            kept = [_kept_answers(own.jobs, failures) for own in plan]
            reference = next((each for own, each in zip(plan, kept, strict=True) if own.rule.name == "backprop"), {})
            errors = [None if each is reference else _test_error(each, reference) for each in kept]
            arms = [_arm(own, error, shared, failures, self.folder) for own, error in zip(plan, errors, strict=True)]
            if timed is None or not shared.stream.is_single:
                return arms
            first = {own.rule.label: own.jobs[0] for own in plan}
            return _with_costs(arms, first, shared, timed, stop, self.progress)

    def _complete(self, every: Sequence[Job], title: str, stop: StopRequest) -> dict[Path, str]:
        """Bring runs to their end; the errors of those that failed or are damaged."""
        damaged = keeping.check(every, overwrite=self.overwrite, changed=self.changed)
        whole = [job for job in every if job.folder not in damaged]
        with display.Bar(title, len(whole), shown=self.progress) as bar:
            failures = {**damaged, **complete(whole, self.processes, stop, bar.show)}
        if stop.signal:
            raise Interrupted(_how_to_continue(whole, self.folder), stop.signal)
        return failures

    def _trial(self, own: Planned, seed: int, rate: float) -> Job:
        return Job(*self._run_of(own, seed, rate, Path("tuning", f"lr-{rate}")), changed=self.changed)

    def _job(self, own: Planned, seed: int) -> Job:
        grid = own.config.optimizer.grid
        rate = own.tuning.chosen if own.tuning else grid[0] if grid else None
        title, resolved, folder = self._run_of(own, seed, rate, Path("runs"))
        if not own.config.stream.is_single:
            return Job(title, resolved, folder, self.changed)
        kept = self.folder / "answers" / folder.relative_to(self.folder / "runs")
        return answers.TestedJob(title, resolved, folder, self.changed, answers=kept.with_name(f"{kept.name}.npy"))

    def _run_of(self, own: Planned, seed: int, rate: float | None, place: Path) -> tuple[str, Resolved, Path]:
        """Title, configuration and folder of a run, with a rate of the arm's own or with that which all share."""
        values: dict[str, Any] = {"rule": own.rule.model_dump(), "seed": seed}
        if rate is not None:
            values["optimizer.lr"] = rate
        resolved = resolve(
            own.config.with_values(values),
            shared=True,
            chosen=bool(own.config.optimizer.grid),
            rectified=self.rectified,
        )
        parts = [own.rule.label]
        if not own.config.stream.is_single:
            parts.append("joint" if own.config.stream.joint else own.config.protect.label)
        path = Path(*(re.sub(r"[^\w.,=-]", "_", part.replace(":", "-")) for part in parts))
        return f"{', '.join(parts)}, seed {seed}", resolved, self.folder / place / path / f"seed-{seed}"


def every_run(plan: Plan) -> list[Job]:
    """All runs, by seed, so that a stopped comparison has all rules, of few seeds."""
    return [job for of_seed in zip(*(own.jobs for own in plan), strict=True) for job in of_seed]


def _how_to_continue(jobs: Sequence[Job], folder: Path) -> str:
    finished = sum(job.finished() for job in jobs)
    return (
        f"stopped with {finished} of {len(jobs)} runs finished and the others saved in {folder}; "
        "the same command continues from there"
    )


def _arm(own: Planned, test_error: float | None, shared: Config, failures: Mapping[Path, str], folder: Path) -> Arm:
    runs = [
        run_record(
            RunFolder(job.folder),
            seed=job.resolved.config.seed,
            folder=str(job.folder.relative_to(folder)),
            error=failures.get(job.folder),
        )
        for job in own.jobs
    ]
    return arm(
        own.rule,
        own.jobs[0].resolved.config,
        runs,
        keeping.with_notes(own.jobs[0].resolved.notes, own.jobs, failures),
        shared=shared,
        tuning=own.tuning,
        test_error=test_error,
    )


def _kept_answers(jobs: Sequence[Job], failures: Mapping[Path, str]) -> dict[int, answers.Answers | None]:
    """The answers of finished runs by seed, None where they are lost; none on a stream."""
    return {
        job.resolved.config.seed: answers.read(job.answers, RunFolder(job.folder).result())
        for job in jobs
        if isinstance(job, answers.TestedJob) and job.folder not in failures
    }


def _test_error(
    own: Mapping[int, answers.Answers | None], reference: Mapping[int, answers.Answers | None]
) -> float | None:
    """The test set's error of the difference to the reference, over the seeds that both finished."""
    both = [(found, reference[seed]) for seed, found in own.items() if seed in reference]
    whole = [(found, other) for found, other in both if found is not None and other is not None]
    if not whole or len(whole) < len(both):
        return None
    return answers.error_of_difference(*zip(*whole, strict=True))


def _with_costs(
    arms: Sequence[Arm],
    jobs: Mapping[str, Job],
    shared: Config,
    task: data.Task,
    stop: StopRequest,
    progress: bool | None,
) -> list[Arm]:
    """The arms with what their steps cost, timed now that nothing else runs; an arm that never finished has none."""
    labels = dict(zip(jobs, arms, strict=True))
    timed = {label: job.resolved.config for label, job in jobs.items() if labels[label].finished()}
    with display.Bar("timing steps", TURNS, shown=progress) as bar:

        def on_turn(turns: int) -> None:
            if stop.signal:
                raise Interrupted("stopped while steps were timed, with all runs finished", stop.signal)
            bar.step(turns)

        costs = measure_costs(shared, task, timed, on_turn=on_turn)
    return [arm.model_copy(update={"cost": costs.get(label)}) for label, arm in labels.items()]
