"""Many learning rules on one task and network, each from several seeds, in parallel processes.

For one seed all rules start from the same weights and see the same examples in the same order. Every run is an
ordinary run folder under `runs/`, so that a comparison that was stopped goes on with what is there: finished
runs are kept, begun ones resumed.
"""

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from apical import data
from apical import rules as registry
from apical.errors import ConfigError, RunError
from apical.interrupts import Interrupted, StopRequest, stop_requests
from apical.study.comparison.costs import TURNS, measure_costs
from apical.study.comparison.schema import Arm, Comparison, Run, Settings, TaskInfo, difference
from apical.study.configuration.config import OWN_TASK, Config, RuleConfig
from apical.study.configuration.resolution import Resolved, resolve
from apical.study.executors import pool
from apical.study.runs import display, environment, files
from apical.study.runs.folder import RunFolder
from apical.study.training import session

# How often the angles are measured through training, when the configuration does not say.
ANGLES_THROUGH_TRAINING = 10
DEFAULT_SEEDS = 3


@dataclass(frozen=True)
class Job:
    """One rule from one seed.

    Attributes:
        resolved: the configuration of the run, complete.
        folder: of the run.
    """

    resolved: Resolved
    folder: Path


def compare(
    config: Config,
    rules: Sequence[str | RuleConfig] | None = None,
    seeds: int | Sequence[int] = DEFAULT_SEEDS,
    folder: str | Path = "runs/comparison",
    *,
    jobs: int | None = None,
    cost: bool = True,
    overwrite: bool = False,
    progress: bool | None = None,
    title: str | None = None,
    command: str | None = None,
) -> Comparison:
    """Train with every rule from every seed, and write comparison.json.

    Called again with the same folder it keeps the runs that have finished and goes on with the others; more rules
    or seeds may be added. Run from a script, the call stands under `if __name__ == "__main__":`, as everything
    that starts processes by `spawn`.

    Args:
        config: what all share. Its learning rate is backprop's; a rule that is known to want another gets its
            recommended multiple, and its recommended weight decay unless one is given. Its loss is that of all rules
            but those that learn from a reward, which have their own. Its own `rule` lends its
            options to the rule of that name. Each run uses one thread.
        rules: names, or names with options such as `"sign_symmetry:magnitude=fixed"`; None: every registered one.
        seeds: the seeds, or how many, from `config.seed` on.
        folder: for the comparison; runs are in `runs/RULE/seed-N` under it.
        jobs: processes at a time; None: one for each processor. With 1 no process is started.
        cost: also measure what a training step costs beside plain PyTorch, after training.
        overwrite: remove runs that were made with other settings.
        progress: show a bar on standard error; None: when that is a terminal.
        title: of the page.
        command: that makes this comparison, for the page; None: worked out from the arguments.

    Returns:
        The comparison. A run that fails is in it with its error.

    Raises:
        ConfigError, DataError: what is asked for cannot be had.
        RunError: the folder holds runs with other settings, is in use, or cannot be written.
        Interrupted: Ctrl-C or SIGTERM; finished runs are kept, the others saved.
    """
    pool.refuse_in_import()
    folder = Path(folder)
    chosen = _rules(rules, config.rule)
    numbers = list(range(config.seed, config.seed + seeds)) if isinstance(seeds, int) else list(seeds)
    if not numbers or len(set(numbers)) != len(numbers):
        raise ConfigError(f"seeds {numbers}: at least one is needed, and each once")
    if config.task.startswith(OWN_TASK):
        raise ConfigError("a comparison needs a task that its processes can load: a name, or npz:PATH")
    shared = _shared(config)
    task = data.load(shared.task, progress=display.visible(progress))
    plan = {
        rule.label: [
            Job(_resolved(shared, rule, seed), folder / "runs" / _folder_name(rule) / f"seed-{seed}")
            for seed in numbers
        ]
        for rule in chosen
    }
    files.make_folder(folder)
    with files.locked(folder, "comparing"):
        every = [job for of_rule in plan.values() for job in of_rule]
        for job in every:
            _check_folder(job, overwrite=overwrite)
        with stop_requests() as stop:
            failures = _train(every, jobs, stop, progress)
            if stop.signal:
                raise Interrupted(_how_to_go_on(every, folder), stop.signal)
            arms = [_arm(rule, plan[rule.label], shared, failures, folder) for rule in chosen]
            if cost:
                first = {rule.label: plan[rule.label][0] for rule in chosen}
                arms = _with_costs(arms, first, shared, task, stop, progress)
        comparison = Comparison(
            title=title or f"{len(arms)} learning rules on {task.name}",
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=command or _command(config, chosen, numbers),
            environment={**environment.describe(), "threads": 1},
            task=_task_info(task, shared),
            config=shared.to_dict(),
            arms=arms,
        )
        comparison.write(folder)
    return comparison


def _rules(rules: Sequence[str | RuleConfig] | None, lender: RuleConfig) -> list[RuleConfig]:
    names = registry.names() if rules is None else rules
    chosen = [RuleConfig.parse(rule) if isinstance(rule, str) else rule for rule in names]
    chosen = [lender if rule.name == lender.name and not rule.options else rule for rule in chosen]
    labels = [rule.label for rule in chosen]
    if not labels or len(set(labels)) != len(labels):
        raise ConfigError(f"rules {', '.join(labels) or '(none)'}: at least one is needed, and each once")
    return chosen


