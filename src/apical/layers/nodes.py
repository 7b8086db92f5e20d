"""The two kinds of node that a circuit is made of: layers, and junctions where rates merge or branch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from apical.layers.merges import Merge
from apical.layers.steps import LocalGraph, Saved, Step, is_own
from apical.layers.synapses import Synapses

Derivatives = dict[int, Tensor]
"""The derivatives of the neurons' own parameters, by the parameter's index in the circuit."""

Perturbation = Callable[["Layer", Tensor], Tensor]
"""Gives the drive from which a layer's neurons fire, for the drive that its synapses deliver."""


class NodeState:
    """The state of one node after a forward pass.

    Attributes:
        pre: rate that arrives at the synapses, (batch, fan-in ...); None for a junction.
        drive: pre-activation, (batch, units ...); None unless the rule saves it.
        rate: activation, (batch, units ...); None unless the rule saves it.
        saved: what every step needs for the backward pass.
        shape: of the rate, whether it is saved or not.
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

    def copy(self) -> NodeState:
        """A state of its own with the same tensors."""
        return NodeState(self.pre, self.drive, self.rate, list(self.saved), self.shape, self.dtype)


def steps_backward(
    steps: Iterable[tuple[Step, Sequence[int]]],
    saved: list[Saved],
    signal: Tensor,
    requires_grad: Sequence[bool] | None,
    derivatives: Derivatives,
) -> Tensor:
    """Propagate a signal back through some steps.

    Args:
        steps: the last first, each with the indices of its parameters.
        saved: what each step saved, the last at the end; consumed one by one.
        signal: (batch, units ...), after the steps.
        requires_grad: for every parameter of the circuit; None: none is learned.
        derivatives: receives those of the steps' own parameters.

    Returns:
        (batch, units ...), before the steps.
    """
    for step, indices in steps:
        if not indices:
            signal = step.derivative(signal, *saved.pop())
            continue
        wanted = [requires_grad is not None and requires_grad[index] for index in indices]
        signal, found = step.derivatives(signal, saved.pop(), wanted)
        for index, derivative in zip(indices, found, strict=True):
            if derivative is not None:
                derivatives[index] = derivatives[index] + derivative if index in derivatives else derivative
    return signal


class Node:
    """Steps that follow synapses or a merge of rates.

    Attributes:
        index: the node's place in the order of the forward pass; the input is value 0, this node's rate is value
            `index + 1`.
        name: module path of the synapses, or the name of the operation that merges rates.
        sources: the values that arrive.
        steps: what follows, in order.
        parameter_indices: for every step, the indices of its parameters in the circuit.
        feeds_back: whether anything below can learn, so that a signal has to be sent there.
        reachable: whether an error at the output can reach it; False behind `x.detach()`.
    """

    def __init__(self, index: int, name: str, sources: tuple[int, ...]) -> None:
        self.index = index
        self.name = name
        self.sources = sources
        self.steps: list[Step] = []
        self.parameter_indices: list[tuple[int, ...]] = []
        self._backward_steps: list[tuple[Step, tuple[int, ...]]] = []
        self.feeds_back = False
        self.reachable = True

    def add(self, step: Step, indices: tuple[int, ...]) -> None:
        """Append a step, whose parameters have these indices in the circuit."""
        self.steps.append(step)
        self.parameter_indices.append(indices)
        self._backward_steps.insert(0, (step, indices))

    def is_like(self, other: Node) -> bool:
        """Whether a node of the same model, read again, is the same but for the places of parameters."""
        return (type(self), self.name, self.sources) == (type(other), other.name, other.sources) and [
            (type(step), repr(step), step.parameters) for step in self.steps
        ] == [(type(step), repr(step), step.parameters) for step in other.steps]

    def adopt_parameters(self, other: Node) -> None:
        """Take the places of parameters from the same node, read again."""
        self.parameter_indices = other.parameter_indices
        self._backward_steps = list(zip(self.steps, other.parameter_indices, strict=True))[::-1]

    def separate_samples(self) -> None:
        """Make the derivatives of the neurons' parameters those of each sample, (batch, ...), and not their sum."""
        for step in self.steps:
            step.separate = True

    @property
    def firing_place(self) -> int:
        """The place of the first activation among the steps; their number where there is none."""
        places = (place for place, step in enumerate(self.steps) if step.traits.activation)
        return next(places, len(self.steps))

    @property
    def floor(self) -> float | None:
        """The lowest rate of the first activation, or 0 if that is above; None where there is none."""
        steps = self.steps[self.firing_place : self.firing_place + 1]
        lowest = steps[0].traits.lowest_rate if steps else None
        return None if lowest is None else min(0.0, lowest)

    @property
    def may_remember(self) -> bool:
        """Whether a module of the user's own computes the rate, which may keep state."""
        return any(isinstance(step, LocalGraph) and is_own(step.module) for step in self.steps)

    @property
    def neuron_indices(self) -> tuple[int, ...]:
        """The indices of the parameters of the node's neurons."""
        return tuple(index for indices in self.parameter_indices for index in indices)

    @property
    def own_indices(self) -> tuple[int, ...]:
        """The indices of all the node's own parameters."""
        return self.neuron_indices

    def fire(self, x: Tensor) -> tuple[Tensor, list[Saved]]:
        """The neurons' rate for a drive, and what every step saves."""
        saved = []
        for step in self.steps:
            x, own = step.forward(x)
            saved.append(own)
        return x, saved

    def neurons_backward(
        self,
        state: NodeState,
        signal: Tensor,
        requires_grad: Sequence[bool] | None,
        derivatives: Derivatives,
        *,
        free_buffers: bool = False,
    ) -> Tensor:
        """Propagate a signal at the rate back through the neurons to the drive.

        Args:
            state: of this node.
            signal: (batch, units ...), at the rate.
            requires_grad: for every parameter of the circuit; None: none is learned.
            derivatives: receives those of the neurons' own parameters.
            free_buffers: release what each step saved as soon as it has been used.

        Returns:
            (batch, units ...), at the drive.
        """
        saved = state.saved if free_buffers else list(state.saved)
        if signal.is_complex():  # autograd's products conjugate, holomorphic ones do not
            turned = signal.conj().resolve_conj()
            return steps_backward(self._backward_steps, saved, turned, requires_grad, derivatives).conj().resolve_conj()
        return steps_backward(self._backward_steps, saved, signal, requires_grad, derivatives)

    def __repr__(self) -> str:
        steps = ", ".join(repr(step) for step in self.steps)
        return f"{type(self).__name__}({self.name!r}{': ' if steps else ''}{steps})"


