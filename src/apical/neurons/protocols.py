"""The protocols under which the plasticity of single synapses is measured: spike trains on demand."""

import torch
from torch import Tensor

from apical.errors import ConfigError
from apical.options import check_positive


def periodic_pairing(
    frequency: float, *, pairings: int = 5, sequences: int = 15, interval: float = 11_000.0, start: float = 10.0
) -> Tensor:
    """Sequences of spikes at a fixed frequency, with long pauses; pre- and postsynaptic neuron fire them together.

    The defaults are those of the figure's code: each sequence lasts a second longer than its spikes, and ten seconds
    pass until the next.

    Args:
        frequency: of the spikes of a sequence, in Hz.
        pairings: spikes in a sequence.
        sequences: how many there are.
        interval: between the end of a sequence (`pairings / frequency` after its start) and the next one, in ms.
        start: of the first spike in each sequence, in ms.

    Returns:
        Float64 (sequences * pairings,): spike times in ms.

    Source: Payeur et al., Nature Neuroscience 24, 1010-1019 (2021), fig. 2b; the authors' spikingburstprop.
    """
    check_positive("periodic_pairing", frequency=frequency, pairings=pairings, sequences=sequences)
    if not (interval >= 0 and start >= 0):
        raise ConfigError(f"periodic_pairing: interval={interval!r} and start={start!r} must not be negative.")
    period = 1000 / frequency
    spikes = torch.arange(pairings, dtype=torch.float64) * period
    starts = torch.arange(sequences, dtype=torch.float64) * (pairings * period + interval) + start
    return (starts[:, None] + spikes).flatten()


def burst_poisson(
    event_rate: float,
    burst_probability: float,
    duration: float,
    shape: tuple[int, ...],
    *,
    generator: torch.Generator,
    event_refractory: float = 20.0,
    spike_refractory: float = 2.0,
    spread: float = 10.0,
) -> Tensor:
    """Poisson events, each of which a second spike may follow: trains with a chosen burst probability.

    After every spike a neuron waits `event_refractory` and an exponentially distributed time for its next event. With
    the burst probability the event's second spike comes after `spike_refractory` and a uniform time up to `spread`.

    Args:
        event_rate: events in Hz (that of isolated events: bursts take their own time, and lower it a little).
        burst_probability: from 0 to 1.
        duration: of the trains, in ms.
        shape: of what is drawn: independent trains (neurons, realisations ...).
        generator: where the random numbers come from.
        event_refractory: in ms.
        spike_refractory: in ms.
        spread: in ms.

    Returns:
        Float64 (*shape, n): spike times in ms, padded with infinity.

    Raises:
        ConfigError: a rate that the refractory time makes impossible, or an option out of range.

    Source: Payeur et al., Nature Neuroscience 24, 1010-1019 (2021), fig. 2c-d; the authors' spikingburstprop.
    """
    check_positive("burst_poisson", event_rate=event_rate, duration=duration)
    if not 0 <= burst_probability <= 1:
        raise ConfigError(f"burst_poisson: burst_probability={burst_probability!r} must be from 0 to 1.")
    if not (event_refractory >= 0 and spike_refractory > 0 and spread >= 0):
        raise ConfigError(
            f"burst_poisson: event_refractory={event_refractory!r} and spread={spread!r} must not be negative, "
            f"spike_refractory={spike_refractory!r} must be positive."
        )
    wait = 1000 / event_rate - event_refractory
    if wait <= 0:
        raise ConfigError(
            f"burst_poisson: event_rate={event_rate!r} Hz is out of reach with event_refractory={event_refractory!r} "
            f"ms: it must be below {1000 / event_refractory:g} Hz."
        )
    pieces: list[Tensor] = []
    now = torch.zeros(shape, dtype=torch.float64)
    while bool((now <= duration).any()):
        exponential = torch.empty(shape, dtype=torch.float64).exponential_(generator=generator)
        event = now + event_refractory + wait * exponential
        chance, delay = torch.rand((2, *shape), dtype=torch.float64, generator=generator)
        second = event + spike_refractory + spread * delay
        bursts = chance < burst_probability
        pieces += [event, torch.where(bursts, second, torch.inf)]
        now = torch.where(bursts, second, event)
    times = torch.stack(pieces, -1)
    times = times.masked_fill_(times > duration, torch.inf).sort(-1).values
    return times[..., : int(times.isfinite().sum(-1).max())]
