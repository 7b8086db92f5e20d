"""The engine of feed-forward equilibrium propagation: a circuit's layers, nudged, on any graph.

Every layer holds a state h at its rate; the layers below predict it, f. Under no_grad and with closed-form products, a
nudged circuit seeks a minimum of

    F = 1/2 sum_k |h_k - f_k(h_<k)|^2 + beta C(y),        at which  f_k - h_k = beta u_k,
    u_k = sum over what k drives of J_c^T u_c,             u at the output: dC/dy

and what is carried is u, the error in units of the nudging strength: no small difference is ever taken.

- `Course`: which layers move, in which turn, and how many turns a signal takes from the output to the lowest.
- `Free`: what the layers fired without a nudge.
- `Nudged`: the states under one nudging strength. What a turn remembers is overwritten by the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from apical.layers import BackwardPlan, Derivatives, ForwardState, Junction, Layer, Node, NodeState
from apical.layers.nodes import steps_backward
from apical.layers.products import forward as drive
from apical.layers.products import transpose_product as carry
from apical.layers.steps import Saved
from apical.layers.steps import refire_all as fire_all_again
from apical.wiring import Wiring

Nudging = Callable[[Tensor], Tensor]
"""Takes an output; gives the derivative of each sample's loss there."""


class Neurons:
    """A layer's neurons, as they fire for other drives.

    Where a ReLU is all that is not linear in them but for pooling, it comes last (it trades places with max-pooling,
    masks and changes of shape), so that a state is what a ReLU lets pass of the pooled drive and of the nudge.

    Attributes:
        steps: in the order in which they are taken, each with its place among the layer's own.
        rectify: whether the last is such a ReLU.
    """

    def __init__(self, layer: Layer) -> None:
        self.steps = list(enumerate(layer.steps))
        self.parameter_indices = layer.parameter_indices
        places = [place for place, step in self.steps if step.traits.rectifies]
        after = layer.steps[places[0] + 1 :] if places else []
        self.rectify = len(places) == 1 and all(step.traits.commutes_with_relu for step in after)
        self.reordered = self.rectify and places[0] != len(self.steps) - 1
        if self.rectify:
            self.steps.append(self.steps.pop(places[0]))

    def fire(self, drive: Tensor, free: Sequence[Saved]) -> tuple[Tensor, Tensor, list[Saved]]:
        """What arrives at the last step, the rate, and what every step keeps."""
        x = before = drive
        saved = []
        for place, step in self.steps:
            before = x
            x, kept = step.refire(x, free[place], anchored=False)
            saved.append(kept)
        return before, x, saved

    def back(
        self,
        saved: Sequence[Saved],
        signal: Tensor,
        learns: Sequence[bool] | None = None,
        gradients: Derivatives | None = None,
    ) -> Tensor:
        """A signal at the rate, at the soma; the neurons' own parameters learn where `gradients` takes it."""
        if not self.steps:
            return signal
        turned = signal.is_complex()  # autograd's products conjugate: holomorphic ones do not
        if turned:
            signal = signal.conj().resolve_conj()
        steps = [(step, self.parameter_indices[place]) for place, step in reversed(self.steps)]
        signal = steps_backward(steps, list(saved), signal, learns, {} if gradients is None else gradients)
        return signal.conj().resolve_conj() if turned else signal


