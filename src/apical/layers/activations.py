"""Closed forms of the usual activations, by the kernels that autograd itself calls."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apical import kernels
from apical.layers.steps import ParameterFree, Saved, closed_form
from apical.layers.traits import Traits

aten = torch.ops.aten


def _neuron(**more: Any) -> Traits:
    """The traits of an activation of each unit by itself."""
    return Traits(activation=True, elementwise=True, keeps_shape=True, **more)


class _FromOutput(ParameterFree):
    """An activation whose derivative is read off its output."""

    def output(self, saved: Saved) -> Tensor:
        output: Tensor = saved[0]
        return output


@closed_form(nn.Identity)
class Identity(ParameterFree):
    """The rate is the drive."""

    traits = Traits(elementwise=True, monotone=True, holomorphic=True, keeps_shape=True, moves=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        return x, ()

    def derivative(self, grad: Tensor, *saved: Any) -> Tensor:
        return grad


@closed_form(nn.ReLU)
class ReLU(_FromOutput):
    """max(0, x); needs its answer alone.

    Attributes:
        in_place: overwrite the argument. The tracer sets it where the module asks for it and nobody else
            holds the argument.
    """

    in_place = False
    traits = _neuron(monotone=True, lowest_rate=0.0, rectifies=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        y = torch.relu_(x) if self.in_place else torch.relu(x)
        return y, (y,)

    def derivative(self, grad: Tensor, *saved: Any) -> Tensor:
        below: Tensor = aten.threshold_backward.default(grad, saved[0], 0)
        return below

    def fire(self, x: Tensor) -> Tensor:
        return torch.relu(x)

    def fire_(self, x: Tensor) -> Tensor:
        return torch.relu_(x)

    def refire(self, x: Tensor, saved: Saved, *, anchored: bool) -> tuple[Tensor, Saved]:
        y = torch.relu(x)
        return y, (y,)


@closed_form(nn.Tanh)
class Tanh(_FromOutput):
    """The hyperbolic tangent; needs its answer alone."""

    traits = _neuron(monotone=True, saturating=True, lowest_rate=-1.0, holomorphic=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        y = torch.tanh(x)
        return y, (y,)

    def refire(self, x: Tensor, saved: Saved, *, anchored: bool) -> tuple[Tensor, Saved]:
        y = kernels.tanh(x)
        return y, (y,)

    def derivative(self, grad: Tensor, *saved: Any) -> Tensor:
        below: Tensor = aten.tanh_backward.default(grad, saved[0])
        return below


@closed_form(nn.Sigmoid)
class Sigmoid(_FromOutput):
    """The logistic function; needs its answer alone."""

    traits = _neuron(monotone=True, saturating=True, lowest_rate=0.0, holomorphic=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        y = torch.sigmoid(x)
        return y, (y,)

    def derivative(self, grad: Tensor, *saved: Any) -> Tensor:
        below: Tensor = aten.sigmoid_backward.default(grad, saved[0])
        return below


class _FromInput(ParameterFree):
    """An activation whose derivative is read off its input."""

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        # Out of place even where the module would work in place: the input is what the derivative needs.
        return self.fire(x), (x,)

    @abstractmethod
    def fire(self, x: Tensor) -> Tensor:
        """The output alone; `x` stays as it is."""

    def output(self, saved: Saved) -> Tensor:
        return self.fire(saved[0])


@closed_form(nn.Hardtanh, nn.ReLU6)
class Hardtanh(_FromInput):
    """The identity between two bounds."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        low, high = float(module.min_val), float(module.max_val)
        self.traits = _neuron(
            monotone=True,
            saturating=math.isfinite(low) and math.isfinite(high),
            lowest_rate=low if math.isfinite(low) else None,
            rectifies=(low, high) == (0, math.inf),
        )

    def fire(self, x: Tensor) -> Tensor:
        return F.hardtanh(x, self.module.min_val, self.module.max_val)

    def fire_(self, x: Tensor) -> Tensor:
        return x.clamp_(self.module.min_val, self.module.max_val)

    def derivative(self, grad: Tensor, *saved: Any) -> Tensor:
        below: Tensor = aten.hardtanh_backward.default(grad, saved[0], self.module.min_val, self.module.max_val)
        return below


@closed_form(nn.LeakyReLU)
class LeakyReLU(_FromInput):
    """A slope below zero."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        slope = module.negative_slope
        self.traits = _neuron(monotone=slope >= 0, lowest_rate=0.0 if slope <= 0 else None, rectifies=slope == 0)

    def fire(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.module.negative_slope)

    def derivative(self, grad: Tensor, *saved: Any) -> Tensor:
        below: Tensor = aten.leaky_relu_backward.default(grad, saved[0], self.module.negative_slope, False)
        return below


@closed_form(nn.ELU, nn.CELU, nn.SELU)
class ELU(_FromInput):
    """The exponential units: scale * (x where positive, else alpha * (exp(input_scale x) - 1))."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.constants: tuple[float, float, float]
        if isinstance(module, nn.SELU):
            self.constants = (1.6732632423543772848170429916717, 1.0507009873554804934193349852946, 1.0)
        elif isinstance(module, nn.CELU):
            self.constants = (module.alpha, 1.0, 1.0 / module.alpha)
        else:
            self.constants = (module.alpha, 1.0, 1.0)
        alpha, scale, slope = self.constants
        self.traits = _neuron(monotone=alpha * slope >= 0, lowest_rate=min(0.0, -alpha * scale) if slope > 0 else None)

    def fire(self, x: Tensor) -> Tensor:
        y: Tensor = aten.elu.default(x, *self.constants)
        return y

    def derivative(self, grad: Tensor, *saved: Any) -> Tensor:
        below: Tensor = aten.elu_backward.default(grad, *self.constants, False, saved[0])
        return below


