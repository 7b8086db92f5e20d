"""The fused form of Adaptation: its results are the default form's, it compiles once, and says so where it cannot."""

import numpy as np
import pytest
import torch
from torch import nn

from apical.errors import ConfigError
from apical.optim import Adaptation, fused

# Of PyTorch's compiler, while it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")

OPTIONS = {"lr": 0.05, "gain": 0.3, "slope": 2.0, "relaxation": 0.2}
SHAPES = [(10, 11), (37,), (), (5,), (0,), (4, 3, 2, 2)]  # below 16 entries there is no kernel


@pytest.fixture(scope="module")
def compiler():
    # Here, because importing the compiler takes seconds, which the collection of tests should not.
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return get_cpp_compiler()
    except InvalidCxxCompiler:
        pytest.skip("the fused form needs a C++ compiler, and none was found")


def parameters(dtype, shapes=SHAPES):
    generator = torch.Generator().manual_seed(0)
    made = [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes]
    images = torch.randn(2, 3, 4, 5, generator=generator, dtype=dtype)
    made.append(nn.Parameter(images.to(memory_format=torch.channels_last)))
    made.append(nn.Parameter(torch.randn(6, 20, generator=generator, dtype=dtype)[:, ::2]))
    return made


def trained(held, optimizer, steps=10, seed=1):
    """With gradients of every scale, signs that persist, zeros, a schedule of lr, and once without a gradient."""
    generator = np.random.default_rng(seed)
    scales = [10.0 ** generator.uniform(-3, 1, parameter.shape) for parameter in held]
    for step in range(steps):
        for scale, parameter in zip(scales, held, strict=True):
            signs = generator.choice([-1.0, 0.0, 1.0, 1.0, 1.0], parameter.shape)
            value = torch.as_tensor(signs * scale * (step + 1), dtype=parameter.dtype)
            parameter.grad = torch.empty_like(parameter).copy_(value)
        if step == 3:
            held[0].grad = None
        for group in optimizer.param_groups:
            group["lr"] *= 0.9
        optimizer.step()
    return optimizer


