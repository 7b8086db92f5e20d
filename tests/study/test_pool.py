"""Processes that die, and processes that are told to stop."""

import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import fragile
import pytest

import waiting
from apical.interrupts import Interrupted, StopRequest, stop_requests
from apical.study.executors.pool import in_processes


def test_a_process_that_dies_takes_nothing_with_it():
    outcomes = dict(in_processes(fragile.double, [1, 2, 3, 4, 5], 2, StopRequest()))
    assert outcomes == {1: 2, 2: 4, 3: None, 4: 8, 5: 10}


@contextmanager
def stopped_after(come, what):
    """A request to stop, made as soon as `come` is true."""
    stop = StopRequest()

    def watch():
        try:
            waiting.until(come, what)
        finally:
            stop.signal = signal.SIGINT

    with ThreadPoolExecutor(1) as thread:
        watching = thread.submit(watch)
        yield stop
    watching.result()


def test_told_to_stop_what_runs_is_saved_and_the_rest_not_begun(tmp_path):
    paths = [str(tmp_path / name) for name in "abcd"]
    with stopped_after(lambda: len(list(tmp_path.iterdir())) == 2, "two processes at work") as stop:
        done = list(in_processes(fragile.until_stopped, paths, 2, stop))
    assert sorted(path for path, _ in done) == paths[:2]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "saved", "b": "saved"}


def test_a_stop_that_comes_while_a_run_loads_is_not_lost(tmp_path):
    path = tmp_path / "run"
    with stopped_after(path.exists, "a process at work") as stop:
        list(in_processes(fragile.stopped_while_loading, [str(path)], 1, stop))
    assert path.read_text() == "heard"


UNGUARDED = """
import sys
sys.path[:0] = {folders!r}
import fragile
from apical.interrupts import StopRequest
from apical.study.executors.pool import in_processes
print(list(in_processes(fragile.double, [1, 2], 2, StopRequest())))
"""


def test_a_script_without_its_guard_is_told(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED.format(folders=[str(Path(module.__file__).parent) for module in (fragile, waiting)]))
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "RunError: no process came up; the reason is above." in ended.stderr
    assert ended.stderr.count("RunError: Every process imports the script") >= 1


class TestStopRequests:
    """Ctrl-C and SIGTERM, kept."""

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_the_signal_is_kept_and_the_handler_given_back(self, number):
        before = signal.getsignal(number)
        with stop_requests() as stop:
            assert stop.signal == 0
            signal.raise_signal(number)
            assert stop.signal == number
        assert signal.getsignal(number) is before

    def test_one_request_is_shared_by_all_within(self):
        with stop_requests() as outer:
            with stop_requests() as inner:
                signal.raise_signal(signal.SIGINT)
            assert inner is outer
            assert outer.signal == signal.SIGINT

    def test_a_second_signal_interrupts(self):
        with stop_requests():
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)

    def test_an_ignored_signal_stays_ignored(self):
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with stop_requests() as stop:
                signal.raise_signal(signal.SIGINT)
                assert stop.signal == 0
                signal.raise_signal(signal.SIGTERM)  # is what is left to stop a shell's background job
                assert stop.signal == signal.SIGTERM
        finally:
            signal.signal(signal.SIGINT, before)

    def test_other_threads_change_nothing(self):
        seen = []

        def look():
            with stop_requests():
                seen.append(signal.getsignal(signal.SIGINT))

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert seen == [signal.getsignal(signal.SIGINT)]

    def test_an_interruption_travels_between_processes(self):
        import pickle

        error = pickle.loads(pickle.dumps(Interrupted("stopped", 15)))
        assert (str(error), error.signal) == ("stopped", 15)
