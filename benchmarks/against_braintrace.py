"""E-prop of this package beside that of braintrace (JAX): the same update, and what it takes.

    python benchmarks/against_braintrace.py --python PYTHON     # of an environment with `pip install jax braintrace`

Both sides get the same weights and the same input, which changes in time, and a cross-entropy at every moment. The
updates are compared on a small network, without and with recurrent synapses; the time is that of a step (both passes)
of 784-1000-10 over 25 moments, on the processor. braintrace keeps a trace of each synapse for each sample, forward in
time; this package computes the same sum from the neurons' states, backward in time.
"""

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import apical
from apical import neurons

Arrays = dict[str, np.ndarray]
DECAY, THRESHOLD = 0.9, 1.0


def problem(sizes: tuple[int, int, int], moments: int, batch: int, recurrent: bool, turns: int) -> Arrays:
    generator = np.random.default_rng(0)
    inputs, hidden, classes = sizes
    found = {
        "first": generator.standard_normal((hidden, inputs)) * (1.7 / inputs**0.5),
        "last": generator.standard_normal((classes, hidden)) / hidden**0.5,
        "x": generator.random((moments, batch, inputs)),
        "decay": np.asarray(DECAY),
        "threshold": np.asarray(THRESHOLD),
    }
    if recurrent:
        found["recurrent"] = generator.standard_normal((hidden, hidden)) / hidden**0.5
    single = {name: value.astype(np.float32) for name, value in found.items()}
    return {**single, "labels": np.arange(batch) % classes, "turns": np.asarray(turns)}


def circuit(arrays: Arrays) -> apical.Circuit:
    hidden, inputs = arrays["first"].shape
    synapses = None
    if "recurrent" in arrays:
        synapses = nn.Linear(hidden, hidden, bias=False)
        synapses.weight.data = torch.from_numpy(arrays["recurrent"])
    model = nn.Sequential(
        nn.Linear(inputs, hidden, bias=False),
        neurons.LIF(DECAY, THRESHOLD, reset="subtract", recurrent=synapses),
        nn.Linear(hidden, len(arrays["last"]), bias=False),
    )
    model[0].weight.data, model[2].weight.data = torch.from_numpy(arrays["first"]), torch.from_numpy(arrays["last"])
    return apical.Circuit(model, apical.EProp(feedback="symmetric"))


def ours(arrays: Arrays) -> Arrays:
    """The updates, and the times of steps."""
    learner, x = circuit(arrays), torch.from_numpy(arrays["x"])
    labels, times = torch.from_numpy(arrays["labels"]).repeat(len(x)), []
    for _ in range(int(arrays["turns"]) + 1):
        learner.zero_grad()
        before = time.process_time()
        F.cross_entropy(learner(x).flatten(0, 1), labels).backward()
        times.append(time.process_time() - before)
    named = {"0.weight": "first", "1.recurrent.weight": "recurrent", "2.weight": "last"}
    updates = {named[name]: own.grad.numpy() for name, own in learner.model.named_parameters() if own.grad is not None}
    return {**updates, "times": np.asarray(times[1:])}


def theirs(arrays: Arrays, python: str) -> Arrays:
    script = Path(__file__).with_name("against_braintrace_jax.py")
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    with tempfile.TemporaryDirectory() as folder:
        source, target = f"{folder}/problem.npz", f"{folder}/found.npz"
        np.savez(source, **arrays)
        subprocess.run(
            [python, "-W", "ignore", str(script), source, target],
            check=True,
            env={**environment, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        )
        return dict(np.load(target))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="of an environment with jax and braintrace")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for recurrent in (False, True):
        arrays = problem((20, 30, 5), 12, 8, recurrent, 0)
        own, other = ours(arrays), theirs(arrays, options.python)
        for name in (each for each in own if each != "times"):
            distance = np.abs(own[name] - other[name]).max() / np.abs(own[name]).max()
            print(f"{'recurrent' if recurrent else 'feed-forward'}, {name}: largest difference {distance:.1e}")
    arrays = problem((784, 1000, 10), 25, options.batch, False, options.turns)
    one, two = min(ours(arrays)["times"]), min(theirs(arrays, options.python)["times"])
    print(
        f"784-1000-10, 25 moments, batch {options.batch}: apical {one:.3f} s, braintrace {two:.3f} s, {two / one:.0f} x"
    )


if __name__ == "__main__":
    main()
