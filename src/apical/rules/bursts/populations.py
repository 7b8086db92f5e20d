"""What the rules that learn by bursts share: populations with event and burst rates, and their feedback weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from apical.errors import ConfigError
from apical.feedback.randomness import check_init
from apical.feedback.registry import Given
from apical.kernels import tanh, tanh_
from apical.layers import BackwardPass, BackwardPlan, ForwardState, Layer, NodeState, Step
from apical.layers.moments import at_rows
from apical.layers.steps import LocalGraph
from apical.options import check_positive
from apical.rules.rule import Sweep
from apical.wiring import Wiring

_PIECE = 2**17  # values
_NORMAL = 2**24  # above the smallest normal number; many processors multiply smaller ones a hundred times as slowly


class Population:
    """The neurons of a layer as a population with an event rate, of which no part is ever negative.

    - Neurons with a lowest rate (ReLU, sigmoid, tanh, ...): the event rate is the rate above it.
    - All others (no activation of their own, leaky ones), and the output: a pair of populations, ON and OFF, whose
      difference is the rate v, and which fire |v| + tonic events together.

    Events and bursts are where the activation is: signals come down to it over what follows (pooling, dropout), and
    from it over what stands before (norms) to the soma. Where there is none, they are at the layer's rate. A rectified
    population under max-pooling is spared work: only the strongest of a patch hear a signal, so that signals are heard
    where the pooled rate is, which is the event rate of the strongest.

    Args:
        layer: whose neurons these are.
        wiring: whose layer it is.
        tonic: events that a pair fires at rest.

    Attributes:
        output: whether an error at the output reaches them over no synapse.
        ended: whether their rate is a mean over time.
        keeps_shape: whether the layer's rate has the shape of its event rates.
        pooled: whether signals are heard where the pooled rate is.
        needs_rate: whether the layer's own rate is asked for.
    """

    def __init__(self, layer: Layer, wiring: Wiring, tonic: float) -> None:
        self.output = output = layer in wiring.readouts()
        self.tonic = tonic
        self.floor = None if output else layer.floor
        self.place = layer.firing_place
        self.ended = wiring.sequences.ended(layer, self.place + 1)
        fires = layer.steps[self.place : self.place + 1]
        in_time = bool(fires) and fires[0].traits.in_time and not isinstance(fires[0], LocalGraph)
        self.spikes: Any = fires[0] if in_time and not output else None
        self.pooled = self.floor == 0 and _rectified_and_pooled(layer.steps[self.place :])
        self.needs_rate = self.pooled or self.place == len(layer.steps)
        self.keeps_shape = all(step.traits.keeps_shape for step in layer.steps[self.place :])

    def heard(self, layer: Layer, record: NodeState) -> Tensor:
        """The rate of those that hear a signal."""
        if not self.pooled:
            return self.rate(layer, record)
        assert record.rate is not None
        return record.rate

    def rate(self, layer: Layer, record: NodeState) -> Tensor:
        """The activation's answer, or the layer's rate where there is none."""
        if self.place == len(layer.steps):
            assert record.rate is not None
            return record.rate
        return layer.steps[self.place].output(record.saved[self.place])

    def arrive(
        self, layer: Layer, own: NodeState, signal: Tensor, walk: BackwardPass, *, learning: bool = True
    ) -> Tensor:
        """A signal at the layer's rate, propagated through the steps after the activation and its derivative."""
        return signal if self.pooled else walk.through(layer, own, signal, slice(self.place, None), learning)

    def lasts(self, own: NodeState) -> bool:
        """Whether these are spiking neurons, not of the output, whose drive is the same at all moments."""
        return self.spikes is not None and bool(self.spikes.lasts(own.saved[self.place]))

    def all_bursts(self, layer: Layer, own: NodeState, signal: Tensor, walk: BackwardPass, unit: float) -> Tensor:
        """The sum of `bursts` over all moments, for a signal at the layer's rate; only where the drive `lasts`.

        A moment has one event or none.
        """
        signal = walk.through(layer, own, signal, slice(self.place + 1, None))
        bursts: Tensor = self.spikes.taught(signal * unit, own.saved[self.place], tanh)
        return bursts.div_(unit)

    def spread(self, layer: Layer, own: NodeState, signal: Tensor, walk: BackwardPass) -> Tensor:
        """A signal at the units that receive it, spread over all."""
        return signal if not self.pooled else walk.through(layer, own, signal, slice(self.place, None), False)

    def leave(
        self, layer: Layer, own: NodeState, signal: Tensor, walk: BackwardPass, *, learning: bool = True
    ) -> Tensor:
        """A signal before the activation, propagated to the soma; summed over moments where the drive is constant."""
        assert own.pre is not None
        if walk.state.moments > 1 and len(signal) > len(own.pre):
            signal = at_rows(signal, len(own.pre), walk.state.moments)
        return walk.through(layer, own, signal, slice(0, self.place), learning)

    def events(self, rate: Tensor, unit: float) -> Tensor:
        """The event rate over `unit`, above zero by so little that a ratio with it is a number."""
        if self.floor is None:
            return rate.abs().add_(self.tonic).div_(unit)
        above = _smallest(rate) - self.floor / unit * (1 + 4 * torch.finfo(rate.dtype).eps)
        return torch.add(rate.new_full((), above), rate, alpha=1 / unit)

    def bursts(self, signal: Tensor, rate: Tensor, unit: float) -> Tensor:
        """The distance of the burst rate from its baseline, bounded by the events; `signal` may be overwritten."""
        if self.output:
            return bounded(signal, self.events(rate, unit))
        size = signal.numel()
        if size <= _PIECE or torch.compiler.is_compiling():
            return self._bent(signal, rate, unit)
        found = signal if self.spikes is not None else torch.empty_like(signal)
        rows = max(1, _PIECE * len(signal) // size)  # pieces whose steps stay in the cache
        for start in range(0, len(signal), rows):
            piece = slice(start, start + rows)
            self._bent(signal[piece], rate[piece], unit, out=found[piece])
        return found

    def _bent(self, signal: Tensor, rate: Tensor, unit: float, out: Tensor | None = None) -> Tensor:
        events = self.events(rate, unit)
        return tanh_(torch.div(signal, events, out=out)).mul_(events)

    def net(self, rate: Tensor, events: Tensor, unit: float) -> Tensor:
        """The events that synapses see over `unit`: of a pair, ON's without OFF's; 0 of neurons without events."""
        return rate / unit if self.floor is None else events - _smallest(events)

    def firing(self, net: Tensor, events: Tensor) -> Tensor:
        """The event rate, which is 0 where a ratio needs it above zero."""
        return events if self.floor is None else net


def _smallest(rate: Tensor) -> float:
    """What is above zero by little, and by enough that what it is multiplied with stays a normal number."""
    tiny = torch.finfo(rate.dtype).tiny
    return tiny * _NORMAL if tiny < 1e-30 else tiny  # that of half precision is not small


def _rectified_and_pooled(steps: Sequence[Step]) -> bool:
    """Whether these are a rectification and max-pooling over patches that do not overlap."""
    if not steps or not steps[0].traits.rectifies:
        return False
    after = [step.traits for step in steps[1:]]
    apart = all(step.moves or (step.pools == "max" and step.disjoint) for step in after)
    return apart and any(step.pools for step in after)


class Bursts(Sweep):
    """A rule whose neurons send events up and bursts down: what all such rules share.

    See `BurstCCN` and `Burstprop`.
    """

    needs = "any circuit"
    has_absolute_scale = True
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = MappingProxyType({"burst_modulation": (-1.0, 1.0)})
    needs_batch = True
    through_time = "refused"
    by_moment = True
    saves_rates = True

    def __init__(
        self, *, feedback: Given, error_scale: float, baseline: float, tonic: float, init: str, scale: float, seed: int
    ) -> None:
        super().__init__()
        rule = type(self).__name__
        check_init(rule, init, scale, ("match", "xavier", "weights"))
        check_positive(rule, error_scale=error_scale, tonic=tonic)
        if not 0 < baseline <= 0.5:
            raise ConfigError(
                f"{rule}: baseline={baseline!r} must be above 0 and at most 0.5: probabilities go up to twice that."
            )
        self.error_scale = error_scale
        self.baseline = baseline
        self.tonic = tonic
        self.init = init
        self.scale = scale
        self.seed = seed
        self.take_pathway(feedback, init=init, scale=scale, seed=seed)
        self._populations: dict[int, Population] = {}

    def setup(self, wiring: Wiring) -> None:
        super().setup(wiring)
        wiring.sequences.keep_moments()
        self._populations = {layer.index: Population(layer, wiring, self.tonic) for layer in wiring.layers}

    def forward(self, wiring: Wiring, x: Tensor, plan: BackwardPlan) -> tuple[Tensor, ForwardState]:
        y, state = super().forward(wiring, x, plan)
        for node in wiring.nodes:
            own = state.nodes[node.index]
            population = self._populations.get(node.index)
            if own is not None and not (population is not None and population.needs_rate):
                own.rate = None  # not needed: releases its memory
        return y, state


def bounded(signal: Tensor, events: Tensor) -> Tensor:
    """An output's teaching signal, where its burst probability is linear between never and twice the baseline."""
    # Not a number and infinity stay what they are, or they would not be noticed.
    return signal.clamp(-events, events).add_(signal, alpha=0)
