"""A user's own arrays: `npz:PATH`.

The file is what `numpy.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)` writes. Instead there
may be one pair `x`, `y`: a stratified fifth of it becomes the test part, drawn with the fixed seed 0, so it
is the same in every run. The file is read without pickle, so nothing in it can run.

Inputs are (n, ...), real numbers, the examples along the first axis. What is done to them:

- **Shape.** Pictures (n, height, width) get a channel axis: (n, 1, height, width). Integers of this shape are pictures,
  and floats where height and width are equal. Pictures in colour are (n, channels, height, width); those with the
  channels last are refused. All else keeps its shape.
- **Scale.** `(value - mean) / std` with the statistics of the training part only. There is one mean and one
  deviation for each column of rows (n, features), and for each channel, axis 1, of what has more axes. Rows
  of 8-bit values (uint8) are flattened pictures and share a single one. What is constant in the training
  part is centred, not divided.

Labels are integers from 0, (n,); the number of classes is the largest label plus 1. A warning names labels that no
training example has, and a test part on another scale than the training part.
"""

import math
import os
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch

from apical.data.sampling import stratified_indices
from apical.errors import DataError
from apical.reading import open_regular

_KEYS = ("x_train", "y_train", "x_test", "y_test", "x", "y")
_RENUMBER = "Renumber them: numpy.unique(y, return_inverse=True)[1]."


@dataclass(frozen=True, eq=False)
class Arrays:
    """The raw arrays of a task: x, (n, ...), as stored, y, (n,), int64, and the number of classes."""

    x_train: npt.NDArray[Any]
    y_train: npt.NDArray[np.int64]
    x_test: npt.NDArray[Any]
    y_test: npt.NDArray[np.int64]
    classes: int


def read_npz(path: Path, *, only_to_test: bool = False) -> Arrays:
    """The checked arrays of a user's npz file.

    Args:
        path: of the file.
        only_to_test: the file need not have a training part (which is then empty), and a pair `x`, `y` is not
            split but all test part.

    Raises:
        DataError: the file is missing, damaged or no npz; an array is missing, empty, of another type or
            shape than needed, or holds NaN or infinity; labels are not integers from 0 or do not match the
            inputs.
    """
    stored = _stored(path)
    has_whole, has_test = "x" in stored and "y" in stored, "x_test" in stored and "y_test" in stored
    if has_test and "x_train" in stored and "y_train" in stored:
        x_train, y_train = _pair(path, stored, "x_train", "y_train")
        x_test, y_test = _pair(path, stored, "x_test", "y_test")
        if x_train.shape[1:] != x_test.shape[1:]:
            raise DataError(
                f"{path}: an example of x_train has the shape {x_train.shape[1:]}, of x_test "
                f"{x_test.shape[1:]}. Both parts go into one network: give them one shape."
            )
    elif only_to_test and (has_test or has_whole):
        x_test, y_test = _pair(path, stored, *(("x_test", "y_test") if has_test else ("x", "y")))
        x_train, y_train = x_test[:0], y_test[:0]
    elif has_whole:
        x, y = _pair(path, stored, "x", "y")
        train, test = (part.numpy() for part in stratified_indices(torch.from_numpy(y), 0.2, seed=0))
        x_train, y_train, x_test, y_test = x[train], y[train], x[test], y[test]
    else:
        raise DataError(
            f"{path}: has the arrays {', '.join(sorted(stored)) or 'none at all'}; wanted are x_train, "
            "y_train, x_test and y_test, or x and y. Write them with numpy.savez(path, x=..., y=...)."
        )
    return Arrays(x_train, y_train, x_test, y_test, _classes(path, y_train, y_test))


def _stored(path: Path) -> Mapping[str, npt.NDArray[Any]]:
    try:
        with open_regular(path) as file:
            if file.read(6) == b"\x93NUMPY":
                raise DataError(
                    f"{path}: holds a single array (an npy file), but inputs and labels are needed. "
                    "Write both with numpy.savez(path, x=..., y=...)."
                )
            file.seek(0)
            _check_sizes(path, file)
            file.seek(0)
            content = np.load(file, allow_pickle=False)
            with content:
                # Entries that are not asked for are not read, so they may be anything.
                return {key: content[key] if key in _KEYS else np.empty(0) for key in content.files}
    except FileNotFoundError:
        raise DataError(
            f"{path}: there is no such file. Check the path; a relative one starts at {Path.cwd()}."
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}). Is it an npz file?") from error
    except DataError:
        raise
    except Exception as error:  # a damaged archive may raise anything at all
        if "allow_pickle" in str(error) or "not a zip file" in str(error):
            reason = "is not an npz file, or holds Python objects, which are not read as they could run code"
        else:
            reason = f"is damaged or no npz file ({error})"
        raise DataError(f"{path}: {reason}. Write plain arrays of numbers with numpy.savez.") from error


