"""Spike trains in their two forms, and the events and bursts in them, against the definition spelled out."""

import math
from itertools import accumulate

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from neuron_reference import classify

from apical.errors import ConfigError, DataError
from apical.neurons import burst_poisson, events_and_bursts, messages, pad, periodic_pairing, to_raster, to_times

# intervals about the threshold of 16 ms, so that bursts of three and more are common
trains = st.lists(st.integers(1, 24), max_size=16).map(lambda intervals: list(accumulate(intervals)))


@given(st.lists(trains, min_size=1, max_size=4))
def test_events_and_bursts_follow_the_definition_in_both_forms(units):
    times = pad([torch.tensor(train, dtype=torch.float64) for train in units])
    raster = to_raster(times, 401.0)
    of_times, of_raster = events_and_bursts(times), events_and_bursts(raster)
    for unit, train in enumerate(units):
        kinds = classify(train)
        for name, kind in (("events", "event"), ("bursts", "burst")):
            expected = [t for t, is_a in zip(train, kinds, strict=True) if is_a == kind]
            assert times[unit][getattr(of_times, name)[unit]].tolist() == expected
            assert getattr(of_raster, name)[:, unit].nonzero().flatten().tolist() == expected


def test_the_threshold_itself_makes_an_event_whatever_the_time_step():
    for step in (0.1, 0.16, 0.5, 1.0, 2.0):
        raster = torch.zeros(round(40 / step) + 1, 1, dtype=torch.bool)
        raster[0] = raster[round(16 / step)] = True
        assert events_and_bursts(raster, step=step).events.sum() == 2
        raster[round(16 / step)] = False
        raster[round(16 / step) - 1] = True
        events, bursts = events_and_bursts(raster, step=step)
        assert (events.sum(), bursts.sum()) == (1, 1)


def test_a_burst_across_two_bins_is_one_of_the_first_ones_events():
    raster = torch.zeros(100, 1, 3, dtype=torch.bool)
    raster[[45, 52], 0, 1] = True
    event_rate, burst_rate, burst_probability = messages(raster, width=50)
    assert event_rate[:, 0].tolist() == pytest.approx([20 / 3, 0])
    assert burst_rate[:, 0].tolist() == pytest.approx([0, 20 / 3])
    assert burst_probability[:, 0].tolist() == [1.0, 0.0]


@given(st.lists(trains, min_size=1, max_size=4))
def test_a_raster_keeps_every_spike(units):
    times = pad([torch.tensor(train, dtype=torch.float64) * 0.1 for train in units])
    raster = to_raster(times, 40.1, step=0.1)
    assert raster.shape == (401, len(units))
    back = to_times(raster, step=0.1)
    assert torch.allclose(back, times[:, : back.shape[1]], rtol=1e-12)
    assert back.isfinite().sum() == sum(map(len, units))


def test_leading_axes_are_kept():
    times = torch.rand(2, 3, 5, dtype=torch.float64).sort(-1).values * 1000
    raster = to_raster(times, 1000.0, step=0.01)
    assert raster.shape == (100_000, 2, 3)
    events, bursts = events_and_bursts(raster, step=0.01)
    assert (events | bursts).sum() <= 30
    assert events.sum((0,)).min() >= 1


def test_messages_count_a_population_in_bins():
    raster = torch.zeros(105, 2, dtype=torch.bool)
    raster[[3, 10], 0] = True  # a burst
    raster[[20, 60], 1] = True  # two events
    event_rate, burst_rate, burst_probability = messages(raster, width=50)
    assert event_rate.tolist() == [20.0, 10.0]  # 2 and 1 events of two neurons within 50 ms
    assert burst_rate.tolist() == [10.0, 0.0]
    assert burst_probability.tolist() == [0.5, 0.0]


def test_burst_poisson_trains_are_what_they_say():
    trains = burst_poisson(10.0, 0.3, 60_000.0, (200,), generator=torch.Generator().manual_seed(0))
    events, bursts = events_and_bursts(trains)
    assert (bursts.sum() / events.sum()).item() == pytest.approx(0.3, abs=0.01)
    # after an event comes its mean interval of 100 ms, and for three in ten 7 ms more
    assert (events.sum() / 200 / 60).item() == pytest.approx(1000 / 102.1, rel=0.02)
    gaps = trains.diff(dim=-1)
    gaps = gaps[gaps.isfinite()]
    assert gaps.min() >= 2
    assert ((gaps < 12) | (gaps >= 20)).all()


def test_periodic_pairing_pauses_between_sequences():
    times = periodic_pairing(10.0, pairings=3, sequences=2, interval=1000.0, start=5.0)
    assert times.tolist() == [5.0, 105.0, 205.0, 1305.0, 1405.0, 1505.0]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: events_and_bursts(torch.zeros(5, 2)[..., None].int()), DataError, "floating-point"),
        (lambda: events_and_bursts(torch.tensor([3.0, 1.0])), DataError, "increase"),
        (lambda: events_and_bursts(torch.tensor([-1.0, 1.0])), DataError, "negative"),
        (lambda: events_and_bursts(torch.tensor([math.nan])), DataError, "NaN"),
        (lambda: events_and_bursts(torch.tensor([1.0]), threshold=0.0), ConfigError, "threshold"),
        (lambda: to_raster(torch.tensor([[1.0, 1.5]]), 10.0), DataError, "shorter step"),
        (lambda: to_raster(torch.tensor([[1.0]]), -1.0), ConfigError, "duration"),
        (lambda: to_times(torch.zeros(5, 2)), DataError, "boolean"),
        (lambda: messages(torch.zeros(5, 2, dtype=torch.bool)), DataError, "no bin"),
        (lambda: burst_poisson(60.0, 0.2, 1.0, (1,), generator=torch.Generator()), ConfigError, "below 50 Hz"),
        (lambda: burst_poisson(6.0, 1.2, 1.0, (1,), generator=torch.Generator()), ConfigError, "from 0 to 1"),
        (lambda: periodic_pairing(0.0), ConfigError, "frequency"),
    ],
)
def test_refusals_name_the_reason(call, error, words):
    with pytest.raises(error, match=words):
        call()
