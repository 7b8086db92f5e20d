"""Runs that a comparison finds in its folder: which are kept or refused, and which arms of before stay."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from apical.errors import ApicalError, RunError
from apical.study.comparison.schema import FILE, Arm, Comparison
from apical.study.configuration import Config, RuleConfig
from apical.study.configuration.resolution import Resolved
from apical.study.executors.jobs import Job, forget_data
from apical.study.runs import fingerprint
from apical.study.runs.folder import RunFolder

log = logging.getLogger("apical")


def check(jobs: Sequence[Job], *, overwrite: bool, changed: bool) -> dict[Path, str]:
    """Look at the run that is in the folder of each job.

    Args:
        jobs: of the comparison.
        overwrite: remove runs with other settings, runs that are not what they were, and damaged ones.
        changed: keep runs that are not what they were, with a note.

    Returns:
        The errors of damaged runs, by folder.

    Raises:
        RunError: a run has other settings, or is not what it was.
    """
    forget_data()
    damaged = {}
    for job in jobs:
        try:
            differences = job.differences()
            found = "" if differences else job.changes()
            if not found:
                job.finished()
        except ApicalError as error:
            if not overwrite:
                damaged[job.folder] = str(error)
            differences, found = [str(error)], ""
        if differences and not overwrite and job.folder not in damaged:
            raise RunError(
                f"{job.folder} holds a run with other settings ({'; '.join(differences)}): "
                "choose another folder, or overwrite it"
            )
        run = RunFolder(job.folder)
        if overwrite and (differences or found):
            with run.locked():
                run.clear()
        elif found:
            note = fingerprint.allow(run, found, changed=changed, remedy="Pass --overwrite to train such runs again")
            run.add_note(note)
    return damaged


def arms_of_before(folder: Path, jobs: Sequence[Job], shared: Config) -> list[Arm]:
    """The arms that comparison.json in the folder has and these jobs do not, so that fewer rules drop no other.

    Arms whose runs are gone, damaged, or not what they were, and those of other settings, are left out, and a warning
    says so; the runs stay where they are.
    """
    if not (folder / FILE).is_file():
        return []
    try:
        before = Comparison.load(folder)
    except RunError as error:
        log.warning("%s; its arms are left out", error)
        return []
    own = {job.folder.relative_to(folder) for job in jobs}
    others = [arm for arm in before.arms if not own & {Path(run.folder) for run in arm.runs}]
    same_settings = before.config == shared.to_dict()
    kept = []
    for arm in others:
        reason = _change(arm, folder) if same_settings else "the settings are others"
        if reason:
            log.warning("%s: %s of before is left out: %s", folder, arm.title, reason)
        else:
            kept.append(arm)
            log.warning("%s: %s is kept from the comparison of before", folder, arm.title)
    return kept


def _change(arm: Arm, folder: Path) -> str:
    """Why the runs of an arm cannot be shown beside others; "" where they can."""
    try:
        for run in arm.finished():
            found = RunFolder(folder / run.folder)
            changes = Job(arm.title, Resolved(found.config(), ()), found.path).changes()
            if changes or found.result() is None:
                return changes or f"{found.path} has no result"
    except ApicalError as error:
        return str(error)
    return ""


def labels(arms: Sequence[Arm]) -> list[str]:
    """The rules of arms, as a command line names them."""
    return [RuleConfig.model_validate({"name": arm.rule, **arm.settings.options}).label for arm in arms]


def with_notes(notes: Sequence[str], jobs: Sequence[Job], errors: Mapping[Path, str]) -> list[str]:
    """Notes, and those that whole runs have of not being what they were."""
    runs = [RunFolder(job.folder) for job in jobs if job.folder not in errors]
    own = [note for run in runs if run.exists() for note in run.notes() if note.startswith(fingerprint.CHANGED)]
    return [*notes, *dict.fromkeys(own)]
