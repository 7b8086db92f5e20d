"""Many runs brought to their end, here or in parallel processes, each in a folder of its own."""

import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol, TypeVar

from apical import data
from apical.errors import ApicalError
from apical.interrupts import Interrupted, StopRequest
from apical.layers.over_time import written_for_one_moment
from apical.study.configuration.config import difference
from apical.study.configuration.resolution import Resolved
from apical.study.executors import pool
from apical.study.runs import fingerprint
from apical.study.runs.folder import RunFolder
from apical.study.training import session
from apical.study.training.making import make_model, make_stream, reproducible

DIED = "its process died (memory may have run out)"


class Work(Protocol):
    """One item of a list of work; it must pickle.

    Attributes:
        title: for a progress bar.
        folder: where the outcome is kept.
    """

    @property
    def title(self) -> str: ...

    @property
    def folder(self) -> Path: ...

    def finished(self) -> bool:
        """Whether the outcome is in the folder."""
        ...

    def perform(self) -> None:
        """Start the work, or continue it; raises `Interrupted` once what can be saved is saved."""
        ...


AnyWork = TypeVar("AnyWork", bound=Work)


@dataclass(frozen=True)
class Job:
    """One training run.

    Attributes:
        title: for a progress bar.
        resolved: the configuration of the run, complete.
        folder: of the run.
        changed: go on with a run that is not made of what it was.
    """

    title: str
    resolved: Resolved
    folder: Path
    changed: bool = False

    @property
    def task(self) -> str:
        """The name of its data."""
        return self.resolved.config.task

    def differences(self) -> list[str]:
        """The settings in which a run that is in the folder already differs from this one."""
        run = RunFolder(self.folder)
        return difference(run.config().to_dict(), self.resolved.config.to_dict()) if run.exists() else []

    def changes(self) -> str:
        """What a run that is in the folder was made of and is made of otherwise now, in words.

        Raises:
            ApicalError: its files are damaged, or it cannot be made any more.
        """
        run, config = RunFolder(self.folder), self.resolved.config
        if not run.exists():
            return ""
        task, protection = load_task(self.task), config.protect.make()
        with reproducible(config):
            network = written_for_one_moment(make_model(config, make_stream(config, task), protection))
        return fingerprint.changes(run.fingerprint(), fingerprint.describe(config, task, *network, config.rule.make()))

    def finished(self) -> bool:
        """Whether the run has a result."""
        return RunFolder(self.folder).result() is not None

    def perform(self) -> None:
        """Start the run, or resume it."""
        run, task = RunFolder(self.folder), load_task(self.task)
        if run.exists():
            session.resume(self.folder, task=task, changed=self.changed, progress=False)
        else:
            session.begin(self.resolved, run, task=task, overwrite=False, progress=False)


def forget_data() -> None:
    """Load data again when they are next needed: a file may have changed since."""
    load_task.cache_clear()


@lru_cache(maxsize=1)
def load_task(name: str) -> data.Task:
    """The data of a name, loaded once for all runs of a process."""
    return data.load(name, progress=False)


def perform(work: Work) -> str:
    """Do one item of work; returns the error of one that fails, and "" otherwise.

    Raises:
        Interrupted: it was stopped, and is saved.
    """
    try:
        work.perform()
    except ApicalError as error:
        return str(error)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"
    return ""


def complete(
    items: Sequence[AnyWork],
    processes: int | None,
    stop: StopRequest,
    show: Callable[[int, str], None],
    *,
    spawn: bool = False,
) -> dict[Path, str]:
    """Bring every item of work to its end.

    Args:
        items: in the order in which they start; those that have finished are left out.
        processes: at most so many at a time; None: one for each processor.
        stop: when its signal comes, running work is saved and no other starts.
        show: called with the number of finished items and the title of the last one.
        spawn: start a process even where one is enough.

    Returns:
        The errors of the items that failed, by folder.
    """
    left = [item for item in items if not item.finished()]
    done = len(items) - len(left)
    show(done, "")
    if not left:
        return {}
    count = min(processes or available_processors(), len(left))
    ended = pool.in_processes(perform, left, count, stop) if spawn or count > 1 else _here(left, stop)
    failures: dict[Path, str] = {}
    for number, (item, error) in enumerate(ended, done + 1):
        if error != "":
            failures[item.folder] = error or DIED
        show(number, item.title)
    return failures


def _here(items: Sequence[AnyWork], stop: StopRequest) -> Iterator[tuple[AnyWork, str | None]]:
    for item in items:
        try:
            yield item, perform(item)
        except Interrupted:
            return
        if stop.signal:
            return


def available_processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
