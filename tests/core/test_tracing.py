"""From models to layers and junctions: what is read, and what is refused with the place, the reason and the remedy."""

import copy
import operator
import pickle
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from circuits import assert_same, loss_on, plain
from torch import Tensor, nn

import apical
from apical.errors import CircuitError, ConfigError
from apical.layers import Junction, LocalGraph, Synapses, closed_form_of, synapses_of


class Net(nn.Module):
    """A model of the given modules and forward."""

    def __init__(self, forward: Callable[["Net", Tensor], Any], **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self.run = forward

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def two(units: int = 8, outputs: int = 3) -> dict[str, nn.Module]:
    return {"a": nn.Linear(4, units), "b": nn.Linear(units, outputs)}


def between(function: Callable[..., Any], units: int = 8, read: int | None = None) -> Net:
    """a, then the function, then b."""
    modules = {"a": nn.Linear(4, units), "b": nn.Linear(read or units, 3)}
    return Net(lambda self, x: self.b(function(self.a(x))), **modules)


X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def found_by(network: nn.Module, x: Tensor, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(seed)
    network.zero_grad()
    answer = network(x.clone())
    answer.square().sum().backward()
    return answer.detach(), {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def reads_right(model: nn.Module, x: Tensor = X, **tolerance: float) -> apical.Circuit:
    """The model as a circuit answers and learns as the model alone, in training and in evaluation, and again."""
    alone = copy.deepcopy(model)
    circuit = apical.Circuit(model, "backprop")
    for mode in (True, False, True):
        circuit.train(mode)
        alone.train(mode)
        for seed in range(2):
            answer, gradients = found_by(circuit, x, seed)
            expected, truth = found_by(alone, x, seed)
            assert torch.equal(answer, expected)
            assert_same(plain(gradients), truth, **tolerance)
    return circuit


def names(circuit: apical.Circuit) -> list[str]:
    return [layer.name for layer in circuit.layers]


def steps(circuit: apical.Circuit) -> list[list[str]]:
    return [[type(step).__name__ for step in node.steps] for node in circuit.wiring.nodes]


# Layers and junctions


def test_a_chain_is_layers_alone():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
    circuit = reads_right(model)
    assert [repr(node) for node in circuit.wiring.nodes] == ["Layer('0': BatchNorm1d, ReLU, Dropout)", "Layer('4')"]
    assert [layer.synapses.module for layer in circuit.layers] == [model[0], model[4]]
    assert [layer.weight for layer in circuit.layers] == [model[0].weight, model[4].weight]
    assert [layer.sources for layer in circuit.layers] == [(0,), (1,)]
    assert [layer.feeds_back for layer in circuit.layers] == [False, True]


def test_one_module_is_a_model():
    assert names(reads_right(nn.Linear(4, 3))) == ["Linear"]


def test_nested_modules_have_their_paths():
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
            self.named = nn.ModuleDict({"last": nn.Linear(4, 3)})

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = F.relu(layer(x))
            return self.named["last"](x)

    circuit = reads_right(nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), Inner()))
    assert names(circuit) == ["0.0", "1.layers.0", "1.layers.1", "1.named.last"]


def test_a_sum_is_a_junction():
    circuit = reads_right(Net(lambda self, x: self.b(F.relu(x + self.a(x))), a=nn.Linear(4, 4), b=nn.Linear(4, 3)))
    assert [repr(node) for node in circuit.wiring.nodes] == ["Layer('a')", "Junction('add': ReLU)", "Layer('b')"]


def test_an_activation_that_others_read_around_is_a_junction():
    circuit = reads_right(Net(lambda self, x: self.b((h := self.a(x)).relu()) + self.c(h), **two(), c=nn.Linear(8, 3)))
    assert names(circuit) == ["a", "b", "c"]
    assert [type(node).__name__ for node in circuit.wiring.nodes] == ["Layer", "Junction", "Layer", "Layer", "Junction"]


def test_the_input_may_be_changed_before_any_synapse():
    circuit = reads_right(Net(lambda self, x: self.b(self.a(F.dropout(x, 0.2, self.training) * 2)), **two()))
    assert isinstance(circuit.wiring.nodes[0], Junction)
    assert names(circuit) == ["a", "b"]


def test_what_nobody_uses_is_left_out():
    def forward(self: Net, x: Tensor) -> Tensor:
        self.unused(x)
        return self.b(self.a(x))

    circuit = reads_right(Net(forward, **two(), unused=nn.Linear(4, 4), forgotten=nn.Linear(5, 5)))
    assert names(circuit) == ["a", "b"]


def test_arguments_with_defaults_keep_them():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 3)

        def forward(self, x: Tensor, scale: float = 0.5, mask: Tensor | None = None, *, power: int = 2) -> Tensor:
            y = self.a(x) * scale
            return y**power if mask is None else y * mask

    reads_right(Scaled())


def test_modules_without_state_may_be_used_several_times():
    relu, drop, pool, flatten = nn.ReLU(inplace=True), nn.Dropout(0.3), nn.MaxPool1d(2), nn.Flatten()

    def forward(self: Net, x: Tensor) -> Tensor:
        x = drop(relu(self.a(x)))
        x = drop(pool(relu(self.c(x))))
        return self.b(flatten(pool(x)))

    stateless = {"relu": relu, "drop": drop, "pool": pool, "flatten": flatten}
    circuit = reads_right(Net(forward, a=nn.Linear(4, 8), c=nn.Linear(8, 8), b=nn.Linear(2, 3), **stateless))
    assert names(circuit) == ["a", "c", "b"]


