"""The two kinds of node that a circuit is made of: layers, and junctions where rates meet or part."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from apical.layers.steps import Saved, Step, local_derivative, local_graph
from apical.layers.synapses import Synapses


class Record:
    """What one node keeps of one answer.

    Attributes:
        pre: rate arriving at the synapses, (batch, fan-in ...); None for a junction.
        drive: what they delivered to the soma, (batch, units ...); None unless the rule records it.
        rate: what the neurons fired, (batch, units ...); None unless the rule records it.
        saved: what every step keeps for handing a signal back.
        shape: of the rate, whether it is kept or not.
        dtype: of the rate.
    """

    __slots__ = ("drive", "dtype", "pre", "rate", "saved", "shape")

    def __init__(
        self,
        pre: Tensor | None,
        drive: Tensor | None,
        rate: Tensor | None,
        saved: list[Saved],
        shape: torch.Size,
        dtype: torch.dtype,
    ) -> None:
        self.pre = pre
        self.drive = drive
        self.rate = rate
        self.saved = saved
        self.shape = shape
        self.dtype = dtype


Gradients = dict[int, Tensor]
"""What the neurons' own parameters learn: the parameter's slot in the circuit, and its derivative."""


def collect(gradients: Gradients, slot: int, gradient: Tensor) -> None:
    """Add to what a parameter learns."""
    gradients[slot] = gradients[slot] + gradient if slot in gradients else gradient


def walk_back(
    steps: Iterable[tuple[Step, Sequence[int]]],
    saved: list[Saved],
    signal: Tensor,
    learns: Sequence[bool] | None,
    gradients: Gradients,
) -> Tensor:
    """A signal, taken back through some steps.

    Args:
        steps: the last first, each with its parameters' places in the circuit's list.
        saved: what each kept, the last at the end; taken off one by one.
        signal: (batch, units ...), after the steps.
        learns: for every parameter of the circuit, whether it learns; None: none does.
        gradients: takes what the steps' own parameters learn.

    Returns:
        (batch, units ...), before the steps.
    """
    for step, slots in steps:
        if not slots:
            signal = step.derivative(signal, *saved.pop())
            continue
        wanted = [learns is not None and learns[slot] for slot in slots]
        signal, found = step.backward(signal, saved.pop(), wanted)
        for slot, gradient in zip(slots, found, strict=True):
            if gradient is not None:
                collect(gradients, slot, gradient)
    return signal


class Node:
    """Steps that follow synapses or a meeting of rates.

    Attributes:
        index: the node's place in the circuit's order of answering; the input is value 0, this node's rate
            is value `index + 1`.
        name: module path of the synapses, or the name of the operation where rates meet.
        sources: the values that arrive.
        steps: what follows, in order.
        slots: for every step, the places of its parameters in the circuit's list.
        feeds_back: whether anything upstream can learn, so that a signal has to be sent there.
        taught: whether an error at the output has any way to it; `x.detach()` takes the way.
    """

    def __init__(self, index: int, name: str, sources: tuple[int, ...]) -> None:
        self.index = index
        self.name = name
        self.sources = sources
        self.steps: list[Step] = []
        self.slots: list[tuple[int, ...]] = []
        self._way_back: list[tuple[Step, tuple[int, ...]]] = []
        self.feeds_back = False
        self.taught = True

    def add(self, step: Step, slots: tuple[int, ...]) -> None:
        """One more step, whose parameters have these places in the circuit's list."""
        self.steps.append(step)
        self.slots.append(slots)
        self._way_back.insert(0, (step, slots))

    @property
    def own_slots(self) -> tuple[int, ...]:
        """The places of all the node's own parameters in the circuit's list."""
        return tuple(slot for slots in self.slots for slot in slots)

    def fire(self, x: Tensor) -> tuple[Tensor, list[Saved]]:
        """The neurons' rate for a drive, and what every step keeps of it."""
        saved = []
        for step in self.steps:
            x, kept = step.forward(x)
            saved.append(kept)
        return x, saved

    def through_neurons(
        self, record: Record, error: Tensor, learns: Sequence[bool], gradients: Gradients, *, once: bool = False
    ) -> Tensor:
        """A signal at the rate, taken back through the neurons to the drive.

        Args:
            record: what the node kept of its answer.
            error: (batch, units ...), at the rate.
            learns: for every parameter of the circuit, whether it learns.
            gradients: takes what the neurons' own parameters learn.
            once: let go of what each step kept as soon as it is passed.

        Returns:
            (batch, units ...), at the drive.
        """
        return walk_back(self._way_back, record.saved if once else list(record.saved), error, learns, gradients)

    def __repr__(self) -> str:
        steps = ", ".join(repr(step) for step in self.steps)
        return f"{type(self).__name__}({self.name!r}{': ' if steps else ''}{steps})"


