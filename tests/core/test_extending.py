"""A package adds a pathway, a neuron, a kind of synapse, a settling rule: each is one class or two."""

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from circuits import assert_same, learn, plain
from torch import Tensor, nn

import apical
from apical.feedback import Fixed
from apical.layers import Credit, ForwardState, Layer, Synapses, closed_form, synapses_of
from apical.layers import steps as step_registry
from apical.layers import synapses as synapse_registry
from apical.layers.steps import ParameterFree, Saved
from apical.rules import LearningRule
from apical.rules.energy.relax import relax
from apical.wiring import Wiring

SENDING = ("burst_ccn", "burstprop", "dendritic_microcircuit", "predictive_coding", "equilibrium_propagation")


class Halved(Fixed):
    """Half the forward weights as they were when the circuit was built."""

    name = "halved"
    summary = "Half a copy of the forward weights."

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__(init="weights", scale=0.5, seed=seed)


@pytest.mark.parametrize("rule", SENDING)
def test_a_pathway_is_one_class(rule):
    """Two hidden layers and tied feedback halved: the lower layer's update is a quarter of the tied one's."""

    def updates(feedback):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4)).double()
        limits = {"burst_ccn": {"error_scale": 1e-4}, "burstprop": {"error_scale": 1e-4, "slope": 1e-4}}
        limits["dendritic_microcircuit"] = {"teaching": 1e-4, "apical": 1e-3, "interneurons": "tied"}
        circuit = apical.Circuit(model, apical.rules.make(rule, feedback=feedback, **limits.get(rule, {})))
        return plain(learn(circuit, torch.randn(5, 6).double(), torch.arange(5) % 4, F.cross_entropy))

    half, whole = updates(Halved()), updates("tied")
    torch.testing.assert_close(half["4.weight"], whole["4.weight"], rtol=1e-3, atol=1e-9)
    torch.testing.assert_close(half["2.weight"], whole["2.weight"] / 2, rtol=1e-2, atol=1e-6)
    torch.testing.assert_close(half["0.weight"], whole["0.weight"] / 4, rtol=1e-2, atol=1e-6)


class TransposedSynapses(Synapses):
    """Synapses of `nn.ConvTranspose2d`, whose weight is (inputs, units, height, width)."""

    unit_axis = -3
    weight_unit_axis = 1
    sample_axes = 3

    @property
    def fan_in(self) -> int:
        return self.weight[:, 0].numel()

    @property
    def fan_out(self) -> float:
        return self.weight[0].numel()

    def forward(self, pre: Tensor) -> Tensor:
        return F.conv_transpose2d(pre, self.weight, self.bias, self.module.stride, self.module.padding)

    def transpose_product(self, post: Tensor, weight: Tensor, pre: Tensor) -> Tensor:
        return F.conv2d(post, weight, None, self.module.stride, self.module.padding)

    def plasticity(self, pre: Tensor, post: Tensor, weight: bool, bias: bool) -> tuple[Tensor | None, Tensor | None]:
        change = torch.nn.grad.conv2d_weight(post, self.weight.shape, pre, self.module.stride, self.module.padding)
        return change if weight else None, post.sum((0, 2, 3)) if bias else None


@pytest.fixture
def transposed(monkeypatch):
    monkeypatch.setattr(synapse_registry, "_KINDS", dict(synapse_registry._KINDS))
    synapses_of(nn.ConvTranspose2d)(TransposedSynapses)


def decoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 12), nn.Unflatten(1, (3, 2, 2)), nn.ReLU(), nn.ConvTranspose2d(3, 4, 3, stride=2), nn.ReLU(),
        nn.ConvTranspose2d(4, 2, 2), nn.Flatten(), nn.Linear(72, 3),
    )  # fmt: skip


def test_a_kind_of_synapse_is_one_class(transposed):
    x, y = torch.randn(6, 5), torch.arange(6) % 3
    assert_same(
        plain(learn(apical.Circuit(decoder(), "backprop"), x, y)),
        learn(decoder(), x, y, F.cross_entropy),
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    "rule", [name for name in apical.rules.names() if apical.rules.get(name).learns_from == "error"]
)
def test_every_rule_uses_a_kind_of_synapse_of_another_package(transposed, rule):
    found = learn(apical.Circuit(decoder(), rule), torch.randn(6, 5), torch.arange(6) % 3)
    assert found["model.3.weight"].isfinite().all()
    assert found["model.3.weight"].count_nonzero()


class Cube(nn.Module):
    """A module of the user's own."""

    def forward(self, x: Tensor) -> Tensor:
        return x**3


class CubeStep(ParameterFree):
    """Its closed form."""

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        return x**3, (x,)

    def derivative(self, grad: Tensor, *saved: Tensor) -> Tensor:
        return grad * 3 * saved[0] ** 2


def test_a_neuron_is_one_class(monkeypatch):
    monkeypatch.setattr(step_registry, "_CLOSED_FORMS", dict(step_registry._CLOSED_FORMS))
    x, y = torch.randn(6, 5).double(), torch.arange(6) % 3

    def updates(rule):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 8), Cube(), nn.Linear(8, 3)).double()
        return learn(apical.Circuit(model, rule) if rule else model, x, y, F.cross_entropy)

    before = {rule: updates(rule) for rule in ("backprop", "predictive_coding", "burst_ccn")}
    closed_form(Cube)(CubeStep)
    assert_same(plain(updates("backprop")), updates(None), rtol=1e-9, atol=1e-12)
    for rule, expected in before.items():
        assert_same(updates(rule), expected, rtol=1e-9, atol=1e-12)


class OneLevelAStep:
    """Signals that travel down one level in a step: a system for the one relaxation."""

    def __init__(self, wiring: Wiring, state: ForwardState, error: Tensor) -> None:
        self.wiring, self.state, self.error = wiring, state, error
        self.posts: dict[Layer, Tensor] = {}
        self.moved = math.inf

    def step(self, *, measured: bool) -> None:
        walk = self.wiring.backward(self.state, self.error, free_buffers=False)
        before, self.posts = self.posts, {}
        for layer, own in walk:
            signal = walk.receive(layer)
            if signal is not None:
                self.posts[layer] = walk.somatic(layer, own, signal)
            if layer in before and walk.needs_input_grad(layer):
                walk.send(layer, layer.synapses.transpose_product(before[layer], layer.weight, own.pre))
        same = before.keys() == self.posts.keys()
        self.moved = max(float((self.posts[n] - before[n]).abs().max()) for n in before) if same else math.inf

    def residual(self) -> float:
        return self.moved


class SettledErrors(LearningRule):
    """A settling rule whose equilibrium is backpropagation."""

    needs_batch = False

    def assign_credit(self, wiring: Wiring, state: ForwardState, error: Tensor) -> Iterator[Credit]:
        system = OneLevelAStep(wiring, state, error)
        self.outcome = relax(system, 50, tolerance=1e-12)
        for layer, post in system.posts.items():
            yield Credit(layer, state[layer].pre, post)


def test_a_settling_rule_is_its_step_and_its_residual():
    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)).double()

    x, y = torch.randn(6, 5).double(), torch.arange(6) % 3
    circuit = apical.Circuit(network(), SettledErrors())
    found = plain(learn(circuit, x, y, F.cross_entropy))
    assert circuit.rule.outcome.settled
    assert circuit.rule.outcome.steps == 4  # a step for each of three layers, and one that shows that nothing moves
    assert_same(found, learn(network(), x, y, F.cross_entropy), rtol=1e-9, atol=1e-12)
