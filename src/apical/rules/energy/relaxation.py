"""The engine of predictive coding: the states of a circuit's layers, their predictions, and the errors between.

Every layer that drives another holds a value v at its soma; the layers below predict it by their drive a. Under no_grad
and with closed-form products, on any graph of layers and junctions:

- `predict`: what the values make their consumers fire, and what drives follow from it. Whatever nothing has reached
  yet stays what the free pass made it, and so do what lies below all that learns and the first layers' drives.
- `sweep`: signals from the output down, one message at each layer's rate.

What a step remembers is overwritten by the next, so memory does not grow with the number of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from apical.layers import BackwardPlan, Derivatives, ForwardState, Junction, Layer, Node, NodeState
from apical.layers.steps import Saved
from apical.rules.energy.again import fire_all_again
from apical.rules.energy.products import carry, drive
from apical.wiring import Wiring

aten = torch.ops.aten

Visit = Callable[[Layer, Tensor | None], Tensor | None]
"""Takes a layer and the message at its rate; gives what it sends down, at its soma."""


class Hierarchy:
    """Which layers hold values, how far they are from the output, and where messages have to go.

    Attributes:
        levels: of the layers that hold a value, by their index: the errors on the way from the output to their own.
        hidden: these layers, in the order in which they answer. The others that learn are readouts.
        levelled: whether a layer's level is the same on every way from the output.
        depth: the highest level.
        waits: for every value of the circuit, whether messages about it are wanted.
    """

    def __init__(self, wiring: Wiring, plan: BackwardPlan) -> None:
        feeds: set[int] = set()
        found: dict[int, int] = {wiring.output: 0}
        self.levels: dict[int, int] = {}
        self.levelled = True
        for node, is_layer in plan.order:
            value = node.index + 1
            level = found.get(value, 0)
            if is_layer and value in feeds:
                level += 1
                self.levels[node.index] = level
            if is_layer or value in feeds:
                feeds.update(node.sources)
            for source in node.sources:
                known = found.setdefault(source, level)
                if known != level and plan.needs_signal[source]:
                    self.levelled = False
                    found[source] = max(level, known)
        self.hidden = [node for node in wiring.layers if node.index in self.levels]
        self.depth = max([0, *self.levels.values()])
        self.waits = [False] * (len(wiring.nodes) + 1)
        for node, _ in reversed(plan.order):
            below = any(self.waits[source] for source in node.sources)
            self.waits[node.index + 1] = below or node.index in self.levels


class Relaxation:
    """The states of one answer, on their way.

    Args:
        wiring: the circuit's.
        state: what it kept of the free pass; with every drive and rate, if `predict` is to be called.
        hierarchy: of these.
        weights: what carries signals down, by layer; a layer that is missing uses its own.

    Attributes:
        drives: a, what the layers below predict, by the layer's index.
        values: v of the hidden layers that anything has reached.
        posts: a - v of these: prediction errors with the sign of a gradient.
        rates: by value of the circuit, as they are now.
        weights_move: whether drives change though the rates that arrive do not.
    """

    weights_move = False

    def __init__(
        self, wiring: Wiring, state: ForwardState, hierarchy: Hierarchy, weights: Mapping[Layer, Tensor]
    ) -> None:
        self.wiring = wiring
        self.state = state
        self.hierarchy = hierarchy
        self.levels = hierarchy.levels
        self.waits = hierarchy.waits
        self.weights = weights
        self.down = state.plan.order
        self.up = self.down[::-1]
        self.drives: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self.posts: dict[int, Tensor] = {}
        self.rates: list[Tensor | None] = [state.source]
        self.saved: dict[int, list[Saved]] = {}
        for node in wiring.nodes:
            record = state.nodes[node.index]
            self.rates.append(None if record is None else record.rate)
            if record is not None:
                self.saved[node.index] = record.saved
                if record.drive is not None:
                    self.drives[node.index] = record.drive
        self._moved = [False] * len(self.rates)
        self._still = (False,) * len(state.plan.requires_grad)
        layers = [node for node, is_layer in self.up if isinstance(node, Layer)]
        if any(node.index in self.drives and self.drives[node.index].dtype != node.weight.dtype for node in layers):
            self._answer_precisely()

    def anew(self) -> Relaxation:
        """The same, as nothing had moved."""
        return Relaxation(self.wiring, self.state, self.hierarchy, self.weights)

    def _answer_precisely(self) -> None:
        """Answer again in the weights' own type: under autocast the small differences would not survive."""
        for node, _ in self.up:
            if isinstance(node, Layer):
                self.drives[node.index] = self._drive(node)
                rate, self.saved[node.index] = self._fire(node, self.drives[node.index])
            else:
                assert isinstance(node, Junction)
                rate, self.saved[node.index] = self._meet(node)
            self.rates[node.index + 1] = rate

    # What follows from the states

    @property
    def y(self) -> Tensor:
        """The circuit's answer as it is now."""
        y = self.rates[self.wiring.output]
        assert y is not None
        return y

    def pre(self, layer: Layer) -> Tensor:
        """The rate that arrives at a layer's synapses now."""
        return self._arriving(layer).to(layer.weight.dtype)

    def _arriving(self, layer: Layer) -> Tensor:
        pre = self.rates[layer.sources[0]]
        if pre is None:  # below all that learns
            pre = self.state[layer].pre
        assert pre is not None
        return pre

    def _drive(self, layer: Layer) -> Tensor:
        return drive(layer, self.pre(layer))

    def _fire(self, node: Node, x: Tensor, skip: int = 0) -> tuple[Tensor, list[Saved]]:
        return fire_all_again(node.steps, x, self.state[node].saved[skip:], anchored=True)

    def _meet(self, junction: Junction) -> tuple[Tensor, list[Saved]]:
        arriving = [self.rates[source] for source in junction.sources]
        x, met = junction.merge.forward(arriving)  # type: ignore[arg-type]
        rate, saved = self._fire(junction, x, 1)
        return rate, [met, *saved]

    def is_driven_alike(self, layer: Layer) -> bool:
        """Whether a layer's drive stays what it was in the free pass."""
        return not (self.waits[layer.sources[0]] or self.weights_move)

    def predict(self, *, errors: bool = False) -> None:
        """Let the values drive what they drive.

        Args:
            errors: the states are the errors, and the values follow: v = a - post.
        """
        moved, rates = self._moved, self.rates
        for node, _ in self.up:
            value, index = node.index + 1, node.index
            if not isinstance(node, Layer):
                assert isinstance(node, Junction)
                if any(moved[source] for source in node.sources):
                    rates[value], self.saved[index] = self._meet(node)
                    moved[value] = True
                continue
            driven = moved[node.sources[0]] or self.weights_move
            if index not in self.levels:  # a readout
                if driven:
                    self.drives[index] = self._drive(node)
                    rates[value], self.saved[index] = self._fire(node, self.drives[index])
                    moved[value] = True
                continue
            if driven:
                if not errors and index not in self.values:
                    self.values[index] = self.drives[index].clone()
                self.drives[index] = self._drive(node)
            if errors or self.is_driven_alike(node):
                if index in self.posts:
                    self.values[index] = self.drives[index] - self.posts[index]
                elif driven:
                    self.values[index] = self.drives[index]
            elif driven:
                # The drive is this step's own: nobody else needs it.
                self.posts[index] = self.drives[index].sub_(self.values[index])
            elif index in self.values:
                self.posts[index] = self.drives[index] - self.values[index]
            if index in self.values:
                rates[value], self.saved[index] = self._fire(node, self.values[index])
                moved[value] = True

    # What comes down

    def back(
        self, node: Layer, message: Tensor, learns: Sequence[bool] | None = None, gradients: Derivatives | None = None
    ) -> Tensor:
        """A message at a layer's rate, at its soma, by the neurons' derivative as they fire now."""
        if not node.steps:
            return message
        record = self._record(node)
        return node.neurons_backward(
            record, message, self._still if learns is None else learns, {} if gradients is None else gradients
        )

    def _record(self, node: Node) -> NodeState:
        known = self.state[node]
        return NodeState(None, None, None, self.saved[node.index], known.shape, known.dtype)

    def carry(self, layer: Layer, post: Tensor) -> Tensor:
        """A signal at a layer's soma, carried down to the rate that arrives there."""
        weight = self.weights.get(layer)
        return carry(layer, post, layer.weight if weight is None else weight, self._arriving(layer))

    def sweep(
        self, error: Tensor, visit: Visit, learns: Sequence[bool] | None = None, gradients: Derivatives | None = None
    ) -> Tensor | None:
        """Send messages down from an error at the output.

        Args:
            error: of the shape of the answer.
            visit: what happens at a layer.
            learns: with `gradients`, what the junctions' own parameters learn; signals then go to the input, too.
            gradients: takes it.

        Returns:
            what arrived at the input, if it went there.
        """
        arrived: dict[int, Tensor] = {self.wiring.output: error}
        wanted = self.waits if learns is None else self.state.plan.needs_signal
        for node, _ in self.down:
            message = arrived.pop(node.index + 1, None)
            if isinstance(node, Layer):
                sent = visit(node, message)
                source = node.sources[0]
                if sent is None or not wanted[source]:
                    continue
                handed: Sequence[Tensor] = (self.carry(node, sent),)
            elif message is None:
                continue
            else:
                assert isinstance(node, Junction)
                handed = node.backward(
                    self._record(node),
                    message,
                    self._still if learns is None else learns,
                    {} if gradients is None else gradients,
                )
            for source, signal in zip(node.sources, handed, strict=True):
                if wanted[source]:
                    before = arrived.get(source)
                    arrived[source] = signal if before is None else before + signal
        return arrived.get(0)
