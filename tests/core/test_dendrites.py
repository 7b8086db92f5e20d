"""Learning by dendrites: the papers' equations in loops, their identities, and the limits in which they are known."""

from __future__ import annotations

import copy
import itertools
import re
import warnings

import numpy as np
import pytest
import torch
from circuits import NETWORKS, assert_same, circuit_of, learn, plain
from torch import Tensor, nn

import apical
from apical import DendriticMicrocircuit, SegregatedDendrites
from apical.errors import CircuitError, ConfigError
from apical.feedback import Direct
from apical.rules.dendrites import steady_state

SIZES = (4, 6, 5, 3)
G = {"leak": 0.1, "basal": 1.0, "apical": 0.8, "dendritic": 1.0, "somatic": 0.8, "teaching": 0.8}
OTHER = {"leak": 0.2, "basal": 0.9, "apical": 0.5, "dendritic": 0.7, "somatic": 0.6, "teaching": 0.3}


def chain(seed: int = 0, function: type[nn.Module] = nn.Tanh, sizes: tuple[int, ...] = SIZES) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, units in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, units), function()]
    return nn.Sequential(*layers[:-1]).double()


def batch(samples: int = 5, seed: int = 1, sizes: tuple[int, ...] = SIZES) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, sizes[0], generator=generator, dtype=torch.float64)
    return x, torch.randn(samples, sizes[-1], generator=generator, dtype=torch.float64)


def half_squares(answer: Tensor, target: Tensor) -> Tensor:
    """Half the squared error, a mean over the batch: minus its derivative is what is lacking to the target."""
    return 0.5 * (answer - target).square().sum(1).mean()


def no_teacher(answer: Tensor, target: Tensor) -> Tensor:
    return (answer * 0).sum()


def taught(circuit: nn.Module, x: Tensor, target: Tensor, loss=half_squares) -> dict[str, Tensor]:
    circuit.zero_grad()
    loss(circuit(x), target).backward()
    return {name: p.grad.clone() for name, p in circuit.named_parameters() if p.grad is not None}


def observed(circuit: apical.Circuit, x: Tensor, target: Tensor, loss=half_squares) -> dict[str, dict[str, Tensor]]:
    seen: dict[str, dict[str, Tensor]] = {}
    with circuit.observe(lambda layer, quantities: seen.setdefault(layer, {}).update(quantities)):
        taught(circuit, x, target, loss)
    return seen


def flat(found: dict[str, Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for _, gradient in sorted(found.items())])


