"""The engine of equilibrium propagation in Hopfield networks: a chain whose synapses carry rates both ways.

    Phi = sum_l s_l . P(W_l s_(l-1) + b_l),    s_l <- sigma(dPhi/ds_l - beta dC/ds_l),    y = W_L s_(L-1) + b_L

Under no_grad, with closed-form products: one up and one down for a layer and step, the input's drive once, and all
nudges as one batch. What a step makes is overwritten by the next, so memory does not grow with their number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from apical.errors import CircuitError
from apical.layers import BackwardPlan, ForwardState, Junction, Layer, NodeState, Step
from apical.layers.products import by_onednn, real_pairs
from apical.layers.products import forward as drive
from apical.layers.products import transpose_product as carry
from apical.layers.steps import Saved
from apical.layers.synapses import LinearSynapses
from apical.rules.energy.nudging import Nudge
from apical.wiring import Wiring

Activation = Callable[[Tensor], Tensor]
"""Takes a tensor of its own, which it may overwrite."""

SHAPES: Mapping[str, Activation] = {
    "hard_sigmoid": lambda x: x.clamp_(0, 1),
    "half_hard_sigmoid": lambda x: x.mul_(0.5).clamp_(0, 1),
    "centered_hard_sigmoid": lambda x: x.clamp_(-0.5, 0.5),
    "shifted_sigmoid": lambda x: x.sub_(0.5).mul_(4).sigmoid_(),
}
"""Activations by name, in place."""


class Taught(NamedTuple):
    """What the nudged phase tells.

    Attributes:
        credits: layers, and what their synapses see before and after them.
        energies: of each hidden layer and sample, without a nudge; none where nobody observes.
        residual: how far the last step went, as a part of the whole way.
    """

    credits: list[tuple[Layer, Tensor, Tensor]]
    energies: list[tuple[Layer, Tensor]]
    residual: float


class Hopfield:
    """A chain of layers that settles.

    Args:
        wiring: of the circuit.
        rule: for messages.
        activation: one of `SHAPES`, or None for the model's own.
        synchronous: all layers at once, instead of every second and then the others.
        step: how far a state goes, of the way to what is asked of it.
        holomorphic: whether states will be complex.

    Raises:
        CircuitError: the network is none that settles to a minimum of an energy.
    """

    def __init__(
        self, wiring: Wiring, rule: str, *, activation: str | None, synchronous: bool, step: float, holomorphic: bool
    ) -> None:
        self.wiring = wiring
        self.step = step
        self._rule = rule
        self._check_chain()
        self.layers = wiring.layers[:-1]
        self.readout = wiring.layers[-1]
        self.pools: list[list[Step]] = []
        self._own: list[Step | None] = []
        for layer in self.layers:
            pools, own = self._parts(layer, named=activation is not None)
            if holomorphic:
                self._check_holomorphic(layer, pools, own, activation)
            self.pools.append(pools)
            self._own.append(own)
        self.activation = activation
        # From above: whoever sends up has then pooled what is there now, and unpools by that.
        places = range(len(self.layers))[::-1]
        self.turns = (
            [list(places)] if synchronous else [[place for place in places if place % 2 == odd] for odd in (0, 1)]
        )

    # What it asks of a network

    def _check_chain(self) -> None:
        wiring = self.wiring
        said = f"{self._rule}(network='hopfield') lets a chain of layers settle"
        if not wiring.is_line():
            crossing = next(
                (node.name for node in wiring.nodes if node.sources != (node.index,)), wiring.nodes[-1].name
            )
            raise CircuitError(
                f"{crossing}: {said}, and here rates part or meet. Use a chain, or network='feedforward', which takes "
                "any graph."
            )
        first = next(node.index for node in wiring.nodes if isinstance(node, Layer))
        for node in wiring.nodes:
            if isinstance(node, Junction) and (node.index > first or node.own_indices):
                raise CircuitError(
                    f"{node.name}: {said}, and this is a place without synapses between them. Put what it does into "
                    "the layer below, or use network='feedforward'."
                )
        last = wiring.layers[-1]
        if any(not (step.traits.moves and step.traits.elementwise) for step in last.steps):
            raise CircuitError(
                f"{last.name}: {said}, and reads its answer out by a linear layer, which {last.steps[0]!r} follows. "
                "Take it out (F.cross_entropy has its own softmax), or use network='feedforward'."
            )

    def _parts(self, layer: Layer, *, named: bool) -> tuple[list[Step], Step | None]:
        """The pooling and changes of shape of a layer, and its activation."""
        pools: list[Step] = []
        own: Step | None = None
        for step in layer.steps:
            # An activation that grows may trade places with max-pooling, but not with means.
            traits = step.traits
            if traits.moves or traits.pools == "max" or (traits.pools == "mean" and own is None):
                pools.append(step)
            elif traits.activation and traits.monotone and own is None:
                own = step
            else:
                self._refuse(layer, step, own)
        if own is None and not named:
            raise CircuitError(
                f"{layer.name}: it has no activation, and a linear layer that is fed back on settles only by luck. Add "
                "nn.Hardtanh(0.0, 1.0), say activation='hard_sigmoid', or use network='feedforward'."
            )
        return pools, own

    def _refuse(self, layer: Layer, step: Step, own: Step | None) -> None:
        said = f"{layer.name}: {self._rule}(network='hopfield') "
        if step.traits.pools == "mean":
            raise CircuitError(
                f"{said}adds what comes from above after pooling, and average pooling that follows the activation "
                "cannot trade places with it. Put the pooling before the activation."
            )
        if step.traits.activation and step.traits.monotone:
            raise CircuitError(f"{said}has one activation a layer, and finds {own!r} and {step!r}. Keep one.")
        raise CircuitError(
            f"{said}has no place for {step!r}: a state settles to a minimum of an energy where its activation never "
            "falls, and norms and dropout are no part of it. Use nn.Hardtanh(0.0, 1.0), nn.Sigmoid or another that "
            "grows, with pooling at most, or network='feedforward', which takes any."
        )

    def _check_holomorphic(self, layer: Layer, pools: list[Step], own: Step | None, activation: str | None) -> None:
        smooth = activation == "shifted_sigmoid" or (activation is None and own is not None and own.traits.holomorphic)
        pooled = [step for step in pools if not step.traits.moves]
        if not smooth or pooled:
            what = repr(pooled[0]) if smooth else repr(activation or own)
            raise CircuitError(
                f"{layer.name}: {what} has no derivative in the complex plane, where "
                f"{self._rule}(nudging='holomorphic') nudges. Use nn.Tanh, nn.Sigmoid or "
                "activation='shifted_sigmoid' without pooling, or nudging='centered'."
            )

    # Settling

    def _fire(self, place: int, x: Tensor) -> Tensor:
        if self.activation is not None:
            return SHAPES[self.activation](x)
        own = self._own[place]
        assert own is not None
        return own.fire_(x)

    def _up(self, place: int, pre: Tensor, saved: list[list[Saved]]) -> Tensor:
        """What arrives at a layer from below, pooled; what the pooling keeps of it."""
        x = drive(self.layers[place], pre)
        kept = []
        for step in self.pools[place]:
            x, one = step.forward(x)
            kept.append(one)
        saved[place] = kept
        return x

    def _unpool(self, place: int, state: Tensor, saved: list[list[Saved]]) -> Tensor:
        """A layer's state where its synapses end."""
        for step, kept in zip(reversed(self.pools[place]), reversed(saved[place]), strict=True):
            state = step.derivative(state, *kept)
        return state

    def _down(
        self, layer: Layer, post: Tensor, below: Tensor, weights: Mapping[int, Tensor], up: Tensor, *, once: bool
    ) -> Tensor:
        """What arrives from below, and what comes down from a layer; `once`: nobody needs the former again."""
        weight = weights.get(layer.index, layer.weight)
        alike = isinstance(layer.synapses, LinearSynapses) and post.dim() == 2 and post.dtype == weight.dtype
        if alike and not by_onednn(layer, post, weight):
            return up.addmm_(post, weight) if once else torch.addmm(up, post, weight)
        down = carry(layer, post, weight, below.real if below.is_complex() else below)
        return up.add_(down) if once else up + down

    def _settle(
        self,
        states: list[Tensor],
        bottom: Tensor | None,
        saved: list[list[Saved]],
        weights: Mapping[int, Tensor],
        steps: int,
        nudge: Callable[[Tensor], Tensor] | None,
    ) -> list[Tensor]:
        """Some steps; the states before the last."""
        before: list[Tensor] = list(states)
        for step in range(steps):
            if step == steps - 1:
                before = list(states)
            for turn in self.turns:
                moved = [(place, self._next(place, states, bottom, saved, weights, nudge)) for place in turn]
                for place, state in moved:
                    states[place] = state if self.step == 1 else torch.lerp(states[place], state, self.step)
        return before

    def _next(
        self,
        place: int,
        states: list[Tensor],
        bottom: Tensor | None,
        saved: list[list[Saved]],
        weights: Mapping[int, Tensor],
        nudge: Callable[[Tensor], Tensor] | None,
    ) -> Tensor:
        state = states[place]
        if place:
            up = self._up(place, states[place - 1], saved)
        else:
            assert bottom is not None
            up = bottom
        if place + 1 < len(self.layers):
            above, post = self.layers[place + 1], self._unpool(place + 1, states[place + 1], saved)
        elif nudge is not None:
            above, post = self.readout, nudge(drive(self.readout, state))
        else:
            return self._fire(place, up if place else up.clone())
        return self._fire(place, self._down(above, post, state, weights, up, once=place > 0))

    # The free phase

    def _enter(self, x: Tensor) -> tuple[Tensor, list[NodeState | None]]:
        """The input as it arrives at the first layer, and the records of what it passes."""
        records: list[NodeState | None] = []
        for node in self.wiring.nodes:
            if isinstance(node, Layer):
                break
            assert isinstance(node, Junction)
            x, record = node.forward([x], False)
            records.append(record)
        return x.to(self.readout.weight.dtype), records

    def _free(
        self, x: Tensor, weights: Mapping[int, Tensor], steps: int
    ) -> tuple[Tensor, list[Tensor], Tensor | None, float]:
        saved: list[list[Saved]] = [[] for _ in self.layers]
        states: list[Tensor] = []
        bottom: Tensor | None = None
        pre = x
        for place in range(len(self.layers)):
            up = self._up(place, pre, saved)
            bottom = up if place == 0 else bottom
            pre = torch.zeros_like(up)
            states.append(pre)
        before = self._settle(states, bottom, saved, weights, steps, None)
        residual = 0.0 if torch.compiler.is_compiling() else _part(states, before, [torch.zeros(()) for _ in states])
        return drive(self.readout, states[-1] if states else x), states, bottom, residual

    def evaluate(self, x: Tensor, weights: Mapping[int, Tensor], steps: int) -> Tensor:
        """What the network settles to."""
        return self._free(self._enter(x)[0], weights, steps)[0]

    def forward(
        self, x: Tensor, plan: BackwardPlan, weights: Mapping[int, Tensor], steps: int
    ) -> tuple[Tensor, ForwardState, float]:
        """What the network settles to, what is kept of it, and how far the last step still went."""
        first, records = self._enter(x)
        y, states, bottom, residual = self._free(first, weights, steps)
        pres, rates = [first, *states], [*states, y]
        for place, layer in enumerate(self.wiring.layers):
            rate = rates[place]
            drive_of = bottom if place == 0 and self.layers else None
            records.append(NodeState(pres[place], drive_of, rate, [], rate.shape, rate.dtype))
            assert layer.index == len(records) - 1
        return y, ForwardState(records, plan, x), residual

    # The nudged phase

    def nudge_and_compare(
        self,
        state: ForwardState,
        nudge: Nudge,
        samples: float,
        betas: Sequence[complex],
        weights: Mapping[int, Tensor],
        steps: int,
    ) -> Taught:
        """Let the states settle under every nudge, and compare them."""
        records = [state[layer] for layer in self.wiring.layers]
        free = [record.rate for record in records[:-1]]
        first, bottom = records[0].pre, records[0].drive
        assert first is not None
        whole = isinstance(betas[0], complex)
        shares = [1 / (len(betas) * beta) for beta in betas]
        if whole:  # states under conjugate nudges are each other's conjugates: one of the two will do
            kept = len(betas) // 2 + 1
            count = len(betas)
            betas = betas[:kept]
            shares = [(2 if 0 < k < kept - 1 else 1) / (count * beta) for k, beta in enumerate(betas)]
        copies, batch = len(betas), first.shape[0]
        dtype = first.dtype.to_complex() if whole else first.dtype

        def tiled(x: Tensor) -> Tensor:
            return x.to(dtype).repeat(copies, *(1,) * (x.dim() - 1))

        def each(values: Sequence[complex], like: Tensor) -> Tensor:
            column = torch.tensor(values, dtype=dtype, device=like.device).repeat_interleave(batch)
            return column.view(-1, *(1,) * (like.dim() - 1))

        def error(y: Tensor) -> Tensor:
            return nudge(y.view(copies, batch, *y.shape[1:])).expand(copies, *nudge.error.shape).reshape(y.shape)

        states = [tiled(state) for state in free if state is not None]
        saved: list[list[Saved]] = [[] for _ in self.layers]
        for place in range(1, len(states)):
            if self.pools[place]:
                self._up(place, states[place - 1], saved)
        residual = 0.0
        if states:
            strength = each([-beta for beta in betas], records[-1].rate)  # type: ignore[arg-type]
            before = self._settle(
                *(states, tiled(bottom), saved, weights, steps),  # type: ignore[arg-type]
                lambda y: error(y) * strength,
            )
            if not torch.compiler.is_compiling():
                residual = _part(states, before, [tiled(state) for state in free if state is not None])
        pres = [tiled(first), *states]
        asymmetric = bool(weights)
        found: list[tuple[Layer, Tensor, Tensor]] = []
        way = {node for node, _ in state.plan.order}
        y = drive(self.readout, pres[-1])
        even = each([beta * share for beta, share in zip(betas, shares, strict=True)], y)
        found.append((self.readout, *_pair(pres[-1], error(y) * even / samples)))
        rest = sum(shares)
        for place in reversed(range(len(self.layers))):
            layer = self.layers[place]
            if layer not in way:
                break
            if self.pools[place]:
                self._up(place, pres[place], saved)
            post = self._unpool(place, states[place], saved)
            post = post * each([-share / samples for share in shares], post)
            pre = pres[place]
            one_sided = abs(rest) > 1e-9 * abs(shares[0])
            known = records[place].pre
            assert known is not None
            if one_sided:
                still = self._free_post(place, known, free[place])  # type: ignore[arg-type]
                pre, post = torch.cat([pre, known]), torch.cat([post, still * (rest / samples)])
            if place == 0 or asymmetric:
                # One input for all states: (batch) pairs will do, and asymmetric synapses compare posts alone.
                pre, post = known, post.view(-1, batch, *post.shape[1:]).sum(0)
                post = post.real if whole else post
                found.append((layer, pre, post))
            else:
                found.append((layer, *_pair(pre, post)))
        if state.plan.needs_signal[0] and self.layers:
            self._to_input(state, found[-1], weights)
        energies = []
        if self.wiring.observers:
            energies = [(layer, self._energy(place, free, first)) for place, layer in enumerate(self.layers)]
        return Taught(found, energies, residual)

    def _free_post(self, place: int, pre: Tensor, state: Tensor) -> Tensor:
        saved: list[list[Saved]] = [[] for _ in self.layers]
        if self.pools[place]:
            self._up(place, pre, saved)
        return self._unpool(place, state, saved)

    def _to_input(
        self, state: ForwardState, lowest: tuple[Layer, Tensor, Tensor], weights: Mapping[int, Tensor]
    ) -> None:
        """The error at the circuit's input, by what leads from there to the lowest layer."""
        layer, pre, post = lowest
        signal = carry(layer, post, weights.get(layer.index, layer.weight), pre)
        for node in reversed(self.wiring.nodes[: layer.index]):
            assert isinstance(node, Junction)
            (signal,) = node.backward(state[node], signal, state.plan.requires_grad, {})
        state.input_signal = signal

    def _energy(self, place: int, free: list[Tensor | None], first: Tensor) -> Tensor:
        state = free[place]
        below = first if place == 0 else free[place - 1]
        assert state is not None
        assert below is not None
        up = self._up(place, below, [[] for _ in self.layers])
        return (state * (state / 2 - up)).flatten(1).sum(1)


def _pair(pre: Tensor, post: Tensor) -> tuple[Tensor, Tensor]:
    return real_pairs(pre, post) if post.is_complex() else (pre, post)


def _part(states: list[Tensor], before: list[Tensor], start: list[Tensor]) -> float:
    """How far the last step went, as a part of the way from the start."""
    if not states:
        return 0.0
    moved = torch.stack([(a - b).abs().square().sum() for a, b in zip(states, before, strict=True)])
    way = torch.stack([(a - b).abs().square().sum() for a, b in zip(states, start, strict=True)])
    last, whole = float(moved.sum()), float(way.sum())
    return 0.0 if last == 0 else math.sqrt(last / whole) if whole > 0 else math.inf
