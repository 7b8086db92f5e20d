"""Work for the tests of the process pool; light to import, since every process does."""

import os
import signal
import time

from apical.interrupts import stop_requests
from apical.study.executors import pool


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
        while not stop.signal:
            time.sleep(0.005)
    with open(path, "w") as file:
        file.write("saved")
    return path


def stopped_while_loading(path):
    """Begin, be told to stop before any training, and write down whether the training hears of it."""
    with open(path, "w") as file:
        file.write("begun")
    while not pool._stopping.is_set():
        time.sleep(0.005)
    with stop_requests() as stop:
        for _ in range(400):  # the signal follows the event
            if stop.signal:
                break
            time.sleep(0.005)
    with open(path, "w") as file:
        file.write("heard" if stop.signal else "missed")