def apart(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The difference, relative to what is expected."""
    assert found.keys() == expected.keys()
    return float((flat(found) - flat(expected)).norm() / flat(expected).norm())


def disturbed(circuit: apical.Circuit, size: float = 0.1) -> apical.Circuit:
    """Out of the self-predicting state."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in circuit.rule.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return circuit


# The microcircuit in the paper's own units, written from its equations


class Paper:
    """Sacramento et al.'s network: conductances, and synapses before attenuation. A sample at a time."""

    def __init__(self, circuit: apical.Circuit, g: dict[str, float], phi=np.tanh) -> None:
        self.g_lk, self.g_B, self.g_A = g["leak"], g["basal"], g["apical"]
        self.g_D, self.g_som, self.g_trgt = g["dendritic"], g["somatic"], g["teaching"]
        self.phi = [phi] * (len(circuit.layers) - 1) + [lambda u: u]
        self.N = len(circuit.layers)
        rule, state = circuit.rule, {}
        tables = {"top_down": rule.pathway.weights, "interneurons": rule.interneuron_weights}
        for kind, table in {**tables, "inhibition": rule.inhibition}.items():
            state[kind] = [table[lay].detach().numpy() if lay in table else None for lay in circuit.layers]
        own = rule.interneuron_weights
        state["biases"] = [own.synapses(lay).bias.detach().numpy() if lay in own else None for lay in circuit.layers]
        self.W, self.b, self.WIP, self.bIP, self.WTD, self.WPI = [], [], [], [], [], []
        for k, layer in enumerate(circuit.layers):
            basal = self.attenuation(k)
            self.W.append(layer.weight.detach().numpy() / basal)
            self.b.append(layer.synapses.bias.detach().numpy() / basal)
            dendritic = self.g_D / (self.g_lk + self.g_D)
            weights, biases = state["interneurons"][k], state["biases"][k]
            self.WIP.append(None if weights is None else weights / dendritic)
            self.bIP.append(None if biases is None else biases / dendritic)
            td = state["top_down"][k]
            self.WTD.append(None if td is None else td.T)
            self.WPI.append(None if td is None else -td.T)
            if state["inhibition"][k] is not None:
                self.WPI[k] = state["inhibition"][k].T

    def attenuation(self, k: int) -> float:
        """g_B / (g_lk + g_B + g_A), without g_A at the output."""
        return self.g_B / (self.g_lk + self.g_B + (0 if k == self.N - 1 else self.g_A))

    def forward(self, x: np.ndarray) -> list[np.ndarray]:
        """What each soma settles at with silent apical dendrites and no teacher."""
        r, u = x, []
        for k in range(self.N):
            u.append(self.attenuation(k) * (self.W[k] @ r + self.b[k]))
            r = self.phi[k](u[k])
        return u

    def euler(self, x: np.ndarray, target: np.ndarray | None, dt: float = 0.1, steps: int = 3000):
        """The full dynamics, from rest. Interneurons of layer k + 1's mirror have the index k + 1."""
        N, g_trgt = self.N, 0.0 if target is None else self.g_trgt
        u = [np.zeros(len(b)) for b in self.b]
        uI = [np.zeros(len(b)) for b in self.b]
        vA = [np.zeros(len(b)) for b in self.b]
        for _ in range(steps):
            r = [self.phi[k](u[k]) for k in range(N)]
            du, duI = [], [np.zeros(1)]
            for k in range(N):
                vB = self.W[k] @ (x if k == 0 else r[k - 1]) + self.b[k]
                if k == N - 1:
                    push = g_trgt * (target - u[k]) if target is not None else 0.0
                else:
                    vA[k] = self.WTD[k + 1] @ r[k + 1] + self.WPI[k + 1] @ self.phi[k + 1](uI[k + 1])
                    push = self.g_A * (vA[k] - u[k])
                du.append(-self.g_lk * u[k] + self.g_B * (vB - u[k]) + push)
                if k > 0:
                    vI = self.WIP[k] @ r[k - 1] + self.bIP[k]
                    duI.append(-self.g_lk * uI[k] + self.g_D * (vI - uI[k]) + self.g_som * (u[k] - uI[k]))
            u = [a + dt * b for a, b in zip(u, du, strict=True)]
            uI = [uI[0], *(a + dt * b for a, b in zip(uI[1:], duI[1:], strict=True))]
        return u, uI, vA

    def two_step(self, x: np.ndarray, target: np.ndarray):
        """The shortcut of the paper's MNIST result."""
        N = self.N
        forward = self.forward(x)
        pres = [x, *(self.phi[k](forward[k]) for k in range(N - 1))]
        lambda_N = self.g_trgt / (self.g_lk + self.g_B + self.g_trgt)
        lambda_k = self.g_A / (self.g_lk + self.g_B + self.g_A)
        lambda_I = self.g_som / (self.g_lk + self.g_D + self.g_som)
        u, uI, vA = list(forward), [None] * N, [None] * N
        u[N - 1] = (1 - lambda_N) * forward[N - 1] + lambda_N * target
        for k in range(N - 2, -1, -1):
            vI = self.g_D / (self.g_lk + self.g_D) * (self.WIP[k + 1] @ pres[k + 1] + self.bIP[k + 1])
            uI[k + 1] = (1 - lambda_I) * vI + lambda_I * u[k + 1]
            vA[k] = self.WTD[k + 1] @ self.phi[k + 1](u[k + 1]) + self.WPI[k + 1] @ self.phi[k + 1](uI[k + 1])
            u[k] = forward[k] + lambda_k * vA[k]
        return u, uI, vA, pres


def mixing(g: dict[str, float]) -> tuple[float, float, float]:
    return (
        g["teaching"] / (g["leak"] + g["basal"] + g["teaching"]),
        g["apical"] / (g["leak"] + g["basal"] + g["apical"]),
        g["somatic"] / (g["leak"] + g["dendritic"] + g["somatic"]),
    )


@pytest.mark.parametrize("g", [G, OTHER], ids=["paper", "other"])
@pytest.mark.parametrize("function", [nn.Tanh, nn.Sigmoid])
@pytest.mark.parametrize("interneurons", ["learned", "reciprocal"])
def test_two_steps_in_loops(g, function, interneurons):
    phi = {nn.Tanh: np.tanh, nn.Sigmoid: lambda u: 1 / (1 + np.exp(-u))}[function]
    rule = DendriticMicrocircuit(cancellation_rate=0.3, prediction_rate=0.7, interneurons=interneurons, **g)
    circuit = disturbed(apical.Circuit(chain(function=function), rule))
    x, target = batch()
    found = taught(circuit, x, target)
    paper, samples = Paper(circuit, g, phi), len(x)
    lambda_N, lambda_k, lambda_I = mixing(g)
    gains = [lambda_N * ((1 - lambda_I) * lambda_k) ** depth for depth in (2, 1, 0)]
    expected = {name: np.zeros(gradient.shape) for name, gradient in found.items()}
    for sample, goal in zip(x.numpy(), target.numpy(), strict=True):
        u, uI, vA, pres = paper.two_step(sample, goal)
        free = paper.forward(sample)
        for k, path in enumerate(("0", "2", "4")):
            phi_k = paper.phi[k]
            change = (phi_k(u[k]) - phi_k(free[k])) / gains[k]
            expected[f"model.{path}.weight"] -= np.outer(change, pres[k]) / samples
            expected[f"model.{path}.bias"] -= change / samples
            if k == 0:
                continue
            vI = g["dendritic"] / (g["leak"] + g["dendritic"]) * (paper.WIP[k] @ pres[k] + paper.bIP[k])
            if interneurons == "learned":
                lesson = 0.7 * (phi_k(uI[k]) - phi_k(vI)) / (gains[k] * lambda_I)
            else:
                untaught = (1 - lambda_I) * vI + lambda_I * free[k]
                lesson = change + 0.7 * (phi_k(untaught) - phi_k(vI)) / (lambda_I * (len(pres[k]) + 1))
            expected[f"rule.interneuron_weights.{path}"] -= np.outer(lesson, pres[k]) / samples
            expected[f"rule.interneuron_weights.{path}/bias"] -= lesson / samples
            silencing = 0.3 * np.outer(0 - vA[k - 1], phi_k(uI[k])) / (len(u[k]) + 1)
            expected[f"rule.inhibition.{path}"] -= silencing.T / samples
    assert len(found) == 6 + 6
    assert_same(found, {name: torch.from_numpy(part) for name, part in expected.items()}, rtol=1e-9, atol=1e-12)


def test_the_top_down_weights_own_rule_in_loops():
    rule = DendriticMicrocircuit(feedback="inverse", cancellation_rate=0.3, inverse_rate=0.4)
    circuit = apical.Circuit(chain(), rule)
    x, target = batch()
    found = taught(circuit, x, target)
    for path, k in (("2", 1), ("4", 2)):
        WTD = rule.pathway.weights[circuit.layers[k]].detach().numpy().T
        expected = np.zeros(WTD.shape)
        for sample in x.numpy():
            rates = [sample]
            for layer in circuit.layers:
                u = layer.weight.detach().numpy() @ rates[-1] + layer.synapses.bias.detach().numpy()
                rates.append(np.tanh(u) if layer is not circuit.layers[-1] else u)
            wrong = rates[k] - np.tanh(WTD @ rates[k + 1])
            expected -= 0.4 * np.outer(wrong, rates[k + 1]) / (len(rates[k + 1]) + 1) / len(x)
        tensor = torch.from_numpy(expected.T)
        torch.testing.assert_close(found[f"rule.pathway.weights.{path}"], tensor, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("g", [G, OTHER], ids=["paper", "other"])
@pytest.mark.parametrize("lost", [0.0, 0.05], ids=["self-predicting", "disturbed"])
def test_the_full_dynamics_settle_where_the_steady_state_is(g, lost):
    options = {"cancellation_rate": 0.1, "prediction_rate": 0.7, "tolerance": 1e-10}
    rule = DendriticMicrocircuit(dynamics="steady_state", **options, **g)
    circuit = disturbed(apical.Circuit(chain(), rule), lost)
    x, target = batch(3)
    seen = observed(circuit, x, target)
    found = taught(circuit, x, target)
    paper = Paper(circuit, g)
    lambda_N, lambda_k, lambda_I = mixing(g)
    expected = {path: np.zeros(seen[path]["somatic_potential"].shape[1:]) for path in ("0", "2", "4")}
    learned = {path: np.zeros(rule.interneuron_weights[circuit.layers[k]].shape) for path, k in (("2", 1), ("4", 2))}
    for number, (sample, goal) in enumerate(zip(x.numpy(), target.numpy(), strict=True)):
        # Out of the self-predicting state the answer is not the plain model's free state: u_trgt is relative to that.
        u, uI, vA = paper.euler(sample, goal)
        for k, path in enumerate(("0", "2", "4")):
            np.testing.assert_allclose(seen[path]["somatic_potential"][number], u[k], rtol=1e-7, atol=1e-9)
            if k < 2:
                np.testing.assert_allclose(seen[path]["apical_potential"][number], vA[k], rtol=1e-6, atol=1e-9)
            if k > 0:
                fired = paper.phi[k](uI[k])
                np.testing.assert_allclose(seen[path]["interneuron_rate"][number], fired, rtol=1e-7, atol=1e-9)
            pre = sample if k == 0 else paper.phi[k - 1](u[k - 1])
            predicted = paper.attenuation(k) * (paper.W[k] @ pre + paper.b[k])
            gain = lambda_N * ((1 - lambda_I) * lambda_k) ** (2 - k)
            if k > 0:
                vI = g["dendritic"] / (g["leak"] + g["dendritic"]) * (paper.WIP[k] @ pre + paper.bIP[k])
                lesson = 0.7 * (paper.phi[k](uI[k]) - paper.phi[k](vI)) / (gain * lambda_I)
                learned[path] -= np.outer(lesson, pre) / len(x)
            expected[path] -= (paper.phi[k](u[k]) - paper.phi[k](predicted)) / gain / len(x)
    for path, part in expected.items():
        np.testing.assert_allclose(found[f"model.{path}.bias"], part, rtol=1e-6, atol=1e-8)
    for path, part in learned.items():
        np.testing.assert_allclose(found[f"rule.interneuron_weights.{path}"], part, rtol=1e-6, atol=1e-8)


# Identities


@pytest.mark.parametrize("g", [G, OTHER], ids=["paper", "other"])
def test_mixing_factors_come_from_conductances(g):
    rule = DendriticMicrocircuit(**g)
    assert (rule.output_mixing, rule.apical_mixing, rule.interneuron_mixing) == pytest.approx(mixing(g))
    paper = Paper(apical.Circuit(chain(), rule), g)
    # The attenuations make the steady state a convex combination, at the output without the apical conductance.
    lambda_N, lambda_k, _ = mixing(g)
    share = g["basal"] / (g["leak"] + g["basal"] + g["teaching"])
    assert paper.attenuation(2) * (1 - lambda_N) == pytest.approx(share)
    assert paper.attenuation(0) + lambda_k == pytest.approx(
        (g["basal"] + g["apical"]) / (g["leak"] + g["basal"] + g["apical"])
    )


@pytest.mark.parametrize("g", [G, OTHER], ids=["paper", "other"])
def test_self_predicting_weights_in_the_papers_units(g):
    """W^IP = [g_B / (g_lk + g_A + g_B)]_(k+1) (g_lk + g_D) / g_D W^PP, without g_A below the output; W^PI = -W^TD."""
    circuit = apical.Circuit(chain(), DendriticMicrocircuit(cancellation_rate=0.1, **g))
    paper = Paper(circuit, g)
    for k in (1, 2):
        apical_share = 0.0 if k == 2 else g["apical"]
        factor = g["basal"] / (g["leak"] + apical_share + g["basal"]) * (g["leak"] + g["dendritic"]) / g["dendritic"]
        np.testing.assert_allclose(paper.WIP[k], factor * paper.W[k], rtol=1e-12)
        np.testing.assert_array_equal(paper.WPI[k], -paper.WTD[k])
    x, _ = batch(2)
    for sample, answer in zip(x.numpy(), circuit(x).detach().numpy(), strict=True):
        u, uI, vA = paper.euler(sample, None)
        np.testing.assert_allclose(u[2], answer, rtol=1e-8)  # without a teacher it answers as the plain model
        np.testing.assert_allclose(uI[2], u[2], rtol=1e-8)
        assert max(np.abs(v).max() for v in vA[:2]) < 1e-8


@pytest.mark.parametrize("dynamics", ["two_step", "steady_state"])
@pytest.mark.parametrize("feedback", ["fixed", "tied"])
def test_without_a_teacher_all_is_at_rest(dynamics, feedback):
    rate = 0.0 if feedback == "tied" else 1.0
    rule = DendriticMicrocircuit(dynamics=dynamics, feedback=feedback, cancellation_rate=rate)
    circuit = apical.Circuit(chain(), rule)
    seen = observed(circuit, *batch(), no_teacher)
    for path in ("0", "2"):
        assert not seen[path]["apical_potential"].count_nonzero()
    found = taught(circuit, *batch(), no_teacher)
    assert {name.split(".")[1] for name in found if name.startswith("rule.")} >= {"interneuron_weights"}
    assert not any(gradient.count_nonzero() for gradient in found.values())
    if dynamics == "two_step":
        seen = observed(disturbed(circuit), *batch(), no_teacher)
        assert seen["0"]["apical_potential"].abs().max() > 1e-3


@pytest.mark.parametrize(("interneurons", "rate"), [("learned", 20.0), ("reciprocal", 100.0)])
def test_interneurons_learn_to_predict_without_a_teacher(interneurons, rate):
    """The fixed points of both rules: W^IP becomes W, and apical dendrites fall silent."""
    sizes = (8, 3, 3, 2)
    options = {"interneurons": interneurons, "prediction_rate": rate, "cancellation_rate": 100.0}
    rule = DendriticMicrocircuit(self_predicting=False, **options)
    circuit = apical.Circuit(chain(sizes=sizes), rule)
    x, target = batch(64, sizes=sizes)
    x = 2 * x

    def silence() -> float:
        seen = observed(circuit, x, target, no_teacher)
        return max(float(seen[path]["apical_potential"].abs().max()) for path in ("0", "2"))

    before = silence()
    assert before > 0.1
    optimizer = torch.optim.SGD(rule.parameters(), lr=0.01, momentum=0.9)
    for _ in range(400):
        taught(circuit, x, target, no_teacher)
        optimizer.step()
    for layer in circuit.layers[1:]:
        torch.testing.assert_close(rule.interneuron_weights[layer], layer.weight, rtol=0, atol=0.02)
    assert silence() < 0.02 * before


# Limits


@pytest.mark.parametrize("name", NETWORKS)
def test_under_a_weak_teacher_tied_feedback_is_backpropagation(name):
    """In any circuit: junctions, norms, pooling, convolutions; and closer the weaker the teacher."""
    network = NETWORKS[name]
    x, y = network.batch()
    truth = learn(network.build().double(), x.double(), y)
    errors = []
    for teaching in (1e-2, 1e-4):
        rule = DendriticMicrocircuit(feedback="tied", teaching=teaching)
        circuit = apical.Circuit(network.build().double(), rule)
        errors.append(apart(plain(learn(circuit, x.double(), y)), truth))
    assert errors[0] < 0.02
    assert errors[1] < 2e-4


def test_the_error_of_a_weak_teacher_is_of_first_order():
    x, target = batch()
    truth = taught(chain(), x, target)
    errors = []
    for teaching in (1e-2, 1e-3, 1e-4):
        circuit = apical.Circuit(chain(), DendriticMicrocircuit(feedback="tied", teaching=teaching))
        errors.append(apart(plain(taught(circuit, x, target)), truth))
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize(("teaching", "degrees", "size"), [(0.8, 15, 0.25), (0.1, 3, 0.05)])
@pytest.mark.parametrize("dynamics", ["two_step", "steady_state"])
def test_it_is_within_a_few_degrees_of_backpropagation(dynamics, teaching, degrees, size):
    """At the paper's conductances, and with a teacher an eighth as strong."""
    sizes = (64, 40, 40, 10)
    x, target = batch(32, sizes=sizes)
    truth = taught(chain(sizes=sizes), x, target)
    rule = DendriticMicrocircuit(dynamics=dynamics, feedback="tied", teaching=teaching)
    found = plain(taught(apical.Circuit(chain(sizes=sizes), rule), x, target))
    for name, gradient in truth.items():
        cosine = torch.cosine_similarity(found[name].flatten(), gradient.flatten(), dim=0)
        assert torch.rad2deg(torch.arccos(cosine.clamp(max=1))) < degrees, name
        assert float(found[name].norm() / gradient.norm()) == pytest.approx(1, abs=size), name


@pytest.mark.parametrize("name", ["mlp", "conv", "residual"])
def test_under_a_weak_teacher_fixed_feedback_is_feedback_alignment(name):
    network = NETWORKS[name]
    x, y = network.batch()
    aligned = apical.Circuit(network.build().double(), apical.FeedbackAlignment(seed=3))
    truth = plain(learn(aligned, x.double(), y))
    rule = DendriticMicrocircuit(seed=3, teaching=1e-5)
    circuit = apical.Circuit(network.build().double(), rule)
    assert apart(plain(learn(circuit, x.double(), y)), truth) < 1e-4


def test_two_steps_and_the_steady_state_part_by_the_teachers_strength():
    """What hidden layers do to the output's prediction is O(lambda_N lambda_k) of the error."""
    x, target = batch()
    differences = []
    for teaching in (1e-1, 1e-2, 1e-3):
        found = [
            taught(
                apical.Circuit(
                    chain(),
                    DendriticMicrocircuit(dynamics=dynamics, feedback="tied", teaching=teaching, tolerance=1e-9),
                ),
                x,
                target,
            )
            for dynamics in ("two_step", "steady_state")
        ]
        differences.append(apart(plain(found[0]), plain(found[1])))
    assert differences[0] < 0.1
    assert differences[0] / differences[1] == pytest.approx(10, rel=0.15)
    assert differences[1] / differences[2] == pytest.approx(10, rel=0.05)


@pytest.mark.parametrize("how", ["learned", "reciprocal"])
def test_tied_interneurons_are_those_that_always_predict(how):
    x, target = batch()
    learned, tied = (apical.Circuit(chain(), DendriticMicrocircuit(interneurons=each)) for each in (how, "tied"))
    assert_same(plain(taught(learned, x, target)), plain(taught(tied, x, target)), rtol=1e-9, atol=1e-12)
    assert not list(tied.rule.parameters())


@pytest.mark.parametrize("dynamics", ["two_step", "steady_state"])
def test_in_the_self_predicting_state_interneurons_learn_to_first_order_as_their_pyramids(dynamics):
    """dW^IP = dW where phi is linear (here the output), and but for the square of the teacher's shift elsewhere."""
    x, target = batch()
    errors = []
    for teaching in (1e-1, 1e-2, 1e-3):
        rule = DendriticMicrocircuit(dynamics=dynamics, teaching=teaching, tolerance=1e-9)
        found = taught(apical.Circuit(chain(), rule), x, target)
        own = {path: found[f"rule.interneuron_weights.{path}"] for path in ("2", "4")}
        torch.testing.assert_close(own["4"], found["model.4.weight"], rtol=1e-9, atol=1e-12)
        errors.append(apart({"2": own["2"]}, {"2": found["model.2.weight"]}))
    assert 1e-3 < errors[0] < 0.1
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.2)
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.05)


