"""Elementwise functions for which PyTorch's own are slow on processors."""

import numpy as np
import torch
from torch import Tensor

_WORTH_IT = 2**10  # values; below, what the calls cost is more than what they save
_FEW_THREADS = 8  # NumPy has one, and takes a tenth of the time of one of PyTorch's


def tanh(x: Tensor, out: Tensor | None = None) -> Tensor:
    """The hyperbolic tangent; in single precision on a processor, and under no_grad, by NumPy's vector instructions.

    These differ from PyTorch's own by rounding: a unit or two in the last place.

    Args:
        x: any shape, device and type.
        out: memory for the values, under no_grad.
    """
    if x.numel() < _WORTH_IT or not (_single(x) and _by_numpy()):
        return torch.tanh(x, out=out)
    y = torch.empty_like(x) if out is None else out
    np.tanh(x.detach().numpy(), out=y.numpy())
    return y


def tanh_(x: Tensor, spare: Tensor | None = None) -> Tensor:
    """The hyperbolic tangent in place; in single precision on a processor in a tenth to half of PyTorch's own time.

    The tenth is NumPy's, with few threads. Relative to tanh itself it is exact to the rounding of single precision,
    tiny numbers included.

    Args:
        x: any shape, device and floating type.
        spare: memory of the same kind to calculate in, with many threads.

    Returns:
        `x`.
    """
    if not _single(x):
        return x.tanh_()
    if _by_numpy():
        values = x.detach().numpy()
        np.tanh(values, out=values)
        return x
    # exp(2x) - 1 over exp(2x) + 1, where numbers near zero keep all their digits; 80 is far from overflow.
    x.mul_(2).clamp_max_(80).expm1_()
    return x.div_(x.add(2) if spare is None else torch.add(x, 2, out=spare))


def _single(x: Tensor) -> bool:
    """Whether these are numbers, and no compiler's, of single precision on a processor."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.compiler.is_compiling()


def _by_numpy() -> bool:
    return torch.get_num_threads() <= _FEW_THREADS and not torch.is_grad_enabled()
