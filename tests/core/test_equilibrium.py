"""Oracles of equilibrium propagation: backpropagation, backpropagation through time, and slow references in NumPy."""

from __future__ import annotations

import copy
import gc
import itertools
import math
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from circuits import NETWORKS, gradients, learn, plain
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import apical
from apical import kernels
from apical.errors import CircuitError, ConfigError, NonFiniteError
from apical.layers import products
from apical.rules.energy.nudging import Nudge
from apical.rules.energy.relax import UnsettledWarning

Named = dict[str, Tensor]


def mlp(
    activation: type[nn.Module] = nn.Tanh, sizes: tuple[int, ...] = (12, 16, 14, 13, 5), seed: int = 0
) -> nn.Module:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, units in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, units), activation()]
    return nn.Sequential(*layers[:-1]).double()


def batch(shape: tuple[int, ...] = (12,), classes: int = 5, samples: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand((samples, *shape), generator=generator, dtype=torch.float64)
    return x, torch.randint(0, classes, (samples,), generator=generator)


def taught(model: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Named:
    """What the model's parameters learn by equilibrium propagation."""
    circuit = apical.Circuit(copy.deepcopy(model), apical.EquilibriumPropagation(**options))
    return plain(learn(circuit, x, y))


def distance(found: Named, truth: Named) -> float:
    """Of all gradients together, as a part of the truth's length."""
    assert found.keys() == truth.keys()
    apart = sum(float((found[name] - truth[name]).square().sum()) for name in truth)
    return math.sqrt(apart / sum(float(value.square().sum()) for value in truth.values()))


def slope(errors: list[float], betas: list[float]) -> float:
    return (math.log(errors[0]) - math.log(errors[-1])) / (math.log(betas[0]) - math.log(betas[-1]))


# The feed-forward form, beside backpropagation


@pytest.mark.parametrize("loss", [None, "cross_entropy"])
@pytest.mark.parametrize(("nudging", "order"), [("centered", 2), ("positive", 1), ("negative", 1), ("random", 1)])
def test_the_error_falls_with_the_nudges_order(nudging, order, loss):
    model, (x, y), betas = mlp(), batch(), [0.02, 0.01, 0.005]
    truth = learn(model, x, y)
    errors = [distance(taught(model, x, y, nudging=nudging, loss=loss, beta=b, sweeps=12), truth) for b in betas]
    assert slope(errors, betas) == pytest.approx(order, abs=0.1)


def test_the_default_is_backpropagation_in_single_precision():
    for name in ("mlp", "deep_tanh", "line", "nested", "branching"):
        network = NETWORKS[name]
        model, (x, y) = network.build(), network.batch()
        assert distance(taught(model, x, y), learn(model, x, y)) < 3e-6


def test_a_rectifying_network_at_the_prototypes_settings():
    model, (x, y) = mlp(nn.ReLU, (64, 128, 128, 10)), batch((64,), 10, 32)
    assert distance(taught(model, x, y, beta=1e-3, sweeps=12), learn(model, x, y)) < 6.6e-7


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.wide = nn.Conv2d(8, 4, 3, stride=2)
        self.readout = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        x = torch.tanh(x + self.second(torch.tanh(self.norm(self.first(x)))))
        x = F.avg_pool2d(torch.cat([x, x * 0.5], 1), 2, 1)
        return self.readout(torch.flatten(F.softplus(self.wide(x)), 1))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("schedule", ["asynchronous", "synchronous"])
def test_a_residual_network_learns_its_gradient(schedule, training):
    torch.manual_seed(0)
    model, (x, y), betas = Residual().double().train(training), batch((2, 6, 6)), [0.008, 0.004]
    truth = learn(copy.deepcopy(model), x, y)
    errors = [distance(taught(model, x, y, beta=b, schedule=schedule), truth) for b in betas]
    assert errors[-1] < 1e-3
    assert slope(errors, betas) == pytest.approx(2, abs=0.3)


def test_running_statistics_move_once_and_masks_are_the_free_passs():
    network = NETWORKS["conv"]
    model, (x, y) = network.build().double(), network.batch()
    twin = copy.deepcopy(model)
    found, truth = taught(model, x.double(), y, beta=1e-6), learn(twin, x.double(), y)
    circuit = apical.Circuit(model, apical.EquilibriumPropagation())
    learn(circuit, x.double(), y)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), twin.buffers(), strict=True))
    assert distance(found, truth) < 1e-4


# The feed-forward form, beside the paper's equations


def weights_of(model: nn.Module) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        (module.weight.detach().numpy(), module.bias.detach().numpy())
        for module in model.modules()
        if isinstance(module, nn.Linear)
    ]