@pytest.mark.parametrize("interneurons", ["learned", "reciprocal"])
def test_interneurons_keep_up_with_the_weights_that_they_mirror(interneurons):
    """By descent that is slow enough. Learned ones have increments of their own where neurons are not linear."""
    circuit = apical.Circuit(chain(sizes=(8, 16, 16, 4)), DendriticMicrocircuit(interneurons=interneurons))
    optimizer = torch.optim.SGD(circuit.parameters(), 0.1, momentum=0.9)
    start = [layer.weight.detach().clone() for layer in circuit.layers]
    x, target = batch(16, sizes=(8, 16, 16, 4))
    for _ in range(100):
        taught(circuit, x, target)
        optimizer.step()
    lags = []
    for layer, before in zip(circuit.layers[1:], start[1:], strict=True):
        lag = (circuit.rule.interneuron_weights[layer] - layer.weight).detach()
        lags.append(float(lag.norm() / (layer.weight.detach() - before).norm()))
    assert lags[1] < 1e-9
    assert 1e-5 < lags[0] < 1e-2 if interneurons == "learned" else lags[0] < 1e-9


@pytest.mark.parametrize(("factor", "stable"), [(0.95, True), (1.05, False)])
def test_descent_on_learned_interneurons_has_a_largest_rate(factor, stable):
    """It is 2 gain / (phi' |r|^2): with every layer that the gain passes a quarter of it is left."""
    circuit = apical.Circuit(chain(sizes=(1, 1, 1, 1), function=nn.Identity), DendriticMicrocircuit())
    x = torch.full((1, 1), 0.7, dtype=torch.float64)
    layer, pre = circuit.layers[1], circuit.model[0](x).detach()
    lambda_N, lambda_k, lambda_I = mixing(G)
    gain = lambda_N * (1 - lambda_I) * lambda_k
    own = circuit.rule.interneuron_weights.synapses(layer)
    optimizer = torch.optim.SGD(circuit.rule.parameters(), factor * 2 * gain / float(pre.square().sum() + 1))
    lags = []
    with torch.no_grad():
        circuit.rule.interneuron_weights[layer].add_(0.1)
    for _ in range(10):
        lags.append(float((own.forward(pre) - layer.synapses.forward(pre)).detach().abs()))
        taught(circuit, x, x, no_teacher)
        optimizer.step()
    assert (lags[-1] < lags[0]) == stable
    assert lags[-1] / lags[0] == pytest.approx(abs(1 - 2 * factor) ** 9)


