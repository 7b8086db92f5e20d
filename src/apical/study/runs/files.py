"""Files that survive a crash: replaced whole or not at all, appended line by line, locked against a second writer."""

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from apical.errors import RunError
from apical.reading import read_regular

REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EROFS: "choose a folder on a disk that can be written",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.ENOTDIR: "choose a path whose parents are folders",
    errno.EEXIST: "choose a path whose parents are folders",
    errno.ELOOP: "remove the link",
    errno.ENXIO: "remove what is there, which is not a file",
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


def write_sealed(path: Path, document: Mapping[str, Any]) -> None:
    """`atomic_write_json` with a digest of the document in it, which `read_sealed` checks."""
    atomic_write_json(path, {**document, "digest": _seal(document)})


def read_sealed(path: Path, needs_seal: Callable[[Mapping[str, Any]], bool] = lambda content: True) -> dict[str, Any]:
    """The document that `write_sealed` wrote.

    Args:
        path: of the file.
        needs_seal: whether a document must have its digest; those of earlier versions of apical have none.

    Raises:
        RunError: it is missing, damaged, or was changed since.
    """
    try:
        document = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is missing or damaged: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(document, dict):
        raise RunError(f"{path} is damaged: it holds {type(document).__name__}, not a table")
    digest = document.pop("digest", None)
    if digest != _seal(document) and (digest is not None or needs_seal(document)):
        raise RunError(f"{path} was changed since it was written: its digest is another. Restore it, or train again.")
    return document


def _seal(document: Mapping[str, Any]) -> str:
    as_read = json.loads(json.dumps(document))  # tuples are lists then, and all keys texts
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()


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


def append_line(path: Path, record: Mapping[str, Any], *, sync: bool) -> bytes:
    """Add one JSON object as a line, and return the line.

    Args:
        path: of the file; made when it is missing.
        record: what to write; NaN and infinity are refused.
        sync: wait until it is on the disk.

    Raises:
        RunError: it cannot be written.
    """
    written = line(record)
    with file_errors(path), path.open("ab") as file:
        file.write(written)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    return written


def line(record: Mapping[str, Any]) -> bytes:
    """A record as a line of a file; NaN and infinity are refused."""
    return (json.dumps(record, allow_nan=False) + "\n").encode()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file of lines; a last line without its end is still being written and left out.

    Raises:
        RunError: the file cannot be read, or a line is damaged.
    """
    records, damaged = readable_lines(path)
    if damaged:
        raise RunError(f"{path} is damaged: line {damaged[0]} is not a record. Train the run again (overwrite it).")
    return records


def readable_lines(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The JSON objects of a file of lines, and the numbers (from 1) of the lines that are none."""
    records, damaged = [], []
    for number, text in enumerate(content(path).rpartition(b"\n")[0].split(b"\n"), 1):
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict):
            records.append(record)
        elif text or number > 1:
            damaged.append(number)
    return records, damaged


def content(path: Path) -> bytes:
    """All of a file; nothing where there is none.

    Raises:
        RunError: it cannot be read.
    """
    try:
        return read_regular(path)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}. Make it readable, or remove it.") from error


def truncate(path: Path, size: int) -> None:
    """Shorten a file of lines to its first `size` bytes.

    Raises:
        RunError: it cannot be written.
    """
    with file_errors(path), path.open("ab") as file:
        file.truncate(min(size, file.tell()))
        os.fsync(file.fileno())


def drop_partial_line(path: Path) -> None:
    """Cut off a last line that a killed process did not finish."""
    if path.exists():
        truncate(path, content(path).rfind(b"\n") + 1)


def refuse_several_ranks(folder: Path) -> None:
    """Refuse to write a folder from several processes of one launch.

    Raises:
        RunError: a launcher such as torchrun started more than this one.
    """
    count = os.environ.get("WORLD_SIZE", "1")
    if count.isdecimal() and int(count) > 1:
        raise RunError(
            f"{folder}: WORLD_SIZE is {count}, so a launcher started as many processes, and each would write this "
            "folder. Start one process (without torchrun); distributed training takes a Circuit in a loop of your own."
        )


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
    refuse_several_ranks(folder)
    with file_errors(path):
        # Not through a link, which would lead to a file of other people's that is then emptied.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        file = os.fdopen(os.open(path, flags, 0o666), "r+")
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