def softmax(y: np.ndarray) -> np.ndarray:
    powers = np.exp(y - y.max())
    return powers / powers.sum()


class Carried:
    """What a slow reference carries: the energies of every layer and sample, and the parts of the residual.

    Attributes:
        energies: by layer, of every sample in turn, the mean over the nudges.
        moved: the squared lengths of the last step, summed.
        whole: of the whole way, likewise.
    """

    def __init__(self) -> None:
        self.energies: dict[int, list[float]] = {}
        self.moved = self.whole = 0.0

    def add(self, moved: np.ndarray, whole: np.ndarray) -> None:
        self.moved += float((moved**2).sum())
        self.whole += float((whole**2).sum())


def reference(
    model: nn.Module, x: Tensor, y: Tensor, betas: list[float], sweeps: int, carried: Carried | None = None
) -> list[np.ndarray]:
    """Kerjan et al. 2026, sample by sample: even layers, then odd, by mod-PGD; then dF/dW, batch mean."""
    weights = weights_of(model)
    top = len(weights)
    carried = Carried() if carried is None else carried

    def drive(h: list[np.ndarray], k: int) -> np.ndarray:
        return weights[k - 1][0] @ h[k - 1] + weights[k - 1][1]

    def rate(a: np.ndarray, k: int) -> np.ndarray:
        return a if k == top else np.maximum(a, 0)

    def pull(h: list[np.ndarray], k: int) -> np.ndarray:
        """J_k^T eps_k"""
        a = drive(h, k)
        gate = np.ones_like(a) if k == top else (a > 0).astype(float)
        return weights[k - 1][0].T @ (gate * (h[k] - rate(a, k)))

    total = [np.zeros_like(weight) for weight, _ in weights]
    for sample, label in zip(x.numpy(), y.numpy(), strict=True):
        target = np.eye(len(weights[-1][1]))[label]
        for beta in betas:
            h = [sample]
            for k in range(1, top + 1):
                h.append(rate(drive(h, k), k))
            signals: dict[int, np.ndarray] = {}
            for sweep in range(sweeps):
                for parity in (0, 1):
                    moved = {}
                    for k in range(1, top + 1):
                        if (top - k) % 2 != parity:
                            continue
                        signal = softmax(h[top]) - target if k == top else -pull(h, k + 1) / beta
                        moved[k] = rate(drive(h, k) - beta * signal, k)
                        if beta == betas[0] and sweep == sweeps - 1:
                            carried.add(signal - signals[k], signal)
                        signals[k] = signal
                    for k, state in moved.items():
                        h[k] = state
            for k in range(1, top + 1):
                a = drive(h, k)
                gate = np.ones_like(a) if k == top else (a > 0).astype(float)
                change = -np.outer(gate * (h[k] - rate(a, k)), h[k - 1])
                energy = ((h[k] - rate(a, k)) ** 2).sum() / 2 / len(betas)
                before = carried.energies.setdefault(k, []) if beta == betas[0] else carried.energies[k]
                if beta == betas[0]:
                    before.append(0.0)
                before[-1] += float(energy)
                total[k - 1] += change / (beta * len(betas) * len(x))
    return total


@pytest.mark.parametrize(("nudging", "signs"), [("centered", (1, -1)), ("positive", (1,)), ("negative", (-1,))])
@pytest.mark.parametrize("beta", [0.3, 0.01])
def test_the_feedforward_form_settles_where_the_papers_does(nudging, signs, beta):
    model, (x, y) = mlp(nn.ReLU), batch()
    found = taught(model, x, y, nudging=nudging, beta=beta, loss="cross_entropy", sweeps=60)
    expected = reference(model, x, y, [sign * beta for sign in signs], 60)
    weights = [value for name, value in found.items() if name.endswith("weight")]
    for ours, theirs in zip(weights, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-7, atol=1e-9)


def test_clamping_does_not_converge_to_the_gradient():
    model, (x, y) = mlp(), batch()
    truth = learn(model, x, y)
    errors = {
        nudging: [
            distance(taught(model, x, y, nudging=nudging, beta=beta, step=0.3, sweeps=60), truth)
            for beta in (1e-2, 1e-4)
        ]
        for nudging in ("centered", "clamped")
    }
    assert errors["centered"][1] < 1e-6
    assert all(error > 0.05 for error in errors["clamped"])
    assert errors["clamped"][0] == pytest.approx(errors["clamped"][1], rel=1e-2)


# Complex nudges


