"""A Python file of the user's own: run as it is now, for one function or class in it."""

import functools
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from apical.errors import ConfigError
from apical.options import unknown
from apical.reading import read_regular

_FORM = re.compile(r"(?P<file>.*\.py):(?P<name>[^:]*)")


def split_name(text: str) -> tuple[Path, str] | None:
    """`file.py:name` as the file and the name; None for any other text."""
    found = _FORM.fullmatch(text)
    return (Path(found["file"]).expanduser(), found["name"]) if found else None


def load(file: Path, name: str, what: str) -> Callable[..., Any]:
    """What is called `name` after the file ran.

    Args:
        file: of Python source.
        name: of a function or class in it.
        what: how messages begin, such as "model 'net.py:make'".

    Raises:
        ConfigError: there is no such file or name, or the file fails.
    """
    if not file.is_file():
        raise ConfigError(f"{what}: there is no file {file}")
    try:
        # Its source as it is now: bytecode is cached by second and size, and a small edit may change neither.
        module = runpy.run_path(str(file), run_name=f"apical_model_{file.stem}")
    except Exception as error:
        raise ConfigError(f"{what}: {file} fails: {type(error).__name__}: {error}") from error
    found: Callable[..., Any] | None = module.get(name)
    if not callable(found):
        names = [each for each, value in module.items() if callable(value) and not each.startswith("_")]
        raise ConfigError(f"{what}: {unknown(f'name in {file}', name, names)}")
    return found


def load_once(file: Path, name: str, what: str) -> Callable[..., Any]:
    """`load`, and the same object again while the file holds the same bytes."""
    try:
        content = read_regular(file)
    except OSError as error:
        raise ConfigError(f"{what}: cannot read {file} ({error.strerror}). Check the path.") from error
    return _load(file.absolute(), name, what, content)


@functools.lru_cache(maxsize=64)
def _load(file: Path, name: str, what: str, content: bytes) -> Callable[..., Any]:
    return load(file, name, what)
