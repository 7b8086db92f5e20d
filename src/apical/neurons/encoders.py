"""Encoders: numbers and events become spikes over time, (time, batch, ...)."""

import torch
from torch import Tensor

from apical.errors import ConfigError, DataError
from apical.options import check_positive


def constant(x: Tensor, moments: int) -> Tensor:
    """The same current at all moments, (time, ...), which takes no memory.

    Raises:
        ConfigError: the number of moments is not a positive integer, as in all encoders.
    """
    _check_moments("constant", moments)
    return x.expand(moments, *x.shape)


def bernoulli(rates: Tensor, moments: int, *, generator: torch.Generator | None = None) -> Tensor:
    """A spike at each moment with the probability of the rate, (time, ...), in the type of the rates.

    Args:
        rates: from 0 to 1.
        moments: how many.
        generator: of the draws; None: PyTorch's own.

    Raises:
        DataError: a rate is not a probability.
    """
    _check_moments("bernoulli", moments)
    _check_range("bernoulli", rates)
    kind = _precise(rates).dtype  # draws of half precision would be too coarse for small rates
    drawn = torch.rand(moments, *rates.shape, generator=generator, dtype=kind, device=rates.device)
    return (drawn < rates).to(rates.dtype)


def latency(values: Tensor, moments: int) -> Tensor:
    """One spike each, the earlier the larger the value: 1 fires at the first moment; 0 does not fire. (time, ...)

    Args:
        values: from 0 to 1.
        moments: how many.

    Raises:
        DataError: a value is out of range.
    """
    _check_moments("latency", moments)
    _check_range("latency", values)
    first = ((1 - _precise(values)) * moments).long().clamp(max=moments - 1)
    times = torch.arange(moments, device=values.device).view(-1, *[1] * values.dim())
    return ((times == first) & (values > 0)).to(values.dtype)


def threshold_crossing(signal: Tensor, threshold: float) -> Tensor:
    """Spikes where a signal has risen or fallen by the threshold since the last spike, (time, ..., 2): up and down.

    Args:
        signal: (time, ...).
        threshold: above 0, in the signal's unit.

    Raises:
        DataError: the signal has no moment, NaN or infinity.
    """
    check_positive("threshold_crossing", threshold=threshold)
    if not len(signal) or not signal.isfinite().all():
        raise DataError("threshold_crossing: the signal is empty, or has NaN or infinity. Replace them.")
    spikes = signal.new_zeros(*signal.shape, 2)
    values = signal if signal.is_floating_point() else signal.long()  # differences have signs
    level = values[0]
    for moment in range(1, len(signal)):
        up = values[moment] - level >= threshold
        down = level - values[moment] >= threshold
        level = torch.where(up | down, values[moment], level)
        spikes[moment] = torch.stack([up, down], -1).to(signal.dtype)
    return spikes


def frames(times: Tensor, places: Tensor, moments: int, *, shape: tuple[int, ...], duration: float) -> Tensor:
    """An event recording as counts in frames of equal length, (time, *shape).

    Args:
        times: (events,), from 0 to below the duration; later ones are left out.
        places: (events,), int64, each the index into the flattened shape.
        moments: how many frames.
        shape: of a frame.
        duration: of the recording, in the unit of the times.

    Raises:
        DataError: times and places do not fit, a time is negative or NaN, or a place is outside of the shape.
    """
    _check_moments("frames", moments)
    check_positive("frames", duration=duration)
    size = int(torch.tensor(shape).prod())
    if times.shape != places.shape or times.dim() != 1:
        raise DataError(
            f"frames: {tuple(times.shape)} times for {tuple(places.shape)} places. Pass one of each an event."
        )
    known = not places.is_floating_point() and ((places >= 0) & (places < size) & (times >= 0)).all()
    if len(times) and not known:
        raise DataError(
            f"frames: a time is negative or NaN, or a place is not an integer from 0 to {size - 1}. Check the "
            "recording."
        )
    kept = times < duration
    frame = (times[kept] * (moments / duration)).long().clamp(max=moments - 1)
    counts = torch.zeros(moments * size, device=times.device)
    counts.index_add_(0, frame * size + places[kept], torch.ones(len(frame), device=times.device))
    return counts.view(moments, *shape)


def _precise(values: Tensor) -> Tensor:
    """Values in float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _check_moments(name: str, moments: int) -> None:
    check_positive(name, moments=moments)
    if not isinstance(moments, int):
        raise ConfigError(f"{name}: moments={moments!r} must be an integer.")


def _check_range(name: str, values: Tensor) -> None:
    if not values.is_floating_point() or not ((values >= 0) & (values <= 1)).all():
        raise DataError(
            f"{name}: values must be floating-point numbers from 0 to 1. Scale them first, as (x - x.min()) / "
            "(x.max() - x.min())."
        )