def test_interneurons_that_lose_track_say_so_once_with_the_remedy():
    """Descent at a rate that suits backpropagation is too fast for interneurons with several layers above them."""
    circuit = apical.Circuit(chain(sizes=(8, 16, 16, 16, 16, 4)), DendriticMicrocircuit())
    optimizer = torch.optim.SGD(circuit.parameters(), 0.1)
    x, target = batch(16, sizes=(8, 16, 16, 16, 16, 4))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(64):
            taught(circuit, x, target)
            optimizer.step()
    (told,) = [str(each.message) for each in caught]
    assert re.match(r"\d: .* times .*learning rate.*interneurons='reciprocal' or 'tied'", told)


def test_a_single_synapse_has_inhibition_that_is_a_number():
    model = nn.Sequential(nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 1))
    circuit = apical.Circuit(model, DendriticMicrocircuit(self_predicting=False, cancellation_rate=1.0))
    assert all(bool(torch.isfinite(p).all()) for p in circuit.parameters())


def test_a_small_shift_survives_single_precision():
    """Six layers down a shift is a thousandth of a potential, and differences of rates lose none of it."""
    network = NETWORKS["deep_tanh"]
    x, y = network.batch()
    found = [
        plain(
            learn(apical.Circuit(network.build().to(dtype), DendriticMicrocircuit(interneurons="tied")), x.to(dtype), y)
        )
        for dtype in (torch.float32, torch.float64)
    ]
    assert_same({name: part.double() for name, part in found[0].items()}, found[1], rtol=1e-3, atol=1e-7)


