"""Two-compartment neurons against their equations solved one neuron at a time, and what physics asks of them."""

import copy
import math

import pytest
import torch
from neuron_reference import adaptive_exponential, stochastic_burst, two_compartment

from apical.errors import ConfigError, DataError, NonFiniteError
from apical.neurons import (
    AdaptiveExponentialNeuron,
    Dendrite,
    Soma,
    StochasticBurstNeuron,
    TwoCompartmentNeuron,
    events_and_bursts,
    messages,
)

BOTH = [TwoCompartmentNeuron, StochasticBurstNeuron]


def noisy(*shape: int, mean: float, spread: float, seed: int = 0) -> torch.Tensor:
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return mean + spread * noise


def test_the_full_neuron_is_that_of_the_equations():
    soma, dendrite = noisy(2500, 3, mean=450, spread=600), noisy(2500, 3, mean=250, spread=400, seed=1)
    run = TwoCompartmentNeuron()(soma, dendrite, record=("soma", "dendrite", "threshold"))
    bursts = events_and_bursts(run.spikes, step=0.1).bursts
    assert bursts.any(0).all()  # the regenerative currents took part
    for unit in range(3):
        spikes, potentials = two_compartment(soma[:, unit].tolist(), dendrite[:, unit].tolist())
        assert run.spikes[:, unit].tolist() == spikes
        for name, trace in run.traces.items():
            expected = torch.tensor([step[name] for step in potentials], dtype=torch.float64)
            assert torch.allclose(trace[:, unit], expected, rtol=1e-10), name


def test_the_stochastic_neuron_is_that_of_the_equations():
    soma, dendrite = noisy(2500, 4, mean=700, spread=600), noisy(2500, 4, mean=500, spread=400, seed=1)
    generator = torch.Generator().manual_seed(5)
    run = StochasticBurstNeuron(seed=5)(soma, dendrite, record=("soma",))
    spikes, potentials = stochastic_burst(
        soma.tolist(), dendrite.tolist(), lambda n: torch.rand((2, n), generator=generator, dtype=torch.float64)
    )
    assert run.spikes.tolist() == spikes
    assert torch.allclose(run.traces["soma"], torch.tensor(potentials, dtype=torch.float64), rtol=1e-10)
    events, bursts = events_and_bursts(run.spikes, step=0.1)
    assert events.sum() > bursts.sum() > 5


@pytest.mark.parametrize(
    ("kind", "constants", "mean"),
    [
        ("pv", {"g_L": 10, "tau": 10, "V_T": -48, "D": 2, "a": 0, "b": 0, "tau_w": 100, "reset": -55}, 210),
        ("som", {"g_L": 5, "tau": 20, "D": 4, "a": 0.5, "b": 10, "tau_w": 500, "reset": -65}, 90),
    ],
)
def test_interneurons_are_those_of_the_equations(kind, constants, mean):
    if kind == "som":
        constants["V_T"] = -70 + 4 - 4 * math.log(1.1) + 25 / 5.5
    current = noisy(5000, 2, mean=mean, spread=100)
    spikes = getattr(AdaptiveExponentialNeuron, kind)()(current).spikes
    for unit in range(2):
        refractory = 10 if kind == "pv" else 20
        expected = adaptive_exponential(current[:, unit].tolist(), refractory=refractory, **constants)
        assert spikes[:, unit].tolist() == expected
        assert sum(expected) > 5


def test_pv_cells_begin_to_fire_at_their_rheobase():
    currents = torch.tensor([195.0, 199.0, 201.0, 205.0], dtype=torch.float64).expand(30_000, 4)
    fired = AdaptiveExponentialNeuron.pv()(currents).spikes.any(0)
    assert fired.tolist() == [False, False, True, True]


@pytest.mark.parametrize("kind", BOTH)
def test_below_threshold_the_step_is_exact_at_any_length(kind):
    """One step of 2 ms equals twenty of 0.1 ms, where f adds nothing: the equations are linear there."""
    options = {} if kind is StochasticBurstNeuron else {"soma_coupling": 0.0, "dendrite_coupling": 0.0}
    soma, dendrite = torch.tensor([[150.0]], dtype=torch.float64), torch.tensor([[80.0]], dtype=torch.float64)
    fine = kind(**options)(soma.expand(200, 1), dendrite.expand(200, 1)).state
    coarse = kind(time_step=2.0, **options)(soma.expand(10, 1), dendrite.expand(10, 1)).state
    assert torch.allclose(fine.variables, coarse.variables, rtol=1e-12)
    assert (fine.soma > -70).all()


@pytest.mark.parametrize("kind", BOTH)
def test_the_steady_state_below_threshold_is_ohms(kind):
    run = kind()(torch.full((20_000, 1), 200.0).double(), torch.full((20_000, 1), -100.0).double())
    assert not run.spikes.any()
    dendrite = -70 - 100 / (170 / 7 + 13)  # leak and adaptation in parallel; f has all but shut down
    assert run.state.dendrite.item() == pytest.approx(dendrite, abs=0.3)
    assert run.state.soma.item() == pytest.approx(-70 + 200 / (370 / 16), abs=0.3)