def _check_sizes(path: Path, file: BinaryIO) -> None:
    """Refuse arrays that claim more than their part of the archive has, or than memory holds, before unpacking."""
    with zipfile.ZipFile(file) as archive:
        parts = [part for part in archive.infolist() if part.filename.removesuffix(".npy") in _KEYS]
        whole = sum(part.file_size for part in parts)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if whole > memory:
            raise DataError(
                f"{path}: its arrays take {whole / 1e9:.0f} GB unpacked, and this machine has {memory / 1e9:.0f} GB of "
                "memory. Take fewer examples."
            )
        for part in parts:
            if part.flag_bits & 1:
                raise DataError(f"{path}: {part.filename} is encrypted. Write plain arrays with numpy.savez.")
            with archive.open(part) as stream:
                version = np.lib.format.read_magic(stream)
                read_header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
                shape, _, dtype = read_header[version[0]](stream)
                claimed = math.prod(shape) * dtype.itemsize
                if not dtype.hasobject and claimed != part.file_size - stream.tell():
                    raise ValueError(f"{part.filename} has {part.file_size} bytes, not those of the shape {shape}")


def _pair(
    path: Path, stored: Mapping[str, npt.NDArray[Any]], x_key: str, y_key: str
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    x, y = _inputs(path, x_key, stored[x_key]), _labels(path, y_key, stored[y_key])
    if len(x) != len(y):
        raise DataError(
            f"{path}: {x_key} has {len(x)} examples, {y_key} {len(y)} labels. "
            "Each input needs the label at the same index."
        )
    return x, y


def _inputs(path: Path, key: str, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if x.dtype.kind not in "biuf":
        raise DataError(f"{path}: {key} is of the type {x.dtype}, wanted are real numbers. Convert it, to float32 say.")
    if x.ndim < 2 or x.size == 0:
        raise DataError(
            f"{path}: {key} has the shape {x.shape}, wanted are examples along the first axis and their "
            f"values along further ones, none of length 0. Single numbers need an axis: {key}[:, None]."
        )
    if x.dtype.kind == "f":
        finite = np.isfinite(x)
        if not finite.all():
            index = tuple(int(i) for i in np.argwhere(~finite)[0])
            raise DataError(
                f"{path}: {key} has {x.size - np.count_nonzero(finite)} values that are NaN or infinite, the "
                f"first at {index}. Replace them or leave those examples out."
            )
    if x.ndim == 3 and (x.dtype.kind != "f" or x.shape[1] == x.shape[2] > 1):
        return x[:, None]
    if x.ndim == 4 and x.shape[3] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
        raise DataError(
            f"{path}: {key} has the shape {x.shape}, which looks like pictures with their channels last. "
            f"Layers want (n, channels, height, width): numpy.moveaxis({key}, -1, 1)."
        )
    return x


def _labels(path: Path, key: str, y: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise DataError(
            f"{path}: {key} is {y.shape} of {y.dtype}, wanted is one integer for each example, (n,). "
            f"Whole numbers of another type: {key}.astype(int); a column: {key}.ravel(); one-hot rows: "
            f"{key}.argmax(1)."
        )
    if y.size and y.min() < 0:
        index = int(np.argmax(y < 0))
        raise DataError(f"{path}: {key} has the label {y[index]} at {index}, labels start at 0. {_RENUMBER}")
    if y.size and y.max() > np.iinfo(np.int32).max:
        index = int(y.argmax())
        raise DataError(f"{path}: {key} has the label {y[index]} at {index}, which is not a class index. {_RENUMBER}")
    return y.astype(np.int64)


def _classes(path: Path, y_train: npt.NDArray[np.int64], y_test: npt.NDArray[np.int64]) -> int:
    largest = int(np.concatenate([y_train, y_test]).max())
    if len(y_train) and y_train.min() == y_train.max():
        raise DataError(
            f"{path}: every label is {y_train[0]}, so there is nothing to tell apart in training. Check the labels."
        )
    if len(y_train) and largest >= len(y_train):
        raise DataError(
            f"{path}: the label {largest} asks for {largest + 1} classes, more than the {len(y_train)} "
            f"training examples. {_RENUMBER}"
        )
    if len(y_train):
        _name_missing(path, y_train, y_test, largest + 1)
    return largest + 1


def _name_missing(path: Path, y_train: npt.NDArray[np.int64], y_test: npt.NDArray[np.int64], classes: int) -> None:
    """Warn of classes that no example has, and of those that only test examples have."""
    taught, tested = np.bincount(y_train, minlength=classes) > 0, np.bincount(y_test, minlength=classes) > 0
    for missing, where, remedy in (
        (~taught & ~tested, "in no example", _RENUMBER),
        (~taught & tested, "in test examples alone, so they cannot be learned", "Check how the parts were cut."),
    ):
        if missing.any():
            labels = np.flatnonzero(missing)
            shown = ", ".join(map(str, labels[:10])) + (", ..." if len(labels) > 10 else "")
            warnings.warn(f"{path}: of {classes} classes these are {where}: {shown}. {remedy}", stacklevel=5)
