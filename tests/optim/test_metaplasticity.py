"""Metaplasticity of binarised networks and synaptic uncertainty: the papers' equations, in plain PyTorch."""

import copy
import math

import pytest
import torch
from test_consolidation import EXACT, Learner, loss_on, network, tasks
from torch import nn
from torch.nn import functional as F

import apical
from apical.errors import ConfigError
from apical.optim.consolidation import MESU, Metaplasticity, Protection

OPTIMIZERS = {
    "adam": lambda own: torch.optim.Adam(own, lr=0.05),
    "sgd": lambda own: torch.optim.SGD(own, lr=0.3, momentum=0.5),
}


def toward_zero(before: torch.Tensor, after: torch.Tensor, m: float) -> torch.Tensor:
    """The paper's step, weight by weight."""
    found = before.clone().flatten()
    for place, (w, new) in enumerate(zip(before.flatten().tolist(), after.flatten().tolist(), strict=True)):
        step = new - w
        found[place] = w + step * (1 - math.tanh(m * abs(w)) ** 2 if w * step < 0 else 1)
    return found.view_as(before)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("binary", [True, False])
def test_steps_towards_zero_shrink_as_in_the_paper(optimizer, binary):
    hidden = network()
    learner = Learner(copy.deepcopy(hidden), Metaplasticity(0.9, binary=binary))
    learner.optimizer = OPTIMIZERS[optimizer](learner.circuit.parameters())
    learner.learn_all()
    plain = OPTIMIZERS[optimizer](hidden.parameters())
    for outputs, examples in tasks():
        for _ in range(4):
            weights = [layer.weight.detach() for layer in (hidden[0], hidden[2])]
            used = [(torch.where(w >= 0, 1.0, -1.0).double() if binary else w).requires_grad_() for w in weights]
            rate = torch.tanh(F.linear(examples.x, used[0], hidden[0].bias))
            plain.zero_grad()
            loss_on(outputs)(F.linear(rate, used[1], hidden[2].bias), examples.y).backward()
            before = [w.clone() for w in weights]
            for layer, w in zip((hidden[0], hidden[2]), used, strict=True):
                layer.weight.grad = w.grad
            plain.step()
            with torch.no_grad():
                for layer, w in zip((hidden[0], hidden[2]), before, strict=True):
                    layer.weight.copy_(toward_zero(w, layer.weight, 0.9))
    found = learner.weights()
    for place in ("0", "2"):
        name = f"{place}.parametrizations.weight.original" if binary else f"{place}.weight"
        torch.testing.assert_close(found[name], hidden[int(place)].weight.detach(), **EXACT)
        torch.testing.assert_close(found[f"{place}.bias"], hidden[int(place)].bias.detach(), **EXACT)


def test_without_metaplasticity_no_bit_moves():
    found = Learner(network(), Metaplasticity(0.0, binary=False)).learn_all()
    plain = Learner(network(), Protection()).learn_all()
    assert all(torch.equal(found[name], plain[name]) for name in plain)


@pytest.mark.parametrize("rule", ["feedback_alignment", "kolen_pollack", "burst_ccn", "predictive_coding"])
@pytest.mark.parametrize("make", [Metaplasticity, MESU])
def test_every_rule_learns_with_weights_that_are_computed(make, rule):
    model = network()
    before = copy.deepcopy(model.state_dict())
    learner = Learner(model, make(), rule, lr=0.02)
    start = learner.weights()
    after = learner.learn_all()
    assert all(torch.equal(model.state_dict()[name], own) for name, own in before.items())  # `prepare` copies
    assert all(not torch.equal(after[name], start[name]) for name in start)


