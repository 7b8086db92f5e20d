"""Training in processes that come to harm, for the tests of resumption.

Children are forked from a server that has imported PyTorch, so that each begins at once and is a process like
any other: it can be killed.
"""

import functools
import io
import multiprocessing
import os
import resource
import signal
import sys
import threading
from pathlib import Path

import torch

from apical import data
from apical.interrupts import Interrupted, StopRequest
from apical.study import Config, RunFolder, resume, train
from apical.study.runs import display
from apical.study.training.loop import Training
from waiting import PATIENCE

NET = """
from torch import nn
def make(input_shape, classes):
    return nn.Sequential(
        nn.Linear(input_shape[0], 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.3),
        nn.Linear(24, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, classes),
    )
"""

server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(["apical.study.training.session", "torch._dynamo"])  # the latter by any optimizer, slowly


def blobs(examples=200, classes=4, seed=0):
    """Overlapping clouds of points, so that nothing is learned to the end."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, 10, generator=generator)
    y = torch.arange(examples) % classes
    x = centres[y] + 1.5 * torch.randn(examples, 10, generator=generator)
    part = data.Examples(x, y)
    return data.Task("blobs", part.take(range(examples // 5, examples)), part.take(range(examples // 5)), classes)


def config(folder, *settings):
    """A small network with batch norm and dropout, saved every few steps."""
    (folder / "net.py").write_text(NET)
    common = [
        "task=own:blobs",
        f"model={folder}/net.py:make",
        "threads=1",
        "batch_size=16",
        "checkpoints.steps=4",
        "checkpoints.seconds=0",
    ]
    return Config().with_settings([*common, "alignment=2", *settings])


def begin_or_go_on(given, folder):
    if RunFolder(folder).exists():
        return resume(folder, task=blobs())
    return train(given, folder, task=blobs())


def killed_instead_of(name, count, pipe):
    """The process is killed in place of its `count`-th call of os.fsync or os.replace."""
    original = getattr(os, name)
    left = [count]

    def call(*arguments, **named):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **named)

    setattr(os, name, call)


def killed_after(step, calls, pipe):
    """The process is killed in place of the `calls`-th call of any function after `step`, whatever it is about then."""
    left = [calls]

    def count(frame, event, argument):
        if event in ("call", "c_call"):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    at_step(step, lambda: sys.setprofile(count))


def killed_within_write(count, size, pipe):
    """The process is killed within its `count`-th write to a file, when `size` bytes of it are on the disk.

    The kernel does both: a file that would grow past the limit gets what fits, and the rest of it the signal.
    """
    left = [count]
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it

    def limit(frame, event, called):
        writes = event == "c_call" and called.__name__ == "write"
        if writes and isinstance(called.__self__, io.BufferedWriter | io.BufferedRandom):
            left[0] -= 1
            if left[0] == 0:
                sys.setprofile(None)
                resource.setrlimit(resource.RLIMIT_FSIZE, (called.__self__.tell() + size, resource.RLIM_INFINITY))

    sys.setprofile(limit)


def held_after(step, steps, pipe):
    """The process says that it has come to `step`, takes so many more steps, and waits there to be killed."""
    at_step(step, lambda: pipe.send("there"))
    at_step(step + steps, lambda: pipe.poll(None))  # until the test has ended, if it does not kill it


def held_until_a_signal(place, count, pipe):
    """The process says that it has come to its `count`-th "step" or end of an "epoch", and waits for a signal."""
    received = threading.Event()
    receive = StopRequest.receive

    def noted(request, *arguments):
        receive(request, *arguments)
        received.set()

    StopRequest.receive = noted

    def hold():
        pipe.send("there")
        received.wait(PATIENCE)

    (at_step if place == "step" else at_epoch)(count, hold)


def at_step(step, act):
    """Have `act` done between two steps, when so many are taken."""
    original = display.Bar.step

    def shown(bar, steps):
        original(bar, steps)
        if steps == step:
            act()

    display.Bar.step = shown


def at_epoch(epoch, act):
    """Have `act` done when all steps of an epoch are taken, and it is not closed yet."""
    original = Training.end_epoch

    def end_epoch(training):
        if training.epoch == epoch - 1:
            act()
        return original(training)

    Training.end_epoch = end_epoch


def _live(given, folder, doom, pipe):
    torch.set_num_threads(1)
    doom(pipe)
    pipe.send("begins")
    try:
        begin_or_go_on(given, folder)
        pipe.send("finished")
    except Interrupted as error:
        pipe.send((error.signal, str(error)))


class Child:
    """A process that trains, from the beginning or from where the run is. Use it as a context.

    Args:
        given: the configuration.
        folder: of the run.
        doom: one of the functions above, and what it takes.
    """

    def __init__(self, given, folder, doom, *arguments):
        self.pipe, other = server.Pipe()
        doom = functools.partial(doom, *arguments)
        self.process = server.Process(target=_live, args=(given, Path(folder), doom, other))
        self.process.start()
        other.close()

    def __enter__(self):
        assert self.hear() == "begins"
        return self

    def __exit__(self, *exception):
        self.process.kill()
        self.process.join()
        self.process.close()
        self.pipe.close()

    def hear(self):
        """Its next word; None if it ended without one."""
        assert self.pipe.poll(PATIENCE), f"no word from the process within {PATIENCE:g} s"
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionResetError):
            return None

    def end(self):
        """Wait for it; returns its last word (None if it had none) and its exit code."""
        word = self.hear()
        self.process.join(PATIENCE)
        return word, self.process.exitcode

    def kill(self, number=signal.SIGKILL):
        os.kill(self.process.pid, number)
