"""Nudging: the derivative of a loss at outputs other than the free one, and the strengths by which it nudges."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from apical.errors import CircuitError, ConfigError
from apical.rules.energy.recognition import recognise

LOSSES = (None, "cross_entropy", "mse", "squared_error", "linear")
"""The losses that a rule can know."""

_LINEAR = (None, "linear")


def check_loss(rule: str, loss: str | None) -> None:
    """Check the option `loss` of a rule.

    Raises:
        ConfigError: there is no such loss.
    """
    if loss not in LOSSES:
        raise ConfigError(
            f"{rule}: loss={loss!r} is unknown. Pass 'cross_entropy' or 'mse' where the loss is F.cross_entropy or "
            "F.mse_loss, 'squared_error' where it is half the squared distance, summed over outputs (that of "
            "`apical train --set loss=mse`), or 'linear' to hold the derivative of any other constant while the "
            "network settles."
        )


class Nudge:
    """The derivative of one sample's loss at any output, computed from the derivative at the free one.

        dC/dy(y') = dC/dy(y) + s (A'(y') - A'(y))
        A' = 0 ("linear"), softmax ("cross_entropy"), c times the identity ("mse", "squared_error")

    The target is not needed for this: the free derivative contains it. PyTorch's mean squared error divides by the
    number of outputs, too, so c is 2 over that number, and 2 where the loss is a sum; for half the squared distance,
    summed over the outputs of a sample ("squared_error"), it is 1. A mean cross-entropy of (batch, classes, positions
    ...) divides by the positions in the same way.

    The factor s of a sample (class weights, positions to ignore, accumulation) is found where the derivative shows it,
    see `apical.rules.energy.recognition`; elsewhere it is 1.

    Args:
        loss: None, "linear", "cross_entropy", "mse" or "squared_error".
        y: (batch, outputs ...), the free output.
        error: dL/dy there, of the batch's loss, in the precision in which it arrived.
        samples: the number by which the loss divided each sample's part.
        batch_axis: of the output. Classes are at axis 1 where the batch is at axis 0, as `F.cross_entropy` takes them,
            and last otherwise.
        mean: whether the loss is a mean over the outputs of a sample, too.
        recognises: whether None is a loss to recognise (else it is linear), and each sample's factor (of positions,
            their mean) is divided out, and is then `scale`.

    Attributes:
        loss: as given, or as recognised; None where it is not.
        error: dC/dy at the free output, of each sample.
        scale: what each sample's loss was divided by: a number, or a tensor of the output's axes with the batch alone.

    Raises:
        CircuitError: the loss is not the cross-entropy over that axis, or not by that number.
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
        recognises: bool = False,
    ) -> None:
        self.loss = loss
        self.error = error.to(y.dtype) * samples
        self.scale: float | Tensor = 1.0
        self._axis = 1 - y.dim() if batch_axis == 0 and y.dim() > 1 else -1
        self._unit: float | Tensor = 1.0
        if loss == "mse":
            self._unit = 2.0 * samples / y.numel() if mean else 2.0
        elif loss == "cross_entropy":
            self._unit = samples * y.shape[self._axis] / y.numel() if mean else 1.0
        if loss == "cross_entropy" or (loss is None and recognises):
            found = recognise(y, error, samples, batch_axis, self._axis, mean=mean, squares=loss is None)
            if found is not None:
                self.loss, unit, factor = found
                self._unit = unit * (self._normalise(factor, batch_axis) if recognises else factor)
            elif loss is not None:
                self._check_told(y, error)
        if self.loss not in _LINEAR:
            self._rest = self.error - self._derivative(y)

    def __call__(self, y: Tensor) -> Tensor:
        """The derivative of the loss of each sample, (batch, outputs ...), at another output of that shape.

        Axes may lead, (states, batch, outputs ...), and the output may be complex.
        """
        return self.error if self.loss in _LINEAR else self._rest + self._derivative(y)

    def _derivative(self, y: Tensor) -> Tensor:
        """A' at an output, with the factors of the samples."""
        return (self._softmax(y) if self.loss == "cross_entropy" else y) * self._unit

    def _normalise(self, factor: float | Tensor, batch_axis: int | None) -> float | Tensor:
        """Divide the error by each sample's factor, and return what is left of the factor."""
        self.scale = some = factor
        if isinstance(factor, Tensor):
            self.scale = factor.mean([axis for axis in range(factor.dim()) if axis != batch_axis], keepdim=True)
            some = torch.where(self.scale == 0, 1.0, self.scale)
        self.error = self.error / some
        return factor / some

    def _check_told(self, y: Tensor, error: Tensor) -> None:
        """Refuse an error that cannot be that of a cross-entropy: it adds up to 0, and no target is below 0."""
        if torch.compiler.is_compiling():
            return
        size = float(error.abs().sum())
        if error.dim() > 2 and float(error.sum(self._axis).abs().sum()) > 1e-2 * size:
            raise CircuitError(
                f"loss='cross_entropy': dL/dy {tuple(error.shape)} does not add up to zero over axis {self._axis} of "
                "the output, where its classes are expected: at axis 1 if the batch is at axis 0, as F.cross_entropy "
                "takes them, and last otherwise. Move the classes there, or pass loss='linear'."
            )
        least = float((self._softmax(y) - self.error / self._unit).amin()) if error.numel() else 0.0
        if -math.inf < least < -32 * torch.finfo(error.dtype).eps:
            raise CircuitError(
                f"loss='cross_entropy': dL/dy is not that of F.cross_entropy, because the target in it would be "
                f"{least:.3g}. Set reduction= or loss_scale= of the circuit where the loss is a sum, weighted or "
                "multiplied; pass loss='linear' where it is another."
            )

    def _softmax(self, y: Tensor) -> Tensor:
        if not y.is_complex():
            return torch.softmax(y, self._axis)
        powers = torch.exp(y - y.real.amax(self._axis, keepdim=True))
        return powers / powers.sum(self._axis, keepdim=True)


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
