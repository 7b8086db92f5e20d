"""The interneurons of the dendritic microcircuit: the error that they leave, and what they learn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from apical.layers import Credit, Layer
from apical.rules.dendrites.inverse import Inverse
from apical.rules.dendrites.somas import Area, Mirror, Soma

if TYPE_CHECKING:
    from apical.rules.dendrites.microcircuit import DendriticMicrocircuit


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
