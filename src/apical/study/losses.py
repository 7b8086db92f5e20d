"""The losses by name, as functions of an answer (batch, classes) and labels (batch,); means over the batch."""

from collections.abc import Callable
from types import MappingProxyType

import torch.nn.functional as F
from torch import Tensor


def squared_error(answer: Tensor, labels: Tensor) -> Tensor:
    """Half the squared distance to the one-hot target, summed over classes, averaged over the batch.

    So its derivative by the answer is (answer - target) / batch, without a factor for the number of classes.
    """
    target = F.one_hot(labels, answer.shape[1]).to(answer.dtype)
    return 0.5 * (answer - target).square().sum(1).mean()


LOSSES: MappingProxyType[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"cross_entropy": F.cross_entropy, "mse": squared_error}
)
