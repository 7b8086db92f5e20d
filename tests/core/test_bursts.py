"""Learning by bursts, against the papers' equations in plain loops, and against what it must equal in the limit."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from circuits import NETWORKS, Row, circuit_of, learn, plain, rows
from torch import Tensor, nn

import apical
from apical.errors import ConfigError
from apical.rules.bursts.populations import Population

Array = np.ndarray
BURSTING = [row for row in rows() if row.name in ("burst_ccn", "burstprop")]

# Of each activation: the rate, its slope, and the event rate.
POPULATIONS: dict[str, tuple[Callable[[float], float], Callable[[float], float], Callable[[float], float]]] = {
    "sigmoid": (lambda v: sigmoid(v), lambda v: sigmoid(v) * (1 - sigmoid(v)), lambda v: sigmoid(v)),
    "relu": (lambda v: max(v, 0.0), lambda v: float(v > 0), lambda v: max(v, 0.0)),
    "tanh": (lambda v: float(np.tanh(v)), lambda v: 1 - float(np.tanh(v)) ** 2, lambda v: 1 + float(np.tanh(v))),
}
MODULES = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU, "tanh": nn.Tanh}
SIZES = (6, 5, 4, 3)


def sigmoid(x: float) -> float:
    return 1 / (1 + float(np.exp(-x)))


Seen = dict[int, dict[str, list[float]]]
"""Of every layer, by place, the quantities by name: a number for every sample and unit."""


def note(seen: Seen | None, layer: int, **quantities: float) -> None:
    for name, quantity in quantities.items() if seen is not None else ():
        seen.setdefault(layer, {}).setdefault(name, []).append(float(quantity))


def shares(rates: dict[str, float], events: float) -> dict[str, float]:
    """Burst probabilities for burst rates."""
    return {name.replace("rate", "probability"): rate / events for name, rate in rates.items()}


def drives_of(weights: list[Array], biases: list[Array], x: Array, activation: str) -> tuple[list[Array], list[Array]]:
    """Every layer's drive, and what arrived at it."""
    fire = POPULATIONS[activation][0]
    drives, arriving = [], [x]
    for W, b in zip(weights, biases, strict=True):
        drive = np.array([sum(W[i, j] * arriving[-1][j] for j in range(len(W[i]))) + b[i] for i in range(len(W))])
        drives.append(drive)
        arriving.append(np.array([fire(v) for v in drive]))
    return drives, arriving[:-1]


def output_of(drive: Array, target: int, squared: bool, tonic: float) -> tuple[Array, Array, Array]:
    """Of the output: -dL/dv for one sample, the pair's net events, and all its events."""
    error = np.zeros(len(drive))
    for i, v in enumerate(drive):
        wanted = float(i == target)
        if squared:  # sum of (t - e)^2 / 2 over sigmoid outputs
            error[i] = (wanted - sigmoid(v)) * sigmoid(v) * (1 - sigmoid(v))
        else:  # cross-entropy
            error[i] = wanted - np.exp(v) / np.exp(drive).sum()
    net = np.array([sigmoid(v) for v in drive]) if squared else drive
    return error, net, np.abs(net) + tonic


