"""The edges: state that lasts, torch.no_grad inside, lost batches, and refusals when the circuit is built."""

import re
import warnings

import pytest
import torch
from circuits import NETWORKS, assert_same, circuit_of, gradients, learn, plain, rows
from torch import Tensor, nn

import apical
from apical.errors import CircuitError


class Spike(torch.autograd.Function):
    """A step with the derivative of a fast sigmoid."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        return grad / (1 + ctx.saved_tensors[0].abs()) ** 2


# State that lasts from one forward pass to the next


class AttributeNeuron(nn.Module):
    """Keeps its potential in an attribute, a number before the first forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.v = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.v = self.v + (x - self.v) / 2
        spikes = Spike.apply(self.v - 1)
        self.v = self.v * (1 - spikes.detach())
        return spikes


class BufferNeuron(nn.Module):
    """Keeps its potential in a buffer, and has other buffers and a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("decay", torch.tensor(0.9))
        self.register_buffer("mem", torch.zeros(0))
        self.threshold = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        if self.mem.shape != x.shape:
            self.mem = torch.zeros_like(x)
        self.mem = self.decay * self.mem.detach() + x
        return Spike.apply(self.mem - self.threshold)


class InPlaceNeuron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("trace", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(x + self.trace)
        self.trace.mul_(0.9).add_(x.detach().mean(0))
        return y


class ContainerNeuron(nn.Module):
    """Keeps its potential in a dict of memories."""

    def __init__(self) -> None:
        super().__init__()
        self._memories = {"v": None}

    def forward(self, x: Tensor) -> Tensor:
        v = self._memories["v"]
        self._memories["v"] = x if v is None else 0.5 * v + x
        return torch.sigmoid(self._memories["v"])


class Recorder(nn.Module):
    """Records its activity, and draws."""

    def forward(self, x: Tensor) -> Tensor:
        self.last = torch.tanh(x + 0.1 * torch.randn_like(x))
        return self.last


class Unrolled(nn.Module):
    """Integrates over the first axis inside one forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        v, out = torch.zeros_like(x[0]), []
        for moment in x:
            v = 0.5 * v + moment
            out.append(torch.sigmoid(v))
        return torch.stack(out)


def around(neuron: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), neuron, nn.Linear(8, 4))


@pytest.mark.parametrize("when", ["example", "first pass"])
@pytest.mark.parametrize("rule", ["backprop", "burst_ccn"])
@pytest.mark.parametrize(
    ("kind", "state"),
    [(AttributeNeuron, "v"), (BufferNeuron, "mem"), (InPlaceNeuron, "trace"), (ContainerNeuron, "_memories")],
)
def test_lasting_state_is_named_once(kind, state, rule, when):
    x = torch.randn(5, 6)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        circuit = apical.Circuit(around(kind()), rule, example=x if when == "example" else None)
        if when == "example":
            assert torch.equal(circuit(x), around(kind())(x))  # the state was left as it was
        circuit(x).sum().backward()
        circuit(x).sum().backward()
    assert len(seen) == 1
    assert re.match(rf"1 \({kind.__name__}\): its state '{state}'", str(seen[0].message))


@pytest.mark.parametrize("kind", [Recorder, Unrolled])
def test_modules_without_lasting_state_are_not_named(kind):
    circuit = apical.Circuit(around(kind()), "backprop", batch_axis=1)
    x = torch.randn(3, 5, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        circuit(x).sum().backward()


def test_time_inside_one_forward_pass_has_its_credit():
    x = torch.randn(3, 5, 6)
    circuit, expected = apical.Circuit(around(Unrolled()), "backprop", batch_axis=1), around(Unrolled())
    circuit(x)[-1].square().sum().backward()
    expected(x)[-1].square().sum().backward()
    assert_same(plain(gradients(circuit)), gradients(expected), rtol=1e-5, atol=1e-6)


class Net(nn.Module):
    """Two layers and, between them, a function."""

    def __init__(self, between, **modules: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 4)
        for name, module in modules.items():
            self.add_module(name, module)
        self.register_buffer("mem", torch.zeros(8))
        self.trace = 0.0
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self, self.a(x)))


def keep_in_attribute(net: Net, h: Tensor) -> Tensor:
    net.trace = 0.9 * net.trace + h
    return torch.sigmoid(net.trace)


def keep_in_buffer(net: Net, h: Tensor) -> Tensor:
    net.mem = 0.9 * net.mem + h
    return torch.sigmoid(net.mem)


def keep_in_place(net: Net, h: Tensor) -> Tensor:
    net.mem.mul_(0.9).add_(h.detach().mean(0))
    return torch.sigmoid(h + net.mem)


def record(net: Net, h: Tensor) -> Tensor:
    net.trace = h
    return torch.tanh(h)


@pytest.mark.parametrize(
    ("between", "named"), [(keep_in_attribute, r"self\.trace"), (keep_in_buffer, r"self\.mem"), (keep_in_place, "mem")]
)
def test_state_beside_synapses_is_refused_and_left_alone(between, named):
    net = Net(between)
    with pytest.raises(CircuitError, match=named):
        apical.Circuit(net, "backprop")
    assert net.trace == 0.0
    assert torch.equal(net.mem, torch.zeros(8))
    assert net.training


def test_reading_a_model_leaves_no_proxy_in_it():
    net = Net(record)
    apical.Circuit(net, "backprop")
    assert net.trace == 0.0


# What is computed under torch.no_grad, or by a Function


def straight_through(net: Net, h: Tensor) -> Tensor:
    with torch.no_grad():
        hard = (h > 0).to(h.dtype)
    soft = torch.sigmoid(h)
    return soft + (hard - soft).detach()


