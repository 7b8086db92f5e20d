"""Weights that a module computes from other tensors: the rule teaches the effective weight, autograd does the rest."""

import copy
import pickle
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from circuits import NETWORKS, Row, assert_same, gradients, learn, plain, rows
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations, parametrize, prune

import apical
from apical.errors import CircuitError, NonFiniteError

SYNAPSES = ("first", "second", "readout")


class Dale(nn.Module):
    """Every weight keeps the sign that it had."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("sign", weight.sign())

    def forward(self, weight: Tensor) -> Tensor:
        return weight.abs() * self.sign


class Mask(nn.Module):
    """A half of the weights are absent."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", (torch.rand_like(weight) > 0.5).to(weight.dtype))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


class LowRank(nn.Module):
    """A frozen weight and a learned one of low rank (LoRA)."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(len(weight), 2, dtype=weight.dtype))
        self.down = nn.Parameter(torch.randn(2, weight[0].numel(), dtype=weight.dtype))

    def forward(self, weight: Tensor) -> Tensor:
        return weight.detach() + (self.up @ self.down).view(weight.shape)


Way = Callable[[nn.Module], object]


def parametrised(kind: Callable[[Tensor], nn.Module], name: str = "weight") -> Way:
    return lambda module: parametrize.register_parametrization(module, name, kind(getattr(module, name).detach()))


def old_weight_norm(module: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.nn.utils.weight_norm(module)


def masked_and_normalised(module: nn.Module) -> None:
    parametrizations.weight_norm(module)
    parametrised(Mask)(module)


WAYS: dict[str, Way] = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "old_weight_norm": old_weight_norm,
    "old_spectral_norm": torch.nn.utils.spectral_norm,
    "pruned": lambda module: prune.random_unstructured(module, "weight", 0.5),
    "pruned_bias": lambda module: prune.random_unstructured(module, "bias", 0.5),
    "bias": parametrised(Mask, "bias"),
    "dale": parametrised(Dale),
    "mask": parametrised(Mask),
    "low_rank": parametrised(LowRank),
    "two": masked_and_normalised,
}


def changed(model: nn.Module, way: str) -> nn.Module:
    torch.manual_seed(2)
    for name in SYNAPSES:
        WAYS[way](model.get_submodule(name))
    return model


def line() -> nn.Module:
    return NETWORKS["line"].build().double()


def batch() -> tuple[Tensor, Tensor]:
    x, y = NETWORKS["line"].batch()
    return x.double(), y


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("way", WAYS)
def test_backprop_equals_autograd(way, after, training):
    """Before and after wrapping, over two steps of an optimizer, for outputs, gradients and buffers."""
    model, expected = line(), changed(line(), way).train(training)
    if after:
        circuit = apical.Circuit(model, "backprop")
        circuit(batch()[0])
        changed(model, way)
    else:
        circuit = apical.Circuit(changed(model, way), "backprop")
    circuit.train(training)
    for _ in range(2):
        assert_same(plain(learn(circuit, *batch())), learn(expected, *batch()), rtol=1e-9, atol=1e-12)
        for network in (circuit, expected):
            torch.optim.SGD(network.parameters(), lr=0.1, weight_decay=0.01).step()
        assert_same(dict(model.named_buffers()), dict(expected.named_buffers()))
    with torch.no_grad():
        torch.testing.assert_close(circuit(batch()[0]), expected(batch()[0]))


def test_a_network_of_two_dimensions_with_groups_equals_autograd():
    def build() -> nn.Module:
        torch.manual_seed(0)
        weight_norm = parametrizations.weight_norm
        return nn.Sequential(
            weight_norm(nn.Conv2d(2, 4, 3)),
            nn.ReLU(),
            weight_norm(nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)),
            nn.Flatten(),
            weight_norm(nn.Linear(64, 3)),
        ).double()

    x, y = torch.randn(5, 2, 6, 6, dtype=torch.float64), torch.arange(5) % 3
    found = learn(apical.Circuit(build(), "backprop"), x, y)
    assert_same(plain(found), learn(build(), x, y), rtol=1e-9, atol=1e-12)


def through(module: nn.Module, updates: dict[str, Tensor]) -> dict[str, Tensor]:
    """The derivatives by a module's parameters for updates of its effective weight and bias."""
    effective = [getattr(module, name) for name in updates]
    parameters = dict(module.named_parameters())
    found = torch.autograd.grad(effective, list(parameters.values()), list(updates.values()), allow_unused=True)
    return {name: tensor for name, tensor in zip(parameters, found, strict=True) if tensor is not None}


