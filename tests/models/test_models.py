"""Networks by name: their shapes, their seeds, what they refuse."""

import copy
import os
import sys
from itertools import pairwise

import pytest
import torch
from torch import nn

from apical import Circuit
from apical.errors import ConfigError
from apical.models.named import MOMENTS
from apical.neurons import OverTime
from apical.study import build

MNIST, CIFAR, DIGITS = (1, 28, 28), (3, 32, 32), (1, 8, 8)


def make(spec, shape=MNIST, classes=10, seed=0):
    return build(spec, input_shape=shape, classes=classes, seed=seed)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("spec", "shape", "count"),
    [
        ("mlp:500,500", MNIST, 784 * 500 + 500 + 500 * 500 + 500 + 500 * 10 + 10),
        ("mlp:7", (5,), 5 * 7 + 7 + 7 * 10 + 10),
        ("conv:32,64", MNIST, 32 * 9 + 32 + 64 * 32 * 9 + 64 + 64 * 49 * 10 + 10),
        ("conv:4,4,4", DIGITS, 4 * 9 + 4 + 2 * (16 * 9 + 4) + 4 * 10 + 10),
        ("lenet", MNIST, 61_706),  # LeNet-5 with dense feature maps
        ("lenet", CIFAR, 61_706 + 6 * 2 * 25),
        ("resnet20", CIFAR, 269_722),  # He et al. (2016), table 6: 0.27 M
        ("resnet56", CIFAR, 853_018),  # the same: 0.85 M
        # Meir et al. (2023): M * 3 * 7 * (28 K) weights in the tree; MNIST: M * 3 * (48 K). Then biases.
        ("tree3:6,16", CIFAR, 18 * 25 + 18 + 16 * 3 * 7 * 28 * 6 + 336 + 336 * 10 + 10),
        ("tree3:15,80", CIFAR, 45 * 25 + 45 + 80 * 3 * 7 * 28 * 15 + 1680 + 1680 * 10 + 10),
        ("tree3:6,16", MNIST, 6 * 25 + 6 + 16 * 3 * 48 * 6 + 48 + 48 * 10 + 10),
    ],
)
def test_the_size_is_the_published_one_and_the_answer_one_number_a_class(spec, shape, count):
    model = make(spec, shape)
    assert parameters(model) == count
    assert model.eval()(torch.zeros(3, *shape)).shape == (3, 10)


@pytest.mark.parametrize("spec", ["mlp:9:tanh", "conv:3,4:gelu", "lenet", "resnet20"])
@pytest.mark.parametrize("shape", [DIGITS, MNIST, CIFAR])
def test_every_network_can_become_a_circuit_and_learn(spec, shape):
    circuit = Circuit(make(spec, shape), "feedback_alignment")
    circuit(torch.randn(2, *shape)).sum().backward()
    assert all(parameter.grad is not None for parameter in circuit.model.parameters())