# The steady state as a part of a circuit


STEADY = DendriticMicrocircuit(dynamics="steady_state").options()


@pytest.mark.parametrize("name", ["mlp", "deep_tanh"])
def test_a_settled_batch_learns_what_its_halves_learn(name):
    network = NETWORKS[name]
    x, y = network.batch(8)
    circuit = apical.Circuit(network.build().double(), DendriticMicrocircuit(**{**STEADY, "tolerance": 1e-9}))
    whole = learn(circuit, x.double(), y)
    halves = [learn(circuit, x[part].double(), y[part]) for part in (slice(4), slice(4, None))]
    assert_same(whole, {k: (halves[0][k] + halves[1][k]) / 2 for k in whole}, rtol=1e-6, atol=1e-9)


def test_the_steady_state_does_not_depend_on_what_is_frozen():
    x, target = batch()
    circuit = apical.Circuit(chain(), DendriticMicrocircuit(dynamics="steady_state"))
    expected = taught(copy.deepcopy(circuit), x, target)
    circuit.model[0].requires_grad_(False)
    found = taught(circuit, x, target)
    assert found.keys() == expected.keys() - {"model.0.weight", "model.0.bias"}
    assert_same(found, {name: expected[name] for name in found})


def test_a_convolution_with_pooling_settles():
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(16, 3)),
    ).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 2, 8, 8, generator=generator, dtype=torch.float64)
    target = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    truth = taught(copy.deepcopy(model), x, target)
    rule = DendriticMicrocircuit(dynamics="steady_state", feedback="tied", teaching=1e-4, tolerance=1e-7)
    assert apart(plain(taught(apical.Circuit(model, rule), x, target)), truth) < 1e-3


