"""Elementwise functions for which PyTorch's own are slow on processors, and whether oneDNN's kernels are there.

PyTorch brings oneDNN along and uses it for convolutions anyway. Its other products of matrices and its tanh are MKL's,
and MKL does not use AVX-512 on processors that are not Intel's. `torch.backends.mkldnn.enabled = False` turns oneDNN
off.
"""

from __future__ import annotations

import torch
from torch import Tensor

_AVX512: bool = (
    torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
)
_WORTH_IT = 2**12  # values; below, what the calls cost is more than what they save


def onednn_serves(x: Tensor) -> bool:
    """Whether oneDNN's kernels can take a tensor: single precision on a processor with AVX-512, and no derivative."""
    return (
        _AVX512
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        # The kernels have no derivative, and the compiler makes its own.
        and not (torch.is_grad_enabled() or torch.compiler.is_compiling())
        and bool(torch.backends.mkldnn.enabled)
    )


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent; where oneDNN's serves, in a third of PyTorch's own time and with its accuracy.

    The two differ by rounding.

    Args:
        x: any shape, device and type.
    """
    if x.numel() < _WORTH_IT or x.dim() > 5 or not (onednn_serves(x) and x.is_contiguous()):
        return torch.tanh(x)
    y: Tensor = x.to_mkldnn().tanh().to_dense()
    return y


def tanh_(x: Tensor, spare: Tensor | None = None) -> Tensor:
    """The hyperbolic tangent in place; in single precision on a processor in half of PyTorch's own time.

    Relative to tanh itself it is exact to the rounding of single precision, tiny numbers included.

    Args:
        x: any shape, device and floating type.
        spare: memory of the same kind to calculate in.

    Returns:
        `x`.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return x.tanh_()
    # exp(2x) - 1 over exp(2x) + 1, where numbers near zero keep all their digits; 80 is far from overflow.
    x.mul_(2).clamp_max_(80).expm1_()
    return x.div_(x.add(2) if spare is None else torch.add(x, 2, out=spare))
