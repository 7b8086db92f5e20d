"""The batches of CIFAR-10: pickles, read without giving them a chance to run anything.

An ordinary pickle may call any function. These files need only the few that rebuild an array, and the
unpickler here knows nothing else. They were written by Python 2 (later tools write the same content in
Python 3's manner), so names arrive as bytes.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from apical.errors import DataError
from apical.reading import open_regular

_REMEDY = "Delete its folder (the set is then downloaded again) or replace the file by a sound copy."


def read_batch(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The pictures, (n, 3, 32, 32), and labels, (n,), of one batch file.

    Raises:
        DataError: the file cannot be read, is not a CIFAR-10 batch, or asks for more than arrays.
    """
    try:
        with open_regular(path) as file:
            content = _ArraysOnly(file, encoding="bytes").load()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). {_REMEDY}") from error
    except Exception as error:  # a damaged pickle may raise anything at all
        reason = str(error) or type(error).__name__
        raise DataError(f"{path}: damaged or not a CIFAR-10 batch ({reason}). {_REMEDY}") from error
    if not isinstance(content, Mapping):
        raise DataError(f"{path}: holds {type(content).__name__}, not the mapping of a CIFAR-10 batch. {_REMEDY}")
    entries = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in content.items()}
    pixels, labels = _entry(path, entries, "data"), _entry(path, entries, "labels")
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != 3072:
        raise DataError(
            f"{path}: 'data' is {pixels.shape} of {pixels.dtype}, in a CIFAR-10 batch it is (n, 3072) of "
            f"uint8. {_REMEDY}"
        )
    if labels.shape != pixels.shape[:1] or labels.dtype.kind not in "iu":
        raise DataError(
            f"{path}: 'labels' is {labels.shape} of {labels.dtype} for {len(pixels)} pictures, "
            f"wanted is one integer for each. {_REMEDY}"
        )
    return pixels.reshape(-1, 3, 32, 32), labels.astype(np.int64)


def _entry(path: Path, entries: Mapping[Any, Any], key: str) -> npt.NDArray[Any]:
    if key not in entries:
        raise DataError(f"{path}: has no entry '{key}', only {sorted(map(str, entries))}. {_REMEDY}")
    try:
        return np.asarray(entries[key])
    except ValueError as error:  # lists of unequal lengths
        raise DataError(f"{path}: '{key}' is not an array ({error}). {_REMEDY}") from error


class _ArraysOnly(pickle.Unpickler):
    """An unpickler for basic types and numeric arrays; any other name in the file is an error."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which has no place in a data file") from None


def _new_array(_kind: object, _shape: object, _code: object) -> npt.NDArray[Any]:
    return np.empty(0, np.uint8)  # the array's own state, shape and type, is set right afterwards


def _dtype(code: str | bytes, _align: object = False, _copy: object = False) -> np.dtype[Any]:
    dtype = np.dtype(code.decode("ascii") if isinstance(code, bytes) else code)
    if dtype.kind not in "biuf":
        raise pickle.UnpicklingError(f"it holds an array of {dtype}, not of numbers")
    return dtype


def _from_buffer(buffer: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any) -> npt.NDArray[Any]:
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


def _encode(text: str, encoding: str) -> bytes:
    return text.encode(encoding)


def _empty_bytes() -> bytes:
    return b""


_ADMITTED: Mapping[str, Any] = {
    "numpy.ndarray": None,  # only ever handed on to _new_array, which needs no type
    "numpy.dtype": _dtype,
    "numpy.core.multiarray._reconstruct": _new_array,
    "numpy._core.multiarray._reconstruct": _new_array,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy._core.numeric._frombuffer": _from_buffer,
    # How Python 3 writes bytes in the protocols of Python 2.
    "_codecs.encode": _encode,
    "__builtin__.bytes": _empty_bytes,
}