class Course:
    """Who moves when.

    Args:
        plan: what can learn; what lies below all of it does not move.
        output: the circuit's answer.
        turns: 2 (layers at an even distance from the output, then those at an odd one) or 1 (all at once).

    Attributes:
        layers: those that move, by turn.
        needs: for every turn and value, whether signals are wanted there.
        depth: turns that a signal takes from the output to the lowest layer, over the longest way.
    """

    def __init__(self, plan: BackwardPlan, output: int, turns: int) -> None:
        way = plan.order
        movers = [node for node, is_layer in way if is_layer and isinstance(node, Layer)]
        feeders: dict[int, frozenset[Node]] = {}
        for node, is_layer in reversed(way):
            below = [feeders.get(source, frozenset()) for source in node.sources]
            feeders[node.index + 1] = frozenset([node]) if is_layer else frozenset().union(*below)
        level = dict.fromkeys(feeders.get(output, ()), 0)
        for layer in movers:
            for feeder in feeders.get(layer.sources[0], ()):
                level[feeder] = max(level.get(feeder, 0), level.get(layer, 0) + 1)
        self.layers: list[list[Layer]] = [
            [layer for layer in movers if level.get(layer, 0) % turns == turn] for turn in range(turns)
        ]
        self.needs = [
            [not feeders.get(value, frozenset()).isdisjoint(movers) for value in range(len(plan.needs_signal))]
            for movers in self.layers
        ]
        self.depth = self._turns_to_reach(movers, feeders)

    def _turns_to_reach(self, movers: list[Layer], feeders: Mapping[int, frozenset[Node]]) -> int:
        drives: dict[Node, list[Layer]] = {layer: [] for layer in movers}
        for layer in movers:
            for feeder in feeders.get(layer.sources[0], ()):
                drives[feeder].append(layer)
        told: set[Node] = set()
        turn = 0
        while len(told) < len(movers):
            told |= {layer for layer in self.layers[turn % len(self.layers)] if told.issuperset(drives[layer])}
            turn += 1
        return turn


class Free:
    """What a circuit fired without a nudge, in the weights' own type.

    Attributes:
        values: by value of the circuit, its rate; None where nothing that moves needs it.
        pres, drives, before, rates: of the layers that move, by index: what arrives, at the soma, before the last step
            and after it.
        saved: what the steps kept, of junctions' too.
    """

    def __init__(self, wiring: Wiring, state: ForwardState, course: Course, neurons: Mapping[int, Neurons]) -> None:
        dtype = wiring.layers[0].weight.dtype
        self.state = state
        self.neurons = neurons
        self.values: list[Tensor | None] = [state.source]
        for node in wiring.nodes:
            record = state.nodes[node.index]
            rate = None if record is None else record.rate
            self.values.append(None if rate is None else rate.to(dtype))
        self.pres: dict[int, Tensor] = {}
        self.drives: dict[int, Tensor] = {}
        self.before: dict[int, Tensor] = {}
        self.rates: dict[int, Tensor] = {}
        self.saved: dict[int, list[Saved]] = {}
        way = [(node, state[node]) for node, _ in reversed(state.plan.order)]
        # Under autocast the circuit answers again, in the weights' type: small differences would not survive.
        anew = any(
            record.dtype != dtype or (record.drive is not None and record.drive.dtype != dtype) for _, record in way
        )
        for node, record in way:
            if isinstance(node, Layer):
                self._take(node, record, dtype, anew)
            else:
                assert isinstance(node, Junction)
                self.saved[node.index] = record.saved
                if anew:
                    self.values[node.index + 1], self.saved[node.index] = meet(node, self.values, state)

    def _take(self, layer: Layer, record: NodeState, dtype: torch.dtype, anew: bool) -> None:
        index = layer.index
        assert record.pre is not None
        assert record.drive is not None
        pre = self.values[layer.sources[0]]
        self.pres[index] = record.pre.to(dtype) if pre is None else pre
        if anew:
            self.drives[index] = drive(layer, self.pres[index].to(dtype))
        else:
            self.drives[index] = record.drive
            if not self.neurons[index].rectify:
                assert record.rate is not None
                self.rates[index], self.saved[index] = record.rate, record.saved
                return
        found = self.neurons[index].fire(self.drives[index], record.saved)
        self.before[index], self.rates[index], self.saved[index] = found
        self.values[index + 1] = self.rates[index]


def meet(node: Junction, values: Sequence[Tensor | None], state: ForwardState) -> tuple[Tensor, list[Saved]]:
    """What a junction makes of the values now."""
    x, met = node.merge.forward([values[source] for source in node.sources])  # type: ignore[misc]
    rate, saved = fire_all_again(node.steps, x, state[node].saved[1:], anchored=False)
    return rate, [met, *saved]


