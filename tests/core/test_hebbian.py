"""Hebbian rules against their equations in plain loops, against what they are known to find, and against errors."""

from __future__ import annotations

from collections.abc import Callable

import hebbian_reference as reference
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from circuits import NETWORKS, learn, loss_of
from torch import Tensor, nn

import apical
from apical import measure
from apical.errors import CircuitError, ConfigError
from apical.feedback.weights import PerLayer
from apical.rules.hebbian.rules import Hebbian, Oja, SoftHebb, ThreeFactor
from apical.wiring import Credit

RULES: dict[str, tuple[Callable[[], Hebbian], reference.Unit]] = {
    "oja": (Oja, reference.oja("symmetric")),
    "oja, sanger": (lambda: Oja(units="sanger"), reference.oja("sanger")),
    "oja, independent": (lambda: Oja(units="independent"), reference.oja("independent")),
    "soft_hebb": (SoftHebb, reference.soft_hebb(0.1, True, 0.5)),
    "soft_hebb, 2022": (
        lambda: SoftHebb(temperature=0.3, anti_hebbian=False, norm_power=0.0),
        reference.soft_hebb(0.3, False, 0.0),
    ),
    "soft_hebb, steep": (
        lambda: SoftHebb(temperature=2.0, norm_power=1.5),
        reference.soft_hebb(2.0, True, 1.5),
    ),
}
every_rule = pytest.mark.parametrize("name", RULES)
every_class = pytest.mark.parametrize("rule", [Oja, SoftHebb, ThreeFactor])


def numpy(tensor: Tensor | None) -> np.ndarray | None:
    return None if tensor is None else tensor.detach().numpy()


def changes(module: nn.Module) -> tuple[np.ndarray, np.ndarray | None]:
    """What SGD with lr=1 would add to the weight and the bias."""
    return -module.weight.grad.numpy(), None if module.bias is None else -module.bias.grad.numpy()


def agree(found: tuple[np.ndarray, np.ndarray | None], expected: tuple[np.ndarray, np.ndarray | None]) -> None:
    for one, other in zip(found, expected, strict=True):
        if other is None:
            assert one is None
        else:
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-13)


def taught(answer: Tensor, reduction: str = "mean") -> tuple[Tensor, Tensor]:
    """Cross-entropy, and the derivative of each sample's own, worked out by hand."""
    y = torch.arange(len(answer)) % answer.shape[1]
    return F.cross_entropy(answer, y, reduction=reduction), (answer.softmax(1) - F.one_hot(y, answer.shape[1])).detach()


def expected_change(
    name: str, module: nn.Module, x: Tensor, seen: list[list[np.ndarray]]
) -> tuple[np.ndarray, np.ndarray | None]:
    """The mean change of a layer; Oja's rate is in units of the power that arrives at a unit."""
    powers = [1.0] * len(x)
    if name.startswith("oja"):
        powers = (x.square().flatten(1).mean(1) * module.weight[0].numel() + (module.bias is not None)).tolist()
    return reference.mean_change(RULES[name][1], numpy(module.weight), numpy(module.bias), seen, powers)


# The equations


@every_rule
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_linear_layers_follow_the_equations(name, bias, reduction):
    make, _ = RULES[name]
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(5, 4, bias=bias), nn.ReLU(), nn.Linear(4, 6, bias=bias), nn.Tanh(), nn.Linear(6, 3)
    ).double()
    x = torch.randn(7, 5, dtype=torch.float64)
    loss, each = taught(apical.Circuit(model, make(), reduction=reduction)(x), reduction)
    loss.backward()
    arriving = {0: x, 2: model[:2](x)}
    for place, pre in arriving.items():
        seen = [[row] for row in pre.detach().numpy()]
        expected = expected_change(name, model[place], pre.detach(), seen)
        factor = 7 if reduction == "sum" else 1
        agree(changes(model[place]), tuple(None if part is None else factor * part for part in expected))
    below = model[:4](x).detach()
    delta = each / (7 if reduction == "mean" else 1)
    agree(changes(model[4]), (-(delta.T @ below).numpy(), -delta.sum(0).numpy()))


