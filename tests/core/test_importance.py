"""Importance: equal to the gradients of single samples by torch.func, and to a rule's updates of single samples."""

import copy
import math
import warnings

import pytest
import torch
from circuits import CLASSES, NETWORKS, Row, rows
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils import parametrizations

import apical
from apical.errors import ApicalError, CircuitError, ConfigError, DataError, NonFiniteError
from apical.layers import Synapses
from apical.layers.synapses import LinearSynapses, synapses_of
from apical.measure import fisher, sensitivity

EXACT = {"rtol": 1e-10, "atol": 1e-14}


def single(model: nn.Module, x: Tensor, function, *more: Tensor) -> dict[str, Tensor]:
    """d function(output of a sample) / d parameter for every sample: (n, ...)."""
    parameters = {name: own.detach() for name, own in model.named_parameters() if own.requires_grad}
    rest = {name: own for name, own in model.named_parameters() if not own.requires_grad}
    tensors = {**rest, **dict(model.named_buffers())}

    def of(parameters, one, *more):
        return function(functional_call(model, ({**parameters, **tensors}), (one[None],))[0], *more)

    return vmap(grad(of), (None, 0, *[0] * len(more)))(parameters, x, *more)


def reference(model: nn.Module, x: Tensor, outputs: list[int] | None = None) -> dict[str, Tensor]:
    """The exact Fisher information, from gradients of single samples."""
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        answer = model(x)
    among = torch.tensor(list(range(answer.shape[1])) if outputs is None else outputs)
    p, total = answer[:, among].softmax(1), {}
    for place in range(len(among)):
        found = single(model, x, lambda y, at=place: y[among].log_softmax(0)[at])
        for name, own in found.items():
            part = torch.einsum("n,n...->...", p[:, place], own.square()) / len(x)
            total[name] = total[name] + part if name in total else part
    return total


def assert_close(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], **EXACT, msg=lambda m, n=name: f"{n}: {m}")


def batch(network: str, samples: int = 7) -> tuple[nn.Module, Tensor, Tensor]:
    """A network whose running statistics have moved, in training mode, and a batch, in double precision."""
    model = NETWORKS[network].build().double()
    x, y = NETWORKS[network].batch(samples)
    with torch.no_grad():
        model(x.double())
    return model, x.double(), y


CONVOLUTIONS = {
    "stride, groups": (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (4, 6, 5)),
    "dilation, circular": (nn.Conv2d(2, 4, (3, 2), dilation=2, padding=2, padding_mode="circular"), (2, 7, 6)),
    "same, uneven": (nn.Conv2d(2, 3, 4, padding="same", bias=False), (2, 5, 5)),
    "depthwise": (nn.Conv2d(3, 6, 3, groups=3), (3, 5, 5)),
    "line": (nn.Conv1d(4, 6, 3, stride=2, padding=2, groups=2), (4, 9)),
    "line, reflected": (nn.Conv1d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 7)),
    "linear over positions": (nn.Linear(5, 3), (4, 5)),
    "group norm": (nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4)), (2, 5, 4)),
    "layer norm over positions": (nn.Sequential(nn.Linear(5, 3), nn.LayerNorm((4, 3))), (4, 5)),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_fisher_is_that_of_single_samples(network):
    model, x, _ = batch(network)
    assert_close(fisher(model, x, batch_size=4), reference(model, x))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_layers_of_every_kind(name, monkeypatch):
    monkeypatch.setattr("apical.layers.samples._ENTRIES", 100)  # few samples in a piece
    layer, shape = CONVOLUTIONS[name]
    torch.manual_seed(0)
    x = torch.randn(5, *shape, dtype=torch.float64)
    layer = copy.deepcopy(layer).double()
    model = nn.Sequential(layer, nn.Tanh(), nn.Flatten(), nn.LazyLinear(3, dtype=torch.float64))
    model(x)
    assert_close(fisher(model, x), reference(model, x))
    wanted = {name: own.abs().mean(0) for name, own in single(model, x, lambda y: y.square().sum()).items()}
    assert_close(sensitivity(model, x), wanted)


def test_outputs_that_do_not_compete_have_no_part():
    model, x, _ = batch("mlp")
    found = fisher(model, x, outputs=[2, 0])
    assert_close(found, reference(model, x, [2, 0]))
    assert not found["5.weight"][1].any()
    assert found["5.weight"][2].any()
    wanted = single(model, x, lambda y: y[:2].square().sum())
    assert_close(sensitivity(model, x, outputs=[0, 1]), {name: own.abs().mean(0) for name, own in wanted.items()})


def test_kinds():
    model, x, y = batch("mlp", 9)
    found = single(
        model, x, lambda answer, label: (answer.log_softmax(0) * label).sum(), nn.functional.one_hot(y, CLASSES)
    )
    assert_close(fisher(model, x, y, kind="empirical", batch_size=4), {n: g.square().mean(0) for n, g in found.items()})
    exact = fisher(model, x)
    draws = [fisher(model, x, kind="sampled", seed=seed) for seed in range(200)]
    mean = {name: torch.stack([draw[name] for draw in draws]).mean(0) for name in exact}
    for name in exact:
        assert (mean[name] - exact[name]).norm() < 0.1 * exact[name].norm(), name
    assert not torch.equal(draws[0]["5.weight"], draws[1]["5.weight"])