def test_tied_weights_learn_from_both_places():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    model[2].weight = model[0].weight
    circuit = reads_right(model)
    assert names(circuit) == ["0", "2", "4"]
    assert sum(1 for _ in circuit.parameters()) == 5


def test_tied_weights_and_their_feedback_learn_alike():
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    model[4].weight = model[2].weight
    circuit = apical.Circuit(model, "kolen_pollack")
    circuit(X).sum().backward()
    feedback = [p.grad for name, p in circuit.named_parameters() if name.startswith("rule.")]
    assert all(torch.equal(gradient, model[2].weight.grad) for gradient in feedback)


def test_a_subclass_that_keeps_its_forward_is_the_same_synapse():
    class Named(nn.Linear):
        pass

    assert names(reads_right(nn.Sequential(Named(4, 3), nn.ReLU()))) == ["0"]


def test_names_that_meet_stay_apart():
    """A layer may be called what a function is called, and what a rule's own table calls its verbs."""
    modules = {"add": nn.Linear(4, 4), "norm": nn.BatchNorm1d(4), "hold": nn.Linear(4, 4), "grows": nn.Linear(4, 3)}
    model = Net(lambda self, x: self.grows(self.hold(self.norm(self.add(x) + x)).relu()), **modules)
    circuit = reads_right(model)
    assert names(circuit) == ["add", "hold", "grows"]
    for name in apical.rules.names():
        circuit.set_rule(name)
        loss_on(circuit, X, torch.zeros(6, dtype=torch.long)).backward()
        if name == "direct_feedback_alignment":
            assert len([key for key in circuit.state_dict() if key.startswith("rule.pathway.weights.")]) == 3


# Functional calls

STANDS_FOR: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "F.relu": (lambda x: F.relu(x), "ReLU"),
    "F.relu in place": (lambda x: F.relu(x, True), "ReLU"),
    "torch.relu": (torch.relu, "ReLU"),
    "torch.relu_": (torch.relu_, "ReLU"),
    "x.relu": (lambda x: x.relu(), "ReLU"),
    "x.relu_": (lambda x: x.relu_(), "ReLU"),
    "F.relu6": (F.relu6, "Hardtanh"),
    "F.hardtanh": (lambda x: F.hardtanh(x, -0.5, max_val=0.5), "Hardtanh"),
    "F.leaky_relu": (lambda x: F.leaky_relu(x, 0.2, inplace=True), "LeakyReLU"),
    "F.elu": (lambda x: F.elu(x, alpha=0.5), "ELU"),
    "F.celu": (lambda x: F.celu(x, 0.5), "ELU"),
    "F.selu": (F.selu, "ELU"),
    "F.gelu": (F.gelu, "GELU"),
    "F.gelu tanh": (lambda x: F.gelu(x, approximate="tanh"), "GELU"),
    "F.silu": (F.silu, "SiLU"),
    "F.mish": (F.mish, "Mish"),
    "F.softplus": (lambda x: F.softplus(x, beta=2), "Softplus"),
    "F.hardsigmoid": (F.hardsigmoid, "Hardsigmoid"),
    "F.hardswish": (F.hardswish, "Hardswish"),
    "F.logsigmoid": (F.logsigmoid, "LogSigmoid"),
    "torch.tanh": (torch.tanh, "Tanh"),
    "F.tanh": (F.tanh, "Tanh"),
    "x.tanh": (lambda x: x.tanh(), "Tanh"),
    "torch.sigmoid": (torch.sigmoid, "Sigmoid"),
    "F.sigmoid": (F.sigmoid, "Sigmoid"),
    "x.sigmoid": (lambda x: x.sigmoid(), "Sigmoid"),
    "F.softmax": (lambda x: F.softmax(x, dim=1), "Softmax"),
    "torch.softmax": (lambda x: torch.softmax(x, 1), "Softmax"),
    "x.softmax": (lambda x: x.softmax(-1), "Softmax"),
    "F.log_softmax": (lambda x: F.log_softmax(x, -1), "LogSoftmax"),
    "torch.log_softmax": (lambda x: torch.log_softmax(x, dim=-1), "LogSoftmax"),
    "x.log_softmax": (lambda x: x.log_softmax(1), "LogSoftmax"),
    "torch.flatten": (lambda x: torch.flatten(x, 1), "Flatten"),
    "x.flatten": (lambda x: x.flatten(start_dim=1), "Flatten"),
    "F.dropout": (lambda x: F.dropout(x, 0.3), "Dropout"),
    "F.dropout off": (lambda x: F.dropout(x, 0.3, training=False), "Dropout"),
    "x.view": (lambda x: x.view(x.size(0), -1), "Reshape"),
    "x.view of shape": (lambda x: x.view(x.shape[0], x.shape[1]), "Reshape"),
    "x.reshape": (lambda x: x.reshape((-1, 8)), "Reshape"),
    "torch.reshape": (lambda x: torch.reshape(x, (x.shape[0], 8)), "Reshape"),
    "x.unsqueeze": (lambda x: x.unsqueeze(1), "Reshape"),
    "torch.squeeze": (lambda x: torch.squeeze(x), "Reshape"),
}


