"""From a user's own PyTorch dataset to examples in memory."""

import operator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from apical.data.examples import Examples
from apical.errors import DataError


class MapStyle(Protocol):
    """What `torch.utils.data` calls a map-style dataset: a length, and a pair (input, label) by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def from_dataset(dataset: MapStyle) -> Examples:
    """Read every pair (input, label) of a map-style dataset once, in order.

    Values are converted to float32 and otherwise taken as they are: whatever scaling the inputs need belongs
    to the dataset (its transform). What the dataset draws at random is drawn once.

    Args:
        dataset: `dataset[i]` is (input, label). The input is a tensor or array of real numbers with at least
            one axis, of one shape throughout. The label is an integer from 0: a Python or NumPy one, or a
            tensor of one element.

    Raises:
        DataError: there are no examples, or an example is not as above; the message gives its index.
    """
    name = type(dataset).__name__
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise DataError(
            f"{name}: has no length or no items by index, so it is not a map-style dataset. "
            "Collect the pairs of an iterable one in a list first."
        )
    count = len(dataset)
    if count == 0:
        raise DataError(f"{name}: the dataset is empty. Check its path, its split and its filters.")
    x, y = torch.empty(0), torch.empty(count, dtype=torch.int64)
    for index in range(count):
        value, y[index] = _example(name, dataset[index], index)
        if index == 0:
            x = torch.empty((count, *value.shape), dtype=torch.float32)
        if value.shape != x.shape[1:]:
            raise DataError(
                f"{name}[{index}]: the input has the shape {tuple(value.shape)}, that of index 0 has "
                f"{tuple(x.shape[1:])}. Bring the inputs to one shape in the dataset's transform."
            )
        x[index] = value
    finite = x.flatten(1).isfinite().all(1)
    if not finite.all():
        index = int((~finite).nonzero()[0])
        raise DataError(
            f"{name}[{index}]: the input has values that are NaN or out of float32's range. "
            "Replace them in the dataset's transform or leave that example out."
        )
    return Examples(x, y)


def _example(name: str, pair: Any, index: int) -> tuple[Tensor, int]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise DataError(
            f"{name}[{index}]: gives {_described(pair)}, wanted is a pair (input, label). "
            "Wrap the dataset in one whose __getitem__ returns such pairs."
        )
    return _input(name, pair[0], index), _label(name, pair[1], index)


def _input(name: str, value: Any, index: int) -> Tensor:
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        # A copy: arrays may be read-only, big-endian or of unsigned types that tensors lack.
        with np.errstate(over="ignore"):  # what becomes infinite is reported with the rest
            value = torch.from_numpy(value.astype(np.float32))
    if not isinstance(value, Tensor) or value.is_complex() or value.ndim == 0:
        raise DataError(
            f"{name}[{index}]: the input is {_described(value)}, wanted is a tensor or array of real numbers "
            "with at least one axis. Convert it in the dataset's transform (pictures: torchvision's "
            "ToTensor, or numpy.asarray)."
        )
    return value.detach()


def _label(name: str, value: Any, index: int) -> int:
    try:
        label = operator.index(value)
    except TypeError:
        label = -1
    if not 0 <= label <= torch.iinfo(torch.int64).max:
        raise DataError(
            f"{name}[{index}]: the label is {_described(value)}, wanted is an integer from 0. "
            "Convert it in the dataset's target_transform (one-hot labels: argmax)."
        )
    return label


def _described(value: Any) -> str:
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__name__} {tuple(value.shape)} of {value.dtype}"
    if isinstance(value, bool | int | float | str):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} of {len(value)}"
    return f"something of the type {type(value).__name__}"