@pytest.mark.parametrize("row", [row for row in rows() if not row.redraws], ids=str)
def test_by_the_rule_it_is_that_of_the_rules_own_updates(row):
    network = NETWORKS["branching"]
    x = network.batch(3)[0].double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of networks that have not settled
        try:
            circuit = apical.Circuit(network.build().double(), row.make(), example=x).eval()
            found = sensitivity(circuit, x, by_rule=True)
        except CircuitError as error:
            pytest.skip(f"refused: {error}")
        circuit.wiring.reduction = "sum"
        total = {name: torch.zeros_like(own) for name, own in circuit.model.named_parameters()}
        for sample in x:
            own = copy.deepcopy(circuit)
            own(sample[None]).square().sum().backward()
            for name, parameter in own.model.named_parameters():
                if parameter.grad is not None:
                    total[name] += parameter.grad.abs() / len(x)
    for name in total:
        torch.testing.assert_close(found[name], total[name], rtol=1e-8, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def test_the_gradient_is_taken_unless_the_rule_is_asked_for():
    model, x, _ = batch("mlp")
    circuit = apical.Circuit(model, apical.FeedbackAlignment())
    assert_close(fisher(circuit, x), reference(model, x))
    assert not torch.equal(fisher(circuit, x, by_rule=True)["1.weight"], fisher(circuit, x)["1.weight"])


@pytest.mark.parametrize("row", [Row("oja"), Row("soft_hebb"), Row("three_factor"), Row("brainprop")], ids=str)
def test_a_rule_without_an_update_of_each_sample_is_refused(row):
    _, x, _ = batch("mlp")
    circuit = apical.Circuit(NETWORKS["mlp"].build().double(), row.make())
    with pytest.raises(CircuitError, match="by_rule=False"):
        sensitivity(circuit, x, by_rule=True)


def test_shared_frozen_and_computed_weights():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 4), nn.Linear(4, 3))
    model[2].weight = model[0].weight
    parametrizations.weight_norm(model[4])
    model[5].bias.requires_grad_(False)
    model = model.double()
    x = torch.randn(6, 5, dtype=torch.float64)
    found = fisher(model, x, batch_size=4)
    assert_close(found, reference(model, x))
    assert "5.bias" not in found
    assert "4.parametrizations.weight.original0" in found


class _Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_synapses_of_others_need_their_plasticity_alone():
    @synapses_of(_Doubled)
    class Doubled(LinearSynapses):
        def forward(self, pre):
            return 2 * super().forward(pre)

        def transpose_product(self, post, weight, pre):
            return 2 * super().transpose_product(post, weight, pre)

        def plasticity(self, pre, post, weight, bias):
            return super().plasticity(pre, 2 * post, weight, bias)

    try:
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), _Doubled(5, 3)).double()
        x = torch.randn(6, 4, dtype=torch.float64)
        assert Doubled.powers is Synapses.powers
        assert_close(fisher(model, x), reference(model, x))
    finally:
        apical.layers.synapses._KINDS.pop(_Doubled)


def test_nothing_of_the_network_moves():
    model, x, y = batch("pre_activation")
    circuit = apical.Circuit(model, "weight_mirror")
    nn.functional.cross_entropy(circuit(x), y).backward()
    state, random = copy.deepcopy(circuit.state_dict()), torch.get_rng_state()
    gradients = [own.grad.clone() for own in model.parameters()]
    for by_rule in (False, True):
        fisher(circuit, x, kind="sampled", by_rule=by_rule)
    assert all(torch.equal(state[name], value) for name, value in circuit.state_dict().items())
    assert all(torch.equal(own.grad, before) for own, before in zip(model.parameters(), gradients, strict=True))
    assert torch.equal(torch.get_rng_state(), random)
    assert circuit.training
    assert all(module.training for module in model.modules())


class Mixing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


def _linear(*more: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), *more)


X = torch.zeros(6, 4)
REFUSED: dict[str, tuple[nn.Module, dict, type[ApicalError], str]] = {
    "no examples": (_linear(), {"x": X[:0]}, DataError, "no examples"),
    "NaN": (_linear(), {"x": X + math.nan}, NonFiniteError, "input"),
    "kind": (_linear(), {"kind": "true"}, ConfigError, "kind='true'"),
    "no labels": (_linear(), {"kind": "empirical"}, DataError, "kind='empirical'"),
    "other labels": (
        _linear(),
        {"kind": "empirical", "y": torch.arange(6) % 3, "outputs": [0, 1]},
        DataError,
        "do not compete",
    ),
    "outputs": (_linear(), {"outputs": [3]}, ConfigError, "outputs"),
    "batch size": (_linear(), {"batch_size": 0}, ConfigError, "batch_size"),
    "no circuit": (_linear(), {"by_rule": True}, ConfigError, "by_rule"),
    "samples mix": (_linear(Mixing()), {"x": torch.randn(6, 4)}, CircuitError, "depends on the other samples"),
    "statistics of the batch": (
        _linear(nn.BatchNorm1d(3, track_running_stats=False)),
        {"x": torch.randn(6, 4)},
        CircuitError,
        "track_running_stats",
    ),
    "positions": (_linear(), {"x": torch.zeros(6, 2, 4)}, DataError, r"\(6, 2, 3\)"),
    "batch elsewhere": (
        apical.Circuit(_linear(), "backprop", batch_axis=1),
        {"x": torch.zeros(2, 6, 4)},
        CircuitError,
        "batch_axis=0",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case):
    network, options, error, words = REFUSED[case]
    with pytest.raises(error, match=words):
        fisher(network, **{"x": X, **options})


def test_weights_that_are_not_finite_are_refused_by_name():
    model = _linear()
    with torch.no_grad():
        model[0].weight[1, 2] = math.inf
    with pytest.raises(NonFiniteError):
        fisher(model, torch.ones(6, 4))
