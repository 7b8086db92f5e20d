"""A memory of examples in one tensor, in which each example of a stream is equally likely to be."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from apical.errors import CheckpointError, DataError
from apical.optim.consolidation.protection import bytes_of

_WORD = 8  # bytes


class Reservoir:
    """Examples that are kept by reservoir sampling: of n examples, each with the probability size / n.

        example n = 0, 1, ...:   j = n for n < size, else j drawn from 0 ... n;   kept in place j if j < size

    An example has several parts (input, label, output of the network). The memory is one tensor of 64-bit words with a
    row for each example, in which every part starts at a word: adding a batch is one `index_copy_`, drawing a batch is
    one `index_select`. It takes its memory when the first example arrives, on that example's device. Draws are made on
    the CPU, so that they are the same on every device.

    Args:
        size: how many examples it keeps, from 0 on.
        seed: of the draws.

    Attributes:
        seen: examples added so far.
        entered: (size,), int64, the number of the example in each place, counted from 0; -1 for an empty place.

    Source: J. S. Vitter (1985), Random Sampling with a Reservoir, algorithm R.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seen = 0
        self.entered = torch.full((size,), -1)
        self.generator = torch.Generator().manual_seed(seed)
        self._like: list[Tensor] = []  # each part of no examples
        self._rows: Tensor | None = None

    def __len__(self) -> int:
        return min(self.seen, self.size)

    @staticmethod
    def bytes_of_example(*parts: Tensor) -> int:
        """What an example with these parts takes, its number among all included."""
        return _WORD * (1 + sum(_words_of(part.numel(), part) for part in parts))

    @property
    def bytes(self) -> int:
        """What it takes now, but for the state of its generator."""
        return bytes_of([self.entered, self._rows])

    def add(self, *parts: Tensor) -> None:
        """Add a batch of examples, one after the other.

        Args:
            parts: each (batch, ...), of the same batch.

        Raises:
            DataError: a part has another shape or type than in the first batch.
        """
        if not self.size:
            return
        if self._rows is None:
            self._open([part.detach()[:0].clone() for part in parts], parts[0].device)
        elif (given := [(part.shape[1:], part.dtype) for part in parts]) != self._kinds:
            raise DataError(
                f"the memory keeps examples of {self._kinds}, and these are {given}. Bring all tasks to one shape."
            )
        assert self._rows is not None
        seen, self.seen = self.seen, self.seen + len(parts[0])
        counts = torch.arange(seen + 1, self.seen + 1, dtype=torch.float64)
        draws = torch.rand(len(counts), dtype=torch.float64, generator=self.generator).mul_(counts)
        if seen < self.size:
            empty = self.size - seen
            draws[:empty] = counts[:empty] - 1
        kept = (draws < self.size).nonzero().squeeze(1)
        if len(kept):
            self._keep(kept, draws.index_select(0, kept).long(), kept + seen, parts)

    def _keep(self, kept: Tensor, places: Tensor, numbers: Tensor, parts: tuple[Tensor, ...]) -> None:
        """Keep these examples of a batch in these places; of several for one place, the last stays."""
        assert self._rows is not None
        self.entered.scatter_reduce_(0, places, numbers, "amax")
        if len(kept) > 1:
            last = self.entered.index_select(0, places) == numbers
            kept, places = kept[last], places[last]
        device = self._rows.device
        kept, places = kept.to(device), places.to(device)
        rows = torch.cat([_words(part.detach().index_select(0, kept)) for part in parts], 1)
        self._rows.index_copy_(0, places, rows)

    def draw(self, count: int) -> list[Tensor]:
        """Draw examples with replacement, all equally likely: their parts, or an empty list if there are none."""
        if self._rows is None:
            return []
        places = torch.randint(len(self), (count,), generator=self.generator)
        rows = torch.split(self._rows.index_select(0, places.to(self._rows.device)), self._widths, 1)
        return [
            words.view(own.dtype)[:, :length].view(count, *own.shape[1:])
            for words, own, length in zip(rows, self._like, self._lengths, strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """All that later draws depend on."""
        state = {"seen": self.seen, "entered": self.entered, "generator": self.generator.get_state()}
        return state if self._rows is None else {**state, "like": self._like, "rows": self._rows}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Continue from a state, with the examples on this device.

        Raises:
            CheckpointError: the state is that of a memory of another size.
        """
        if state["entered"].shape != (self.size,):
            raise CheckpointError(
                f"the state is of a memory of {len(state['entered'])} examples, and this one keeps {self.size}. Make "
                "it with the same size."
            )
        self.seen = state["seen"]
        self.entered = state["entered"].clone()
        self.generator.set_state(state["generator"].cpu())
        self._rows = None
        if "rows" in state:
            self._open([part.to(device) for part in state["like"]], device)
            self._rows = state["rows"].to(device, copy=True)

    def _open(self, like: list[Tensor], device: torch.device) -> None:
        """Take the memory for examples with parts like these, which have no examples."""
        self._like = like
        self._kinds = [(part.shape[1:], part.dtype) for part in like]
        self._lengths = [math.prod(part.shape[1:]) for part in like]
        self._widths = [_words_of(length, part) for length, part in zip(self._lengths, like, strict=True)]
        self._rows = torch.zeros(self.size, sum(self._widths), dtype=torch.int64, device=device)


def _words_of(length: int, like: Tensor) -> int:
    """The words that so many numbers of a tensor's type take."""
    return -(-length * like.element_size() // _WORD)


def _words(part: Tensor) -> Tensor:
    """A part of some examples as words, (examples, words)."""
    flat = part.reshape(len(part), -1)
    missing = -flat.shape[1] * flat.element_size() % _WORD // flat.element_size()
    return (torch.nn.functional.pad(flat, (0, missing)) if missing else flat.contiguous()).view(torch.int64)