def burst_ccn(
    weights: list[Array],
    biases: list[Array],
    bursts: list[Array],
    events: list[Array],
    inputs: Array,
    targets: Array,
    activation: str,
    *,
    squared: bool,
    baseline: float,
    error_scale: float,
    tonic: float,
    seen: Seen | None = None,
) -> tuple[list[Array], list[Array], list[Array]]:
    """Greedy et al. 2022: minus the weight changes over the gains, and -dQ and -dY over eta_Q, scaled as ours are.

    `bursts` (Y) and `events` (Q) have the shapes and the sign of `weights`: where the paper has Y, here is -Y. `seen`
    receives what every layer carries for every sample; of a pair of populations, both together.
    """
    _, slope, rate_of = POPULATIONS[activation]
    changes = [np.zeros_like(W) for W in weights]
    to_events = [np.zeros_like(W) for W in weights]
    to_bursts = [np.zeros_like(W) for W in weights]
    power_of_events, power_of_bursts = ([np.zeros(len(W)) for W in weights] for _ in range(2))
    last = len(weights) - 1
    for x, target in zip(inputs, targets, strict=True):
        drives, arriving = drives_of(weights, biases, x, activation)
        e = b = np.zeros(0)
        for layer in reversed(range(len(weights))):
            if layer == last:
                error, net, total = output_of(drives[layer], int(target), squared, tonic)
                change = np.zeros(len(net))
                e, b = net, np.zeros(len(net))
                for i in range(len(net)):
                    part = min(max(error_scale * error[i] / total[i], -1), 1)  # ours: never, or twice the baseline
                    on, off = (total[i] + net[i]) / 2, (total[i] - net[i]) / 2
                    b[i] = baseline * (1 + part) * on - baseline * (1 - part) * off
                    change[i] = b[i] - baseline * net[i]
                    both = baseline * (1 + part) * on + baseline * (1 - part) * off
                    carried = {"burst_rate": both, "burst_probability": both / total[i], "burst_modulation": part}
                    note(seen, layer, event_rate=total[i], **carried)
            else:
                u = np.zeros(len(drives[layer]))
                for j in range(len(u)):
                    for i in range(len(e)):
                        u[j] += events[layer + 1][i, j] * e[i] - bursts[layer + 1][i, j] * b[i]
                for j in range(len(u)):
                    for i in range(len(e)):
                        to_events[layer + 1][i, j] += u[j] * e[i] / len(inputs)
                        to_bursts[layer + 1][i, j] -= u[j] * b[i] / len(inputs)
                for i in range(len(e)):
                    power_of_events[layer + 1][i] += e[i] ** 2 / len(inputs)
                    power_of_bursts[layer + 1][i] += (b[i] / baseline) ** 2 / len(inputs)
                e = np.array([rate_of(v) for v in drives[layer]])
                b, change = np.zeros(len(e)), np.zeros(len(e))
                for j in range(len(e)):
                    h = slope(drives[layer][j]) / e[j] if e[j] > 0 else 0.0
                    p = 2 * baseline * sigmoid(2 / baseline * -u[j] * h)
                    b[j] = p * e[j]
                    change[j] = (p - baseline) * e[j]
                    carried = {"burst_rate": b[j], "burst_probability": p, "burst_modulation": p / baseline - 1}
                    note(seen, layer, event_rate=e[j], **carried, apical_potential=-u[j])
            for i in range(len(change)):
                for j in range(len(arriving[layer])):
                    step = change[i] * arriving[layer][j] / (baseline * error_scale)
                    changes[layer][i, j] -= step / len(inputs)
    for layer in range(1, len(weights)):
        for i in range(len(weights[layer])):
            to_events[layer][i] /= max(1.0, power_of_events[layer][i])
            to_bursts[layer][i] /= max(1.0, power_of_bursts[layer][i])
    return changes, to_events, to_bursts