def _shared(config: Config) -> Config:
    values: dict[str, Any] = {"threads": 1}
    if "alignment" not in config.model_fields_set:
        values["alignment"] = max(1, config.epochs // ANGLES_THROUGH_TRAINING)
    return config.with_values(values)


def _resolved(shared: Config, rule: RuleConfig, seed: int) -> Resolved:
    return resolve(shared.with_values({"rule": rule.model_dump(), "seed": seed}), shared=True)


def _folder_name(rule: RuleConfig) -> str:
    return re.sub(r"[^\w.,=-]", "_", rule.label.replace(":", "-"))


def _check_folder(job: Job, *, overwrite: bool) -> None:
    run = RunFolder(job.folder)
    if not run.exists():
        return
    differences = difference(run.config().to_dict(), job.resolved.config.to_dict())
    if differences and not overwrite:
        raise RunError(
            f"{job.folder} holds a run with other settings ({'; '.join(differences)}): "
            "choose another folder, or overwrite it"
        )
    if differences:
        with run.locked():
            run.clear()


def _train(jobs: Sequence[Job], processes: int | None, stop: StopRequest, progress: bool | None) -> dict[Path, str]:
    """Bring every run to its end; returns the errors of those that failed, by folder."""
    left = [job for job in jobs if RunFolder(job.folder).result() is None]
    left.sort(key=lambda job: job.resolved.config.seed)  # so that a stopped comparison has all rules, of few seeds
    count = min(processes or available_processors(), len(left))
    failures: dict[Path, str] = {}
    with display.Bar("comparing", len(jobs), shown=progress) as bar:
        bar.show(len(jobs) - len(left), "")
        ended = _here(left, stop) if count <= 1 else pool.in_processes(run_job, left, count, stop)
        for done, (job, error) in enumerate(ended, len(jobs) - len(left) + 1):
            if error:
                failures[job.folder] = error
            bar.show(done, f"{job.resolved.config.rule.without_seed().label}, seed {job.resolved.config.seed}")
    return failures


def _here(jobs: Sequence[Job], stop: StopRequest) -> Iterator[tuple[Job, str | None]]:
    for job in jobs:
        try:
            yield job, run_job(job)
        except Interrupted:
            return
        if stop.signal:
            return


def available_processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=1)
def _task(name: str) -> data.Task:
    return data.load(name, progress=False)


def run_job(job: Job) -> str:
    """Begin a run, or go on with it; returns the error of one that fails, and "" otherwise.

    Raises:
        Interrupted: it was told to stop, and is saved.
    """
    return pool.failure(lambda: _begin_or_go_on(job))


def _begin_or_go_on(job: Job) -> None:
    run = RunFolder(job.folder)
    task = _task(job.resolved.config.task)
    if run.exists():
        session.resume(job.folder, task=task, progress=False)
    else:
        session.begin(job.resolved, run, task=task, overwrite=False, progress=False)


def _how_to_go_on(jobs: Sequence[Job], folder: Path) -> str:
    finished = sum(RunFolder(job.folder).result() is not None for job in jobs)
    return (
        f"stopped with {finished} of {len(jobs)} runs finished and the others saved in {folder}; "
        "the same command goes on from there"
    )


def _arm(
    rule: RuleConfig, jobs: Sequence[Job], shared: Config, failures: Mapping[Path, str | None], folder: Path
) -> Arm:
    kind = registry.get(rule.name)
    config = jobs[0].resolved.config
    options = ", ".join(f"{key}={value}" for key, value in rule.options.items())
    return Arm(
        rule=rule.name,
        title=f"{kind.title} ({options})" if options else kind.title,
        summary=kind.summary,
        paper=kind.paper,
        settings=Settings(
            learning_rate=config.optimizer.lr or 0.0,
            weight_decay=config.optimizer.weight_decay or 0.0,
            loss=config.loss if config.loss != shared.loss else None,
            options=rule.options,
        ),
        notes=list(jobs[0].resolved.notes),
        runs=[_run(job, failures, folder) for job in jobs],
    )


def _run(job: Job, failures: Mapping[Path, str | None], folder: Path) -> Run:
    run = RunFolder(job.folder)
    result = run.result()
    return Run(
        seed=job.resolved.config.seed,
        status="finished" if result else "failed",
        error=None if result else failures.get(job.folder) or "its process died (memory may have run out)",
        folder=str(job.folder.relative_to(folder)),
        epochs=run.epochs(),
        test_accuracy=result["test_accuracy"] if result else None,
        test_loss=result["test_loss"] if result else None,
        angles=result["angles"] if result else None,
    )


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


def _task_info(task: data.Task, config: Config) -> TaskInfo:
    train, validation = data.split(task.train, config.validation, seed=0)
    return TaskInfo(
        name=task.name,
        train=len(train),
        validation=len(validation),
        test=len(task.test),
        classes=task.classes,
        input_shape=list(task.input_shape),
        source=task.source,
        licence=task.licence,
    )


def _command(config: Config, chosen: Sequence[RuleConfig], seeds: Sequence[int]) -> str:
    labels = [rule.label for rule in chosen]
    words = ["apical", "compare"]
    if labels != registry.names():
        words += ["--rules", ",".join(labels)]
    if list(seeds) != list(range(config.seed, config.seed + DEFAULT_SEEDS)):
        words += ["--seeds", ",".join(map(str, seeds)) + ("," if len(seeds) == 1 else "")]
    for key, value in _flat(config.given()):
        words += ["--set", f"{key}={str(value).lower() if isinstance(value, bool) else value}"]
    return shlex.join(words)


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