@pytest.mark.parametrize("network", ["feedforward", "hopfield"])
@pytest.mark.parametrize("points", [2, 4, 6])
def test_the_error_of_n_points_is_of_order_n(network, points):
    model, (x, y) = mlp(nn.Sigmoid, (12, 16, 14, 5)), batch()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    betas = [2.0, 1.0] if network == "hopfield" else [0.8, 0.4]
    steps = {"sweeps": 60} if network == "feedforward" else {"free_steps": 200, "nudged_steps": 200}
    options: dict[str, Any] = {"network": network, "nudging": "holomorphic", "loss": "cross_entropy", **steps}
    truth = taught(model, x, y, points=12, beta=betas[-1] / 2, **options)
    errors = [distance(taught(model, x, y, points=points, beta=beta, **options), truth) for beta in betas]
    assert slope(errors, betas) == pytest.approx(points, abs=0.6)


def test_the_error_of_n_points_is_of_order_n_where_the_loss_is_linear():
    """The derivative of a linear loss is real, where states and rates are complex."""
    model, (x, y) = mlp(nn.Tanh, (12, 16, 14, 14, 5)), batch()
    weight = torch.randn(6, 5, dtype=torch.float64)
    grads = []
    for beta in (None, 0.4, 0.2):
        rule = apical.EquilibriumPropagation(nudging="holomorphic", points=4, beta=beta, sweeps=60)
        circuit = apical.Circuit(copy.deepcopy(model), "backprop" if beta is None else rule)
        grads.append(learn(circuit, x, y, lambda output, _: (output * weight).sum() / len(weight)))
    errors = [distance(found, grads[0]) for found in grads[1:]]
    assert slope(errors, [0.4, 0.2]) == pytest.approx(4, abs=0.2)


@pytest.mark.parametrize("network", ["feedforward", "hopfield"])
def test_two_points_are_the_centred_nudge(network):
    model, (x, y) = mlp(), batch()
    two = taught(model, x, y, network=network, nudging="holomorphic", points=2, step=0.5, sweeps=9)
    centred = taught(model, x, y, network=network, step=0.5, sweeps=9)
    assert distance(two, centred) < 1e-12
    # In the limit all numbers of points agree, with the linearised loss, too.
    four = taught(model, x, y, network=network, nudging="holomorphic", points=4, beta=1e-4, sweeps=9, nudged_steps=60)
    two = taught(model, x, y, network=network, nudging="holomorphic", points=2, beta=1e-4, sweeps=9, nudged_steps=60)
    assert distance(two, four) < 1e-6


# Hopfield networks, beside backpropagation through time


def by_time(model: nn.Sequential, x: Tensor, y: Tensor, free: int, steps: int) -> tuple[Named, Tensor]:
    """Synchronous steps s <- sigma(dPhi/ds) by autograd, and the loss's gradient through the last of them."""
    groups: list[list[nn.Module]] = []
    for module in model:
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            groups.append([module])
        else:
            groups[-1].append(module)
    hidden, (readout,) = groups[:-1], groups[-1]
    activations = (nn.Sigmoid, nn.Tanh, nn.Hardtanh)

    def through(modules: list[nn.Module], value: Tensor, active: bool) -> Tensor:
        for module in modules:
            if isinstance(module, activations) == active:
                value = module(value)
        return value

    def step(states: list[Tensor]) -> list[Tensor]:
        states = [state if state.requires_grad else state.detach().requires_grad_() for state in states]
        below = [x, *states[:-1]]
        phi = sum((s * through(g, b, False)).sum() for s, g, b in zip(states, hidden, below, strict=True))
        force = torch.autograd.grad(phi, states, create_graph=True)
        return [through(group, value, True) for group, value in zip(hidden, force, strict=True)]

    states, pre = [], x
    for group in hidden:
        pre = torch.zeros_like(through(group, pre, False)).detach()
        states.append(pre)
    for _ in range(free):
        states = [state.detach() for state in step(states)]
    for _ in range(steps):
        states = step(states)
    answer = readout(states[-1])
    names = dict(model.named_parameters())
    found = torch.autograd.grad(F.cross_entropy(answer, y), list(names.values()), allow_unused=True)
    learned = [torch.zeros_like(p) if g is None else g for p, g in zip(names.values(), found, strict=True)]
    return dict(zip(names, learned, strict=True)), answer.detach()


def settling_conv() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.Hardtanh(0.0, 1.0), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 6, 3, padding=1), nn.AvgPool2d(2), nn.Sigmoid(), nn.Flatten()),
        nn.Linear(24, 5),
    ).double()


