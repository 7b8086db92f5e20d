"""Which signals a run and a library call collect, and which they leave to others."""

import signal
import threading

import pytest

from apical.interrupts import ctrl_c, stop_requests


@pytest.fixture(autouse=True)
def python_handlers():
    """SIGINT as an interactive Python has it, whatever the test run was started from."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_collects_both_signals_and_gives_the_handlers_back(number):
    with stop_requests() as stop:
        signal.raise_signal(number)
        assert stop.signal == number
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_runs_inside_a_run_share_its_request():
    with stop_requests() as outer, stop_requests() as inner:
        assert inner is outer


def test_an_ignored_signal_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stop_requests() as stop:
        signal.raise_signal(signal.SIGINT)
    assert stop.signal == 0
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_a_library_call_collects_ctrl_c_and_leaves_sigterm():
    with ctrl_c() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_library_call_leaves_the_handler_of_a_notebook_or_a_run():
    received = []
    signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    with ctrl_c() as stop:
        signal.raise_signal(signal.SIGINT)
    assert (stop.signal, received) == (0, [signal.SIGINT])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with stop_requests() as run, ctrl_c() as stop:
        signal.raise_signal(signal.SIGINT)
    assert (stop.signal, run.signal) == (0, signal.SIGINT)


@pytest.mark.parametrize("collect", [stop_requests, ctrl_c])
def test_other_threads_change_no_handler(collect):
    handlers = []

    def work():
        with collect():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]
