"""Direct feedback begins in the size that backpropagation has, in every layer, and at the size that its seed gives."""

import copy
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import apical


class Spiking(nn.Module):
    """A neuron that fires above a threshold, with a surrogate derivative that vanishes far from it."""

    def forward(self, drive: Tensor) -> Tensor:
        soft = torch.sigmoid(8 * (drive - 0.5))
        return soft + ((drive > 0.5).to(drive.dtype) - soft).detach()


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def dense(neuron: Callable[[], nn.Module], *norms: Callable[[int], nn.Module]) -> nn.Module:
    sizes = (50, 200, 200)
    return nn.Sequential(
        *[
            part
            for fan_in, units in itertools.pairwise(sizes)
            for part in (nn.Linear(fan_in, units), *(norm(units) for norm in norms), neuron())
        ],
        nn.Linear(200, 10),
    )


def pooled(pool: nn.Module) -> nn.Module:
    parts = [(nn.Conv2d(fan_in, 16, 3, padding=1), nn.ReLU()) for fan_in in (3, 16, 16)]
    return nn.Sequential(*[part for pair in parts for part in pair], pool, nn.Flatten(), nn.LazyLinear(10))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "relu": (lambda: dense(nn.ReLU), (50,)),
    "tanh": (lambda: dense(nn.Tanh), (50,)),
    "spiking": (lambda: dense(Spiking), (50,)),
    "batch norm": (lambda: dense(nn.ReLU, nn.BatchNorm1d), (50,)),
    "layer norm": (lambda: dense(nn.ReLU, nn.LayerNorm), (50,)),
    "spiking after norms": (lambda: dense(Spiking, nn.BatchNorm1d), (50,)),
    "dropout": (lambda: dense(lambda: nn.Dropout(0.8)), (50,)),
    "strides": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 32, 5, stride=2), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)
        ),
        (3, 16, 16),
    ),
    "mean over 8 x 8": (lambda: pooled(nn.AdaptiveAvgPool2d(1)), (3, 8, 8)),
    "mean over 16 x 16": (lambda: pooled(nn.AdaptiveAvgPool2d(1)), (3, 16, 16)),
    "mean over 32 x 32": (lambda: pooled(nn.AdaptiveAvgPool2d(1)), (3, 32, 32)),
    "means of 4 x 4": (lambda: pooled(nn.AvgPool2d(4)), (3, 16, 16)),
    "maxima of 4 x 4": (lambda: pooled(nn.MaxPool2d(4)), (3, 16, 16)),
    "residual": (
        lambda: nn.Sequential(
            nn.Linear(50, 100), *[Residual(nn.Sequential(nn.ReLU(), nn.Linear(100, 100))) for _ in range(3)],
            nn.ReLU(), nn.Linear(100, 10),
        ),
        (50,),
    ),
}  # fmt: skip


def teaching_signals(circuit: apical.Circuit, x: Tensor, error: Tensor) -> dict[str, float]:
    """The root mean square of what each layer's soma is taught."""
    found: dict[str, float] = {}

    def keep(layer: str, quantities: dict[str, Tensor]) -> None:
        found[layer] = float(quantities["teaching_signal"].square().mean().sqrt())

    with circuit.observe(keep):
        circuit(x).backward(error)
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_is_taught_in_the_size_of_backpropagation(name):
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    model = make()
    x, error = torch.randn(64, *shape), torch.randn(64, 10)
    model(x)
    truth = teaching_signals(apical.Circuit(model, "backprop"), x, error)
    found = teaching_signals(apical.Circuit(model, "direct_feedback_alignment"), x, error)
    assert found.keys() == truth.keys()
    for layer, size in found.items():
        assert 2 / 3 < size / truth[layer] < 3 / 2, layer


