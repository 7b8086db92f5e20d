"""Measuring claims again: every claim from every seed, in parallel processes, each in an ordinary run folder."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from apical import data
from apical.errors import ConfigError, RunError
from apical.interrupts import stop_requests
from apical.papers import ledger, one_class_jobs, online, traces, tuned
from apical.papers.claim import Claim
from apical.papers.measurement import Measurement
from apical.papers.one_class_jobs import OneClassJob
from apical.papers.online import OnlineJob
from apical.papers.tuned import TunedJob
from apical.statistics import Spread
from apical.study import Config, Interrupted, RuleConfig, RunFolder
from apical.study.configuration.resolution import resolve
from apical.study.executors.jobs import Job, complete, forget_data
from apical.study.runs import display, files, fingerprint

AnyJob = Job | OnlineJob | OneClassJob | TunedJob
KEPT = ("apical", "torch", "python", "cpu")  # of the environment: what a reader of a figure wants to know


def measure(
    claims: Sequence[Claim],
    folder: str | Path,
    *,
    epochs: int | None = None,
    seeds: int | None = None,
    jobs: int | None = None,
    progress: bool | None = None,
) -> dict[str, Measurement]:
    """Train and test what these claims speak of, and what they are compared with.

    Called again with the same folder it keeps the runs that have finished and continues the others.

    Args:
        claims: what to measure.
        folder: for the runs, which are in CLAIM/epochs-N/seed-N under it (online ones: CLAIM/online/seeds-N). Claims
            with the same settings share the runs of the first of them.
        epochs: fewer than the protocol's, to scale it down; what is learned online knows one alone.
        seeds: fewer than the protocol's.
        jobs: processes at a time; None: one for each processor.
        progress: show a bar on standard error; None: when that is a terminal.

    Returns:
        What was measured, by the name of the claim.

    Raises:
        ConfigError: a claim cannot be measured here, or a number is none.
        DataError: the data cannot be had.
        RunError: a run failed, or the folder holds runs with other settings, is in use, or cannot be written.
        Interrupted: Ctrl-C or SIGTERM; finished runs are kept, the others saved.
    """
    for value, what in ((epochs, "epochs"), (seeds, "seeds"), (jobs, "jobs")):
        if value is not None and value < 1:
            raise ConfigError(f"{what}: {value} is too few; at least 1 is needed")
    needed = [claim for claim in with_references(claims) if claim.says.settle() is None]
    for claim in needed:
        if claim.out_of_reach:
            raise ConfigError(f"{claim.name} is out of reach here: {claim.out_of_reach}")
    folder = Path(folder).expanduser()
    plan = {claim.name: _jobs(claim, folder, epochs, seeds) for claim in needed}
    for task in {job.task for of_claim in plan.values() for job in of_claim}:
        data.fetch(task, progress=progress is not False)  # once, rather than in every process
    files.make_folder(folder)
    with files.locked(folder, "reproducing"):
        shared = {job.folder: job for of_claim in plan.values() for job in of_claim}
        _run(list(shared.values()), jobs, progress)
    return {claim.name: _measurement(claim, plan[claim.name], epochs, seeds) for claim in needed}


def with_references(claims: Sequence[Claim]) -> list[Claim]:
    """The claims, and those that they are compared with, each once, in the order of the ledger."""
    names = {claim.name for claim in claims} | {claim.says.compared_with for claim in claims}
    return [claim for claim in ledger.select() if claim.name in names]


def _jobs(claim: Claim, folder: Path, epochs: int | None, seeds: int | None) -> Sequence[AnyJob]:
    protocol = claim.protocol
    if protocol.online is not None:
        return [online.job_of(claim, folder, seeds)]
    if protocol.one_class:
        return one_class_jobs.jobs_of(claim, folder, epochs, seeds)
    if protocol.tuned:
        return [tuned.job_of(claim, folder, epochs, seeds)]
    networks = Path(__file__).with_name("networks.py")
    settings = [
        setting.replace("model=networks.py:", f"model={networks}:")
        for setting in (*protocol.settings, *claim.settings, f"epochs={epochs or protocol.epochs}", "threads=1")
    ]
    shared = Config().with_settings(settings).with_values({"rule": RuleConfig.parse(claim.rule).model_dump()})
    first = next((each for each in ledger.select() if each.recipe == claim.recipe), claim)
    runs = folder / first.name / f"epochs-{shared.epochs}"
    return [
        Job(claim.name, resolve(shared.with_values({"seed": seed})), runs / f"seed-{seed}")
        for seed in range(seeds or protocol.seeds)
    ]


def _run(jobs: Sequence[AnyJob], processes: int | None, progress: bool | None) -> None:
    forget_data()
    for job in jobs:
        if differences := job.differences():
            raise RunError(
                f"{job.folder} holds a run with other settings ({'; '.join(differences)}): choose another folder"
            )
        if isinstance(job, Job) and (changes := job.changes()):
            raise RunError(f"{job.folder} {fingerprint.CHANGED}: {changes}. Choose another folder.")
    with stop_requests() as stop, display.Bar("reproducing", len(jobs), shown=progress) as bar:
        failures = complete(jobs, processes, stop, bar.show, spawn=True)
        if stop.signal:
            finished = sum(job.finished() for job in jobs)
            raise Interrupted(
                f"stopped with {finished} of {len(jobs)} runs finished; the same command continues", stop.signal
            )
    if failures:
        raise RunError("\n".join(f"{folder}: {error}" for folder, error in failures.items()))


def _measurement(claim: Claim, jobs: Sequence[AnyJob], epochs: int | None, seeds: int | None) -> Measurement:
    scale = "".join(f" {flag} {value}" for flag, value in (("--epochs", epochs), ("--seeds", seeds)) if value)
    figures = _figures(claim, jobs)
    environment = figures.pop("environment")
    return Measurement(
        **figures,
        date=datetime.now(UTC).date().isoformat(),
        command=claim.command + scale,
        environment={key: environment[key] for key in KEPT},
        recipe=claim.recipe,
        trace=traces.digest(claim),
    )


def _figures(claim: Claim, jobs: Sequence[AnyJob]) -> dict[str, Any]:
    """The fields of a measurement that the work itself knows, and its whole environment."""
    if isinstance(jobs[0], OnlineJob | TunedJob):
        return jobs[0].figures()
    if isinstance(jobs[0], OneClassJob):
        return one_class_jobs.figures(claim, [job for job in jobs if isinstance(job, OneClassJob)])
    return _of_training([job for job in jobs if isinstance(job, Job)])


def _of_training(jobs: Sequence[Job]) -> dict[str, Any]:
    configs = [job.resolved.config for job in jobs]
    runs = [RunFolder(job.folder) for job in jobs]
    results = [run.result() or {} for run in runs]
    return {
        "accuracies": tuple(float(result["test_accuracy"]) for result in results),
        "seeds": tuple(config.seed for config in configs),
        "epochs": configs[0].epochs,
        "test_examples": runs[0].task()["test"],
        "environment": runs[0].environment(),
        "courses": tuple(filter(None, map(_course, runs))),
        "angles": _mean_angles([result["angles"] or {} for result in results]),
    }


def _mean_angles(angles: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of every layer, over the seeds."""
    spreads = {layer: Spread.of(each.get(layer) for each in angles) for layer in angles[0]}
    return {layer: spread.mean for layer, spread in spreads.items() if spread}


def _course(run: RunFolder) -> tuple[float, ...]:
    """Accuracy after every epoch on the validation part; empty where there is none."""
    accuracies = [epoch["validation_accuracy"] for epoch in run.epochs()]
    return tuple(float(accuracy) for accuracy in accuracies if accuracy is not None)
