"""The forward and the backward pass over a circuit's nodes, over any set of states.

`forward` computes the rate of every node from below; `BackwardPass` carries signals from the output down, over the
junctions, from layer to layer. Both work on a `ForwardState`: that of the free pass, or a copy whose nodes a settling
rule moves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from apical.layers.credit import Credit, neuron_credits
from apical.layers.nodes import Derivatives, Junction, Layer, Node, NodeState, Perturbation, steps_backward

Message = Tensor | tuple[Tensor, ...]
"""What travels down: one signal, or several streams of signals side by side."""

DefaultSignal = Callable[[Node, NodeState], Message | None]
"""Gives the signal at a node's rate where none arrived by the circuit's own paths."""


class BackwardPlan(NamedTuple):
    """What can learn in one pass, and where signals have to go for it.

    Attributes:
        requires_grad: for every parameter of the circuit, whether it learns.
        needs_signal: for every value, whether anything at or below its node learns.
        order: the nodes that a signal passes, from the output down; with each, whether it is a layer.
    """

    requires_grad: tuple[bool, ...]
    needs_signal: tuple[bool, ...]
    order: tuple[tuple[Node, bool], ...]


class ForwardState:
    """The state of every node after a forward pass.

    Attributes:
        nodes: a state for each node that a signal passes, None for the others.
        plan: what can learn.
        source: the input.
        batch_axes: for every value, the axis of its rate that holds the batch; None if the rule does not need it.
        input_signal: the signal that arrived at the circuit's input.
        moments: of the sequence, whose time x batch the first axis of its rates holds; 1 without time.
    """

    moments: int = 1

    def __init__(self, nodes: list[NodeState | None], plan: BackwardPlan, source: Tensor) -> None:
        self.nodes = nodes
        self.plan = plan
        self.source = source
        self.batch_axes: tuple[int | None, ...] | None = None
        self.input_signal: Tensor | None = None

    def __getitem__(self, node: Node) -> NodeState:
        state = self.nodes[node.index]
        assert state is not None
        return state

    def rate(self, value: int) -> Tensor | None:
        """The rate of a value: 0 is the input, value i + 1 the rate of node i; None where it is not saved."""
        if value == 0:
            return self.source
        state = self.nodes[value - 1]
        return None if state is None else state.rate

    def batch_axis(self, value: int) -> int | None:
        """The axis of a value's rate that holds the batch, or None."""
        return None if self.batch_axes is None else self.batch_axes[value]

    def copy(self) -> ForwardState:
        """A state of its own with the same tensors."""
        other = ForwardState([None if state is None else state.copy() for state in self.nodes], self.plan, self.source)
        other.batch_axes, other.moments = self.batch_axes, self.moments
        return other

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor in it."""
        yield self.source
        for state in self.nodes:
            if state is not None:
                for item in (state.pre, state.drive, state.rate, *(item for saved in state.saved for item in saved)):
                    if isinstance(item, Tensor):
                        yield item

    def pack(self) -> tuple[list[Tensor], Any]:
        """The tensors in it, for autograd to save, and all else with the tensors' places."""
        tensors: list[Tensor] = []
        compiling = torch.compiler.is_compiling()

        def place(item: Any) -> Any:
            if not isinstance(item, Tensor):
                return item
            if compiling:  # which accepts no tensor twice
                for index, known in enumerate(tensors):
                    if known is item:
                        return (_TENSOR, index)
            tensors.append(item)
            return (_TENSOR, len(tensors) - 1)

        layout: list[Any] = []
        for state in self.nodes:
            if state is None:
                layout.append(None)
                continue
            heads = (place(state.pre), place(state.drive), place(state.rate))
            saved = [tuple([place(item) for item in items]) for items in state.saved]
            layout.append((heads, saved, state.shape, state.dtype))
        return tensors, (layout, self.plan, place(self.source), self.batch_axes, self.moments)

    @classmethod
    def unpack(cls, tensors: Sequence[Tensor], packed: Any) -> ForwardState:
        """The state that was packed."""

        def fetch(item: Any) -> Any:
            return tensors[item[1]] if type(item) is tuple and item[0] is _TENSOR else item

        layout, plan, source, batch_axes, moments = packed
        nodes: list[NodeState | None] = []
        for entry in layout:
            if entry is None:
                nodes.append(None)
                continue
            (pre, drive, rate), saved, shape, dtype = entry
            own = [tuple([fetch(item) for item in items]) for items in saved]
            nodes.append(NodeState(fetch(pre), fetch(drive), fetch(rate), own, shape, dtype))
        found = cls(nodes, plan, fetch(source))
        found.batch_axes, found.moments = batch_axes, moments
        return found


_TENSOR = "the tensor at this place"


def forward(
    nodes: Sequence[Node],
    last_use: Sequence[tuple[int, ...]],
    output: int,
    x: Tensor,
    plan: BackwardPlan,
    *,
    save_drives: bool = False,
    save_rates: bool = False,
    perturb: Perturbation | None = None,
) -> tuple[Tensor, ForwardState]:
    """Compute the output for an input.

    Args:
        nodes: in the order of the forward pass.
        last_use: for every node, the values that no later node needs.
        output: the value that is the output.
        x: the input.
        plan: what can learn; nodes below all that learns save nothing.
        save_drives: save every layer's drive.
        save_rates: save every node's rate.
        perturb: gives the drive from which a layer's neurons fire.

    Returns:
        the rate of the output, and the state of the nodes.
    """
    values: list[Tensor | None] = [x] + [None] * len(nodes)
    states: list[NodeState | None] = []
    for node, needed, done in zip(nodes, plan.needs_signal[1:], last_use, strict=True):
        if isinstance(node, Layer):
            pre = values[node.sources[0]]
            assert pre is not None
            rate, state = node.forward(pre, save_drives, save_rates, perturb)
        else:
            assert isinstance(node, Junction)
            rate, state = node.forward([values[source] for source in node.sources], save_rates)  # type: ignore[misc]
        values[node.index + 1] = rate
        states.append(state if needed else None)
        for value in done:
            values[value] = None
    y = values[output]
    assert y is not None
    return y, ForwardState(states, plan, x)


