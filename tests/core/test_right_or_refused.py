"""Kinds of use in which an update could silently be wrong: each is right, or refused with the remedy."""

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from circuits import NETWORKS, Row, assert_same, circuit_of, learn, loss_of, plain, rows
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

import apical
from apical.errors import CircuitError

ROWS = [row for row in rows() if not row.redraws]
every_steady_rule = pytest.mark.parametrize("row", ROWS, ids=str)
close = {"rtol": 1e-9, "atol": 1e-12}


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))


def data(samples: int = 5) -> tuple[Tensor, Tensor]:
    x = torch.randn(samples, 6, generator=torch.Generator().manual_seed(1))
    return x, torch.arange(samples) % 4


def as_autograd(network: nn.Module, x: Tensor, y: Tensor, rule: str = "backprop") -> None:
    """A circuit's update is that of the plain model."""
    network, x = network.double(), x.double()
    expected = learn(network, x, y, F.cross_entropy)
    network.zero_grad()
    assert_same(plain(learn(apical.Circuit(network, rule), x, y)), expected, **close)


# The weights of the forward pass teach


@every_steady_rule
def test_the_weights_of_the_forward_pass_teach(row):
    """As a circuit that holds these weights itself: its feedback is that of the weights when it was built."""
    x, y = NETWORKS["mlp"].batch()
    called, holder = circuit_of("mlp", row), circuit_of("mlp", row)
    called(x), holder(x)  # feedback weights that depend on the output's shape exist from here on
    others = {name: (1.5 * own).detach().requires_grad_() for name, own in called.model.named_parameters()}
    with torch.no_grad():
        for name, own in holder.model.named_parameters():
            own.copy_(others[name])
    torch.manual_seed(3)
    output = functional_call(called, {f"model.{name}": other for name, other in others.items()}, (x,))
    loss_of(called)(output, y).backward()
    expected = plain(learn(holder, x, y))
    found = {name: other.grad for name, other in others.items() if other.grad is not None}
    assert_same(found, expected)
    assert all(own.grad is None for own in called.model.parameters())


def test_an_inner_step_of_meta_learning_takes_the_rules_update():
    x, y = data()
    circuit = apical.Circuit(chain(), "feedback_alignment")
    weights = dict(circuit.named_parameters())

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(functional_call(circuit, weights, (x,)), y)

    assert_same(grad(loss)(weights), learn(circuit, x, y))


# PyTorch's own: the first jvp of a process loads decompositions that it scripts.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("rule", ["backprop", "feedback_alignment", "burst_ccn"])
def test_batched_transforms_are_refused(rule):
    x, _ = data()
    circuit = apical.Circuit(chain(), rule)
    weights = dict(circuit.named_parameters())
    stacked = {name: torch.stack([own.detach()] * 2) for name, own in weights.items()}
    with pytest.raises(CircuitError, match=r"torch\.func\.vmap"):
        vmap(lambda own: functional_call(circuit, own, (x,)))(stacked)
    with pytest.raises(CircuitError, match=r"torch\.func\.jvp"):
        jvp(circuit, (x,), (torch.ones_like(x),))


# Rates and functions on the way


class Spectrum(nn.Module):
    """The rates between its layers are complex."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.fft.rfft(self.a(x)).abs())


class Rotated(nn.Module):
    """Pairs of units as complex numbers, turned, as rotary embeddings are."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        turned = torch.view_as_complex(self.a(x).unflatten(1, (4, 2))) * torch.tensor(0.6 + 0.8j)
        return self.b(torch.view_as_real(turned).flatten(1).tanh())


class Reversed(torch.autograd.Function):
    """Its forward pass returns its input, and its backward pass is its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> Tensor:
        return -signal


class Turning(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(Reversed.apply(torch.tanh(self.a(x))))


class Scale(nn.Module):
    """One parameter a unit, with axes for broadcasting."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(1 + torch.rand(shape, generator=torch.Generator().manual_seed(2)))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain


def scaled(*shape: int) -> nn.Module:
    convolutions = (nn.Conv2d(3, 4, 3), Scale(*shape), nn.ReLU(), nn.Conv2d(4, 4, 3))
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(4 * 4 * 4, 4))