def burstprop(
    weights: list[Array],
    biases: list[Array],
    feedback: list[Array],
    recurrent: list[Array],
    inputs: Array,
    targets: Array,
    activation: str,
    *,
    squared: bool,
    baseline: float,
    error_scale: float,
    slope: float,
    tonic: float,
    normalised: bool,
    seen: Seen | None = None,
) -> tuple[list[Array], list[Array]]:
    """Payeur et al. 2021, the static model: minus the weight changes, and the mean of u b~^T for every hidden layer.

    `seen` receives what every layer carries for every sample; of a pair of populations, both together.
    """
    _, derivative, rate_of = POPULATIONS[activation]
    resting = baseline if normalised else 0.5
    gain = resting * slope / 2 if normalised else 1.0
    over = baseline * error_scale if normalised else 1.0
    changes = [np.zeros_like(W) for W in weights]
    to_recurrent = [np.zeros_like(Z) for Z in recurrent]
    last = len(weights) - 1
    for x, target in zip(inputs, targets, strict=True):
        drives, arriving = drives_of(weights, biases, x, activation)
        b = taught = np.zeros(0)
        for layer in reversed(range(len(weights))):
            if layer == last:
                error, net, total = output_of(drives[layer], int(target), squared, tonic)
                b = baseline * net
                taught = np.zeros(len(net))
                for i in range(len(net)):
                    part = min(max(error_scale * error[i] / total[i], -1), 1)  # ours: never, or twice the baseline
                    on, off = (total[i] + net[i]) / 2, (total[i] - net[i]) / 2
                    taught[i] = baseline * (1 + part) * on - baseline * (1 - part) * off
                    both = baseline * (1 + part) * on + baseline * (1 - part) * off
                    rates = {"burst_rate": baseline * total[i], "taught_burst_rate": both}
                    note(seen, layer, event_rate=total[i], **rates, **shares(rates, total[i]), burst_modulation=part)
                change = taught - b
            else:
                Y, Z = feedback[layer + 1], recurrent[layer]
                units = len(drives[layer])
                heard = [sum(Y[i, j] * b[i] for i in range(len(b))) for j in range(units)]
                heard_taught = [sum(Y[i, j] * taught[i] for i in range(len(b))) for j in range(units)]
                e = [rate_of(v) for v in drives[layer]]
                own = [2 * resting * sigmoid(slope * heard[j]) * e[j] for j in range(units)]
                b, taught, change = np.zeros(units), np.zeros(units), np.zeros(units)
                for j in range(units):
                    h = derivative(drives[layer][j]) / e[j] if e[j] > 0 else 0.0
                    taken = sum(Z[j, i] * own[i] for i in range(units))
                    u, with_teacher = h * heard[j] - taken, h * heard_taught[j] - taken
                    p, p_taught = (2 * resting * sigmoid(slope * potential) for potential in (u, with_teacher))
                    b[j] = p * e[j]
                    change[j] = (p_taught - p) * e[j] / gain
                    taught[j] = b[j] + change[j]
                    rates = {"burst_rate": b[j], "taught_burst_rate": p_taught * e[j]}
                    chances = {"burst_probability": p, "taught_burst_probability": p_taught}
                    chances["burst_modulation"] = p_taught / resting - 1
                    note(seen, layer, event_rate=e[j], **rates, **chances, apical_potential=u)
                    clipped = min(max(u, -6 / slope), 6 / slope)  # ours: a rectified neuron's u has no bound
                    for i in range(units):
                        to_recurrent[layer][j, i] += clipped * own[i] / len(inputs)
            for i in range(len(change)):
                for j in range(len(arriving[layer])):
                    changes[layer][i, j] -= change[i] * arriving[layer][j] / over / len(inputs)
    return changes, to_recurrent


def squared_error(y: Tensor, target: Tensor) -> Tensor:
    return (y - F.one_hot(target, y.shape[1])).square().sum(1).mean() / 2


def network(activation: str, squared: bool) -> nn.Sequential:
    torch.manual_seed(2)
    layers: list[nn.Module] = []
    for inputs, units in itertools.pairwise(SIZES):
        layers += [nn.Linear(inputs, units), MODULES[activation]()]
    layers[-1] = nn.Sigmoid() if squared else nn.Identity()
    return nn.Sequential(*layers).double()