@pytest.mark.parametrize("name", STANDS_FOR)
def test_a_functional_call_stands_for_its_module(name):
    function, step = STANDS_FOR[name]
    circuit = reads_right(Net(lambda self, x: self.b(function(self.a(x)).view(-1, 8)), **two()))
    assert steps(circuit)[0][0] == step
    assert names(circuit) == ["a", "b"]
    assert len(circuit.wiring.nodes) == 2
    again = pickle.loads(pickle.dumps(circuit.wiring.nodes[0].steps[0]))
    assert type(again).__name__ == step


PLANES: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "F.max_pool2d": (lambda x: F.max_pool2d(x, 2), "MaxPool"),
    "F.max_pool2d options": (lambda x: F.max_pool2d(x, 3, stride=2, padding=1, ceil_mode=True), "MaxPool"),
    "F.avg_pool2d": (lambda x: F.avg_pool2d(x, (2, 3)), "AvgPool2d"),
    "F.adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, (1, 1)), "AdaptiveAvgPool2d"),
    "F.dropout2d": (lambda x: F.dropout2d(x, 0.4), "ChannelDropout"),
    "F.max_pool1d": (lambda x: F.max_pool1d(x.flatten(2), 2), "Flatten"),
    "F.avg_pool1d": (lambda x: F.avg_pool1d(x.flatten(2), 2, 3), "Flatten"),
    "F.adaptive_avg_pool1d": (lambda x: F.adaptive_avg_pool1d(x.flatten(2), 3), "Flatten"),
    "F.dropout1d": (lambda x: F.dropout1d(x.flatten(2)), "Flatten"),
    "F.dropout3d": (lambda x: F.dropout3d(x.unsqueeze(2)), "Reshape"),
    "F.adaptive_max_pool2d": (lambda x: F.adaptive_max_pool2d(x, 2), "LocalGraph"),
    "x.mean": (lambda x: x.mean([2, 3]), "LocalGraph"),
    "interpolate": (lambda x: F.interpolate(x, scale_factor=2), "LocalGraph"),
    "pad": (lambda x: F.pad(x, (1, 1)), "LocalGraph"),
}


@pytest.mark.parametrize("name", PLANES)
def test_functional_calls_on_planes(name):
    function, step = PLANES[name]
    circuit = reads_right(
        Net(lambda self, x: function(self.a(x)).flatten(1).exp(), a=nn.Conv2d(2, 3, 3)), X.new_ones(2, 2, 8, 8)
    )
    assert steps(circuit)[0][0] == step
    again = pickle.loads(pickle.dumps(circuit.wiring.nodes))
    assert [type(node) for node in again] == [type(node) for node in circuit.wiring.nodes]


def test_functional_dropout_follows_the_mode_of_the_module_that_calls_it():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(self.a(x), 0.5, self.training)

    model = nn.Sequential(Block(), Block(), nn.Linear(4, 3))
    circuit = reads_right(model)
    assert steps(circuit)[:2] == [["Dropout"], ["Dropout"]]
    alone = copy.deepcopy(model)
    for network in (circuit.model, alone):
        network[0].eval()
    assert torch.equal(found_by(circuit, X, 1)[0], found_by(alone, X, 1)[0])
    assert not torch.equal(found_by(circuit, X, 1)[0], found_by(circuit, X, 2)[0])  # the second still draws
    circuit.model[1].eval()
    assert torch.equal(found_by(circuit, X, 1)[0], found_by(circuit, X, 2)[0])


FOLLOWING: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "rrelu": lambda self, x: self.b(F.rrelu(self.a(x), training=self.training)),
    "alpha dropout": lambda self, x: self.b(F.alpha_dropout(self.a(x), 0.3, self.training)),
    "factor": lambda self, x: self.b(self.a(x) * (2.0 if self.training else 1.0)),
    "dropout rate": lambda self, x: self.b(F.dropout(self.a(x), 0.5 if self.training else 0.1)),
    "dropout upside down": lambda self, x: self.b(F.dropout(self.a(x), 0.5, not self.training)),
    "slice": lambda self, x: self.b(torch.cat([self.a(x)[:, : 4 if self.training else 5]] * 2, 1)[:, :8]),
    "keyword": lambda self, x: self.b(self.a(x).clamp(min=-0.5 if self.training else 0.0)),
    "meeting": lambda self, x: self.b(torch.add(h := self.a(x), h.relu(), alpha=1 if self.training else 3)),
}


@pytest.mark.parametrize("name", FOLLOWING)
def test_plain_values_follow_the_mode(name):
    circuit = reads_right(Net(FOLLOWING[name], **two()))
    assert names(circuit) == ["a", "b"]
    twin = copy.deepcopy(circuit)
    circuit.eval()
    twin.train()
    assert not torch.equal(found_by(circuit, X, 1)[0], found_by(twin, X, 1)[0])  # a copy follows its own modules


# Any other operation


def unpacked(x: Tensor) -> Tensor:
    left, right = x.chunk(2, 1)
    return torch.cat([left * right, right], 1)


OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "times": lambda x: x * 3,
    "plus": lambda x: 1 + x,
    "minus": lambda x: -x,
    "power": lambda x: x**2,
    "with itself": lambda x: x + x,
    "times itself": lambda x: x * x,
    "sum of a list": lambda x: sum([x, x.relu(), x.tanh()]),
    "difference": lambda x: x - x.relu(),
    "three": lambda x: x.relu() + x.tanh() + x,
    "in place sum": lambda x: operator.iadd(x.mul(2), x),
    "in place product": lambda x: operator.imul(x.add(2), x.tanh()),
    "add alpha": lambda x: torch.add(x, x.relu(), alpha=2),
    "add method": lambda x: x.add(x.relu()),
    "gate": lambda x: x * x.sigmoid(),
    "gate method": lambda x: x.mul(x.sigmoid()),
    "gate broadcast": lambda x: x * x.sigmoid().mean(1, keepdim=True),
    "sum broadcast": lambda x: x + x.mean(0),
    "cat": lambda x: torch.cat([x[:, :4], x[:, 4:].relu()], 1),
    "cat with itself": lambda x: torch.cat((x, x), dim=-1)[:, ::2],
    "cat of axis": lambda x: torch.cat([x, x.relu()], axis=1)[:, 4:12],
    "stack": lambda x: torch.stack([x, x.relu()]).mean(0),
    "chunk": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "one chunk": lambda x: F.pad(x.chunk(2, dim=1)[0], (0, 4)),
    "unpacked": lambda x: unpacked(x),
    "split": lambda x: torch.cat([torch.split(x, 4, 1)[1], x.split([1, 7], 1)[1][:, :4]], 1),
    "unbind": lambda x: torch.stack(x.unbind(1), 1).relu(),
    "max": lambda x: x / x.max(),
    "max along": lambda x: x / x.max(1, keepdim=True)[0].clamp(min=0.1),
    "max values": lambda x: x - x.max(dim=1, keepdim=True).values,
    "sorted": lambda x: x.sort(1)[0],
    "top": lambda x: torch.topk(x, 8, 1)[0],
    "gathered": lambda x: x.gather(1, x.argsort(1)),
    "where": lambda x: torch.where(x > 0, x, x.tanh()),
    "compared": lambda x: x * (x > 0.1),
    "clamped": lambda x: x.clamp(-0.1, 0.1),
    "normalised": lambda x: F.normalize(x, dim=1),
    "by the shape": lambda x: x / x.shape[1] ** 0.5,
    "by the shape's product": lambda x: x.view(x.size(0), x.size(1) // 2, 2).sum(2).repeat(1, 2),
    "two views": lambda x: x.view(x.size(0), 2, -1).transpose(1, 2).reshape(x.size(0), -1),
    "transposed": lambda x: x.t().T,
    "permuted": lambda x: x.unsqueeze(2).permute(0, 2, 1).squeeze(1),
    "matrix product": lambda x: x @ x.t() @ x,
    "einsum": lambda x: torch.einsum("ni,mi->nm", x, x).softmax(1) @ x,
    "constant": lambda x: x * torch.tensor([1.0, 2.0] * 4),
    "zeros": lambda x: x + x.new_zeros(x.size(0), 1),
    "ones like": lambda x: x * torch.ones_like(x) + 1,
    "detached": lambda x: x - x.detach().mean(),
    "noise": lambda x: x + torch.randn_like(x),
    "as floats": lambda x: x.double().float(),
    "exponential in place": lambda x: x.exp_(),
    "several in place": lambda x: x.mul_(2).add_(1).relu_(),
    "hardshrink": F.hardshrink,
    "threshold": lambda x: F.threshold(x, 0.1, 0.2, True),
    "softmax of another type": lambda x: F.softmax(x, 1, dtype=torch.float64).float(),
    "glu": lambda x: F.glu(torch.cat([x, x], 1), 1),
    "attribute": lambda x: x.mT.mT,
    "contiguous": lambda x: x.contiguous().view(-1, 8),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_any_other_operation_has_its_own_derivative(name):
    circuit = reads_right(between(OPERATIONS[name]), rtol=1e-5, atol=1e-6)
    assert names(circuit) == ["a", "b"]
    if name != "constant":  # which belongs to the model, and that holds a lambda here
        pickle.loads(pickle.dumps(circuit.wiring.nodes))


def test_a_closed_sum_a_closed_product_and_a_closed_concatenation():
    kinds = {"x + relu": "Sum", "x * relu": "Product", "cat": "Concatenate", "x - relu": "Function"}
    functions = {
        "x + relu": lambda x: x + x.relu(),
        "x * relu": lambda x: x * x.relu(),
        "cat": lambda x: torch.cat([x, x.relu()], 1)[:, :8],
        "x - relu": lambda x: x - x.relu(),
    }
    for name, function in functions.items():
        circuit = reads_right(between(function))
        merges = [type(n.merge).__name__ for n in circuit.wiring.nodes if isinstance(n, Junction)]
        assert kinds[name] in merges


DETACHED: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "all": lambda self, x: self.b(self.a(x).detach().relu()),
    "one of two ways": lambda self, x: self.b((h := self.a(x)).detach().relu() + h),
    "one branch": lambda self, x: self.b(torch.detach(self.c(x)).tanh() + self.a(x)),
    "below a neuron that learns": lambda self, x: self.b(self.prelu(self.a(x).detach())),
    "the input": lambda self, x: self.b(self.a(x.detach())),
}


@pytest.mark.parametrize("name", DETACHED)
def test_nothing_learns_below_a_cut(name):
    model = Net(DETACHED[name], **two(), c=nn.Linear(4, 8), prelu=nn.PReLU())
    circuit = reads_right(model)
    found_by(model, X, 0)
    learn = {path for path, parameter in model.named_parameters() if parameter.grad is not None}
    for rule in apical.rules.names():
        circuit.set_rule(rule)
        circuit.zero_grad()
        loss_on(circuit, X, torch.zeros(6, dtype=torch.long)).backward()
        assert {path for path, parameter in model.named_parameters() if parameter.grad is not None} == learn


