"""Closed forms against autograd: every module and every kind of synapse, over shapes and options, in float64."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from apical.layers import (
    LocalGraph,
    Step,
    closed_form,
    closed_form_of,
    kind_of,
    known_closed_forms,
    known_kinds,
)
from apical.layers.merges import Concatenate, Function, Product, Sum
from apical.layers.steps import local_derivative, local_graph

Drawn = tuple[nn.Module, tuple[int, ...]]
SEEDS = st.integers(0, 2**20)
SIZES = st.integers(1, 5)


@st.composite
def shapes(draw: Callable[..., Any], least: int = 1, most: int = 4) -> tuple[int, ...]:
    return tuple(draw(st.lists(SIZES, min_size=least, max_size=most)))


def anywhere(module: type[nn.Module], **options: st.SearchStrategy[Any]) -> st.SearchStrategy[Drawn]:
    """A module that takes any shape."""
    return st.tuples(st.fixed_dictionaries(options).map(lambda chosen: module(**chosen)), shapes())


IN_PLACE = st.booleans()
NUMBERS = st.floats(0.1, 3)


@st.composite
def hardtanh(draw: Callable[..., Any]) -> Drawn:
    low = draw(st.sampled_from([-2.0, -1.0, 0.5]))
    return nn.Hardtanh(low, low + draw(st.sampled_from([0.5, 2.0])), inplace=draw(IN_PLACE)), draw(shapes())


@st.composite
def along_one_axis(draw: Callable[..., Any], module: type[nn.Module]) -> Drawn:
    shape = draw(shapes())
    return module(dim=draw(st.integers(-len(shape), len(shape) - 1))), shape


@st.composite
def flatten(draw: Callable[..., Any]) -> Drawn:
    shape = draw(shapes(2))
    start = draw(st.integers(0, len(shape) - 1))
    end = draw(st.integers(start, len(shape) - 1))
    return nn.Flatten(start, draw(st.sampled_from([end, end - len(shape)]))), shape


@st.composite
def unflatten(draw: Callable[..., Any]) -> Drawn:
    sizes = draw(shapes(1, 3))
    shape = [*draw(shapes(1, 2)), math.prod(sizes), *draw(shapes(1, 1))]
    place = len(shape) - 2
    return nn.Unflatten(draw(st.sampled_from([place, -2])), sizes), tuple(shape)


@st.composite
def dropout(draw: Callable[..., Any], module: type[nn.Module], ranks: tuple[int, ...]) -> Drawn:
    rank = draw(st.sampled_from(ranks))
    made = module(draw(st.sampled_from([0.0, 0.2, 0.5, 1.0])), inplace=draw(IN_PLACE))
    return made.train(draw(st.booleans())), draw(shapes(rank, rank))


@st.composite
def pool(draw: Callable[..., Any], module: type[nn.Module], rank: int) -> Drawn:
    kernels, strides, pads, spreads, sizes = [], [], [], [], []
    dilates = module in (nn.MaxPool1d, nn.MaxPool2d)
    for _ in range(rank):
        kernels.append(draw(st.integers(1, 3)))
        strides.append(draw(st.integers(1, 3)))
        pads.append(draw(st.integers(0, kernels[-1] // 2)))
        spreads.append(draw(st.integers(1, 2)) if dilates else 1)
        sizes.append(draw(st.integers(spreads[-1] * (kernels[-1] - 1) + 1, 8)))
    options: dict[str, Any] = {"ceil_mode": draw(st.booleans())}
    options["stride"] = draw(st.sampled_from([None, tuple(strides)]))
    options["padding"] = tuple(pads)
    if dilates:
        options["dilation"] = tuple(spreads)
    else:
        options["count_include_pad"] = draw(st.booleans())
    if module is nn.AvgPool2d:
        options["divisor_override"] = draw(st.sampled_from([None, 5]))
    batch = draw(shapes(1, 2))  # with and without the batch
    if len(set(kernels)) == 1 and draw(st.booleans()):
        return module(kernels[0], **options), (*batch, *sizes)
    return module(tuple(kernels), **options), (*batch, *sizes)


@st.composite
def adaptive_pool(draw: Callable[..., Any], module: type[nn.Module], rank: int) -> Drawn:
    shape = (*draw(shapes(1, 2)), *draw(shapes(rank, rank)))
    wanted = st.integers(1, 6) if rank == 1 else st.one_of(st.none(), st.integers(1, 6))
    size: Any = draw(st.one_of(st.integers(1, 6), st.tuples(*[wanted] * rank)))
    return module(size), shape


@st.composite
def batch_norm(draw: Callable[..., Any], module: type[nn.Module], ranks: tuple[int, ...]) -> Drawn:
    rank = draw(st.sampled_from(ranks))
    shape = (draw(st.integers(2, 5)), *draw(shapes(rank - 1, rank - 1)))
    made = module(
        shape[1],
        affine=draw(st.booleans()),
        track_running_stats=draw(st.booleans()),
        momentum=draw(st.sampled_from([None, 0.1, 0.5])),
        eps=draw(st.sampled_from([1e-5, 1e-2])),
    )
    if made.track_running_stats:
        nn.init.uniform_(made.running_mean)
        nn.init.uniform_(made.running_var, 0.5, 2)
    return made.train(draw(st.booleans())), shape


@st.composite
def layer_norm(draw: Callable[..., Any]) -> Drawn:
    shape = draw(shapes(2))
    normalised = shape[draw(st.integers(1, len(shape) - 1)) :]
    return nn.LayerNorm(normalised, elementwise_affine=draw(st.booleans()), bias=draw(st.booleans())), shape


@st.composite
def group_norm(draw: Callable[..., Any]) -> Drawn:
    groups, each = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    shape = (draw(st.integers(2, 5)), groups * each, *draw(shapes(1, 2)))
    return nn.GroupNorm(groups, groups * each, affine=draw(st.booleans())), shape


STRATEGIES: dict[type[nn.Module], st.SearchStrategy[Drawn]] = {
    nn.Identity: anywhere(nn.Identity),
    nn.ReLU: anywhere(nn.ReLU, inplace=IN_PLACE),
    nn.Tanh: anywhere(nn.Tanh),
    nn.Sigmoid: anywhere(nn.Sigmoid),
    nn.Hardtanh: hardtanh(),
    nn.ReLU6: anywhere(nn.ReLU6, inplace=IN_PLACE),
    nn.LeakyReLU: anywhere(nn.LeakyReLU, negative_slope=st.sampled_from([0.0, 0.01, 2.0]), inplace=IN_PLACE),
    nn.ELU: anywhere(nn.ELU, alpha=NUMBERS, inplace=IN_PLACE),
    nn.CELU: anywhere(nn.CELU, alpha=NUMBERS, inplace=IN_PLACE),
    nn.SELU: anywhere(nn.SELU, inplace=IN_PLACE),
    nn.GELU: anywhere(nn.GELU, approximate=st.sampled_from(["none", "tanh"])),
    nn.SiLU: anywhere(nn.SiLU, inplace=IN_PLACE),
    nn.Mish: anywhere(nn.Mish, inplace=IN_PLACE),
    nn.Softplus: anywhere(nn.Softplus, beta=NUMBERS, threshold=st.sampled_from([1.0, 20.0])),
    nn.Hardsigmoid: anywhere(nn.Hardsigmoid, inplace=IN_PLACE),
    nn.Hardswish: anywhere(nn.Hardswish, inplace=IN_PLACE),
    nn.LogSigmoid: anywhere(nn.LogSigmoid),
    nn.Softmax: along_one_axis(nn.Softmax),
    nn.LogSoftmax: along_one_axis(nn.LogSoftmax),
    nn.Flatten: flatten(),
    nn.Unflatten: unflatten(),
    nn.Dropout: dropout(nn.Dropout, (1, 2, 3)),
    nn.Dropout1d: dropout(nn.Dropout1d, (2, 3)),
    nn.Dropout2d: dropout(nn.Dropout2d, (4,)),
    nn.Dropout3d: dropout(nn.Dropout3d, (4, 5)),
    nn.MaxPool1d: pool(nn.MaxPool1d, 1),
    nn.MaxPool2d: pool(nn.MaxPool2d, 2),
    nn.AvgPool1d: pool(nn.AvgPool1d, 1),
    nn.AvgPool2d: pool(nn.AvgPool2d, 2),
    nn.AdaptiveAvgPool1d: adaptive_pool(nn.AdaptiveAvgPool1d, 1),
    nn.AdaptiveAvgPool2d: adaptive_pool(nn.AdaptiveAvgPool2d, 2),
    nn.BatchNorm1d: batch_norm(nn.BatchNorm1d, (2, 3)),
    nn.BatchNorm2d: batch_norm(nn.BatchNorm2d, (4,)),
    nn.LayerNorm: layer_norm(),
    nn.GroupNorm: group_norm(),
}


def test_every_closed_form_of_torchs_modules_is_under_test():
    """Modules of apical's own, such as a gate, have tests beside those of what they are for."""
    assert STRATEGIES.keys() == {module for module in known_closed_forms() if module.__module__.startswith("torch.")}


