"""Incremental predictive coding: the weights move at every step of inference, side by side with the values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from apical.layers import Credit, Layer
from apical.rules.energy.inference import Inference

Moved = dict[Layer, dict[str, Tensor]]
"""Weights and biases that have left their layer's own."""


@contextmanager
def _in_place(moved: Moved) -> Iterator[None]:
    """The layers answer with the moved weights; their own parameters are only set aside."""
    own = {layer: dict(layer.synapses.holder._parameters) for layer in moved}
    try:
        for layer, kept in moved.items():
            layer.synapses.holder._parameters.update(kept)  # type: ignore[arg-type]
        yield
    finally:
        for layer, parameters in own.items():
            layer.synapses.holder._parameters.update(parameters)


def learn_while_inferring(
    inference: Inference,
    credits: Callable[[], Iterator[Credit]],
    steps: int,
    learning_rate: float,
    *,
    tied: bool,
    after: Callable[[], None],
) -> Iterator[Credit]:
    """Values and weights move at once, each by the state before.

    Args:
        inference: of the values.
        credits: what the synapses see in the states as they are, over the number of steps.
        steps: how many.
        learning_rate: what a weight moves by in a step beside what it is credited with.
        tied: signals travel down the moved weights.
        after: called after each step of inference.

    Yields:
        the credits of all steps: together they are how far the weights have come, over the learning rate.
    """
    states = inference.states
    learns = states.state.plan.requires_grad
    moved: Moved = {}
    states.weights_move = learning_rate > 0
    if tied:
        states.weights = {layer: layer.weight.detach() for layer in states.wiring.layers}
    for step in range(steps):
        last = step == steps - 1
        for credit in credits():
            layer = credit.layer
            if credit.pre is None or credit.post is None or not isinstance(layer, Layer):
                yield credit
                continue
            indices = (layer.synapses.weight_index, layer.synapses.bias_index)
            wanted = [index is not None and learns[index] for index in indices]
            if states.weights_move and not last and any(wanted):
                kept = moved.setdefault(layer, {})
                changes = layer.synapses.plasticity(credit.pre, credit.post, *wanted)
                for name, change in zip(("weight", "bias"), changes, strict=True):
                    if change is not None:
                        before = kept[name] if name in kept else layer.synapses.holder._parameters[name]
                        assert before is not None
                        kept[name] = before.detach() - learning_rate * change
            yield credit
        if last:
            return
        with _in_place(moved):
            inference.step()
        if tied:
            states.weights = {
                **states.weights,
                **{layer: kept["weight"] for layer, kept in moved.items() if "weight" in kept},
            }
        after()