def batch(samples: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(samples, SIZES[0], generator=generator, dtype=torch.float64)
    return x, torch.randint(0, SIZES[-1], (samples,), generator=generator)


def arrays(circuit: apical.Circuit) -> tuple[list[Array], list[Array]]:
    weights = [layer.weight.detach().numpy().copy() for layer in circuit.layers]
    return weights, [layer.synapses.bias.detach().numpy().copy() for layer in circuit.layers]


def feedback_of(circuit: apical.Circuit) -> list[Array]:
    return [circuit.rule.pathway.weight(layer).detach().numpy().copy() if layer.index else np.zeros(0)
            for layer in circuit.layers]  # fmt: skip


def watched(circuit: apical.Circuit) -> dict[str, dict[str, Tensor]]:
    """Receives what the circuit carries from now on, by the layer's name, except for teaching signals."""
    carried: dict[str, dict[str, Tensor]] = {}

    def keep(layer: str, quantities: dict[str, Tensor]) -> None:
        own = {name: quantity for name, quantity in quantities.items() if name != "teaching_signal"}
        carried.setdefault(layer, {}).update(own)

    circuit.observe(keep)
    return carried


def assert_carried(circuit: apical.Circuit, carried: dict[str, dict[str, Tensor]], seen: Seen) -> None:
    """Every quantity that was observed is the reference's; probabilities where there are events."""
    for place, layer in enumerate(circuit.layers):
        own = carried[layer.name]
        assert own.keys() == seen[place].keys()
        some = np.array(seen[place]["event_rate"]) > 0
        for name, numbers in seen[place].items():
            expected, found = np.array(numbers), own[name].numpy().ravel()
            kept = some if name.endswith(("probability", "modulation")) else slice(None)
            np.testing.assert_allclose(found[kept], expected[kept], err_msg=f"{layer.name}: {name}", **CLOSE)


every_population = pytest.mark.parametrize("activation", POPULATIONS)
CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-13}


@every_population
@pytest.mark.parametrize("squared", [True, False], ids=["squared error", "cross-entropy"])
@pytest.mark.parametrize(
    "options",
    [
        {"feedback": "fixed"},
        {"feedback": "tied", "baseline": 0.3, "error_scale": 1.0},
        {"feedback": "kolen_pollack", "events": "fixed", "error_scale": 0.7},
        {"feedback": "fixed", "events": "learned", "mismatch": 0.3, "baseline": 0.2, "tonic": 0.5},
        {"feedback": "homeostatic", "events": "learned", "mismatch": 1.0, "error_scale": 1.0},
        {"feedback": "sign_symmetric", "events": "learned", "mismatch": 0.2},
        {"feedback": "weight_mirror", "events": "fixed", "error_scale": 0.5},
    ],
    ids=str,
)
def test_burst_ccn_is_the_papers(activation, squared, options):
    circuit = apical.Circuit(network(activation, squared), apical.BurstCCN(**options))
    rule = circuit.rule
    weights, biases = arrays(circuit)
    Y = feedback_of(circuit)
    Q = [rule.baseline * feedback for feedback in Y]
    for layer in circuit.layers:
        if layer in rule.event_weights:
            kept = rule.event_weights[layer].detach().numpy()
            Q[layer.index] = rule.baseline * (kept if rule.feedback == "homeostatic" else Y[layer.index] + kept)
    x, y = batch()
    carried = watched(circuit)
    (squared_error if squared else F.cross_entropy)(circuit(x), y).backward()
    seen: Seen = {}
    changes, to_events, to_bursts = burst_ccn(
        *(weights, biases, Y, Q, x.numpy(), y.numpy(), activation),
        squared=squared,
        baseline=rule.baseline,
        error_scale=rule.error_scale,
        tonic=rule.tonic,
        seen=seen,
    )
    assert_carried(circuit, carried, seen)
    for layer, change in zip(circuit.layers, changes, strict=True):
        np.testing.assert_allclose(layer.weight.grad.numpy(), change, **CLOSE)
    for layer in circuit.layers[1:]:
        rate = rule.homeostasis / (layer.weight.shape[0] * rule.baseline**2)
        if rule.events == "learned":
            found = rule.event_weights[layer].grad.numpy()
            np.testing.assert_allclose(found, rate * to_events[layer.index] * rule.baseline, rtol=1e-9, atol=1e-12)
        if rule.feedback == "homeostatic":
            found = rule.pathway.weights[layer].grad.numpy()
            np.testing.assert_allclose(found, rate * to_bursts[layer.index], rtol=1e-9, atol=1e-12)
        if rule.feedback == "kolen_pollack":
            assert torch.equal(rule.pathway.weights[layer].grad, layer.weight.grad)


