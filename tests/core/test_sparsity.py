"""Sparse rates: winners and costs of firing, in closed form against autograd, and what rules may meet them."""

from __future__ import annotations

import pytest
import torch
from circuits import rows
from torch import nn

import apical
from apical.errors import CircuitError, ConfigError
from apical.layers import FiringCost, KWinners, LocalGraph, closed_form_of


@pytest.mark.parametrize(
    "module", [KWinners(0.3), KWinners(0.3, dim=1), KWinners(1.0), KWinners(0.01), FiringCost(0.2)]
)
@pytest.mark.parametrize("shape", [(6, 10), (3, 4, 5), (2, 6, 4, 3)])
def test_the_closed_form_is_the_modules_derivative(module, shape):
    x = torch.randn(shape, dtype=torch.float64)
    error = torch.randn(shape, dtype=torch.float64)
    own = x.clone().requires_grad_()
    module(own).backward(error)
    step = closed_form_of(module)
    y, saved = step.forward(x)
    assert torch.equal(y, module(x))
    assert torch.equal(step.derivative(error, *saved), own.grad)
    graph = LocalGraph(module)
    assert torch.equal(graph.derivative(error, *graph.forward(x)[1]), own.grad)


def test_as_many_fire_as_the_share_says_and_the_most_excited():
    x = torch.randn(50, 40)
    y = KWinners(0.1)(x)
    assert (y > 0).sum(1).tolist() == [4] * 50
    assert torch.equal(y.sort(1).values[:, -4:], x.sort(1).values[:, -4:])
    assert not KWinners(0.5)(-x.abs()).any()  # without excitation no unit fires
    assert KWinners(0.25)(torch.ones(1, 8)).sum() == 8  # a tie


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, float("nan")])
def test_a_share_outside_its_range_is_refused(share):
    with pytest.raises(ConfigError, match="share"):
        KWinners(share)


@pytest.mark.parametrize("strength", [0.0, -1.0, float("inf")])
def test_a_cost_outside_its_range_is_refused(strength):
    with pytest.raises(ConfigError, match="strength"):
        FiringCost(strength)


def costly() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), FiringCost(0.3), nn.Linear(8, 5)).double()


def test_a_cost_is_the_gradient_of_an_l1_term():
    x = torch.rand(7, 5).double()
    circuit, plain = apical.Circuit(costly(), "backprop"), costly()
    circuit.learn(x)
    rate = plain[1](plain[0](x))
    loss = 0.5 * (plain[3](rate) - x).square().sum() / 7 + 0.3 * rate.abs().sum() / 7
    loss.backward()
    for own, other in zip(circuit.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("row", rows(), ids=str)
def test_a_rule_pays_the_cost_or_refuses_it(row):
    try:
        circuit = apical.Circuit(costly(), row.make())
    except CircuitError as error:
        assert str(error).startswith("0: ")  # noqa: PT017
        assert "FiringCost" in str(error)  # noqa: PT017
        return
    if circuit.rule.learns_from != "error" or row.name in ("direct_random_target_projection", "naca"):
        return
    x, found = torch.rand(7, 5).double(), []
    for model in (circuit.model, nn.Sequential(*costly()[:2], costly()[3])):
        each = apical.Circuit(model, row.make())
        torch.manual_seed(0)
        each.learn(x)
        found.append(model[0].weight.grad)
    assert (found[0] - found[1]).abs().max() > 1e-3
