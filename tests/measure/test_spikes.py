"""Spikes and synaptic events, counted one by one."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from apical import Circuit, measure
from apical.errors import CircuitError
from apical.neurons import ALIF, LIF, LeakyReadout, OverTime, encoders


def events_one_by_one(sources, weight):
    """Every active input of every moment and sample times the synapses that leave it, for a linear layer."""
    count = 0
    for moment in sources:
        for sample in moment:
            for value in sample:
                count += len(weight) if value != 0 else 0
    return count / len(sources[0])


def test_trains_rates_and_events_are_those_of_the_network_run_by_hand():
    torch.manual_seed(0)
    first, hidden = nn.Linear(5, 8), LIF(0.9, 0.5, recurrent=nn.Linear(8, 8, bias=False))
    model = nn.Sequential(first, hidden, nn.Linear(8, 3), ALIF(), nn.Linear(3, 2), LeakyReadout())
    x = (torch.rand(6, 4, 5) < 0.4).float()
    found = measure.spikes(Circuit(model, "backprop"), x)
    state, by_hand = hidden.start(torch.zeros(4, 8)), []
    with torch.no_grad():
        for moment in x:
            output, state = hidden.advance(first(moment), state)
            by_hand.append(output)
    trains = torch.stack(by_hand)
    assert torch.equal(found.trains["1"], trains.bool())
    assert 0 < found.rates["1"] < 1
    assert found.rates["1"] == pytest.approx(trains.mean().item())
    assert found.silent["1"] == pytest.approx((trains.amax((0, 1)) == 0).float().mean().item())
    assert found.events["0"] == events_one_by_one(x, model[0].weight)
    assert found.events["2"] == events_one_by_one(trains, model[2].weight)
    before = torch.cat([torch.zeros(1, 4, 8), trains[:-1]])
    assert found.events["1.recurrent"] == events_one_by_one(before, hidden.recurrent.weight)
    assert found.synapses == {"0": 40, "1.recurrent": 64, "2": 24, "4": 6}


def test_a_constant_input_counts_once_and_borders_of_images_have_fewer_synapses():
    torch.manual_seed(0)
    inside = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), LIF(), nn.Flatten(), nn.Linear(32, 2), LeakyReadout())
    x = torch.zeros(2, 1, 4, 4)
    x[0, 0, 0, 0] = 1.0  # a corner reaches 4 places of each of 2 maps
    x[1, 0, 1, 1] = 1.0  # the middle 9
    found = measure.spikes(OverTime(inside, partial(encoders.constant, moments=7)), x)
    assert found.events["0"] == (8 + 18) / 2
    changing = measure.spikes(OverTime(inside), x.expand(7, *x.shape).contiguous())
    assert changing.events["0"] == 7 * found.events["0"]
    assert changing.trains["1"].shape == (7, 2, 2, 4, 4)


def test_synapses_whose_weights_are_computed_are_counted_as_others():
    torch.manual_seed(0)
    model = nn.Sequential(weight_norm(nn.Linear(5, 8)), LIF(), nn.Linear(8, 2), LeakyReadout())
    x = (torch.rand(6, 4, 5) < 0.4).float()
    found = measure.spikes(Circuit(model, "backprop"), x)
    assert found.synapses == {"0": 40, "2": 16}
    assert found.events["0"] == events_one_by_one(x, model[0].weight)


def test_neurons_that_are_used_twice_have_two_trains():
    neuron = LIF()
    model = nn.Sequential(nn.Linear(3, 4), neuron, nn.Linear(4, 5), neuron)
    found = measure.spikes(OverTime(model), torch.rand(6, 2, 3))
    assert {name: train.shape[2] for name, train in found.trains.items()} == {"1": 4, "1:2": 5}


def test_a_network_that_does_not_fire_is_refused():
    with pytest.raises(CircuitError, match="no neuron fires"):
        measure.spikes(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), torch.rand(4, 3))


def test_random_spikes_of_the_input_leave_the_random_state():
    network = OverTime(nn.Sequential(nn.Linear(5, 3), LIF()), partial(encoders.bernoulli, moments=4))
    x, before = torch.rand(3, 5), torch.get_rng_state()
    measure.spikes(network, x)
    assert torch.equal(torch.get_rng_state(), before)
