"""Training in processes that come to harm, for the tests of resumption.

Children are forked from a server that has imported PyTorch, so that each begins at once and is a process like
any other: it can be killed.
"""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import torch

from apical import data
from apical.interrupts import Interrupted
from apical.study import Config, RunFolder, resume, train
from apical.study.training.loop import Training

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
    common = ["task=own:blobs", f"model={folder}/net.py:make", "threads=1", "batch_size=16", "checkpoints.steps=4"]
    return Config().with_settings([*common, "alignment=2", *settings])


def begin_or_go_on(given, folder):
    if RunFolder(folder).exists():
        return resume(folder, task=blobs())
    return train(given, folder, task=blobs())


def kill_at(name, count):
    """Have this process killed in place of its `count`-th call of os.fsync or os.replace."""
    original = getattr(os, name)
    left = [count]

    def call(*arguments, **named):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **named)

    setattr(os, name, call)


def linger():
    """Have every epoch take its time, so that a signal from outside comes before the end."""
    original = Training.end_epoch

    def end_epoch(training):
        time.sleep(0.1)
        return original(training)

    Training.end_epoch = end_epoch


def _live(given, folder, doom, pipe):
    torch.set_num_threads(1)
    if doom == "linger":
        linger()
    elif doom:
        kill_at(*doom)
    pipe.send("begins")
    try:
        begin_or_go_on(given, folder)
        pipe.send("finished")
    except Interrupted as error:
        pipe.send((error.signal, str(error)))


class Child:
    """A process that trains, from the beginning or from where the run is."""

    def __init__(self, given, folder, doom=None):
        self.pipe, other = server.Pipe()
        self.process = server.Process(target=_live, args=(given, Path(folder), doom, other))
        self.process.start()
        other.close()
        assert self.pipe.recv() == "begins"

    def end(self):
        """Wait for it; returns its last word (None if it had none) and its exit code."""
        try:
            word = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            word = None
        self.process.join()
        code = self.process.exitcode
        self.process.close()
        self.pipe.close()
        return word, code

    def kill(self, number=signal.SIGKILL):
        os.kill(self.process.pid, number)
