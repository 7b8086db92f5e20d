"""Orthogonal weights modification: the paper's recursion, on layers of every kind, after any optimizer."""

import copy

import pytest
import torch
from test_consolidation import EXACT, Examples, Learner, network, tasks
from torch import Tensor, nn
from torch.nn import functional as F

import apical
from apical.errors import ConfigError
from apical.optim.consolidation import OWM


def recursion(P: Tensor, means: Tensor, alpha: float) -> Tensor:
    """The projector after some more columns, one after the other, as the paper writes it."""
    for x in means:
        x = x[:, None]
        k = P @ x / (alpha + x.T @ P @ x)
        P = P - k @ x.T @ P
    return P


def means(inputs: Tensor, batch: int, bias: bool) -> Tensor:
    """The mean inputs of batches, with a 1 for the bias."""
    found = torch.stack([own.mean(0) for own in inputs.split(batch)])
    return torch.cat([found, torch.ones_like(found[:, :1])], 1) if bias else found


def test_the_weights_are_those_of_the_papers_recursion():
    """By gradient descent, whose steps and gradients are projected to the same."""
    model, alpha = network(), 0.01
    protection = OWM(alpha, batch_size=5)
    learner = Learner(copy.deepcopy(model), protection)
    learner.optimizer = torch.optim.SGD(learner.circuit.parameters(), lr=0.2)
    learner.learn_all()
    projectors = {0: torch.eye(6, dtype=torch.float64), 2: torch.eye(7, dtype=torch.float64)}
    for outputs, examples in tasks():
        among = torch.tensor(outputs)
        for _ in range(4):
            model.zero_grad()
            y = (examples.y[:, None] == among).long().argmax(1)
            F.cross_entropy(model(examples.x)[:, among], y).backward()
            with torch.no_grad():
                for place, P in projectors.items():
                    layer = model[place]
                    step = torch.cat([layer.weight.grad, layer.bias.grad[:, None]], 1) @ P
                    layer.weight -= 0.2 * step[:, :-1]
                    layer.bias -= 0.2 * step[:, -1]
        with torch.no_grad():
            hidden = model[1](model[0](examples.x))
        for place, inputs in ((0, examples.x), (2, hidden)):
            projectors[place] = recursion(projectors[place], means(inputs, 5, True), alpha)
    for name, own in model.named_parameters():
        torch.testing.assert_close(learner.weights()[name], own.detach(), **EXACT)
    for name, place in (("0.weight", 0), ("2.weight", 2)):
        torch.testing.assert_close(protection._projector(protection.gram[name])[0], projectors[place], **EXACT)


CONVOLUTIONS = {
    "groups": (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (4, 5, 5)),
    "line": (nn.Conv1d(3, 4, 2, bias=False), (3, 6)),
    "positions": (nn.Linear(4, 3), (2, 4)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("rule", ["backprop", "feedback_alignment"])
def test_the_answers_to_earlier_inputs_stay_after_any_optimizer(name, rule):
    layer, shape = CONVOLUTIONS[name]
    torch.manual_seed(0)
    x = torch.randn(2, *shape, dtype=torch.float64)
    x[1] = x[0]  # so that the mean patch of a position is a patch
    model = nn.Sequential(copy.deepcopy(layer).double(), nn.Flatten())
    protection = OWM(1e-9, batch_size=2)
    circuit = apical.Circuit(model, rule)
    protection.attach(circuit, F.cross_entropy)
    optimizer = torch.optim.Adam(circuit.parameters(), lr=0.1)
    earlier = model(x).detach()
    protection.end_task(Examples(x, torch.zeros(2)))
    weight = model[0].weight.detach().clone()
    for _ in range(5):
        other = torch.randn(3, *shape, dtype=torch.float64)
        optimizer.zero_grad()
        circuit(other).square().sum().backward()
        protection.correct()
        protection.step(optimizer)
    torch.testing.assert_close(model(x).detach(), earlier, rtol=0, atol=1e-5)
    if model[0].weight[0].numel() > earlier.numel() // len(earlier):  # else nothing is free
        assert not torch.allclose(weight, model[0].weight, atol=1e-3)


def shared() -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 4))
    model[1].weight = model[0].weight
    return model


def half_frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 4))
    model[0].weight.requires_grad_(False)
    return model


def computed() -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 4))
    nn.utils.parametrizations.weight_norm(model[1])
    return model


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 4)), r"1\.weight.*affine=False"),
        (shared(), "1: .*shared"),
        (computed(), "1: .*computed"),
        (half_frozen(), r"0\.weight: .*frozen"),
    ],
)
def test_networks_that_it_cannot_protect_are_refused(model, words):
    with pytest.raises(ConfigError, match=words):
        OWM().attach(apical.Circuit(model, "backprop"), F.cross_entropy)


def test_frozen_layers_and_biases():
    model = network()
    model[0].requires_grad_(False)
    model[2].bias.requires_grad_(False)
    learner = Learner(model, OWM(0.01))
    before = learner.weights()
    after = learner.learn_all()
    assert torch.equal(after["0.weight"], before["0.weight"])
    assert torch.equal(after["2.bias"], before["2.bias"])
    assert not torch.equal(after["2.weight"], before["2.weight"])
