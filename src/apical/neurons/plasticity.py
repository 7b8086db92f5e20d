"""Burst-dependent plasticity of single synapses, spike by spike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from apical.errors import ConfigError, DataError
from apical.neurons.trains import BURST_THRESHOLD, check_raster, check_times, reaches
from apical.options import check_positive, check_signs


class SynapseState(NamedTuple):
    """What synapses and the neurons at their two ends remember. The rule updates it in place.

    Attributes:
        weights: w, (..., post, pre).
        eligibility: Etilde, the trace of presynaptic events, (..., pre).
        event_rate: Ebar, the moving average of postsynaptic events in Hz, (..., post).
        burst_rate: Bbar, the moving average of postsynaptic bursts in Hz, (..., post).
        pre_age: time since the last presynaptic spike in ms, infinite before the first, (..., pre).
        post_age: time since the last postsynaptic spike in ms, (..., post).
        in_burst: whether the present burst has been counted, boolean (..., post).
    """

    weights: Tensor
    eligibility: Tensor
    event_rate: Tensor
    burst_rate: Tensor
    pre_age: Tensor
    post_age: Tensor
    in_burst: Tensor

    @property
    def burst_probability(self) -> Tensor:
        """Pbar = min(1, Bbar / Ebar), (..., post); zero where nothing is known yet (0 / 0)."""
        return expected_bursts(self.burst_rate, self.event_rate)

    def clone(self) -> SynapseState:
        """A copy that shares nothing."""
        return SynapseState(*(tensor.clone() for tensor in self))


def expected_bursts(burst_rate: Tensor, event_rate: Tensor) -> Tensor:
    """Pbar = min(1, Bbar / Ebar), and zero for 0 / 0."""
    return (burst_rate / event_rate).clamp_(max=1).nan_to_num_(nan=0.0)


@dataclass(frozen=True, kw_only=True)
class BurstDependentPlasticity:
    """The burst-dependent rule: a postsynaptic event weakens a synapse by the share of bursts that is expected,
    a burst strengthens it.

        dw_ij/dt = eta [ B_i(t) - Pbar_i(t) E_i(t) ] Etilde_j(t)
        Pbar_i   = min(1, Bbar_i / Ebar_i)

    E_i and B_i are sums of pulses, at postsynaptic events and at the second spike of each burst. Etilde_j is a trace of
    presynaptic *events* (not of all spikes): +1 at each, decaying with `eligibility_time`. Ebar_i and Bbar_i are moving
    averages of E_i and B_i over `averaging_time`. Pbar_i is read before the event that asks for it is counted; it is
    zero as long as nothing has been averaged (0 / 0), so that an event then leaves the weights as they are.

    With homeostasis, between the rates e_min and e_max in Hz (`rate_range`):

        h_i   = -(Ebar_i - e_max) / Ebar_i  where Ebar_i > e_max, else 0
        w_ij += eta h_i Etilde_j            at each postsynaptic event and burst
        w_ij += eta (e_min - Ebar_i)        at each presynaptic event, where Ebar_i < e_min

    Where both ends fire at once, the presynaptic spike comes first.

    Args:
        learning_rate: eta.
        eligibility_time: tau_pre, of the presynaptic trace, in ms.
        averaging_time: alpha, of the moving averages, in ms.
        threshold: the interval between spikes from which on the second is an event of its own, in ms.
        rate_range: (e_min, e_max) in Hz, or None for no homeostasis.
        bounds: the smallest and the largest weight, kept after each change, or None.

    Shapes: weights are (..., post, pre): any number of leading axes (realisations, populations), each with all pairs of
    its neurons. Their type is the type of everything; use float64 where steps are short, since in float32 an average
    over 15 s loses a hundredth of its time constant in steps of 0.1 ms.

    Raises: ConfigError on options out of range; DataError on spikes that do not fit the weights.

    Departs from the authors' code: it finds events by a trace that adds up spikes, so that after a long burst a little
    more than 16 ms of silence make an event; here the interval alone counts, as in the paper's definition. Off by
    default, there on: homeostasis (2 to 12 Hz) and bounds (0 to 1), neither of which the pairing protocols use.

    Source: Payeur, Guerguiev, Zenke, Richards and Naud, Nature Neuroscience 24, 1010-1019 (2021), eq. 1; the order of
    things within a spike, and homeostasis, from the authors' spikingburstprop.
    """

    learning_rate: float = 0.1
    eligibility_time: float = 50.0
    averaging_time: float = 15_000.0
    threshold: float = BURST_THRESHOLD
    rate_range: tuple[float, float] | None = None
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_signs(self, positive=("learning_rate", "eligibility_time", "averaging_time", "threshold"))
        if self.rate_range is not None and not 0 <= self.rate_range[0] < self.rate_range[1] < math.inf:
            raise ConfigError(
                f"BurstDependentPlasticity: rate_range={self.rate_range!r} must be (e_min, e_max) in Hz with "
                "0 <= e_min < e_max; None turns homeostasis off."
            )
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise ConfigError(
                f"BurstDependentPlasticity: bounds={self.bounds!r} must be (smallest, largest); None sets no bounds."
            )

    def start(
        self, weights: Tensor, *, event_rate: float | Tensor = 0.0, burst_probability: float | Tensor = 0.0
    ) -> SynapseState:
        """The state before the first spike.

        Args:
            weights: (..., post, pre), floating-point; copied.
            event_rate: the first estimate Ebar in Hz, a number or a tensor that fits (..., post).
            burst_probability: the first estimate Pbar, from 0 to 1, a number or a tensor that fits (..., post).
        """
        if not weights.is_floating_point() or weights.dim() < 2:
            raise DataError("weights must be floating-point with axes (..., post, pre); one synapse is (1, 1).")
        post, pre = weights[..., 0], weights[..., 0, :]
        rate, probability = (
            torch.as_tensor(value, dtype=weights.dtype, device=weights.device)
            for value in (event_rate, burst_probability)
        )
        if not bool((rate >= 0).all()) or not bool(((probability >= 0) & (probability <= 1)).all()):
            raise DataError("the first estimates are an event rate of at least 0 Hz and a probability from 0 to 1.")
        return SynapseState(
            weights=weights.detach().clone(memory_format=torch.contiguous_format),
            eligibility=torch.zeros_like(pre, memory_format=torch.contiguous_format),
            event_rate=rate.expand(post.shape).clone(memory_format=torch.contiguous_format),
            burst_rate=(rate * probability).expand(post.shape).clone(memory_format=torch.contiguous_format),
            pre_age=torch.full(pre.shape, torch.inf).to(weights),
            post_age=torch.full(post.shape, torch.inf).to(weights),
            in_burst=torch.zeros(post.shape, dtype=torch.bool, device=weights.device),
        )

    @torch.no_grad()
    def step(
        self, state: SynapseState, pre: Tensor, post: Tensor, elapsed: float | Tensor, *, learn: bool = True
    ) -> None:
        """Let time pass, then take in the spikes of one moment. `state` is updated in place.

        Args:
            state: of the synapses.
            pre: which presynaptic neurons fire now, boolean (..., pre).
            post: which postsynaptic neurons fire now, boolean (..., post).
            elapsed: time since the state's last update in ms, a number, or a tensor of the leading axes (...).
            learn: whether weights change; traces and averages go on in any case (the gate M(t) of the paper).
        """
        self._check_fit(state, pre.shape, post.shape)
        self._pass_time(state, elapsed)
        self._presynaptic(state, pre, learn)
        self._postsynaptic(state, post, learn)

    @torch.no_grad()
    def run(
        self, state: SynapseState, pre: Tensor, post: Tensor, *, step: float = 1.0, gate: Tensor | None = None
    ) -> SynapseState:
        """Take in rasters. `state` is updated in place, to the end of the last step, and returned.

        The cost goes with the number of steps in which anything fires: in others nothing happens but decay.

        Args:
            state: of the synapses.
            pre: boolean (time, ..., pre).
            post: boolean (time, ..., post).
            step: time step in ms.
            gate: M(t), boolean (time,): whether weights change in each step; None for always.
        """
        check_positive("run", step=step)
        check_raster(pre, "pre")
        check_raster(post, "post")
        if len(pre) != len(post) or (gate is not None and gate.shape != (len(pre),)):
            raise DataError(
                f"pre has {len(pre)} steps, post {len(post)}"
                + ("" if gate is None else f", and gate is of shape {tuple(gate.shape)}")
                + ": all cover the same time."
            )
        self._check_fit(state, pre.shape[1:], post.shape[1:])
        active = (pre.flatten(1).any(1) | post.flatten(1).any(1)).nonzero().flatten().tolist()
        now = 0
        for moment in active:
            learn = gate is None or bool(gate[moment])
            self.step(state, pre[moment], post[moment], (moment - now) * step, learn=learn)
            now = moment
        self._pass_time(state, (len(pre) - now) * step)
        return state

    @torch.no_grad()
    def run_times(
        self, state: SynapseState, pre: Tensor, post: Tensor, *, duration: float | None = None
    ) -> SynapseState:
        """Take in spike times, without a time step. `state` is updated in place and returned.

        Leading axes keep clocks of their own: there are as many updates as the busiest of them has moments with spikes.

        Args:
            state: of the synapses.
            pre: (..., pre, n) in ms from now on, padded with infinity.
            post: (..., post, n) in the same way.
            duration: until when decay lasts, in ms; None for each leading index's own last spike.
        """
        check_times(pre, "pre")
        check_times(post, "post")
        last = max((float(t[t.isfinite()].max()) for t in (pre, post) if t.isfinite().any()), default=0.0)
        if duration is not None and duration < last:
            raise DataError(f"duration={duration!r} ms ends before the last spike, at {last:g} ms.")
        leading = state.weights.shape[:-2]
        self._check_fit(state, pre.shape[:-1], post.shape[:-1])
        moments = torch.cat([pre.flatten(-2).double(), post.flatten(-2).double()], -1).sort(-1).values
        now = torch.zeros(leading, dtype=torch.float64, device=pre.device)
        previous = torch.full_like(now, -1)
        for moment in moments.unbind(-1):
            # A moment at which several neurons fire is there several times, and padding is left out.
            fresh = (moment > previous) & moment.isfinite()
            if not bool(fresh.any()):
                continue
            previous = torch.where(fresh, moment, previous)
            until = torch.where(fresh, moment, torch.nan)[..., None, None]
            self.step(state, (pre == until).any(-1), (post == until).any(-1), torch.where(fresh, moment - now, 0.0))
            now = torch.where(fresh, moment, now)
        if duration is not None:
            self._pass_time(state, duration - now)
        return state

    def _check_fit(self, state: SynapseState, pre: torch.Size, post: torch.Size) -> None:
        if pre != state.eligibility.shape or post != state.event_rate.shape:
            raise DataError(
                f"presynaptic neurons {tuple(pre)} and postsynaptic ones {tuple(post)} do not fit weights of shape "
                f"{tuple(state.weights.shape)}: they are (..., pre) and (..., post)."
            )

    def _pass_time(self, state: SynapseState, elapsed: float | Tensor) -> None:
        """Decay of every trace."""
        if isinstance(elapsed, Tensor):
            elapsed = elapsed.to(state.weights)[..., None]
            trace_decay: float | Tensor = torch.exp(elapsed / -self.eligibility_time)
            average_decay: float | Tensor = torch.exp(elapsed / -self.averaging_time)
        else:
            trace_decay = math.exp(-elapsed / self.eligibility_time)
            average_decay = math.exp(-elapsed / self.averaging_time)
        state.eligibility.mul_(trace_decay)
        state.event_rate.mul_(average_decay)
        state.burst_rate.mul_(average_decay)
        state.pre_age.add_(elapsed)
        state.post_age.add_(elapsed)

    def _presynaptic(self, state: SynapseState, pre: Tensor, learn: bool) -> None:
        """Events add to the trace, and lift what drives neurons that are too quiet."""
        events = reaches(state.pre_age, self.threshold).logical_and_(pre)
        state.pre_age.masked_fill_(pre, 0.0)
        state.eligibility.add_(events)
        if not learn or self.rate_range is None:
            return
        weights = state.weights.flatten(0, -3) if state.weights.dim() > 2 else state.weights[None]
        sample, unit = events.reshape(-1, events.shape[-1]).nonzero(as_tuple=True)
        if len(sample):
            lack = state.event_rate.reshape(-1, state.event_rate.shape[-1])[sample]
            lack = lack.neg_().add_(self.rate_range[0]).clamp_(min=0)
            changed = weights[sample, :, unit].add_(lack, alpha=self.learning_rate)
            weights[sample, :, unit] = self._bounded(changed, lack > 0, weights[sample, :, unit])

    def _postsynaptic(self, state: SynapseState, post: Tensor, learn: bool) -> None:
        """Events weaken by what is expected, bursts strengthen; only rows of neurons that fire are touched."""
        silent = reaches(state.post_age, self.threshold)
        state.post_age.masked_fill_(post, 0.0)
        events = silent & post
        bursts = post & ~silent & ~state.in_burst
        if learn:
            units = post.shape[-1]
            taught = (events | bursts).reshape(-1, units)
            sample, unit = taught.nonzero(as_tuple=True)
            if len(sample):
                event_rate = state.event_rate.view(-1, units)[sample, unit]
                expected = expected_bursts(state.burst_rate.view(-1, units)[sample, unit], event_rate)
                change = torch.where(events.view(-1, units)[sample, unit], -expected, 1.0)
                if self.rate_range is not None:
                    # 1 - e_max / Ebar is the excess's share; where it is negative (or Ebar is zero) there is none
                    change -= (1 - self.rate_range[1] / event_rate).clamp_(min=0)
                weights = state.weights.view(-1, units, state.weights.shape[-1])
                traces = state.eligibility.view(-1, state.eligibility.shape[-1])[sample]
                rows = weights[sample, unit].addcmul_(change[:, None], traces, value=self.learning_rate)
                weights[sample, unit] = rows if self.bounds is None else rows.clamp_(*self.bounds)
        pulse = 1000 / self.averaging_time
        state.event_rate.add_(events, alpha=pulse)
        state.burst_rate.add_(bursts, alpha=pulse)
        state.in_burst.logical_or_(bursts).logical_and_(~events)

    def _bounded(self, changed: Tensor, touched: Tensor, before: Tensor) -> Tensor:
        """Clip what was changed, and leave the rest as it was."""
        return changed if self.bounds is None else torch.where(touched, changed.clamp(*self.bounds), before)