SETTLING: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "sigmoid": (lambda: mlp(nn.Sigmoid), (12,)),
    "hard": (lambda: mlp(lambda: nn.Hardtanh(0.0, 1.0)), (12,)),  # type: ignore[arg-type]
    "conv": (settling_conv, (1, 8, 8)),
}


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
@pytest.mark.parametrize("name", SETTLING)
def test_a_hopfield_network_is_backpropagation_through_time_step_by_step(name, steps):
    make, shape = SETTLING[name]
    model, (x, y) = make(), batch(shape)
    truth, answer = by_time(model, x, y, 200, steps)
    options: dict[str, Any] = {
        **{"network": "hopfield", "schedule": "synchronous", "free_steps": 200, "nudged_steps": steps},
        **{"beta": 1e-3, "tolerance": 10.0},
    }
    circuit = apical.Circuit(copy.deepcopy(model), apical.EquilibriumPropagation(**options))
    torch.testing.assert_close(circuit(x).detach(), answer, rtol=0, atol=1e-9)
    assert distance(plain(learn(circuit, x, y)), truth) < 1e-6
    one_sided = taught(model, x, y, nudging="positive", **options)
    assert 1e-6 < distance(one_sided, truth) < 1e-2


def hopfield_reference(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    betas: list[float],
    free: int,
    nudged: int,
    carried: Carried | None = None,
) -> list[np.ndarray]:
    """Laborieux et al. 2021, sample by sample: even layers, then odd; dPhi/dW compared under two nudges."""
    carried = Carried() if carried is None else carried
    *hidden, (out, bias) = weights_of(model)
    total = [np.zeros_like(weight) for weight, _ in (*hidden, (out, bias))]
    for sample, label in zip(x.numpy(), y.numpy(), strict=True):
        target = np.eye(len(bias))[label]

        def settle(states: list[np.ndarray], steps: int, beta: float) -> list[np.ndarray]:
            states = list(states)
            for _ in range(steps):
                for parity in (0, 1):
                    for place in range(parity, len(hidden), 2):
                        below = sample if place == 0 else states[place - 1]  # noqa: B023
                        force = hidden[place][0] @ below + hidden[place][1]
                        if place + 1 < len(hidden):
                            force = force + hidden[place + 1][0].T @ states[place + 1]
                        else:
                            answer = out @ states[place] + bias
                            force = force - beta * out.T @ (softmax(answer) - target)  # noqa: B023
                        states[place] = np.clip(force, 0, 1)
            return states

        start = settle([np.zeros_like(b) for _, b in hidden], free, 0.0)
        for place, (s, below) in enumerate(zip(start, [sample, *start], strict=False)):
            drive = hidden[place][0] @ below + hidden[place][1]
            carried.energies.setdefault(place, []).append(float(s @ s / 2 - s @ drive))
        for beta in betas:
            earlier = settle(start, nudged - 1, beta)
            states = settle(earlier, 1, beta)
            for now, before, first in zip(states, earlier, start, strict=True):
                carried.add(now - before, now - first)
            pres = [sample, *states]
            share = 1 / (len(betas) * len(x))
            for place, state in enumerate(states):
                still = np.outer(start[place], ([sample, *start])[place]) if len(betas) == 1 else 0
                total[place] -= share / beta * (np.outer(state, pres[place]) - still)
            total[-1] += share * np.outer(softmax(out @ states[-1] + bias) - target, states[-1])
    return total


@pytest.mark.parametrize(("nudging", "signs"), [("centered", (1, -1)), ("positive", (1,)), ("negative", (-1,))])
def test_a_hopfield_network_settles_where_the_papers_does(nudging, signs):
    model, (x, y) = mlp(lambda: nn.Hardtanh(0.0, 1.0)), batch()  # type: ignore[arg-type]
    found = taught(model, x, y, network="hopfield", nudging=nudging, beta=0.2, loss="cross_entropy", nudged_steps=7)
    expected = hopfield_reference(model, x, y, [0.2 * sign for sign in signs], 60, 7)
    weights = [value for name, value in found.items() if name.endswith("weight")]
    for ours, theirs in zip(weights, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-9, atol=1e-12)


def test_a_hopfield_circuit_answers_with_its_settled_state_wherever_it_is_asked():
    model, (x, y) = mlp(nn.Sigmoid), batch()
    circuit = apical.Circuit(model, apical.EquilibriumPropagation(network="hopfield"))
    answer = circuit(x)
    with torch.no_grad():
        assert torch.equal(circuit(x), answer)
    circuit.eval()
    assert torch.equal(circuit(x), answer)
    assert not torch.allclose(answer, model(x))
    twin = copy.deepcopy(circuit)
    with torch.no_grad():
        twin.model[0].weight.zero_()
        assert not torch.allclose(twin(x), answer)
        assert torch.equal(circuit(x), answer)
    F.cross_entropy(answer, y).backward()
    assert all(gradient.count_nonzero() for gradient in gradients(circuit).values())


