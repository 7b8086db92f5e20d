"""The pyramids of the dendritic microcircuit, and the interneurons that mirror them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from apical.layers import Layer, Step
from apical.wiring import Wiring

_SMALL = 0.05  # a shift of this part of a potential has lost four digits in single precision


@dataclass(frozen=True)
class Area:
    """What the theory makes of a layer.

    Attributes:
        activation: phi, from a pyramid's somatic potential to its rate; None where the rate is the potential.
        after: what follows a pyramid's rate: pooling, dropout, changes of shape.
        linearised: something else stands between the synapses and the soma (a norm, a module of the user's).
        mixing: lambda, the share of the soma's potential that its teacher has: the apical dendrite, or the target.
        gain: what is left, at this soma, of an error of one at the output: the mixing factors on the way here.
    """

    activation: Step | None
    after: tuple[Step, ...]
    linearised: bool
    mixing: float
    gain: float

    def fire(self, potential: Tensor) -> Tensor:
        """The rate of a potential, which is left as it is."""
        if self.activation is None:
            return potential
        return self.activation.fire(potential)

    def to_pyramids(self, signal: Tensor, saved: list[Any]) -> Tensor:
        """A signal at the layer's rate, taken back to the pyramids through what follows them."""
        for step, kept in zip(reversed(self.after), reversed(saved), strict=False):
            signal = step.backward(signal, kept, ())[0]
        return signal


class Soma:
    """A layer's pyramids under their teacher.

    Attributes:
        area: what they are.
        basal: v^, what their basal dendrites predict, (batch, units ...).
        shift: what the teacher adds to it, lambda vA, or lambda_N (u_trgt - v^) at the output.
        samples: the number by which the loss divided each sample's part.
        batch: how many samples there are.
        dtype: of the circuit.
        wide: whether differences of rates are taken in double precision, so that small ones survive.
    """

    def __init__(self, area: Area, basal: Tensor, signal: Tensor, samples: float, batch: int) -> None:
        self.area = area
        self.dtype = basal.dtype
        self.samples = samples
        self.batch = batch
        self._signal = signal
        low = torch.finfo(basal.dtype).eps > torch.finfo(torch.float32).eps
        self.wide = area.activation is not None and (low or area.gain < _SMALL)
        if self.wide:
            basal, signal = _wide(basal), _wide(signal)
        self.basal = basal
        self.shift = signal * (-samples * area.gain)
        self._rate: Tensor | None = None

    def teaching_signal(self) -> Tensor:
        """phi(v^) - phi(u), the mixing factors and the batch's mean undone: with the sign of a gradient."""
        if self.area.activation is None:
            return self._signal
        change = self.area.fire(self.basal) - self.rate
        return change.mul_(1 / (self.samples * self.area.gain)).to(self.dtype)

    @property
    def rate(self) -> Tensor:
        """phi(u), what they fire."""
        if self._rate is None:  # the compiler knows no cached_property
            self._rate = self.area.fire(self.basal + self.shift)
        return self._rate


class Mirror:
    """The interneurons that mirror a layer's pyramids, in the area below.

    Attributes:
        soma: the pyramids.
        mixing: lambda_I.
        predicted: v^I, what they predict of the pyramids' potential; None where that is always right.
    """

    def __init__(self, soma: Soma, mixing: float, predicted: Tensor | None) -> None:
        self.soma = soma
        self.mixing = mixing
        self.predicted = predicted
        self._rate: Tensor | None = None
        if predicted is not None and soma.wide:
            self.predicted = _wide(predicted)

    @property
    def free(self) -> Tensor:
        """Their potential if the pyramids had no teacher."""
        if self.predicted is None:
            return self.soma.basal
        return torch.lerp(self.predicted, self.soma.basal, self.mixing)

    @property
    def rate(self) -> Tensor:
        """phi(u^I), what they fire."""
        if self._rate is None:
            self._rate = self.soma.area.fire(self.free + self.mixing * self.soma.shift)
        return self._rate

    def unexplained(self) -> Tensor:
        """phi(u) - phi(u^I)."""
        soma = self.soma
        if soma.area.activation is not None:
            return (soma.rate - self.rate).to(soma.dtype)
        apart = soma.shift if self.predicted is None else soma.shift + (soma.basal - self.predicted)
        return apart * (1 - self.mixing)

    def error(self, *, taught: bool) -> Tensor:
        """phi(u^I) - phi(v^I): what they fail to predict of the pyramids, with the teacher or without."""
        assert self.predicted is not None
        soma, area = self.soma, self.soma.area
        if area.activation is None:
            apart = soma.basal - self.predicted
            return (apart + soma.shift if taught else apart) * self.mixing
        rate = self.rate if taught else area.fire(self.free)
        return (rate - area.fire(self.predicted)).to(soma.dtype)


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.device.type == "mps" else tensor.double()  # which has no double precision


def area_of(layer: Layer, mixing: float, gain: float) -> Area:
    """The pyramids of a layer, and the steps that follow their rate."""
    first, after = None, layer.steps
    if after and after[0].traits.activation and after[0].traits.elementwise:
        first, *after = after
    passive = all(step.traits.commutes_with_relu or step.traits.pools for step in after)
    return Area(first, tuple(after), not passive, mixing, gain)


def areas_of(wiring: Wiring, output_mixing: float, apical_mixing: float, interneuron_mixing: float) -> dict[int, Area]:
    """The area of every layer, by its index.

    Args:
        wiring: of the circuit.
        output_mixing: lambda_N.
        apical_mixing: lambda_k.
        interneuron_mixing: lambda_I.
    """
    readouts = wiring.readouts()
    step_down = (1 - interneuron_mixing) * apical_mixing
    depth = [0] * (len(wiring.nodes) + 1)
    areas: dict[int, Area] = {}
    for node in reversed(wiring.nodes):
        below = depth[node.index + 1]
        if isinstance(node, Layer):
            mixing = output_mixing if node in readouts else apical_mixing
            areas[node.index] = area_of(node, mixing, output_mixing * step_down**below)
            below += 1
        for source in node.sources:
            depth[source] = max(depth[source], below)
    return areas


def precise(layer: Layer, basal: Tensor, pre: Tensor, signal: Tensor) -> tuple[Tensor, Tensor]:
    """Potentials in which small differences survive: under autocast the drive is computed again."""
    weight = layer.weight
    if basal.dtype == weight.dtype:
        return basal, signal if signal.dtype == basal.dtype else signal.to(basal.dtype)
    return layer.synapses.forward(pre.to(weight.dtype)), signal.to(weight.dtype)