def assert_same(held, optimizer, others, other, tolerance):
    for one, two in zip(held, others, strict=True):
        torch.testing.assert_close(one, two, rtol=tolerance, atol=tolerance)
        assert optimizer.state[one].keys() == other.state[two].keys()
        for name, value in optimizer.state[one].items():
            torch.testing.assert_close(value, other.state[two][name], rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("variant", ["base", "abs", "step", "sign"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_equals_the_default_form(variant, dtype, tolerance):
    for switches in ({}, {"weight_decay": 0.1, "maximize": True}):
        ours, theirs = parameters(dtype), parameters(dtype)
        fast = trained(ours, Adaptation(ours, **OPTIONS, variant=variant, fused=True, **switches))
        plain = trained(theirs, Adaptation(theirs, **OPTIONS, variant=variant, **switches))
        assert_same(ours, fast, theirs, plain, tolerance)


def test_rational_tanh_is_exact_to_single_precision():
    x = torch.cat([torch.logspace(-37, 2, 100_000), torch.linspace(0, 12, 100_000)])
    x = torch.cat([x, -x, torch.tensor([0.0, np.inf, -np.inf])])
    torch.testing.assert_close(fused._rational_tanh(x).double(), x.double().tanh(), rtol=4e-7, atol=0.0)


@pytest.mark.usefixtures("compiler")
def test_half_precision_is_rounded_once_a_step():
    ours, theirs = parameters(torch.bfloat16), parameters(torch.bfloat16)
    fast = trained(ours, Adaptation(ours, **OPTIONS, fused=True))
    plain = trained(theirs, Adaptation(theirs, **OPTIONS))
    assert_same(ours, fast, theirs, plain, 0.1)


@pytest.mark.usefixtures("compiler")
def test_neither_shapes_nor_options_compile_again():
    held = parameters(torch.float32)
    trained(held, Adaptation(held, **OPTIONS, fused=True), steps=1)
    with torch.compiler.set_stance("fail_on_recompile"):
        for shape in [(3, 17), (1000,), (5, 4, 3, 2, 2), (100, 100)]:
            others = parameters(torch.float32, [shape])
            groups = [{"params": others[:1], "slope": 3.0, "maximize": True}, {"params": others[1:]}]
            optimizer = Adaptation(groups, lr=1, gain=0, slope=1, relaxation=1, weight_decay=0.01, fused=True)
            trained(others, optimizer, steps=5)


@pytest.mark.usefixtures("compiler")
def test_groups_state_and_forms_mix():
    ours, theirs = parameters(torch.float64), parameters(torch.float64)
    fast, plain = (
        Adaptation([{"params": held[:3], "fused": kind}, {"params": held[3:], "gain": 0.1}], **OPTIONS)
        for held, kind in ((ours, True), (theirs, False))
    )
    trained(ours, fast)
    resumed = Adaptation([{"params": ours[:3]}, {"params": ours[3:]}], **OPTIONS)
    resumed.load_state_dict(fast.state_dict())
    assert [group["fused"] for group in resumed.param_groups] == [True, None]
    trained(ours, resumed, seed=2)
    trained(theirs, trained(theirs, plain), seed=2)
    assert_same(ours, resumed, theirs, plain, 1e-12)


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_denormal_adaptations_become_0_and_nan_stays(dtype):
    parameter = nn.Parameter(torch.ones(33, dtype=dtype))
    optimizer = Adaptation([parameter], **OPTIONS, fused=True)
    parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    tiny = torch.finfo(dtype).tiny
    adapted = optimizer.state[parameter]["adaptation"]
    adapted.fill_(1.1 * tiny)[::2] = -4 * tiny
    parameter.grad[-1] = torch.nan
    optimizer.step()
    assert (adapted[1::2] == 0).all()
    torch.testing.assert_close(adapted[:-1:2] / tiny, torch.full_like(adapted[:-1:2], -4 * np.exp(-0.2)))
    assert adapted.isnan().tolist() == parameter.isnan().tolist() == [False] * 32 + [True]


@pytest.mark.usefixtures("compiler")
def test_autograd_notices_that_weights_changed():
    parameter = nn.Parameter(torch.ones(40))
    optimizer = Adaptation([parameter], **OPTIONS, fused=True)
    loss = (parameter**2).sum()
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_without_a_compiler_the_error_names_the_remedy(monkeypatch):
    from torch._dynamo.exc import BackendCompilerFailed
    from torch._inductor.exc import InvalidCxxCompiler

    def missing(variant):
        def kernel(*arguments):
            raise BackendCompilerFailed(None, InvalidCxxCompiler(), None)

        return kernel

    monkeypatch.setattr(fused, "_compiled", missing)
    parameter = nn.Parameter(torch.ones(40))
    optimizer = Adaptation([parameter], **OPTIONS, fused=True)
    parameter.grad = torch.ones_like(parameter)
    with pytest.raises(ConfigError, match=r"InvalidCxxCompiler: No working C\+\+ compiler.*use fused=False") as caught:
        optimizer.step()
    assert caught.value.__suppress_context__
    assert (parameter == 1).all()
    optimizer.param_groups[0]["fused"] = False
    optimizer.step()
    assert (parameter < 1).all()


def test_where_torch_compile_cannot_serve_at_all(monkeypatch):
    def refuses(*arguments, **options):
        raise RuntimeError("torch.compile is not supported here")

    monkeypatch.setattr(torch, "compile", refuses)
    fused._compiled.cache_clear()
    parameter = nn.Parameter(torch.ones(40))
    optimizer = Adaptation([parameter], **OPTIONS, fused=True)
    parameter.grad = torch.ones_like(parameter)
    with pytest.raises(ConfigError, match=r"not supported here.*use fused=False"):
        optimizer.step()


def test_fused_and_foreach_exclude_each_other():
    held = [nn.Parameter(torch.ones(1))]
    with pytest.raises(ConfigError, match="fused and foreach are both True"):
        Adaptation(held, **OPTIONS, fused=True, foreach=True)
    with pytest.raises(ConfigError, match="fused and foreach are both True"):
        Adaptation([{"params": held, "fused": True}], **OPTIONS, foreach=True)
    with pytest.raises(ConfigError, match="fused is 'yes'"):
        Adaptation(held, **OPTIONS, fused="yes")
    assert Adaptation(held, **OPTIONS, fused=True, foreach=False).defaults["fused"]


def test_states_of_before_the_fused_form_load():
    held = [nn.Parameter(torch.ones(3))]
    state = Adaptation(held, **OPTIONS).state_dict()
    del state["param_groups"][0]["fused"]
    optimizer = Adaptation(held, **OPTIONS)
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["fused"] is None
