"""A memory of examples in one tensor, in which each example of a stream is equally likely to be."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from apical.errors import CheckpointError, DataError

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
            self._open(parts)
        elif [(part.shape[1:], part.dtype) for part in parts] != [(own.shape[1:], own.dtype) for own in self._like]:
            given, own = ([f"{tuple(part.shape[1:])} {part.dtype}" for part in each] for each in (parts, self._like))
            raise DataError(f"the memory keeps examples of {own}, and these are {given}. Bring all tasks to one shape.")
        assert self._rows is not None
        numbers = torch.arange(self.seen, self.seen + len(parts[0]))
        draws = torch.rand(len(numbers), dtype=torch.float64, generator=self.generator)
        places = torch.where(numbers < self.size, numbers, (draws * (numbers + 1)).long())
        self.seen += len(numbers)
        kept = (places < self.size).nonzero().squeeze(1)
        if not len(kept):
            return
        # Of several examples of a batch for one place, the last stays.
        numbers, places = numbers[kept], places[kept]
        self.entered.scatter_reduce_(0, places, numbers, "amax")
        last = self.entered[places] == numbers
        kept, places = kept[last].to(self._rows.device), places[last].to(self._rows.device)
        rows = torch.cat([_words(part.detach().index_select(0, kept)) for part in parts], 1)
        self._rows.index_copy_(0, places, rows)

    def draw(self, count: int) -> list[Tensor]:
        """Draw examples with replacement, all equally likely: their parts, or an empty list if there are none."""
        if self._rows is None:
            return []
        places = torch.randint(len(self), (count,), generator=self.generator)
        rows = self._rows.index_select(0, places.to(self._rows.device))
        parts, start = [], 0
        for own in self._like:
            end = start + _width(own)
            values = rows[:, start:end].view(own.dtype)[:, : math.prod(own.shape[1:])]
            parts.append(values.reshape(count, *own.shape[1:]))
            start = end
        return parts

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
        self._like = [part.to(device) for part in state.get("like", [])]
        self._rows = state["rows"].to(device, copy=True) if "rows" in state else None

    def _open(self, parts: tuple[Tensor, ...]) -> None:
        self._like = [part.detach()[:0].clone() for part in parts]
        words = sum(map(_width, self._like))
        self._rows = torch.zeros(self.size, words, dtype=torch.int64, device=parts[0].device)


def _width(like: Tensor) -> int:
    """The words that a part of one example takes."""
    return -(-math.prod(like.shape[1:]) * like.element_size() // _WORD)


def _words(part: Tensor) -> Tensor:
    """A part of some examples as words, (examples, words)."""
    flat = part.reshape(len(part), -1).contiguous()
    missing = -flat.shape[1] * flat.element_size() % _WORD // flat.element_size()
    return torch.nn.functional.pad(flat, (0, missing)).view(torch.int64)