@every_rule
@pytest.mark.parametrize(
    ("options", "bias"),
    [({"padding": 1}, True), ({"stride": 2}, False), ({"stride": 2, "padding": 2}, False)],
    ids=["padded", "strided", "both"],
)
def test_convolutions_follow_the_equations_at_every_position(name, options, bias):
    make, _ = RULES[name]
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=bias, **options),
        nn.BatchNorm2d(4, affine=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    ).double()
    x = torch.randn(5, 2, 6, 5, dtype=torch.float64)
    loss, _ = taught(apical.Circuit(model, make())(x))
    loss.backward()
    seen = [reference.patches(image, 3, options.get("stride", 1), options.get("padding", 0)) for image in x.numpy()]
    agree(changes(model[0]), expected_change(name, model[0], x, seen))


@pytest.mark.parametrize("name", [name for name in RULES if name.startswith("soft_hebb")])
def test_a_line_of_positions_is_averaged_as_a_batch_is(name):
    make, _ = RULES[name]
    torch.manual_seed(2)
    line = nn.Sequential(nn.Conv1d(3, 4, 1), nn.Flatten(), nn.Linear(24, 1)).double()
    flat = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)).double()
    with torch.no_grad():
        flat[0].weight.copy_(line[0].weight.squeeze(2))
        flat[0].bias.copy_(line[0].bias)
    x = torch.randn(1, 3, 6, dtype=torch.float64)
    for model, given in ((line, x), (flat, x[0].T)):
        apical.Circuit(model, make(), reduction="mean")(given).mean().backward()
    torch.testing.assert_close(line[0].weight.grad.squeeze(2), flat[0].weight.grad)
    torch.testing.assert_close(line[0].bias.grad, flat[0].bias.grad)


def test_a_decay_reaches_weights_biases_and_a_rules_own_weights():
    class Forget(apical.Backprop):
        def __init__(self) -> None:
            super().__init__()
            self.own = PerLayer()

        def setup(self, wiring):
            super().setup(wiring)
            self.own.hold(wiring.layers[0], torch.randn(3, 4), learned=True)

        def assign_credit(self, wiring, state, error):
            (layer,) = wiring.layers
            pre, decay = state[layer].pre, torch.tensor([1.0, 0.0, -2.0])
            yield Credit(layer, pre, torch.zeros_like(error), decay=decay)
            yield Credit(layer, pre, torch.zeros_like(error), synapses=self.own.synapses(layer), decay=decay)

    model = nn.Linear(4, 3)
    circuit = apical.Circuit(model, Forget())
    circuit(torch.randn(5, 4)).sum().backward()
    factors = torch.tensor([1.0, 0.0, -2.0])
    torch.testing.assert_close(model.weight.grad, factors[:, None] * model.weight.detach())
    torch.testing.assert_close(model.bias.grad, factors * model.bias.detach())
    own = circuit.rule.own[circuit.layers[0]]
    torch.testing.assert_close(own.grad, factors[:, None] * own.detach())


def test_a_modulator_multiplies_what_each_sample_or_unit_teaches():
    class Gated(apical.Backprop):
        def __init__(self, modulator: Tensor) -> None:
            super().__init__()
            self.modulator = modulator

        def assign_credit(self, wiring, state, error):
            (layer,) = wiring.layers
            yield Credit(layer, state[layer].pre, error, modulator=self.modulator)

    x, error = torch.randn(5, 4), torch.randn(5, 3)
    for modulator in (torch.randn(5, 1), torch.randn(3), torch.randn(5, 3)):
        model = nn.Linear(4, 3)
        (apical.Circuit(model, Gated(modulator))(x) * error).sum().backward()
        torch.testing.assert_close(model.weight.grad, (error * modulator).T @ x)
        torch.testing.assert_close(model.bias.grad, (error * modulator).sum(0))


# What they find


