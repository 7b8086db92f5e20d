"""Equilibrium propagation in Hopfield networks: a chain whose synapses carry rates both ways.

    Phi = sum_l s_l . P(W_l s_(l-1) + b_l),    s_l <- sigma(dPhi/ds_l - beta dC/ds_l),    y = W_L s_(L-1) + b_L

With closed-form products: one up and one down for a layer and step, the input's drive once, and all nudges as one
batch. A step overwrites the states of the one before, so that memory does not grow with their number.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from apical.errors import CircuitError
from apical.layers import BackwardPlan, Credit, ForwardState, Layer, NodeState, products
from apical.layers.axes import sum_per_sample
from apical.layers.steps import Saved
from apical.layers.synapses import LinearSynapses
from apical.rules.energy.hopfield_network import HopfieldNetwork
from apical.rules.energy.nudging import Betas, Nudge
from apical.rules.energy.relax import Outcome, relax

Weights = Mapping[Layer, Tensor]
"""Feedback weights; a layer that is missing uses its own."""


class HopfieldStates:
    """The states of the hidden layers on their way to equilibrium: a system.

    Args:
        network: it settles.
        states: of the hidden layers; replaced one by one.
        bottom: the pooled drive of the lowest, which stays; None without hidden layers.
        weights: the feedback weights.
        saved: what the pooling of each layer saved.
        start: gives the states from which the way is measured.
        push: takes the output, gives what nudges there; None in the free phase.
    """

    def __init__(
        self,
        network: HopfieldNetwork,
        states: list[Tensor],
        bottom: Tensor | None,
        weights: Weights,
        saved: list[list[Saved]],
        *,
        start: Callable[[], Sequence[Tensor]],
        push: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.network = network
        self.states = states
        self.bottom = bottom
        self.weights = weights
        self.saved = saved
        self._start = start
        self._push = push
        self._before: list[Tensor] = []

    def step(self, *, measured: bool) -> None:
        if measured:
            self._before = list(self.states)
        damping = self.network.damping
        for turn in self.network.turns:
            moved = [(place, self._next(place)) for place in turn]
            for place, state in moved:
                self.states[place] = state if damping == 1 else torch.lerp(self.states[place], state, damping)

    def residual(self) -> float:
        """How far the last step went, as a part of the way from the start."""
        if not self.states:
            return 0.0
        before, self._before = self._before, []
        last, whole = _distance(self.states, before), _distance(self.states, self._start())
        if not math.isfinite(last) or not math.isfinite(whole):
            return math.nan
        return 0.0 if last == 0 else math.sqrt(last / whole) if whole > 0 else math.inf

    def _next(self, place: int) -> Tensor:
        """The state that the input of a layer asks for."""
        network, state = self.network, self.states[place]
        if place:
            up, self.saved[place] = network.pooled(place, self.states[place - 1])
        else:
            assert self.bottom is not None
            up = self.bottom
        if place + 1 < len(self.states):
            above = network.layers[place + 1]
            post = network.unpooled(place + 1, self.states[place + 1], self.saved[place + 1])
        elif self._push is not None:
            above = network.readout
            post = self._push(products.forward(above.synapses, state))
        else:
            return network.fire(place, up if place else up.clone())
        return network.fire(place, self._add_down(above, post, state, up, in_place=place > 0))

    def _add_down(self, above: Layer, post: Tensor, below: Tensor, up: Tensor, *, in_place: bool) -> Tensor:
        """The input of a layer from below and from above."""
        weight = self.weights.get(above, above.weight)
        synapses = above.synapses
        fused = isinstance(synapses, LinearSynapses) and post.dim() == 2 and post.dtype == weight.dtype
        if fused and not products.by_onednn(synapses, post, weight):
            return up.addmm_(post, weight) if in_place else torch.addmm(up, post, weight)
        down = products.transpose_product(synapses, post, weight, below.real if below.is_complex() else below)
        return up.add_(down) if in_place else up + down


def _distance(states: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    return float(torch.stack([(a - b).abs().square().sum() for a, b in zip(states, others, strict=True)]).sum())


def settle_freely(
    network: HopfieldNetwork, first: Tensor, weights: Weights, steps: int, tolerance: float | None = None
) -> tuple[Tensor, HopfieldStates, Outcome]:
    """Let a network settle from silence, without a nudge.

    Args:
        network: it settles.
        first: the rate that arrives at the first layer.
        weights: the feedback weights.
        steps: how many.
        tolerance: of the last step.

    Returns:
        the output, the states, and the outcome.
    """
    saved: list[list[Saved]] = []
    states: list[Tensor] = []
    bottom: Tensor | None = None
    pre = first
    for place in range(len(network.layers)):
        up, own = network.pooled(place, pre)
        saved.append(own)
        bottom = up if place == 0 else bottom
        pre = torch.zeros_like(up)
        states.append(pre)
    silence = [torch.zeros(())] * len(states)
    system = HopfieldStates(network, states, bottom, weights, saved, start=lambda: silence)
    outcome = relax(system, steps, tolerance=tolerance, stops=False)
    return products.forward(network.readout.synapses, states[-1] if states else first), system, outcome


def forward(
    network: HopfieldNetwork, x: Tensor, plan: BackwardPlan, weights: Weights, steps: int, tolerance: float
) -> tuple[Tensor, ForwardState, Outcome]:
    """The output to which a network settles, the states for the nudged phase, and the outcome.

    The state of a layer holds the rate that arrives there, and its own; the lowest one's drive is pooled.
    """
    first, nodes = network.enter(x)
    y, system, outcome = settle_freely(network, first, weights, steps, tolerance)
    pres, rates = [first, *system.states], [*system.states, y]
    for place, (pre, rate) in enumerate(zip(pres, rates, strict=True)):
        drive = system.bottom if place == 0 else None
        nodes.append(NodeState(pre, drive, rate, [], rate.shape, rate.dtype))
    return y, ForwardState(nodes, plan, x), outcome


class Copies:
    """The states under all nudges, one copy after the other along the batch axis.

    Args:
        count: of the nudges.
        batch: how many samples a copy has.
        dtype: of the states.
    """

    def __init__(self, count: int, batch: int, dtype: torch.dtype) -> None:
        self.count = count
        self.batch = batch
        self.dtype = dtype

    def of(self, x: Tensor, axis: int) -> Tensor:
        """The same state in every copy."""
        return torch.cat([x.to(self.dtype)] * self.count, axis)

    def factors(self, values: Sequence[complex], like: Tensor, axis: int) -> Tensor:
        """One factor for each copy, of a shape that multiplies a tensor of all."""
        column = torch.tensor(values, dtype=self.dtype, device=like.device).repeat_interleave(self.batch)
        return column.view([-1 if number == axis else 1 for number in range(like.dim())])

    def apart(self, x: Tensor, axis: int) -> Tensor:
        """The copies along a new first axis."""
        shape = x.shape
        x = x.reshape(*shape[:axis], -1, self.batch, *shape[axis + 1 :])
        return x if axis == 0 else x.movedim(axis, 0)

    def together(self, x: Tensor, axis: int) -> Tensor:
        """The inverse of `apart`."""
        return (x if axis == 0 else x.movedim(0, axis)).flatten(axis, axis + 1)


class HopfieldNudges:
    """The nudged phase of a network: its states under all nudges, and what they teach.

    Args:
        network: it settles.
        state: of the free phase.
        nudge: gives the error at an output, of each sample.
        samples: the number by which the loss divided each sample's part.
        betas: the nudging strengths.
        weights: the feedback weights.

    Raises:
        CircuitError: a rate without a batch axis.
    """

    def __init__(
        self,
        network: HopfieldNetwork,
        state: ForwardState,
        nudge: Nudge,
        samples: float,
        betas: Betas,
        weights: Weights,
    ) -> None:
        self.network = network
        self.state = state
        self.nudge = nudge
        self.samples = samples
        self.betas = betas
        self.weights = weights
        layers = network.wiring.layers
        # Where the batch is in the rate that arrives at a layer, and in its drive; and in its state.
        self._axes = [self._axis(layer, layer.sources[0]) for layer in layers]
        self._state_axes = [self._axis(layer, layer.index + 1) for layer in layers]
        first, y = state[layers[0]].pre, state[network.readout].rate
        assert first is not None
        assert y is not None
        self._first, self._y = first, y
        free = [state[layer].rate for layer in network.layers]
        self._free = [rate for rate in free if rate is not None]
        dtype = first.dtype.to_complex() if betas.are_complex else first.dtype
        self.copies = Copies(len(betas.strengths), first.shape[self._axes[0]], dtype)
        self._pres: list[Tensor] = []

    def _axis(self, layer: Layer, value: int) -> int:
        axis = self.state.batch_axis(value)
        if axis is None:
            raise CircuitError(
                f"{layer.name}: EquilibriumPropagation(network='hopfield') settles under several nudges as one batch, "
                "and a rate here has no batch axis. Keep the batch as an axis of every rate, or pass "
                "network='feedforward'."
            )
        return axis

    # Settling

    def settle(self, steps: int, tolerance: float) -> Outcome:
        """Let the states settle under every nudge."""
        network = self.network
        record = self.state[network.wiring.layers[0]]
        states = self._start()
        saved: list[list[Saved]] = [[] for _ in states]
        for place in range(1, len(states)):
            if network.pools[place]:
                saved[place] = network.pooled(place, states[place - 1])[1]
        if not states:
            self._pres = [self.copies.of(self._first, self._axes[0])]
            return Outcome(steps)
        assert record.drive is not None
        bottom = self.copies.of(record.drive, self._state_axes[0])
        strengths = self.copies.factors([-beta for beta in self.betas.strengths], self._y, self._state_axes[-1])
        error = self._error
        system = HopfieldStates(
            *(network, states, bottom, self.weights, saved),
            start=self._start,
            push=lambda y: error(y) * strengths,
        )
        outcome = relax(system, steps, tolerance=tolerance, stops=False)
        self._pres = [self.copies.of(self._first, self._axes[0]), *states]
        return outcome

    def _start(self) -> list[Tensor]:
        return [self.copies.of(state, axis) for state, axis in zip(self._free, self._state_axes, strict=False)]

    def _error(self, y: Tensor) -> Tensor:
        """The error at the outputs of all copies, of each sample."""
        axis = self._state_axes[-1]
        error = self.nudge(self.copies.apart(y, axis))
        return self.copies.together(error.expand(self.copies.count, *self.nudge.error.shape), axis)

    # Credit

    def credits(self, reciprocal: Callable[[Layer], Any]) -> Iterator[Credit]:
        """Compare the states under all nudges; sets the signal at the circuit's input.

        Args:
            reciprocal: gives the feedback synapses of a layer that take its increments, or None.
        """
        walk = self.network.wiring.backward(self.state, self.nudge.error, free_buffers=False)
        for layer, _ in walk:
            place = self.network.wiring.layers.index(layer)
            pre, post = self._ends(place)
            if place == 0 and walk.needs_input_grad(layer):
                weight = self.weights.get(layer, layer.weight)
                walk.send(layer, products.transpose_product(layer.synapses, post, weight, pre))
            yield Credit(layer, pre, post, reciprocal=reciprocal(layer))

    def _ends(self, place: int) -> tuple[Tensor, Tensor]:
        """The signals before and after a layer's synapses."""
        pre, axis = self._pres[place], self._axes[place]
        post = self._readout_post() if place == len(self.network.layers) else self._hidden_post(place)
        hidden = place < len(self.network.layers)
        if place == 0 or (hidden and self.weights):
            # One input for all states: one copy will do, and asymmetric synapses compare posts alone.
            free = self._free_post(place) if hidden else None
            total = self.copies.apart(post, axis).sum(0)
            total = total.real if self.betas.are_complex else total
            return self._pre(place), total if free is None else total + free
        if hidden and (free := self._free_post(place)) is not None:
            pre, post = torch.cat([pre, self._pre(place)], axis), torch.cat([post, free], axis)
        return products.real_pairs(pre, post) if post.is_complex() else (pre, post)

    def _readout_post(self) -> Tensor:
        y = products.forward(self.network.readout.synapses, self._pres[-1])
        parts = [part / self.samples for part in self.betas.parts]
        return self._error(y) * self.copies.factors(parts, y, self._state_axes[-1])

    def _hidden_post(self, place: int) -> Tensor:
        post = self._at_synapses(place, self._pres[place], self._pres[place + 1])
        shares = [-share / self.samples for share in self.betas.shares]
        return post * self.copies.factors(shares, post, self._axes[place])

    def _free_post(self, place: int) -> Tensor | None:
        """The part of the free state, where the nudges are not in balance."""
        shares = self.betas.shares
        rest = sum(shares).real  # conjugate nudges cancel the imaginary part
        if abs(rest) <= 1e-9 * abs(shares[0]):
            return None
        return self._at_synapses(place, self._pre(place), self._free[place]) * (rest / self.samples)

    def _at_synapses(self, place: int, pre: Tensor, state: Tensor) -> Tensor:
        if not self.network.pools[place]:
            return state
        return self.network.unpooled(place, state, self.network.pooled(place, pre)[1])

    def _pre(self, place: int) -> Tensor:
        """The rate that arrives at a layer in the free phase."""
        return self._free[place - 1] if place else self._first

    def energies(self) -> Iterator[tuple[Layer, Tensor]]:
        """Of each hidden layer and sample, without a nudge."""
        for place, (layer, state) in enumerate(zip(self.network.layers, self._free, strict=True)):
            up, _ = self.network.pooled(place, self._pre(place))
            yield layer, sum_per_sample(state * (state / 2 - up), self._state_axes[place])
