"""A layer's products where states may be complex: its weights are real, and take either part alike."""

from __future__ import annotations

import torch
from torch import Tensor

from apical.layers import Layer


def drive(layer: Layer, pre: Tensor) -> Tensor:
    """What a layer's synapses deliver: (batch, fan-in ...) to (batch, units ...), in the type of `pre`."""
    synapses = layer.synapses
    if not pre.is_complex():
        return synapses.drive(pre).to(pre.dtype)
    silent = synapses.drive(torch.zeros_like(pre.real[:1]))  # the bias is real
    return torch.complex(synapses.drive(pre.real.contiguous()), synapses.drive(pre.imag.contiguous()) - silent)


def carry(layer: Layer, post: Tensor, weight: Tensor, pre: Tensor) -> Tensor:
    """A signal at a layer's soma, carried down: (batch, units ...) to (batch, fan-in ...).

    Args:
        layer: whose synapses carry it.
        post: the signal.
        weight: what carries it.
        pre: real, for its shape and type alone.
    """
    if not post.is_complex():
        return layer.synapses.transport(post, weight, pre)
    return torch.complex(
        layer.synapses.transport(post.real.contiguous(), weight, pre),
        layer.synapses.transport(post.imag.contiguous(), weight, pre),
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
