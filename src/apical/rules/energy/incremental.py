"""Incremental predictive coding: the weights move at every step of inference, beside the values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from apical.layers import Credit, Layer
from apical.rules.energy.inference import Requirement
from apical.rules.energy.relax import Relaxation
from apical.rules.energy.strict import Strict


class Incremental(Strict):
    """Values and weights descend at the same time, each by the state before.

    The credits of all steps together are the distance that the weights have moved, over the learning rate.
    """

    variant = "incremental"
    requirements = (
        Requirement(
            {"tolerance": (None,)}, "weights move at every step, so no state can settle", "Leave out tolerance."
        ),
    )

    def assign_credit(self) -> Iterator[Credit]:
        self.begin()
        batch = self.wiring.batch_size(self.free, self.error)
        self._learning_rate = self.rule.learning_rate * self.samples / batch
        self.weights_move = self._learning_rate > 0
        self._moved: dict[Layer, dict[str, Tensor]] = {}
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
        """Move a layer's weights by their credit; the layer's own parameters stay as they are."""
        layer = credit.layer
        if credit.pre is None or credit.post is None or not isinstance(layer, Layer):
            return
        synapses, learns = layer.synapses, self.free.plan.requires_grad
        indices = (synapses.weight_index, synapses.bias_index)
        wanted = [index is not None and learns[index] for index in indices]
        if not any(wanted):
            return
        moved = self._moved.setdefault(layer, {})
        changes = synapses.plasticity(credit.pre, credit.post, *wanted)
        for name, change in zip(("weight", "bias"), changes, strict=True):
            if change is not None:
                before = moved[name] if name in moved else synapses.holder._parameters[name]
                assert before is not None
                moved[name] = before.detach() - self._learning_rate * change

    def step(self, *, measured: bool) -> None:
        with _in_place(self._moved):
            super().step(measured=measured)
        if self.rule.pathway.descends:  # signals travel down the moved weights
            for layer, moved in self._moved.items():
                if "weight" in moved and layer in self.weights:
                    self.weights[layer] = moved["weight"]

    def _check(self, taken: int, residual: float | None) -> None:
        if self.wiring.observers:
            self.show(taken, residual)
        self.check_divergence(taken, self.output_error())


@contextmanager
def _in_place(moved: dict[Layer, dict[str, Tensor]]) -> Iterator[None]:
    """Let layers use other weights and biases than their own parameters."""
    own = {layer: dict(layer.synapses.holder._parameters) for layer in moved}
    try:
        for layer, tensors in moved.items():
            layer.synapses.holder._parameters.update(tensors)  # type: ignore[arg-type]
        yield
    finally:
        for layer, parameters in own.items():
            layer.synapses.holder._parameters.update(parameters)
