"""Counter-current inhibition against its equations, its limits, and the trap of its bound."""

from __future__ import annotations

import math

import pytest
import torch
from circuits import NETWORKS, learn, plain
from inhibition_reference import Area, updates
from torch import nn

import apical
from apical.errors import ConfigError
from apical.layers import KWinners

UNITS = 9


def model_of(*kinds: str) -> nn.Sequential:
    """Areas with these neurons, each with a norm before its competition if it has one, and a read-out."""
    torch.manual_seed(0)
    modules: list[nn.Module] = []
    for kind in kinds:
        modules.append(nn.Linear(UNITS, UNITS))
        if kind == "k_winners":
            modules += [nn.BatchNorm1d(UNITS, affine=False), KWinners(0.4)]
        else:
            modules.append(nn.ReLU() if kind == "relu" else nn.Tanh())
    return nn.Sequential(*modules, nn.Linear(UNITS, UNITS)).double()


def reference(circuit: apical.Circuit, kinds: tuple[str, ...], x, gain: float, tonic: float):
    rule = circuit.rule
    linears = [module for module in circuit.model if isinstance(module, nn.Linear)]
    above = circuit.layers[1:]
    feedback = [rule.pathway.weight(layer).detach().numpy() for layer in above]
    areas = [
        Area(
            linear.weight.detach().numpy(), linear.bias.detach().numpy(), kind, kind == "k_winners",
            0.4 if kind == "k_winners" else 1.0,
        )
        for linear, kind in zip(linears[:-1], kinds, strict=True)
    ]  # fmt: skip
    readout = (linears[-1].weight.detach().numpy(), linears[-1].bias.detach().numpy())
    return linears, updates(areas, readout, feedback, x.numpy(), gain, tonic)


@pytest.mark.parametrize("feedback", ["tied", "fixed", "sign_symmetric", "kolen_pollack"])
@pytest.mark.parametrize("kinds", [("relu", "tanh"), ("k_winners", "k_winners"), ("tanh", "k_winners", "relu")])
@pytest.mark.parametrize(("gain", "tonic"), [(0.1, 1.0), (2.0, 0.05), (0.7, math.inf)])
def test_equations(feedback, kinds, gain, tonic):
    rule = apical.CountercurrentInhibition(feedback=feedback, gain=gain, tonic=tonic)
    circuit = apical.Circuit(model_of(*kinds), rule)
    x = 2 * torch.rand(7, UNITS).double()
    circuit.learn(x)
    finite = 1e9 if tonic == math.inf else tonic
    linears, expected = reference(circuit, kinds, x, gain, finite)
    for linear, (weight, bias) in zip(linears, expected, strict=True):
        torch.testing.assert_close(linear.weight.grad, torch.tensor(weight), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(linear.bias.grad, torch.tensor(bias), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("gain", [0.0, 1e-6])
@pytest.mark.parametrize(("feedback", "limit"), [("tied", "backprop"), ("fixed", "feedback_alignment")])
def test_without_bounds_it_is_the_pathways_own_rule_exactly(name, gain, feedback, limit):
    x, y = NETWORKS[name].batch()
    rule = apical.CountercurrentInhibition(feedback=feedback, gain=gain, tonic=math.inf)
    found = [learn(apical.Circuit(NETWORKS[name].build().double(), each), x.double(), y) for each in (rule, limit)]
    for (key, own), other in zip(plain(found[0]).items(), plain(found[1]).values(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-10, msg=key)


def test_where_input_and_output_agree_nothing_is_learned():
    circuit = apical.Circuit(model_of("relu"), apical.CountercurrentInhibition())
    x = torch.rand(5, UNITS).double()
    y = circuit(x)
    y.backward(torch.zeros_like(y))
    assert all(not parameter.grad.any() for parameter in circuit.parameters())


@pytest.mark.parametrize("kind", ["relu", "tanh", "k_winners"])
def test_no_rate_is_negative_and_silent_cells_stay(kind):
    circuit = apical.Circuit(model_of(kind, kind), apical.CountercurrentInhibition(gain=5.0, tonic=0.3))
    seen = []
    with circuit.observe(lambda layer, quantities: seen.append(quantities)):
        circuit.learn(torch.rand(6, UNITS).double())
    hidden = [quantities for quantities in seen if "inhibition" in quantities]
    assert len(hidden) == 2
    assert all(float(quantities["inhibited_rate"].min()) >= 0 for quantities in hidden)
    assert all(float(quantities["inhibition"].min()) >= -0.3 for quantities in hidden)


def test_the_loss_of_one_sample_sets_the_scale():
    """A batch of copies learns what one sample learns, under a mean and under a sum."""
    x = torch.rand(1, UNITS).double()
    found = []
    for copies, reduction in ((1, "mean"), (4, "mean"), (1, "sum")):
        circuit = apical.Circuit(
            model_of("relu", "tanh"), apical.CountercurrentInhibition(gain=1.0, tonic=0.1), reduction=reduction
        )
        circuit.learn(x.expand(copies, UNITS))
        found.append([parameter.grad for parameter in circuit.parameters()])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_silent_cells_hear_the_norms_derivative_and_may_be_inhibited():
    """The trap: a bound behind the derivative of the norm lets silent cells gain and never lose."""
    circuit = apical.Circuit(model_of("k_winners"), apical.CountercurrentInhibition(gain=0.1, tonic=1.0))
    x = torch.rand(64, UNITS).double()
    seen = {}
    with circuit.observe(lambda layer, quantities: seen.setdefault(layer, {}).update(quantities)):
        circuit.learn(x)
    rate, signal = circuit.model[:3](x), seen["0"]["teaching_signal"]
    assert float(signal[rate == 0].max()) > 0
    assert float(signal.mean(0).abs().max()) < 1e-12  # the derivative of a norm has no mean over the batch


@pytest.mark.parametrize("options", [{"gain": -1.0}, {"gain": 1e-9}, {"gain": math.inf}, {"tonic": 0.0}, {"scale": 0.0},
                                     {"tonic": math.nan}, {"gain": math.nan}, {"feedback": "direct"}])  # fmt: skip
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match="CountercurrentInhibition"):
        apical.CountercurrentInhibition(**options)