def test_a_circuit_can_be_built_where_no_gradient_is_wanted():
    with torch.no_grad():
        circuit = apical.Circuit(nn.Sequential(*two().values()), "feedback_alignment")
    circuit(X).sum().backward()
    assert all(parameter.grad is not None for parameter in circuit.parameters())


def test_buffers_are_looked_up_at_every_answer():
    model = between(lambda x: x)
    model.register_buffer("scale", torch.full((8,), 2.0))
    model.run = lambda self, x: self.b(self.a(x) * self.scale + self.scale.exp().sum())
    circuit = reads_right(model)
    before = circuit(X)
    model.scale.fill_(3.0)
    assert not torch.equal(circuit(X), before)
    assert torch.equal(circuit(X), model(X))
    assert circuit.double()(X.double()).dtype == torch.float64


# Working in place


def test_who_reads_an_overwritten_tensor_reads_what_it_became():
    def forward(self: Net, x: Tensor) -> Tensor:
        h = self.a(x)
        h.mul_(2)
        h += 1
        torch.tanh_(h)
        return self.b(h) + self.c(h)

    reads_right(Net(forward, **two(), c=nn.Linear(8, 3)))


def test_a_residual_sum_in_place():
    def forward(self: Net, x: Tensor) -> Tensor:
        h = self.relu(self.a(x))
        out = self.c(h)
        out += h
        return self.b(self.relu(out))

    circuit = reads_right(Net(forward, **two(), c=nn.Linear(8, 8), relu=nn.ReLU(inplace=True)))
    assert [step.in_place for node in circuit.wiring.nodes for step in node.steps] == [True, True]


def test_the_callers_input_is_never_overwritten():
    x = X.clone()
    apical.Circuit(Net(lambda self, x: self.b(self.a(F.relu_(x))), **two()), "backprop")(x)
    assert torch.equal(x, X)


def test_work_in_place_that_would_spoil_what_is_kept_is_done_out_of_place():
    """The drive and the rates that a rule or a neighbour keeps are not overwritten."""

    def forward(self: Net, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        return self.b(F.relu(h - 1, inplace=True)) + self.c(F.relu(F.leaky_relu(self.a2(x)), inplace=True))

    circuit = reads_right(Net(forward, **two(), a2=nn.Linear(4, 8), c=nn.Linear(8, 3)))
    assert not any(getattr(step, "in_place", False) for node in circuit.wiring.nodes for step in node.steps)


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: (h := self.a(x)).view(-1, 2, 4).relu_() is None or self.b(h),
        lambda self, x: self.b(h := self.a(x)) + self.c(F.relu(h.flatten(1), inplace=True)) + self.c2(h),
        lambda self, x: [h := self.a(x), d := self.drop(h), d.mul_(3), self.b(h) + self.c(d)][-1],
        lambda self, x: [h := self.a(x), v := h.t(), h.relu_(), self.b(v.t())][-1],
    ],
    ids=["view", "flatten", "dropout", "the view is read"],
)
def test_a_view_that_is_overwritten_behind_a_readers_back_is_refused(forward):
    modules = {**two(), "c": nn.Linear(8, 3), "c2": nn.Linear(8, 3), "drop": nn.Dropout(0.5)}
    with pytest.raises(CircuitError, match=r"overwrites the answer of .* share its memory.*Do not work in place"):
        apical.Circuit(Net(forward, **modules), "backprop")


