"""Files that survive a crash: replaced whole or not at all, appended line by line, locked against a second writer."""

import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from apical.errors import RunError

REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EROFS: "choose a folder on a disk that can be written",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.ENOTDIR: "choose a path whose parents are folders",
}


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write `path` into a `RunError` with a remedy."""
    try:
        yield
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "")
        raise RunError(f"cannot write {path}: {error.strerror or error}" + (f"; {remedy}" if remedy else "")) from error


def make_folder(folder: Path) -> None:
    """Make a folder, and its parents, where it is missing.

    Raises:
        RunError: it cannot be made.
    """
    with file_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


def atomic_write(path: Path, content: bytes) -> None:
    """Write a file so that at every moment either the old one or the new one is there, whole.

    The content goes to a temporary file beside it, to the disk, and then takes the name.

    Raises:
        RunError: it cannot be written; the old file is untouched and no temporary one is left.
    """
    with file_errors(path):
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def atomic_write_json(path: Path, document: Mapping[str, Any]) -> None:
    """`atomic_write` with a JSON document, indented."""
    atomic_write(path, (json.dumps(document, indent=2, allow_nan=False) + "\n").encode())


def sync_folder(folder: Path) -> None:
    """Bring a folder's list of names to the disk; without it a renamed file may be lost in a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporaries(folder: Path) -> None:
    """Remove what a killed `atomic_write` left. Only while the folder's lock is held."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def append_line(path: Path, record: Mapping[str, Any], *, sync: bool) -> None:
    """Add one JSON object as a line.

    Args:
        path: of the file; made when it is missing.
        record: what to write; NaN and infinity are refused.
        sync: wait until it is on the disk.

    Raises:
        RunError: it cannot be written.
    """
    line = json.dumps(record, allow_nan=False) + "\n"
    with file_errors(path), path.open("ab") as file:
        file.write(line.encode())
        if sync:
            file.flush()
            os.fsync(file.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file of lines; a last line without its end is still being written and left out."""
    if not path.exists():
        return []
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    return [json.loads(line) for line in whole.splitlines()]


def truncate(path: Path, size: int) -> None:
    """Shorten a file of lines to its first `size` bytes.

    Raises:
        RunError: it is shorter than that already, or cannot be written.
    """
    with file_errors(path), path.open("ab") as file:
        if file.tell() < size:
            raise RunError(
                f"{path} has {file.tell()} bytes, and had {size} when the checkpoint was written: it was changed since"
            )
        file.truncate(size)
        os.fsync(file.fileno())


def drop_partial_line(path: Path) -> None:
    """Cut off a last line that a killed process did not finish."""
    if path.exists():
        content = path.read_bytes()
        truncate(path, len(content.rpartition(b"\n")[0]) + 1 if b"\n" in content else 0)


@contextmanager
def locked(folder: Path, doing: str) -> Iterator[None]:
    """Hold the folder alone, among processes that ask; the lock ends with the process, however it ends.

    Args:
        folder: that exists.
        doing: what is held off, for the message, such as "training".

    Raises:
        RunError: another process has it.
    """
    path = folder / ".lock"
    with file_errors(path):
        file = path.open("a+")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise RunError(f"{folder} is in use by {owner}: wait for it, stop it, or choose another folder") from error
        with file_errors(path):
            file.truncate(0)
            file.write(f"process {os.getpid()} ({doing})")
            file.flush()
        yield
