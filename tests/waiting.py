"""Waiting for other processes and threads, for as long as it takes on a slow machine, but not without end.

The deadline is for what will never come. It lies far above what a machine under load needs, and below the limit of
one test, so that a failure says what was waited for.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

Answer = TypeVar("Answer")

PATIENCE = 600.0  # seconds
PAUSE = 0.01


def until(
    come: Callable[[], Answer], what: str, *, ended: Callable[[], object] = lambda: None, patience: float = PATIENCE
) -> Answer:
    """Ask until the answer is true, and return it.

    Args:
        come: what is asked.
        what: it asks for, for the failure.
        ended: what is known of the end of the process that should bring it; false while it runs.
        patience: seconds.
    """
    deadline = time.monotonic() + patience
    while True:
        end = ended()  # before `come`: what a process did just before its end counts
        if answer := come():
            return answer
        assert not end, f"{what}: the process ended before: {end}"
        assert time.monotonic() < deadline, f"{what}: did not come within {patience:g} s"
        time.sleep(PAUSE)


class Program(subprocess.Popen[str]):
    """Python with some arguments, in a process group of its own."""

    def __init__(self, *arguments: object, **options: Any) -> None:
        command = [sys.executable, *map(str, arguments)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        super().__init__(command, text=True, start_new_session=True, **pipes, **options)

    def until(self, come: Callable[[], Answer], what: str) -> Answer:
        """`until`, which fails with all that the program said if it ends before."""
        return until(come, what, ended=lambda: self.poll() is not None and (self.returncode, self.communicate()))


@contextlib.contextmanager
def program(*arguments: object, **options: Any) -> Iterator[Program]:
    """Run Python with these arguments; afterwards nothing of the group is left, whatever became of the test."""
    with Program(*arguments, **options) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
