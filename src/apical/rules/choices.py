"""What a rule may know of a loss that speaks of one choice a sample: one number, and no label."""

import torch
from torch import Tensor

from apical.errors import CircuitError
from apical.rules.rule import LearningRule


def told(rule: LearningRule, error: Tensor) -> Tensor:
    """The number that the loss tells of each sample's choice: by how much more it brought than was expected.

    Args:
        rule: for messages; `rule.learns_from` is the loss that it needs.
        error: (batch, actions), of which one of a sample's may be other than 0: the derivative by the chosen value.

    Returns:
        (batch,), the sum over the actions with its sign turned.

    Raises:
        CircuitError: the error has another shape, or lives on two units of a sample: it then knows more than what one
            choice was worth. (Inside `torch.compile` only the shape is looked at.)
    """
    name, use = type(rule).__name__, f"Use apical.losses.{rule.learns_from}"
    if error.dim() != 2:
        raise CircuitError(
            f"{name}: the answer has the shape {tuple(error.shape)}, and a choice is made among (batch, actions). "
            f"{use} on a network that ends in one unit for each action."
        )
    if not torch.compiler.is_compiling():
        units = int((error.abs() > 0).sum(1).max())  # NaN is above nothing: it is named where it began
        if units > 1:
            raise CircuitError(
                f"{name}: this loss tells {units} units of one sample what was wrong with them, and so the label; "
                f"{name} learns from the reward of the chosen action alone. {use}(answer, labels), which keeps the "
                "labels to itself, or a rule that learns from labels, such as Backprop or KolenPollack."
            )
    return -error.sum(1)
