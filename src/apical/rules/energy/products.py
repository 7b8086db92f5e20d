"""A layer's products while a network settles: many of them, in states that may be complex.

Weights are real, and take the real and the imaginary part of a state alike. Products of single precision on processors
with AVX-512 are made by oneDNN, which PyTorch brings along and uses for convolutions anyway: its matrix products are
MKL's, and MKL does not use AVX-512 on processors that are not Intel's, which doubles the time. The results differ by
rounding. `torch.backends.mkldnn.enabled = False` turns it off.
"""

from __future__ import annotations

import torch
from torch import Tensor

from apical import compat
from apical.layers import Layer
from apical.layers.synapses import LinearSynapses

_WORTH_IT = 2**21  # multiplications; below, the call costs more than it saves


def by_onednn(layer: Layer, x: Tensor, weight: Tensor) -> bool:
    """Whether a product of (batch, ...) with a layer's weights is made by oneDNN."""
    return (
        x.dim() == 2
        and x.dtype == weight.dtype == torch.float32
        and x.numel() // x.shape[-1] * weight.numel() >= _WORTH_IT
        and isinstance(layer.synapses, LinearSynapses)
        and x.device.type == "cpu"
        # The operator has no derivative, and compilers make products of their own.
        and not (torch.is_grad_enabled() or torch.compiler.is_compiling())
        and compat.onednn_linear() is not None
    )


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product = compat.onednn_linear()
    assert product is not None
    return product(x, weight, bias)


def drive(layer: Layer, pre: Tensor) -> Tensor:
    """What a layer's synapses deliver: (batch, fan-in ...) to (batch, units ...), in the type of `pre`."""
    synapses = layer.synapses
    if by_onednn(layer, pre, synapses.weight):
        return _linear(pre, synapses.weight, synapses.bias)
    if not pre.is_complex():
        return synapses.forward(pre).to(pre.dtype)
    silent = synapses.forward(torch.zeros_like(pre.real[:1]))  # the bias is real
    return torch.complex(synapses.forward(pre.real.contiguous()), synapses.forward(pre.imag.contiguous()) - silent)


def carry(layer: Layer, post: Tensor, weight: Tensor, pre: Tensor) -> Tensor:
    """A signal at a layer's soma, carried down: (batch, units ...) to (batch, fan-in ...).

    Args:
        layer: whose synapses carry it.
        post: the signal.
        weight: what carries it.
        pre: real, for its shape and type alone.
    """
    if pre.dtype == post.dtype and by_onednn(layer, post, weight):
        return _linear(post, weight.t(), None)
    if not post.is_complex():
        return layer.synapses.transpose_product(post, weight, pre)
    return torch.complex(
        layer.synapses.transpose_product(post.real.contiguous(), weight, pre),
        layer.synapses.transpose_product(post.imag.contiguous(), weight, pre),
    )


def real_pairs(pre: Tensor, post: Tensor) -> tuple[Tensor, Tensor]:
    """Real pairs whose products add up to the real part of complex ones, and their posts to the real part of theirs.

    The second is what biases learn from: so the imaginary parts, which the products need, appear with both signs.
    """
    if not pre.is_complex():
        return pre, post.real.contiguous()
    if not post.is_complex():
        return pre.real, post
    return (
        torch.cat([pre.real, pre.imag, torch.zeros_like(pre.real)]),
        torch.cat([post.real, -post.imag, post.imag]),
    )
