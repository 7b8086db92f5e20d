"""Feed-forward equilibrium propagation: the layers of a circuit under one nudge, on any graph.

Every layer holds a state h at its rate; the layers below predict it, f. With closed-form products, a nudged circuit
seeks a minimum of

    F = 1/2 sum_k |h_k - f_k(h_<k)|^2 + beta C(y),        at which  f_k - h_k = beta u_k,
    u_k = sum over the layers c that k drives of J_c^T u_c,             u at the output: dC/dy

and the signal that travels is u, the error in units of the nudging strength: no small difference is ever taken.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from apical.layers import Derivatives, ForwardState, Layer, Node
from apical.layers.axes import sum_per_sample
from apical.layers.moving import MovingState
from apical.layers.products import transpose_product
from apical.layers.steps import Saved
from apical.rules.energy.nudging import Nudge
from apical.rules.energy.schedule import UpdateSchedule
from apical.wiring import Wiring


class Neurons(Node):
    """A layer's neurons, as they fire for other drives.

    Where a ReLU is all that is not linear in them but for pooling, it comes last (it commutes with max-pooling, masks
    and changes of shape), so that a state is the pooled drive and the nudge, rectified.

    Attributes:
        places: of the steps among the layer's own.
        rectify: whether the last step is such a ReLU.
    """

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer.index, layer.name, layer.sources)
        places = list(range(len(layer.steps)))
        rectifying = [place for place in places if layer.steps[place].traits.rectifies]
        after = layer.steps[rectifying[0] + 1 :] if rectifying else []
        self.rectify = len(rectifying) == 1 and all(step.traits.commutes_with_relu for step in after)
        if self.rectify:
            places.remove(rectifying[0])
            places += rectifying
        self.places = places
        for place in places:
            self.add(layer.steps[place], layer.parameter_indices[place])

    def refire(self, drive: Tensor, free: Sequence[Saved]) -> tuple[Tensor, Tensor, list[Saved]]:
        """The argument of the last step, the rate, and what every step saves.

        Args:
            drive: (batch, units ...).
            free: what the layer's steps saved in the free pass.
        """
        x = before = drive
        saved = []
        for step, place in zip(self.steps, self.places, strict=True):
            before = x
            x, own = step.refire(x, free[place], anchored=False)
            saved.append(own)
        return before, x, saved


class Prediction(NamedTuple):
    """What the layers below make of a layer.

    Attributes:
        before: the argument of the last step of its neurons; None where they do not rectify.
        rate: f, what they fire.
    """

    before: Tensor | None
    rate: Tensor


class FreePhase:
    """The rates of a circuit without a nudge, in the precision of the weights.

    Args:
        wiring: of the circuit.
        state: of the free pass.
        schedule: of the layers.
        neurons: of the layers, by index.
        weights: the feedback weights, by layer.
        nudge: gives the error at an output, of each sample.

    Attributes:
        moving: the states of the nodes.
        predictions: of the layers that move, by index.
        pres: the rates that arrive at these.
    """

    def __init__(
        self,
        wiring: Wiring,
        state: ForwardState,
        schedule: UpdateSchedule,
        neurons: Mapping[int, Neurons],
        weights: Mapping[Layer, Tensor],
        nudge: Nudge,
    ) -> None:
        self.wiring = wiring
        self.schedule = schedule
        self.neurons = neurons
        self.weights = weights
        self.nudge = nudge
        self.moving = MovingState(state, anchored=False)
        self.predictions: dict[int, Prediction] = {}
        self.pres: dict[int, Tensor] = {}
        for layer in (layer for layers in schedule.layers for layer in layers):
            own = self.moving.state[layer]
            self.pres[layer.index] = self.moving.pre(layer)
            before = None
            if neurons[layer.index].rectify:
                assert own.drive is not None
                before, own.rate, own.saved = neurons[layer.index].refire(own.drive, state[layer].saved)
            assert own.rate is not None
            self.predictions[layer.index] = Prediction(before, own.rate)


class NudgedPhase:
    """The states of a circuit under one nudge: a system in which a step is a sweep, the turn of every layer.

    Args:
        free: the circuit without a nudge.
        beta: the nudging strength, real or complex.
        damping: how far a signal goes towards the one that arrives, in a turn.
        clamped: hold the output where the first nudge put it.

    Attributes:
        moving: the states h of the nodes.
        posts: u = (f - h) / beta at the soma: of the sign and, but for the batch's mean, the size of the gradient.
    """

    def __init__(self, free: FreePhase, beta: complex, *, damping: float = 1.0, clamped: bool = False) -> None:
        self.free = free
        self.beta = beta
        self.damping = damping
        self.clamped = clamped
        self.moving = free.moving.copy()
        self.posts: dict[int, Tensor] = {}
        self._complex = isinstance(beta, complex)
        self._predictions = dict(free.predictions)
        self._signals: dict[int, Tensor] = {}
        self._changes: list[tuple[Tensor, Tensor]] = []
        self._learns_nothing = (False,) * len(free.moving.free.plan.requires_grad)

    # The system

    def step(self, *, measured: bool) -> None:
        schedule = self.free.schedule
        for layers, needs_signal in zip(schedule.layers, schedule.needs_signal, strict=True):
            if not layers:
                continue
            before = dict(self._signals) if measured else None
            self.moving.update_junctions()
            arrived: dict[int, Tensor] = {}
            self._pass_down(arrived, needs_signal, self._learns_nothing, {})
            for layer in layers:
                signal = arrived.get(layer.index)
                if signal is not None:
                    self._move(layer, signal)
            if before is not None:
                self._note_changes(layers, before)

    def residual(self) -> float:
        """The root of (the signals' changes in the last sweep, squared and summed) / (the signals, likewise)."""
        changes, self._changes = self._changes, []
        if not changes:
            return 0.0
        moved, size = (float(torch.stack(parts).sum()) for parts in zip(*changes, strict=True))
        if not math.isfinite(moved) or not math.isfinite(size):
            return math.nan
        return 0.0 if moved == 0 else math.sqrt(moved / size)

    def _note_changes(self, layers: Sequence[Layer], before: Mapping[int, Tensor]) -> None:
        for layer in layers:
            signal = self._signals.get(layer.index)
            if signal is not None:
                known = before.get(layer.index)
                size = signal.abs().square().sum()
                self._changes.append((size if known is None else (signal - known).abs().square().sum(), size))

    def _move(self, layer: Layer, signal: Tensor) -> None:
        index = layer.index
        prediction = self._predict(layer)
        if self.clamped and index + 1 == self.free.wiring.output:
            moved = prediction.rate - self.free.predictions[index].rate
            signal = self.free.nudge(prediction.rate) + moved / self.beta
        known = self._signals.get(index)
        if self.damping != 1 and known is not None:
            signal = torch.lerp(known, signal, self.damping)
        self._signals[index] = signal
        if self._complex:
            state = prediction.rate - signal * self.beta
        elif prediction.before is not None:
            # h = max(0, a - beta u); that is f - beta u where neither the rate nor the nudged one is silenced.
            state = torch.sub(prediction.before, signal, alpha=self.beta).relu_()
        else:
            state = torch.sub(prediction.rate, signal, alpha=self.beta)
        self.posts[index] = self._to_soma(layer, self._learns_nothing, {})
        self.moving.set_rate(layer, state)

    def _predict(self, layer: Layer) -> Prediction:
        """What the layers below make of a layer now."""
        if not self.moving.has_moved_input(layer):
            return self._predictions[layer.index]
        drive, neurons = self.moving.drive(layer), self.free.neurons[layer.index]
        before, rate, self.moving.state[layer].saved = neurons.refire(drive, self.moving.free[layer].saved)
        prediction = self._predictions[layer.index] = Prediction(before if neurons.rectify else None, rate)
        return prediction

    def _error(self, layer: Layer) -> Tensor:
        """The signal at a layer, but no more than silences its neurons: u where they are not silent."""
        signal, prediction = self._signals[layer.index], self._predictions[layer.index]
        if prediction.before is None:
            return signal
        most = prediction.rate / self.beta
        bound = torch.minimum if self.beta.real > 0 else torch.maximum
        return bound(signal, most, out=most)

    def _to_soma(self, layer: Layer, requires_grad: Sequence[bool], derivatives: Derivatives) -> Tensor:
        neurons = self.free.neurons[layer.index]
        if not neurons.steps:
            return self._error(layer)
        return neurons.neurons_backward(self.moving.state[layer], self._error(layer), requires_grad, derivatives)

    def _pass_down(
        self,
        arrived: dict[int, Tensor],
        needs_signal: Sequence[bool],
        requires_grad: Sequence[bool],
        derivatives: Derivatives,
    ) -> None:
        """Send every layer's error to the nodes that drive it, over the junctions between.

        Args:
            arrived: receives the signals at layers, by index.
            needs_signal: for every value, whether a signal is wanted there.
            requires_grad: for every parameter of the circuit, whether it learns: those of junctions.
            derivatives: receives theirs.
        """
        free = self.free
        error = free.nudge(self.moving.rate(free.wiring.output))
        if self._complex:  # also where the derivative of a linearised loss is real: the backward pass conjugates it
            error = error + 0j
        walk = free.wiring.backward(self.moving.state, error, needs_signal=needs_signal, free_buffers=False)
        walk.requires_grad, walk.derivatives = requires_grad, derivatives
        for layer, _ in walk:
            signal = walk.receive(layer)
            if signal is not None:
                arrived[layer.index] = signal
            post = self.posts.get(layer.index)
            if post is not None and walk.needs_input_grad(layer):
                pre, weight = free.pres[layer.index], free.weights[layer]
                walk.send(layer, transpose_product(layer.synapses, post, weight, pre))

    # Once it has settled

    def pre(self, layer: Layer) -> Tensor:
        """The rate that arrived at a layer when it moved last."""
        pre = self.moving.state[layer].pre
        assert pre is not None
        return pre

    def has_moved_input(self, layer: Layer) -> bool:
        """Whether the input of a layer is another than that of the free phase."""
        return self.moving.has_been_evaluated(layer)

    def energy(self, layer: Layer) -> Tensor:
        """A layer's part of F, 1/2 |h - f|^2 of each sample: (batch,)."""
        prediction = self._predictions[layer.index]
        moved = self._error(layer) * self.beta
        if prediction.before is not None:
            moved = torch.where(prediction.rate > 0, moved, self.moving.rate(layer.index + 1))
        axis = self.moving.free.batch_axis(layer.index + 1)
        return sum_per_sample(moved.abs().square(), axis) / 2

    def teach_neurons(self, layer: Layer, requires_grad: Sequence[bool], derivatives: Derivatives) -> None:
        """Add the derivatives of the own parameters of a layer's neurons, norms' among them."""
        self._to_soma(layer, requires_grad, derivatives)

    def teach_junctions(
        self, needs_signal: Sequence[bool], requires_grad: Sequence[bool], derivatives: Derivatives
    ) -> Tensor | None:
        """Add the derivatives of the junctions' own parameters, and return the signal at the input."""
        self._pass_down({}, needs_signal, requires_grad, derivatives)
        return self.moving.state.input_signal