@pytest.mark.parametrize("kind", BOTH)
def test_a_neuron_at_rest_stays_there(kind):
    run = kind()(torch.zeros(2000, 2), torch.zeros(2000, 2))
    assert not run.spikes.any()
    assert (run.state.soma - -70).abs().max() < 1


def test_the_dendrite_turns_spikes_into_bursts():
    soma = noisy(20_000, 50, mean=450, spread=800)
    without, with_current = (
        messages(TwoCompartmentNeuron()(soma, torch.full_like(soma, current)).spikes, width=2000, step=0.1)
        for current in (-300.0, 300.0)
    )
    assert without.burst_probability.item() < 0.05
    assert with_current.burst_probability.item() > 0.5


def test_the_spike_travels_back_for_two_milliseconds():
    neuron = TwoCompartmentNeuron(dendrite_coupling=0.0)
    soma = torch.zeros(300, 1, dtype=torch.float64)
    soma[:100] = 2000.0
    run = neuron(soma, torch.zeros_like(soma), record=("dendrite",))
    last = int(run.spikes.nonzero()[-1, 0])
    dendrite = run.traces["dendrite"][:, 0]
    assert (dendrite[last + 1 : last + 21].diff() > 0).all()  # 20 steps of current
    assert (dendrite[last + 21 : last + 60].diff() < 0).all()


def test_events_of_the_stochastic_neuron_know_nothing_of_the_dendrite_and_bursts_follow_it():
    # 100 ms from event to event, so that a second spike's refractory time is over by the next
    neuron = StochasticBurstNeuron(soma=Soma(adaptation_current=1000.0))
    soma = torch.full((20_000, 300), 700.0)
    shares = []
    for current in (0.0, 300.0, 600.0):
        run = neuron(soma, torch.full_like(soma, current), record=())
        events, bursts = events_and_bursts(run.spikes, step=0.1)
        if current == 0:
            alone = events
        assert torch.equal(events, alone)
        settled = events[5000:]
        shares.append((bursts[5000:].sum() / settled.sum()).item())
        expected = neuron.burst_probability(run.state.dendrite[0]).item()
        error = math.sqrt(expected * (1 - expected) / settled.sum().item())
        assert shares[-1] == pytest.approx(expected, abs=4 * error + 0.01)
        assert 0 <= expected <= 1
    assert shares == sorted(shares)


def test_second_spikes_come_after_5_to_15_ms_and_alone():
    run = StochasticBurstNeuron()(torch.full((20_000, 200), 700.0), torch.full((20_000, 200), 600.0))
    spikes = [column.nonzero().flatten() for column in run.spikes.unbind(1)]
    gaps = torch.cat([steps.diff() for steps in spikes]) * 0.1
    within = gaps[gaps < 16]
    assert 5 <= within.min() < 5.5
    assert 14.5 < within.max() <= 15.01
    assert within.mean().item() == pytest.approx(10, abs=0.2)
    assert gaps[gaps >= 16].min() >= 20
    events, bursts = events_and_bursts(run.spikes, step=0.1)
    assert torch.equal(events | bursts, run.spikes)  # never a third


@pytest.mark.parametrize("kind", BOTH)
def test_a_run_in_parts_is_the_whole_run(kind):
    soma, dendrite = noisy(1500, 2, 3, mean=700, spread=500), noisy(1500, 2, 3, mean=300, spread=300, seed=1)
    whole = kind()(soma, dendrite)
    neuron = kind()
    first = neuron(soma[:700], dendrite[:700])
    kept = first.state.variables.clone()
    second = neuron(soma[700:], dendrite[700:], state=first.state)
    assert torch.equal(first.state.variables, kept)  # the run starts from a copy
    assert torch.equal(torch.cat([first.spikes, second.spikes]), whole.spikes)
    assert torch.equal(second.state.variables, whole.state.variables)
    assert whole.spikes.any()


@pytest.mark.parametrize("kind", [*BOTH, AdaptiveExponentialNeuron.pv])
def test_steps_one_by_one_are_the_run(kind):
    neuron = kind()
    currents = [noisy(800, 3, mean=700, spread=500, seed=k) for k in range(len(neuron.currents))]
    whole = kind()(*currents)
    state = neuron.start(3, dtype=torch.float64)
    step = neuron.stepper(state)
    spikes = [step(*(current[t] for current in currents)).clone() for t in range(799)]
    spikes.append(neuron.step(state, *(current[799] for current in currents)))
    assert torch.equal(torch.stack(spikes), whole.spikes)
    assert torch.equal(state[0], whole.state[0])


def test_populations_in_a_batch_are_those_alone():
    soma, dendrite = noisy(1000, 2, 3, mean=700, spread=500), noisy(1000, 2, 3, mean=300, spread=300, seed=1)
    both = TwoCompartmentNeuron()(soma, dendrite).spikes
    for sample in range(2):
        alone = TwoCompartmentNeuron()(soma[:, sample], dendrite[:, sample]).spikes
        assert torch.equal(both[:, sample], alone)


