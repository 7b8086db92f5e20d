"""Merges: how the rates that arrive at a junction become one."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from apical.layers.steps import Saved, is_own, local_derivative, local_graph, without_draws


class Merge(ABC):
    """A function of the rates that arrive at a junction, and its derivative.

    Attributes:
        name: of the operation.
        holomorphic: whether it accepts complex rates, and `backward` complex signals.
        may_remember: whether a module of the user's own computes it, which may keep state.
    """

    name: str
    holomorphic = False
    may_remember = False

    @abstractmethod
    def forward(self, arriving: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        """The merged rate, and what `backward` needs."""

    def merge_again(self, arriving: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        """The merged rate for other rates, while a network settles."""
        return self.forward(arriving)

    @abstractmethod
    def backward(self, signal: Tensor, saved: Saved) -> Sequence[Tensor]:
        """A signal for each of the rates that arrived."""


class Identity(Merge):
    """One rate, unchanged: a place where it branches."""

    name = "identity"
    holomorphic = True

    def forward(self, arriving: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        return arriving[0], ()

    def backward(self, signal: Tensor, saved: Saved) -> Sequence[Tensor]:
        return (signal,)


class Detach(Identity):
    """One rate, unchanged, through which no signal returns: `x.detach()`."""

    name = "detach"


class Sum(Merge):
    """The sum of the rates, broadcast where the shapes differ."""

    name = "sum"
    holomorphic = True

    def forward(self, arriving: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        total = arriving[0] + arriving[1]
        for rate in arriving[2:]:
            total = total + rate
        return total, tuple([(rate.shape, rate.dtype) for rate in arriving])

    def backward(self, signal: Tensor, saved: Saved) -> Sequence[Tensor]:
        return [_as_arrived(signal, shape, dtype) for shape, dtype in saved]


class Product(Merge):
    """The product of two rates, broadcast where the shapes differ: one gates the other."""

    name = "product"

    def forward(self, arriving: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        return arriving[0] * arriving[1], tuple(arriving)

    def backward(self, signal: Tensor, saved: Saved) -> Sequence[Tensor]:
        a, b = saved
        return [_as_arrived(signal * b, a.shape, a.dtype), _as_arrived(signal * a, b.shape, b.dtype)]


def _as_arrived(signal: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    if signal.shape != shape:
        signal = signal.sum_to_size(shape)
    # Under autocast the merged rates may have different types.
    return signal if signal.dtype == dtype or signal.is_complex() else signal.to(dtype)


class Concatenate(Merge):
    """The rates one after the other along an axis."""

    name = "concatenation"
    holomorphic = True

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, arriving: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        sizes = tuple([rate.shape[self.axis] for rate in arriving])
        return torch.cat(tuple(arriving), self.axis), (sizes, tuple([rate.dtype for rate in arriving]))

    def backward(self, signal: Tensor, saved: Saved) -> Sequence[Tensor]:
        sizes, types = saved
        return [part.to(dtype) for part, dtype in zip(torch.split(signal, sizes, self.axis), types, strict=True)]


class Function(Merge):
    """Any function of the rates, by an autograd graph of this one function."""

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.function = function
        self.name = name
        self.may_remember = is_own(getattr(function, "target", None))

    def merge_again(self, arriving: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        return without_draws(self.name, lambda: self.forward(arriving), arriving[0])

    def forward(self, arriving: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        output, graph = local_graph(self.function, arriving)
        return output, (graph,)

    def backward(self, signal: Tensor, saved: Saved) -> Sequence[Tensor]:
        graph = saved[0]
        found = local_derivative(graph, signal, ())
        return [
            torch.zeros_like(rate) if below is None else below for rate, below in zip(graph.inputs, found, strict=True)
        ]
