"""Short-term plasticity, conductances and projections against plain loops and closed forms."""

import math

import pytest
import torch
from neuron_reference import short_term

from apical.errors import ConfigError, DataError
from apical.neurons import ConductanceSynapses, Projection, ShortTermPlasticity

KINDS = {
    "depressing": {"U": 0.9, "f": 0.1, "tau_D": 20.0, "tau_F": 1000.0},
    "facilitating": {"U": 0.02, "f": 0.1, "tau_D": 100.0, "tau_F": 100.0},
}


@pytest.mark.parametrize("kind", KINDS)
def test_efficacies_are_those_of_the_equations(kind):
    spikes = torch.rand(1500, 2, 3, generator=torch.Generator().manual_seed(0)) < 0.05
    synapses = getattr(ShortTermPlasticity, kind)(time_step=0.5)
    efficacies, _ = synapses(spikes, synapses.start(2, 3, dtype=torch.float64))
    for sample in range(2):
        for unit in range(3):
            expected = short_term(spikes[:, sample, unit].tolist(), dt=0.5, **KINDS[kind])
            assert efficacies[:, sample, unit].tolist() == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_in_parts_is_the_whole_run(kind):
    spikes = torch.rand(300, 4, generator=torch.Generator().manual_seed(0)) < 0.05
    synapses = getattr(ShortTermPlasticity, kind)()
    whole, _ = synapses(spikes)
    first, state = synapses(spikes[:100])
    again, _ = synapses(spikes[100:], state)
    second, _ = synapses(spikes[100:], state)  # the run starts from a copy
    assert torch.equal(torch.cat([first, second]), whole)
    assert torch.equal(again, second)


def test_depression_transmits_events_and_facilitation_bursts():
    burst = torch.zeros(300, 1, dtype=torch.bool)
    burst[[0, 100]] = True  # two spikes within 10 ms
    depressing, _ = ShortTermPlasticity.depressing()(burst)
    facilitating, _ = ShortTermPlasticity.facilitating()(burst)
    assert depressing[100] < 0.55 * depressing[0]
    assert facilitating[100] > 4 * facilitating[0]
    everything = torch.cat([depressing, facilitating])
    assert everything.min() >= 0
    assert everything.max() <= 1


def test_conductances_pull_towards_their_reversal_potentials():
    synapses = ConductanceSynapses(20.0, time_step=0.1)
    state = synapses.start(2, dtype=torch.float64)
    state.excitatory.add_(torch.tensor([0.5, 0.0]))
    state.inhibitory.add_(torch.tensor([0.0, 0.3], dtype=torch.float64))
    voltage = torch.tensor([-70.0, -60.0], dtype=torch.float64)
    assert synapses.step(state, voltage).tolist() == pytest.approx([20 * 0.5 * 70, -20 * 0.3 * 20])
    for _ in range(99):
        synapses.step(state, voltage)
    assert state.excitatory[0].item() == pytest.approx(0.5 * math.exp(-10 / 5))
    assert state.inhibitory[1].item() == pytest.approx(0.3 * math.exp(-10 / 10))


def test_a_projection_is_a_matrix_product():
    generator = torch.Generator().manual_seed(0)
    projection = Projection(30, 20, probability=0.3, weight=0.7, generator=generator)
    assert projection.weights.unique().tolist() == pytest.approx([0.0, 0.7])
    assert (projection.weights > 0).float().mean().item() == pytest.approx(0.3, abs=0.07)
    spikes = torch.rand(2, 5, 30, generator=generator) < 0.2
    efficacy = torch.rand(2, 5, 30, generator=generator)
    into = torch.rand(2, 5, 20, generator=generator)
    expected = into + (efficacy * spikes) @ projection.weights
    projection(spikes, into, efficacy)
    assert torch.allclose(into, expected, rtol=1e-5)
    expected = into + spikes.float() @ projection.weights
    projection(spikes, into)
    assert torch.allclose(into, expected, rtol=1e-5)
    before = into.clone()
    projection(torch.zeros_like(spikes), into)
    assert torch.equal(into, before)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: short(baseline=1.5), ConfigError, "baseline"),
        (lambda: short(increment=-0.1), ConfigError, "increment"),
        (lambda: short(depression_time=0.0), ConfigError, "depression_time"),
        (lambda: short()(torch.zeros(5, 2)), DataError, "boolean"),
        (lambda: short()(torch.zeros(5, 2).bool(), short().start(3)), DataError, "state"),
        (lambda: ConductanceSynapses(0.0), ConfigError, "leak_conductance"),
        (lambda: projection(probability=2.0), ConfigError, "probability"),
        (lambda: projection(weight=-1.0), ConfigError, "another conductance"),
        (lambda: projection()(torch.zeros(4).bool(), torch.zeros(2)), DataError, "from 3 to 2"),
    ],
)
def test_refusals_give_the_reason(call, error, words):
    with pytest.raises(error, match=words):
        call()


def short(**options):
    constants = {"baseline": 0.5, "increment": 0.1, "depression_time": 20.0, "facilitation_time": 20.0}
    return ShortTermPlasticity(**constants | options)


def projection(**options):
    settings = {"probability": 0.5, "weight": 1.0, "generator": torch.Generator()}
    return Projection(3, 2, **settings | options)