def test_bytes_are_measured_as_bytes():
    """Inputs that the model itself scales."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = dense(nn.Tanh)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner((x.float() - 128) / 32)

    torch.manual_seed(0)
    model, error = Scaled(), torch.randn(64, 10)
    x = torch.randint(0, 256, (64, 50), dtype=torch.uint8)
    truth = teaching_signals(apical.Circuit(model, "backprop"), x, error)
    for layer, size in teaching_signals(apical.Circuit(model, "direct_feedback_alignment"), x, error).items():
        assert 2 / 3 < size / truth[layer] < 3 / 2, layer


def test_layers_below_a_gain_of_zero_are_taught():
    """No signal arrives there under backpropagation, so there is no size to take: they take that of the layer above."""
    block = Residual(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.LayerNorm(6)))
    model = nn.Sequential(nn.Linear(5, 6), block, nn.Linear(6, 3))
    nn.init.zeros_(block.inner[3].weight)
    circuit = apical.Circuit(model, "direct_feedback_alignment")
    circuit(torch.randn(4, 5)).square().sum().backward()
    assert block.inner[0].weight.grad.count_nonzero()


# What the weights depend on


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4)
    )


def made(circuit: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The feedback weights after a forward pass in training."""
    circuit.train()(x)
    inner = next(module for module in circuit.modules() if isinstance(module, apical.Circuit))
    return {name: buffer.clone() for name, buffer in inner.rule.named_buffers() if buffer.numel()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert one
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("how", ["data", "draws", "batch size", "example", "compiled", "evaluated first"])
def test_weights_depend_on_the_seed_and_not_on(how):
    def circuit(**options: Tensor) -> apical.Circuit:
        return apical.Circuit(network(), apical.DirectFeedbackAlignment(seed=7), **options)

    x = torch.randn(5, 6)
    truth = made(circuit(), x)
    if how == "compiled":
        torch._dynamo.reset()
        assert_equal(made(torch.compile(circuit(), backend="eager"), x), truth)
    elif how == "draws":
        own = circuit()
        torch.randn(3)
        assert_equal(made(own, x), truth)
    elif how == "evaluated first":
        own = circuit()
        with torch.no_grad():
            own(x)
        assert_equal(made(own, x), truth)
    elif how == "example":
        assert_equal(made(circuit(example=torch.zeros(2, 6)), x), truth)
    else:
        assert_equal(made(circuit(), 50 * torch.randn(3, 6) if how == "data" else torch.randn(11, 6)), truth)


def test_the_first_pass_leaves_the_random_state_and_the_buffers_alone():
    x = torch.randn(5, 6)
    model = network()
    plain, circuit = copy.deepcopy(model), apical.Circuit(model, "direct_feedback_alignment")
    for one in (plain, circuit):
        torch.manual_seed(3)
        one(x)
    assert torch.equal(plain[1].running_var, model[1].running_var)
    torch.manual_seed(3)
    truth = plain(x)
    torch.manual_seed(3)
    assert torch.equal(circuit(x), truth)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_distributed_checkpoint_restores_the_feedback(tmp_path: Path):
    """A circuit that is fresh when it is loaded makes weights afterwards: of the sizes of before the training."""
    x = torch.randn(5, 6)
    circuit = apical.Circuit(network(), apical.DirectFeedbackAlignment(seed=7))
    truth = made(circuit, x)
    with torch.no_grad():
        for parameter in circuit.parameters():
            parameter.mul_(3)
    dcp.save({"circuit": circuit.state_dict()}, checkpoint_id=tmp_path, no_dist=True)
    other = apical.Circuit(network(1), apical.DirectFeedbackAlignment(seed=7))
    state = {"circuit": other.state_dict()}
    dcp.load(state, checkpoint_id=tmp_path, no_dist=True)
    other.load_state_dict(state["circuit"])
    assert torch.equal(other.model[0].weight, circuit.model[0].weight)
    assert_equal(made(other, x), truth)


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("first", ["circuit", "average", "circuit before the average"])
def test_an_averaged_model_has_the_feedback_of_its_seed(first, use_buffers):
    x = torch.randn(5, 6)
    circuit = apical.Circuit(network(), apical.DirectFeedbackAlignment(seed=7))
    truth = made(apical.Circuit(network(), apical.DirectFeedbackAlignment(seed=7)), x)
    if first == "circuit before the average":
        made(circuit, x)
    averaged = AveragedModel(circuit, use_buffers=use_buffers)
    if first == "average":
        made(averaged, x)
    for _ in range(2):
        assert_equal(made(circuit, x), truth)
        averaged.update_parameters(circuit)
    assert_equal(made(averaged, x), truth)


def test_copies_of_a_rule_in_other_circuits_keep_their_weights_to_themselves():
    rule = apical.DirectFeedbackAlignment(seed=7)
    large = apical.Circuit(network(), copy.deepcopy(rule))
    small = apical.Circuit(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)), copy.deepcopy(rule))
    x = torch.randn(5, 6)
    assert {name: tuple(weights.shape) for name, weights in made(large, x).items()} == {
        "pathway.weights.0": (4, 8),
        "pathway.weights.4": (4, 8),
    }
    assert {name: tuple(weights.shape) for name, weights in made(small, x).items()} == {"pathway.weights.0": (4, 5)}
