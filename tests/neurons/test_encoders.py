"""Encoders: the spikes are those of hand-made cases."""

import pytest
import torch

from apical.errors import ConfigError, DataError
from apical.neurons import encoders


def test_a_constant_current_takes_no_memory():
    x = torch.rand(3, 4)
    assert encoders.constant(x, 5).stride(0) == 0
    assert torch.equal(encoders.constant(x, 5)[4], x)


def test_bernoulli_spikes_have_the_rate():
    generator = torch.Generator().manual_seed(0)
    spikes = encoders.bernoulli(torch.tensor([0.0, 0.3, 1.0]), 4000, generator=generator)
    assert spikes.mean(0).tolist() == pytest.approx([0.0, 0.3, 1.0], abs=0.03)


def test_larger_values_fire_earlier_and_once():
    spikes = encoders.latency(torch.tensor([1.0, 0.5, 0.1, 0.0]), 5)
    assert spikes.sum(0).tolist() == [1, 1, 1, 0]
    assert spikes.argmax(0)[:3].tolist() == [0, 2, 4]


def test_a_signal_fires_where_it_has_moved():
    signal = torch.tensor([0.0, 0.4, 1.1, 1.2, -0.1])
    assert encoders.threshold_crossing(signal, 1.0).tolist() == [[0, 0], [0, 0], [1, 0], [0, 0], [0, 1]]


def test_events_are_counted_in_frames():
    found = encoders.frames(
        torch.tensor([0.0, 0.4, 0.9, 5.0]), torch.tensor([0, 3, 3, 1]), 2, shape=(2, 2), duration=1.0
    )
    assert found.tolist() == [[[1, 0], [0, 1]], [[0, 0], [0, 1]]]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_right_as_its_values(kind):
    values = torch.tensor([1e-3, 0.01, 0.5, 1.0], dtype=kind)
    generator = torch.Generator().manual_seed(0)
    spikes = encoders.bernoulli(values[:1].expand(100_000), 20, generator=generator)
    assert spikes.dtype == kind
    assert spikes.double().mean().item() == pytest.approx(1e-3, rel=0.1)
    for moments in (300, 4097):
        assert encoders.latency(values, moments).sum(0).tolist() == [1, 1, 1, 1]


def test_pixels_fall_as_they_rise():
    for kind in (torch.uint8, torch.int16, torch.float32):
        found = encoders.threshold_crossing(torch.tensor([5, 3, 5, 5], dtype=kind), 2.0)
        assert found.dtype == kind
        assert found.tolist() == [[0, 0], [0, 1], [1, 0], [0, 0]]


@pytest.mark.parametrize(
    ("make", "fact"),
    [
        (lambda: encoders.bernoulli(torch.tensor([1.5]), 3), "from 0 to 1"),
        (lambda: encoders.latency(torch.tensor([float("nan")]), 3), "from 0 to 1"),
        (lambda: encoders.bernoulli(torch.tensor([0, 1]), 3), "floating-point"),
        (lambda: encoders.threshold_crossing(torch.tensor([float("nan"), 0]), 1.0), "NaN"),
        (lambda: encoders.threshold_crossing(torch.zeros(0, 2), 1.0), "empty"),
        (lambda: encoders.frames(torch.tensor([float("nan")]), torch.tensor([0]), 2, shape=(2,), duration=1.0), "NaN"),
        (lambda: encoders.frames(torch.zeros(2), torch.zeros(3).long(), 2, shape=(2,), duration=1.0), "places"),
        (lambda: encoders.frames(torch.zeros(1), torch.tensor([2]), 2, shape=(2,), duration=1.0), "place"),
        (lambda: encoders.frames(torch.zeros(1), torch.tensor([0.5]), 2, shape=(2,), duration=1.0), "an integer"),
        (lambda: encoders.frames(torch.zeros(1), torch.tensor([float("nan")]), 2, shape=(2,), duration=1.0), "integer"),
    ],
)
def test_what_cannot_be_encoded_is_refused(make, fact):
    with pytest.raises(DataError, match=fact):
        make()


def test_moments_are_counted_in_integers():
    for encode in (encoders.constant, encoders.bernoulli, encoders.latency):
        with pytest.raises(ConfigError, match="moments"):
            encode(torch.rand(3), 2.5)
