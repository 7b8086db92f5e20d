"""NACA against its equations in loops, and against direct random target projection, which it is a case of."""

import copy

import naca_reference
import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from circuits import assert_same, circuit_of, learn, plain
from torch import Tensor, nn

import apical
from apical.errors import CircuitError, ConfigError
from apical.papers import one_class
from apical.rules.neuromodulation.naca import expectation_units, modulation

PATHS = ("0", "2", "4")
OPTIONS = [{}, {"inversion": 0.3, "peak": 1.5}, {"distribution": "normal"}, {"distribution": "beta", "seed": 3}]
LEVELS = "rule.pathway.weights."


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)),
    ).double()


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    return torch.randn((7, 5), generator=generator, dtype=torch.float64), torch.arange(7) % 3


def levels_of(circuit: apical.Circuit) -> dict[str, Tensor]:
    return {k.removeprefix(LEVELS): t.clone() for k, t in circuit.state_dict().items() if k.startswith(LEVELS)}


def built(**options: object) -> apical.Circuit:
    return apical.Circuit(network(), apical.NACA(**options), example=batch()[0])


# The equations


def test_the_expectation_code_of_ten_classes():
    assert expectation_units(10) == [18, 15, 13, 11, 9, 8, 7, 5, 3, 0]


@pytest.mark.parametrize("classes", [2, 3, 10, 26, 100, 230])
def test_every_class_has_units_of_its_own(classes):
    units = expectation_units(classes)
    assert len(set(units)) == classes
    for label, first in enumerate(units):
        assert naca_reference.expectation(label, classes).nonzero()[0].tolist() == [first, first + 1]


@pytest.mark.parametrize(("inversion", "peak"), [(0.5, 1.2), (0.2, 1.2), (0.8, 2.0), (0.5, 1.0)])
def test_the_modulation_curve(inversion, peak):
    levels = torch.linspace(0, 1, 401, dtype=torch.float64)
    expected = [naca_reference.phi(level, inversion, peak) for level in levels.tolist()]
    found = modulation(levels, inversion, peak)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    assert float(found.abs().max()) <= peak + 1e-12


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_update_in_loops(options):
    circuit = built(**options)
    x, y = batch()
    found, levels = plain(learn(circuit, x, y)), levels_of(circuit)
    assert {path: tuple(t.shape) for path, t in levels.items()} == {"0": (6, 6), "2": (6, 4)}
    layers = [circuit.model.get_submodule(path) for path in PATHS]
    weights, biases = ([getattr(layer, part).detach().numpy() for layer in layers] for part in ("weight", "bias"))
    rule = naca_reference.naca(
        [t.numpy() for t in levels.values()], options.get("inversion", 0.5), options.get("peak", 1.2)
    )
    expected = reference.gradients(weights, biases, x.numpy(), y.numpy(), "tanh", rule)
    named = {
        f"{path}.{part}": torch.from_numpy(array)
        for part, arrays in zip(("weight", "bias"), expected, strict=True)
        for path, array in zip(PATHS, arrays, strict=True)
    }
    assert_same(found, named, rtol=1e-10, atol=1e-12)


def test_a_feature_map_has_a_level_at_every_position():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Tanh(), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(6, 4)).double()
    circuit = apical.Circuit(model, "naca")
    x, y = torch.randn(4, 2, 6, dtype=torch.float64), torch.tensor([0, 3, 1, 1])
    found, levels = plain(learn(circuit, x, y)), levels_of(circuit)["0"].numpy()
    assert levels.shape == (8, 6)  # 3 units at 2 positions after pooling, flat as the layer's rate is
    expected = np.zeros((3, 2, 3))
    for sample, label in zip(x.numpy(), y.tolist(), strict=True):
        h = np.tanh(reference.convolved(model[0].weight.detach().numpy(), model[0].bias.detach().numpy(), sample))
        told = naca_reference.told(levels, label, 0.5, 1.2).reshape(3, 2).repeat(2, axis=1) / 2
        expected += reference.kernel_update(told * (1 - h**2), sample, 3) / 4
    assert_same({"0.weight": found["0.weight"]}, {"0.weight": torch.from_numpy(expected)}, rtol=1e-10, atol=1e-12)


