"""Labelled examples in memory, and a task made of a training and a test part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from apical.data.scaling import Scaling
from apical.errors import DataError


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs and their labels, whole in memory. NumPy arrays become tensors, of float32 and int64.

    Attributes:
        x: inputs, (n, ...), floating point (float32 in every task that `load` returns).
        y: class labels, (n,), int64, from 0.

    Raises:
        DataError: the two lengths, a type or the shape of the labels is not as above.
    """

    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "x", _tensor("x", self.x, "f", np.float32))
        object.__setattr__(self, "y", _tensor("y", self.y, "iu", np.int64))
        if not self.x.is_floating_point() or self.x.ndim < 2:
            raise DataError(
                f"examples: x is {_described(self.x)}, wanted is (n, ...) in floating point. "
                "Convert it with x.float(), and give single numbers a feature axis: x[:, None]."
            )
        if self.y.dtype != torch.int64 or self.y.ndim != 1:
            raise DataError(
                f"examples: y is {_described(self.y)}, wanted is one int64 class label per example, (n,). "
                "Convert labels with y.long(), one-hot rows with y.argmax(1)."
            )
        if len(self.x) != len(self.y):
            raise DataError(
                f"examples: {len(self.x)} inputs but {len(self.y)} labels. "
                "Each input needs the label at the same index."
            )

    def __len__(self) -> int:
        return len(self.y)

    def take(self, indices: Tensor | Sequence[int]) -> Examples:
        """The examples at `indices` (integers, any order, repeats allowed), as a copy."""
        chosen = torch.as_tensor(indices, dtype=torch.int64, device=self.y.device)
        return Examples(self.x.index_select(0, chosen), self.y.index_select(0, chosen))

    def to(self, device: torch.device | str) -> Examples:
        """The same examples on another device."""
        return Examples(self.x.to(device), self.y.to(device))


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be learned: a training part, a test part and the number of classes.

    Every task that `load` returns is standardised: `(value - mean) / std`, with the mean and the standard
    deviation **of the training part only**, applied to both parts. Which values share a mean:

    - pictures: one mean for each channel, so a single one for the grey sets (`mnist`, `fashion-mnist`,
      `digits`) and three for `cifar10`. Standardising undoes any common factor, so pixels that are first
      brought to [0, 1] would come out the same; the raw pixel values are used.
    - `npz:PATH`: see `apical.data.arrays`.

    Attributes:
        name: as given to `load`.
        train: the training part. A validation part is cut from it with `split`.
        test: the test part.
        classes: number of classes; labels run from 0 to `classes - 1`.
        source: where the data come from.
        licence: the licence of the data, as its authors state it.
        scaling: what was done to the raw values, or None where nothing was.

    Raises:
        DataError: a part is not `Examples`, the two parts differ in shape or type, `classes` is not a whole number from
            1 on, or a label is not below it.
    """

    name: str
    train: Examples
    test: Examples
    classes: int
    source: str = ""
    licence: str = ""
    scaling: Scaling | None = None

    def __post_init__(self) -> None:
        for part, examples in (("train", self.train), ("test", self.test)):
            if not isinstance(examples, Examples):
                raise DataError(
                    f"{self.name}: {part} is of the type {type(examples).__name__}, wanted are Examples. "
                    f"Pass {part}=Examples(x, y)."
                )
        if isinstance(self.classes, bool) or not isinstance(self.classes, int | np.integer) or self.classes < 1:
            raise DataError(f"{self.name}: classes is {self.classes!r}, wanted is a whole number from 1 on.")
        if self.train.x.dtype != self.test.x.dtype:
            raise DataError(
                f"{self.name}: training inputs are {_described(self.train.x)}, test inputs {_described(self.test.x)}. "
                "Convert both to one type with x.float()."
            )
        if self.train.x.shape[1:] != self.test.x.shape[1:]:
            raise DataError(
                f"{self.name}: a training example has the shape {tuple(self.train.x.shape[1:])}, a test "
                f"example {tuple(self.test.x.shape[1:])}. Both go into one network: give them one shape."
            )
        for part, examples in (("training", self.train), ("test", self.test)):
            outside = (examples.y < 0) | (examples.y >= self.classes)
            if outside.any():
                index = int(outside.nonzero()[0])
                raise DataError(
                    f"{self.name}: {part} example {index} has the label {int(examples.y[index])}, but labels "
                    f"run from 0 to {self.classes - 1}. Renumber them or correct the number of classes."
                )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example, without the batch axis."""
        return tuple(self.train.x.shape[1:])


def _tensor(name: str, value: Any, kinds: str, dtype: type[np.generic]) -> Tensor:
    """A tensor as it is, and a NumPy array of one of some kinds as a tensor of its own."""
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, np.ndarray) or value.dtype.kind not in kinds:
        what = f"{value.shape} of {value.dtype}" if isinstance(value, np.ndarray) else f"of {type(value)}"
        raise DataError(f"examples: {name} is {what}, wanted is a tensor or a NumPy array of {np.dtype(dtype)}.")
    return torch.from_numpy(value.astype(dtype))


def _described(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"