def frozen_branch(net: Net, h: Tensor) -> Tensor:
    with torch.no_grad():
        still = torch.tanh(net.c(h))
    return torch.relu(h) + still


def only_through_no_grad(net: Net, h: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.tanh(net.c(h))


@pytest.mark.parametrize(
    "between",
    [straight_through, frozen_branch, only_through_no_grad, lambda net, h: Spike.apply(h)],
    ids=["straight_through", "frozen_branch", "only_through_no_grad", "function"],
)
def test_what_has_no_gradient_in_autograd_has_none_in_a_circuit(between):
    def build() -> nn.Module:
        torch.manual_seed(1)
        return Net(between, c=nn.Linear(8, 8)).double()

    x, y = torch.randn(5, 6, dtype=torch.float64), torch.arange(5) % 4
    found, expected = learn(apical.Circuit(build(), "backprop"), x, y), learn(build(), x, y)
    nothing = {name: gradient for name, gradient in plain(found).items() if name not in expected}
    assert not any(gradient.any() for gradient in nothing.values())
    assert_same({name: plain(found)[name] for name in expected}, expected, rtol=1e-9, atol=1e-12)


# Refused when the circuit is built


class Several(nn.Module):
    def __init__(self, kind: str, learned: bool = False) -> None:
        super().__init__()
        self.kind = kind
        if learned:
            self.gain = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor):
        y = torch.tanh(x)
        return {"tuple": (y, x), "list": [y, x], "dict": {"y": y}, "float": y.mean().item()}[self.kind]


def overwrites(net: Net, h: Tensor) -> Tensor:
    with torch.no_grad():
        h.mul_(2)
    return h


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def between(function) -> nn.Module:
    return Net(function)


REFUSED = {
    "tuple": (lambda: around(Several("tuple")), r"1 \(Several\).*tuple"),
    "tuple of which one is taken": (lambda: Net(lambda s, h: s.n(h)[0], n=Several("tuple")), r"n \(Several\).*tuple"),
    "tuple unpacked": (lambda: Net(lambda s, h: (lambda pair: pair[1])(s.n(h)), n=Several("tuple")), r"n \(Several\)"),
    "tuple of a neuron that learns": (lambda: around(Several("tuple", learned=True)), r"1 \(Several\).*tuple"),
    "list": (lambda: around(Several("list")), r"1 \(Several\).*list"),
    "dict": (lambda: Net(lambda s, h: s.n(h)["y"], n=Several("dict")), r"n \(Several\).*dict"),
    "number": (lambda: around(Several("float")), r"1 \(Several\).*float"),
    "indices": (lambda: nn.Sequential(nn.Conv1d(2, 8, 3), nn.MaxPool1d(2, return_indices=True)), r"1 \(MaxPool1d\)"),
    "item": (lambda: between(lambda s, h: h / h.abs().max().item()), "item"),
    "float": (lambda: between(lambda s, h: h / float(h.abs().max())), r"Net.*float"),
    "decision by shape": (lambda: between(lambda s, h: h.relu() if h.shape[0] > 3 else h), "Net.*by the shape"),
    "decision by values": (lambda: between(lambda s, h: h.relu() if h.sum() > 3 else h), "Net.*by the values"),
    "a forward of its own": (lambda: around(Doubled(8, 8)), r"1 \(Doubled\).*nn\.Linear with a forward of its own"),
    "overwritten under no_grad": (lambda: between(overwrites), "mul_.*in place"),
    "no units": (lambda: nn.Sequential(nn.Linear(6, 0), nn.ReLU(), nn.Linear(0, 4)), r"0 \(Linear\).*\(0, 6\)"),
    "no outputs": (lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 0)), r"2 \(Linear\).*\(0, 5\)"),
    "meta device": (lambda: nn.Sequential(nn.Linear(6, 5, device="meta")), r"0 \(Linear\).*meta device"),
}


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors is a no-op")
@pytest.mark.parametrize("rule", ["backprop", "burst_ccn"])
@pytest.mark.parametrize("case", REFUSED)
def test_refused_at_construction(case, rule):
    make, match = REFUSED[case]
    model = make()
    with pytest.raises(CircuitError, match=match):
        apical.Circuit(model, rule)


def test_the_part_of_a_tensor_may_be_taken():
    model = Net(lambda s, h: s.n(h)[-1], n=nn.Tanh())
    x = torch.randn(3, 5, 6)
    circuit = apical.Circuit(model, "backprop", batch_axis=1)
    assert_same(
        plain(learn(circuit, x, torch.arange(5) % 4)), learn(Net(model.between, n=nn.Tanh()), x, torch.arange(5) % 4)
    )


class Squeezed(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x))).squeeze()


@pytest.mark.parametrize("outputs", [1, 4])
def test_an_output_that_loses_the_batch_of_one_is_refused(outputs):
    circuit = apical.Circuit(Squeezed(outputs), "burst_ccn")
    circuit(torch.randn(5, 6)).sum().backward()
    with pytest.raises(CircuitError, match=r"axis 0 of the output.*\(1, 6\)"):
        circuit(torch.randn(1, 6))
    one = apical.Circuit(Squeezed(outputs), "backprop")
    one(torch.randn(1, 6)).sum().backward()
    assert one.model.a.weight.grad.any()


@pytest.mark.parametrize("row", rows(), ids=str)
def test_a_state_dict_holds_tensors_of_their_own(row):
    """As savers of tensors alone require it: no other values, no two tensors in the same memory."""
    circuit = circuit_of("line", row, example=NETWORKS["line"].batch()[0])
    state = circuit.state_dict()
    assert all(isinstance(value, Tensor) and value.is_contiguous() for value in state.values())
    filled = [value for value in state.values() if value.numel()]
    assert len({value.untyped_storage().data_ptr() for value in filled}) == len(filled)
