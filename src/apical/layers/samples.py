"""Samples apart: sizes of the updates that single samples make, raised to a power, in pieces that fit the memory."""

from collections.abc import Iterator

from torch import Tensor

_ENTRIES = 1 << 22  # of the single samples' updates that are held at a time


def raised(values: Tensor, power: int) -> Tensor:
    """|values| to a power."""
    return values.square() if power == 2 else values.abs().pow(power)


def pieces(samples: int, entries: int) -> Iterator[slice]:
    """Slices of the samples, so that updates with this many entries each are held for few samples at a time."""
    size = max(1, _ENTRIES // max(1, entries))
    for start in range(0, samples, size):
        yield slice(start, start + size)


def per_sample(factors: Tensor, values: Tensor) -> Tensor:
    """Factors of the samples, (batch,), shaped as they multiply values of (batch, ...)."""
    return factors.view(-1, *[1] * (values.dim() - 1))