def test_the_means_and_deviations_are_those_of_the_papers_equations():
    prior, memory, draws = 0.3, 50.0, 2
    learner = Learner(network(), MESU(prior=prior, memory=memory, draws=draws, smallest=1e-6))
    torch.manual_seed(5)
    learner.learn_all()
    model = network()
    mu = [own.detach().clone() for layer in (model[0], model[2]) for own in (layer.weight, layer.bias)]
    sigma = [torch.full_like(own, prior) for own in mu]
    torch.manual_seed(5)
    for outputs, examples in tasks():
        for _ in range(4):
            for own in (*mu, *sigma):
                own.requires_grad_()
            cost = torch.zeros(())
            for _ in range(draws):
                w = [m + s * torch.randn_like(m) for m, s in zip(mu, sigma, strict=True)]
                answer = F.linear(torch.tanh(F.linear(examples.x, w[0], w[1])), w[2], w[3])
                cost = cost + loss_on(outputs)(answer, examples.y) * len(examples.y) / draws
            found = torch.autograd.grad(cost, [*mu, *sigma])
            mu, old = [own.detach() for own in mu], [own.detach() for own in sigma]
            sigma = [
                s - s**2 / 2 * g + s / (2 * memory * prior**2) * (prior**2 - s**2)
                for s, g in zip(old, found[4:], strict=True)
            ]
            mu = [
                m - s**2 * g + s**2 / (memory * prior**2) * (0 - m) for m, s, g in zip(mu, old, found[:4], strict=True)
            ]
    weights = learner.weights()
    for place, layer in enumerate(("0", "2")):
        for offset, name in enumerate(("weight", "bias")):
            base = f"{layer}.parametrizations.{name}"
            torch.testing.assert_close(weights[f"{base}.original"], mu[2 * place + offset], **EXACT)
            torch.testing.assert_close(weights[f"{base}.0.deviation"], sigma[2 * place + offset], **EXACT)
            assert (sigma[2 * place + offset] > 1e-3).all()


def test_without_news_weights_return_to_the_prior():
    model = nn.Linear(3, 2)
    protection = MESU(prior=0.5, memory=10.0, deviation=0.1)
    circuit = apical.Circuit(protection.prepare(model, 1), "backprop")
    protection.attach(circuit, F.cross_entropy)
    optimizer = torch.optim.SGD(circuit.parameters(), lr=1.0, weight_decay=1.0)
    for _ in range(300):
        optimizer.zero_grad()
        (protection.loss(torch.zeros(4, 3), torch.tensor([0, 1, 0, 1]))[1] * 0).backward()
        protection.step(optimizer)
    (mean, deviation), *_ = protection._weights
    assert mean.abs().max() < 1e-3
    torch.testing.assert_close(deviation.detach(), torch.full((2, 3), 0.5), rtol=1e-3, atol=0)


def test_parameters_without_a_distribution_follow_the_optimizer_and_frozen_ones_stay():
    model = nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 4)).double()
    model[2].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    after = Learner(model, MESU()).learn_all()
    assert not torch.equal(after["1.weight"], before["1.weight"])
    assert torch.equal(after["2.weight"], before["2.weight"])
    assert "2.parametrizations.bias.original" in after


def test_deviations_stay_positive_and_what_is_kept_is_counted():
    learner = Learner(network(), MESU(prior=2.0, smallest=0.25))
    assert learner.protection.assumptions().bytes == 8 * sum(own.numel() for own in network().parameters())
    for outputs, examples in tasks():
        learner.learn(outputs, examples, steps=1)
        assert all((own >= 0.5).all() for name, own in learner.weights().items() if name.endswith("deviation"))


def computed() -> nn.Module:
    return nn.utils.parametrizations.weight_norm(nn.Linear(5, 4))


@pytest.mark.parametrize("make", [Metaplasticity, MESU])
def test_networks_that_have_no_such_weights_are_refused(make):
    with pytest.raises(ConfigError, match="none learns"):
        make().prepare(nn.Linear(5, 4).requires_grad_(False), 2)
    with pytest.raises(ConfigError, match="computed"):
        make().prepare(computed(), 2)
    with pytest.raises(ConfigError, match="prepare"):
        make().attach(apical.Circuit(network(), "backprop"), F.cross_entropy)


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda: Metaplasticity(-1.0), "m="),
        (lambda: MESU(prior=0.0), "prior"),
        (lambda: MESU(draws=0), "draws"),
        (lambda: MESU(smallest=1.0), "smallest"),
        (lambda: MESU(memory=float("nan")), "memory"),
    ],
)
def test_options_that_cannot_be_are_refused(make, option):
    with pytest.raises(ConfigError, match=option):
        make()