def rates(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Numbers that also fall on the kinks of the activations, and on each other."""
    x = 4 * torch.randn(shape, generator=generator, dtype=torch.float64)
    on_grid = torch.rand(shape, generator=generator) < 0.5
    return torch.where(on_grid, (2 * x).round() / 2, x)


def by_autograd(module: nn.Module, x: Tensor, error: Tensor | None, seed: int) -> tuple[Tensor, Tensor, list[Tensor]]:
    own = x.clone().requires_grad_()
    torch.manual_seed(seed)
    y = module(own.clone())
    error = torch.ones_like(y) if error is None else error
    below, *found = torch.autograd.grad(y, [own, *module.parameters()], error, materialize_grads=True)
    return y.detach(), below, found


def by_step(step: Step, x: Tensor, error: Tensor, seed: int, learns: list[bool]) -> tuple[Tensor, Tensor, list[Any]]:
    torch.manual_seed(seed)
    with torch.no_grad():
        y, saved = step.forward(x.clone())
        answer = y.clone()
        below, found = step.backward(error, saved, learns)
    return answer, below, list(found)


def close(a: Tensor, b: Tensor) -> None:
    assert a.shape == b.shape
    # PyTorch itself rounds some constants to single precision.
    torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-10)


def compare(module: nn.Module, step_of: Callable[[nn.Module], Step | None], x: Tensor, seed: int) -> None:
    plain, closed = copy.deepcopy(module), copy.deepcopy(module)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        shape = copy.deepcopy(module)(x.clone()).shape
    error = torch.randn(shape, generator=generator, dtype=x.dtype)
    y, below, found = by_autograd(plain, x, error, seed)
    step = step_of(closed)
    assert step is not None
    assert list(step.parameters) == [name for name, _ in module.named_parameters()]
    learns = [bool(torch.rand((), generator=generator) < 0.7) for _ in step.parameters]
    answer, down, learned = by_step(step, x, error, seed, learns)
    close(answer, y)
    close(down, below)
    for wanted, own, expected in zip(learns, learned, found, strict=True):
        if wanted and own is not None:
            close(own, expected)
        else:
            assert own is None
            assert not (wanted and expected.count_nonzero())
    for (_, a), (_, b) in zip(closed.named_buffers(), plain.named_buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", STRATEGIES, ids=lambda kind: kind.__name__)
@settings(max_examples=25)
@given(data=st.data(), seed=SEEDS)
def test_a_closed_form_is_its_modules_derivative(kind, data, seed):
    module, shape = data.draw(STRATEGIES[kind])
    torch.manual_seed(seed)
    for parameter in module.parameters():
        nn.init.uniform_(parameter, 0.5, 2)
    module = module.double()
    x = rates(shape, torch.Generator().manual_seed(seed))
    compare(module, closed_form_of, x, seed)
    compare(module, LocalGraph, x, seed)


@settings(max_examples=10)
@given(shape=shapes(), seed=SEEDS)
def test_relu_may_overwrite_its_argument(shape, seed):
    x = rates(shape, torch.Generator().manual_seed(seed))
    step = closed_form_of(nn.ReLU())
    step.in_place = True
    y, below, _ = by_autograd(nn.ReLU(), x, None, seed)
    overwritten = x.clone()
    with torch.no_grad():
        answer, saved = step.forward(overwritten)
    assert answer.data_ptr() == overwritten.data_ptr()
    close(answer, y)
    close(step.backward(torch.ones_like(y), saved, [])[0], below)


@pytest.mark.parametrize(
    "module",
    [nn.Softmax(), nn.LogSoftmax(), nn.MaxPool1d(2, return_indices=True), nn.MaxPool2d(2, return_indices=True)],
    ids=repr,
)
def test_options_without_a_closed_form_have_none(module):
    assert closed_form_of(module) is None


class Spiny(nn.Module):
    """A neuron of the user's own, with parameters, one of which it does not use, and work in place."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([0.5, 1.5]))
        self.unused = nn.Parameter(torch.ones(3))
        self.inner = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        y.mul_(self.gain[0])
        return self.inner(y) + x.clamp_(-1, 1) * self.gain[1]


OTHERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "PReLU": (nn.PReLU(3), (2, 3, 4)),
    "RMSNorm": (nn.RMSNorm(4), (2, 3, 4)),
    "InstanceNorm": (nn.InstanceNorm1d(3, affine=True, track_running_stats=True), (2, 3, 4)),
    "BatchNorm3d": (nn.BatchNorm3d(2), (3, 2, 2, 2, 2)),
    "GLU": (nn.GLU(1), (3, 4)),
    "Softsign": (nn.Softsign(), (3, 4)),
    "Hardshrink": (nn.Hardshrink(), (3, 4)),
    "Threshold": (nn.Threshold(0.1, 2.0, inplace=True), (3, 4)),
    "RReLU": (nn.RReLU(), (3, 4)),
    "AlphaDropout": (nn.AlphaDropout(0.4), (3, 4)),
    "LPPool1d": (nn.LPPool1d(2, 2), (2, 3, 6)),
    "AdaptiveMaxPool2d": (nn.AdaptiveMaxPool2d(2), (2, 3, 5, 5)),
    "Upsample": (nn.Upsample(scale_factor=2), (2, 3, 4)),
    "PixelShuffle": (nn.PixelShuffle(2), (2, 4, 3, 3)),
    "ZeroPad2d": (nn.ZeroPad2d((1, 2, 0, 1)), (2, 3, 3, 3)),
    "LocalResponseNorm": (nn.LocalResponseNorm(2), (2, 4, 3)),
    "own": (Spiny(), (4, 3)),
    "sequence": (nn.Sequential(nn.PReLU(), nn.LayerNorm(4)), (3, 4)),
}


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", OTHERS)
def test_any_other_neuron_has_a_local_graph(name, training):
    module, shape = OTHERS[name]
    module = copy.deepcopy(module).double().train(training)
    assert closed_form_of(module) is None
    for seed in range(3):
        compare(module, LocalGraph, rates(shape, torch.Generator().manual_seed(seed)).abs() + 0.1, seed)