@every_population
@pytest.mark.parametrize("squared", [True, False], ids=["squared error", "cross-entropy"])
@pytest.mark.parametrize(
    "options",
    [
        {"feedback": "fixed"},
        {"feedback": "kolen_pollack", "slope": 4.0, "baseline": 0.3, "error_scale": 1.0},
        {"feedback": "fixed", "recurrent": True, "slope": 2.0, "tonic": 0.5},
        {"feedback": "fixed", "normalised": False},
        {"feedback": "tied", "normalised": False, "recurrent": True, "recurrent_rate": 0.3},
        {"feedback": "sign_symmetric", "slope": 3.0},
        {"feedback": "weight_mirror", "recurrent": True, "error_scale": 0.5},
    ],
    ids=str,
)
def test_burstprop_is_the_papers(activation, squared, options):
    circuit = apical.Circuit(network(activation, squared), apical.Burstprop(**options))
    rule = circuit.rule
    weights, biases = arrays(circuit)
    Y = feedback_of(circuit)
    Z = [np.zeros((len(W), len(W))) for W in weights[:-1]]
    generator = torch.Generator().manual_seed(1)
    for layer in circuit.layers[:-1]:
        if rule.recurrent:
            some = rule.recurrent_weights[layer]
            some.data = 0.1 * torch.randn(some.shape, generator=generator, dtype=some.dtype)
            Z[layer.index] = some.detach().numpy().copy()
    x, y = batch()
    carried = watched(circuit)
    (squared_error if squared else F.cross_entropy)(circuit(x), y).backward()
    seen: Seen = {}
    changes, to_recurrent = burstprop(
        *(weights, biases, Y, Z, x.numpy(), y.numpy(), activation),
        squared=squared,
        baseline=rule.baseline,
        error_scale=rule.error_scale,
        slope=rule.slope,
        tonic=rule.tonic,
        normalised=rule.normalised,
        seen=seen,
    )
    assert_carried(circuit, carried, seen)
    for layer, change in zip(circuit.layers, changes, strict=True):
        np.testing.assert_allclose(layer.weight.grad.numpy(), change, **CLOSE)
    for layer in circuit.layers[:-1]:
        if rule.recurrent:
            change = rule.recurrent_rate / layer.weight.shape[0] * to_recurrent[layer.index]
            np.testing.assert_allclose(rule.recurrent_weights[layer].grad.numpy(), -change, rtol=1e-9, atol=1e-12)
        if rule.feedback == "kolen_pollack" and layer.index:
            assert torch.equal(rule.pathway.weights[layer].grad, layer.weight.grad)


