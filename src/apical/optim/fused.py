"""Adaptation's step in one pass over memory, by kernels that `torch.compile` makes: C++ on processors, Triton on GPUs.

One kernel serves a variant, a type of numbers and a kind of device; neither sizes nor options compile another.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from apical.errors import ConfigError

# Entries; smaller parameters are not worth a kernel, and the compiler would make special ones for a single entry and
# for as many entries as there are options.
LEAST = 16

Kernel = Callable[..., None]


def step(synapses: Sequence[Tensor], variant: str, options: Tensor) -> None:
    """Adapt and move the synapses of one parameter.

    Args:
        synapses: weight, gradient, adaptation and, for "sign", the last direction: of one type, (entries,), contiguous,
            at least LEAST entries.
        variant: of Adaptation.
        options: from `packed`, on the same device.

    Raises:
        ConfigError: the kernel could not be compiled. No weight has changed then.
    """
    from torch._dynamo.exc import TorchDynamoException  # loads the compiler, which only users of the fused form need

    try:
        # As tensors of their own: of views the compiler also guards what they are views of, whose shapes differ.
        _compiled(variant)(*(tensor.data for tensor in synapses), options)
    except TorchDynamoException as error:
        raise _refusal(error) from None  # hundreds of lines of the compiler's would hide the remedy
    for changed in (synapses[0], *synapses[2:]):
        increment_version(changed)  # which autograd cannot see in .data


def packed(
    keep: float, slope: float, relaxed: float, gain: float, rate: float, *, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """What the kernels multiply with, as a tensor, so that a schedule of `lr` does not compile again.

    Args:
        keep: weights first, which is weight decay.
        slope: gradients, inside the tanh.
        relaxed: adaptations.
        gain: the tanh.
        rate: the steps, with their sign.
        dtype: of the parameters.
        device: theirs.

    Returns:
        (5,), in the type in which the kernels calculate.
    """
    return torch.tensor([keep, slope, relaxed, gain, rate], dtype=_wide(dtype), device=device)


@functools.cache
def _compiled(variant: str) -> Kernel:
    # A function of its own for each variant: the compiler limits how many kernels it makes of one function.
    kernels: dict[str, Kernel] = {"base": _base, "abs": _abs, "step": _step, "sign": _sign}
    # The number of threads may change after the compilation.
    settings: dict[str, str | int | bool | Callable[..., Any]] = {"cpp.dynamic_threads": True}
    try:
        return cast(Kernel, torch.compile(kernels[variant], fullgraph=True, dynamic=True, options=settings))
    except RuntimeError as error:  # a version of Python or a platform that torch.compile does not serve
        raise _refusal(error) from None


def _refusal(error: Exception) -> ConfigError:
    cause = getattr(error, "inner_exception", error)
    reason = f"{type(cause).__name__}: {cause}".splitlines()[0]
    return ConfigError(
        f"Adaptation: fused is True, and torch.compile could not make its kernel ({reason}): use fused=False, or give "
        "it what it needs, which is a C++ compiler (g++ or clang, or the one in the variable CXX) on processors and "
        "Triton on GPUs"
    )


def _base(weight: Tensor, gradient: Tensor, adaptation: Tensor, options: Tensor) -> None:
    gradient = gradient.to(options.dtype)
    size = 1.0 + _adapt(adaptation, _push(gradient, options), options).abs()
    _move(weight, size * gradient, options)


def _abs(weight: Tensor, gradient: Tensor, adaptation: Tensor, options: Tensor) -> None:
    gradient = gradient.to(options.dtype)
    size = _adapt(adaptation, _push(gradient, options), options).abs()
    _move(weight, size * gradient, options)


def _step(weight: Tensor, gradient: Tensor, adaptation: Tensor, options: Tensor) -> None:
    gradient = gradient.to(options.dtype)
    _move(weight, _adapt(adaptation, _push(gradient, options), options), options)


def _sign(weight: Tensor, gradient: Tensor, adaptation: Tensor, direction: Tensor, options: Tensor) -> None:
    gradient = gradient.to(options.dtype)
    push = _push(gradient, options)
    coherent = (push * direction).clamp_min(0.0)  # |tanh| where the sign is that of the last step, else 0
    direction.copy_(push.sign())
    size = _adapt(adaptation, coherent, options).abs()
    _move(weight, size * gradient, options)


def _push(gradient: Tensor, options: Tensor) -> Tensor:
    x = options[1] * gradient
    return _rational_tanh(x) if x.device.type == "cpu" and x.dtype == torch.float32 else x.tanh()


def _adapt(adaptation: Tensor, push: Tensor, options: Tensor) -> Tensor:
    adapted = options[2] * adaptation + options[3] * push
    if adaptation.device.type == "cpu" and adaptation.dtype != torch.float16:  # as in the default form
        adapted = torch.where(adapted.abs() <= torch.finfo(adaptation.dtype).tiny, 0.0, adapted)
    adaptation.copy_(adapted)
    return adapted


def _move(weight: Tensor, step: Tensor, options: Tensor) -> None:
    weight.copy_(options[0] * weight + options[4] * step)


def _rational_tanh(x: Tensor) -> Tensor:
    """In single precision within 4e-7 of tanh, relative to it; with the compiler's own, a step takes twice as long.

    A quotient of polynomials whose greatest relative error between 0 and 8.3, where tanh rounds to 1, is 1e-8: found by
    least squares with repeated reweighting towards the largest errors.
    """
    x = x.clamp(-8.3, 8.3)
    square = x * x
    above = 1.4647843243672833e-08 * square + 2.150826717492884e-05
    above = above * square + 3.549157936631239e-03
    above = above * square + 1.3425861863864377e-01
    above = above * square + 9.999999907461826e-01
    below = 8.294960375621358e-07 * square + 3.373930297451988e-04
    below = below * square + 2.607990963962256e-02
    below = below * square + 4.675918672575738e-01
    below = below * square + 1.0
    return x * above / below


def _wide(dtype: torch.dtype) -> torch.dtype:
    """In what the kernels calculate: half precision is rounded once, at the end."""
    return torch.float64 if dtype == torch.float64 else torch.float32
