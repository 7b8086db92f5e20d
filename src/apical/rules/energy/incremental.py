"""Incremental predictive coding: the weights move at every step of inference, beside the values."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from apical.layers import Credit, Layer
from apical.rules.energy.inference import Requirement
from apical.rules.energy.relax import Relaxation
from apical.rules.energy.strict import Strict


class Incremental(Strict):
    """Values and weights descend at the same time, each by the state before.

    The credits of all steps together are the distance that the weights have moved, over the learning rate.
    """

    variant = "incremental"
    default_momentum = 0.65  # of the benchmark; without it deep layers learn from the little that arrives first
    requirements = (
        Requirement(
            {"tolerance": (None,)}, "weights move at every step, so no state can settle", "Leave out tolerance."
        ),
    )

    @property
    def energy_falls(self) -> bool:
        return super().energy_falls and self.rule.nudging >= 1  # a weaker push moves the weights as far

    def assign_credit(self) -> Iterator[Credit]:
        self.begin()
        batch = self.wiring.batch_size(self.free, self.error)
        self._learning_rate = self.rule.learning_rate * self.samples / batch
        self.weights_move = self._learning_rate > 0
        unit = 1 / (self.samples * self.rule.nudging * self.steps)
        relaxation = Relaxation(self, self.steps - 1, record=self._check)
        while True:
            for credit in self.credits(self.output_error(), unit):
                if self.weights_move and not relaxation.done:
                    self._move_weights(credit)
                yield credit
            if relaxation.done:
                return
            relaxation.step()

    def _move_weights(self, credit: Credit) -> None:
        """Move a layer's weights by their credit, in synapses of their own: the layer's stay as they are."""
        layer = credit.layer
        if credit.pre is None or credit.post is None or not isinstance(layer, Layer):
            return
        own, learns = layer.synapses, self.free.plan.requires_grad
        wanted = [index is not None and learns[index] for index in (own.weight_index, own.bias_index)]
        if not any(wanted):
            return
        if layer not in self.moving.synapses:
            holder = nn.Module()
            holder._parameters.update(own.holder._parameters)
            self.moving.synapses[layer] = own.like(holder, own.weight_name, own.bias_name)
        parameters: dict[str, Any] = self.moving.synapses[layer].holder._parameters
        changes = own.plasticity(credit.pre, credit.post, *wanted)
        for name, change in zip((own.weight_name, own.bias_name), changes, strict=True):
            if name is not None and change is not None:
                parameters[name] = parameters[name].detach() - self._learning_rate * change

    def step(self, *, measured: bool) -> None:
        super().step(measured=measured)
        if self.rule.pathway.descends:  # the next signals travel down the moved weights
            for layer, synapses in self.moving.synapses.items():
                if layer in self.weights:
                    self.weights[layer] = synapses.weight

    def _check(self, taken: int, residual: float | None) -> None:
        if self.wiring.observers:
            self.show(taken, residual)
        self.check_divergence(taken, self.output_error())