@pytest.mark.parametrize("units", ["independent", "symmetric", "sanger"])
def test_oja_finds_principal_components_and_length_one_at_any_size_of_the_input(units):
    basis = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))[0]
    spread = torch.tensor([2.0, 1.2, 0.8, 0.5, 0.3, 0.2, 0.2, 0.1])
    found = []
    for size in (1.0, 100.0):
        generator = torch.Generator().manual_seed(1)
        model = nn.Linear(8, 3, bias=False)
        with torch.no_grad():
            model.weight.copy_(torch.randn(3, 8, generator=generator) / 3)
        circuit = apical.Circuit(model, Oja(units=units, readout=False))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
        for _ in range(500):
            x = (torch.randn(64, 8, generator=generator) * spread * size) @ basis.T
            optimizer.zero_grad()
            circuit(x).sum().backward()
            optimizer.step()
        found.append(model.weight.detach() @ basis)
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)
    if units == "independent":
        expected = torch.eye(8)[[0, 0, 0]]
    elif units == "sanger":
        expected = torch.eye(8)[:3]
    else:
        expected = None
        torch.testing.assert_close(found[0] @ found[0].T, torch.eye(3), atol=0.05, rtol=0)
        assert found[0][:, 3:].abs().max() < 0.1
    if expected is not None:
        torch.testing.assert_close(found[0].abs(), expected, atol=0.1, rtol=0)


def test_units_of_other_inputs_share_nothing():
    torch.manual_seed(0)
    whole = nn.Conv1d(4, 6, 1, groups=2, bias=False)
    x = torch.randn(7, 2, 5)
    x = torch.cat([x, -x.flip(1)], 1)  # inputs of one power
    apical.Circuit(whole, Oja(readout=False))(x).sum().backward()
    for part in range(2):
        own = nn.Conv1d(2, 3, 1, bias=False)
        with torch.no_grad():
            own.weight.copy_(whole.weight[3 * part : 3 * part + 3])
        apical.Circuit(own, Oja(readout=False))(x[:, 2 * part : 2 * part + 2]).sum().backward()
        assert apical.measure.angle(whole.weight.grad[3 * part : 3 * part + 3], own.weight.grad) < 1e-4