@pytest.mark.parametrize("network", ["feedforward", "hopfield"])
def test_the_input_learns_by_the_same_law(network):
    model, (x, y) = mlp(nn.Sigmoid), batch()
    rule = apical.EquilibriumPropagation(network=network, nudged_steps=60, beta=1e-3)
    circuit = apical.Circuit(model, rule, teach_input=True)
    F.cross_entropy(circuit(x.requires_grad_()), y).backward()
    found, nudge, losses = x.grad[0, 0], 1e-5, []
    for shift in (nudge, -nudge):
        shifted = x.detach().clone()
        shifted[0, 0] += shift
        with torch.no_grad():
            losses.append(F.cross_entropy(circuit(shifted), y))
    assert float(found) == pytest.approx(float(losses[0] - losses[1]) / (2 * nudge), rel=1e-3)


@pytest.mark.parametrize("network", ["feedforward", "hopfield"])
def test_the_input_learns_by_the_same_law_from_complex_nudges(network):
    """Six points have an error of order beta^6 only where each counts as often as it stands for a nudge."""
    (x, y), found = batch(), []
    for options in ({"beta": 1e-3}, {"nudging": "holomorphic", "points": 6, "beta": 0.05}):
        rule = apical.EquilibriumPropagation(
            network=network, loss="cross_entropy", sweeps=20, free_steps=200, nudged_steps=100, **options
        )
        circuit = apical.Circuit(mlp(nn.Sigmoid), rule, teach_input=True)
        learned = x.clone().requires_grad_()
        F.cross_entropy(circuit(learned), y).backward()
        found.append(learned.grad)
    assert float((found[1] - found[0]).norm() / found[0].norm()) < 1e-6


