"""Finiteness: whether numbers are finite, and the layer where NaN or infinity appeared first."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from apical.errors import NonFiniteError
from apical.layers import Credit, Layer, Node, NodeState
from apical.layers.credit import Update
from apical.layers.effective import EffectiveWeights
from apical.rules.rule import LearningRule
from apical.wiring import Wiring


def finite(*tensors: Tensor) -> bool:
    """Whether the tensors hold finite numbers alone."""
    # A finite sum has only finite terms; a sum that overflows needs a closer look.
    for tensor in tensors:
        if not math.isfinite(tensor.sum().item()) and not bool(torch.isfinite(tensor).all()):
            return False
    return True


def check_input(x: Tensor) -> None:
    """Refuse an input with NaN or infinity.

    Raises:
        NonFiniteError: it holds one.
    """
    if not finite(x):
        raise NonFiniteError("the circuit's input holds NaN or infinity. Check the data.", layer="input")


def to_check(credit: Credit, updates: Sequence[Update]) -> tuple[Tensor, ...]:
    """Tensors of a credit that are finite if its signals are; a bias' update is the signal's sum."""
    if credit.post is None or credit.synapses is not None:
        return ()
    signal = updates[1][1] if len(updates) == 2 else credit.post.sum()
    return (signal,) if credit.decay is None else (signal, credit.decay)


def name_the_layer(
    wiring: Wiring, rule: LearningRule, parameters: Sequence[tuple[nn.Module, str]], x: Tensor, error: Tensor
) -> None:
    """Repeat the forward and the backward pass with checks, to find the first layer with NaN or infinity.

    Args:
        wiring: of the circuit.
        rule: of the circuit.
        parameters: of the circuit: the module, and the name there.
        x: the input.
        error: dL/dy.

    Raises:
        NonFiniteError: with the layer's name.
    """
    everything = wiring.plan((True,) * len(parameters), False)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        _, state = rule.forward(wiring, x, everything)
    if rule.needs_batch:
        state.batch_axes = wiring.batch_axes_of(x, state)
    for node in wiring.nodes:
        own = state.nodes[node.index]
        if own is not None:
            _check_parameters(node, parameters)
            _check_drive(node, own)
    if not finite(error):
        raise NonFiniteError(
            "the derivative of the loss by the circuit's output holds NaN or infinity, and the output does not. Check "
            "the loss and the targets.",
            layer="loss",
        )
    for credit in rule.assign_credit(wiring, state, error):
        if not finite(*(tensor for tensor in (credit.post, credit.decay) if tensor is not None)):
            raise NonFiniteError(
                f"{credit.layer.name}: the teaching signal that {type(rule).__name__} gives it holds NaN or infinity. "
                "Lower the learning rate, clip the gradient, or make the feedback weights smaller.",
                layer=credit.layer.name,
            )


def _check_parameters(node: Node, parameters: Sequence[tuple[nn.Module, str]]) -> None:
    for module, name in (parameters[index] for index in node.own_indices):
        parameter = module._parameters[name]
        if parameter is not None and not finite(parameter.detach()):
            kind = type(module.module if isinstance(module, EffectiveWeights) else module).__name__
            raise NonFiniteError(
                f"{node.name}: the {name} of its {kind} holds NaN or infinity, by an earlier update. "
                "Return to an earlier state, and lower the learning rate or clip the gradient.",
                layer=node.name,
            )


def _check_drive(node: Node, own: NodeState) -> None:
    if not isinstance(node, Layer) or own.pre is None:
        return
    if not (finite(own.pre) and finite(node.synapses.forward(own.pre.to(node.weight.dtype)))):
        raise NonFiniteError(
            f"{node.name}: its drive holds NaN or infinity: the weights have grown too large. Lower the learning rate "
            "or clip the gradient.",
            layer=node.name,
        )
