"""Work whose outcome is one file: measurements of the ledger other than the training runs of a study."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from apical.errors import RunError
from apical.interrupts import stop_requests
from apical.study import Interrupted
from apical.study.runs import environment, files


@contextmanager
def without_denormals() -> Iterator[None]:
    """Take numbers below the smallest normal one for 0, as long as this lasts: processors are slow with them.

    Moments of weights that are hardly used fall to such numbers. Other code of the process may need them.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@dataclass(frozen=True)
class OutcomeJob(ABC):
    """One piece of work, whose outcome is in outcome.json of its folder.

    Attributes:
        title: for a progress bar.
        folder: for the outcome.
        task: the name of its data.
    """

    title: str
    folder: Path
    task: str

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """All settings, which an outcome holds, too, so that another's is refused."""

    @abstractmethod
    def compute(self, advance: Callable[..., None]) -> dict[str, Any]:
        """Do the work, and return its outcome.

        Args:
            advance: to be called often; it raises `Interrupted` after a signal.
        """

    def differences(self) -> list[str]:
        """None: `outcome` itself refuses a folder of other settings."""
        return []

    def finished(self) -> bool:
        """Whether the outcome is in the folder."""
        return bool(self.outcome())

    def outcome(self) -> dict[str, Any]:
        """What is in the folder; empty until the work is done.

        Raises:
            RunError: it is damaged, or of other settings.
        """
        path = self.folder / "outcome.json"
        if not path.exists():
            return {}
        try:
            content: dict[str, Any] = json.loads(path.read_bytes())
            of = content["of"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} is damaged ({error}): remove it, and it is measured again") from error
        if of != self.about():
            raise RunError(f"{path} is of other settings: choose another folder")
        return content

    def perform(self) -> None:
        """Do the work on one thread, and write outcome.json.

        Raises:
            Interrupted: a signal stopped it; the outcome so far is lost.
        """
        torch.set_num_threads(1)
        with stop_requests() as stop:

            def advance(*_: int) -> None:
                if stop.signal:
                    raise Interrupted(f"{self.title}: stopped before it was finished", stop.signal)

            found = self.compute(advance)
        files.make_folder(self.folder)
        content = {"of": self.about(), "environment": environment.describe(), **found}
        files.atomic_write_json(self.folder / "outcome.json", content)
