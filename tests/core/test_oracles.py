"""Limits in which the answer is known: plain PyTorch, the papers' equations in loops, and what follows from them."""

import copy
import itertools
import math

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from circuits import CLASSES, NETWORKS, assert_same, circuit_of, gradients, learn, plain
from torch import Tensor, nn

import apical
from apical.errors import CircuitError
from apical.feedback.randomness import Randomness, glorot, standard_deviation, uniform

every_network = pytest.mark.parametrize("network", NETWORKS)


def train(network: nn.Module, rows: str, count: int = 3) -> None:
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    for step in range(count):
        x, y = NETWORKS[rows].batch(8, seed=step)
        torch.manual_seed(step)
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()


# Backpropagation in a circuit is PyTorch's


@pytest.mark.parametrize("samples", [2, 33])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@every_network
def test_backprop_is_autograd_to_the_last_bit(network, training, samples):
    circuit, model = circuit_of(network, "backprop").train(training), NETWORKS[network].build().train(training)
    x, y = NETWORKS[network].batch(samples)
    assert_same(plain(learn(circuit, x, y)), learn(model, x, y))
    assert_same(dict(circuit.model.named_buffers()), dict(model.named_buffers()))


@every_network
def test_training_by_backprop_is_plain_training_to_the_last_bit(network):
    circuit, model = circuit_of(network, "backprop"), NETWORKS[network].build()
    train(circuit, network)
    train(model, network)
    assert_same(circuit.model.state_dict(), model.state_dict())


@every_network
def test_the_inputs_gradient_is_autograds_to_the_last_bit(network):
    circuit, model = circuit_of(network, "backprop"), NETWORKS[network].build()
    x, y = NETWORKS[network].batch()
    found = []
    for answering in (circuit, model):
        own = x.clone().requires_grad_()
        torch.manual_seed(3)
        F.cross_entropy(answering(own), y).backward()
        found.append(own.grad)
    assert torch.equal(*found)