@pytest.mark.parametrize("network", [Spectrum, Rotated, Turning])
def test_what_is_on_the_way_sends_back_its_own_derivative(network):
    torch.manual_seed(0)
    as_autograd(network(), *data())


@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1)])
def test_one_parameter_a_unit_may_have_axes_to_broadcast(shape):
    torch.manual_seed(0)
    as_autograd(scaled(*shape), torch.randn(5, 3, 8, 8), torch.arange(5) % 4)


def test_a_chain_may_be_deep():
    torch.manual_seed(0)
    layers = [module for _ in range(300) for module in (nn.Linear(6, 6), nn.Tanh())]
    as_autograd(nn.Sequential(*layers, nn.Linear(6, 4)), *data())


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm1d(8), (6,)),
        (nn.LayerNorm(8), (6,)),
        (nn.BatchNorm2d(4), (3, 8, 8)),
        (nn.GroupNorm(2, 4), (3, 8, 8)),
    ],
    ids=lambda case: type(case).__name__ if isinstance(case, nn.Module) else "",
)
@pytest.mark.parametrize("rule", ["backprop", "feedback_alignment", "burst_ccn", "direct_feedback_alignment"])
def test_an_empty_batch_passes_a_norm_as_in_pytorch(norm, shape, rule):
    first = nn.Linear(6, 8) if len(shape) == 1 else nn.Conv2d(3, 4, 3)
    size = 8 if len(shape) == 1 else 4 * 6 * 6
    network = nn.Sequential(first, norm, nn.ReLU(), nn.Flatten(), nn.Linear(size, 4))
    plain_output = network(torch.zeros(0, *shape))
    output = apical.Circuit(network, rule)(torch.zeros(0, *shape))
    assert output.shape == plain_output.shape
    output.sum().backward()
    assert all(own.grad is None or not own.grad.any() for own in network.parameters())


# The model changes after it was read


def exchange(model: nn.Sequential) -> None:
    model[2] = nn.Linear(8, 4)


def another_activation(model: nn.Sequential) -> None:
    model[1] = nn.ReLU()


def append(model: nn.Sequential) -> None:
    model.append(nn.Linear(4, 4))


def replace_forward(model: nn.Sequential) -> None:
    model[0].forward = lambda x: 2 * x  # type: ignore[method-assign]


def another_class(model: nn.Sequential) -> None:
    model[0].__class__ = type("Other", (nn.Linear,), {})


@pytest.mark.parametrize("change", [exchange, another_activation, append, replace_forward, another_class])
@pytest.mark.parametrize("rule", ["backprop", "kolen_pollack", "equilibrium_propagation"])
def test_a_changed_model_is_refused(change: Callable[[nn.Sequential], None], rule: str):
    x, y = data()
    model = chain()
    circuit = apical.Circuit(model, rule)
    learn(circuit, x, y)
    change(model)
    with pytest.raises(CircuitError, match=r"after the circuit was built.*build the circuit from it"):
        circuit(x)


def test_a_replaced_convolution_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 4))
    circuit = apical.Circuit(model, "backprop")
    model[0]._conv_forward = lambda x, weight, bias: x
    with pytest.raises(CircuitError, match="after the circuit was built"):
        circuit(torch.randn(2, 3, 8, 8))


def test_a_later_hook_is_named_once():
    x, y = data()
    model = chain()
    circuit = apical.Circuit(model, "backprop")
    learn(circuit, x, y)
    model[1].register_forward_hook(lambda *_: None)
    with pytest.warns(UserWarning, match=r"hook was registered.*circuit\.observe"):
        circuit(x)
    circuit(x)  # warnings are errors


# Derivatives of an update, idle feedback, and other draws


@pytest.mark.parametrize("rule", ["backprop", "feedback_alignment", "predictive_coding"])
def test_a_gradient_penalty_is_refused(rule):
    x, y = data()
    circuit = apical.Circuit(chain(), rule)
    gradients = torch.autograd.grad(F.cross_entropy(circuit(x), y), list(circuit.model.parameters()), create_graph=True)
    with pytest.raises(CircuitError, match=r"create_graph"):
        sum(own.square().sum() for own in gradients).backward()