# Limits


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_is_direct_random_target_projection_of_minus_the_curve(options):
    circuit = built(**options)
    twin = apical.Circuit(network(), "direct_random_target_projection", example=batch()[0])
    for layer in circuit.layers[:-1]:
        levels = circuit.rule.pathway.weights[layer]
        matrix = np.stack([naca_reference.expectation(label, 3) for label in range(3)])
        level = torch.tensordot(torch.from_numpy(matrix), levels, dims=1)
        curve = modulation(level, circuit.rule.inversion, circuit.rule.peak)
        twin.rule.pathway.weights.hold(layer, -curve)
    assert_same(plain(learn(circuit, *batch())), plain(learn(twin, *batch())), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("constant", [0.0, 0.1, 0.5, 0.9])
def test_with_one_level_everywhere_every_class_pushes_every_unit_alike(constant):
    circuit = built()
    for layer in circuit.layers[:-1]:
        circuit.rule.pathway.weights[layer].fill_(constant)
    x, y = batch()
    signals = {}
    with circuit.observe(lambda layer, seen: signals.update({layer: seen["teaching_signal"]})):
        found = learn(circuit, x, y)
    push = naca_reference.phi(constant, 0.5, 1.2)
    slope = 1 - torch.tanh(circuit.model[0](x)).square()
    expected = (push * slope / 7).T.mm(x)
    torch.testing.assert_close(found["model.0.weight"], expected.detach(), rtol=1e-12, atol=1e-14)
    assert bool(found["model.0.weight"].count_nonzero()) == (constant != 0.5)


def test_the_scale_multiplies_hidden_updates_alone():
    one, half = (plain(learn(built(scale=scale), *batch())) for scale in (1.0, 0.5))
    for name in one:
        torch.testing.assert_close(half[name], one[name] if name.startswith("4") else one[name] / 2)


def test_a_summed_loss_sums_and_a_vanished_error_teaches_nothing():
    x, y = batch()
    summed = apical.Circuit(network(), "naca", reduction="sum")
    summed_up = plain(learn(summed, x, y, lambda output, target: F.cross_entropy(output, target, reduction="sum")))
    mean = plain(learn(built(), x, y))
    assert_same({n: t / 7 for n, t in summed_up.items()}, mean, rtol=1e-12, atol=1e-15)
    silent = built()
    learned = learn(silent, x, y, lambda output, target: 0 * output.sum())
    assert not any(gradient.any() for gradient in learned.values())


# The levels


def test_levels_have_the_distribution_that_is_asked_for():
    found = {}
    for distribution in ("uniform", "normal", "beta"):
        model = nn.Sequential(nn.Linear(3, 4000), nn.Tanh(), nn.Linear(4000, 10))
        circuit = apical.Circuit(model, apical.NACA(distribution=distribution), example=torch.randn(2, 3))
        found[distribution] = levels_of(circuit)["0"]
        assert found[distribution].shape == (20, 4000)
        assert 0 <= float(found[distribution].min()) <= float(found[distribution].max()) <= 1
        assert float(found[distribution].mean()) == pytest.approx(0.5, abs=0.01)
    normal = torch.distributions.Normal(0.5, 1).cdf(torch.tensor([0.0, 0.25]))
    for level, uniform, beta in ((0.0, 0.0, 0.0), (0.25, 0.25, 1 / 3)):
        expected = {"uniform": uniform, "normal": float(normal[int(level > 0)]), "beta": beta}
        for distribution, share in expected.items():
            assert float((found[distribution] <= level).double().mean()) == pytest.approx(share, abs=0.01)


def test_levels_depend_on_the_seed_and_the_name_alone():
    model = network()
    first = levels_of(apical.Circuit(copy.deepcopy(model), "naca", example=batch()[0]))
    model[2].weight.data.mul_(5)
    assert_same(levels_of(apical.Circuit(model, "naca", example=2 * batch()[0][:3])), first)
    assert not torch.equal(levels_of(built(seed=1))["0"], first["0"])


def test_levels_that_are_loaded_teach():
    x, y = batch()
    circuit, other = built(), built(seed=1)
    before = learn(circuit, x, y)
    circuit.load_state_dict(other.state_dict())
    assert_same(learn(circuit, x, y), learn(other, x, y))
    assert not torch.equal(before["model.0.weight"], learn(circuit, x, y)["model.0.weight"])
    for twin in (copy.deepcopy(circuit), copy.deepcopy(circuit).float().double()):
        tolerance = {"rtol": 1e-5, "atol": 1e-7}
        assert_same(learn(twin, x, y), learn(circuit, x, y), **tolerance)


# Refusals


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"distribution": "cauchy"}, "distribution='cauchy'"),
        ({"inversion": 0.0}, "inversion=0.0"),
        ({"peak": 0.9}, "peak=0.9"),
        ({"peak": float("nan")}, "peak=nan"),
        ({"scale": -1.0}, "scale=-1.0"),
    ],
)
def test_wrong_options_are_refused(options, named):
    with pytest.raises(ConfigError, match=named):
        apical.NACA(**options)