LOSSES = {
    "mse": lambda answer, y: F.mse_loss(answer, F.one_hot(y, CLASSES).float()),
    "smooth": lambda answer, y: F.cross_entropy(answer, y, label_smoothing=0.1),
    "hinge": F.multi_margin_loss,
    "sum": lambda answer, y: answer.square().sum(),
    "twice": lambda answer, y: F.cross_entropy(answer, y) + answer[:, 1:].exp().mean(),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_any_loss_will_do(loss):
    x, y = NETWORKS["branching"].batch()
    found = learn(circuit_of("branching", "backprop"), x, y, loss)
    assert_same(plain(found), learn(NETWORKS["branching"].build(), x, y, loss))


# Feedback alignment


@pytest.mark.parametrize("rule", ["feedback_alignment", "kolen_pollack", "weight_mirror"])
@every_network
def test_feedback_through_the_forward_weights_is_backprop_to_the_last_bit(network, rule):
    x, y = NETWORKS[network].batch()
    circuit = apical.Circuit(NETWORKS[network].build(), apical.rules.make(rule, init="weights"))
    assert_same(plain(learn(circuit, x, y)), learn(NETWORKS[network].build(), x, y))


def perceptron(function: str) -> nn.Sequential:
    torch.manual_seed(0)
    neurons = {"tanh": nn.Tanh, "relu": nn.ReLU}[function]
    return nn.Sequential(
        *(nn.Linear(5, 6), neurons(), nn.Linear(6, 4), neurons(), nn.Linear(4, 5), neurons(), nn.Linear(5, 3))
    ).double()


def referred(circuit: apical.Circuit, function: str, rule, feedback: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the equations give for a perceptron; feedback by the layer's module path."""
    layers = [circuit.model.get_submodule(path) for path in ("0", "2", "4", "6")]
    weights = [layer.weight.detach().numpy() for layer in layers]
    biases = [layer.bias.detach().numpy() for layer in layers]
    below = rule([feedback[path].numpy() if path in feedback else None for path in ("0", "2", "4", "6")])
    found = reference.gradients(weights, biases, *(part.numpy() for part in examples()), function, below)
    return {
        f"model.{path}.{name}": torch.from_numpy(part)
        for name, parts in zip(("weight", "bias"), found, strict=True)
        for path, part in zip(("0", "2", "4", "6"), parts, strict=True)
    }


def examples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn((7, 5), generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (7,), generator=generator)


def feedback_of(circuit: apical.Circuit) -> dict[str, Tensor]:
    prefix = "rule.pathway.weights."
    found = {name.removeprefix(prefix): t for name, t in circuit.state_dict().items() if name.startswith(prefix)}
    return {path.replace("/", "."): tensor.clone() for path, tensor in found.items() if isinstance(tensor, Tensor)}


@pytest.mark.parametrize("function", ["tanh", "relu"])
@pytest.mark.parametrize(
    ("name", "options", "rule"),
    [
        ("feedback_alignment", {}, reference.feedback_alignment),
        ("feedback_alignment", {"init": "xavier", "scale": 2.0}, reference.feedback_alignment),
        ("kolen_pollack", {}, reference.feedback_alignment),
        ("direct_feedback_alignment", {}, reference.direct_feedback_alignment),
        ("direct_feedback_alignment", {"init": "outputs"}, reference.direct_feedback_alignment),
        ("direct_random_target_projection", {}, reference.direct_random_target_projection),
    ],
    ids=lambda value: getattr(value, "__name__", None) and "",
)
def test_the_equations_in_loops(name, options, rule, function):
    circuit = apical.Circuit(perceptron(function), apical.rules.make(name, **options))
    x, y = examples()
    circuit(x)
    feedback = feedback_of(circuit)
    assert feedback.keys() == ({"0", "2", "4"} if name.startswith("direct") else {"2", "4", "6"})
    found = {path: g for path, g in learn(circuit, x, y).items() if path.startswith("model.")}
    assert_same(found, referred(circuit, function, rule, feedback), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("magnitude", ["uniform", "fixed"])
def test_sign_symmetry_in_loops(magnitude):
    circuit = apical.Circuit(perceptron("tanh"), apical.SignSymmetry(magnitude=magnitude))
    x, y = examples()
    feedback = {path: circuit.rule.pathway.weight(layer_of(circuit, path)) for path in ("2", "4", "6")}
    expected = referred(circuit, "tanh", reference.feedback_alignment, feedback)
    assert_same(learn(circuit, x, y), expected, rtol=1e-10, atol=1e-12)


class Strip(nn.Module):
    """Two convolutions over a line and a readout."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(2, 3, 3)
        self.second = nn.Conv1d(3, 2, 2)
        self.readout = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(torch.flatten(torch.tanh(self.second(torch.tanh(self.first(x)))), 1))


@pytest.mark.parametrize("name", ["feedback_alignment", "direct_feedback_alignment", "direct_random_target_projection"])
def test_convolutions_in_loops(name):
    torch.manual_seed(0)
    circuit = apical.Circuit(Strip().double(), name)
    inputs = torch.randn(4, 2, 7, dtype=torch.float64)
    targets = torch.tensor([0, 2, 1, 2])
    circuit(inputs)
    found = plain(learn(circuit, inputs, targets))
    B = {path: tensor.numpy() for path, tensor in feedback_of(circuit).items()}
    W = {path: tensor.detach().numpy() for path, tensor in circuit.model.named_parameters()}
    expected = {path: np.zeros_like(tensor) for path, tensor in W.items()}
    for x, target in zip(inputs.numpy(), targets.tolist(), strict=True):
        h1 = np.tanh(reference.convolved(W["first.weight"], W["first.bias"], x))
        h2 = np.tanh(reference.convolved(W["second.weight"], W["second.bias"], h1))
        a = reference.matrix_vector(W["readout.weight"], h2.flatten()) + W["readout.bias"]
        error = reference.softmax_error(a, target)
        if name == "feedback_alignment":
            delta2 = reference.matrix_vector(B["readout"].T, error).reshape(h2.shape) * (1 - h2**2)
            delta1 = reference.carried_down(B["second"], delta2, h1.shape[1]) * (1 - h1**2)
        else:  # a dense map from the outputs to the whole feature map
            sent = error if name == "direct_feedback_alignment" else -np.eye(3)[target]
            told = {path: sum(sent[k] * B[path][k] for k in range(3)) for path in ("first", "second")}
            # The second layer fires after it is flattened: its feedback weights know units, not positions.
            delta2 = told["second"].reshape(h2.shape) * (1 - h2**2)
            delta1 = told["first"] * (1 - h1**2)
        for path, delta, below, kernel in (("first", delta1, x, 3), ("second", delta2, h1, 2)):
            expected[f"{path}.weight"] += reference.kernel_update(delta, below, kernel) / 4
            expected[f"{path}.bias"] += delta.sum(1) / 4
        expected["readout.weight"] += np.outer(error, h2.flatten()) / 4
        expected["readout.bias"] += error / 4
    tensors = {path: torch.from_numpy(part) for path, part in expected.items()}
    assert_same(found, tensors, rtol=1e-10, atol=1e-12)


def layer_of(circuit: apical.Circuit, path: str):
    return next(layer for layer in circuit.layers if layer.name == path)


def test_feedback_weights_have_the_size_that_is_asked_for():
    wide = nn.Sequential(nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 400))
    x = torch.randn(3, 300)
    last = layer_of(apical.Circuit(copy.deepcopy(wide), "backprop"), "2").weight

    def drawn(name: str, path: str, **options: object) -> Tensor:
        circuit = apical.Circuit(copy.deepcopy(wide), apical.rules.make(name, **options))
        circuit(x)
        return feedback_of(circuit)[path]

    match = standard_deviation(last)
    assert match == pytest.approx(float(last.detach().square().mean().sqrt()))
    assert glorot(last) == pytest.approx(math.sqrt(2 / 600))
    assert glorot(nn.Conv2d(3, 5, (2, 7)).weight) == pytest.approx(math.sqrt(2 / (3 * 14 + 5 * 14)))
    for scale in (1.0, 0.3):
        for init, spread in (("match", match), ("xavier", math.sqrt(2 / 600))):
            B = drawn("feedback_alignment", "2", init=init, scale=scale)
            assert B.shape == last.shape
            assert float(B.std()) == pytest.approx(scale * spread, rel=0.02)
            assert float(B.abs().max()) == pytest.approx(scale * spread * math.sqrt(3), rel=0.01)
            assert abs(float(B.mean())) < 5 * scale * spread / math.sqrt(B.numel())
        assert torch.equal(drawn("feedback_alignment", "2", init="weights", scale=scale), last.detach() * scale)
        for init, spread in (("match", match), ("outputs", 1 / math.sqrt(400))):
            B = drawn("direct_feedback_alignment", "0", init=init, scale=scale)
            assert B.shape == (400, 200)
            assert float(B.std()) == pytest.approx(scale * spread, rel=0.02)
    assert not torch.equal(drawn("feedback_alignment", "2", seed=1), drawn("feedback_alignment", "2", seed=2))
    again = drawn("feedback_alignment", "2", seed=1)
    assert torch.equal(drawn("feedback_alignment", "2", seed=1), again)


def test_fixed_feedback_weights_stay_fixed():
    for name in ("feedback_alignment", "direct_feedback_alignment", "direct_random_target_projection"):
        circuit = circuit_of("line", name)
        circuit(NETWORKS["line"].batch()[0])
        before = feedback_of(circuit)
        train(circuit, "line")
        assert_same(feedback_of(circuit), before)
        assert not any(name.startswith("rule.") for name, _ in circuit.named_parameters())


def test_a_layer_of_zeros_is_still_taught():
    """Weights that start at zero have no spread to match."""
    model = NETWORKS["mlp"].build()
    nn.init.zeros_(model[5].weight)
    for name in ("feedback_alignment", "sign_symmetry", "direct_feedback_alignment", "weight_mirror", "kolen_pollack"):
        circuit = apical.Circuit(copy.deepcopy(model), name)
        found = learn(circuit, *NETWORKS["mlp"].batch())
        assert all(torch.isfinite(gradient).all() for gradient in found.values())
        told = bool(found["model.1.weight"].count_nonzero())
        assert told == (name != "sign_symmetry")  # which has no signs to go by, like backprop


# Random numbers


def test_a_source_of_random_numbers_goes_on_where_its_state_was_saved():
    like = torch.empty(3, 5)
    source, other = Randomness(3), Randomness(4)
    assert not torch.equal(source.noise((7,), like), other.noise((7,), like))
    other.load_state_dict(copy.deepcopy(source.state_dict()))
    assert other.seed == 3
    for _ in range(2):
        assert torch.equal(source.noise((7,), like), other.noise((7,), like))
        assert torch.equal(source.odd_bytes(like), other.odd_bytes(like))
    fresh = Randomness(3)
    assert not torch.equal(source.noise((7,), like), fresh.noise((7,), like))
    assert all(isinstance(value, torch.Tensor) for value in source.state_dict().values())


def test_initial_weights_depend_on_seed_and_name_alone():
    like = torch.empty(3, 5)
    first = uniform(like, 1.0, 3, "a.weight")
    assert not torch.equal(first, uniform(like, 1.0, 3, "b.weight"))
    assert not torch.equal(first, uniform(like, 1.0, 4, "a.weight"))
    Randomness(3).noise((7,), like)
    torch.manual_seed(5)
    assert torch.equal(first, uniform(like, 1.0, 3, "a.weight"))


@pytest.mark.parametrize("rule", ["feedback_alignment", "direct_feedback_alignment", "burst_ccn"])
def test_feedback_weights_do_not_depend_on_the_other_layers(rule):
    """Inserting a layer leaves the feedback weights of all others as they were."""
    torch.manual_seed(0)
    first, second, third = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    class Net(nn.Module):
        def __init__(self, deep: bool) -> None:
            super().__init__()
            self.first, self.third, self.deep = first, third, deep
            if deep:
                self.second = second

        def forward(self, x):
            h = torch.tanh(self.first(x))
            return self.third(torch.tanh(self.second(h)) if self.deep else h)

    found = []
    for deep in (False, True):
        circuit = apical.Circuit(Net(deep), apical.rules.make(rule, init="outputs" if "direct" in rule else "match"))
        circuit(torch.randn(5, 6))
        own = {**dict(circuit.rule.named_buffers()), **dict(circuit.rule.named_parameters())}
        found.append({name: value for name, value in own.items() if "first" in name or "third" in name})
    assert found[0]
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name])


def test_noise_has_mean_zero_and_variance_one():
    noise = Randomness(0).noise((200, 300), torch.empty(0, dtype=torch.float64))
    assert noise.dtype == torch.float64
    assert float(noise.mean()) == pytest.approx(0, abs=5 / math.sqrt(noise.numel()))
    assert float(noise.var()) == pytest.approx(1, rel=0.02)
    covariance = noise.t() @ noise / 200 - torch.eye(300, dtype=torch.float64)
    assert float(covariance.abs().max()) < 6 / math.sqrt(200)


# Sign symmetry


@pytest.mark.parametrize("init", ["match", "xavier"])
@pytest.mark.parametrize("magnitude", ["uniform", "batchwise", "fixed"])
def test_every_sign_is_kept_after_every_step(magnitude, init):
    circuit = apical.Circuit(NETWORKS["line"].build(), apical.SignSymmetry(magnitude=magnitude, init=init, scale=0.7))
    spreads = {
        layer.name: 0.7 * (standard_deviation(layer.weight) if init == "match" else glorot(layer.weight))
        for layer in circuit.layers
    }
    sizes: dict[str, Tensor] = {}
    flipped = 0
    before = {layer.name: layer.weight.detach().sign() for layer in circuit.layers}
    for _ in range(5):
        train(circuit, "line", 2)
        for layer in circuit.layers[1:]:
            B = circuit.rule.pathway.weight(layer)
            assert torch.equal(B.sign(), layer.weight.detach().sign())
            flipped += int((B.sign() != before[layer.name]).sum())
            spread = spreads[layer.name]
            if magnitude == "uniform":
                torch.testing.assert_close(B.abs(), torch.full_like(B, spread))
            else:
                assert float(B.abs().max()) <= math.sqrt(3) * spread * 1.001
                before_that = sizes.get(layer.name, B.abs() if magnitude == "fixed" else torch.zeros_like(B))
                assert torch.equal(before_that, B.abs()) == (magnitude == "fixed")
                sizes[layer.name] = B.abs()
    assert flipped  # or keeping them was no feat


def test_batchwise_sizes_are_uniform_and_redrawn():
    torch.manual_seed(0)
    circuit = apical.Circuit(
        nn.Sequential(nn.Linear(3, 100), nn.Linear(100, 200)), apical.SignSymmetry(magnitude="batchwise")
    )
    layer = circuit.layers[1]
    spread = standard_deviation(layer.weight)
    drawn = torch.stack([circuit.rule.pathway.weight(layer).abs() for _ in range(8)]) / (math.sqrt(3) * spread)
    assert not torch.equal(drawn[0], drawn[1])
    count = drawn.numel()
    assert float(drawn.mean()) == pytest.approx(0.5, abs=5 * math.sqrt(1 / 12 / count))
    assert float(drawn.var()) == pytest.approx(1 / 12, rel=0.02)
    observed = torch.histc(drawn, bins=16, min=0, max=1)
    assert observed.sum() == count
    surprise = float(((observed - count / 16).square() / (count / 16)).sum())
    assert surprise < 45  # chi-square with 15 degrees of freedom: one in ten thousand
    # No size knows of its neighbour, nor of the same synapse's last one.
    for a, b in ((drawn[:, :, :-1], drawn[:, :, 1:]), (drawn[:, :-1], drawn[:, 1:]), (drawn[:-1], drawn[1:])):
        together = ((a - 0.5) * (b - 0.5)).mean() * 12
        assert abs(float(together)) < 5 / math.sqrt(a.numel())


def test_batchwise_sizes_teach_otherwise_in_every_batch():
    circuit = apical.Circuit(NETWORKS["mlp"].build(), apical.SignSymmetry(magnitude="batchwise"))
    x, y = NETWORKS["mlp"].batch()
    first, second = learn(circuit, x, y), learn(circuit, x, y)
    assert torch.equal(first["model.5.weight"], second["model.5.weight"])
    assert not torch.equal(first["model.3.weight"], second["model.3.weight"])
    mean = sum(learn(circuit, x, y)["model.3.weight"] for _ in range(400)) / 400
    uniform = learn(apical.Circuit(NETWORKS["mlp"].build(), apical.SignSymmetry()), x, y)["model.3.weight"]
    # |R| has the mean sqrt(3) / 2 where the uniform size is 1.
    torch.testing.assert_close(mean, uniform * math.sqrt(3) / 2, rtol=0.1, atol=0.1 * float(uniform.abs().max()))


# Kolen-Pollack


def pairs(circuit: apical.Circuit) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
    parameters = dict(circuit.named_parameters())
    prefix = "rule.pathway.weights."
    return {
        path: (parameters[f"model.{path}.weight"], parameters[prefix + path])
        for path in (name.removeprefix(prefix) for name in parameters if name.startswith(prefix))
    }


def kolen_pollack(network: str = "line") -> apical.Circuit:
    circuit = apical.Circuit(NETWORKS[network].build().double(), apical.KolenPollack())
    assert len(pairs(circuit)) == len(circuit.layers) - 1
    return circuit


def differences(circuit: apical.Circuit) -> dict[str, Tensor]:
    return {path: (W - B).detach().clone() for path, (W, B) in pairs(circuit).items()}


def learn_on(circuit: apical.Circuit, optimizer: torch.optim.Optimizer, count: int) -> None:
    for step in range(count):
        x, y = NETWORKS["line"].batch(8, seed=step)
        optimizer.zero_grad()
        F.cross_entropy(circuit(x.double()), y).backward()
        for W, B in pairs(circuit).values():
            assert torch.equal(W.grad, B.grad)
            assert W.grad.data_ptr() != B.grad.data_ptr()
        optimizer.step()


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, 0.1),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
        lambda p: torch.optim.Adam(p, 0.01),
        lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0),
        lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.5),
        lambda p: torch.optim.Adagrad(p, 0.01),
    ],
    ids=["sgd", "momentum", "adam", "adamw", "rmsprop", "adagrad"],
)
def test_without_decay_the_increments_are_identical_under_any_optimizer(make):
    circuit = kolen_pollack()
    before = differences(circuit)
    weights = {path: W.detach().clone() for path, (W, _) in pairs(circuit).items()}
    learn_on(circuit, make(circuit.parameters()), 20)
    assert_same(differences(circuit), before, rtol=0, atol=1e-12)
    assert all((W - weights[path]).abs().max() > 1e-3 for path, (W, _) in pairs(circuit).items())


@pytest.mark.parametrize(
    ("make", "shrinks"),
    [
        (lambda p: torch.optim.SGD(p, 0.2, weight_decay=0.1), 1 - 0.2 * 0.1),
        (lambda p: torch.optim.AdamW(p, 0.05, weight_decay=0.3), 1 - 0.05 * 0.3),
    ],
    ids=["sgd", "adamw"],
)
def test_with_decay_the_difference_shrinks_geometrically(make, shrinks):
    circuit = kolen_pollack()
    optimizer = make(circuit.parameters())
    lengths = []
    for _ in range(4):
        before = differences(circuit)
        learn_on(circuit, optimizer, 10)
        assert_same(differences(circuit), {path: d * shrinks**10 for path, d in before.items()}, rtol=1e-9, atol=1e-13)
        lengths.append(math.sqrt(sum(float(d.square().sum()) for d in before.values())))
    ratios = [b / a for a, b in itertools.pairwise(lengths)]
    assert ratios == pytest.approx([shrinks**10] * 3, rel=1e-9)


def test_under_momentum_the_difference_obeys_the_decay_alone():
    circuit = kolen_pollack()
    before = differences(circuit)
    learn_on(circuit, torch.optim.SGD(circuit.parameters(), 0.1, momentum=0.9, weight_decay=0.05), 30)
    left, velocity = 1.0, 0.0
    for _ in range(30):
        velocity = 0.9 * velocity + 0.05 * left
        left -= 0.1 * velocity
    assert abs(left) < 0.7
    assert_same(differences(circuit), {path: d * left for path, d in before.items()}, rtol=1e-9, atol=1e-13)


def test_feedback_that_converges_teaches_the_gradient():
    circuit = kolen_pollack()
    x, y = NETWORKS["line"].batch()
    early = apical.measure.alignment(circuit, x.double(), y, F.cross_entropy)
    learn_on(circuit, torch.optim.SGD(circuit.parameters(), 0.5, weight_decay=0.02), 700)
    assert all(apical.measure.angle(W.detach(), B.detach()) < 1 for W, B in pairs(circuit).values())
    late = apical.measure.alignment(circuit, x.double(), y, F.cross_entropy)
    assert early["first"] > 60
    assert late["first"] < 5


# Weight mirrors


def mirror(**options: float) -> apical.Circuit:
    return apical.Circuit(NETWORKS["line"].build().double(), apical.WeightMirror(**options))


def test_mirrors_find_the_weights_from_noise_alone():
    circuit = mirror(every=1, rate=0.05, samples=64)
    x = NETWORKS["line"].batch(1)[0].double()
    weights = {layer.name: layer.weight.detach().clone() for layer in circuit.layers}
    start = {path: apical.measure.angle(B, weights[path]) for path, B in feedback_of(circuit).items()}
    for _ in range(200):
        circuit(x)
    assert min(start.values()) > 60
    for path, B in feedback_of(circuit).items():
        assert apical.measure.angle(B, weights[path]) < 15
        assert float(B.norm() / weights[path].norm()) == pytest.approx(1, abs=0.15)
    assert all(torch.equal(layer.weight, weights[layer.name]) for layer in circuit.layers)


def test_a_mirror_phase_moves_towards_the_weights_on_average():
    circuit = mirror(every=1, rate=0.2, samples=8)
    start = feedback_of(circuit)
    weights = {layer.name: layer.weight.detach() for layer in circuit.layers}
    state = copy.deepcopy(circuit.rule.pathway.weights.state_dict())
    repeats = 600
    total = {path: torch.zeros_like(B) for path, B in start.items()}
    squares = {path: torch.zeros_like(B) for path, B in start.items()}
    for _ in range(repeats):
        circuit.rule.pathway.weights.load_state_dict(state)
        circuit.rule.before_forward(circuit.wiring)
        for path, B in feedback_of(circuit).items():
            total[path] += B / repeats
            squares[path] += B.square() / repeats
    for path, B in start.items():
        expected = 0.8 * B + 0.2 * weights[path]
        error = ((squares[path] - total[path].square()) / repeats).sqrt()
        assert ((total[path] - expected).abs() <= 5 * error).all()
        assert (total[path] - B).norm() > 0.1 * weights[path].norm()


@pytest.mark.parametrize("every", [1, 3])
def test_mirrors_work_between_every_so_many_answers(every):
    circuit = mirror(every=every)
    x = NETWORKS["line"].batch(1)[0].double()
    moved = []
    before = feedback_of(circuit)
    for _ in range(6):
        circuit(x)
        now = feedback_of(circuit)
        moved.append(not all(torch.equal(now[path], before[path]) for path in now))
        before = now
    assert moved == [(step + 1) % every == 0 for step in range(6)]


# Direct random target projection

DRTP = "direct_random_target_projection"


@pytest.mark.parametrize(
    "loss",
    [
        lambda answer, y: F.cross_entropy(answer, y, label_smoothing=0.3),
        lambda answer, y: F.mse_loss(answer, torch.ones_like(answer) * 9),
        lambda answer, y: -answer.sum(),
    ],
    ids=["smooth", "regression", "all negative"],
)
def test_a_loss_without_a_target_class_is_refused(loss):
    circuit = circuit_of("mlp", "direct_random_target_projection")
    x, y = NETWORKS["mlp"].batch()
    with torch.no_grad():
        circuit.model[5].weight.mul_(40)  # a network that is sure of its answers
    with pytest.raises(CircuitError, match=r"DirectRandomTargetProjection: .* negative at \d outputs"):
        loss(circuit(x), y).backward()


def test_an_answer_that_is_no_list_of_classes_is_refused():
    circuit = apical.Circuit(nn.Conv1d(2, 3, 1), "direct_random_target_projection")
    with pytest.raises(CircuitError, match=r"DirectRandomTargetProjection: .*\(4, 3, 5\)"):
        F.cross_entropy(circuit(torch.randn(4, 2, 5)), torch.zeros(4, 5, dtype=torch.long)).backward()


def test_the_target_is_read_off_squared_error_too():
    x, y = NETWORKS["mlp"].batch()
    model = nn.Sequential(NETWORKS["mlp"].build(), nn.Sigmoid())

    def taught(loss) -> dict[str, Tensor]:
        circuit = apical.Circuit(copy.deepcopy(model), "direct_random_target_projection")
        return learn(circuit, x, y, loss)

    squared = taught(lambda answer, y: F.mse_loss(answer, F.one_hot(y, CLASSES).float()))
    entropy = taught(lambda answer, y: F.nll_loss(answer.log() - answer.sum(1, keepdim=True).log(), y))
    # The hidden layers are told the target alone; the readout its own error.
    hidden = [name for name in squared if not name.startswith("model.0.5")]
    assert_same({n: squared[n] for n in hidden}, {n: entropy[n] for n in hidden}, rtol=1e-5, atol=1e-8)
    assert not torch.allclose(squared["model.0.5.weight"], entropy["model.0.5.weight"])


def hidden_update(loss, *, scale: float = 1.0) -> Tensor:
    """The first layer's update where outputs are far outside [0, 1]."""
    torch.manual_seed(3)
    model, x = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)), torch.randn(64, 6)
    with torch.no_grad():
        model[2].weight.mul_(scale)
    loss(apical.Circuit(model, "direct_random_target_projection")(x), torch.arange(64) % 5).backward()
    return model[0].weight.grad


@pytest.mark.parametrize("scale", [1.0, 8.0])
@pytest.mark.parametrize("name", ["mse", "half", "sum", "weighted"])
def test_squared_error_shows_its_target_wherever_the_outputs_are(name, scale):
    def squared(answer: Tensor, y: Tensor) -> Tensor:
        distance = (answer - F.one_hot(y, 5)).square()
        weights = torch.rand(64, 1, generator=torch.Generator().manual_seed(0)) + 0.1
        return {
            "mse": distance.mean(),
            "half": distance.sum() / 128,
            "sum": 64 * distance.sum(),
            "weighted": (weights * distance).mean(),
        }[name]

    expected = hidden_update(F.cross_entropy, scale=scale)
    torch.testing.assert_close(hidden_update(squared, scale=scale), expected)


@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_losses_that_are_negative_at_the_true_class_alone_show_it(scale):
    def each_class(answer: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(answer, F.one_hot(y, 5).float())

    expected = hidden_update(F.cross_entropy, scale=scale)
    torch.testing.assert_close(hidden_update(each_class, scale=scale), expected)
    weights = torch.tensor([0.1, 1.0, 5.0, 0.3, 2.0])
    torch.testing.assert_close(hidden_update(lambda q, y: F.cross_entropy(q, y, weight=weights), scale=scale), expected)


def test_one_output_has_no_class():
    circuit = apical.Circuit(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)), DRTP)
    with pytest.raises(CircuitError, match=r"DirectRandomTargetProjection: .*\(5, 1\)"):
        circuit(torch.randn(5, 4)).square().mean().backward()


