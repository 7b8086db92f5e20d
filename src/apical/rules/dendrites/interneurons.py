"""The interneurons of the dendritic microcircuit: the error that they leave, and what they learn."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from apical.layers import Credit, Layer
from apical.rules.dendrites.inverse import Inverse
from apical.rules.dendrites.somas import Area, Mirror, Soma

if TYPE_CHECKING:
    from apical.rules.dendrites.microcircuit import DendriticMicrocircuit


_FIRST_LOOK = 16  # backward pass


class LagWatch:
    """Warns once where learned interneurons lag behind their pyramids by more than the teacher shifts those.

    It looks at the 16th backward pass, the 32nd, the 64th ...
    """

    def __init__(self) -> None:
        self._passes = 0
        self._warned = False
        self.looks = False

    def begin_pass(self) -> None:
        """Count a backward pass."""
        self._passes += 1
        power_of_two = not self._passes & (self._passes - 1)
        self.looks = power_of_two and self._passes >= _FIRST_LOOK and not self._warned

    def check(self, layer: Layer, mirror: Mirror) -> None:
        """Compare the lag of a layer's mirror with the shift of the layer."""
        assert mirror.predicted is not None
        soma = mirror.soma
        lag, shift = float((soma.basal - mirror.predicted).norm()), float(soma.shift.norm())
        if 0 < shift < lag:
            self.looks, self._warned = False, True
            warnings.warn(
                f"{layer.name}: the interneurons that mirror it lag behind by {lag / shift:.2g} times what the teacher "
                "shifts it, which hides the error from the layers below. Lower the learning rate (plain descent "
                "follows best), or use interneurons='reciprocal' or 'tied'.",
                stacklevel=2,
            )


class Interneurons:
    """The interneurons of a circuit; those that mirror a layer are in the area below it.

    Args:
        rule: with the options and the weights.
        areas: of the layers, by index.
    """

    def __init__(self, rule: DendriticMicrocircuit, areas: Mapping[int, Area]) -> None:
        self.rule = rule
        self.areas = areas
        self.mixing = rule.interneuron_mixing
        self._weights = rule.interneuron_weights
        self._inhibition = rule.inhibition

    def mirror(self, layer: Layer, pre: Tensor, soma: Soma) -> Mirror:
        """The interneurons that mirror a layer's pyramids."""
        if layer not in self._weights:
            return Mirror(soma, self.mixing, None)
        synapses = self._weights.synapses(layer)
        return Mirror(soma, self.mixing, synapses.forward(pre.to(synapses.weight.dtype)))

    def unexplained(self, layer: Layer, pre: Tensor, mirror: Mirror, feedback: Tensor) -> Tensor:
        """The signal at the apical dendrites below, as an error there: vA over -samples times the gain so far."""
        soma = mirror.soma
        unit = -1 / (soma.samples * soma.area.gain * (1 - self.mixing))
        below = layer.synapses.transpose_product(mirror.unexplained() * unit, feedback, pre)
        if layer in self._inhibition:
            # Zero in the self-predicting state, to the last bit.
            apart = feedback + self._inhibition[layer].detach()
            below = below + layer.synapses.transpose_product(mirror.rate.to(soma.dtype) * unit, apart, pre)
        return below

    def prediction(self, layer: Layer, pre: Tensor, mirror: Mirror, post: Tensor) -> Iterator[Credit]:
        """Credit for the synapses onto the interneurons, W^IP.

        Args:
            layer: of the mirrored pyramids.
            pre: the rate that arrives at them and at their mirror.
            mirror: of the layer.
            post: the teaching signal of the mirrored pyramids, which reciprocal interneurons share.
        """
        if layer not in self._weights:
            return
        soma, rate = mirror.soma, self.rule.prediction_rate
        if self.rule.interneurons == "learned":
            if self.rule.lag_watch.looks and not torch.compiler.is_compiling():
                self.rule.lag_watch.check(layer, mirror)
            lesson = mirror.error(taught=True) * (-rate / (soma.samples * soma.area.gain * mirror.mixing))
        else:
            synapses = self._positions(layer, soma) * (layer.synapses.fan_in + 1)
            lesson = post - mirror.error(taught=False) * (rate / (soma.samples * synapses * mirror.mixing))
        yield Credit(layer, pre, lesson, synapses=self._weights.synapses(layer))

    def cancellation(
        self, layer: Layer, pre: Tensor, mirror: Mirror, below: Tensor, feedback: Tensor
    ) -> Iterator[Credit]:
        """Credit for W^PI, which silences the apical dendrite, and for W^TD, which predicts the rates below."""
        soma = mirror.soma
        unit = 1 / (soma.samples * self._positions(layer, soma) * (layer.synapses.fan_out + 1))
        if layer in self._inhibition:
            apical = below * (-soma.samples * soma.area.gain * (1 - self.mixing))
            post = mirror.rate.to(soma.dtype) * (self.rule.cancellation_rate * unit)
            yield Credit(layer, apical.to(post.dtype), post, synapses=self._inhibition.synapses(layer))
        if isinstance(self.rule.pathway, Inverse):
            rate = soma.area.fire(soma.basal).to(soma.dtype)
            guess = layer.synapses.transpose_product(rate, feedback, pre)
            source = self.areas.get(layer.sources[0] - 1)
            wrong = pre - (guess if source is None else source.fire(guess))
            own = self.rule.pathway.weights.synapses(layer)
            yield Credit(layer, wrong, rate * (-self.rule.inverse_rate * unit), synapses=own)

    def _positions(self, layer: Layer, soma: Soma) -> float:
        """At how many positions of a sample the layer's weights are shared."""
        return soma.basal.numel() / (layer.synapses.units * soma.batch)
