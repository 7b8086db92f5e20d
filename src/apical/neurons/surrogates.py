"""Surrogate derivatives: what stands in for the derivative of a spike by the membrane potential."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from apical.options import check_choice, check_positive


class Surrogate(ABC):
    """A function of the distance v between the membrane potential and the threshold.

    A spike is a step at v = 0. Its derivative is zero almost everywhere, so that learning takes another in its place.
    """

    name: ClassVar[str]

    @abstractmethod
    def derivative(self, v: Tensor) -> Tensor:
        """The derivative at each distance, of the same shape and type; `v` may be overwritten."""

    def prepared(self, like: Tensor) -> Callable[[Tensor], Tensor]:
        """`derivative` for many tensors like this one, under no_grad."""
        return self.derivative

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({options})"


class Triangle(Surrogate):
    """height * max(0, 1 - |v| / width).

    Source: Bellec et al., Nature Communications 11, 3625 (2020), with height 0.3.
    """

    name = "triangle"

    def __init__(self, width: float = 1.0, height: float = 1.0) -> None:
        check_positive("Triangle", width=width, height=height)
        self.width, self.height = width, height

    def derivative(self, v: Tensor) -> Tensor:
        return v.abs_().mul_(-self.height / self.width).add_(self.height).clamp_(min=0)

    def prepared(self, like: Tensor) -> Callable[[Tensor], Tensor]:
        height, steepness = like.new_full((), self.height), self.height / self.width
        return lambda v: torch.sub(height, v.abs_(), alpha=steepness, out=v).relu_()


class FastSigmoid(Surrogate):
    """1 / (1 + slope |v|)^2.

    Source: Zenke and Ganguli, Neural Computation 30, 1514-1541 (2018).
    """

    name = "fast_sigmoid"

    def __init__(self, slope: float = 25.0) -> None:
        check_positive("FastSigmoid", slope=slope)
        self.slope = slope

    def derivative(self, v: Tensor) -> Tensor:
        return v.abs_().mul_(self.slope).add_(1).pow_(-2)


class Arctan(Surrogate):
    """(sharpness / 2) / (1 + (pi sharpness v / 2)^2), the derivative of a scaled arc tangent.

    Source: Fang et al., ICCV 2021.
    """

    name = "arctan"

    def __init__(self, sharpness: float = 2.0) -> None:
        check_positive("Arctan", sharpness=sharpness)
        self.sharpness = sharpness

    def derivative(self, v: Tensor) -> Tensor:
        return v.mul_(math.pi * self.sharpness / 2).square_().add_(1).reciprocal_().mul_(self.sharpness / 2)


class Boxcar(Surrogate):
    """height where |v| < width, else 0."""

    name = "boxcar"

    def __init__(self, width: float = 0.5, height: float = 1.0) -> None:
        check_positive("Boxcar", width=width, height=height)
        self.width, self.height = width, height

    def derivative(self, v: Tensor) -> Tensor:
        v.abs_()
        inside: Tensor = torch.lt(v, self.width, out=v)
        return inside if self.height == 1 else inside.mul_(self.height)


class Sigmoid(Surrogate):
    """slope s(slope v) (1 - s(slope v)), s the logistic function."""

    name = "sigmoid"

    def __init__(self, slope: float = 25.0) -> None:
        check_positive("Sigmoid", slope=slope)
        self.slope = slope

    def derivative(self, v: Tensor) -> Tensor:
        fired = v.mul_(self.slope).sigmoid_()
        return torch.addcmul(fired, fired, fired, value=-1).mul_(self.slope)


SURROGATES: Mapping[str, type[Surrogate]] = {
    kind.name: kind for kind in (Triangle, FastSigmoid, Arctan, Boxcar, Sigmoid)
}


def surrogate_of(given: str | Surrogate, owner: str) -> Surrogate:
    """The surrogate of this name, or the one that was given.

    Raises:
        ConfigError: there is none of this name.
    """
    if isinstance(given, Surrogate):
        return given
    check_choice(owner, "surrogate", given, tuple(SURROGATES))
    return SURROGATES[given]()


class Spike(torch.autograd.Function):
    """1 where the potential reaches the threshold, else 0, with a surrogate's derivative; takes v and the surrogate."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, surrogate: Surrogate) -> Tensor:
        ctx.save_for_backward(v)
        ctx.surrogate = surrogate
        return (v >= 0).to(v.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (v,) = ctx.saved_tensors
        return grads[0] * ctx.surrogate.derivative(v.clone()), None