class Moments(nn.Module):
    """Layers at every moment, with the batch before or after the time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.hidden, self.readout = nn.Linear(5, 6), nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(torch.sigmoid(self.hidden(torch.sigmoid(self.stem(x)))))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"nudging": "positive"},
        {"nudging": "holomorphic", "points": 4},
        {"feedback": "fixed"},
        {"feedback": "kolen_pollack", "nudging": "negative"},
        {"loss": "squared_error", "schedule": "synchronous", "step": 0.5},
    ],
    ids=str,
)
def test_a_hopfield_network_settles_wherever_the_batch_is(options):
    samples, moments = 4, 3
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, moments, 5, generator=generator, dtype=torch.float64)
    goal = torch.randn(samples, moments, 3, generator=generator, dtype=torch.float64)
    found = []
    for axis in (0, 1):
        rule = apical.EquilibriumPropagation(network="hopfield", **options)
        circuit = apical.Circuit(Moments().double(), rule, batch_axis=axis)
        answer = circuit(x.movedim(0, axis).contiguous())
        ((answer - goal.movedim(0, axis)).square().sum() / (2 * samples)).backward()
        found.append(gradients(circuit))
    assert found[0].keys() == found[1].keys()
    assert distance(found[1], found[0]) < 1e-12


def test_a_hopfield_network_without_hidden_layers_is_backpropagation():
    torch.manual_seed(0)
    model, (x, y) = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).double(), batch((3, 4))
    found = []
    for rule in (apical.EquilibriumPropagation(network="hopfield"), "backprop"):
        circuit = apical.Circuit(copy.deepcopy(model), rule, teach_input=True)
        given = x.clone().requires_grad_()
        F.cross_entropy(circuit(given), y).backward()
        assert given.grad is not None
        found.append({"input": given.grad, **gradients(circuit)})
    assert distance(found[0], found[1]) < 1e-12


@pytest.mark.parametrize(
    "activation", ["hard_sigmoid", "half_hard_sigmoid", "centered_hard_sigmoid", "shifted_sigmoid"]
)
def test_activations_by_name_take_the_models_place(activation):
    model, (x, y) = mlp(nn.GELU), batch()
    with pytest.raises(CircuitError, match="GELU"):
        taught(model, x, y, network="hopfield")
    with pytest.raises(CircuitError, match="GELU"):
        taught(model, x, y, network="hopfield", activation=activation)
    plain_model = nn.Sequential(*(module for module in model if isinstance(module, nn.Linear)))
    with pytest.raises(CircuitError, match="no activation"):
        taught(plain_model, x, y, network="hopfield")
    found = taught(plain_model, x, y, network="hopfield", activation=activation)
    assert all(torch.isfinite(gradient).all() for gradient in found.values())
    assert all(found[f"{place}.weight"].count_nonzero() for place in range(4))


SHAPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "hard_sigmoid": lambda v: np.minimum(np.maximum(v, 0), 1),
    "half_hard_sigmoid": lambda v: np.minimum(np.maximum(v / 2, 0), 1),
    "centered_hard_sigmoid": lambda v: np.minimum(np.maximum(v, -0.5), 0.5),
    "shifted_sigmoid": lambda v: 1 / (1 + np.exp(-4 * (v - 0.5))),
}


@pytest.mark.parametrize("activation", SHAPES)
def test_activations_by_name_are_the_documented_functions(activation):
    """With one hidden layer of drives from -3 to 3, silent feedback and a read-out that copies."""
    drives = torch.linspace(-3, 3, 41, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(1, 41), nn.Linear(41, 41)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model[0].bias.copy_(drives)
        model[1].weight.copy_(torch.eye(41))
    circuit = apical.Circuit(model, apical.EquilibriumPropagation(network="hopfield", activation=activation))
    with torch.no_grad():
        found = circuit(torch.zeros(1, 1, dtype=torch.float64))[0]
    np.testing.assert_allclose(found.numpy(), SHAPES[activation](drives.numpy()), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("network", "beta"), [("feedforward", 0.001), ("hopfield", 0.1)])
def test_the_default_nudge_is_the_documented_one(network, beta):
    model, (x, y) = mlp(), batch()
    options = {"network": network, "nudging": "positive"}
    default = taught(model, x, y, **options)
    assert distance(taught(model, x, y, beta=beta, **options), default) == 0
    assert distance(taught(model, x, y, beta=2 * beta, **options), default) > 1e-4 * beta


@pytest.mark.parametrize("network", ["feedforward", "hopfield"])
def test_random_nudges_have_both_signs_equally_often(network):
    model, (x, y) = mlp(), batch()
    options = {"network": network, "beta": 0.1}
    signed = {nudging: taught(model, x, y, nudging=nudging, **options) for nudging in ("positive", "negative")}
    circuit = apical.Circuit(copy.deepcopy(model), apical.EquilibriumPropagation(nudging="random", **options))
    drawn = []
    for _ in range(32):
        circuit.zero_grad()
        found = plain(learn(circuit, x, y))
        near = [nudging for nudging, expected in signed.items() if distance(found, expected) < 1e-12]
        assert len(near) == 1
        drawn += near
    assert 8 <= drawn.count("positive") <= 24


# Weights of their own


@pytest.mark.parametrize("network", ["feedforward", "hopfield"])
def test_kolen_pollack_feedback_takes_the_forward_increments(network):
    model, (x, y) = mlp(nn.Sigmoid), batch()
    options = {"network": network, "feedback": "kolen_pollack"}
    circuit = apical.Circuit(model, apical.EquilibriumPropagation(**options, init="weights"))
    found = learn(circuit, x, y)
    own = {name: value for name, value in found.items() if name.startswith("rule.")}
    assert len(own) == 3
    for name, value in own.items():
        assert torch.equal(value, found[f"model.{name.rpartition('.')[2].replace('/', '.')}.weight"])
    other = taught(model, x, y, network=network, feedback="fixed", seed=4)
    assert distance(other, plain(found)) > 0.05


class Held(TorchDispatchMode):
    """The most bytes that tensors made under it hold at any product."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[weakref.ref[Tensor]] = []
        self.products = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.made += [weakref.ref(thing) for thing in (found,) if isinstance(thing, Tensor)]
        if "mm" in func.__name__:
            self.made = [ref for ref in self.made if ref() is not None]
            storages = [thing.untyped_storage() for ref in self.made if (thing := ref()) is not None]
            self.products += 1
            # Views share a storage, and count once.
            self.most = max(self.most, sum({one.data_ptr(): one.nbytes() for one in storages}.values()))
        return found


@pytest.mark.parametrize("network", ["feedforward", "hopfield"])
def test_memory_does_not_grow_with_the_steps(network):
    found = []
    for steps in (10, 40):
        options = {"sweeps": steps} if network == "feedforward" else {"free_steps": steps, "nudged_steps": steps}
        circuit = apical.Circuit(mlp(), apical.EquilibriumPropagation(network=network, **options))
        learn(circuit, *batch())
        gc.collect()
        gc.disable()  # a cycle would keep its tensors only until it is collected
        try:
            with Held() as held:
                learn(circuit, *batch())
        finally:
            gc.enable()
        found.append(held)
    few, many = found
    assert many.products > 3 * few.products
    assert many.most == few.most > 0


# What it says