class Itself(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view_as(x)


class Overwriting(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x.view(-1).relu_()
        return x * 2


class Outer(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


@pytest.mark.parametrize(
    "view",
    [
        *(lambda h: h.swapdims(0, 1), lambda h: h.moveaxis(0, 1), lambda h: h.diagonal(), lambda h: h.unfold(1, 2, 2)),
        *(lambda h: +h, lambda h: h.reshape_as(h), lambda h: h.double(), lambda h: h.cpu(), torch.atleast_2d),
        *(lambda h: h.mT, lambda h: h.real, lambda h: h.mT.mT),
        *(lambda h: torch.broadcast_to(h, h.shape), lambda h: torch.einsum("ij->ji", h), Itself(), Outer(Itself())),
        lambda h: F.alpha_dropout(h, 0.5, False),
    ],
)
def test_whatever_may_be_a_view_is_not_overwritten_where_its_base_is_read_again(view):
    def forward(self: Net, x: Tensor) -> Tensor:
        h = self.a(x)
        view(h).mul_(2)
        return self.b(h)

    modules = {"view": view} if isinstance(view, nn.Module) else {}
    with pytest.raises(CircuitError, match=r"mul_: it overwrites the answer of .* share its memory"):
        apical.Circuit(Net(forward, **two(), **modules), "backprop")


@pytest.mark.parametrize("own", [Overwriting(), Outer(Overwriting())])
def test_an_own_module_does_not_overwrite_an_input_that_is_read_again(own):
    def forward(self: Net, x: Tensor) -> Tensor:
        h = self.a(x)
        self.own(h)
        return self.b(h)

    with pytest.raises(CircuitError, match=r"own: it overwrites the answer of a, .* and the latter is read again"):
        apical.Circuit(Net(forward, **two(), own=own), "backprop")
    reads_right(Net(lambda self, x: self.b(self.own(self.a(x))), **two(), own=own))


def test_operators_in_place_overwrite_what_other_names_hold():
    def forward(self: Net, x: Tensor) -> Tensor:
        h = g = self.a(x)
        h += 1
        h -= 0.5
        h *= 2
        h /= 3
        size = same = x.size(1)
        size *= 2
        return self.b(torch.tanh(g)) * size / same + self.c(h)

    reads_right(Net(forward, **two(), c=nn.Linear(8, 3)))


@pytest.mark.parametrize(
    "module", [nn.AlphaDropout(0.3, inplace=True), nn.FeatureAlphaDropout(0.3, inplace=True), nn.RReLU(inplace=True)]
)
def test_a_module_works_in_place_where_pytorchs_does(module):
    def forward(self: Net, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(self.drop(h)) + self.c(h)

    reads_right(Net(forward, **two(), c=nn.Linear(8, 3), drop=module))


def test_a_product_of_rates_may_be_overwritten():
    def forward(self: Net, x: Tensor) -> Tensor:
        h = self.a(x)
        squares = torch.einsum("bi,bi->bi", h, h)
        squares *= 2
        return self.b(squares) + self.c(h)

    reads_right(Net(forward, **two(), c=nn.Linear(8, 3)), rtol=1e-6, atol=1e-6)


def test_attributes_that_are_views_are_overwritten_too():
    def forward(self: Net, x: Tensor) -> Tensor:
        h = same = (self.a(x) * 1).mT
        h *= 2
        return self.b(h.mT + same.mT)

    reads_right(Net(forward, **two()))

    def seen(self: Net, x: Tensor) -> Tensor:
        h = self.a(x)
        turned = h.mT
        turned *= 2
        return self.b(h)

    with pytest.raises(CircuitError, match="which may share its memory"):
        apical.Circuit(Net(seen, **two()), "backprop")


def test_an_assignment_of_memory_is_refused():
    def forward(self: Net, x: Tensor) -> Tensor:
        h = self.a(x)
        h.data = h * 2
        return self.b(h)

    with pytest.raises(CircuitError, match=r"an assignment to \.data is not recorded"):
        apical.Circuit(Net(forward, **two()), "backprop")


def test_the_tensor_may_be_a_named_argument():
    def forward(self: Net, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(torch.clamp_(input=h, min=0, max=0.2)) + self.c(h)

    reads_right(Net(forward, **two(), c=nn.Linear(8, 3)))


class Clip(nn.Identity):
    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(-0.1, 0.1)


def test_identities_with_another_forward_are_not_passed_by():
    replaced = nn.Identity()
    replaced.forward = lambda x: x * 3  # type: ignore[method-assign]
    for module in (Clip(), replaced):
        reads_right(Net(lambda self, x: self.b(self.none(self.a(x))), **two(), none=module))


class Standardised(nn.Conv1d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight - weight.mean(), bias)


def test_a_convolution_of_another_class_may_not_compute_something_else():
    with pytest.raises(CircuitError, match=r"0 \(Standardised\): .* forward of its own"):
        apical.Circuit(nn.Sequential(Standardised(2, 3, 3), nn.ReLU(), nn.Conv1d(3, 2, 3)), "backprop")


def test_identities_are_passed_by():
    def forward(self: Net, x: Tensor) -> Tensor:
        h = self.a(x)
        skip = self.none(h)
        return self.b(F.relu(self.none(h), inplace=True) + skip)

    circuit = reads_right(Net(forward, **two(), none=nn.Identity()))
    assert [repr(node) for node in circuit.wiring.nodes] == ["Layer('a': ReLU, add)", "Layer('b')"]
    assert names(reads_right(nn.Sequential(nn.Identity(), nn.Linear(4, 3), nn.Identity()))) == ["1"]


# Neurons of the user's own


class Adaptive(nn.Module):
    """A neuron with a gain that learns and a state that it keeps; what it does inside is its own business."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.mean() > -100:  # control flow that depends on values
            self.seen += 1
        return torch.tanh(self.gain * x) if self.gain.detach() > 0 else x


def test_a_module_without_synapses_is_a_neuron():
    circuit = reads_right(nn.Sequential(nn.Linear(4, 8), Adaptive(), nn.Linear(8, 3), Adaptive()))
    assert names(circuit) == ["0", "2"]
    assert steps(circuit) == [["LocalGraph"], ["LocalGraph"]]
    assert isinstance(circuit.layers[0].steps[0], LocalGraph)


def test_a_neuron_of_several_rates_is_a_junction():
    class Mix(nn.Module):
        def forward(self, a: Tensor, b: Tensor, share: float = 0.5) -> Tensor:
            return share * a + (1 - share) * b if a.numel() else a

    circuit = reads_right(
        Net(lambda self, x: self.b(self.mix(h := self.a(x), h.relu(), share=0.3)), **two(), mix=Mix())
    )
    assert [node.name for node in circuit.wiring.nodes] == ["a", "relu", "mix", "b"]


@pytest.mark.parametrize("module", [nn.PReLU(), nn.RMSNorm(8), nn.RReLU(), nn.Softmin(1), nn.CELU(2.0)], ids=repr)
def test_neurons_of_pytorch_with_and_without_a_closed_form(module):
    closed = closed_form_of(module) is not None
    circuit = reads_right(nn.Sequential(nn.Linear(4, 8), module, nn.Linear(8, 3)))
    assert (steps(circuit)[0] == ["LocalGraph"]) != closed


def test_a_neuron_that_returns_several_tensors_is_named():
    """At the first forward pass, where `torch.fx` cannot see it when the circuit is built."""

    class Both(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            assert x.sum() < 1e9
            return x, x

    circuit = apical.Circuit(Net(lambda self, x: self.b(self.both(self.a(x))[0]), **two(), both=Both()), "backprop")
    with pytest.raises(CircuitError, match=r"Both.*one tensor, not tuple"):
        circuit(X)


# A kind of synapse of the user's own


def test_a_further_kind_of_synapse_is_one_entry():
    class Diagonal(nn.Module):
        def __init__(self, units: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(1, units))
            self.register_parameter("bias", None)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight

    class DiagonalSynapses(Synapses):
        @property
        def fan_in(self) -> int:
            return 1

        @property
        def fan_out(self) -> int:
            return 1

        def forward(self, pre: Tensor) -> Tensor:
            return pre * self.weight

        def transpose_product(self, post: Tensor, weight: Tensor, pre: Tensor) -> Tensor:
            return post * weight

        def plasticity(
            self, pre: Tensor, post: Tensor, weight: bool, bias: bool
        ) -> tuple[Tensor | None, Tensor | None]:
            return (post * pre).sum(0, keepdim=True) if weight else None, None

        def units_last(self, drive: Tensor) -> Tensor:
            return drive

    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), Diagonal(8), nn.Tanh(), nn.Linear(8, 3))
    # Without the entry its weights, one a unit, belong to the neurons of the layer below.
    assert names(apical.Circuit(copy.deepcopy(model), "backprop")) == ["0", "4"]
    synapses_of(Diagonal)(DiagonalSynapses)
    try:
        circuit = reads_right(model)
        assert names(circuit) == ["0", "2", "4"]
        circuit.set_rule("feedback_alignment")
        found_by(circuit, X, 0)
    finally:
        from apical.layers import synapses

        del synapses._KINDS[Diagonal]


# Refusals


class Twice(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class OwnWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mixing = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.mixing


class Rewired(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)
        self.gain = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) * self.gain


def shared() -> nn.Module:
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer)


def shared_norm() -> nn.Module:
    norm = nn.BatchNorm1d(4)
    return nn.Sequential(nn.Linear(4, 4), norm, nn.ReLU(), norm)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str, str, str]] = {
    "lstm": (
        lambda: Net(lambda s, x: s.b(s.cell(x)[0]), cell=nn.LSTM(4, 4), b=nn.Linear(4, 3)),
        "cell (LSTM)",
        "recurrent",
        "Conv1d",
    ),
    "gru cell": (
        lambda: nn.Sequential(nn.GRUCell(4, 4)),
        "0 (GRUCell)",
        "neurons with a memory",
        "outside the circuit",
    ),
    "attention": (
        lambda: Net(lambda s, x: s.b(s.mha(x, x, x)[0]), mha=nn.MultiheadAttention(4, 2), b=nn.Linear(4, 3)),
        "mha (MultiheadAttention)",
        "attention",
        "outside the circuit",
    ),
    "transformer": (
        lambda: nn.Sequential(
            nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8), 1, enable_nested_tensor=False)
        ),
        "0.layers.0 (TransformerEncoderLayer)",
        "attention",
        "detach",
    ),
    "embedding": (
        lambda: nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3)),
        "0 (Embedding)",
        "no synapses for",
        "one-hot",
    ),
    "bilinear": (
        lambda: Net(lambda s, x: s.both(x, x), both=nn.Bilinear(4, 4, 3)),
        "both (Bilinear)",
        "'weight' has 3 axes",
        "synapses_of",
    ),
    "transposed": (
        lambda: nn.Sequential(nn.ConvTranspose2d(2, 3, 3)),
        "0 (ConvTranspose2d)",
        "has 4 axes",
        "Known are nn.Conv1d",
    ),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(2, 3, 3)), "0 (Conv3d)", "has 5 axes", "outside the circuit"),
    "own weight": (
        lambda: nn.Sequential(OwnWeight(), nn.Linear(4, 3)),
        "0 (OwnWeight)",
        "'mixing' has 2 axes",
        "nn.Linear",
    ),
    "own forward": (lambda: nn.Sequential(Rewired(4, 3)), "0 (Rewired)", "forward of its own", "synapses_of"),
    "used twice": (shared, "0 (Linear)", "used twice", "second module"),
    "norm used twice": (shared_norm, "1 (BatchNorm1d)", "used twice", "second module"),
    "two names": (
        lambda: Net(lambda s, x: s.one(s.other(x)), one=(a := nn.Linear(4, 4)), other=a),
        "one (Linear)",
        "used twice",
        "second module",
    ),
    "no synapses": (lambda: nn.Sequential(nn.ReLU()), "Sequential", "without synapses", "at least one of nn.Conv1d"),
    "nothing": (lambda: nn.Identity(), "Identity", "without synapses", "at least one of"),
    "values decide": (
        lambda: Net(lambda s, x: s.a(x) if x.sum() > 0 else s.b(s.a(x)), a=nn.Linear(4, 4), b=nn.Linear(4, 4)),
        "Net",
        "by the values",
        "move the decision",
    ),
    "shape decides": (
        lambda: Net(lambda s, x: s.a(x) if x.dim() == 2 else s.a(x[0]), a=nn.Linear(4, 4)),
        "Net",
        "by the shape",
        "move the decision",
    ),
    "mode decides": (
        lambda: Net(lambda s, x: F.relu(s.a(x)) if s.training else s.a(x), a=nn.Linear(4, 3)),
        "Net",
        "other operations in training than in evaluation",
        "nn.Dropout",
    ),
    "mode changes a constant": (
        lambda: Net(lambda s, x: s.a(x) * torch.tensor(2.0 if s.training else 1.0), a=nn.Linear(4, 3)),
        "Net",
        "other operations in training than in evaluation",
        "module of its own",
    ),
    "mode chooses a tensor": (
        lambda: Net(
            lambda s, x: s.b(torch.relu(x) + (s.a(x) if s.training else x)), a=nn.Linear(4, 4), b=nn.Linear(4, 3)
        ),
        "Net",
        "other operations in training",
        "module of its own",
    ),
    "drawn constant": (
        lambda: Net(lambda s, x: s.a(x) + torch.randn(3), a=nn.Linear(4, 3)),
        "Net",
        "two traces differ",
        "torch.rand_like",
    ),
    "drawn number": (
        lambda: Net(lambda s, x: s.a(x) * float(torch.rand(())), a=nn.Linear(4, 3)),
        "Net",
        "two traces differ",
        "submodule",
    ),
    "two inputs": (lambda: Twice(), "Twice", "needs 2 arguments (x, y)", "concatenate them"),
    "tuple": (lambda: Net(lambda s, x: (s.a(x), x), a=nn.Linear(4, 3)), "Net", "returns a tuple", "Return the tensor"),
    "dict": (lambda: Net(lambda s, x: {"y": s.a(x)}, a=nn.Linear(4, 3)), "Net", "returns a dict", "Return the tensor"),
    "size": (lambda: Net(lambda s, x: s.a(x).size(0), a=nn.Linear(4, 3)), "Net", "not a rate", ""),
    "bare parameter": (Bare, "gain", "bare parameter", "module of its own"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(3)), "0 (LazyLinear)", "no shape yet", "answer one example first"),
    "constant operation": (
        lambda: Net(lambda s, x: s.a(x) + s.constant(), a=nn.Linear(4, 3), constant=Buffered()),
        "constant",
        "operation on no rate",
        "buffers",
    ),
    "compiled": (
        lambda: nn.Sequential(torch.compile(nn.Linear(4, 3), backend="eager")),
        "0",
        "a compiled module cannot be read",
        "torch.compile(apical.Circuit(model, rule))",
    ),
    "circuit within": (
        lambda: nn.Sequential(nn.Linear(4, 4), apical.Circuit(nn.Linear(4, 3), "backprop")),
        "1",
        "circuits cannot be nested",
        "one circuit of the plain models",
    ),
    "parameters where rates meet": (
        lambda: Net(lambda s, x: s.b(s.mix(h := s.a(x), h.relu())), **two(), mix=Gain()),
        "mix (Gain)",
        "no parameters of its own",
        "layer before or after",
    ),
}


class Gain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.gain * a + b


class Buffered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", torch.ones(3))

    def forward(self) -> Tensor:
        return self.value


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_names_the_place_the_reason_and_the_remedy(name):
    make, place, reason, remedy = REFUSED[name]
    with pytest.raises(CircuitError) as refused:
        apical.Circuit(make(), "backprop")
    message = str(refused.value)
    assert message.startswith(f"{place}:"), message
    assert re.search(re.escape(reason), message)
    assert re.search(re.escape(remedy), message)
    assert message.endswith(".")


def test_what_is_no_model_no_rule_no_reduction_is_refused():
    with pytest.raises(CircuitError, match=r"made of an nn\.Module, not of function"):
        apical.Circuit(lambda x: x, "backprop")
    with pytest.raises(CircuitError, match="LearningRule or the name of one"):
        apical.Circuit(nn.Linear(4, 3), 3)
    with pytest.raises(ConfigError, match="'mean' or 'sum'"):
        apical.Circuit(nn.Linear(4, 3), "backprop", reduction="none")
    with pytest.raises(ConfigError, match=r"no rule 'backprob'.*'backprop'"):
        apical.Circuit(nn.Linear(4, 3), "backprob")


def test_a_refusal_leaves_the_model_as_it_was():
    model = Net(lambda s, x: F.relu(s.a(x)) if s.training else s.a(x), a=nn.Linear(4, 3), frozen=nn.BatchNorm1d(3))
    model.frozen.eval()
    with pytest.raises(CircuitError):
        apical.Circuit(model, "backprop")
    assert model.training
    assert model.a.training
    assert not model.frozen.training


def test_hooks_that_a_circuit_goes_past_are_told():
    for register in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"):
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
        getattr(model[0], register)(lambda *arguments: None)
        with pytest.warns(UserWarning, match=r"0 \(Linear\) has hooks; a circuit calls synapses") as told:
            apical.Circuit(model, "backprop")
        assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        apical.Circuit(nn.Sequential(nn.Linear(4, 4)), "backprop")


def test_the_models_mode_is_the_circuits():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).eval()
    model[0].train()
    circuit = apical.Circuit(model, "backprop")
    assert not circuit.training
    assert not circuit.rule.training
    assert model[0].training
    assert not model[1].training
