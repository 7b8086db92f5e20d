"""How a run shows itself while it runs: a bar on the terminal, scalars for TensorBoard."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from apical.errors import ConfigError

# TensorBoard groups by what stands before the slash, and draws a group side by side.
TAGS: Mapping[str, str] = {
    "learning_rate": "learning_rate",
    "loss/train": "train_loss",
    "loss/validation": "validation_loss",
    "accuracy/train": "train_accuracy",
    "accuracy/validation": "validation_accuracy",
}
LINES_APART = 30.0  # seconds
REFRESH = 0.1  # seconds; redrawing at every step would take longer than a small network's step


def visible(asked: bool | None) -> bool:
    """Whether to show progress: as asked, and without being asked where standard error is a terminal."""
    return sys.stderr.isatty() if asked is None else asked


class Bar:
    """The progress of one run: steps of all epochs, and the last epoch's numbers. Use it as a context.

    Args:
        title: before the bar.
        total: steps of the whole run.
        shown: True, False, or None: a bar if standard error is a terminal, else a line every `LINES_APART` seconds.
    """

    def __init__(self, title: str, total: int, *, shown: bool | None) -> None:
        self._in_lines = shown is None and not visible(shown)
        self._started = self._said = time.monotonic()
        self._title, self._total = title, total
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=Console(stderr=True),
            disable=not visible(shown),
            transient=True,
        )
        self._task = self._progress.add_task(title, total=total, numbers="")
        self._drawn = 0.0

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def expect(self, total: int) -> None:
        """Expect so many steps in all."""
        self._total = total
        self._progress.update(self._task, total=total)

    def step(self, steps: int) -> None:
        """Move to so many steps taken."""
        now = time.monotonic()
        if now - self._drawn > REFRESH:
            self._drawn = now
            self._progress.update(self._task, completed=steps)
            self._say(steps, "")

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Show an epoch's record."""
        numbers = f"epoch {record['epoch']}  loss {record['train_loss']:.4f}"
        if record["validation_accuracy"] is not None:
            numbers += f"  validation {record['validation_accuracy']:.2%}"
        self.show(record["step"], numbers)

    def show(self, completed: int, text: str) -> None:
        """Move to so many completed, with a text behind the bar."""
        self._progress.update(self._task, completed=completed, numbers=text)
        self._say(completed, text)

    def _say(self, completed: int, text: str) -> None:
        """A line for a log, where there is no terminal."""
        now = time.monotonic()
        if self._in_lines and now - self._said > LINES_APART:
            self._said = now
            seconds = round(now - self._started)
            print(f"{self._title}: {completed} of {self._total} after {seconds} s  {text}".rstrip(), file=sys.stderr)


class Scalars:
    """The records of metrics.jsonl as TensorBoard scalars, over steps."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Write an epoch's record."""
        values = {tag: record[name] for tag, name in TAGS.items()}
        values |= {f"angle/{layer}": angle for layer, angle in (record["angles"] or {}).items()}
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(name, value, record["step"])


def need_tensorboard() -> None:
    """Make sure that the package is there.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            'log = "tensorboard" needs the package tensorboard: pip install "apical[tensorboard]"'
        ) from error


@contextmanager
def tensorboard(folder: Path, *, after: int) -> Iterator[Scalars]:
    """Write scalars for TensorBoard into `folder`.

    Args:
        folder: made when it is missing.
        after: steps taken so far; what an earlier process wrote of later ones is hidden.

    Raises:
        ConfigError: the package tensorboard is not installed.
    """
    need_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(folder, purge_step=after + 1 if after else 0)
    try:
        yield Scalars(writer)
    finally:
        writer.close()