def watched(circuit: apical.Circuit, x: Tensor, y: Tensor) -> dict[str, dict[str, Tensor]]:
    """What a circuit carries in one pass, by the layer's name."""
    seen: dict[str, dict[str, Tensor]] = {}
    with circuit.observe(lambda layer, carried: seen.setdefault(layer, {}).update(carried)):
        learn(circuit, x, y)
    return seen


@pytest.mark.parametrize("network", ["feedforward", "hopfield"])
def test_what_it_carries_can_be_watched(network):
    model, (x, y) = mlp(), batch()
    seen = watched(apical.Circuit(model, apical.EquilibriumPropagation(network=network)), x, y)
    assert seen["0"].keys() == {"energy", "residual", "steps", "teaching_signal"}
    assert seen["0"]["energy"].shape == (len(x),)
    assert 0 <= float(seen["0"]["residual"]) < 0.1
    assert int(seen["0"]["steps"]) == (15 if network == "hopfield" else 3)


@pytest.mark.parametrize(("nudging", "signs"), [("centered", (1, -1)), ("positive", (1,)), ("negative", (-1,))])
@pytest.mark.parametrize("network", ["feedforward", "hopfield"])
def test_energies_and_residuals_are_the_references(network, nudging, signs):
    """Of the feed-forward form the energies once settled; the residuals of both forms on the way."""
    carried, settled, betas = Carried(), Carried(), [0.3 * sign for sign in signs]
    options: dict[str, Any] = {"network": network, "nudging": nudging, "beta": 0.3, "loss": "cross_entropy"}
    x, y = batch()
    if network == "hopfield":
        model = mlp(lambda: nn.Hardtanh(0.0, 1.0))  # type: ignore[arg-type]
        hopfield_reference(model, x, y, betas, 60, 3, carried)
        rules = [apical.EquilibriumPropagation(nudged_steps=3, tolerance=1e9, **options)]
        settled = carried
    else:
        model = mlp(nn.ReLU)
        reference(model, x, y, betas, 3, carried)
        reference(model, x, y, betas, 60, settled)
        rules = [apical.EquilibriumPropagation(sweeps=sweeps, tolerance=1e9, **options) for sweeps in (3, 60)]
    seen = [watched(apical.Circuit(copy.deepcopy(model), rule), x, y) for rule in rules]
    names = [name for name, own in seen[-1].items() if "energy" in own]
    energies = [seen[-1][name]["energy"] for name in sorted(names, key=int)]
    assert len(energies) == len(settled.energies)
    for found, expected in zip(energies, settled.energies.values(), strict=True):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-7, atol=1e-12)
    residual = math.sqrt(carried.moved / carried.whole)
    assert residual > 1e-4
    assert float(seen[0]["0"]["residual"]) == pytest.approx(residual, rel=1e-6, abs=0)


def test_a_network_that_has_not_settled_says_so_once():
    model, (x, y) = mlp(), batch()
    for options in ({"sweeps": 1}, {"network": "hopfield", "free_steps": 2}):
        circuit = apical.Circuit(copy.deepcopy(model), apical.EquilibriumPropagation(**options))
        with pytest.warns(UnsettledWarning, match=r"tolerance is 1\.0e-01.*Raise sweeps"):
            learn(circuit, x, y)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            learn(circuit, x, y)


def test_a_network_that_diverges_stops_and_says_what_to_change():
    model, (x, _) = mlp(nn.ReLU), batch()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)
    circuit = apical.Circuit(model, apical.EquilibriumPropagation(network="hopfield", free_steps=2000))
    with pytest.raises(NonFiniteError, match=r"has diverged: after 2000 steps.*activation='hard_sigmoid'"):
        circuit(x)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Sigmoid(), nn.Linear(4, 2)), "no place for BatchNorm1d"),
        (nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Dropout(), nn.Linear(4, 2)), "no place for Dropout"),
        (nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.ReLU(), nn.Linear(4, 2)), "one activation a layer"),
        (nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 2), nn.Softmax(1)), "reads its answer out"),
        (NETWORKS["branching"].build(), "rates part or meet"),
        (
            nn.Sequential(nn.Conv1d(1, 2, 3), nn.Sigmoid(), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(2, 2)),
            "Put the pooling before the activation",
        ),
    ],
)
def test_what_does_not_settle_is_refused_with_a_remedy(module, message):
    with pytest.raises(CircuitError, match=message):
        apical.Circuit(module, apical.EquilibriumPropagation(network="hopfield"))


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) + self.other(x)


