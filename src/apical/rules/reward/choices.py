"""The reward-prediction error: the scalar that a loss of one chosen action gives for each sample."""

import torch
from torch import Tensor

from apical.errors import CircuitError
from apical.rules.rule import LearningRule


def reward_prediction_error(rule: LearningRule, error: Tensor, batch_axis: int | None) -> Tensor:
    """By how much the reward of each sample's chosen action exceeded its prediction.

    Args:
        rule: for messages; `rule.learns_from` is the loss that it needs.
        error: (batch, actions), of which one of a sample's may be other than 0: the derivative by the chosen value.
        batch_axis: of the output.

    Returns:
        (batch,), the sum over the actions with its sign turned.

    Raises:
        CircuitError: the error has another shape, or lives on two units of a sample: it then knows more than what one
            choice was worth. (Inside `torch.compile` only the shape is looked at.)
    """
    name, use = type(rule).__name__, f"Use apical.losses.{rule.learns_from}"
    if error.dim() != 2 or batch_axis != 0:
        raise CircuitError(
            f"{name}: the output has the shape {tuple(error.shape)}, and a choice is made among (batch, actions). "
            f"{use} on a network that ends in one unit for each action, with the batch as first axis."
        )
    if not torch.compiler.is_compiling():
        units = int((error.abs() > 0).sum(1).max())  # NaN is above nothing: it is named where it began
        if units > 1:
            raise CircuitError(
                f"{name}: this loss has a derivative at {units} outputs of one sample, which reveals the label; "
                f"{name} learns from the reward of the chosen action alone. {use}(output, labels), or a rule that "
                "learns from labels, such as Backprop or KolenPollack."
            )
    return -error.sum(1)