def test_a_local_graph_without_a_way_back():
    """Where the answer does not depend on the argument, nothing is handed back."""
    step = LocalGraph(nn.Identity(), torch.ones_like)
    answer, below, _ = by_step(step, torch.randn(3), torch.randn(3), 0, [])
    assert torch.equal(answer, torch.ones(3))
    assert torch.equal(below, torch.zeros(3))


def test_a_local_graph_of_several_arguments():
    a, b, unused = torch.randn(3), torch.randn(3), torch.arange(3)
    output, graph = local_graph(lambda a, b, unused: a * b, [a, b, unused])
    assert not output.requires_grad
    to_a, to_b = local_derivative(graph, torch.ones(3), ())[:2]
    assert torch.equal(to_a, b)
    assert torch.equal(to_b, a)


def test_a_closed_form_of_ones_own_can_be_registered():
    class Doubling(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    @closed_form(Doubling)
    class _Doubling(Step):
        def __init__(self, module: nn.Module) -> None:
            self.module = module

        def forward(self, x: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
            return 2 * x, ()

        def backward(self, grad: Tensor, saved: Any, learns: Any) -> tuple[Tensor, list[Tensor | None]]:
            return 2 * grad, []

    try:
        assert isinstance(closed_form_of(Doubling()), _Doubling)
        compare(Doubling(), closed_form_of, torch.randn(3, dtype=torch.float64), 0)
    finally:
        from apical.layers import steps

        del steps._CLOSED_FORMS[Doubling]


# Merges


@st.composite
def broadcast(draw: Callable[..., Any]) -> tuple[tuple[int, ...], ...]:
    """Two shapes that fit each other, with ones and missing axes where one is broadcast."""
    whole = draw(shapes())
    found = []
    for _ in range(2):
        some = tuple(size if draw(st.integers(0, 2)) else 1 for size in whole)
        found.append(some[draw(st.integers(0, len(some) - 1)) if draw(st.booleans()) else 0 :])
    return tuple(found)


@st.composite
def beside(draw: Callable[..., Any]) -> tuple[Concatenate, tuple[tuple[int, ...], ...]]:
    shape = draw(shapes())
    axis = draw(st.integers(0, len(shape) - 1))
    sizes = draw(st.lists(SIZES, min_size=2, max_size=4))
    parts = tuple((*shape[:axis], size, *shape[axis + 1 :]) for size in sizes)
    return Concatenate(draw(st.sampled_from([axis, axis - len(shape)]))), parts


MERGES = st.one_of(st.tuples(st.just(Sum()), broadcast()), st.tuples(st.just(Product()), broadcast()), beside())


@settings(max_examples=60)
@given(drawn=MERGES, seed=SEEDS)
def test_a_merge_is_its_functions_derivative(drawn, seed):
    merge, parts = drawn
    torch.manual_seed(seed)
    arriving = [torch.randn(part, dtype=torch.float64) for part in parts]
    functions = {Sum: torch.add, Product: torch.mul}
    function = functions.get(type(merge), lambda *tensors: torch.cat(tensors, getattr(merge, "axis", 0)))
    with torch.no_grad():
        merged, saved = merge.forward(arriving)
        expected, graph = Function(function, "any").forward(arriving)
        assert torch.equal(merged, expected)
        error = torch.randn_like(merged)
        down = merge.backward(error, saved)
        below = Function(function, "any").backward(error, graph)
    assert [part.shape for part in down] == [rate.shape for rate in arriving]
    for a, b in zip(down, below, strict=True):
        close(a, b)


def test_a_sum_may_have_many_parts():
    arriving = [torch.full((2,), float(part)) for part in range(4)]
    merged, saved = Sum().forward(arriving)
    assert merged.tolist() == [6.0, 6.0]
    assert len(Sum().backward(torch.ones(2), saved)) == 4


@pytest.mark.parametrize("merge", [Sum(), Product(), Concatenate(0)], ids=lambda merge: merge.name)
def test_a_merge_sends_back_the_types_that_arrived(merge):
    arriving = [torch.randn(3), torch.randn(3).bfloat16()]
    merged, saved = merge.forward(arriving)
    assert merged.dtype == torch.float32
    assert [signal.dtype for signal in merge.backward(merged, saved)] == [torch.float32, torch.bfloat16]


# Synapses


@st.composite
def linear(draw: Callable[..., Any]) -> Drawn:
    inputs, units = draw(SIZES), draw(SIZES)
    return nn.Linear(inputs, units, bias=draw(st.booleans())), (*draw(shapes(0, 3)), inputs)


@st.composite
def convolution(draw: Callable[..., Any], module: type[nn.Module], rank: int) -> Drawn:
    groups = draw(st.integers(1, 3))
    inputs, units = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    kernel = draw(st.tuples(*[st.integers(1, 3)] * rank))
    dilation = draw(st.tuples(*[st.integers(1, 2)] * rank))
    stride: tuple[int, ...] = draw(st.tuples(*[st.integers(1, 3)] * rank))
    padding: Any = draw(st.one_of(st.sampled_from(["same", "valid"]), st.tuples(*[st.integers(0, 2)] * rank)))
    if padding == "same":
        stride = (1,) * rank
    size = tuple(draw(st.integers(d * (k - 1) + 3, 9)) for k, d in zip(kernel, dilation, strict=True))
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    made = module(inputs, units, kernel, stride, padding, dilation, groups, bias=draw(st.booleans()), padding_mode=mode)
    batch = () if draw(st.integers(0, 3)) == 0 else (draw(st.integers(1, 3)),)
    return made, (*batch, inputs, *size)


SYNAPSES: dict[str, st.SearchStrategy[Drawn]] = {
    "nn.Linear": linear(),
    "nn.Conv1d": convolution(nn.Conv1d, 1),
    "nn.Conv2d": convolution(nn.Conv2d, 2),
}


def test_every_kind_of_synapse_is_under_test():
    assert SYNAPSES.keys() == set(known_kinds())


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("kind", SYNAPSES)
@settings(max_examples=60)
@given(data=st.data(), seed=SEEDS, wanted=st.tuples(st.booleans(), st.booleans()))
def test_synapses_drive_transport_and_learn_as_autograd_says(kind, data, seed, wanted):
    module, shape = data.draw(SYNAPSES[kind])
    torch.manual_seed(seed)
    module = module.double()
    synapses = kind_of(module)(module, "here")
    pre = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    drive = module(pre)
    post = torch.randn_like(drive)
    other = torch.randn_like(module.weight)
    below, *found = torch.autograd.grad(drive, [pre, *module.parameters()], post)
    by_other = torch.func.functional_call(module, {"weight": other}, (pre,))
    (below_other,) = torch.autograd.grad(by_other, [pre], post)
    with torch.no_grad():
        assert torch.equal(synapses.forward(pre), drive)
        close(synapses.transpose_product(post, synapses.weight, pre), below)
        close(synapses.transpose_product(post, other, pre), below_other)
        weight, bias = synapses.plasticity(pre, post, wanted[0], wanted[1] and synapses.bias is not None)
    if wanted[0]:
        close(weight, found[0])
    else:
        assert weight is None
    if wanted[1] and synapses.bias is not None:
        close(bias, found[1])
    else:
        assert bias is None
    kernel_axes = module.weight.dim() - 2
    assert synapses.units == drive.shape[synapses.unit_axis] == module.weight.shape[synapses.weight_unit_axis]
    assert synapses.unit_axis == -1 - kernel_axes
    assert synapses.sample_axes == 1 + kernel_axes


@pytest.mark.parametrize("kind", SYNAPSES)
@settings(max_examples=10)
@given(data=st.data(), seed=SEEDS)
def test_lengths_and_decay_are_the_units_own(kind, data, seed):
    module, _ = data.draw(SYNAPSES[kind])
    torch.manual_seed(seed)
    module = module.double()
    synapses = kind_of(module)(module, "here")
    lengths, decay = synapses.lengths(), torch.randn(synapses.units, dtype=torch.float64)
    for unit in range(synapses.units):
        own = [parameter.detach()[unit].flatten() for parameter in module.parameters()]
        close(lengths[unit], torch.cat(own).norm())
    own = (synapses.weight, synapses.bias)
    changes = tuple(None if parameter is None else torch.randn_like(parameter) for parameter in own)
    for parameter, change, decayed in zip(own, changes, synapses.decayed(changes, decay), strict=True):
        assert (decayed is None) == (parameter is None)
        for unit in range(synapses.units) if parameter is not None else ():
            close(decayed[unit], change[unit] + decay[unit] * parameter.detach()[unit])
    assert synapses.decayed((None, None), decay) == (None, None)


@pytest.mark.parametrize("kind", SYNAPSES)
@settings(max_examples=10)
@given(data=st.data())
def test_fans_count_synapses(kind, data):
    """Every unit has fan-in synapses, every input feeds fan-out of them: fewer where the kernel strides over it."""
    module, _ = data.draw(SYNAPSES[kind])
    synapses = kind_of(module)(module, "here")
    inputs = module.in_features if kind == "nn.Linear" else module.in_channels
    strides = math.prod(getattr(module, "stride", (1,)))
    assert synapses.fan_in * module.weight.shape[0] == module.weight.numel()
    assert synapses.fan_out * inputs * strides == pytest.approx(module.weight.numel())


@pytest.mark.parametrize(
    "kind", [kind for kind in STRATEGIES if kind not in (nn.Unflatten, nn.Identity)], ids=lambda kind: kind.__name__
)
@settings(max_examples=4)
@given(data=st.data(), seed=SEEDS)
def test_closed_forms_keep_types_under_autocast(kind, data, seed):
    """What comes back to a bfloat16 drive is bfloat16, whatever autocast made of the answer."""
    module, shape = data.draw(STRATEGIES[kind])
    x = torch.randn(shape).bfloat16()
    generator = torch.Generator().manual_seed(seed)
    with torch.autocast("cpu", torch.bfloat16):
        torch.manual_seed(seed)
        y = copy.deepcopy(module)(x.clone())
        step = closed_form_of(module)
        torch.manual_seed(seed)
        with torch.no_grad():
            answer, saved = step.forward(x.clone())
    assert answer.dtype == y.dtype
    torch.testing.assert_close(answer.float(), y.float(), rtol=0.02, atol=0.02)
    error = torch.randn(y.shape, generator=generator).to(y.dtype)
    below, _ = step.backward(error, saved, [True] * len(step.parameters))
    assert below.dtype == x.dtype
    assert below.shape == x.shape