LEARNED = (Row("kolen_pollack"), Row("burst_ccn"), Row("brainprop", {"feedback": "kolen_pollack"}))


@pytest.mark.parametrize("row", LEARNED, ids=str)
def test_feedback_that_no_optimizer_moves_is_named_once(row):
    x, y = data()

    def trained(whole: bool) -> None:
        circuit = apical.Circuit(chain(), row.make())
        moved = circuit if whole else circuit.model
        optimizer = torch.optim.SGD(moved.parameters(), lr=0.1, weight_decay=1e-3)
        for _ in range(6):
            optimizer.zero_grad()
            loss_of(circuit)(circuit(x), y).backward()
            optimizer.step()

    trained(whole=True)
    with pytest.warns(UserWarning, match=r"circuit\.parameters\(\) in place of model\.parameters\(\)") as found:
        trained(whole=False)
    assert len(found) == 1


class Sampled(nn.Module):
    """A hidden layer that draws noise of its own."""

    def __init__(self, draw: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.draw = draw

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.draw(self.b(torch.tanh(self.a(x))))))


class Noisy(nn.Module):
    """Noise of a size that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.size = nn.Parameter(torch.full((8,), 0.3))

    def forward(self, h: Tensor) -> Tensor:
        return h + self.size * torch.randn_like(h)


class DropPath(nn.Module):
    """Drops samples of a layer as a whole."""

    def forward(self, h: Tensor) -> Tensor:
        return h * (torch.rand(len(h), 1, dtype=h.dtype) < 0.5)


class Sample(nn.Module):
    """A sample of a normal distribution, of its mean and the logarithm of its variance."""

    def forward(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        return mean + torch.randn_like(mean) * torch.exp(log_variance / 2)


class Encoder(nn.Module):
    """Two layers meet in a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.mean, self.spread, self.b = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.sample = Sample()

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        return self.b(torch.tanh(self.sample(self.mean(h), self.spread(h))))


class Scaled(nn.Module):
    """Its forward reads a number, a function and a flag; a counter and the last rate change by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 3)
        self.scale, self.function, self.flag, self.calls, self.last = 3.0, torch.tanh, True, 0, None

    def forward(self, x):
        self.calls += 1
        self.last = self.function(self.scale * self.a(x))
        return self.b(self.last + 1 if self.flag else self.last)


COPIES = {
    "itself": lambda circuit: circuit,
    "a copy": copy.deepcopy,
    "a pickle": lambda it: pickle.loads(pickle.dumps(it)),
}


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize(
    ("name", "value"), [("scale", 4.0), ("function", torch.relu), ("flag", False), ("forward", torch.tanh)]
)
def test_what_a_forward_reads_of_attributes_stays_or_is_refused(name, value, copied):
    circuit = COPIES[copied](apical.Circuit(Scaled(), "backprop"))
    x = torch.randn(2, 6)
    with torch.no_grad():
        circuit(x)
    circuit.model.other, circuit.model.scale = 1, float("3")
    circuit(x).sum().backward()
    setattr(circuit.model.a if name == "forward" else circuit.model, name, value)
    with pytest.raises(CircuitError, match=rf"{name}.*after the circuit was built"):
        circuit(x)


class Configured(nn.Module):
    """Its forward reads numbers in a list and in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.calls = nn.Linear(6, 5), nn.Linear(5, 3), 0
        self.scales, self.options = [2.0, 3.0], {"first": {"shift": 1.0}}

    def forward(self, x):
        self.calls += 1
        return self.b(torch.sigmoid(self.a(x) * self.scales[1] + self.options["first"]["shift"]))


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("scales", lambda model: model.scales.__setitem__(1, 4.0)),
        ("options", lambda model: model.options["first"].update(shift=2.0)),
        ("options", lambda model: setattr(model, "options", {"first": {"shift": 0.0}})),
    ],
)
def test_what_a_forward_reads_of_lists_and_dictionaries_stays_or_is_refused(name, change, copied):
    circuit = COPIES[copied](apical.Circuit(Configured(), "backprop"))
    x = torch.randn(2, 6)
    circuit.model.options = {"first": {"shift": float("1")}}
    circuit(x).sum().backward()
    change(circuit.model)
    with torch.no_grad():
        assert torch.equal(circuit(x), circuit.model(x))
    with pytest.raises(CircuitError, match=rf"attributes \(calls, {name}\) after the circuit was built"):
        circuit(x)


