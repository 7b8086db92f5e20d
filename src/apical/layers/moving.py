"""A forward pass whose rates a rule moves while a network settles."""

import copy
from collections.abc import Callable
from typing import Self

from torch import Tensor

from apical.layers import products
from apical.layers.nodes import Junction, Layer, Node
from apical.layers.passes import ForwardState
from apical.layers.steps import refire_all
from apical.layers.synapses import Synapses

Potential = Callable[[Layer, bool], Tensor | None]
"""Given a layer, and whether the rate that arrives there has moved: the potential at which its neurons fire, or None
where they keep their rate."""


class MovingState:
    """The nodes of a circuit while a rule moves their rates: evaluated again where the rates that arrive have moved.

    Random draws and batch statistics stay those of the free pass. An evaluation overwrites the state of the one before,
    so that memory does not grow with their number. Where autocast lowered the precision of the free pass, all nodes are
    first evaluated in the precision of the weights, in which small differences survive.

    Args:
        free: the state of the free pass, with every layer's drive and every node's rate; it stays as it is.
        anchored: whether the derivative of batch norm stays that of the free pass.

    Attributes:
        free: as given.
        state: of the nodes as they are now, for a `BackwardPass`.
        synapses: other synapses that take the place of a layer's own.
    """

    def __init__(self, free: ForwardState, *, anchored: bool) -> None:
        self.free = free
        self.state = free.copy()
        self.synapses: dict[Layer, Synapses] = {}
        self._anchored = anchored
        self._upwards = free.plan.order[::-1]
        self._junctions = [node for node, is_layer in self._upwards if not is_layer]
        self._was_lowered = any(_is_lowered(node, free) for node, _ in self._upwards)
        if self._was_lowered:
            self._raise_precision()
        self._turn = 0
        self._moved = [0] * (len(free.nodes) + 1)
        self._evaluated = [0] * len(free.nodes)

    def copy(self) -> Self:
        """A state of its own with the same tensors."""
        other = copy.copy(self)
        other.state = self.state.copy()
        other._moved, other._evaluated = list(self._moved), list(self._evaluated)
        return other

    def rate(self, value: int) -> Tensor:
        """The rate of a value as it is now."""
        rate = self.state.rate(value)
        assert rate is not None
        return rate

    def pre(self, layer: Layer) -> Tensor:
        """The rate that arrives at a layer's synapses now."""
        rate = self.state.rate(layer.sources[0])
        if rate is None:  # below all that learns
            rate = self.free[layer].pre
            assert rate is not None
        return rate.to(layer.weight.dtype) if self._was_lowered else rate

    def drive(self, layer: Layer) -> Tensor:
        """Evaluate a layer's drive for the rate that arrives there now."""
        own = self.state[layer]
        own.pre = pre = self.pre(layer)
        own.drive = drive = products.forward(self.synapses.get(layer, layer.synapses), pre)
        self._evaluated[layer.index] = self._turn
        return drive

    def fire(self, node: Node, x: Tensor) -> None:
        """Evaluate the neurons of a layer for a potential."""
        self._fire(node, x)
        self._note_move(node)

    def set_rate(self, node: Node, rate: Tensor) -> None:
        """Move a node's rate."""
        self.state[node].rate = rate
        self._note_move(node)

    def has_moved_input(self, node: Node) -> bool:
        """Whether a rate that arrives at a node has moved since the node was evaluated."""
        moved, evaluated = self._moved, self._evaluated[node.index]
        first, *others = node.sources
        return moved[first] > evaluated or any(moved[source] > evaluated for source in others)

    def has_been_evaluated(self, layer: Layer) -> bool:
        """Whether a layer's drive was evaluated again since the free pass."""
        return self._evaluated[layer.index] > 0

    def update(self, potential: Potential) -> None:
        """Evaluate from below the nodes at which a moved rate arrives.

        Args:
            potential: of a layer.
        """
        self._turn += 1
        for node, is_layer in self._upwards:
            if not is_layer:
                self._merge_moved(node)
                continue
            assert isinstance(node, Layer)
            x = potential(node, self.has_moved_input(node))
            if x is not None:
                self.fire(node, x)

    def update_junctions(self) -> None:
        """Evaluate the junctions at which a moved rate arrives."""
        self._turn += 1
        for node in self._junctions:
            self._merge_moved(node)

    def _merge_moved(self, node: Node) -> None:
        if self.has_moved_input(node):
            self._merge(node)
            self._evaluated[node.index] = self._turn
            self._note_move(node)

    def _merge(self, node: Node) -> None:
        assert isinstance(node, Junction)
        x, merged = node.merge.merge_again([self.rate(source) for source in node.sources])
        own = self.state[node]
        own.rate, saved = refire_all(node.steps, x, self.free[node].saved[1:], anchored=self._anchored)
        own.saved = [merged, *saved]

    def _note_move(self, node: Node) -> None:
        self._moved[node.index + 1] = self._turn

    def _fire(self, node: Node, x: Tensor) -> None:
        own = self.state[node]
        own.rate, own.saved = refire_all(node.steps, x, self.free[node].saved, anchored=self._anchored)

    def _raise_precision(self) -> None:
        dtype = next(node.weight.dtype for node, _ in self._upwards if isinstance(node, Layer))
        for state in self.state.nodes:
            if state is not None and state.rate is not None and state.rate.is_floating_point():
                state.rate = state.rate.to(dtype)
        for node, _ in self._upwards:
            if isinstance(node, Layer):
                own = self.state[node]
                own.pre = self.pre(node)
                own.drive = products.forward(node.synapses, own.pre)
                self._fire(node, own.drive)
            else:
                self._merge(node)


def _is_lowered(node: Node, free: ForwardState) -> bool:
    """Whether a layer's drive has another type than its weights."""
    if not isinstance(node, Layer):
        return False
    drive = free[node].drive
    return drive is not None and drive.dtype != node.weight.dtype