@pytest.mark.parametrize(
    ("row", "way"),
    [*((row, "mask") for row in rows()), *((row, "weight_norm") for row in rows() if not row.options)],
    ids=str,
)
def test_the_update_of_the_effective_weight_is_that_of_a_plain_one(row, way):
    model = changed(line(), way)
    twin = line()
    with torch.no_grad():
        for name in SYNAPSES:
            for own in ("weight", "bias"):
                getattr(twin.get_submodule(name), own).copy_(getattr(model.get_submodule(name), own))
    found = plain(learn(apical.Circuit(model, row.make()), *batch()))
    other = plain(learn(apical.Circuit(twin, row.make()), *batch()))
    for name in SYNAPSES:
        updates = {own: other[f"{name}.{own}"] for own in ("weight", "bias")}
        for own, expected in through(model.get_submodule(name), updates).items():
            torch.testing.assert_close(found[f"{name}.{own}"], expected, rtol=1e-6, atol=1e-9)
            if way == "mask" and own.endswith("original"):
                absent = model.get_submodule(name).parametrizations.weight[0].mask == 0
                assert not found[f"{name}.{own}"][absent].any()


@pytest.mark.parametrize("way", ["mask", "weight_norm", "pruned"])
@pytest.mark.parametrize(
    "row", [Row("kolen_pollack"), Row("predictive_coding", {"feedback": "kolen_pollack"})], ids=str
)
def test_reciprocal_feedback_takes_the_change_of_the_effective_weight(row, way):
    """Under gradient descent with a small rate, B and W move by the same."""
    circuit = apical.Circuit(changed(line(), way), row.make())
    weights = circuit.rule.pathway.weights
    layers = [layer for layer in circuit.layers if layer in weights]
    learn(circuit, *batch())
    before = [(layer.weight.detach().clone(), weights[layer].detach().clone()) for layer in layers]
    torch.optim.SGD(circuit.parameters(), lr=1e-6).step()
    circuit(batch()[0])
    for layer, (weight, feedback) in zip(layers, before, strict=True):
        moved = layer.weight.detach() - weight
        assert moved.any()
        torch.testing.assert_close(weights[layer].detach() - feedback, moved, rtol=1e-3, atol=1e-13)


@pytest.mark.parametrize("way", ["mask", "dale", "weight_norm", "pruned"])
@pytest.mark.parametrize("rule", ["feedback_alignment", "kolen_pollack", "burst_ccn"])
def test_a_training_loop_lowers_the_loss_and_keeps_the_constraint(rule, way):
    circuit = apical.Circuit(changed(NETWORKS["line"].build(), way), rule)
    x, y = NETWORKS["line"].batch(32)
    signs = [layer.weight.detach().sign() for layer in circuit.layers]
    optimizer = torch.optim.AdamW(circuit.parameters(), lr=0.02, weight_decay=0.01)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.cross_entropy(circuit(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    circuit(x)
    for layer, sign in zip(circuit.layers, signs, strict=True):
        if way in ("mask", "pruned"):
            assert not layer.weight[sign == 0].any()
        elif way == "dale":
            assert torch.equal(layer.weight.sign(), sign)


@pytest.mark.parametrize("feedback", ["tied", "kolen_pollack"])
def test_a_hopfield_network_settles_by_the_effective_weights(feedback):
    def build() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 4)).double()

    model, twin = build(), build()
    for module, other in zip(model[::2], twin[::2], strict=True):
        parametrised(Mask)(module)
        other.weight.data.copy_(module.weight)
    x, y = torch.randn(5, 6, dtype=torch.float64), torch.arange(5) % 4
    circuits = [
        apical.Circuit(net, apical.EquilibriumPropagation(network="hopfield", feedback=feedback))
        for net in (model, twin)
    ]
    found, expected = (plain(learn(circuit, x, y)) for circuit in circuits)
    for name, module in (("0", model[0]), ("2", model[2])):
        present = module.parametrizations.weight[0].mask
        update = found[f"{name}.parametrizations.weight.original"]
        torch.testing.assert_close(update, expected[f"{name}.weight"] * present, rtol=1e-6, atol=1e-9)
        module.parametrizations.weight.original.data.mul_(0.5)
        twin.get_submodule(name).weight.data.mul_(0.5)
    with torch.no_grad():
        torch.testing.assert_close(circuits[0](x), circuits[1](x))


# The model changes while it learns


def test_learned_feedback_survives_a_mask_that_comes_and_goes():
    circuit = apical.Circuit(line(), "kolen_pollack")
    feedback = copy.deepcopy(circuit.rule.state_dict())
    learn(circuit, *batch())
    for change in (
        lambda module: prune.random_unstructured(module, "weight", 0.5),
        lambda module: prune.remove(module, "weight"),
        parametrizations.weight_norm,
        lambda module: parametrize.remove_parametrizations(module, "weight"),
    ):
        change(circuit.model.second)
        found = learn(circuit, *batch())
        assert {name.removeprefix("model.") for name in found if name.startswith("model.second")} == {
            f"second.{name}" for name, _ in circuit.model.second.named_parameters()
        }
        assert_same(circuit.rule.state_dict(), feedback)
        assert found["rule.pathway.weights.second"].any()


def test_a_backward_pass_over_a_weight_parametrised_in_between_is_refused():
    circuit = apical.Circuit(line(), "feedback_alignment")
    y = circuit(batch()[0])
    changed(circuit.model, "weight_norm")
    circuit(batch()[0])
    with pytest.raises(CircuitError, match="parametrised"):
        y.sum().backward()


# What PyTorch does with modules


