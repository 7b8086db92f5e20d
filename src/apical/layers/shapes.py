"""Closed forms of pooling, dropout and changes of shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apical.layers.steps import ParameterFree, Saved, closed_form
from apical.layers.traits import Traits

aten = torch.ops.aten

SHAPE = Traits(holomorphic=True, moves=True)
_MASK = Traits(keeps_shape=True, holomorphic=True, masks=True, random=True, replays=True)
_MEAN = Traits(pools="mean")


def _pair(value: int | tuple[int, ...]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _single(value: int | tuple[int, ...]) -> int:
    return value if isinstance(value, int) else value[0]


@closed_form(nn.Flatten)
class Flatten(ParameterFree):
    """Some axes into one."""

    traits = SHAPE

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        return x.flatten(self.module.start_dim, self.module.end_dim), (x.shape,)

    def derivative(self, grad: Tensor, *saved: Any) -> Tensor:
        return grad.reshape(saved[0])


@closed_form(nn.Unflatten)
class Unflatten(ParameterFree):
    """One axis into some."""

    traits = SHAPE

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        return self.module(x), (x.shape,)

    def derivative(self, grad: Tensor, *saved: Any) -> Tensor:
        return grad.reshape(saved[0])


@closed_form(nn.Dropout)
class Dropout(ParameterFree):
    """Some rates silenced at random; draws from torch's own generator, as in plain PyTorch.

    Attributes:
        mode: the module whose training mode counts.
    """

    traits = _MASK

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.mode = module

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        if not self.mode.training or self.module.p == 0:
            return x, ()
        if self.module.p == 1:
            return torch.zeros_like(x), (torch.zeros_like(x, dtype=torch.bool),)
        y, mask = aten.native_dropout.default(x, self.module.p, True)
        return y, (mask,)

    def derivative(self, grad: Tensor, *saved: Any) -> Tensor:
        if not saved:
            return grad
        scale = 0.0 if self.module.p == 1 else 1 / (1 - self.module.p)
        below: Tensor = aten.native_dropout_backward.default(grad, saved[0], scale)
        return below

    def refire(self, x: Tensor, saved: Saved, *, anchored: bool) -> tuple[Tensor, Saved]:
        return self.derivative(x, *saved), saved  # a mask is linear: it is its own derivative


@closed_form(nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
class ChannelDropout(ParameterFree):
    """Whole channels silenced at random.

    Attributes:
        mode: the module whose training mode counts.
    """

    traits = _MASK

    _FUNCTIONS: ClassVar[dict[type[nn.Module], tuple[Callable[..., Tensor], int]]] = {
        nn.Dropout1d: (F.dropout1d, 1),
        nn.Dropout2d: (F.dropout2d, 2),
        nn.Dropout3d: (F.dropout3d, 3),
    }

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.mode = module

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        if not self.mode.training or self.module.p == 0:
            return x, ()
        # The mask is what PyTorch's own function makes of ones, so that its draws are PyTorch's own.
        function, axes = self._FUNCTIONS[type(self.module)]
        ones = x.new_ones(x.shape[: x.dim() - axes] + (1,) * axes)
        mask = function(ones, self.module.p, True)
        return x * mask, (mask,)

    def derivative(self, grad: Tensor, *saved: Any) -> Tensor:
        return grad * saved[0] if saved else grad

    def refire(self, x: Tensor, saved: Saved, *, anchored: bool) -> tuple[Tensor, Saved]:
        return self.derivative(x, *saved), saved  # a mask is linear: it is its own derivative


@closed_form(nn.MaxPool2d)
def _max_pool_2d(module: nn.MaxPool2d) -> MaxPool | None:
    return None if module.return_indices else MaxPool(module, 2)


@closed_form(nn.MaxPool1d)
def _max_pool_1d(module: nn.MaxPool1d) -> MaxPool | None:
    return None if module.return_indices else MaxPool(module, 1)


class MaxPool(ParameterFree):
    """The strongest of each patch; a line is a plane of height one."""

    def __init__(self, module: nn.Module, rank: int) -> None:
        super().__init__(module)
        options: Any = module
        self.flat = rank == 1
        stride = options.kernel_size if options.stride is None else options.stride
        if self.flat:
            self.options: tuple[Any, ...] = (
                [1, _single(options.kernel_size)],
                [1, _single(stride)],
                [0, _single(options.padding)],
                [1, _single(options.dilation)],
                options.ceil_mode,
            )
        else:
            self.options = (
                _pair(options.kernel_size),
                _pair(stride),
                _pair(options.padding),
                _pair(options.dilation),
                options.ceil_mode,
            )
        sizes, strides, _, dilation, _ = self.options
        apart = all(stride >= size for size, stride in zip(sizes, strides, strict=True)) and set(dilation) == {1}
        self.traits = Traits(pools="max", disjoint=apart)

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        plane = x.unsqueeze(-2) if self.flat else x
        y, indices = aten.max_pool2d_with_indices.default(plane, *self.options)
        return (y.squeeze(-2) if self.flat else y), (x, indices)

    def derivative(self, grad: Tensor, *saved: Any) -> Tensor:
        x, indices = saved
        backward = aten.max_pool2d_with_indices_backward.default
        if self.flat:
            line: Tensor = backward(grad.unsqueeze(-2), x.unsqueeze(-2), *self.options, indices)
            return line.squeeze(-2)
        below: Tensor = backward(grad, x, *self.options, indices)
        return below


@closed_form(nn.AvgPool2d)
class AvgPool2d(ParameterFree):
    """The mean of each patch of a plane."""

    traits = _MEAN

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        return self.module(x), (x,)

    def derivative(self, grad: Tensor, *saved: Any) -> Tensor:
        module = self.module
        below: Tensor = aten.avg_pool2d_backward.default(
            grad,
            saved[0],
            _pair(module.kernel_size),
            _pair(module.stride),
            _pair(module.padding),
            module.ceil_mode,
            module.count_include_pad,
            module.divisor_override,
        )
        return below


@closed_form(nn.AvgPool1d)
class AvgPool1d(ParameterFree):
    """The mean of each patch of a line, taken as a plane of height one."""

    traits = _MEAN

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        return self.module(x), (x,)

    def derivative(self, grad: Tensor, *saved: Any) -> Tensor:
        module = self.module
        below: Tensor = aten.avg_pool2d_backward.default(
            grad.unsqueeze(-2),
            saved[0].unsqueeze(-2),
            [1, _single(module.kernel_size)],
            [1, _single(module.stride)],
            [0, _single(module.padding)],
            module.ceil_mode,
            module.count_include_pad,
            None,
        )
        return below.squeeze(-2)


@closed_form(nn.AdaptiveAvgPool2d)
class AdaptiveAvgPool2d(ParameterFree):
    """The mean of each patch, for a wanted number of patches."""

    traits = _MEAN

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        return self.module(x), (x,)

    def derivative(self, grad: Tensor, *saved: Any) -> Tensor:
        x = saved[0]
        if grad.shape[-2:] == (1, 1):
            spread: Tensor = (grad / (x.shape[-1] * x.shape[-2])).expand_as(x)
            return spread
        below: Tensor = aten._adaptive_avg_pool2d_backward.default(grad, x)
        return below


@closed_form(nn.AdaptiveAvgPool1d)
class AdaptiveAvgPool1d(ParameterFree):
    """The mean of each patch of a line, for a wanted number of patches."""

    traits = _MEAN

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        return F.adaptive_avg_pool1d(x, self.module.output_size), (x,)

    def derivative(self, grad: Tensor, *saved: Any) -> Tensor:
        below: Tensor = aten._adaptive_avg_pool2d_backward.default(grad.unsqueeze(-2), saved[0].unsqueeze(-2))
        return below.squeeze(-2)
