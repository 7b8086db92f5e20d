"""Convolutions: synapses shared over space."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apical.layers.synapses import Synapses, as_type, synapses_of

aten = torch.ops.aten


class _ConvSynapses(Synapses):
    """Synapses shared over space: a kernel of weights at every position."""

    convolve: ClassVar[Callable[..., Tensor]]
    rank: ClassVar[int]

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__(module, name)
        settings: Any = module
        self.stride: list[int] = list(settings.stride)
        self.dilation: list[int] = list(settings.dilation)
        self.groups: int = settings.groups
        self.mode: str = settings.padding_mode
        # Of every axis, last axis first, before and after: the layout of F.pad.
        pads: list[int] = list(settings._reversed_padding_repeated_twice)
        before, after = pads[0::2], pads[1::2]
        zeros = self.mode == "zeros"
        # Zeros of the same number on both sides are the convolution's own business; all else is padded first.
        self.padding = before[::-1] if zeros and before == after else [0] * self.rank
        self.pads = pads if self.padding == [0] * self.rank and any(pads) else None
        self.mode = "constant" if zeros else self.mode
        self._no_output_padding = [0] * self.rank

    @property
    def fan_in(self) -> int:
        return self.weight[0].numel()

    @property
    def fan_out(self) -> float:
        weight = self.weight
        return weight.shape[0] * weight[0, 0].numel() / (self.groups * math.prod(self.stride))

    def _padded(self, pre: Tensor) -> Tensor:
        return pre if self.pads is None else F.pad(pre, self.pads, self.mode)

    def forward(self, pre: Tensor) -> Tensor:
        return type(self).convolve(
            self._padded(pre),
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )

    def _backward(
        self, post: Tensor, pre: Tensor, weight: Tensor, units: list[int] | None, wanted: list[bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        result: tuple[Tensor | None, Tensor | None, Tensor | None] = aten.convolution_backward.default(
            post,
            pre,
            as_type(weight, post.dtype),
            units,
            self.stride,
            self.padding,
            self.dilation,
            False,
            self._no_output_padding,
            self.groups,
            wanted,
        )
        return result

    def transpose_product(self, post: Tensor, weight: Tensor, pre: Tensor) -> Tensor:
        if pre.dim() == self.rank + 1:
            return self.transpose_product(post[None], weight, pre[None])[0]
        padded = as_type(self._padded(pre), post.dtype)
        below = self._backward(post, padded, weight, None, [True, False, False])[0]
        assert below is not None
        below = as_type(below, pre.dtype)
        if self.pads is None:
            return below
        # Padding is linear: its transpose is its own backward, wherever it is evaluated.
        transpose: Any = torch.func.vjp(self._padded, pre)[1]
        result: Tensor = transpose(below)[0]
        return result

    def plasticity(self, pre: Tensor, post: Tensor, weight: bool, bias: bool) -> tuple[Tensor | None, Tensor | None]:
        if pre.dim() == self.rank + 1:
            pre, post = pre[None], post[None]
        padded = as_type(self._padded(pre), post.dtype)
        units = [post.shape[1]] if bias else None
        _, to_weight, to_bias = self._backward(post, padded, self.weight, units, [False, weight, bias])
        return to_weight, to_bias

    def patches(self, pre: Tensor) -> Tensor:
        padded = F.pad(self._padded(pre), [side for own in reversed(self.padding) for side in (own, own)])
        line = [1] * (2 - self.rank)  # a line is a plane of height 1
        plane = padded.view(len(padded), padded.shape[1], *line, *padded.shape[2:])
        kernel, dilation, stride = ((*line, *own) for own in (self.weight.shape[2:], self.dilation, self.stride))
        found = F.unfold(plane, kernel, dilation, stride=stride)
        return found.view(len(pre), self.groups, -1, found.shape[-1])

    def unfold(self, pre: Tensor) -> Tensor:
        return self.patches(pre)

    def sample_updates(self, pre: Tensor, post: Tensor, weight: bool, bias: bool) -> tuple[Tensor | None, ...]:
        post = post.flatten(2)
        grouped = post.view(len(post), self.groups, -1, post.shape[-1])
        return (
            (grouped @ as_type(pre, post.dtype).transpose(2, 3)).view(-1, *self.weight.shape) if weight else None,
            post.sum(2) if bias else None,
        )


@synapses_of(nn.Conv1d)
class Conv1dSynapses(_ConvSynapses):
    """Synapses shared along a line: (batch, channels, length)."""

    convolve = F.conv1d
    rank = 1
    unit_axis = -2
    sample_axes = 2


@synapses_of(nn.Conv2d)
class Conv2dSynapses(_ConvSynapses):
    """Synapses shared over a plane: (batch, channels, height, width)."""

    convolve = F.conv2d
    rank = 2
    unit_axis = -3
    sample_axes = 3
