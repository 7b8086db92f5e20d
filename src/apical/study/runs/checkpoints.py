"""Checkpoints of one run: written whole, checked when they are read, the one before always kept.

A file is called `<number>.<digest>.pt`: numbers rise from one checkpoint to the next, and the digest is the
beginning of the SHA-256 of the file's own bytes. So one rename publishes the content and its check together,
and a damaged file is known by its name. Each opens with `torch.load(path, weights_only=True)`.
"""

import hashlib
import io
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from apical.errors import CheckpointError
from apical.reading import read_regular
from apical.study.runs import files

FORMAT = 1
NAME = re.compile(r"(\d{6,})\.([0-9a-f]{16})\.pt")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and found whole.

    Attributes:
        path: its file.
        content: what was saved; all tensors on the CPU.
        damaged: newer files that were passed over because they are damaged.
    """

    path: Path
    content: dict[str, Any]
    damaged: tuple[Path, ...] = ()


class Checkpoints:
    """The checkpoints in one folder.

    Args:
        folder: made with the first checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._kept: Path | None = None

    def paths(self) -> list[Path]:
        """Every checkpoint file, oldest first, whole or not."""
        if not self.folder.is_dir():
            return []
        return sorted((path for path in self.folder.iterdir() if NAME.fullmatch(path.name)), key=_number)

    def save(self, content: Mapping[str, Any]) -> Path:
        """Write a checkpoint, and then forget all but it and the last one known to be whole.

        Args:
            content: tensors, numbers, strings, and dicts and lists of them.

        Raises:
            RunError: it cannot be written; what was there before is untouched.
        """
        buffer = io.BytesIO()
        torch.save({"format": FORMAT, **content}, buffer)
        data = buffer.getvalue()
        present = self.paths()
        number = _number(present[-1]) + 1 if present else 1
        path = self.folder / f"{number:06d}.{_digest(data)}.pt"
        files.make_folder(self.folder)
        files.atomic_write(path, data)
        for old in present:
            if old != self._kept:
                with suppress(OSError):  # one that cannot be removed harms nothing
                    old.unlink()
        self._kept = path
        return path

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; None when there has been none.

        Raises:
            CheckpointError: all are damaged, or the newest whole one is of another version of apical.
        """
        damaged: list[Path] = []
        for path in reversed(self.paths()):
            try:
                data = read_regular(path)
            except FileNotFoundError:  # a run that is still training has replaced it meanwhile
                return self.latest()
            except OSError:
                damaged.append(path)
                continue
            if path.name.split(".")[1] != _digest(data):
                damaged.append(path)
                continue
            content = _loaded(path, data)
            if content["format"] != FORMAT:
                raise CheckpointError(
                    f"{path} has format {content['format']}, and this apical reads format {FORMAT}: "
                    "use the version that is in environment.json"
                )
            self._kept = path
            return Checkpoint(path, content, tuple(damaged))
        if damaged:
            names = ", ".join(str(path) for path in damaged)
            raise CheckpointError(f"damaged, with no whole checkpoint before: {names}; train again (overwrite the run)")
        return None


def _loaded(path: Path, data: bytes) -> dict[str, Any]:
    """The content of a file whose name fits its bytes, which any program can write; nothing in it can run."""
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # of an unpickler that reads anything
        raise CheckpointError(f"{path} is not a checkpoint: {str(error).partition(chr(10))[0]}") from error
    if not isinstance(content, dict) or "format" not in content:
        raise CheckpointError(f"{path} is not a checkpoint of apical: it has no format. Remove it.")
    return content


def _number(path: Path) -> int:
    return int(path.name.split(".")[0])


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
