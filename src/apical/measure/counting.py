"""Counts of a training step: multiplications in its matrix products, and bytes.

Matrix products are counted by PyTorch's own counter while a step runs. Memory is read off PyTorch's allocator (its
profiler reports every allocation, kernels' scratch space included).
"""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from apical.circuit import Circuit
from apical.losses import loss_of
from apical.measure.cost import sgd


def period(network: nn.Module) -> int:
    """The number of steps after which what a step does repeats.

    A rule that does something between answers, and not every time, has an option for how often.
    """
    return int(network.rule.options().get("every", 1)) if isinstance(network, Circuit) else 1


def stepper(network: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    """A whole training step of a model, or of a circuit by the loss that its rule needs."""
    optimizer = sgd(list(network.parameters()))
    loss = loss_of(network, F.cross_entropy)

    def step() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(loss(network(x), y))
        optimizer.step()

    return step


def operations(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """Multiplications and additions in the matrix products of a step, convolutions included."""
    step = stepper(network, x, y)
    steps = period(network)
    # The counter knows the first only out of place, and oneDNN's (see `apical.rules.products`) not at all.
    known = {
        torch.ops.aten.addmm_: _addmm_operations,
        getattr(torch.ops.mkldnn, "_linear_pointwise", None): _linear_operations,
    }
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        for _ in range(steps):
            step()
    return float(counter.get_total_flops()) / steps


def _addmm_operations(
    summand: Sequence[int], left: Sequence[int], right: Sequence[int], out_shape: object = None, **scales: float
) -> int:
    return 2 * left[0] * left[1] * right[1]


def _linear_operations(x: Sequence[int], weight: Sequence[int], *rest: object, out_shape: object = None) -> int:
    return 2 * x[0] * weight[0] * weight[1]


def own_bytes(circuit: Circuit) -> int:
    """Bytes of the rule's own state: feedback weights."""
    own = [*circuit.rule.parameters(), *circuit.rule.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in own)


def step_bytes(network: nn.Module, x: Tensor, y: Tensor) -> int:
    """The most that a step holds beyond what is held before it: gradients, activity, scratch space."""
    step = stepper(network, x, y)
    for _ in range(2):
        step()
    for parameter in network.parameters():
        parameter.grad = None
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        with _without_native_messages(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            for _ in range(period(network)):
                step()
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_bytes())["traceEvents"]
    held = peak = 0
    for event in sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: float(e["ts"])):
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak


@contextlib.contextmanager
def _without_native_messages() -> Iterator[None]:
    """PyTorch's profiler notes its start and end on the process's standard error: keep them away."""
    sys.stderr.flush()
    kept = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