class BackwardPass:
    """One pass of signals from the output down, over the junctions, from layer to layer.

    Iterating yields every layer below or at which something learns, with its state, from the output down. There,
    `receive` gives the signal that arrived at its rate, `somatic` propagates it to the soma, and `send` passes one on
    to what drives the layer. Junctions are passed on the way, by every stream of a signal in the same way.

    Args:
        state: of the nodes.
        output: the value at which the signals start.
        signal: at the output.
        default_signal: gives the signal at a node's rate where none arrived by the circuit's own paths.
        needs_signal: for every value, whether signals are wanted there; None: where the plan needs them.
        free_buffers: release a node's state as soon as the pass has left it, so that a backward pass takes no more
            memory than autograd's.

    Attributes:
        requires_grad: for every parameter of the circuit, whether it learns.
        derivatives: of the neurons' own parameters, as far as the pass has come.
    """

    def __init__(
        self,
        state: ForwardState,
        output: int,
        signal: Message,
        *,
        default_signal: DefaultSignal | None = None,
        needs_signal: Sequence[bool] | None = None,
        free_buffers: bool = True,
    ) -> None:
        self.state = state
        self.free_buffers = free_buffers
        self.derivatives: Derivatives = {}
        self.requires_grad: Sequence[bool] = state.plan.requires_grad
        self._needs = state.plan.needs_signal if needs_signal is None else needs_signal
        self._default_signal = default_signal
        self._arrived: dict[int, Message] = {output: signal}

    def __iter__(self) -> Iterator[tuple[Layer, NodeState]]:
        states, free_buffers = self.state.nodes, self.free_buffers
        node: Any
        for node, is_layer in self.state.plan.order:
            if is_layer:
                yield node, states[node.index]
            else:
                self._pass(node)
            if free_buffers:
                states[node.index] = None
        at_input = self._arrived.get(0)
        if at_input is not None:
            self.state.input_signal = at_input[0] if isinstance(at_input, tuple) else at_input

    def receive(self, node: Node) -> Any:
        """Remove and return the signal at a node's rate: a tensor, as many as streams were sent, or None."""
        message = self._arrived.pop(node.index + 1, None)
        if message is None and self._default_signal is not None:
            message = self._default_signal(node, self.state[node])
        return message

    def needs_input_grad(self, layer: Layer) -> bool:
        """Whether anything below the layer needs a signal."""
        return self._needs[layer.sources[0]]

    def send(self, layer: Layer, message: Message) -> None:
        """Send a signal, or several streams, down from a layer; only where `needs_input_grad`."""
        self._arrive(layer.sources[0], message)

    def somatic(self, layer: Layer, state: NodeState, signal: Tensor) -> Tensor:
        """Propagate a signal at a layer's rate through its neurons to the soma, and keep their derivatives."""
        if not layer.steps:
            return signal
        return layer.neurons_backward(
            state, signal, self.requires_grad, self.derivatives, free_buffers=self.free_buffers
        )

    def through(self, node: Node, state: NodeState, signal: Tensor, part: slice, learning: bool = True) -> Tensor:
        """Propagate a signal down through a part of a node's steps, and keep their derivatives if they learn."""
        steps = reversed(list(zip(node.steps[part], node.parameter_indices[part], strict=True)))
        requires_grad = self.requires_grad if learning else None
        return steps_backward(steps, state.saved[part], signal, requires_grad, self.derivatives)

    def credits(self) -> Iterator[Credit]:
        """Credit for the own parameters of the neurons that the signals passed."""
        if self.derivatives:
            yield from neuron_credits([node for node, _ in self.state.plan.order], self.derivatives)

    def _pass(self, node: Junction) -> None:
        # A signal that did not come by the circuit's paths is for this node alone.
        by_its_paths = node.index + 1 in self._arrived
        message = self.receive(node)
        if message is None:
            return
        state = self.state[node]
        if isinstance(message, tuple):
            # The first stream is the one that the junction's own parameters learn from.
            streams = [
                node.backward(state, stream, None if number else self.requires_grad, self.derivatives)
                for number, stream in enumerate(message)
            ]
            sent: Sequence[Message] = list(zip(*streams, strict=True))
        else:
            sent = node.backward(state, message, self.requires_grad, self.derivatives, free_buffers=self.free_buffers)
        if by_its_paths:
            for source, signal in zip(node.sources, sent, strict=True):
                if self._needs[source]:
                    self._arrive(source, signal)

    def _arrive(self, value: int, signal: Message) -> None:
        before = self._arrived.get(value)
        if before is None:
            self._arrived[value] = signal
        elif isinstance(before, tuple):
            self._arrived[value] = tuple([a + b for a, b in zip(before, signal, strict=True)])
        else:
            assert isinstance(signal, Tensor)
            self._arrived[value] = before + signal