class Nudged:
    """The states of a circuit under one nudging strength.

    Args:
        wiring: the circuit's.
        free: its free answer.
        course: who moves when.
        neurons: of the layers that move, by index.
        weights: what carries signals down, by layer; a layer that is missing uses its own.
        nudge: gives the error at the output, of each sample.
        beta: the nudging strength, real or complex.
        step: how far a state goes towards what is asked of it, in a turn.
        clamped: hold the output where the first nudge put it.

    Attributes:
        signals: what arrived at each layer's rate, by the layer's index.
        posts: u = (f - h) / beta at the soma: of the sign and, but for the batch's mean, the size of the gradient.
        pres: the rates that the layers saw when they moved last.
        untouched: layers whose input never moved.
    """

    def __init__(
        self,
        wiring: Wiring,
        free: Free,
        course: Course,
        neurons: Mapping[int, Neurons],
        weights: Mapping[int, Tensor],
        nudge: Nudging,
        beta: complex,
        *,
        step: float = 1.0,
        clamped: bool = False,
    ) -> None:
        self.wiring = wiring
        self.free = free
        self.course = course
        self.neurons = neurons
        self.weights = weights
        self.nudge = nudge
        self.beta = beta
        self._whole = isinstance(beta, complex)
        self.step = step
        self.clamped = clamped
        self.values = list(free.values)
        self.signals: dict[int, Tensor] = {}
        self.posts: dict[int, Tensor] = {}
        self.pres = dict(free.pres)
        self._predicted = {index: (free.before.get(index), free.rates[index]) for index in free.rates}
        self._saved = dict(free.saved)
        self._moved = [0] * len(self.values)
        self._seen: dict[int, int] = {}
        self._turn = 0
        self._up = [node for node in wiring.nodes if free.state.nodes[node.index] is not None]
        self.state = free.state.copy()
        for index, saved in free.saved.items():
            self.state[wiring.nodes[index]].saved = saved

    @property
    def untouched(self) -> set[int]:
        """The layers whose input is what it was in the free answer."""
        return {index for index in self.pres if index not in self._seen}

    def relax(self, sweeps: int, *, watched: bool) -> float:
        """Let the states move.

        Args:
            sweeps: how often each moves.
            watched: measure the last of it.

        Returns:
            the square root of (what the signals changed by in the last sweep, squared and summed) / (the signals,
            squared and summed); 0 where nobody watches.
        """
        moves: list[Tensor] = []
        sizes: list[Tensor] = []
        for sweep in range(sweeps):
            last = watched and sweep == sweeps - 1
            for layers, needs in zip(self.course.layers, self.course.needs, strict=True):
                if not layers:
                    continue
                before = dict(self.signals) if last else {}
                self._move(layers, needs)
                if last:
                    for layer in layers:
                        signal = self.signals.get(layer.index)
                        if signal is not None:
                            known = before.get(layer.index)
                            sizes.append(signal.abs().square().sum())
                            moves.append(sizes[-1] if known is None else (signal - known).abs().square().sum())
        if not moves:
            return 0.0
        moved, size = float(torch.stack(moves).sum()), float(torch.stack(sizes).sum())
        return 0.0 if moved == 0 else math.sqrt(moved / size)

    def _move(self, layers: Sequence[Layer], needs: Sequence[bool]) -> None:
        """One turn: some layers' states, after what the others are now."""
        self._turn += 1
        self._meet()
        arrived = self.descend(needs)
        for layer in layers:
            signal = arrived.get(layer.index + 1)
            if signal is not None:
                self._move_one(layer, signal)

    def _move_one(self, layer: Layer, signal: Tensor) -> None:
        index, value = layer.index, layer.index + 1
        self._predict(layer)
        before, rate = self._predicted[index]
        if self.clamped and value == self.wiring.output:
            signal = self.nudge(rate) + (rate - self.free.rates[index]) / self.beta
        known = self.signals.get(index)
        if self.step != 1 and known is not None:
            signal = torch.lerp(known, signal, self.step)
        self.signals[index] = signal
        if self._whole:
            state = rate - signal * self.beta
        elif self.neurons[index].rectify:
            assert before is not None
            # h = max(0, a - beta u); that is f - beta u where neither the rate nor the nudged one is silenced.
            state = torch.sub(before, signal, alpha=self.beta).relu_()
        else:
            state = torch.sub(rate, signal, alpha=self.beta)
        self.posts[index] = self.neurons[index].back(self._saved[index], self._error(index))
        self.values[value] = state
        self._moved[value] = self._turn

    def _error(self, index: int) -> Tensor:
        """What arrived at a layer, but no more than silences its neurons: u where they are not silent."""
        signal = self.signals[index]
        if not self.neurons[index].rectify:
            return signal
        most = self._predicted[index][1] / self.beta
        bound = torch.minimum if self.beta.real > 0 else torch.maximum
        return bound(signal, most, out=most)

    def _predict(self, layer: Layer) -> None:
        """What the layers below make of a layer now, where they have moved since it was asked last."""
        index, source = layer.index, layer.sources[0]
        if self._moved[source] <= self._seen.get(index, 0):
            return
        self._seen[index] = self._turn
        pre = self.values[source]
        assert pre is not None
        self.pres[index] = pre
        found = self.neurons[index].fire(drive(layer, pre), self.free.state[layer].saved)
        before, rate, self._saved[index] = found
        self._predicted[index] = before, rate

    def energy(self, layer: Layer) -> Tensor:
        """A layer's part of F, 1/2 |h - f|^2 of each sample: (batch,)."""
        index = layer.index
        moved = self._error(index) * self.beta
        if self.neurons[index].rectify:
            state, rate = self.values[index + 1], self._predicted[index][1]
            assert state is not None
            moved = torch.where(rate > 0, moved, state)
        return moved.abs().square().flatten(1).sum(1) / 2

    def teach_neurons(self, layer: Layer, learns: Sequence[bool], gradients: Derivatives) -> None:
        """What the own parameters of a layer's neurons learn, norms' among them."""
        self.neurons[layer.index].back(self._saved[layer.index], self._error(layer.index), learns, gradients)

    def _meet(self) -> None:
        """What the junctions make of the states now."""
        for node in self._up:
            if not isinstance(node, Junction):
                continue
            value = node.index + 1
            if max(self._moved[source] for source in node.sources) <= self._moved[value]:
                continue
            self.values[value], self.state[node].saved = meet(node, self.values, self.free.state)
            self._moved[value] = self._turn

    def descend(
        self,
        needs: Sequence[bool],
        requires_grad: Sequence[bool] | None = None,
        derivatives: Derivatives | None = None,
    ) -> dict[int, Tensor]:
        """Send every layer's error to the nodes that drive it, over the junctions between.

        Args:
            needs: for every value, whether a signal is wanted there.
            requires_grad: with `derivatives`, what the junctions' own parameters learn.
            derivatives: receives it.

        Returns:
            the signals that arrived at layers and at the input, by value.
        """
        y = self.values[self.wiring.output]
        assert y is not None
        arrived: dict[int, Tensor] = {}
        error = self.nudge(y)
        if self._whole:  # also where the derivative of a linearised loss is real: the backward pass conjugates it
            error = error + 0j
        walk = self.wiring.backward(self.state, error, needs_signal=needs, free_buffers=False)
        walk.requires_grad = (False,) * len(walk.requires_grad) if requires_grad is None else requires_grad
        walk.derivatives = {} if derivatives is None else derivatives
        for layer, _ in walk:
            signal = walk.receive(layer)
            if signal is not None:
                arrived[layer.index + 1] = signal
            if layer.index in self.posts and walk.needs_input_grad(layer):
                weight = self.weights.get(layer.index, layer.weight)
                walk.send(layer, carry(layer, self.posts[layer.index], weight, self.free.pres[layer.index]))
        if self.state.input_signal is not None:
            arrived[0], self.state.input_signal = self.state.input_signal, None
        return arrived
