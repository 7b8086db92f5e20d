"""Many small networks trained side by side, one example at a time: every tensor leads with the network.

One step of a network with thirty hidden units is too small to keep a processor busy; a step of twenty networks, each on
an example of its own, is one batched product. The optimizers are the ordinary ones.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from apical.errors import DataError

# Weights that an optimizer updates in one go: few enough, with all that it keeps of them, for a processor's cache.
ENTRIES = 131072


class Perceptrons:
    """Networks inputs-hidden-outputs of sigmoid units, which differ in their weights only.

    The loss of one example is the cross-entropy of every output with its target, 1 for the example's class and 0 for
    the others, summed over outputs: `binary_cross_entropy_with_logits(..., reduction="sum")`. Its gradients are
    written out. Weights begin as N(0, 1 / fan-in), biases as 0.

    Args:
        inputs: of each network.
        hidden: units.
        outputs: one for each class.
        seeds: of the networks' weights. Networks with one seed start from the same weights.
        dtype: of all tensors.

    Attributes:
        weights: (networks, weights and biases of one network).
        gradients: of the same shape; `learn` overwrites them.
    """

    def __init__(
        self, inputs: int, hidden: int, outputs: int, seeds: Sequence[int], dtype: torch.dtype = torch.float32
    ) -> None:
        shapes = ((hidden, inputs), (outputs, hidden), (hidden, 1), (outputs, 1))
        drawn = {seed: _draw(shapes[:2], seed) for seed in set(seeds)}
        weights = torch.stack([drawn[seed] for seed in seeds]).to(dtype)
        self.weights = torch.cat([weights, weights.new_zeros(len(seeds), hidden + outputs)], dim=1)
        self.gradients = torch.zeros_like(self.weights)
        self._first, self._second, self._first_bias, self._second_bias = _views(self.weights, shapes)
        self._gradients = _views(self.gradients, shapes)

    def answer(self, x: Tensor) -> Tensor:
        """Every network's outputs for the same inputs: (examples, inputs) to (networks, examples, outputs)."""
        networks, hidden, inputs = self._first.shape
        # One product for all networks: (examples, inputs) with (inputs, networks * hidden).
        drive = x @ self._first.reshape(networks * hidden, inputs).T
        rate = (drive.view(len(x), networks, hidden).transpose(0, 1) + self._first_bias.mT).sigmoid()
        return torch.baddbmm(self._second_bias.mT, rate, self._second.mT).sigmoid()

    def accuracy(self, x: Tensor, y: Tensor) -> Tensor:
        """The share of examples (n, inputs) that each network gives their labels (n,): (networks,), float64."""
        return (self.answer(x).argmax(dim=2) == y).double().mean(dim=1)

    def learn(self, x: Tensor, target: Tensor) -> None:
        """Leave in `gradients` each network's gradient for one example of its own.

        Args:
            x: (networks, inputs).
            target: (networks, outputs), from 0 to 1.
        """
        # Networks are few rows of long vectors: as a row times a matrix this product is ten times as fast.
        rate = torch.bmm(x[:, None], self._first.mT).add_(self._first_bias.mT).sigmoid_()
        error = torch.baddbmm(self._second_bias.mT, rate, self._second.mT).sigmoid_().sub_(target[:, None])
        error_below = torch.bmm(error, self._second).mul_(rate).mul_(1 - rate)
        first, second, first_bias, second_bias = self._gradients
        torch.mul(error_below.mT, x[:, None], out=first)
        torch.mul(error.mT, rate, out=second)
        first_bias.copy_(error_below.mT)
        second_bias.copy_(error.mT)

    def optimizer(self, kind: type[Optimizer], options: Sequence[Mapping[str, Any]]) -> Optimizer:
        """One optimizer over all networks, which are divided evenly among `options`, in their order.

        Each of `options` is one group of parameters, (some networks, ...) each.
        """
        rows = max(1, ENTRIES // self.weights.shape[1])
        groups = []
        for weights, gradients, own in zip(
            self.weights.chunk(len(options)), self.gradients.chunk(len(options)), options, strict=True
        ):
            parameters = []
            for some, theirs in zip(torch.split(weights, rows), torch.split(gradients, rows), strict=True):
                parameter = nn.Parameter(some)  # shares the memory, as its gradient does
                parameter.grad = theirs
                parameters.append(parameter)
            groups.append({"params": parameters, **own})
        return kind(groups, **options[0])


def once(
    networks: Perceptrons, optimizer: Optimizer, x: Tensor, y: Tensor, order: Tensor, counts: Sequence[int]
) -> Iterator[int]:
    """Train on a sequence of examples, each seen once, a step for each.

    Args:
        networks: that learn.
        optimizer: theirs.
        x: inputs to choose from, (n, inputs).
        y: their labels, (n,).
        order: which example each network sees at each step, (networks, steps).
        counts: in rising order: numbers of steps after which the training pauses.

    Yields:
        Each of `counts`, when so many steps have been taken.
    """
    classes = torch.eye(networks.answer(x[:1]).shape[2], dtype=x.dtype)
    taken = 0
    for count in counts:
        for chosen in order[:, taken:count].T.contiguous():
            networks.learn(x[chosen], classes[y[chosen]])
            optimizer.step()
        taken = count
        yield count


def balanced_order(labels: Tensor, per_class: Sequence[int], seed: int) -> Tensor:
    """Examples without repetition, such that the first `classes * n` hold n of each class, for each n of `per_class`.

    Args:
        labels: (n,), from 0.
        per_class: rising numbers of examples for each class.
        seed: of the choice and the order.

    Returns:
        (classes * per_class[-1],) indices into `labels`.

    Raises:
        DataError: a class has too few examples.
    """
    fewest = int(labels.bincount().min())
    if fewest < per_class[-1]:
        raise DataError(
            f"a class has {fewest} examples, and {per_class[-1]} of each class are wanted: take fewer, or other data"
        )
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = [shuffled[labels[shuffled] == label] for label in range(int(labels.max()) + 1)]
    parts = []
    start = 0
    for end in per_class:
        part = torch.cat([own[start:end] for own in by_class])
        parts.append(part[torch.randperm(len(part), generator=generator)])
        start = end
    return torch.cat(parts)


def _draw(shapes: Sequence[tuple[int, int]], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = (
        torch.randn(rows * columns, generator=generator, dtype=torch.float64) * columns**-0.5
        for rows, columns in shapes
    )
    return torch.cat(list(drawn))


def _views(flat: Tensor, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """The matrices that are stored one behind the other in each row."""
    sizes = [rows * columns for rows, columns in shapes]
    parts = torch.split(flat, sizes, dim=1)
    return [torch.unflatten(part, 1, shape) for part, shape in zip(parts, shapes, strict=True)]
