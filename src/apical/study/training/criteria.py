"""The losses by name, as functions of an answer (batch, classes) and labels (batch,); means over the batch."""

from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from apical.losses import LOSSES as REWARDED
from apical.losses import Loss, agrel, reward_prediction


def squared_error(answer: Tensor, labels: Tensor) -> Tensor:
    """Half the squared distance to the one-hot target, summed over classes, averaged over the batch.

    So its derivative by the answer is (answer - target) / batch, without a factor for the number of classes.
    """
    target = F.one_hot(labels, answer.shape[1]).to(answer.dtype)
    return 0.5 * (answer - target).square().sum(1).mean()


# As answers are measured: a loss that is of a choice is of the best one, without exploration.
LOSSES: Mapping[str, Loss] = {
    "cross_entropy": F.cross_entropy,
    "mse": squared_error,
    **{name: partial(loss, policy="greedy") for name, loss in REWARDED.items()},
}


def teaching(name: str, *, exploration: float, generator: torch.Generator) -> Loss:
    """A loss as a network learns by it: one that is of a choice explores, with draws from `generator`."""
    if name == "reward_prediction":
        return partial(reward_prediction, exploration=exploration, generator=generator)
    if name == "agrel":
        return partial(agrel, generator=generator)
    return LOSSES[name]