def test_classes_that_share_a_code_are_refused():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1000))
    with pytest.raises(CircuitError, match=r"^NACA: .*1000.*DirectRandomTargetProjection"):
        apical.Circuit(model, "naca", example=torch.randn(2, 3))


def test_a_loss_without_a_class_is_refused():
    with pytest.raises(CircuitError, match=r"^NACA: .*negative at 3 outputs"):
        (-built()(batch()[0]).sum()).backward()
    circuit = apical.Circuit(nn.Conv1d(2, 3, 1), "naca")
    with pytest.raises(CircuitError, match=r"^NACA: .*\(4, 3, 5\)"):
        F.cross_entropy(circuit(torch.randn(4, 2, 5)), torch.zeros(4, 5, dtype=torch.long)).backward()


def test_neurons_that_do_not_saturate_are_named():
    with pytest.warns(UserWarning, match=r"^1, 3: NACA"):
        circuit_of("mlp", "naca")


def test_in_spikes_a_signal_reaches_the_last_spike_and_runs_back_through_the_neuron_itself():
    """NACA's update in spikes, beside autograd on V_t = 0.2 V_(t-1) (1 - s_(t-1)) + sigmoid(W x_t), layer by layer."""
    torch.manual_seed(0)
    context, model = one_class.network(6, 12, 3, gate="batch", margin=0.3, units="spikes")
    model.double()
    x = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    y = torch.tensor([0, 1, 2, 0, 1])
    context.read(x)
    circuit = apical.Circuit(model, one_class.SIGNALS["naca"](0), reduction="sum", example=x.expand(20, 5, 6))
    answer = one_class.spikes_of(circuit, context, torch.Generator().manual_seed(3))
    output = answer(x)
    (output - F.one_hot(y, 3)).square().sum().div(2).backward()

    drawn = torch.rand(20, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    spikes = (x > drawn * (x.max() - x.min()) + x.min()).double()
    weights = [copy.deepcopy(model[1]), copy.deepcopy(model[4])]
    opened = context.openness(12, 0.3, 1000.0)

    def fire(synapses, arriving):
        v = s = torch.zeros(5, synapses.out_features, dtype=torch.float64)
        fired = []
        for moment in arriving:
            v = 0.2 * v * (1 - s) + torch.sigmoid(synapses(moment))
            near = ((v - 0.5).abs() < 0.2).double().detach()
            s = (v >= 0.5).double() + near * (v - v.detach())
            fired.append(s)
        return torch.stack(fired)

    hidden = fire(weights[0], spikes)
    last = fire(weights[1], (hidden * opened).detach())
    rate = last.mean(0).detach() * (1 - 1e-6)
    torch.testing.assert_close(output.detach(), rate)
    (levels,) = (each for name, each in circuit.state_dict().items() if name.startswith(LEVELS))
    push = torch.tensor(np.stack([naca_reference.told(levels.numpy(), int(each), 0.5, 1.2) for each in y]))
    (hidden[-1] * push * opened).sum().backward()
    (last[-1] * (rate - F.one_hot(y, 3))).sum().backward()
    assert 0 < hidden.mean() < 1
    for own, expected in zip((model[1], model[4]), weights, strict=True):
        assert expected.weight.grad.any()
        torch.testing.assert_close(own.weight.grad, expected.weight.grad, rtol=1e-10, atol=1e-12)
