"""Work for the tests of the process pool; light to import, since every process does."""

import os
import signal

from apical.interrupts import stop_requests
from apical.study.executors import pool
from waiting import until


def double(number):
    """Twice the number; 3 kills the process that works on it."""
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def until_stopped(path):
    """Work until the process is told to stop, and save."""
    with stop_requests() as stop:
        with open(path, "w") as file:
            file.write("begun")
        until(lambda: stop.signal, "being told to stop")
    with open(path, "w") as file:
        file.write("saved")
    return path


def stopped_while_loading(path):
    """Begin, be told to stop before any training, and write down whether the training hears of it."""
    with open(path, "w") as file:
        file.write("begun")
    until(pool._stopping.is_set, "being told to stop")
    with stop_requests() as stop:
        until(lambda: stop.signal, "the signal, which follows")
    with open(path, "w") as file:
        file.write("heard")
