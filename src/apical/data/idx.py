"""The idx format of MNIST and its relatives.

A file is: two zero bytes, a type code, the number of axes, each axis' length as a big-endian 32-bit integer,
then the values in row-major order, big-endian. Files may be compressed with gzip; that is seen from their
first bytes, not from their name.
"""

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from apical.errors import DataError
from apical.reading import open_regular

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP = b"\x1f\x8b"
_MOST_PACKED = 1032  # bytes that deflate can hold in one


def read_idx(path: Path) -> npt.NDArray[Any]:
    """The array in an idx file, plain or gzipped: read-only, big-endian as stored.

    Raises:
        DataError: the file cannot be read, is not an idx file, or is shorter or longer than its header says.
    """
    try:
        with unpacked(path) as file:
            return _array(path, file, max(len(_GZIP), path.stat().st_size) * _MOST_PACKED)
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}). Check that it is a file that you may read."
        ) from error


@contextmanager
def unpacked(path: Path) -> Iterator[BufferedIOBase]:
    """A file to read: its bytes, or what they hold if they are gzip's.

    Raises:
        OSError: see `apical.reading.open_regular`.
        ValueError: gzip's data are truncated or damaged.
    """
    with open_regular(path) as raw:
        packed = raw.read(len(_GZIP)) == _GZIP
        raw.seek(0)
        try:
            yield gzip.GzipFile(fileobj=raw) if packed else raw
        except EOFError as error:
            raise ValueError("its gzip data are truncated") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"its gzip data are damaged ({error})") from error


def _array(path: Path, file: BufferedIOBase, most: int) -> npt.NDArray[Any]:
    """The array in a stream, of which no more is unpacked than its header says.

    Args:
        path: for messages.
        file: plain.
        most: bytes that the file can hold at all.
    """
    head = file.read(4)
    if len(head) < 4:
        raise _damaged(path, f"it has {len(head)} bytes, too few for an idx header")
    zeros, code, axes = struct.unpack(">HBB", head)
    if zeros != 0 or code not in _TYPES or axes == 0:
        raise _damaged(path, f"it starts with the bytes {head.hex(' ')}, which no idx file does")
    lengths = file.read(4 * axes)
    if len(lengths) < 4 * axes:
        raise _damaged(path, f"it ends within its header of {4 + 4 * axes} bytes")
    shape = struct.unpack(f">{axes}I", lengths)
    dtype = np.dtype(_TYPES[code])
    wanted = math.prod(shape) * dtype.itemsize
    content = file.read(min(wanted, most) + 1)
    if len(content) != wanted:
        difference = "truncated" if len(content) < wanted else "longer than its header says"
        raise _damaged(path, f"it is {difference}: {len(content)} bytes of values, {wanted} for the shape {shape}")
    try:
        return np.frombuffer(content, dtype).reshape(shape)
    except ValueError as error:  # more axes than NumPy has
        raise _damaged(path, f"its shape {shape} is none ({error})") from error


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(
        f"{path}: {reason}. Delete the file (a standard set is then downloaded again) or replace it by a sound copy."
    )