def test_autocast_settles_in_the_weights_precision():
    network = NETWORKS["mlp"]
    x, y = network.batch()
    circuit = apical.Circuit(network.build(), DendriticMicrocircuit(dynamics="steady_state"))
    expected = learn(circuit, x, y)
    with torch.autocast("cpu", torch.bfloat16):
        answer = circuit(x)
    circuit.zero_grad()
    nn.functional.cross_entropy(answer.float(), y).backward()
    found = {name: p.grad for name, p in circuit.named_parameters() if p.grad is not None}
    assert apart(found, expected) < 0.1


def test_what_has_not_settled_says_so_once_with_residual_and_remedy():
    rule = DendriticMicrocircuit(dynamics="steady_state", settle_steps=2)
    circuit = apical.Circuit(chain(), rule)
    with pytest.warns(RuntimeWarning, match=r"after 2 steps.*\de-0\d.*Raise settle_steps"):
        taught(circuit, *batch())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        taught(circuit, *batch())


def test_signals_that_die_away_while_they_settle_are_no_mistake():
    # The teacher silences the one neuron that its signal has to pass: what is asked of the layer below becomes zero.
    for seed in (252, 362, 789):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(2)
        rule = DendriticMicrocircuit(dynamics="steady_state", settle_steps=20, feedback="tied", interneurons="tied")
        circuit = apical.Circuit(model, rule)
        loss = (circuit(torch.randn(1, 1)) * 30 * torch.randn(1)).sum()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*(have not settled|circuit.loss_scale)")
            loss.backward()
        assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