class Layer(Node):
    """Synapses, and the neurons that they drive.

    Attributes:
        synapses: one weighted module.
        weight_slot: place of the weight in the circuit's list of parameters.
        bias_slot: place of the bias, or None.
    """

    def __init__(self, index: int, name: str, source: int, synapses: Synapses) -> None:
        super().__init__(index, name, (source,))
        self.synapses = synapses
        self.weight_slot = -1
        self.bias_slot: int | None = None

    @property
    def own_slots(self) -> tuple[int, ...]:
        bias = () if self.bias_slot is None else (self.bias_slot,)
        return (self.weight_slot, *bias, *super().own_slots)

    @property
    def weight(self) -> Tensor:
        """The synaptic weights."""
        return self.synapses.weight

    def answer(self, pre: Tensor, keep_drive: bool, keep_rate: bool) -> tuple[Tensor, Record]:
        """The layer's rate, and what it keeps."""
        drive = self.synapses.drive(pre)
        # The first neuron may work in place: whoever records the drive needs a copy of its own.
        rate, saved = self.fire(drive.clone() if keep_drive else drive)
        return rate, Record(
            pre, drive if keep_drive else None, rate if keep_rate else None, saved, rate.shape, rate.dtype
        )


class Meeting(ABC):
    """How the rates that arrive at a junction become one.

    Attributes:
        name: of the operation.
        holomorphic: whether it takes complex rates, and `backward` complex signals.
    """

    name: str
    holomorphic = False

    @abstractmethod
    def forward(self, arriving: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        """What becomes of the rates, and what `backward` needs."""

    @abstractmethod
    def backward(self, error: Tensor, saved: Saved) -> Sequence[Tensor]:
        """A signal for each of the rates that arrived."""


class PassOn(Meeting):
    """One rate, as it is: a place where it parts."""

    name = "identity"
    holomorphic = True

    def forward(self, arriving: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        return arriving[0], ()

    def backward(self, error: Tensor, saved: Saved) -> Sequence[Tensor]:
        return (error,)


class Cut(PassOn):
    """One rate, as it is, and no way back: `x.detach()`."""

    name = "detach"


class Add(Meeting):
    """The sum of the rates, broadcast where the shapes differ."""

    name = "sum"
    holomorphic = True

    def forward(self, arriving: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        total = arriving[0] + arriving[1]
        for rate in arriving[2:]:
            total = total + rate
        return total, tuple([(rate.shape, rate.dtype) for rate in arriving])

    def backward(self, error: Tensor, saved: Saved) -> Sequence[Tensor]:
        return [_as_arrived(error, shape, dtype) for shape, dtype in saved]


class Multiply(Meeting):
    """The product of two rates, broadcast where the shapes differ: one gates the other."""

    name = "product"

    def forward(self, arriving: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        return arriving[0] * arriving[1], tuple(arriving)

    def backward(self, error: Tensor, saved: Saved) -> Sequence[Tensor]:
        a, b = saved
        return [_as_arrived(error * b, a.shape, a.dtype), _as_arrived(error * a, b.shape, b.dtype)]


def _as_arrived(error: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    if error.shape != shape:
        error = error.sum_to_size(shape)
    # Under autocast the rates that meet may be of different types.
    return error if error.dtype == dtype else error.to(dtype)


class Concatenate(Meeting):
    """The rates one after the other along an axis."""

    name = "concatenation"
    holomorphic = True

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, arriving: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        sizes = tuple([rate.shape[self.axis] for rate in arriving])
        return torch.cat(tuple(arriving), self.axis), (sizes, tuple([rate.dtype for rate in arriving]))

    def backward(self, error: Tensor, saved: Saved) -> Sequence[Tensor]:
        sizes, types = saved
        return [part.to(dtype) for part, dtype in zip(torch.split(error, sizes, self.axis), types, strict=True)]


class AnyMeeting(Meeting):
    """Any function of the rates, by an autograd graph of this one function."""

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.function = function
        self.name = name

    def forward(self, arriving: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        output, graph = local_graph(self.function, arriving)
        return output, (graph,)

    def backward(self, error: Tensor, saved: Saved) -> Sequence[Tensor]:
        graph = saved[0]
        found = local_derivative(graph, error, ())
        return [
            torch.zeros_like(rate) if below is None else below for rate, below in zip(graph.inputs, found, strict=True)
        ]


class Junction(Node):
    """A place without synapses where rates meet or part.

    Attributes:
        meeting: how the rates become one.
    """

    def __init__(self, index: int, name: str, sources: tuple[int, ...], meeting: Meeting) -> None:
        super().__init__(index, name, sources)
        self.meeting = meeting

    def answer(self, arriving: Sequence[Tensor], keep_rate: bool) -> tuple[Tensor, Record]:
        """The junction's rate, and what it keeps."""
        x, met = self.meeting.forward(arriving)
        rate, saved = self.fire(x)
        return rate, Record(None, None, rate if keep_rate else None, [met, *saved], rate.shape, rate.dtype)

    def hand_back(
        self, record: Record, error: Tensor, learns: Sequence[bool], gradients: Gradients, *, once: bool = False
    ) -> Sequence[Tensor]:
        """A signal at the junction's rate, as it goes to each of the rates that arrived."""
        met, *saved = record.saved
        if once:
            record.saved = []
        own = Record(None, None, None, saved, record.shape, record.dtype)
        return self.meeting.backward(self.through_neurons(own, error, learns, gradients, once=True), met)