# Limits


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Of two sets of gradients, over the size of the second."""
    apart = sum((found[name] - expected[name]).square().sum() for name in expected)
    return float((apart / sum(gradient.square().sum() for gradient in expected.values())).sqrt())


SMOOTH = ["deep_tanh", "line", "branching", "pre_activation", "nested"]


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize(("feedback", "like"), [("tied", "backprop"), ("fixed", "feedback_alignment")])
def test_burst_ccn_departs_by_the_square_of_the_errors_scale(name, feedback, like):
    x, y = NETWORKS[name].batch()
    expected = plain(learn(circuit_of(name, like).double(), x.double(), y))
    apart = []
    for error_scale in (0.02, 0.01):
        row = Row("burst_ccn", {"feedback": feedback, "error_scale": error_scale})
        apart.append(distance(plain(learn(circuit_of(name, row).double(), x.double(), y)), expected))
    assert 0 < apart[1] < 1e-2
    assert apart[0] / apart[1] == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize(("feedback", "like"), [("tied", "backprop"), ("fixed", "feedback_alignment")])
def test_burstprop_departs_by_the_square_of_the_slope(name, feedback, like):
    x, y = NETWORKS[name].batch()
    expected = plain(learn(circuit_of(name, like).double(), x.double(), y))
    apart = []
    for slope in (0.02, 0.01):
        row = Row("burstprop", {"feedback": feedback, "slope": slope})
        apart.append(distance(plain(learn(circuit_of(name, row).double(), x.double(), y)), expected))
    assert 0 < apart[1] < 1e-2
    assert apart[0] / apart[1] == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("rule", ["burst_ccn", "burstprop"])
def test_every_circuit_has_the_gradient_for_its_limit(rule, name):
    x, y = NETWORKS[name].batch()
    expected = plain(learn(circuit_of(name, "backprop").double(), x.double(), y))
    options: dict[str, Any] = {"feedback": "tied", "error_scale": 1e-6}
    if rule == "burstprop":
        options["slope"] = 1e-6
    found = plain(learn(circuit_of(name, Row(rule, options)).double(), x.double(), y))
    assert distance(found, expected) < 1e-6


@pytest.mark.parametrize("init", ["match", "xavier", "weights"])
@pytest.mark.parametrize("rule", ["burst_ccn", "burstprop"])
def test_feedback_is_that_of_feedback_alignment(rule, init):
    model = NETWORKS["conv"].build()
    aligned = apical.Circuit(model, apical.FeedbackAlignment(init=init, scale=0.7, seed=4)).rule.pathway.weights
    options = {"feedback": "fixed", "init": init, "scale": 0.7, "seed": 4}
    bursting = apical.Circuit(model, apical.rules.make(rule, **options)).rule.pathway.weights
    assert len(aligned) == len(bursting) == 2
    assert all(torch.equal(a, b) for a, b in zip(aligned.buffers(), bursting.buffers(), strict=True))


# Rates


@pytest.mark.filterwarnings("ignore:.*circuit.loss_scale:UserWarning")  # errors that saturate, on purpose
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("row", BURSTING, ids=str)
def test_no_rate_is_negative(row, name):
    circuit = circuit_of(name, row)
    most = 1.0 if row.name == "burstprop" else 2 * circuit.rule.baseline
    optimizer = torch.optim.SGD(circuit.parameters(), 0.05)
    seen = []

    def look(layer: str, quantities: dict[str, Tensor]) -> None:
        if "event_rate" not in quantities:
            return
        seen.append(layer)
        assert quantities.keys() | {"apical_potential"} == circuit.rule.observables.keys()
        for quantity, values in quantities.items():
            assert torch.isfinite(values).all(), quantity
            if quantity not in ("apical_potential", "burst_modulation"):
                assert values.min() >= 0, quantity
            if quantity == "burst_modulation":
                assert values.abs().max() <= 1 + 1e-6
            if "probability" in quantity:
                assert values.max() <= most + 1e-6, quantity
                rate = quantities[quantity.replace("probability", "rate")]
                torch.testing.assert_close(values * quantities["event_rate"], rate)

    with circuit.observe(look):
        for step in range(2):
            x, y = NETWORKS[name].batch(seed=step)
            optimizer.zero_grad()
            (30 * F.cross_entropy(circuit(3 * x), y)).backward()  # errors that saturate
            optimizer.step()
    assert set(seen) == {layer.name for layer in circuit.layers}


@pytest.mark.parametrize("row", BURSTING, ids=str)
def test_silent_neurons_neither_burst_nor_learn(row):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 3))
    with torch.no_grad():
        model[0].bias[:2] = -100
        model[2].bias[1] = -1000  # a sigmoid whose rate is zero in single precision
    circuit = apical.Circuit(model, row.make())
    F.cross_entropy(circuit(torch.randn(8, 4)), torch.arange(8) % 3).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    assert not model[0].weight.grad[:2].any()
    assert not model[2].weight.grad[1].any()
    assert model[0].weight.grad[2:].any()


@pytest.mark.parametrize("events", ["fixed", "matched"])
def test_without_errors_matched_apical_dendrites_are_silent(events):
    circuit = apical.Circuit(network("sigmoid", True), apical.BurstCCN(events=events))
    seen: dict[str, Tensor] = {}

    def look(layer: str, quantities: dict[str, Tensor]) -> None:
        if "apical_potential" in quantities:
            seen[layer] = quantities["apical_potential"]

    with circuit.observe(look):
        (0 * circuit(batch()[0]).sum()).backward()
    assert set(seen) == {"0", "2"}
    assert all(bool(potential.any()) == (events == "fixed") for potential in seen.values())


# What learns


def potentials(circuit: apical.Circuit, loss: Callable[[Tensor], Tensor], steps: int, lr: float) -> list[float]:
    """The size of the apical potentials over some steps on one batch, with forward weights at rest."""
    optimizer = torch.optim.SGD(circuit.rule.parameters(), lr) if list(circuit.rule.parameters()) else None
    sizes: list[float] = []
    now: list[Tensor] = []

    def look(layer: str, quantities: dict[str, Tensor]) -> None:
        if "apical_potential" in quantities:
            now.append(quantities["apical_potential"].square().mean())

    with circuit.observe(look):
        for _ in range(steps):
            now.clear()
            circuit.zero_grad()
            loss(circuit(batch(32)[0])).backward()
            sizes.append(float(sum(now)))
            if optimizer is not None:
                optimizer.step()
    return sizes


@pytest.mark.parametrize(("feedback", "events"), [("fixed", "learned"), ("homeostatic", "fixed")])
def test_homeostasis_silences_the_apical_dendrites(feedback, events):
    rule = apical.BurstCCN(feedback=feedback, events=events, mismatch=1.0, homeostasis=1.0)
    sizes = potentials(apical.Circuit(network("sigmoid", True), rule), lambda y: 0 * y.sum(), 300, 0.5)
    assert sizes[-1] < 0.02 * sizes[0]


def test_recurrent_input_linearises():
    rule = apical.Burstprop(feedback="fixed", recurrent=True, scale=4.0)
    circuit = apical.Circuit(network("sigmoid", True), rule)
    sizes = potentials(circuit, lambda y: 0 * y.sum(), 300, 1.0)
    assert sizes[-1] < 0.1 * sizes[0]


def test_recurrent_input_is_for_fully_connected_hidden_layers():
    circuit = circuit_of("conv", Row("burstprop", {"recurrent": True}))
    assert len(circuit.rule.recurrent_weights) == 0
    circuit = circuit_of("branching", Row("burstprop", {"recurrent": True}))
    names = [layer.name for layer in circuit.layers if layer in circuit.rule.recurrent_weights]
    assert names == ["stem", "left.0", "right.0", "merge", "gate"]


@pytest.mark.parametrize("rule", ["burst_ccn", "burstprop"])
def test_feedback_learns_the_forward_weights(rule):
    circuit = apical.Circuit(network("relu", False), rule)
    optimizer = torch.optim.SGD(circuit.parameters(), 0.1, momentum=0.9, weight_decay=0.02)
    layer = circuit.layers[-1]
    x, y = batch(32)

    def angle() -> float:
        return apical.measure.angle(circuit.rule.pathway.weights[layer].detach(), layer.weight.detach())

    before = angle()
    for _ in range(300):
        optimizer.zero_grad()
        F.cross_entropy(circuit(x), y).backward()
        optimizer.step()
    assert before > 30
    assert angle() < 5


def test_event_weights_of_a_convolution_learn_from_both_ends():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2, groups=2), nn.Sigmoid(), nn.Flatten(),
        nn.Linear(24, 3),
    ).double()  # fmt: skip
    circuit = apical.Circuit(model, apical.BurstCCN(feedback="homeostatic", events="learned", mismatch=0.5))
    seen: dict[str, dict[str, Tensor]] = {}
    x = torch.randn(5, 2, 6, 6, dtype=torch.float64)
    with circuit.observe(lambda layer, quantities: seen.setdefault(layer, {}).update(quantities)):
        F.cross_entropy(circuit(x), torch.arange(5) % 3).backward()
    rule, layer = circuit.rule, circuit.layers[1]
    potential = -seen["0"]["apical_potential"] / rule.baseline  # the paper's sign
    bursts = seen["2"]["burst_rate"] / rule.baseline
    for kept, sent, sign in ((rule.event_weights, seen["2"]["event_rate"], 1), (rule.pathway.weights, bursts, -1)):
        kernel = torch.zeros_like(layer.weight, requires_grad=True)
        product = (F.conv2d(potential, kernel, stride=2, groups=2) * sent).sum() / 5
        (expected,) = torch.autograd.grad(product * sign * rule.homeostasis / layer.synapses.fan_out, [kernel])
        torch.testing.assert_close(kept[layer].grad, expected)


@pytest.mark.parametrize("rule", ["burst_ccn", "burstprop"])
@pytest.mark.parametrize("function", [nn.LogSigmoid(), nn.LeakyReLU(0.1), nn.LogSoftmax(-1), nn.Softsign()], ids=repr)
def test_pairs_of_populations_fire_what_their_rate_is_and_the_tonic_rate(rule, function):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), function, nn.Linear(5, 3))
    circuit, x, seen = apical.Circuit(model, rule), torch.randn(4, 6), {}
    with circuit.observe(lambda layer, quantities: seen.setdefault(layer, {}).update(quantities)):
        circuit(x).square().mean().backward()
    torch.testing.assert_close(seen["0"]["event_rate"], model[:2](x).abs().detach() + 1)


# Options


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("burst_ccn", {"feedback": "mirror"}, "feedback='mirror' is unknown"),
        ("burstprop", {"feedback": "homeostatic"}, "feedback='homeostatic'"),
        ("burst_ccn", {"events": "none"}, "events='none' is unknown"),
        ("burst_ccn", {"feedback": "homeostatic"}, "events='fixed' or 'learned'"),
        ("burst_ccn", {"baseline": 0.6}, "baseline=0.6 must be above 0 and at most 0.5"),
        ("burstprop", {"baseline": 0.0}, "baseline=0.0"),
        ("burstprop", {"slope": -1.0}, "slope=-1.0 must be a positive number"),
        ("burst_ccn", {"error_scale": float("nan")}, "error_scale=nan must be"),
        ("burst_ccn", {"tonic": 0.0}, "tonic=0.0 must be"),
        ("burstprop", {"init": "outputs"}, "init='outputs' is unknown"),
    ],
)
def test_unknown_options_are_refused(name, options, told):
    with pytest.raises(ConfigError) as refused:
        apical.rules.make(name, **options)
    assert told in str(refused.value)


@pytest.mark.parametrize("options", [{"events": "learned"}, {"events": "learned", "feedback": "homeostatic"}])
def test_nothing_is_silenced_below_the_lowest_layer_whatever_stands_before_it(options):
    for network in ("mlp", "deep_tanh"):  # with and without a place between the input and the lowest layer
        circuit = apical.Circuit(NETWORKS[network].build(), apical.BurstCCN(**options), teach_input=True)
        first, *others = circuit.layers
        assert first not in circuit.rule.event_weights
        assert all(layer in circuit.rule.event_weights for layer in others)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_neurons_without_events_send_nothing_and_no_number_below_the_normal_ones(dtype):
    """Products of subnormal numbers take a hundred times as long on many processors."""
    circuit = apical.Circuit(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)), "burstprop")
    population = Population(circuit.layers[0], circuit.wiring, 1.0)
    rate = torch.tensor([0.0, 1.0], dtype=dtype)
    events = population.events(rate, 2.0)
    assert events[0] * 1e-6 >= torch.finfo(dtype).tiny
    assert population.net(rate, events, 2.0).tolist() == [0.0, 0.5]
    assert population.firing(population.net(rate, events, 2.0), events).tolist() == [0.0, 0.5]
