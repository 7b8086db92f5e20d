"""Sparse rates: the k most excited units alone fire, or firing has a cost."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from apical.errors import ConfigError
from apical.layers.steps import ParameterFree, Saved, closed_form
from apical.layers.traits import Traits


class KWinners(nn.Module):
    """Competition: the k most excited units of an axis fire at their excitation, if it is positive; others rest.

        r_i = a_i   if a_i > 0 and a_i is among the k largest,   else 0

    Its derivative is 1 for the units that fire and 0 for the others. Units that tie for the last place fire together.

    Args:
        share: k as a share of the units, above 0 and at most 1; at least one unit competes to fire.
        dim: the axis of the units.

    Shapes: any; the rates have the shape of the input.

    Raises: ConfigError where the share is outside its range.

    Example:
        >>> import torch, apical
        >>> apical.layers.KWinners(0.5)(torch.tensor([[1.0, 4.0, -2.0, 3.0]]))
        tensor([[0., 4., 0., 3.]])
    """

    def __init__(self, share: float, dim: int = -1) -> None:
        super().__init__()
        if not 0 < share <= 1:
            raise ConfigError(f"KWinners: share={share!r} must be above 0 and at most 1.")
        self.share = share
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return torch.threshold(x, 0, 0) * (x >= self.least(x))

    def least(self, x: Tensor) -> Tensor:
        """The excitation of the last unit that fires, (..., 1, ...)."""
        count = max(1, math.floor(self.share * x.shape[self.dim] + 0.5))
        return x.detach().topk(count, self.dim, sorted=False).values.amin(self.dim, keepdim=True)

    def extra_repr(self) -> str:
        return f"share={self.share}, dim={self.dim}"


@closed_form(KWinners)
class Winners(ParameterFree):
    """The closed form of `KWinners`; needs its answer alone."""

    traits = Traits(activation=True, lowest_rate=0.0, keeps_shape=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        y = torch.relu(x).mul_(x >= self.module.least(x))
        return y, (y,)

    def output(self, saved: Saved) -> Tensor:
        output: Tensor = saved[0]
        return output

    def derivative(self, grad: Tensor, *saved: Any) -> Tensor:
        below: Tensor = torch.ops.aten.threshold_backward.default(grad, saved[0], 0)
        return below


class FiringCost(nn.Module):
    """An L1 cost of firing: rates pass unchanged, and the signal on its way down grows by the cost's derivative.

        loss + strength * mean over samples of sum_i |r_i|   =>   dL/dr_i + strength / samples * sign(r_i)

    The first axis of the rate holds the samples. Without gradients the module does nothing.

    Args:
        strength: of the cost, in units of the loss.

    Example:
        >>> import torch, apical
        >>> rate = torch.tensor([[0.5, 0.0], [2.0, 1.0]], requires_grad=True)
        >>> (0 * apical.layers.FiringCost(0.1)(rate)).sum().backward()
        >>> rate.grad
        tensor([[0.0500, 0.0000],
                [0.0500, 0.0500]])
    """

    def __init__(self, strength: float) -> None:
        super().__init__()
        if not 0 < strength < math.inf:
            raise ConfigError(f"FiringCost: strength={strength!r} must be a positive number.")
        self.strength = strength

    def forward(self, x: Tensor) -> Tensor:
        charged: Tensor = _Charged.apply(x, self.strength)  # type: ignore[no-untyped-call]
        return charged

    def extra_repr(self) -> str:
        return f"strength={self.strength}"


class _Charged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grad.add(x.sign(), alpha=ctx.strength / len(x)), None


@closed_form(FiringCost)
class Cost(ParameterFree):
    """The closed form of `FiringCost`."""

    traits = Traits(elementwise=True, monotone=True, keeps_shape=True, costs=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        return x, (x,)

    def derivative(self, grad: Tensor, *saved: Any) -> Tensor:
        return grad.add(saved[0].sign(), alpha=self.module.strength / len(grad))
