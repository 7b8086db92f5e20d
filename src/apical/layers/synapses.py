"""Synapses: the weighted modules, and the three operations of every kind of synapse.

- `forward`: the rate that arrives becomes the drive of the soma.
- `transpose_product`: a signal at the soma is carried down through weights of the same shape. The weights are an
  argument: the synapses' own give backpropagation, fixed random ones give feedback alignment.
- `plasticity`: the update of the synapses from their own two ends, summed over the batch, from the rate that arrives
  (`pre`) and the teaching signal at the soma (`post`) alone. `decayed` adds what a synapse loses in proportion to its
  own strength.

A further kind is one class and one entry in the table: `@synapses_of(nn.MyModule)`.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apical.layers.effective import EffectiveWeights, is_plain

aten = torch.ops.aten


class Synapses(ABC):
    """Weights between two populations, the module that says how they connect, and their plasticity.

    Args:
        module: says how the synapses connect (their shape, a convolution's stride ...), and holds the weights.
        name: its path in the model.

    Attributes:
        holder: holds the weights: `module`, `EffectiveWeights` where the module computes them, or a rule for weights of
            its own (see `like`).
        weight_name: the weight's name in the holder.
        bias_name: the bias' name in the holder, or None.
        weight_index: index of the weight among the circuit's parameters; None if it is not learned.
        bias_index: the same for the bias.
        unit_axis: the axis of a drive along which the units stand.
        weight_unit_axis: the axis of the weight along which the units stand.
        sample_axes: how many axes the rate of one sample has.
    """

    unit_axis: ClassVar[int] = -1
    weight_unit_axis: ClassVar[int] = 0
    sample_axes: ClassVar[int] = 1

    def __init__(self, module: nn.Module, name: str) -> None:
        self.module = module
        self.holder = module if is_plain(module) else EffectiveWeights(module, name)
        self.name = name
        self.weight_name = "weight"
        self.bias_name: str | None = "bias"
        self.weight_index: int | None = None
        self.bias_index: int | None = None

    def like(self, holder: nn.Module, weight_name: str, bias_name: str | None = None) -> Self:
        """Synapses that connect in the same way, with the weights of another module."""
        other = copy.copy(self)
        other.holder, other.weight_name, other.bias_name = holder, weight_name, bias_name
        other.weight_index = other.bias_index = None
        return other

    @property
    def weight(self) -> Tensor:
        """The synaptic weights: a parameter of the holder, or a buffer."""
        weight: Tensor | None = self.holder._parameters.get(self.weight_name)
        if weight is None:
            weight = self.holder._buffers[self.weight_name]
        assert weight is not None
        return weight

    @property
    def bias(self) -> Tensor | None:
        """The soma's own drive, or None."""
        return None if self.bias_name is None else self.holder._parameters[self.bias_name]

    @property
    def units(self) -> int:
        """How many units the synapses drive, at each position where weights are shared."""
        return self.weight.shape[self.weight_unit_axis]

    def per_unit(self, values: Tensor, weight: Tensor) -> Tensor:
        """Values of the units, (units,), as they multiply a weight or a bias."""
        if weight.dim() == 1:
            return values
        return values.view([-1 if axis == self.weight_unit_axis else 1 for axis in range(weight.dim())])

    def other_axes(self, drive: Tensor) -> list[int]:
        """The axes of a drive but that of the units: batch and positions."""
        return [axis for axis in range(drive.dim()) if axis != self.unit_axis % drive.dim()]

    @property
    @abstractmethod
    def fan_in(self) -> int:
        """How many synapses one unit has."""

    @property
    @abstractmethod
    def fan_out(self) -> float:
        """How many synapses one input feeds, on average."""

    @abstractmethod
    def forward(self, pre: Tensor) -> Tensor:
        """The drive: (batch, fan-in ...) to (batch, units ...)."""

    @abstractmethod
    def transpose_product(self, post: Tensor, weight: Tensor, pre: Tensor) -> Tensor:
        """Carry a signal at the soma down through the transpose of `weight`.

        Args:
            post: (batch, units ...), at the soma.
            weight: of the shape of the synapses' own weight, which gives backpropagation; any other gives feedback of
                its own.
            pre: (batch, fan-in ...), for its shape and type alone.

        Returns:
            (batch, fan-in ...)
        """

    @abstractmethod
    def plasticity(self, pre: Tensor, post: Tensor, weight: bool, bias: bool) -> tuple[Tensor | None, Tensor | None]:
        """The sum over samples and positions of `post` times `pre`, for the weight and for the bias, where wanted."""

    def decayed(
        self, changes: tuple[Tensor | None, Tensor | None], decay: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """Updates of weight and bias, and what each synapse loses in proportion to its own strength.

        Args:
            changes: of the weight and of the bias, None where it does not learn.
            decay: (units,), or (units, units): of each unit, the parts of the other units' strengths

        Returns:
            `change + decay * own` for both
        """
        weight, bias = (
            None if change is None or own is None else self._decayed(change, _as(decay, change.dtype), own)
            for change, own in zip(changes, (self.weight, self.bias), strict=True)
        )
        return weight, bias

    def _decayed(self, change: Tensor, decay: Tensor, own: Tensor) -> Tensor:
        own = _as(own, change.dtype)
        if decay.dim() == 1:
            return torch.addcmul(change, self.per_unit(decay, own), own)
        axis = self.weight_unit_axis if own.dim() > 1 else 0
        lost: Tensor = torch.tensordot(decay, own, ([1], [axis]))
        return change + lost.movedim(0, axis)

    def lengths(self) -> Tensor:
        """The length of every unit's weights, the bias included: (units,)."""
        squares = self.weight.detach().movedim(self.weight_unit_axis, 0).flatten(1).square().sum(1)
        bias = self.bias
        return (squares if bias is None else squares + bias.detach().square()).sqrt()


_KINDS: dict[type[nn.Module], type[Synapses]] = {}
_Kind = TypeVar("_Kind", bound=type[Synapses])


def synapses_of(module: type[nn.Module]) -> Callable[[_Kind], _Kind]:
    """Register a class as the synapses of a module type."""

    def register(kind: _Kind) -> _Kind:
        _KINDS[module] = kind
        return kind

    return register


def kind_of(module: nn.Module) -> type[Synapses] | None:
    """The kind of synapse that this module is, or None.

    A subclass counts as its base while it keeps the base's forward: with a forward of its own, in its class or as an
    attribute of the module, it may compute anything.
    """
    if not replaced_methods(module).isdisjoint(("forward", "_conv_forward")):
        return None
    for base in type(module).__mro__:
        kind = _KINDS.get(base)
        if kind is not None and type(module).forward is getattr(base, "forward", None):
            return kind
    return None


def replaced_methods(module: nn.Module) -> set[str]:
    """The methods that were replaced on this module alone, as profilers and quantisers do."""
    return {
        name for name, value in vars(module).items() if callable(value) and callable(getattr(type(module), name, None))
    }


def known_modules() -> list[type[nn.Module]]:
    """The modules that are known as synapses."""
    return list(_KINDS)


def known_kinds() -> list[str]:
    """The names of the modules that are known as synapses."""
    return sorted(f"nn.{module.__name__}" for module in _KINDS)


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    # Under autocast the drive may be bfloat16 while weights and rates are float32.
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


@synapses_of(nn.Linear)
class LinearSynapses(Synapses):
    """All-to-all synapses. Any axes may stand before the last."""

    @property
    def fan_in(self) -> int:
        return self.weight.shape[1]

    @property
    def fan_out(self) -> float:
        return self.weight.shape[0]

    def forward(self, pre: Tensor) -> Tensor:
        return F.linear(pre, self.weight, self.bias)

    def transpose_product(self, post: Tensor, weight: Tensor, pre: Tensor) -> Tensor:
        if post.dtype != weight.dtype:
            weight = weight.to(post.dtype)
        below = post.mm(weight) if post.dim() == 2 else post.matmul(weight)
        return below if below.dtype == pre.dtype else below.to(pre.dtype)

    def plasticity(self, pre: Tensor, post: Tensor, weight: bool, bias: bool) -> tuple[Tensor | None, Tensor | None]:
        if post.dim() != 2:
            pre, post = pre.reshape(-1, pre.shape[-1]), post.reshape(-1, post.shape[-1])
        return (
            post.t().mm(_as(pre, post.dtype)) if weight else None,
            post.sum(0) if bias else None,
        )


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
            _as(weight, post.dtype),
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
        padded = _as(self._padded(pre), post.dtype)
        below = self._backward(post, padded, weight, None, [True, False, False])[0]
        assert below is not None
        below = _as(below, pre.dtype)
        if self.pads is None:
            return below
        # Padding is linear: its transpose is its own backward, wherever it is evaluated.
        transpose: Any = torch.func.vjp(self._padded, pre)[1]
        result: Tensor = transpose(below)[0]
        return result

    def plasticity(self, pre: Tensor, post: Tensor, weight: bool, bias: bool) -> tuple[Tensor | None, Tensor | None]:
        if pre.dim() == self.rank + 1:
            pre, post = pre[None], post[None]
        padded = _as(self._padded(pre), post.dtype)
        units = [post.shape[1]] if bias else None
        _, to_weight, to_bias = self._backward(post, padded, self.weight, units, [False, weight, bias])
        return to_weight, to_bias


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
