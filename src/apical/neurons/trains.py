"""Spike trains, as times or as a raster, and the two messages in them: events and bursts.

Times are in ms everywhere in `apical.neurons`, rates in Hz. Two forms of one thing:

- *times*: a tensor (..., n), increasing along its last axis, and padded with infinity where a neuron fires less often;
- a *raster*: a boolean tensor (time, ..., units), true where a neuron fires in that time step. Step i is the time
  from i * step to (i + 1) * step, and its spikes count as fired at i * step.

An *event* is a spike alone or the first spike of a burst; a *burst* is two spikes or more with less than 16 ms between
one and the next, and happens at its second spike (Payeur et al., Nature Neuroscience 24, 1010-1019, 2021).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from apical.errors import DataError
from apical.options import check_positive

BURST_THRESHOLD = 16.0  # ms
# Sums of time steps miss their value by rounding: an interval this close to the threshold has reached it.
_SLACK = 1e-4


class EventsAndBursts(NamedTuple):
    """Where events and bursts happen.

    Attributes:
        events: boolean, of the form of the spikes; true at each event.
        bursts: the same; true at the second spike of each burst.
    """

    events: Tensor
    bursts: Tensor


class Messages(NamedTuple):
    """What a population says in each bin of time; every tensor is (bins, ...).

    Attributes:
        event_rate: events, in Hz for each neuron.
        burst_rate: bursts, in Hz for each neuron.
        burst_probability: the share of the bin's events that become bursts; zero in a bin without events.
    """

    event_rate: Tensor
    burst_rate: Tensor
    burst_probability: Tensor


def reaches(interval: Tensor, threshold: float) -> Tensor:
    """Whether an interval between spikes is too long for a burst: as long as the threshold, or longer."""
    return interval >= threshold * (1 - _SLACK)


def check_times(times: Tensor, name: str = "times") -> None:
    """Refuse all but spike trains (..., n), increasing from zero on, padded with infinity."""
    if not times.is_floating_point() or times.dim() == 0:
        raise DataError(f"{name} must be a floating-point tensor (..., n) of spike times in ms, not {_form(times)}.")
    if times.numel() and not bool((times >= 0).all()):
        raise DataError(f"{name} holds a negative time or NaN; times start at 0 ms, and padding is infinity.")
    later, earlier = times[..., 1:], times[..., :-1]
    if not bool(((later > earlier) | later.isinf()).all()):
        raise DataError(f"{name} must increase along the last axis: sort each train, and pad it at its end.")


def check_raster(raster: Tensor, name: str = "the raster") -> None:
    """Refuse all but a boolean raster (time, ..., units)."""
    if raster.dtype != torch.bool or raster.dim() < 2:
        raise DataError(f"{name} must be boolean with axes (time, ..., units), not {_form(raster)}; try `spikes > 0`.")


def to_raster(times: Tensor | Sequence[Tensor], duration: float, *, step: float = 1.0) -> Tensor:
    """Spike times as a raster.

    Args:
        times: (..., n) padded with infinity, or one tensor (n,) for each neuron; in ms.
        duration: of the raster, in ms; later spikes are left out.
        step: time step in ms.

    Returns:
        Boolean (time, ...): (time, units) for one axis of neurons or a sequence of trains.

    Raises:
        DataError: times that are negative or not increasing, or two spikes of a neuron within one step.
        ConfigError: `duration` or `step` is not positive.
    """
    check_positive("to_raster", duration=duration, step=step)
    padded = times if isinstance(times, Tensor) else pad(times)
    check_times(padded)
    steps = math.ceil(duration / step - _SLACK)
    index = (padded / step + _SLACK).floor()
    if bool(((index[..., 1:] == index[..., :-1]) & padded[..., 1:].isfinite()).any()):
        raise DataError(f"a neuron fires twice within one step of {step} ms: take a shorter step.")
    place = index.clamp(max=steps).long()  # one place more than there are steps takes what comes too late
    raster = padded.new_zeros((*padded.shape[:-1], steps + 1), dtype=torch.bool).scatter_(-1, place, True)
    return raster[..., :steps].movedim(-1, 0).contiguous()


def to_times(raster: Tensor, *, step: float = 1.0) -> Tensor:
    """A raster as spike times.

    Args:
        raster: boolean (time, ..., units).
        step: time step in ms.

    Returns:
        Float64 (..., units, n), n the largest count of spikes, padded with infinity; in ms.
    """
    check_raster(raster)
    check_positive("to_times", step=step)
    steps = torch.arange(raster.shape[0], dtype=torch.float64, device=raster.device) * step
    spread = torch.where(raster.movedim(0, -1), steps, torch.inf)
    most = int(raster.sum(0).max()) if raster.numel() else 0
    return spread.sort(-1).values[..., :most]


def pad(trains: Sequence[Tensor]) -> Tensor:
    """Trains of unequal length (n,) as one float64 tensor (units, n), padded with infinity."""
    if not all(train.dim() == 1 for train in trains):
        raise DataError("each spike train must have a single axis, the times of one neuron in ms.")
    longest = max((len(train) for train in trains), default=0)
    padded = torch.full((len(trains), longest), torch.inf, dtype=torch.float64)
    for row, train in zip(padded, trains, strict=True):
        row[: len(train)] = train
    return padded


def events_and_bursts(spikes: Tensor, *, step: float = 1.0, threshold: float = BURST_THRESHOLD) -> EventsAndBursts:
    """The events and bursts of spike trains.

    A spike is an event if its neuron has been silent for the threshold or longer. A burst happens at the first spike
    after an event that is none; further spikes of the burst are neither.

    Args:
        spikes: a raster, boolean (time, ..., units), or times, floating-point (..., n) in ms.
        step: a raster's time step in ms.
        threshold: the interval from which on a spike is an event, in ms.

    Returns:
        Two boolean tensors of the shape of `spikes`.

    Raises:
        DataError: neither a raster nor times.
        ConfigError: `step` or `threshold` is not positive.
    """
    check_positive("events_and_bursts", step=step, threshold=threshold)
    if spikes.dtype != torch.bool:
        check_times(spikes, "spikes")
        events = spikes.isfinite()
        # infinity minus infinity, between two places of padding, is NaN, which reaches nothing
        events[..., 1:] &= reaches(spikes.diff(dim=-1), threshold)
        bursts = spikes.isfinite() & ~events
        bursts[..., 1:] &= events[..., :-1]
        return EventsAndBursts(events, bursts)
    check_raster(spikes, "spikes")
    events, bursts, _ = _classified(spikes, step, threshold)
    return EventsAndBursts(events, bursts)


def _classified(raster: Tensor, step: float, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """The events and the bursts of a raster; and for each step the number (from one) of the last step with a spike."""
    steps = torch.arange(1, raster.shape[0] + 1, device=raster.device).view(-1, *[1] * (raster.dim() - 1))
    last_spike = _latest_before(raster, steps)
    events = raster & ((last_spike == 0) | reaches((steps - last_spike) * step, threshold))
    return events, raster & ~events & (last_spike == _latest_before(events, steps)), last_spike


def _latest_before(raster: Tensor, steps: Tensor) -> Tensor:
    """For each step, the number of the latest step before it where the raster is true; zero if there is none."""
    latest = torch.zeros_like(raster, dtype=torch.int64)
    latest[1:] = torch.where(raster[:-1], steps[:-1], 0)
    return latest.cummax(0).values


def messages(spikes: Tensor, *, width: float = 50.0, step: float = 1.0, threshold: float = BURST_THRESHOLD) -> Messages:
    """The two messages of a population: its event rate and its burst probability, in bins of time.

    A burst counts in the bin of its second spike for the rate, in that of its event for the probability.

    Args:
        spikes: a raster, boolean (time, ..., units); the population is the last axis.
        width: of a bin, in ms; steps that fill no bin at the end are left out.
        step: time step in ms.
        threshold: as for `events_and_bursts`.

    Raises:
        DataError: not a raster, or shorter than a bin.
    """
    check_positive("messages", width=width, step=step, threshold=threshold)
    check_raster(spikes, "spikes")
    length = round(width / step)
    bins = spikes.shape[0] // max(length, 1)
    if length < 1 or bins < 1:
        raise DataError(f"{spikes.shape[0]} steps of {step} ms hold no bin of {width} ms.")

    def count(what: Tensor) -> Tensor:
        return what[: bins * length].sum(-1).view(bins, length, *what.shape[1:-1]).sum(1).double()

    events, bursts, last_spike = _classified(spikes, step, threshold)
    # A burst's second spike may fall into the next bin; its event is the spike before.
    moments, *units = bursts.nonzero(as_tuple=True)
    became_bursts = torch.zeros_like(events)
    became_bursts[last_spike[moments, *units] - 1, *units] = True
    hertz = 1000 / (length * step * spikes.shape[-1])
    counted = count(events)
    return Messages(counted * hertz, count(bursts) * hertz, count(became_bursts) / counted.clamp(min=1))


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