def test_what_has_no_complex_derivative_is_refused():
    for network in ("feedforward", "hopfield"):
        rule = apical.EquilibriumPropagation(network=network, nudging="holomorphic")
        with pytest.raises(CircuitError, match=r"no derivative in the complex plane.*centered"):
            apical.Circuit(mlp(nn.ReLU), rule)
    with pytest.raises(CircuitError, match=r"RReLU draws other random numbers.*nn\.Dropout"):
        apical.Circuit(mlp(nn.RReLU), "equilibrium_propagation")
    with pytest.raises(CircuitError, match="read off a junction"):
        apical.Circuit(Doubled(), apical.EquilibriumPropagation(nudging="clamped"))


@pytest.mark.parametrize(
    "options",
    [
        {"network": "recurrent"},
        {"nudging": "centred"},
        {"points": 3},
        {"beta": 0.0},
        {"beta": float("nan")},
        {"sweeps": 0},
        {"nudged_steps": 1.5},
        {"schedule": "odd"},
        {"step": 0.0},
        {"activation": "relu"},
        {"loss": "l1"},
        {"feedback": "random"},
        {"init": "zeros"},
        {"tolerance": 0.0},
        {"network": "hopfield", "nudging": "clamped"},
    ],
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ConfigError, match=f"EquilibriumPropagation: {list(options)[-1]}="):
        apical.EquilibriumPropagation(**options)


def _half_the_squared_distance(y: Tensor, target: Tensor, reduction: str) -> Tensor:
    total = 0.5 * (y - target).square().sum()
    return total if reduction == "sum" else total / len(y)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)])
@pytest.mark.parametrize(
    ("name", "loss"),
    [("cross_entropy", F.cross_entropy), ("mse", F.mse_loss), ("squared_error", _half_the_squared_distance)],
)
def test_a_nudge_knows_the_loss_without_its_target(name, loss, shape, reduction):
    torch.manual_seed(0)
    free, other = torch.randn(shape, dtype=torch.float64), torch.randn((2, *shape), dtype=torch.float64)
    target = torch.randn(shape, dtype=torch.float64)
    if name == "cross_entropy":
        target = torch.randint(0, 5, (shape[0], *shape[2:]))

    def derivative(y: Tensor) -> Tensor:
        y = y.clone().requires_grad_()
        return torch.autograd.grad(loss(y, target, reduction=reduction), y)[0]

    samples = 1 if reduction == "sum" else 6
    nudge = Nudge(name, free, derivative(free), samples, mean=reduction == "mean")
    for ours, y in zip(nudge(other), other, strict=True):
        torch.testing.assert_close(ours, samples * derivative(y), rtol=1e-12, atol=1e-14)
    constant = Nudge(None, free, derivative(free), samples, mean=reduction == "mean")
    assert torch.equal(constant(other), samples * derivative(free))


def test_products_by_onednn_are_the_same_products(monkeypatch):
    """Where the processor has AVX-512; elsewhere both ways are one."""
    torch.manual_seed(0)
    layer = nn.Linear(256, 160)
    wiring = apical.Circuit(nn.Sequential(layer, nn.Tanh(), nn.Linear(160, 3)), apical.Backprop()).wiring
    pre, post = torch.randn(64, 256), torch.randn(64, 160)
    own = wiring.layers[0].synapses
    with torch.no_grad():
        if torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.backends.mkldnn.is_available():
            assert products.by_onednn(own, pre, layer.weight)
        found = products.forward(own, pre), products.transpose_product(own, post, layer.weight, pre)
        monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
        assert not products.by_onednn(own, pre, layer.weight)
        torch.testing.assert_close(
            found, (products.forward(own, pre), products.transpose_product(own, post, layer.weight, pre))
        )
        monkeypatch.undo()
    torch.testing.assert_close(found[0], layer(pre))
    torch.testing.assert_close(found[1], post @ layer.weight)
    assert not products.by_onednn(own, pre, layer.weight), "the operator has no derivative"


@pytest.mark.parametrize("shape", [(-1,), (2, -1), (1, 2, 1, 1, 1, -1)])
def test_tanh_by_numpy_is_the_same_function(shape):
    x = torch.cat([torch.logspace(-37, 2, 100_000), torch.linspace(0, 12, 100_000)])
    x = torch.cat([x, -x, torch.tensor([0.0, 1e-42, math.inf, -math.inf])]).view(shape)
    with torch.no_grad():
        torch.testing.assert_close(kernels.tanh(x).double(), x.double().tanh(), rtol=2e-7, atol=1e-44)
        torch.testing.assert_close(kernels.tanh(x[..., ::3]), x[..., ::3].tanh())
        assert kernels.tanh(torch.full((5000,), math.nan)).isnan().all()
        for other in (x.double(), x.bfloat16(), x[..., :9]):
            assert torch.equal(kernels.tanh(other), other.tanh())
    assert kernels.tanh(x.requires_grad_()).requires_grad, "NumPy's has no derivative"