def mixture(samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points about four orthogonal means of length 1, and these means."""
    means = torch.linalg.qr(torch.randn(12, 12, generator=generator))[0][:4]
    x = means[torch.randint(0, 4, (samples,), generator=generator)]
    return x + 0.1 * torch.randn(samples, 12, generator=generator), means


@pytest.mark.parametrize("anti_hebbian", [True, False])
def test_soft_hebb_finds_the_means_of_a_mixture_and_length_one(anti_hebbian):
    generator = torch.Generator().manual_seed(1)
    data, means = mixture(4096, generator)
    model = nn.Linear(12, 4, bias=False)
    with torch.no_grad():  # each unit somewhat nearer to one mean, so that no two share one
        model.weight.copy_(0.5 * means + 0.15 * torch.randn(4, 12, generator=generator))
    rule = SoftHebb(temperature=0.1, anti_hebbian=anti_hebbian, norm_power=0.5, readout=False)
    circuit = apical.Circuit(model, rule)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    before = F.cosine_similarity(model.weight.detach(), means).min()
    for _ in range(6):
        for x in data[torch.randperm(4096, generator=generator)].split(32):
            optimizer.zero_grad()
            circuit(x).sum().backward()
            optimizer.step()
    weight = model.weight.detach()
    after = F.cosine_similarity(weight, means)
    assert before < 0.8
    assert after.min() > 0.97
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(4), atol=0.05, rtol=0)


def test_soft_hebb_shrinks_long_weights_to_length_one():
    generator = torch.Generator().manual_seed(2)
    data, _ = mixture(4096, generator)
    model = nn.Linear(12, 4, bias=False)
    with torch.no_grad():
        model.weight.copy_(5 * F.normalize(torch.randn(4, 12, generator=generator)))
    circuit = apical.Circuit(model, SoftHebb(readout=False, anti_hebbian=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x in data.repeat(6, 1).split(16):
        optimizer.zero_grad()
        circuit(x).sum().backward()
        optimizer.step()
    torch.testing.assert_close(model.weight.detach().norm(dim=1), torch.ones(4), atol=0.05, rtol=0)


def test_the_winner_moves_towards_its_input_and_the_losers_away():
    model = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.6, 0.0], [0.0, 0.3, 0.5]]))
    x = torch.tensor([[1.0, 0.2, 0.1]])
    apical.Circuit(model, SoftHebb(readout=False))(x).sum().backward()
    moved = -model.weight.grad @ x[0]
    assert moved[0] > 0
    assert (moved[1:] < 0).all()
    model.zero_grad()
    apical.Circuit(model, SoftHebb(readout=False, anti_hebbian=False))(x).sum().backward()
    assert (-model.weight.grad @ x[0] > 0).all()


def test_learning_ends_at_length_one():
    model = nn.Linear(6, 4)
    with torch.no_grad():  # the bias is a synapse as the others are
        whole = F.normalize(torch.cat([model.weight, model.bias[:, None]], 1), dim=1)
        model.weight.copy_(whole[:, :-1])
        model.bias.copy_(whole[:, -1])
    sizes = {}
    for power in (0.0, 2.0):
        model.zero_grad()
        apical.Circuit(model, SoftHebb(norm_power=power, readout=False))(torch.randn(9, 6)).sum().backward()
        sizes[power] = model.weight.grad.abs().max()
    assert sizes[0.0] > 1e-3
    assert sizes[2.0] < 1e-10


# The loss


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "cross-entropy": lambda answer: F.cross_entropy(answer, torch.arange(len(answer)) % answer.shape[1]),
    "other targets": lambda answer: F.cross_entropy(answer, torch.zeros(len(answer), dtype=torch.int64)),
    "squared error": lambda answer: F.mse_loss(answer, torch.ones_like(answer)),
    "a constant": lambda answer: 0 * answer.sum(),
    "a thousand times the sum": lambda answer: 1000 * answer.sum(),
}


@pytest.mark.parametrize("network", ["mlp", "conv", "residual", "branching"])
@pytest.mark.parametrize("rule", ["oja", "soft_hebb"])
def test_hidden_layers_use_nothing_of_the_loss(rule, network):
    x, _ = NETWORKS[network].batch()
    found = {}
    for label, loss in LOSSES.items():
        circuit = apical.Circuit(NETWORKS[network].build(), rule)
        found[label] = learn(circuit, x, x, lambda answer, _, loss=loss: loss(answer))
    *hidden, readout = NETWORKS[network].synapses
    first = found["cross-entropy"]
    for label, gradients in found.items():
        for path in hidden:
            assert torch.equal(gradients[f"model.{path}.weight"], first[f"model.{path}.weight"]), label
        if label != "cross-entropy":
            assert not torch.equal(gradients[f"model.{readout}.weight"], first[f"model.{readout}.weight"])


# Three factors


def drawn(rule: ThreeFactor, monkeypatch) -> list[Tensor]:
    """The noise of the coming forward passes, in the order of the draws."""
    found: list[Tensor] = []
    draw = rule.randomness.noise
    monkeypatch.setattr(rule.randomness, "noise", lambda shape, like: found.append(draw(shape, like)) or found[-1])
    return found


def test_three_factors_multiply_noise_input_and_reward(monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    rule, x = ThreeFactor(noise=0.2), torch.randn(7, 5, dtype=torch.float64)
    circuit, actions = apical.Circuit(model, rule).double(), torch.arange(7) % 3
    rewards = torch.tensor([1.0, 0.0, 0.3, -2.0, 1.5, 0.0, 0.7], dtype=torch.float64)
    rule.mean_reward.fill_(0.25)
    noise = drawn(rule, monkeypatch)
    q = circuit(x)
    apical.losses.reward_prediction(q, action=actions, reward=rewards).backward()
    below = [x.numpy()]
    for place, xi in zip((0, 2), noise, strict=True):
        drive = below[-1] @ numpy(model[place].weight).T + numpy(model[place].bias) + 0.2 * xi.numpy()
        below.append(np.tanh(drive) if place == 0 else np.maximum(drive, 0))
        weight, bias = np.zeros(model[place].weight.shape), np.zeros(len(model[place].bias))
        for sample in range(7):
            third = rewards[sample].item() - 0.25
            for j in range(len(bias)):
                bias[j] += third * 0.2 * xi[sample, j] / 7
                for i in range(weight.shape[1]):
                    weight[j, i] += third * 0.2 * xi[sample, j] * below[-2][sample, i] / 7
        agree(changes(model[place]), (weight, bias))
    np.testing.assert_allclose(numpy(q), below[-1] @ numpy(model[4].weight).T + numpy(model[4].bias), rtol=1e-12)
    assert float(rule.mean_reward) == pytest.approx(0.25 + 0.1 * (float(rewards.mean()) - 0.25))
    assert len(noise) == 2


def test_three_factors_use_the_reward_of_any_action_and_no_more():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).double(), torch.randn(8, 6).double()

    def hidden(actions: Tensor, mean: float = 0.0) -> Tensor:
        model.zero_grad()
        circuit = apical.Circuit(model, ThreeFactor())
        circuit.rule.mean_reward.fill_(mean)
        apical.losses.reward_prediction(circuit(x), action=actions, reward=torch.ones(8)).backward()
        return model[0].weight.grad.clone()

    first, second = hidden(torch.arange(8) % 4), hidden(torch.zeros(8, dtype=torch.int64))
    assert first.any()
    torch.testing.assert_close(first, second)
    assert hidden(torch.zeros(8, dtype=torch.int64), mean=1.0).abs().max() < 1e-6 * first.abs().max()


def test_exploration_is_for_training():
    model, x = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 4)), torch.randn(8, 6)
    circuit = apical.Circuit(model, ThreeFactor(noise=1.0))
    assert not torch.allclose(circuit(x), model(x))
    with torch.no_grad():
        assert torch.equal(circuit(x), model(x))
    circuit.eval()
    torch.testing.assert_close(circuit(x), model(x))


def test_hidden_synapses_learn_from_reward_alone():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3)), torch.randn(64, 6)
    labels = (model(x) + torch.randn(64, 3)).argmax(1)
    circuit = apical.Circuit(model, ThreeFactor(noise=0.3))
    model[2].requires_grad_(False)
    optimizer = torch.optim.SGD(model[0].parameters(), lr=1.0)

    def correct() -> float:
        return float((model(x).argmax(1) == labels).float().mean())

    before = correct()
    for _ in range(600):
        optimizer.zero_grad()
        apical.losses.reward_prediction(circuit(x), labels, policy="greedy").backward()
        optimizer.step()
    assert correct() > before + 0.2


@pytest.mark.parametrize(("rule", "least"), [(Oja, 85), (SoftHebb, 85)])
def test_updates_stand_at_right_angles_to_the_gradient(rule, least):
    """On average over hidden layers and networks: by chance one layer may be a few degrees off."""
    angles = []
    for seed in range(6):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(40, 50), nn.Tanh(), nn.Linear(50, 50), nn.Tanh(), nn.Linear(50, 5))
        x, y = torch.randn(64, 40), torch.randint(0, 5, (64,))
        loss = loss_of(circuit := apical.Circuit(model, rule()))
        *hidden, readout = measure.alignment(circuit, x, y, loss).values()
        assert readout < 0.1
        angles += hidden
    assert least < np.mean(angles) < 95
    assert all(70 < angle < 110 for angle in angles)


def test_the_read_out_may_learn_by_the_hebbian_rule_too():
    model = nn.Sequential(nn.Linear(6, 5), nn.PReLU(), nn.Linear(5, 4), nn.PReLU())
    x = torch.randn(8, 6)
    found = []
    for scale in (0.0, 1.0):
        model.zero_grad()
        (scale * apical.Circuit(model, SoftHebb(readout=False))(x).square().sum()).backward()
        found.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert found[0][0].any()
    assert found[0][3].any()
    assert not model[1].weight.grad.any()
    assert not model[3].weight.grad.any()


@every_class
def test_one_unsupervised_epoch_and_then_a_read_out(rule):
    """Freezing is all that a protocol in two parts needs."""
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    circuit = apical.Circuit(model, rule())
    x, y = torch.randn(8, 6), torch.arange(8) % 4
    for learns, rests in ((model[0], model[2]), (model[2], model[0])):
        rests.requires_grad_(False)
        circuit.zero_grad()
        loss_of(circuit)(circuit(x), y).backward()
        assert learns.weight.grad.any()
        assert rests.weight.grad is None
        rests.requires_grad_(True)


# Refusals


@every_class
def test_a_network_without_hidden_layers_is_refused(rule):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Softmax(1))
    with pytest.raises(CircuitError, match=rf"every layer.*{rule.__name__}\(readout=False\)"):
        apical.Circuit(model, rule())
    apical.Circuit(model, rule(readout=False))(torch.randn(5, 4))[:, 1].sum().backward()
    assert model[1].weight.grad.any()


@every_class
def test_the_input_cannot_be_taught(rule):
    with pytest.raises(CircuitError, match=r"teach_input=True.*no error"):
        apical.Circuit(NETWORKS["mlp"].build(), rule(), teach_input=True)


def test_one_unit_cannot_compete():
    model = nn.Sequential(nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, 3))
    with pytest.raises(CircuitError, match=r"^0: SoftHebb lets the units.*this layer has one"):
        apical.Circuit(model, "soft_hebb")
    apical.Circuit(model, "oja")(torch.randn(5, 4)).sum().backward()
    assert model[0].weight.grad.any()


def test_a_third_factor_reaches_the_drive_of_its_own_sample_wherever_the_batch_is(monkeypatch):
    """As many moments as samples, so that nothing but the axis tells them apart; the rate has the batch elsewhere."""

    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.hidden, self.readout = nn.Linear(4, 4), nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.readout(self.hidden(self.stem(x).tanh()).transpose(0, 1).mean(1))

    torch.manual_seed(0)
    model, x = Turned().double(), torch.randn(5, 5, 4, dtype=torch.float64)  # (time, batch, ...)
    rule, rewards = ThreeFactor(), torch.tensor([1.0, 0.0, 0.3, -2.0, 1.5], dtype=torch.float64)
    noise = drawn(rule, monkeypatch)
    q = apical.Circuit(model, rule, batch_axis=1)(x)
    apical.losses.reward_prediction(q, action=torch.arange(5) % 3, reward=rewards).backward()
    stem = (model.stem(x).detach() + rule.noise * noise[0]).tanh()
    for layer, pre, xi in ((model.stem, x, noise[0]), (model.hidden, stem, noise[1])):
        post = rewards[None, :, None] * rule.noise * xi / 25
        expected = torch.einsum("tbj,tbi->ji", post, pre), post.sum((0, 1))
        agree(changes(layer), tuple(part.numpy() for part in expected))


def test_a_third_factor_needs_the_batch():
    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.readout = nn.Linear(4, 6), nn.Linear(18, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.readout(self.hidden(x.reshape(-1, 4)).tanh().reshape(-1, 18))

    with pytest.raises(CircuitError, match=r"^hidden: ThreeFactor .*5 samples.*\(15, 6\)"):
        apical.Circuit(Folded(), ThreeFactor())(torch.randn(5, 12))[:, 0].sum().backward()
    circuit = apical.Circuit(Folded(), Oja())
    circuit(torch.randn(5, 12)).sum().backward()
    assert circuit.model.hidden.weight.grad.any()


def test_a_loss_that_tells_more_than_a_reward_is_refused():
    x, y = NETWORKS["mlp"].batch()
    circuit = apical.Circuit(NETWORKS["mlp"].build(), ThreeFactor())
    with pytest.raises(CircuitError, match=r"5 outputs of one sample.*apical.losses.reward_prediction"):
        F.cross_entropy(circuit(x), y).backward()
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Tanh(), nn.Linear(3, 1), nn.Flatten(0))
    with pytest.raises(CircuitError, match=r"has the shape \(8,\)"):
        apical.Circuit(model, ThreeFactor())(x).sum().backward()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"temperature": 0.0}, r"temperature=0.0 must be a positive number"),
        ({"temperature": float("inf")}, r"temperature=inf must be a positive number"),
        ({"norm_power": -0.5}, r"norm_power=-0.5 must be a number of at least 0"),
        ({"norm_power": float("nan")}, r"norm_power=nan must be a number of at least 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, told):
    with pytest.raises(ConfigError, match=told):
        SoftHebb(**options)


def test_a_decay_that_is_no_number_is_noticed():
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Tanh(), nn.Linear(3, 2)).float()
    x = torch.full((5, 4), 1e25)  # the square of a drive is beyond float32, the drive is not
    with pytest.raises(apical.errors.NonFiniteError, match=r"^0: .*Oja.*NaN or infinity"):
        apical.Circuit(model, Oja())(x).sum().backward()
