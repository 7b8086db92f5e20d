"""Alignment: how close a rule's update comes to the true gradient."""

import copy
import math

import torch
from torch import Tensor

from apical.circuit import Circuit
from apical.errors import DataError
from apical.losses import Loss
from apical.rules import Backprop


def alignment(circuit: Circuit, x: Tensor, y: Tensor, loss: Loss) -> dict[str, float]:
    """The angle between a rule's update and the true gradient, per layer.

    Both are taken of the same weights, the same examples and the same mode (training or evaluation), with the
    same draws of dropout. The circuit is left as it was: gradients, buffers and random states.

    Args:
        circuit: the circuit.
        x: (batch, ...), examples.
        y: (batch, ...), their targets.
        loss: of the answer and the targets.

    Returns:
        degrees between the updates of a layer's weights, by the layer's module path, in the order in which the
        layers answer: 0 the gradient itself, 90 nothing in common, 180 against it. NaN where either is zero.
        Layers whose weights are frozen are left out.

    Raises:
        DataError: no examples were given.
    """
    if len(x) == 0:
        raise DataError("alignment needs examples, and the batch is empty.")
    rule = _weight_updates(copy.deepcopy(circuit), x, y, loss)
    truth = _weight_updates(copy.deepcopy(circuit).set_rule(Backprop()), x, y, loss)
    return {name: angle(update, truth[name]) for name, update in rule.items()}


def angle(a: Tensor, b: Tensor) -> float:
    """The angle between two tensors of one shape, in degrees; NaN where either is zero."""
    a, b = a.flatten().double(), b.flatten().double()
    lengths = float(a.norm() * b.norm())
    if lengths == 0:
        return math.nan
    # By half-angles: an arc cosine has no digits left near zero.
    u, v = a / a.norm(), b / b.norm()
    return math.degrees(2 * math.atan2(float((u - v).norm()), float((u + v).norm())))


def _weight_updates(twin: Circuit, x: Tensor, y: Tensor, loss: Loss) -> dict[str, Tensor]:
    devices = [x.device.index or 0] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        value = loss(twin(x), y)
        # Weights that are parametrised exist from the forward pass on.
        layers = {layer.name: layer.weight for layer in twin.layers if layer.weight.requires_grad}
        found = torch.autograd.grad(value, list(layers.values()), allow_unused=True)
    return {
        name: torch.zeros_like(weight) if update is None else update
        for (name, weight), update in zip(layers.items(), found, strict=True)
    }
