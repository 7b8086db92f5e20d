"""Cutting examples into parts and into batches."""

from collections.abc import Iterator

import torch
from torch import Tensor

from apical.data.examples import Examples
from apical.errors import ConfigError, DataError


def split(examples: Examples, fraction: float, *, seed: int) -> tuple[Examples, Examples]:
    """Cut a validation part from training examples, each class in proportion.

    The validation part has `round(fraction * n)` examples (fewer only where a class would be left without a
    training example); which ones is drawn from a generator seeded with `seed`. Both parts keep the order of
    the original. A fraction of 0 gives an empty validation part.

    Args:
        examples: what is to be cut.
        fraction: share of the validation part, 0 <= fraction < 1.
        seed: of the draw. The same seed gives the same parts.

    Returns:
        The training part and the validation part, both copies.

    Raises:
        ConfigError: `fraction` is out of range.
        DataError: there are too few examples for a validation part of that size.
    """
    train, validation = stratified_indices(examples.y, fraction, seed=seed)
    return examples.take(train), examples.take(validation)


def stratified_indices(y: Tensor, fraction: float, *, seed: int) -> tuple[Tensor, Tensor]:
    """The two sets of indices behind `split`, each in ascending order, for the labels `y`, (n,)."""
    if not 0 <= fraction < 1:
        raise ConfigError(
            f"validation fraction {fraction}: it is the share that is cut from the training data, "
            "0 <= fraction < 1. A tenth, 0.1, is usual."
        )
    y = y.cpu()
    if fraction == 0:
        return torch.arange(len(y)), torch.arange(0)
    _, counts = torch.unique(y, return_counts=True)
    shares = _shares(counts, fraction)
    if int(shares.sum()) == 0:
        raise DataError(
            f"a fraction of {fraction} of {len(y)} examples in {len(counts)} classes leaves nothing to cut "
            "off. Take a larger fraction or more examples."
        )
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(len(y), dtype=torch.bool)
    by_class = torch.split(torch.argsort(y, stable=True), counts.tolist())
    for members, share in zip(by_class, shares.tolist(), strict=True):
        chosen[members[torch.randperm(len(members), generator=generator)[:share]]] = True
    return (~chosen).nonzero().squeeze(1), chosen.nonzero().squeeze(1)


def _shares(counts: Tensor, fraction: float) -> Tensor:
    """How many of each class go to the smaller part: largest remainders, at least one of a class stays."""
    exact = counts.double() * fraction
    shares = exact.floor().long()
    short = round(fraction * int(counts.sum())) - int(shares.sum())
    largest_remainders = torch.argsort(shares - exact, stable=True)[:short]
    shares[largest_remainders] += 1
    return torch.minimum(shares, counts - 1)


def batches(
    examples: Examples, batch_size: int, *, generator: torch.Generator | None = None, drop_last: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs (x, y) of at most `batch_size` examples that together are all examples, once each.

    With a generator the order is a permutation, drawn from it when this function is called (not when the
    first batch is asked for), and each batch is a copy. Without one the batches are views, in order.

    Args:
        examples: what is to be cut; the batches are on its device.
        batch_size: examples in a batch; the last batch may be smaller.
        generator: of the permutation, on any device.
        drop_last: leave a smaller last batch out.

    Raises:
        ConfigError: `batch_size` is below 1, or nothing would be left with `drop_last`.
    """
    n = len(examples)
    if batch_size < 1:
        raise ConfigError(f"batch size {batch_size}: a batch has at least one example.")
    if drop_last and batch_size > n:
        raise ConfigError(
            f"batch size {batch_size} with drop_last leaves nothing of {n} examples. "
            "Take a smaller batch, or keep the last one."
        )
    starts = range(0, n - batch_size + 1 if drop_last else n, batch_size)
    if generator is None:
        return ((examples.x[i : i + batch_size], examples.y[i : i + batch_size]) for i in starts)
    order = torch.randperm(n, generator=generator, device=generator.device).to(examples.y.device)
    pieces = (order[i : i + batch_size] for i in starts)
    return ((examples.x.index_select(0, piece), examples.y.index_select(0, piece)) for piece in pieces)
