"""The moments of a sequence: which rates of a circuit have one row for each, and signals between such and others."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from apical.errors import CircuitError
from apical.layers.nodes import Junction, Node


class Clock(NamedTuple):
    """The moments and the samples of the sequence that passes a network."""

    moments: int
    batch: int


class Clocked(Protocol):
    """A neuron with a memory."""

    clock: Clock | None
    ends_time: bool


@contextmanager
def clocked(neurons: Sequence[Clocked], clock: Clock | None) -> Iterator[None]:
    """Run these neurons by a clock, and by the one before afterwards."""
    before = [neuron.clock for neuron in neurons]
    for neuron in neurons:
        neuron.clock = clock
    try:
        yield
    finally:
        for neuron, own in zip(neurons, before, strict=True):
            neuron.clock = own


class Sequences:
    """The neurons with a memory of a circuit, and where its rates stand in time.

    Attributes:
        neurons: with a memory; none: the circuit has no time.
        ends: the output is one for the sequence, (batch, ...).
        takes_constant: an input that stays the same may pass the first synapses once, since no merge joins a rate from
            before the first neurons with a memory with one from behind them.

    Args:
        nodes: of the circuit.
        output: the value that is the output.

    Raises:
        CircuitError: a rate that was averaged over time meets one that was not.
    """

    def __init__(self, nodes: Sequence[Node], output: int) -> None:
        self.neurons: list[Any] = []
        self._steps: list[Any] = []
        self.takes_constant = True
        places = ["before"]  # of every value: before the first neurons with a memory, in time, or after it has ended
        for node in nodes:
            arriving = {places[source] for source in node.sources}
            if "after" in arriving and len(arriving) > 1:
                raise CircuitError(
                    f"{node.name}: a rate that was averaged over time meets one of every moment. Average both, or "
                    "neither."
                )
            self.takes_constant &= len(arriving) == 1 or not isinstance(node, Junction)
            place = "in time" if len(arriving) > 1 else next(iter(arriving))
            for step in node.steps:
                if step.traits.in_time:
                    if place == "after":
                        raise CircuitError(
                            f"{node.name}: {step} stands behind a read-out that averages over time. Put it before, or "
                            "pass average=False there."
                        )
                    self.neurons.append(step.module)
                    self._steps.append(step)
                    place = "after" if step.module.ends_time else "in time"
            places.append(place)
        self.ends = places[output] == "after"

    def carry_back(self, weights: str | None) -> None:
        """Carry errors back in time over recurrent synapses by these weights: "tied" for their own, None for none."""
        for step in self._steps:
            step.through_time = weights

    @contextmanager
    def clocked(self, clock: Clock | None) -> Iterator[None]:
        """Run the neurons by a clock, and by the one before afterwards."""
        with clocked(self.neurons, clock):
            yield


def at_rows(signal: Tensor, rows: int, moments: int) -> Tensor:
    """A signal, whose first axis holds time x batch or the batch, for a rate with so many rows.

    A signal for the whole sequence reaches each moment as its share, 1 / moments; one for each moment reaches what is
    the same at all of them as the sum.
    """
    if len(signal) == rows or moments == 1:
        return signal
    if len(signal) * moments == rows:
        return (signal / moments).repeat(moments, *[1] * (signal.dim() - 1))
    return signal.reshape(moments, rows, *signal.shape[1:]).sum(0)
