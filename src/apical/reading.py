"""Reading files that may be anything: only regular ones are opened, so that a pipe cannot block."""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file to read its bytes; a link to one is followed.

    Raises:
        OSError: it cannot be read, or is a pipe, a device, a socket or a folder.
    """
    # Without O_NONBLOCK, opening a pipe that has no writer waits for one.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path) -> bytes:
    """All bytes of a regular file; see `open_regular`."""
    with open_regular(path) as file:
        return file.read()
