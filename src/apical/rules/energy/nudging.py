"""Nudging: the derivative of a loss at outputs other than the free one, and the strengths by which it nudges."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from apical.errors import CircuitError, ConfigError

LOSSES = (None, "cross_entropy", "mse", "squared_error")
"""The losses that a rule can know."""


def check_loss(rule: str, loss: str | None) -> None:
    """Check the option `loss` of a rule.

    Raises:
        ConfigError: there is no such loss.
    """
    if loss not in LOSSES:
        raise ConfigError(
            f"{rule}: loss={loss!r} is unknown. Pass 'cross_entropy' or 'mse' where the loss is F.cross_entropy or "
            "F.mse_loss, 'squared_error' where it is half the squared distance, summed over outputs (that of "
            "`apical train --set loss=mse`), or None for any other (its derivative is then held constant while the "
            "network settles)."
        )


class Nudge:
    """The derivative of one sample's loss at any output, computed from the derivative at the free one.

        dC/dy(y') = dC/dy(y) + A'(y') - A'(y)
        A' = 0 (None), softmax ("cross_entropy"), c times the identity ("mse", "squared_error")

    The target is not needed for this: the free derivative contains it. PyTorch's mean squared error divides by the
    number of outputs, too, so c is 2 over that number, and 2 where the loss is a sum; for half the squared distance,
    summed over the outputs of a sample ("squared_error"), it is 1. A mean cross-entropy of (batch, classes, positions
    ...) divides by the positions in the same way.

    Args:
        loss: None (constant: the linearised loss), "cross_entropy", "mse" or "squared_error".
        y: (batch, outputs ...), the free output.
        error: dL/dy there, of the batch's loss.
        samples: the number by which the loss divided each sample's part.
        batch_axis: of the output. Classes are at axis 1 where the batch is at axis 0, as `F.cross_entropy` takes them,
            and last otherwise.
        mean: whether the loss is a mean over the outputs of a sample, too.

    Raises:
        CircuitError: the loss is not the cross-entropy over that axis.
    """

    def __init__(
        self,
        loss: str | None,
        y: Tensor,
        error: Tensor,
        samples: float,
        *,
        batch_axis: int | None = 0,
        mean: bool = True,
    ) -> None:
        self.loss = loss
        self.error = error * samples
        self._axis = 1 - y.dim() if batch_axis == 0 and y.dim() > 1 else -1
        if loss == "cross_entropy":
            self._check_classes(error)
            classes = y.shape[self._axis]
            self._unit = samples * classes / y.numel() if mean else 1.0
            self._rest = self.error - self._softmax(y)
        elif loss == "mse":
            self._unit = 2.0 * samples / y.numel() if mean else 2.0
            self._rest = self.error - self._unit * y
        elif loss == "squared_error":
            self._unit = 1.0
            self._rest = self.error - y

    def __call__(self, y: Tensor) -> Tensor:
        """The derivative of the loss of each sample, (batch, outputs ...), at another output of that shape.

        Axes may lead, (states, batch, outputs ...), and the output may be complex.
        """
        if self.loss == "cross_entropy":
            return self._rest + self._softmax(y)
        if self.loss in ("mse", "squared_error"):
            return torch.add(self._rest, y, alpha=self._unit)
        return self.error

    def _check_classes(self, error: Tensor) -> None:
        """Refuse an error that cannot be that of a cross-entropy over the axis of the classes: it would add up to 0."""
        if error.dim() < 3 or torch.compiler.is_compiling():
            return
        size = float(error.abs().sum())
        if float(error.sum(self._axis).abs().sum()) > 1e-2 * size:
            raise CircuitError(
                f"loss='cross_entropy': dL/dy {tuple(error.shape)} does not add up to zero over axis {self._axis} of "
                "the output, where its classes are expected: at axis 1 if the batch is at axis 0, as F.cross_entropy "
                "takes them, and last otherwise. Move the classes there, or leave out loss."
            )

    def _softmax(self, y: Tensor) -> Tensor:
        if y.is_complex():
            powers = torch.exp(y - y.real.amax(self._axis, keepdim=True))
            shares = powers / powers.sum(self._axis, keepdim=True)
        else:
            shares = torch.softmax(y, self._axis)
        return shares if self._unit == 1.0 else shares * self._unit


@dataclass(frozen=True)
class Betas:
    """The nudging strengths of one backward pass.

    States under conjugate nudges are each other's conjugates, so one of the two stands for both.

    Attributes:
        strengths: one for each state that settles.
        multiplicities: for how many nudges each of these states stands.
    """

    strengths: tuple[complex, ...]
    multiplicities: tuple[int, ...]

    @classmethod
    def real(cls, *strengths: float) -> Betas:
        """Real strengths."""
        return cls(strengths, (1,) * len(strengths))

    @classmethod
    def circle(cls, radius: float, points: int) -> Betas:
        """An even number of points, equally spaced on a circle in the complex plane."""
        pairs = points // 2 - 1
        angles = [2 * math.pi * k / points for k in range(pairs + 2)]
        strengths = [complex(radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]
        return cls(tuple(strengths), (1, *(2,) * pairs, 1))

    @property
    def are_complex(self) -> bool:
        """Whether the states are complex."""
        return isinstance(self.strengths[0], complex)

    @property
    def count(self) -> int:
        """The number of nudges."""
        return sum(self.multiplicities)

    @property
    def parts(self) -> list[float]:
        """Of each state, its part of all nudges."""
        return [multiplicity / self.count for multiplicity in self.multiplicities]

    @property
    def shares(self) -> list[complex]:
        """Of each state, what its difference from the free one is multiplied by."""
        return [part / strength for part, strength in zip(self.parts, self.strengths, strict=True)]