def test_neurons_that_do_not_saturate_are_named():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))
    with pytest.warns(UserWarning, match=r"^0: DirectRandomTargetProjection"):
        apical.Circuit(model, DRTP)


# Direct feedback over junctions


def test_direct_feedback_takes_no_skip():
    """In a residual network every layer is told by its own map: what happens above changes nothing but the error."""
    x, y = NETWORKS["residual"].batch()
    circuit = circuit_of("residual", "direct_feedback_alignment")
    circuit.eval()
    F.cross_entropy(circuit(x), y)
    before = learn(circuit, x, y, lambda answer, y: (answer * torch.ones(CLASSES)).sum())
    with torch.no_grad():
        circuit.model.readout.weight.mul_(-3)
        circuit.model.blocks[1].shortcut[0].weight.mul_(2)
    after = learn(circuit, x, y, lambda answer, y: (answer * torch.ones(CLASSES)).sum())
    lower = [name for name in before if name.startswith(("model.stem", "model.blocks.0.conv"))]
    assert len(lower) == 3
    assert_same({name: before[name] for name in lower}, {name: after[name] for name in lower})


def test_direct_feedback_refuses_another_size():
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU(), nn.Conv1d(3, 3, 1), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    circuit = apical.Circuit(model, "direct_feedback_alignment")
    learn(circuit, torch.randn(4, 2, 8), torch.tensor([0, 1, 2, 0]))
    with pytest.raises(CircuitError, match=r"^0: .*\(3, 6\).*\(3, 8\)"):
        learn(circuit, torch.randn(4, 2, 10), torch.tensor([0, 1, 2, 0]))


@pytest.mark.parametrize("outputs", [(), (1,), (3,), (2, 3)])
def test_direct_feedback_takes_answers_of_any_shape(outputs):
    torch.manual_seed(0)
    count = math.prod(outputs)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, count), nn.Unflatten(1, outputs or (1,)))
    if not outputs:
        model = nn.Sequential(model, nn.Flatten(0))
    circuit = apical.Circuit(model.double(), "direct_feedback_alignment")
    x = torch.randn(5, 4, dtype=torch.float64)
    weighting = torch.randn((5, *outputs), dtype=torch.float64)
    (circuit(x) * weighting).sum().backward()
    (B,) = feedback_of(circuit).values()
    inner = circuit.model if outputs else circuit.model[0]
    drive = inner[0](x)
    told = torch.einsum("no,ou->nu", weighting.reshape(5, count), B) * (1 - drive.tanh().square())
    torch.testing.assert_close(inner[0].weight.grad, told.t() @ x)
    assert gradients(circuit)