def test_a_model_that_counts_its_evaluations_is_not_read_again_for_each(monkeypatch):
    circuit, readings = apical.Circuit(Configured(), "backprop"), []
    usual = apical.circuit.trace
    monkeypatch.setattr(
        "apical.circuit.trace", lambda *given, **options: readings.append(1) or usual(*given, **options)
    )
    x = torch.randn(2, 6)
    with torch.no_grad():
        for _ in range(3):
            circuit(x)
    assert not readings
    for _ in range(2):
        circuit(x).sum().backward()
    assert len(readings) == 1


def test_an_attribute_that_changes_at_every_step_is_named_once():
    circuit, x = apical.Circuit(Configured(), "backprop"), torch.randn(2, 6)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(25):
            circuit.model.calls += 1
            circuit(x).sum().backward()
    assert [str(each.message).partition(" changes")[0] for each in caught] == ["calls of the model"]
    assert caught[0].filename == __file__


def test_a_network_that_settles_is_evaluated_as_it_is():
    class Sigmoid(Scaled):
        def forward(self, x):
            return self.b(self.function(self.a(x)))

    model = Sigmoid()
    model.function = torch.sigmoid
    circuit = apical.Circuit(model, apical.EquilibriumPropagation(network="hopfield"))
    model.function = F.hardsigmoid
    with torch.no_grad(), pytest.raises(CircuitError, match=r"attributes \(function\)"):
        circuit(torch.randn(2, 6))


SETTLES = (
    Row("equilibrium_propagation"),
    Row("predictive_coding", {"variant": "strict", "loss": "cross_entropy"}),
    Row("predictive_coding", {"variant": "error_optimised", "loss": "cross_entropy"}),
    Row("predictive_coding", {"variant": "incremental", "loss": "cross_entropy"}),
)
DRAWS: dict[str, Callable[[], nn.Module]] = {
    "randn_like": lambda: Sampled(lambda h: h + torch.randn_like(h)),
    "rand_like": lambda: Sampled(lambda h: h * torch.rand_like(h)),
    "gumbel_softmax": lambda: Sampled(lambda h: F.gumbel_softmax(h)),
    "bernoulli": lambda: Sampled(lambda h: torch.bernoulli(torch.sigmoid(h)) + h),
    "Noisy": lambda: Sampled(Noisy()),
    "DropPath": lambda: Sampled(DropPath()),
    "sample": Encoder,
}


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("row", SETTLES, ids=str)
def test_draws_that_a_settling_network_would_repeat_are_refused(row, draw):
    """When the circuit is built, or where a probe cannot see it, when the network first settles."""
    torch.manual_seed(0)
    network = DRAWS[draw]()
    with pytest.raises(CircuitError, match=rf"(?i){draw}.*draws other random numbers"):
        learn(apical.Circuit(network, row.make()), *data())


@pytest.mark.parametrize("draw", DRAWS)
def test_a_sweep_learns_through_draws_of_its_forward_pass(draw):
    torch.manual_seed(0)
    as_autograd(DRAWS[draw](), *data())


# PyTorch's own: its compiler makes an instance of every autograd function that it reads, and looks at every .grad.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*should not be instantiated:DeprecationWarning")
def test_an_observer_sees_a_compiled_circuit():
    x, y = data()
    circuit = apical.Circuit(chain(), "burst_ccn")
    compiled = torch.compile(circuit, backend="aot_eager")
    torch._dynamo.reset()
    F.cross_entropy(compiled(x), y).backward()
    seen = []
    with circuit.observe(lambda layer, _: seen.append(layer)):
        F.cross_entropy(compiled(x), y).backward()
    torch._dynamo.reset()
    assert set(seen) == {"0", "2"}