class Layer(Node):
    """Synapses, and the neurons that they drive.

    Attributes:
        synapses: one weighted module.
    """

    def __init__(self, index: int, name: str, source: int, synapses: Synapses) -> None:
        super().__init__(index, name, (source,))
        self.synapses = synapses

    def is_like(self, other: Node) -> bool:
        if not (isinstance(other, Layer) and super().is_like(other)):
            return False
        own, new = self.synapses, other.synapses
        return own.module is new.module and (own.bias_index is None) == (new.bias_index is None)

    def adopt_parameters(self, other: Node) -> None:
        super().adopt_parameters(other)
        assert isinstance(other, Layer)
        own, new = self.synapses, other.synapses
        own.holder, own.weight_index, own.bias_index = new.holder, new.weight_index, new.bias_index

    @property
    def own_indices(self) -> tuple[int, ...]:
        own = (self.synapses.weight_index, self.synapses.bias_index)
        return (*[index for index in own if index is not None], *super().own_indices)

    @property
    def weight(self) -> Tensor:
        """The synaptic weights."""
        return self.synapses.weight

    def forward(
        self, pre: Tensor, save_drive: bool, save_rate: bool, perturb: Perturbation | None = None
    ) -> tuple[Tensor, NodeState]:
        """The layer's rate, and its state."""
        drive = self.synapses.forward(pre)
        if perturb is not None:
            drive = perturb(self, drive)
        # The first neuron may work in place, so a drive that is saved needs a copy.
        rate, saved = self.fire(drive.clone() if save_drive else drive)
        return rate, NodeState(
            pre, drive if save_drive else None, rate if save_rate else None, saved, rate.shape, rate.dtype
        )


class Junction(Node):
    """A place without synapses where rates merge or branch.

    Attributes:
        merge: how the rates become one.
    """

    def __init__(self, index: int, name: str, sources: tuple[int, ...], merge: Merge) -> None:
        super().__init__(index, name, sources)
        self.merge = merge

    @property
    def may_remember(self) -> bool:
        return self.merge.may_remember or super().may_remember

    def forward(self, arriving: Sequence[Tensor], save_rate: bool) -> tuple[Tensor, NodeState]:
        """The junction's rate, and its state."""
        x, merged = self.merge.forward(arriving)
        rate, saved = self.fire(x)
        return rate, NodeState(None, None, rate if save_rate else None, [merged, *saved], rate.shape, rate.dtype)

    def backward(
        self,
        state: NodeState,
        signal: Tensor,
        requires_grad: Sequence[bool] | None,
        derivatives: Derivatives,
        *,
        free_buffers: bool = False,
    ) -> Sequence[Tensor]:
        """Propagate a signal at the junction's rate to each of the rates that arrived."""
        merged, *saved = state.saved
        if free_buffers:
            state.saved = []
        turned = signal.is_complex()
        if turned:
            signal = signal.conj().resolve_conj()
        signal = steps_backward(self._backward_steps, saved, signal, requires_grad, derivatives)
        sent = self.merge.backward(signal, merged)
        return [below.conj().resolve_conj() for below in sent] if turned else sent