def test_strong_feedback_settles_too(monkeypatch):
    """Plain iteration runs away here: it has to slow down to find the fixed point."""
    strong = {"teaching": 3.0, "apical": 3.0, "somatic": 0.3}
    options = {"cancellation_rate": 0.1, "init": "weights", "tolerance": 1e-9, **strong}
    model = chain()
    with torch.no_grad():
        for layer in model[::2]:
            layer.weight *= 1.5
    circuit = apical.Circuit(copy.deepcopy(model), DendriticMicrocircuit(dynamics="steady_state", **options))
    x, target = batch(2)
    seen = observed(circuit, x, target)  # a warning would be an error
    paper = Paper(circuit, {**G, **strong})
    for number, (sample, goal) in enumerate(zip(x.numpy(), target.numpy(), strict=True)):
        u, _, _ = paper.euler(sample, goal, dt=0.05)
        for k, path in enumerate(("0", "2", "4")):
            np.testing.assert_allclose(seen[path]["somatic_potential"][number], u[k], rtol=1e-6, atol=1e-7)
    monkeypatch.setattr(steady_state, "_SLOWEST", 1.0)
    hasty = apical.Circuit(model, DendriticMicrocircuit(dynamics="steady_state", **options))
    with pytest.warns(RuntimeWarning, match="have not settled"):
        taught(hasty, x, target)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: NETWORKS["residual"].build(), "rates part or meet"),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2)), "^0: .*Dropout draws"),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)), "^0: .*BatchNorm1d"),
    ],
    ids=["residual", "dropout", "norm"],
)
def test_what_cannot_settle_is_refused_with_the_remedy(make, told):
    with pytest.raises(CircuitError, match=told) as refused:
        apical.Circuit(make(), DendriticMicrocircuit(dynamics="steady_state"))
    assert "two_step" in str(refused.value)


def test_what_cannot_be_inverted_is_refused_with_the_remedy():
    rule = DendriticMicrocircuit(feedback="inverse", cancellation_rate=1.0)
    assert rule.options()["feedback"] == rule.feedback == "inverse", "its options make the same rule again"
    with pytest.raises(CircuitError, match=r"^5: feedback='inverse'.*feedback='fixed' or 'tied'"):
        apical.Circuit(NETWORKS["conv"].build(), rule)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"dynamics": "three_step"}, "dynamics='three_step'.*'two_step' or 'steady_state'"),
        ({"feedback": "plastic"}, "feedback='plastic'"),
        ({"interneurons": "none"}, "interneurons='none'"),
        ({"basal": 0.0}, "basal=0.0 must be above 0"),
        ({"leak": -1.0}, "leak=-1.0 must be at least 0"),
        ({"teaching": float("inf")}, "teaching=inf"),
        ({"settle_steps": 0}, "settle_steps=0"),
        ({"interneurons": "tied", "self_predicting": False}, "always self-predicting"),
        ({"feedback": "tied", "cancellation_rate": 1.0}, "cancellation_rate"),
        ({"feedback": "inverse"}, "cancellation_rate"),
    ],
)
def test_options_that_make_no_microcircuit_are_refused(options, told):
    with pytest.raises(ConfigError, match=told):
        DendriticMicrocircuit(**options)


# Segregated dendrites


def logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"feedback": {"name": "direct", "density": 0.2}, "gain": 2.0},
        {"feedback": {"name": "direct", "symmetric": True}, "scale": 0.5},
    ],
    ids=str,
)
def test_plateaus_in_loops(options):
    circuit = apical.Circuit(chain(function=nn.Sigmoid), SegregatedDendrites(**options))
    x, target = batch()
    circuit(x)
    gain = circuit.rule.gain
    W = [layer.weight.detach().numpy() for layer in circuit.layers]
    b = [layer.synapses.bias.detach().numpy() for layer in circuit.layers]
    if circuit.rule.pathway.symmetric:
        Y = [0.5 * (W[2] @ W[1]).T, 0.5 * W[2].T]
    else:
        Y = [circuit.rule.pathway.weights[layer].numpy().T for layer in circuit.layers[:2]]
    seen = observed(circuit, x, target)
    found = taught(circuit, x, target)
    expected = {name: np.zeros(gradient.shape) for name, gradient in found.items()}
    for number, (sample, goal) in enumerate(zip(x.numpy(), target.numpy(), strict=True)):
        h0 = logistic(W[0] @ sample + b[0])
        h1 = logistic(W[1] @ h0 + b[1])
        y = W[2] @ h1 + b[2]
        deltas = []
        for path, feedback, h in (("0", Y[0], h0), ("2", Y[1], h1)):
            alpha_f, alpha_t = logistic(gain * feedback @ y), logistic(gain * feedback @ goal)
            np.testing.assert_allclose(seen[path]["apical_potential"][number], gain * feedback @ y, rtol=1e-9)
            np.testing.assert_allclose(seen[path]["forward_plateau"][number], alpha_f, rtol=1e-9)
            np.testing.assert_allclose(seen[path]["target_plateau"][number], alpha_t, rtol=1e-9)
            deltas.append(-(alpha_t - alpha_f) * 4 / gain * h * (1 - h))
        deltas.append(y - goal)
        for path, delta, pre in zip(("0", "2", "4"), deltas, (sample, h0, h1), strict=True):
            expected[f"model.{path}.weight"] += np.outer(delta, pre) / len(x)
            expected[f"model.{path}.bias"] += delta / len(x)
    assert_same(found, {name: torch.from_numpy(part) for name, part in expected.items()}, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["mlp", "conv", "residual", "pre_activation", "branching"])