def test_a_current_may_be_one_for_all():
    soma = torch.full((500, 1), 700.0)
    run = TwoCompartmentNeuron()(soma, torch.zeros(500, 4))
    assert run.spikes.shape == (500, 4)
    assert run.spikes.dtype == torch.bool


@pytest.mark.parametrize("kind", [*BOTH, AdaptiveExponentialNeuron.pv])
def test_currents_may_add_up_to_more_than_their_type_holds(kind):
    neuron = kind()
    currents = [torch.full((300, 2), 300.0, dtype=torch.float16)] * len(neuron.currents)
    assert bool(neuron(*currents, record=["soma"]).traces["soma"].isfinite().all())


def test_the_seed_decides_on_bursts_and_is_saved():
    soma, dendrite = torch.full((1500, 20), 700.0), torch.full((1500, 20), 300.0)
    first, same, other = StochasticBurstNeuron(seed=1), StochasticBurstNeuron(seed=1), StochasticBurstNeuron(seed=2)
    spikes = first(soma, dendrite).spikes
    assert torch.equal(spikes, same(soma, dendrite).spikes)
    assert not torch.equal(spikes, other(soma, dendrite).spikes)
    copied = copy.deepcopy(first)
    other.load_state_dict(first.state_dict())
    later = first(soma, dendrite).spikes
    assert not torch.equal(later, spikes)
    assert torch.equal(other(soma, dendrite).spikes, later)
    assert torch.equal(copied(soma, dendrite).spikes, later)


def test_two_signals_travel_in_one_spike_train():
    """Events follow the soma and burst probability the dendrite, with little of either in the other."""
    step, time = 0.5, torch.arange(8000) * 0.5
    into_soma = 600 + 150 * torch.sin(2 * math.pi * time / 500)
    into_dendrite = 250 + 250 * torch.sin(2 * math.pi * time / (500 * math.sqrt(5)))
    neuron = StochasticBurstNeuron(time_step=step)
    noise = 300 * torch.randn(8000, 800, generator=torch.Generator().manual_seed(0))
    spikes = neuron(into_soma[:, None] + noise, into_dendrite[:, None]).spikes
    said = messages(spikes, step=step)
    rates, shares = said.event_rate[10:], said.burst_probability[10:]
    soma, dendrite = (signal.view(80, 100).mean(1)[10:].double() for signal in (into_soma, into_dendrite))

    def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
        return torch.corrcoef(torch.stack([a, b]))[0, 1].item()

    assert correlation(rates, soma) > 0.75  # adaptation puts the rate ahead of the current
    assert correlation(shares, dendrite) > 0.85
    assert abs(correlation(rates, dendrite)) < 0.2
    assert abs(correlation(shares, soma)) < 0.2


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: Soma(capacitance=0), ConfigError, "capacitance"),
        (lambda: Soma(threshold=-80), ConfigError, "above rest"),
        (lambda: Soma(threshold_jump=-1), ConfigError, "threshold_jump"),
        (lambda: Dendrite(slope=-1), ConfigError, "slope"),
        (lambda: Dendrite(adaptation_conductance=-1), ConfigError, "adaptation_conductance"),
        (lambda: TwoCompartmentNeuron(time_step=0), ConfigError, "time_step"),
        (lambda: TwoCompartmentNeuron(soma_coupling=-1), ConfigError, "soma_coupling"),
        (lambda: StochasticBurstNeuron(second_spike=(5, 25)), ConfigError, "refractory"),
        (lambda: StochasticBurstNeuron(second_spike=(15, 5)), ConfigError, "shortest, longest"),
        (lambda: AdaptiveExponentialNeuron.pv(time_step=-1), ConfigError, "time_step"),
        (lambda: TwoCompartmentNeuron().start(3, dtype=torch.int64), ConfigError, "floating-point"),
        (lambda: TwoCompartmentNeuron()(torch.zeros(5, 2)), DataError, "takes 2 currents"),
        (lambda: TwoCompartmentNeuron()(torch.zeros(5, 2), torch.zeros(5, 3)), DataError, "do not fit each other"),
        (lambda: TwoCompartmentNeuron()(torch.zeros(5), torch.zeros(5)), DataError, "time, ..., units"),
        (lambda: TwoCompartmentNeuron()(torch.zeros(5, 1).int(), torch.zeros(5, 1)), DataError, "floating-point"),
        (
            lambda: TwoCompartmentNeuron()(torch.zeros(5, 1), torch.full((5, 1), math.nan)),
            NonFiniteError,
            "into the dendrite holds NaN",
        ),
        (lambda: TwoCompartmentNeuron()(*[torch.zeros(5, 1)] * 2, record=["apical"]), ConfigError, "'apical'"),
        (lambda: on_three(state=TwoCompartmentNeuron().start(2)), DataError, "state is of neurons"),
        (
            lambda: TwoCompartmentNeuron().step(TwoCompartmentNeuron().start(2), *[torch.zeros(3)] * 2),
            DataError,
            "soma",
        ),
    ],
)
def test_refusals_say_what_is_wrong(call, error, words):
    with pytest.raises(error, match=words):
        call()


def on_three(**options):
    return TwoCompartmentNeuron()(torch.zeros(5, 3), torch.zeros(5, 3), **options)
