"""Measuring a network on held-out examples: loss and accuracy, every task of a stream, leaks between examples."""

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from apical import continual, data, measure
from apical.errors import DataError, NonFiniteError
from apical.losses import Loss
from apical.study.runs.results import Activity, SpikingLayer, StreamResult

# Examples that a network answers at once when it is only measured; large enough to be quick, small enough for memory.
MEASURED_AT_ONCE = 1000
# Examples on which a leak is looked for, each of which is also answered alone.
LOOKED_AT = 1000
# Neurons of a layer whose spikes are kept one by one.
IN_RASTER = 24

Answered = tuple[float, Tensor]
"""The mean loss, and which examples were answered correctly, (n,) bool."""


def answer_all(circuit: nn.Module, examples: data.Examples, loss: Loss, stream: continual.Stream) -> Answered:
    """The answers of a circuit in `eval()`, on its device.

    Raises:
        NonFiniteError: the loss is NaN or infinite.
    """
    circuit.eval()
    loss = stream.loss(loss)
    loss_sum, correct = 0.0, []
    with torch.no_grad():
        for x, y in data.batches(examples, MEASURED_AT_ONCE):
            answer = circuit(x)
            loss_sum += loss(answer, y).item() * len(y)
            correct.append(stream.restrict(answer, y).argmax(1) == y)
    return finite_loss(loss_sum / len(examples), "the loss on held-out data"), torch.cat(correct)


def finite_loss(loss: float, what: str) -> float:
    """A loss that is finite.

    Raises:
        NonFiniteError: it is not.
    """
    if not math.isfinite(loss):
        raise NonFiniteError(f"{what} is {loss}", layer="loss")
    return loss


def every_task(learner: continual.Learner, loss: Loss) -> list[Answered]:
    """The answers to the test data of each task."""
    device, found = learner.parameters[0].device, []
    for task, examples in learner.tests:
        learner.select(task.index)
        found.append(answer_all(learner.network, examples.to(device), loss, learner.stream))
    return found


def together(tests: Sequence[Answered]) -> Answered:
    """The answers of several tasks as those of one."""
    correct = torch.cat([own for _, own in tests])
    return sum(loss * len(own) for loss, own in tests) / len(correct), correct


def stream_result(
    learner: continual.Learner, matrix: Sequence[Sequence[float]], before: Sequence[float]
) -> StreamResult:
    """What came of a stream, after its last task."""
    metrics: dict[str, float | None] = {"accuracy": sum(matrix[-1]) / len(matrix[-1])}
    if len(matrix) == len(learner.stream):
        metrics = asdict(continual.metrics(matrix, before=before))
        del metrics["tasks"]
    return StreamResult(
        tasks=tuple(task.name for task in learner.stream),
        matrix=tuple(map(tuple, matrix)),
        before=tuple(before),
        metrics=metrics,
        assumptions=asdict(learner.protection.assumptions()),
        leakage=leakage(learner),
    )


def leakage(learner: continual.Learner) -> dict[str, Any] | None:
    """Whether answers depend on how the test data are cut into batches; None where this cannot be measured.

    In the scenario "task" each task is looked at alone, and the one with the strongest sign of a leak is returned.
    """
    stream, tests = learner.stream, learner.tests
    if stream.scenario != "task":
        everything = data.Examples(torch.cat([own.x for _, own in tests]), torch.cat([own.y for _, own in tests]))
        tests = [(replace(tests[0][0], outputs=tuple(range(stream.outputs))), everything)]
    found = []
    learner.network.eval()
    for task, examples in tests:
        learner.select(task.index)
        order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0))
        some = examples.take(order[: max(1, LOOKED_AT // len(tests))]).to(learner.parameters[0].device)
        labels = (some.y[:, None] == torch.tensor(task.outputs, device=some.y.device)).long().argmax(1)
        try:
            found.append(measure.leakage(_Competing(learner.network, task.outputs).eval(), some.x, labels))
        except DataError:  # one class, or too few examples beside the network's noise
            continue
    if not found:
        return None
    worst = min(found, key=lambda each: (not each.leaks, each.p_value))
    return {**asdict(worst), "leaks": worst.leaks}


def activity(found: measure.Spikes) -> Activity:
    """What a run keeps of a network's spikes."""
    layers = {}
    for name, train in found.trains.items():
        moments, samples = train.shape[:2]
        of_one = train[:, 0].flatten(1)
        neurons = of_one.shape[1]
        some = torch.linspace(0, neurons - 1, min(neurons, IN_RASTER)).round().long()
        raster = tuple(tuple(of_one[:, neuron].nonzero().flatten().tolist()) for neuron in some.tolist())
        layers[name] = SpikingLayer(neurons, found.rates[name], found.silent[name], raster)
    return Activity(samples, moments, layers, dict(found.events), dict(found.synapses))


class _Competing(nn.Module):
    """A network's answers on the outputs that compete."""

    def __init__(self, network: nn.Module, outputs: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.outputs = list(outputs)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.network(x)
        return answer[:, self.outputs]
