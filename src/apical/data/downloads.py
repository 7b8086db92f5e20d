"""Checked downloads: a file is either here whole and verified, or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apical.data.idx import unpacked
from apical.errors import DataError

if TYPE_CHECKING:
    import requests
    from rich.progress import Progress, TaskID

_CHUNK = 1 << 16


@dataclass(frozen=True)
class RemoteFile:
    """A file on a mirror, and how to know it.

    Attributes:
        name: file name, to be appended to a mirror's address.
        size: bytes to fetch.
        checksum: "algorithm:hex digits".
        of_content: the checksum is of what the gzip file holds, which does not depend on who compressed it.
    """

    name: str
    size: int
    checksum: str
    of_content: bool = False

    def mismatch(self, path: Path) -> str | None:
        """Why the file at `path` is not this one, or None where it is."""
        algorithm, wanted = self.checksum.split(":")
        try:
            with unpacked(path) if self.of_content else path.open("rb") as file:
                found = hashlib.file_digest(file, algorithm).hexdigest()
        except ValueError as error:
            return str(error)
        if found == wanted:
            return None
        return f"wrong checksum: {algorithm} {found}, wanted {wanted} (of {path.stat().st_size} bytes received)"


class _WrongContentError(Exception):
    """What a mirror gave is not the file that was asked for."""


def download(
    remote: RemoteFile,
    folder: Path,
    *,
    mirrors: Sequence[str],
    progress: bool = True,
    timeout: float = 30.0,
    remedy: str = "Check the network and try again.",
) -> Path:
    """Fetch one file into `folder` from the first mirror that has it.

    The file gets its name only once it is whole and verified; if anything goes wrong before (Ctrl-C too),
    nothing is left behind. A file of that name that is there already stays as it is.

    Args:
        remote: which file.
        folder: where to; made if it does not exist.
        mirrors: addresses of folders, tried in this order.
        progress: show a bar on standard error.
        timeout: seconds without an answer after which a mirror is given up.
        remedy: what can be done where all fail, for the message of the error.

    Returns:
        The path of the file.

    Raises:
        DataError: no mirror gave the file (the message says why, for each), or `folder` cannot be written.
    """
    import pooch
    import requests

    failures = []
    for mirror in mirrors:
        url = f"{mirror.rstrip('/')}/{remote.name}"
        try:
            with _quiet(pooch.get_logger()), _Bar(remote, shown=progress) as bar:
                # pooch writes to a temporary file, which it moves into place or removes.
                pooch.retrieve(url, None, fname=remote.name, path=folder, downloader=_checked(remote, bar, timeout))
            return folder / remote.name
        except requests.RequestException as error:
            failures.append(f"{url}: {_reason(error)}")
        except _WrongContentError as error:
            failures.append(f"{url}: {error}")
        except OSError as error:
            raise DataError(f"{folder}: cannot be written ({error.strerror or error}). {remedy}") from error
    tried = "".join(f"\n  {failure}" for failure in failures) or " no mirror was named."
    raise DataError(f"{remote.name} could not be downloaded:{tried}\n{remedy}")


def _checked(remote: RemoteFile, bar: _Bar, timeout: float) -> Any:
    """A downloader for pooch that verifies the temporary file before pooch moves it into place."""
    import pooch

    fetch = pooch.HTTPDownloader(progressbar=bar, chunk_size=_CHUNK, timeout=timeout)

    def downloader(url: str, path: str, owner: Any) -> None:
        fetch(url, path, owner)
        if reason := remote.mismatch(Path(path)):
            raise _WrongContentError(reason)

    return downloader


def _reason(error: requests.RequestException) -> str:
    import requests

    if isinstance(error, requests.HTTPError):
        return f"the server answers {error}"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    innermost: BaseException = error
    while (cause := innermost.__cause__ or innermost.__context__) is not None:
        innermost = cause
    detail = getattr(innermost, "strerror", None) or innermost
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return f"the connection was cut ({detail})"
    if isinstance(error, requests.ConnectionError):
        return f"no connection ({detail})"
    return str(error)


class _Bar:
    """A bar by rich on standard error, with the methods that pooch asks of one."""

    total = 0  # pooch sets it from the server's answer; ours is known beforehand

    def __init__(self, remote: RemoteFile, *, shown: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        self._progress: Progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=Console(stderr=True),
            disable=not shown,
        )
        self._task: TaskID = self._progress.add_task(remote.name, total=remote.size)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, count: int) -> None:
        self._progress.advance(self._task, count)

    def reset(self) -> None:
        self._progress.update(self._task, completed=0)

    def close(self) -> None:
        """Nothing to do: leaving the context stops the bar."""


@contextlib.contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Keep pooch's own notes from breaking into the bar."""
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
