"""Ctrl-C and SIGTERM, kept until training can be saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Training was stopped by a signal, after it was saved; the message says how to go on.

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
    """Collect SIGINT and SIGTERM instead of dying of them.

    Inside another `stop_requests` the outer one is shared, so that a signal during one run of many is seen by
    all. Python delivers signals to its main thread alone: elsewhere nothing is changed. A signal that the
    process ignores stays ignored.
    """
    global _current
    if _current is not None or threading.current_thread() is not threading.main_thread():
        yield _current or StopRequest()
        return
    request = _current = StopRequest()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, request.receive)
    try:
        yield request
    finally:
        _current = None
        for number, handler in before.items():
            signal.signal(number, handler)
