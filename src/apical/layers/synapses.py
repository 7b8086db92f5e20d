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
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apical.errors import CircuitError
from apical.layers.effective import EffectiveWeights, is_plain
from apical.layers.samples import pieces, raised


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

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "plasticity" in vars(cls):  # the closed forms of a base are those of the base's plasticity
            for name in {"unfold", "sample_updates", "powers"} - vars(cls).keys():
                setattr(cls, name, vars(Synapses)[name])

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

    def unfold(self, pre: Tensor) -> Tensor:
        """What arrives, in the form in which `sample_updates` and `powers` take it: a batch is unfolded once."""
        return pre

    def sample_updates(self, pre: Tensor, post: Tensor, weight: bool, bias: bool) -> tuple[Tensor | None, ...]:
        """The update of each sample, (batch, ...), for the weight and for the bias, where wanted.

        The batch is the first axis, and `pre` is unfolded. A kind of synapse that does not override this computes one
        sample after the other.
        """
        single = [self.plasticity(pre[n : n + 1], post[n : n + 1], weight, bias) for n in range(len(post))]
        return tuple(None if own[0] is None else torch.stack(own) for own in zip(*single, strict=True))

    def powers(self, pre: Tensor, post: Tensor, power: int, weight: bool, bias: bool) -> tuple[Tensor | None, ...]:
        """The sum over samples of |update of the sample| to a power, for the weight and for the bias, where wanted."""
        totals: list[Tensor | None] = [None, None]
        for piece in pieces(len(post), self.weight.numel() if weight else self.units):
            for place, updates in enumerate(self.sample_updates(pre[piece], post[piece], weight, bias)):
                if updates is not None:
                    part, total = raised(updates, power).sum(0), totals[place]
                    totals[place] = part if total is None else total + part
        return tuple(totals)

    def patches(self, pre: Tensor) -> Tensor:
        """What arrives at the synapses of a unit, at each position: (batch, groups of units, fan-in, positions).

        Raises:
            CircuitError: this kind of synapse does not define it.
        """
        raise CircuitError(f"{self.name}: {type(self).__name__} does not define patches. Define it, or use nn.Linear.")

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
            None if change is None or own is None else self._decayed(change, as_type(decay, change.dtype), own)
            for change, own in zip(changes, (self.weight, self.bias), strict=True)
        )
        return weight, bias

    def _decayed(self, change: Tensor, decay: Tensor, own: Tensor) -> Tensor:
        own = as_type(own, change.dtype)
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
        own = [getattr(type(module), name, None) is getattr(base, name, None) for name in ("forward", "_conv_forward")]
        if kind is not None and all(own):
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


def as_type(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in this type."""
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
            post.t().mm(as_type(pre, post.dtype)) if weight else None,
            post.sum(0) if bias else None,
        )

    def patches(self, pre: Tensor) -> Tensor:
        return pre.flatten(1, -2).transpose(1, 2)[:, None] if pre.dim() > 2 else pre[:, None, :, None]

    def sample_updates(self, pre: Tensor, post: Tensor, weight: bool, bias: bool) -> tuple[Tensor | None, ...]:
        pre, post = (rate[:, None] if rate.dim() == 2 else rate.flatten(1, -2) for rate in (pre, post))
        return (
            post.transpose(1, 2).bmm(as_type(pre, post.dtype)) if weight else None,
            post.sum(1) if bias else None,
        )

    def powers(self, pre: Tensor, post: Tensor, power: int, weight: bool, bias: bool) -> tuple[Tensor | None, ...]:
        if post.dim() != 2:
            return super().powers(pre, post, power, weight, bias)
        # One product a synapse: the power of the product is the product of the powers.
        return self.plasticity(raised(pre, power) if weight else pre, raised(post, power), weight, bias)