@closed_form(nn.GELU)
class GELU(_FromInput):
    """x times the Gaussian's distribution function, or its tanh approximation."""

    traits = _neuron(lowest_rate=-0.1701)  # rounded down

    def fire(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate=self.module.approximate)

    def derivative(self, grad: Tensor, *saved: Any) -> Tensor:
        below: Tensor = aten.gelu_backward.default(grad, saved[0], approximate=self.module.approximate)
        return below


@closed_form(nn.SiLU)
class SiLU(_FromInput):
    """x times its logistic."""

    traits = _neuron(lowest_rate=-0.2785)  # rounded down

    def fire(self, x: Tensor) -> Tensor:
        return F.silu(x)

    def derivative(self, grad: Tensor, *saved: Any) -> Tensor:
        below: Tensor = aten.silu_backward.default(grad, saved[0])
        return below


@closed_form(nn.Mish)
class Mish(_FromInput):
    """x times the hyperbolic tangent of its softplus."""

    traits = _neuron(lowest_rate=-0.3089)  # rounded down

    def fire(self, x: Tensor) -> Tensor:
        return F.mish(x)

    def derivative(self, grad: Tensor, *saved: Any) -> Tensor:
        below: Tensor = aten.mish_backward.default(grad, saved[0])
        return below


@closed_form(nn.Softplus)
class Softplus(_FromInput):
    """log(1 + exp(beta x)) / beta, linear above a threshold."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        beta = module.beta
        self.traits = _neuron(monotone=True, lowest_rate=min(0.0, module.threshold / beta) if beta > 0 else None)

    def fire(self, x: Tensor) -> Tensor:
        return F.softplus(x, self.module.beta, self.module.threshold)

    def derivative(self, grad: Tensor, *saved: Any) -> Tensor:
        below: Tensor = aten.softplus_backward.default(grad, saved[0], self.module.beta, self.module.threshold)
        return below


@closed_form(nn.Hardsigmoid)
class Hardsigmoid(_FromInput):
    """The logistic function in three straight pieces."""

    traits = _neuron(monotone=True, saturating=True, lowest_rate=0.0)

    def fire(self, x: Tensor) -> Tensor:
        return F.hardsigmoid(x)

    def derivative(self, grad: Tensor, *saved: Any) -> Tensor:
        below: Tensor = aten.hardsigmoid_backward.default(grad, saved[0])
        return below


@closed_form(nn.Hardswish)
class Hardswish(_FromInput):
    """x times its hard logistic."""

    traits = _neuron(lowest_rate=-0.375)

    def fire(self, x: Tensor) -> Tensor:
        return F.hardswish(x)

    def derivative(self, grad: Tensor, *saved: Any) -> Tensor:
        below: Tensor = aten.hardswish_backward.default(grad, saved[0])
        return below


@closed_form(nn.LogSigmoid)
class LogSigmoid(ParameterFree):
    """The logarithm of the logistic function."""

    traits = _neuron(monotone=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        y, buffer = aten.log_sigmoid_forward.default(x)
        return y, (x, buffer)

    def derivative(self, grad: Tensor, *saved: Any) -> Tensor:
        below: Tensor = aten.log_sigmoid_backward.default(grad, *saved)
        return below

    def output(self, saved: Saved) -> Tensor:
        return F.logsigmoid(saved[0])


def _with_axis(kind: type[_Softmax], module: Any) -> _Softmax | None:
    # Without an axis PyTorch guesses one and warns: that stays PyTorch's own business.
    return None if module.dim is None else kind(module)


class _Softmax(_FromOutput):
    """Competition along one axis; needs its answer alone."""


class Softmax(_Softmax):
    """Shares that add up to one."""

    traits = Traits(activation=True, saturating=True, lowest_rate=0.0, keeps_shape=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        y = torch.softmax(x, self.module.dim)
        return y, (y,)

    def derivative(self, grad: Tensor, *saved: Any) -> Tensor:
        below: Tensor = aten._softmax_backward_data.default(grad, saved[0], self.module.dim, saved[0].dtype)
        return below


class LogSoftmax(_Softmax):
    """The logarithm of shares that add up to one."""

    traits = Traits(activation=True, keeps_shape=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        y = torch.log_softmax(x, self.module.dim)
        return y, (y,)

    def derivative(self, grad: Tensor, *saved: Any) -> Tensor:
        below: Tensor = aten._log_softmax_backward_data.default(grad, saved[0], self.module.dim, saved[0].dtype)
        return below


@closed_form(nn.Softmax)
def _softmax(module: nn.Softmax) -> _Softmax | None:
    return _with_axis(Softmax, module)


@closed_form(nn.LogSoftmax)
def _log_softmax(module: nn.LogSoftmax) -> _Softmax | None:
    return _with_axis(LogSoftmax, module)