def test_plateaus_that_do_not_saturate_are_direct_feedback_alignment(name):
    network = NETWORKS[name]
    x, y = network.batch()
    direct = apical.Circuit(network.build().double(), apical.DirectFeedbackAlignment(seed=4))
    truth = plain(learn(direct, x.double(), y))
    errors = []
    for gain in (1e-2, 1e-3):
        circuit = apical.Circuit(network.build().double(), SegregatedDendrites(seed=4, gain=gain))
        errors.append(apart(plain(learn(circuit, x.double(), y)), truth))
    assert errors[1] < 1e-4
    assert errors[0] / errors[1] > 9  # of first order at least


def test_symmetric_feedback_of_one_hidden_layer_is_backpropagation():
    sizes = (4, 7, 3)
    x, target = batch(sizes=sizes)
    rule = SegregatedDendrites(feedback=Direct(symmetric=True), gain=1e-5)
    found = taught(apical.Circuit(chain(sizes=sizes), rule), x, target)
    assert apart(plain(found), taught(chain(sizes=sizes), x, target)) < 1e-4
    assert not len(rule.pathway.weights)


def test_sparse_feedback_keeps_its_part_and_its_power():
    model = nn.Sequential(nn.Linear(4, 3000), nn.Tanh(), nn.Linear(3000, 10))
    found = {}
    for kind, density in (("broadcast", 1.0), ("sparse", 0.2)):
        circuit = apical.Circuit(copy.deepcopy(model), SegregatedDendrites(feedback=Direct(density=density)))
        circuit(torch.zeros(2, 4))
        found[kind] = circuit.rule.pathway.weights[circuit.layers[0]]
    there = found["sparse"] != 0
    assert float(there.double().mean()) == pytest.approx(0.2, abs=0.01)
    assert float(found["sparse"].std()) == pytest.approx(float(found["broadcast"].std()), rel=0.03)
    ratio = found["sparse"][there] / found["broadcast"][there]
    torch.testing.assert_close(ratio, torch.full_like(ratio, 5**0.5))


@pytest.mark.parametrize("rule", [DendriticMicrocircuit, SegregatedDendrites])
@pytest.mark.parametrize("lower", ["bfloat16", "float16", "autocast"])
def test_small_errors_survive_low_precision(rule, lower):
    dtype = torch.bfloat16 if lower == "autocast" else getattr(torch, lower)
    model, (x, target) = chain(sizes=(4, 16, 16, 3)).float(), batch(32)
    x, target = x.float(), target.float() / 1000

    def tells(answer: Tensor, target: Tensor) -> Tensor:
        return (answer.float() * target).sum(1).mean()

    expected = taught(apical.Circuit(copy.deepcopy(model), rule()), x, target, tells)
    if lower == "autocast":
        circuit = apical.Circuit(model, rule())
        with torch.autocast("cpu", dtype):
            answer = circuit(x)
        tells(answer, target).backward()
        found = {name: p.grad for name, p in circuit.named_parameters() if p.grad is not None}
    else:
        found = taught(apical.Circuit(model.to(dtype), rule()), x.to(dtype), target, tells)
    for name in ("model.0.weight", "model.2.weight", "model.4.weight"):
        assert torch.cosine_similarity(found[name].float().flatten(), expected[name].flatten(), dim=0) > 0.99


def test_segregated_dendrites_refuse_with_the_remedy():
    for name in ("line", "residual"):
        with pytest.raises(CircuitError, match=r"chain of nn.Linear.*symmetric=False"):
            apical.Circuit(NETWORKS[name].build(), SegregatedDendrites(feedback=Direct(symmetric=True)))
    for options, told in (
        ({"feedback": "tied"}, "feedback"),
        ({"feedback": {"name": "direct", "density": 0.0}}, "density=0.0"),
        ({"feedback": {"name": "direct", "density": 1.5}}, "density=1.5"),
        ({"gain": 0.0}, "gain"),
        ({"gain": float("nan")}, "gain"),
    ):
        with pytest.raises(ConfigError, match=told):
            SegregatedDendrites(**options)
    circuit = circuit_of("line", "segregated_dendrites")
    x, y = NETWORKS["line"].batch()
    learn(circuit, x, y)
    circuit = apical.Circuit(nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
                                           nn.Linear(4, 5)), "segregated_dendrites")  # fmt: skip
    learn(circuit, x, y)
    deep = apical.Circuit(nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU(), nn.Conv1d(4, 4, 1), nn.AdaptiveAvgPool1d(1),
                                        nn.Flatten(), nn.Linear(4, 5)), "segregated_dendrites")  # fmt: skip
    learn(deep, x, y)
    with pytest.raises(CircuitError, match=r"^0: .*rates \(4, 16\)"):
        learn(deep, x[..., :-2], y)
