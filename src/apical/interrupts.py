"""Ctrl-C and SIGTERM, kept until what is running can be saved."""

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Training was stopped by a signal, after it was saved; the message says how to continue.

    Attributes:
        signal: its number; by convention a program then exits with 128 more than that.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal

    def __reduce__(self) -> tuple[type["Interrupted"], tuple[str, int]]:
        return type(self), (str(self), self.signal)


class StopRequest:
    """Whether a signal to stop has come.

    Attributes:
        signal: its number, 0 until there is one.
    """

    def __init__(self) -> None:
        self.signal = 0

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Note the signal; the second one interrupts at once."""
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number


_current: StopRequest | None = None


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Collect SIGINT and SIGTERM, for a run that saves before it ends.

    Inside another `stop_requests` the outer one is shared, so that a signal during one run of many is seen by
    all. Python delivers signals to its main thread alone: elsewhere nothing is changed. A signal that the
    process ignores stays ignored.
    """
    global _current
    if _current is not None or not _in_main_thread():
        yield _current or StopRequest()
        return
    _current = StopRequest()
    try:
        with _receiving(_current, (number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN)):
            yield _current
    finally:
        _current = None


@contextmanager
def ctrl_c() -> Iterator[StopRequest]:
    """Collect Ctrl-C alone, for a library call inside a user's program.

    Only Python's own handler of SIGINT is replaced: a program or a notebook that handles Ctrl-C keeps it, and
    SIGTERM is never touched.
    """
    request = StopRequest()
    ours = _in_main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with _receiving(request, [signal.SIGINT] if ours else []):
        yield request


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextmanager
def _receiving(request: StopRequest, numbers: Iterable[signal.Signals]) -> Iterator[None]:
    """Let `request` receive these signals, and put the handlers back afterwards."""
    before = {number: signal.signal(number, request.receive) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