def test_functional_call_teaches_the_parameters_that_answered():
    circuit = apical.Circuit(changed(line(), "weight_norm"), "kolen_pollack")
    own = dict(circuit.named_parameters())
    others = {name: (tensor * 1.5).detach().requires_grad_() for name, tensor in own.items()}
    x, y = batch()
    F.cross_entropy(functional_call(circuit, others, (x,)), y).backward()
    assert all(tensor.grad is None for tensor in own.values())
    twin = copy.deepcopy(circuit)
    with torch.no_grad():
        for name, tensor in twin.named_parameters():
            tensor.copy_(others[name])
    expected = learn(twin, x, y)
    assert_same({name: tensor.grad for name, tensor in others.items() if tensor.grad is not None}, expected)


def test_two_forward_passes_learn_each_from_its_own_weights():
    circuit = apical.Circuit(changed(line(), "mask"), "backprop")
    x, y = batch()
    expected = learn(circuit, x, y)
    circuit.zero_grad()
    loss = F.cross_entropy(circuit(x), y)
    circuit(2 * x)
    with torch.no_grad():
        circuit(x)
    loss.backward(retain_graph=True)
    assert_same(gradients(circuit), expected)
    loss.backward()
    assert_same(gradients(circuit), {name: 2 * gradient for name, gradient in expected.items()})


@pytest.mark.parametrize("way", ["weight_norm", "pruned", "dale"])
def test_copies_and_state_dicts(way):
    circuit = apical.Circuit(changed(line(), way), "kolen_pollack")
    expected = learn(circuit, *batch())
    twin = copy.deepcopy(circuit)
    assert_same(learn(twin, *batch()), expected)
    other = apical.Circuit(changed(line(), way), apical.KolenPollack(seed=7))
    other.load_state_dict(circuit.state_dict())
    assert_same(learn(other, *batch()), expected)
    if way == "pruned":  # PyTorch pickles no parametrised module
        assert_same(learn(pickle.loads(pickle.dumps(circuit)), *batch()), expected)


def test_alignment_measures_the_effective_weight():
    circuit = apical.Circuit(changed(line(), "weight_norm"), "feedback_alignment")
    x, y = batch()
    found = apical.measure.alignment(circuit, x, y, F.cross_entropy)
    assert found["readout"] < 1e-3
    assert 1 < found["first"] < 179


@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_the_compiler():
    circuit = apical.Circuit(changed(line(), "mask"), "feedback_alignment", example=batch()[0])
    expected = learn(circuit, *batch())
    torch._dynamo.reset()
    found = learn(torch.compile(circuit, backend="aot_eager"), *batch())
    torch._dynamo.reset()
    assert_same(
        {name.removeprefix("_orig_mod."): gradient for name, gradient in found.items()}, expected, rtol=1e-6, atol=1e-9
    )


def test_frozen_weights_do_not_learn():
    circuit = apical.Circuit(changed(line(), "low_rank"), "kolen_pollack")
    found = learn(circuit, *batch())
    assert not any("original" in name for name in found)
    assert found["model.first.parametrizations.weight.0.up"].any()


@pytest.mark.parametrize("way", ["weight_norm", "pruned"])
def test_nan_in_an_effective_weight_names_its_layer(way):
    circuit = apical.Circuit(changed(line(), way), "feedback_alignment")
    with torch.no_grad():
        next(iter(circuit.model.second.parameters()))[0] = torch.nan  # the bias
    with pytest.raises(NonFiniteError, match=r"second: the bias of its (Parametrized)?Conv1d"):
        learn(circuit, *batch())


# Refused


def test_hooks_that_set_a_weight_are_refused():
    layer = nn.Linear(4, 3)
    weight = layer.weight
    del layer.weight
    layer.mine = weight
    layer.weight = weight.detach()
    layer.register_forward_pre_hook(lambda module, _: setattr(module, "weight", module.mine.abs()))
    with pytest.raises(CircuitError, match=r"0 \(Linear\): .*forward_pre_hook"):
        apical.Circuit(nn.Sequential(layer), "backprop")


@pytest.mark.parametrize("make", [lambda: nn.ConvTranspose1d(4, 3, 2), lambda: nn.ConvTranspose2d(4, 3, 2)])
def test_a_parametrised_weight_of_unknown_synapses_is_refused(make):
    module = make()
    parametrised(Dale)(module)
    with pytest.raises(CircuitError, match=r"1 \(ParametrizedConvTranspose"):
        apical.Circuit(nn.Sequential(nn.Linear(4, 4), module), "backprop")


@pytest.mark.parametrize("change", ["pruned", "parametrised"])
def test_the_gain_of_a_norm_may_be_computed(change):
    def build() -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)).double()
        if change == "pruned":
            prune.random_unstructured(model[1], "weight", 0.5)
        else:
            parametrised(Mask)(model[1])
        return model

    x, y = torch.randn(5, 4, dtype=torch.float64), torch.arange(5) % 3
    found = learn(apical.Circuit(build(), "backprop"), x, y)
    assert_same(plain(found), learn(build(), x, y), rtol=1e-9, atol=1e-12)