@pytest.mark.parametrize("spec", ["mlp:9,8:lif", "conv:3:alif", "resnet20:lif"])
def test_a_spiking_network_takes_a_constant_current_and_answers_alone_as_it_does_in_a_circuit(spec):
    model, x = make(spec, DIGITS).double(), 3 * torch.rand(4, *DIGITS, dtype=torch.float64)
    alone = copy.deepcopy(model)
    sequence = OverTime(copy.deepcopy(model.model))(x.expand(MOMENTS, *x.shape))
    circuit = Circuit(model, "backprop", example=x)
    with torch.no_grad():
        torch.testing.assert_close(circuit.eval()(x), alone.eval()(x))
    circuit.train()
    alone.train()
    for answer in (alone(x), circuit(x), sequence):
        assert answer.shape == (4, 10)
        torch.testing.assert_close(answer, sequence)
    circuit(x).square().sum().backward()
    alone(x).square().sum().backward()
    for own, expected in zip(circuit.model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(own.grad, expected.grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("spec", ["mlp:9,8:tanh", "conv:3,4:tanh", "lenet:tanh"])
def test_between_two_layers_of_weights_there_is_an_activation(spec):
    parts = [part for part in make(spec).modules() if isinstance(part, nn.Conv2d | nn.Linear | nn.Tanh)]
    assert not any(isinstance(below, nn.Tanh) == isinstance(above, nn.Tanh) for below, above in pairwise(parts))


@pytest.mark.parametrize("rule", ["backprop", "feedback_alignment"])
@pytest.mark.parametrize("shape", [MNIST, CIFAR])
def test_a_tree_learns_by_a_rule(shape, rule):
    """One step on a batch lowers its loss, and backprop in a circuit is autograd's."""
    model = make("tree3:3,4", shape)
    circuit = Circuit(model, rule)
    x, y = torch.randn(16, *shape, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 10
    before = nn.functional.cross_entropy(circuit(x), y)
    before.backward()
    if rule == "backprop":
        expected = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), list(model.parameters()))
        for parameter, gradient in zip(model.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    assert nn.functional.cross_entropy(model(x), y) < before


@pytest.mark.parametrize(("shape", "bands"), [(MNIST, 3), (CIFAR, 7)])
def test_every_rate_and_weight_of_a_tree_has_one_way_on(shape, bands):
    """A pooled rate reaches one unit of each branch, that of its colour and rows; a tree's weight reaches one unit."""
    filters, branches = 2, 3
    model = make(f"tree3:{filters},{branches}", shape)
    side = (shape[1] - 4) // 2
    pooled = torch.rand(1, shape[0] * filters, side, side, requires_grad=True)
    tree = model.tree(model.cut(pooled)).flatten()
    assert len(tree) == shape[0] * bands * branches
    for unit in range(0, len(tree), 5):
        weights, rates = torch.autograd.grad(tree[unit], [model.tree.weight, pooled], retain_graph=True)
        assert weights.flatten(1).any(1).nonzero().tolist() == [[unit]]
        colour, band = divmod(unit // branches, bands)
        reached = torch.zeros_like(rates, dtype=torch.bool)
        rows = side // bands
        reached[0, colour * filters : (colour + 1) * filters, band * rows : (band + 1) * rows] = True
        assert torch.equal(rates != 0, reached)
        assert weights.flatten(1)[unit].sum().item() == pytest.approx(pooled[reached].sum().item(), rel=1e-5)


@pytest.mark.parametrize("spec", ["mlp:20", "conv:4", "lenet", "resnet20", "tree3:2,3"])
def test_the_seed_decides_the_weights_and_nothing_else_is_touched(spec):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, second, other = make(spec, CIFAR, seed=3), make(spec, CIFAR, seed=3), make(spec, CIFAR, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    pairs = list(zip(first.state_dict().values(), second.state_dict().values(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_the_activation_is_the_one_that_was_named():
    assert sum(isinstance(m, nn.Tanh) for m in make("mlp:5,5:tanh").modules()) == 2
    assert sum(isinstance(m, nn.ReLU) for m in make("mlp:5,5").modules()) == 2
    assert not any(isinstance(m, nn.ReLU) for m in make("resnet20:silu", CIFAR).modules())


def test_lenet_pads_a_small_image_with_its_own_border():
    padded = make("lenet")[0](torch.full((1, 1, 28, 28), 0.5))
    assert padded.shape == (1, 1, 32, 32)
    assert (padded == 0.5).all()
    assert isinstance(make("lenet", CIFAR)[0], nn.Conv2d)


def test_resnet_passes_its_input_on_without_weights():
    """With the inner layers silent, a block is its shortcut: every second pixel, new channels zero."""
    block = make("resnet20", CIFAR).blocks[3].eval()
    block.norm2.weight.data.zero_()
    x = torch.rand(2, 16, 8, 8)
    expected = torch.zeros(2, 32, 4, 4)
    expected[:, 8:24] = x[:, :, ::2, ::2]
    assert torch.equal(block(x), expected)


@pytest.mark.parametrize(
    ("spec", "shape", "says"),
    [
        ("conv:4", (64,), r"takes images .* shape \(64,\); take an mlp"),
        ("lenet", (28, 28), "takes images"),
        ("conv:4,4,4,4", DIGITS, "needs 16x16 at least, not 8x8; take fewer layers"),
        ("lenet", (3, 64, 64), "at most 32x32, not 64x64"),
        ("resnet20", (1, 7, 7), "8x8 at least, not 7x7"),
        ("tree3:6,16", DIGITS, "28x28 or 32x32.* not 8x8"),
        ("tree3:6", MNIST, "filters for each colour and branches: tree3:6,16"),
        ("tree3", MNIST, "widths are positive whole numbers"),
        ("mlp:", MNIST, "widths are positive whole numbers"),
        ("mlp:0", MNIST, "widths are positive whole numbers"),
        ("mlp:" + "9" * 5000, MNIST, "widths are positive whole numbers"),
        ("mlp:999999999999999999", MNIST, "PyTorch cannot allocate it .*Take fewer units"),
        ("conv:999999999999999999", MNIST, "PyTorch cannot allocate it .*Take fewer units"),
        ("mlp", MNIST, "widths are positive whole numbers"),
        ("mlp:5:relu:x", MNIST, "'x' is left over"),
        ("lenet:5", MNIST, "unknown activation '5'"),
        ("resnet21", CIFAR, "unknown model 'resnet21'; did you mean 'resnet"),
        ("alexnet", CIFAR, "unknown model 'alexnet'.* allowed: mlp:500,500"),
        ("net.py:", MNIST, "comes the name of a function"),
    ],
)
def test_a_network_that_cannot_be_is_refused_with_the_reason(spec, shape, says):
    with pytest.raises(ConfigError, match=says):
        make(spec, shape)


OWN = """
from torch import nn
def make(input_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[0] * input_shape[1] * input_shape[2], classes))
def wrong(input_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 3))
def nothing(input_shape, classes):
    return None
def fails(input_shape, classes):
    return 1 / 0
def deaf(input_shape, classes):
    return nn.Linear(5, classes)
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(OWN)
    return path


def test_a_network_of_ones_own_is_seeded_too(own):
    first, second = make(f"{own}:make"), make(f"{own}:make")
    assert torch.equal(first[1].weight, second[1].weight)
    assert first.training


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("wrong", r"answers a batch of 2 with \(2, 3\); this task needs \(2, 10\)"),
        ("nothing", "returned NoneType, not an nn.Module"),
        ("fails", r"failed at .*net.py:10: ZeroDivisionError"),
        ("deaf", "cannot take a batch of shape"),
        ("mkae", "unknown name in .* 'mkae'; did you mean 'make'"),
    ],
)
def test_a_network_of_ones_own_that_does_not_fit(own, function, says):
    with pytest.raises(ConfigError, match=says):
        make(f"{own}:{function}")


def test_a_file_that_was_rewritten_within_the_same_second_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "net.py"
    network = "nn.Sequential(nn.Flatten(), nn.Linear(64, {0}), nn.Linear({0}, 10))"
    source = f"from torch import nn\ndef make(input_shape, classes):\n    return {network}\n"
    for width in (31, 47):
        file.write_text(source.format(width))
        os.utime(file, (1_700_000_000, 1_700_000_000))
        assert make(f"{file}:make", shape=DIGITS)[1].out_features == width


def test_a_file_that_is_missing_or_broken(tmp_path):
    with pytest.raises(ConfigError, match="there is no file"):
        make(f"{tmp_path}/none.py:make")
    (tmp_path / "broken.py").write_text("def (")
    with pytest.raises(ConfigError, match="SyntaxError"):
        make(f"{tmp_path}/broken.py:make")
