"""The idx format of MNIST and its relatives.

A file is: two zero bytes, a type code, the number of axes, each axis' length as a big-endian 32-bit integer,
then the values in row-major order, big-endian. Files may be compressed with gzip; that is seen from their
first bytes, not from their name.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from apical.errors import DataError

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP = b"\x1f\x8b"


def read_idx(path: Path) -> npt.NDArray[Any]:
    """The array in an idx file, plain or gzipped: read-only, big-endian as stored.

    Raises:
        DataError: the file cannot be read, is not an idx file, or is shorter or longer than its header says.
    """
    content = _content(path)
    if len(content) < 4:
        raise _damaged(path, f"it has {len(content)} bytes, too few for an idx header")
    zeros, code, axes = struct.unpack_from(">HBB", content)
    if zeros != 0 or code not in _TYPES or axes == 0:
        raise _damaged(path, f"it starts with the bytes {content[:4].hex(' ')}, which no idx file does")
    start = 4 + 4 * axes
    if len(content) < start:
        raise _damaged(path, f"it ends within its header of {start} bytes")
    shape = struct.unpack_from(f">{axes}I", content, 4)
    dtype = np.dtype(_TYPES[code])
    wanted = start + math.prod(shape) * dtype.itemsize
    if len(content) != wanted:
        difference = "truncated" if len(content) < wanted else "longer than its header says"
        raise _damaged(path, f"it is {difference}: {len(content)} bytes, {wanted} for the shape {shape}")
    return np.frombuffer(content, dtype, offset=start).reshape(shape)


def _content(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}). Check that it is a file that you may read."
        ) from error
    try:
        return decompressed(raw)
    except ValueError as error:
        raise _damaged(path, str(error)) from error


def decompressed(raw: bytes) -> bytes:
    """The bytes themselves, or what they hold if they are gzip's.

    Raises:
        ValueError: gzip's data are truncated or damaged.
    """
    if not raw.startswith(_GZIP):
        return raw
    try:
        return gzip.decompress(raw)
    except EOFError as error:
        raise ValueError("its gzip data are truncated") from error
    except (OSError, zlib.error) as error:
        raise ValueError(f"its gzip data are damaged ({error})") from error


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(
        f"{path}: {reason}. Delete the file (a standard set is then downloaded again) or replace it by a sound copy."
    )
