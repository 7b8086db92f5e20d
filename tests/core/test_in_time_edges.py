"""Circuits in time where they are easily wrong: constant input, shared weights, replaced methods, bad input."""

import copy
from fractions import Fraction
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import apical
from apical import rules
from apical.errors import CircuitError, ConfigError
from apical.neurons import ALIF, LIF, LeakyReadout, OverTime, SequenceDropout, TemporalNeuron

LABELS = torch.tensor([0, 1, 2, 0])
TAKES_TIME = [name for name in rules.names() if rules.get(name).takes_time]


def sequence(*shape: int, constant: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    if constant:
        return (3 * torch.rand(4, *shape, generator=generator).double()).expand(5, 4, *shape)
    return 3 * torch.rand(5, 4, *shape, generator=generator).double()


def lif(**options) -> LIF:
    return LIF(0.8, 0.5, **options)


def small(**options) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 6), lif(**options), nn.Linear(6, 3), LeakyReadout(0.7)).double()


class Sum(nn.Module):
    """Neurons that a sum of constant drives reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.neuron = nn.Linear(5, 5), nn.Linear(5, 5), lif()
        self.last, self.readout = nn.Linear(5, 3), LeakyReadout(0.7)

    def forward(self, x):
        return self.readout(self.last(self.neuron(self.one(x) + torch.relu(self.two(x)))))


BEFORE = {
    "layer": lambda: nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 7), lif(), nn.Linear(7, 3)),
    "activation": lambda: nn.Sequential(nn.Linear(5, 7), nn.Tanh(), lif(), nn.Linear(7, 3), LeakyReadout(0.7)),
    "readout": lambda: nn.Sequential(nn.Linear(5, 3), LeakyReadout(0.7, average=False)),
    "rates": lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3), LeakyReadout(0.7)),
    "mask": lambda: nn.Sequential(nn.Linear(5, 7), SequenceDropout(0.0), nn.ReLU(), nn.Linear(7, 3)),
    "sum": Sum,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BEFORE)
@pytest.mark.parametrize("rule", [name for name in TAKES_TIME if rules.get(name).learns_from == "error"])
def test_a_constant_input_teaches_rates_that_stay_the_same_at_every_moment(rule, name):
    """Rules that bend signals bend those of each moment, and not their sum."""
    constant, found = sequence(5, constant=True), []
    for x in (constant, constant.contiguous()):
        torch.manual_seed(1)
        circuit = apical.Circuit(BEFORE[name]().double(), rule, example=x)
        y = circuit(x)
        F.cross_entropy(y if y.dim() == 2 else y.mean(0), LABELS).backward()
        found.append([own.grad for own in circuit.parameters() if own.grad is not None])
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-13) for a, b in zip(*found, strict=True))


def tail(early: bool, average: bool, decay: float = 0.7) -> list[nn.Module]:
    """A read-out behind the last synapses, or before them."""
    parts = [nn.Linear(7, 3), LeakyReadout(decay, average=average)]
    return parts[::-1] if early else parts


def means(rule, x: torch.Tensor, make) -> list[list[torch.Tensor]]:
    """Updates where the model averages over time, and where the loss does."""
    found = []
    for average in (True, False):
        torch.manual_seed(1)
        model = make(average).double()
        circuit = apical.Circuit(model, rule() if callable(rule) else rule, example=x)
        y = circuit(x)
        if circuit.rule.learns_from == "error":
            F.cross_entropy(y if average else y.mean(0), LABELS).backward()
        else:
            generator = torch.Generator().manual_seed(0)
            apical.losses.reward_prediction(y if average else y.mean(0), LABELS, generator=generator).backward()
        found.append([own.grad for own in model.parameters()])
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rule", [name for name in TAKES_TIME if name not in ("burstprop", "burst_ccn")])
@pytest.mark.parametrize("constant", [True, False])
def test_signals_at_a_mean_of_spikes_reach_each_moment_by_its_part(rule, constant):
    """A layer that a read-out averages, before its synapses and as the output."""
    for last in (lambda average: tail(True, average), lambda average: [LeakyReadout(0.7, average=average)]):
        inside, outside = means(
            rule, sequence(5, constant=constant), lambda a, last=last: nn.Sequential(nn.Linear(5, 7), lif(), *last(a))
        )
        assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-13) for a, b in zip(inside, outside, strict=True))


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize(("rule", "most"), [("burst_ccn", 1e-9), ("burstprop", 0.02)])
def test_an_averaged_output_saturates_by_its_own_errors(rule, most, early):
    """Of many moments, too: an error of the mean is one error, and not one for each moment."""
    x = sequence(5)[0].expand(60, 4, 5) / 3
    inside, outside = means(rule, x, lambda a: nn.Sequential(nn.Linear(5, 7), lif(), *tail(early, a)))
    assert all(torch.linalg.vector_norm(a - b) <= most * b.norm() for a, b in zip(inside, outside, strict=True))


def test_the_modulator_of_an_averaged_output_is_the_error_of_the_reward():
    torch.manual_seed(1)
    circuit, seen = apical.Circuit(small(), "brainprop"), {}
    y = circuit(sequence(5))
    with circuit.observe(lambda layer, quantities: seen.update(quantities)):
        ((y[:, 0] - 1).square() / 2).mean().backward()
    assert torch.allclose(seen["neuromodulator"].abs().flatten(), (1 - y[:, 0]).abs())


@pytest.mark.parametrize("kind", ["module", "weight", "norm"])
def test_shared_parameters_of_neurons_learn_from_all_their_places_once(kind):
    torch.manual_seed(1)
    model = nn.Sequential(
        *(nn.Linear(5, 6), nn.LayerNorm(6), lif(recurrent=nn.Linear(6, 6, bias=False))),
        *(nn.Linear(6, 6), nn.LayerNorm(6), lif(recurrent=nn.Linear(6, 6, bias=False)), nn.Linear(6, 3)),
    ).double()
    if kind == "module":
        model[5].recurrent = model[2].recurrent
    elif kind == "weight":
        model[5].recurrent.weight = model[2].recurrent.weight
    else:
        model[4].weight, model[4].bias = model[1].weight, model[1].bias
    other = copy.deepcopy(model)
    apical.Circuit(model, "backprop")(sequence(5)).square().sum().backward()
    OverTime(other)(sequence(5)).square().sum().backward()
    for own, expected in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(own.grad, expected.grad, rtol=1e-10)


@pytest.mark.parametrize("kind", [LIF, ALIF])
def test_errors_pass_back_over_recurrent_synapses_in_half_precision(kind):
    torch.manual_seed(1)
    hidden = kind(0.8, 0.5, recurrent=nn.Linear(20, 20, bias=False))
    model = nn.Sequential(nn.Linear(5, 20), hidden, nn.Linear(20, 3), LeakyReadout(0.7))
    other = copy.deepcopy(model)
    for network, own in ((apical.Circuit(model, "backprop"), model), (OverTime(other), other)):
        with torch.autocast("cpu", torch.bfloat16):
            value = F.cross_entropy(network(sequence(5).float()).float(), LABELS)
        value.backward()
        assert all(each.grad.dtype == torch.float32 for each in own.parameters())
    for own, expected in zip(model.parameters(), other.parameters(), strict=True):
        assert F.cosine_similarity(own.grad.flatten(), expected.grad.flatten(), 0) > 0.99


def test_a_method_that_was_replaced_on_a_neuron_is_what_a_circuit_computes():
    model = small()
    usual = model[1].advance

    def doubled(drive, state):
        spikes, state = usual(drive, state)
        return 2 * spikes, state

    model[1].advance = doubled
    x = sequence(5)
    assert torch.allclose(apical.Circuit(model, "backprop")(x), OverTime(model)(x))


def test_numbers_of_other_kinds_are_those_numbers():
    x, found = sequence(5, constant=True), []
    for number in (Fraction, float):
        torch.manual_seed(1)
        hidden = ALIF(number(1) / 2, number(1) / 4, adaptation=number(3) / 4, strength=number(1) / 8)
        model = nn.Sequential(nn.Linear(5, 6), hidden, nn.Linear(6, 3), LeakyReadout(number(1) / 2)).double()
        found.append(apical.Circuit(model, "backprop")(x))
    assert torch.equal(*found)


def test_a_mask_of_a_stream_is_not_used_in_evaluation():
    circuit = apical.Circuit(nn.Sequential(SequenceDropout(0.5), nn.Linear(5, 3)).double(), "backprop")
    circuit.continue_state()
    circuit(sequence(5))
    circuit.eval()
    with torch.no_grad():
        assert torch.allclose(circuit(sequence(5)), circuit.model[1](sequence(5)))


class Named(NamedTuple):
    potential: torch.Tensor


class Leaky(TemporalNeuron):
    """A neuron with a state of a kind."""

    def __init__(self, kind) -> None:
        super().__init__()
        self.kind = kind

    def start(self, drive):
        return self.kind(potential=torch.zeros_like(drive))

    def advance(self, drive, state):
        before = state.potential if isinstance(state, Named) else state["potential"]
        return before, self.kind(potential=0.5 * before + drive)


def in_pieces(model: nn.Module) -> torch.Tensor:
    circuit, x = apical.Circuit(model.double(), "backprop"), sequence(5)
    circuit.continue_state()
    return torch.cat([circuit(x[:2]), circuit(x[2:])])


def test_a_state_of_named_parts_continues():
    model = nn.Sequential(nn.Linear(5, 6), Leaky(Named), nn.Linear(6, 3))
    whole = apical.Circuit(copy.deepcopy(model).double(), "backprop")(sequence(5))
    assert torch.allclose(in_pieces(model), whole, atol=1e-12)


def twice() -> nn.Sequential:
    neuron = lif()
    return nn.Sequential(nn.Linear(5, 6), neuron, nn.Linear(6, 6), neuron)


def kept_along_time() -> None:
    apical.continual.DER(size=8).attach(apical.Circuit(small(), "backprop"), F.cross_entropy)


class Reads(nn.Module):
    """Neurons whose model takes the last of all rows, or their mean."""

    def __init__(self, how) -> None:
        super().__init__()
        self.synapses, self.neuron, self.how = nn.Linear(5, 3), LIF(), how

    def forward(self, x):
        return self.how(self.neuron(self.synapses(x)))


def averaged_later() -> None:
    model = small()
    circuit = apical.Circuit(model, "backprop")
    model[3].average = False
    assert OverTime(model)(sequence(5)).shape == (5, 4, 3)
    circuit(sequence(5))


@pytest.mark.parametrize(
    ("make", "error", "fact"),
    [
        (lambda: apical.Circuit(OverTime(nn.Linear(5, 3)), "backprop"), CircuitError, "no neuron of its Linear"),
        (lambda: apical.Circuit(OverTime(OverTime(small())), "backprop"), CircuitError, "the model: an OverTime"),
        (lambda: apical.Circuit(nn.Sequential(OverTime(small())), "backprop"), CircuitError, "0: an OverTime"),
        (lambda: OverTime(small())(torch.rand(5).double()), CircuitError, "time, batch"),
        (lambda: OverTime(small())(torch.rand(0, 4, 5).double()), CircuitError, "at least one moment"),
        (lambda: OverTime(Reads(lambda y: y[-1]).double())(sequence(5)), CircuitError, "first axis"),
        (lambda: apical.Circuit(Reads(lambda y: y.mean(0)).double(), "backprop")(sequence(5)), CircuitError, "axis"),
        (averaged_later, CircuitError, "average="),
        (lambda: in_pieces(twice()), CircuitError, "used twice"),
        (lambda: in_pieces(nn.Sequential(nn.Linear(5, 6), Leaky(dict))), CircuitError, "not a dict"),
        (kept_along_time, ConfigError, "first axis"),
        (lambda: SequenceDropout("half"), ConfigError, "p is a str"),
        (lambda: SequenceDropout(torch.tensor(0.5)), ConfigError, "p is a Tensor"),
    ],
)
def test_what_cannot_be_right_is_refused(make, error, fact):
    with pytest.raises(error, match=fact):
        make()


def test_forward_passes_of_recurrent_neurons_may_come_before_a_backward_pass():
    """Their clock is an attribute that changes with each pass, which is no change of the network."""
    x = sequence(5)
    model = small(recurrent=nn.Linear(6, 6, bias=False))
    found = []
    for others in (0, 1):
        circuit = apical.Circuit(copy.deepcopy(model), "backprop")
        y = circuit(x)
        for _ in range(others):
            circuit(x[:, :2])
        F.cross_entropy(y, LABELS).backward()
        found.append([own.grad for own in circuit.parameters()])
    torch.testing.assert_close(*found, rtol=0, atol=0)
