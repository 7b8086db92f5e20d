"""Many runs in parallel processes, stopped together, none of them fatal to the others.

Each process imports PyTorch once and then takes one run after another. All hold the reading end of one pipe of
which only the parent has the writing end: when the parent closes it, or dies in whatever way, they learn of it
and save what they are at.
"""

import inspect
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from types import FrameType
from typing import TypeVar

from apical.errors import RunError
from apical.interrupts import Interrupted, StopRequest, stop_requests

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

GUARD = 'Every process imports the script that starts it: put what starts them under if __name__ == "__main__":'
POLL = 0.2  # seconds between looks at whether to stop

_stopping = threading.Event()


def in_processes(
    work: Callable[[Item], Outcome], items: Sequence[Item], processes: int, stop: StopRequest
) -> Iterator[tuple[Item, Outcome | None]]:
    """Do `work` on every item, in the order in which they end.

    Args:
        work: a function of a module. It may raise `Interrupted`, having saved; other errors it should return.
        items: what to work on; they and the outcomes must pickle.
        processes: at most so many at a time.
        stop: when its signal comes, running work is stopped, which saves it, and no other starts.

    Yields:
        An item and its outcome; None for one whose process died. Interrupted items are not among them.

    Raises:
        RunError: no process comes up, usually for want of `if __name__ == "__main__":` in a script.
    """
    refuse_in_import()
    left = list(items)
    for item, outcome in _round(work, left, processes, stop):
        left.remove(item)
        yield item, outcome
    # A process died, and took with it whatever the pool had to do. Memory is the usual reason, so one at a time.
    while left and not stop.signal:
        item = left.pop(0)
        yield next(iter(_round(work, [item], 1, stop)), (item, None))


def _round(
    work: Callable[[Item], Outcome], items: Sequence[Item], processes: int, stop: StopRequest
) -> Iterator[tuple[Item, Outcome]]:
    """`in_processes` until the first death of a process; what was not done is not yielded."""
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    up = context.Event()
    executor = ProcessPoolExecutor(processes, context, _enter, (reader, up))
    try:
        # The terminal sends Ctrl-C to all. The processes inherit that it is blocked: the parent tells them.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            pending: dict[Future[Outcome], Item] = {executor.submit(_guarded, work, item): item for item in items}
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        while pending and not stop.signal:
            done, _ = wait(pending, POLL, FIRST_COMPLETED)
            for future in done:
                item = pending.pop(future)
                try:
                    yield item, future.result()
                except BrokenProcessPool as error:
                    if not up.is_set():
                        raise RunError(f"no process came up; the reason is above. {GUARD}") from error
                    return
        if stop.signal:
            writer.close()
            executor.shutdown(wait=True, cancel_futures=True)
            for future, item in pending.items():
                if not future.cancelled() and future.exception() is None:
                    yield item, future.result()
    finally:
        if not writer.closed:
            writer.close()
        executor.shutdown(wait=True, cancel_futures=True)
        reader.close()


def refuse_in_import() -> None:
    """Refuse to work while a process of a pool imports the script that started it.

    Raises:
        RunError: the script has no `if __name__ == "__main__":`, and would start processes without end.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == "__mp_main__":
            raise RunError(GUARD)
        frame = frame.f_back


def _enter(reader: Connection, up: Event) -> None:
    up.set()
    signal.signal(signal.SIGTERM, _end)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()


def _end(number: int, frame: FrameType | None) -> None:
    """SIGTERM outside a run: nothing to save; when the parent stops all, it also ends the processes."""
    if not _stopping.is_set():
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


def _watch(reader: Connection) -> None:
    reader.poll(None)
    _stopping.set()
    os.kill(os.getpid(), signal.SIGTERM)
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # no process is left to give work or take results, and runs survive any death


def _guarded(work: Callable[[Item], Outcome], item: Item) -> Outcome:
    try:
        # Requests are kept from here on: one that comes while a run still loads its data must not be lost.
        with stop_requests():
            if _stopping.is_set():
                raise Interrupted("stopped before it began", signal.SIGTERM)
            return work(item)
    except Interrupted:
        if not _stopping.is_set():  # another process ends this one
            signal.raise_signal(signal.SIGTERM)
        raise
