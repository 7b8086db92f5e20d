"""Alignment with the true gradient: what it says, and that it leaves no trace."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from circuits import NETWORKS, assert_same, circuit_of, learn, loss_of, rows, steps
from torch import Tensor, nn

import apical
from apical import data
from apical.errors import DataError
from apical.measure import alignment, angle

every_rule = pytest.mark.parametrize("row", rows(), ids=str)


# Their read-out learns from what arrives once the network has settled, and that is not what arrived freely.
SETTLES = ("predictive_coding", "equilibrium_propagation")
# Its outputs are noisy, and the gradient is that of the output without noise.
EXPLORES = ("three_factor",)


@pytest.mark.parametrize("network", NETWORKS)
def test_backprop_is_the_gradient(network):
    found = alignment(circuit_of(network, "backprop"), *NETWORKS[network].batch(), F.cross_entropy)
    assert list(found) == list(NETWORKS[network].synapses)
    assert set(found.values()) == {0.0}


@pytest.mark.parametrize("network", ["mlp", "residual"])
@every_rule
def test_it_says_what_the_two_updates_say(row, network):
    circuit = circuit_of(network, row)
    x, y = NETWORKS[network].batch()
    torch.manual_seed(3)
    found = alignment(circuit, x, y, loss_of(circuit))
    model = copy.deepcopy(circuit.model)
    update, truth = learn(circuit, x, y), learn(model, x, y, loss_of(circuit))
    for path, degrees in found.items():
        a, b = update[f"model.{path}.weight"].double().flatten(), truth[f"{path}.weight"].double().flatten()
        cosine = float(a @ b / (a.norm() * b.norm()))
        assert degrees == pytest.approx(math.degrees(math.acos(min(cosine, 1.0))), abs=1e-3)
    if row.name not in SETTLES + EXPLORES:
        assert found[NETWORKS[network].synapses[-1]] == pytest.approx(0, abs=1e-4)


@every_rule
def test_it_leaves_no_trace(row):
    circuit = circuit_of("conv", row)
    list(steps(circuit, NETWORKS["conv"], 3))
    twin = copy.deepcopy(circuit)
    x, y = NETWORKS["conv"].batch()
    state, gradients = copy.deepcopy(circuit.state_dict()), [p.grad.clone() for p in circuit.parameters()]
    rule, random = circuit.rule, torch.get_rng_state()
    alignment(circuit, x, y, loss_of(circuit))
    assert circuit.rule is rule
    assert circuit.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(p.grad, g) for p, g in zip(circuit.parameters(), gradients, strict=True))
    after = circuit.state_dict()
    assert after.keys() == state.keys()
    assert all(torch.equal(after[key], value) for key, value in state.items() if isinstance(value, Tensor))
    assert_same(learn(circuit, x, y), learn(twin, x, y))  # the rule's own draws too go on where they were
    assert_same(learn(circuit, x, y), learn(twin, x, y))


def test_frozen_layers_are_left_out_and_no_grad_is_no_obstacle():
    circuit = circuit_of("mlp", "feedback_alignment")
    circuit.layers[1].weight.requires_grad_(False)
    with torch.no_grad():
        found = alignment(circuit, *NETWORKS["mlp"].batch(), F.cross_entropy)
    assert list(found) == ["1", "5"]
    assert 0 < found["1"] < 180


def test_the_mode_counts():
    circuit = circuit_of("conv", "feedback_alignment")
    list(steps(circuit, NETWORKS["conv"], 2))
    x, y = NETWORKS["conv"].batch()
    training = alignment(circuit, x, y, F.cross_entropy)
    evaluation = alignment(circuit.eval(), x, y, F.cross_entropy)
    assert training["0"] != evaluation["0"]


def test_no_examples_are_refused():
    circuit = circuit_of("mlp", "backprop")
    with pytest.raises(DataError, match="empty"):
        alignment(circuit, torch.zeros(0, 3, 4), torch.zeros(0, dtype=torch.long), F.cross_entropy)


@pytest.mark.parametrize("degrees", [0.0, 1e-5, 1.0, 60.0, 90.0, 179.0, 180.0])
def test_angles_are_exact_near_the_ends_too(degrees):
    turn = math.radians(degrees)
    a = torch.tensor([3.0, 0.0], dtype=torch.float64)
    b = 0.1 * torch.tensor([math.cos(turn), math.sin(turn)], dtype=torch.float64)
    assert angle(a, b) == pytest.approx(degrees, abs=1e-9)
    assert math.isnan(angle(a, torch.zeros(2)))


def test_feedback_alignment_aligns_on_handwritten_digits():
    """The forward weights come to suit the fixed random feedback (Lillicrap et al. 2016)."""
    digits = data.load("digits").train
    x, y = digits.x.flatten(1), digits.y
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    circuit = apical.Circuit(model, apical.FeedbackAlignment())
    before = alignment(circuit, x, y, F.cross_entropy)
    optimizer = torch.optim.SGD(circuit.parameters(), 0.2)
    order = torch.Generator().manual_seed(0)
    for _ in range(12):
        for batch in torch.randperm(len(x), generator=order).split(32):
            optimizer.zero_grad()
            F.cross_entropy(circuit(x[batch]), y[batch]).backward()
            optimizer.step()
    after = alignment(circuit, x, y, F.cross_entropy)
    assert before["2"] > 75
    assert after["2"] < 60
    assert after["4"] == pytest.approx(0, abs=1e-4)
    with torch.no_grad():
        assert (circuit(x).argmax(1) == y).float().mean() > 0.95
