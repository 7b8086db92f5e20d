"""The two products of synapses while a network settles: many of them, with states that may be complex.

Weights are real, and multiply the real and the imaginary part of a state in the same way. Products in single precision
on processors with AVX-512 are computed by oneDNN, which PyTorch contains and uses for convolutions: its matrix products
are MKL's, and MKL does not use AVX-512 on processors that are not Intel's, which doubles the time. The results differ
by rounding. `torch.backends.mkldnn.enabled = False` turns it off.
"""

import torch
from torch import Tensor

from apical import compat
from apical.layers.synapses import LinearSynapses, Synapses

_WORTH_IT = 2**21  # multiplications; below, the call costs more than it saves


def by_onednn(synapses: Synapses, x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN computes a product of (batch, ...) with the weights of synapses."""
    return (
        x.dim() == 2
        and x.dtype == weight.dtype == torch.float32
        and x.numel() // x.shape[-1] * weight.numel() >= _WORTH_IT
        and isinstance(synapses, LinearSynapses)
        and x.device.type == "cpu"
        # The operator has no derivative, and compilers make products of their own.
        and not (torch.is_grad_enabled() or torch.compiler.is_compiling())
        and compat.onednn_linear() is not None
    )


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product = compat.onednn_linear()
    assert product is not None
    return product(x, weight, bias)


def forward(synapses: Synapses, pre: Tensor) -> Tensor:
    """The drive: (batch, fan-in ...) to (batch, units ...), in the type of `pre`."""
    if by_onednn(synapses, pre, synapses.weight):
        return _linear(pre, synapses.weight, synapses.bias)
    if not pre.is_complex():
        drive = synapses.forward(pre)
        return drive if drive.dtype == pre.dtype else drive.to(pre.dtype)
    bias_alone = synapses.forward(torch.zeros_like(pre.real[:1]))  # it is real
    return torch.complex(synapses.forward(pre.real.contiguous()), synapses.forward(pre.imag.contiguous()) - bias_alone)


def transpose_product(synapses: Synapses, post: Tensor, weight: Tensor, pre: Tensor) -> Tensor:
    """Carry a signal at the soma down: (batch, units ...) to (batch, fan-in ...).

    Args:
        synapses: through which it is carried.
        post: the signal.
        weight: of the shape of the synapses' own.
        pre: real, for its shape and type alone.
    """
    if pre.dtype == post.dtype and by_onednn(synapses, post, weight):
        return _linear(post, weight.t(), None)
    if not post.is_complex():
        return synapses.transpose_product(post, weight, pre)
    return torch.complex(
        synapses.transpose_product(post.real.contiguous(), weight, pre),
        synapses.transpose_product(post.imag.contiguous(), weight, pre),
    )


def real_pairs(pre: Tensor, post: Tensor) -> tuple[Tensor, Tensor]:
    """Real pairs whose products sum to the real part of the complex pairs' products, and their posts likewise.

    Biases learn from the sum of the posts: so the imaginary parts, which the products need, appear with both signs.
    """
    if not pre.is_complex():
        return pre, post.real.contiguous()
    if not post.is_complex():
        return pre.real, post
    return (
        torch.cat([pre.real, pre.imag, torch.zeros_like(pre.real)]),
        torch.cat([post.real, -post.imag, post.imag]),
    )
