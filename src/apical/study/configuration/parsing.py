"""Settings as people write them: TOML text, `--set key=value`, and the messages when one is wrong.

All of them lead to one tree of pydantic models. This module finds the line of a key in a TOML file, reads
`rule.beta=0.1`, and turns pydantic's report into sentences that name the key, its place, what was probably
meant, and what is allowed.
"""

import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, TypeAlias, get_args, get_origin

from pydantic import BaseModel, ValidationError

from apical.errors import ConfigError
from apical.options import unknown

KeyPath: TypeAlias = tuple[str, ...]
_NUMBER = re.compile(r"[+-]?(\d+\.|\.\d+)([eE][+-]?\d+)?")  # as Python writes numbers and TOML does not: .5 and 5.


class SettingError(ValueError):
    """A value that a validator refuses, with the key inside the table that it is about (None: the table)."""

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


def line_of(text: str, path: KeyPath) -> int | None:
    """The line (from 1) on which TOML `text` gives the value at `path`; None if it never does.

    The shortest run of lines that is valid TOML and holds the path ends with the statement that gives it. So
    dotted keys, inline tables and values over several lines need no parser of our own.
    """
    lines = text.splitlines()
    start = 1
    for count in range(1, len(lines) + 1):
        try:
            table: Any = tomllib.loads("\n".join(lines[:count]))
        except tomllib.TOMLDecodeError:
            continue
        for key in path:
            if not isinstance(table, dict) or key not in table:
                break
            table = table[key]
        else:
            return start
        start = count + 1
    return None


def place_in(text: str, file: str) -> Callable[[KeyPath], str]:
    """A function from a key's path to `file:line`, falling back to the table around it, then to the file."""

    def place(path: KeyPath) -> str:
        for length in range(len(path), 0, -1):
            line = line_of(text, path[:length])
            if line is not None:
                return f"{file}:{line}"
        return file

    return place


def parse_setting(setting: str, flag: str = "--set") -> tuple[KeyPath, Any]:
    """Read `rule.beta=0.1` into `(("rule", "beta"), 0.1)`.

    The value is read as a TOML literal (`0.1`, `true`, `[1, 2]`, `"text"`, `{name = "adam"}`); what is none is
    a bare string, so that `model=mlp:500,500` needs no quotes.

    Raises:
        ConfigError: there is no `=`, the key is empty, or the value opens a quote or bracket and is not TOML.
    """
    key, equals, value = setting.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        raise ConfigError(f"{flag} {setting!r}: write it as key=value, for example {flag} optimizer.lr=0.05")
    value = value.strip()
    try:
        table = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError as error:
        if value[:1] in {'"', "'", "[", "{"}:
            raise ConfigError(f"{flag} {setting}: the value is not valid TOML ({error})") from error
        return path, float(value) if _NUMBER.fullmatch(value) else value
    return path, table["value"] if table.keys() == {"value"} else value


def put(table: dict[str, Any], path: KeyPath, value: Any, *, origin: str, named: Collection[str]) -> None:
    """Set `path` inside the nested `table`, in place.

    Args:
        table: nested dicts, as a TOML file gives them.
        path: where to.
        value: what.
        origin: how to call this setting in an error.
        named: the tables that may be given by their name alone (`rule = "backprop"`).

    Raises:
        ConfigError: the path leads through a plain value, such as `epochs.x`.
    """
    *parents, last = path
    for depth, key in enumerate(parents, 1):
        inner = table.get(key, {})
        if isinstance(inner, str) and key in named:
            inner = {"name": inner}
        if not isinstance(inner, dict):
            raise ConfigError(f"{origin}: {'.'.join(parents[:depth])!r} is one value, not a table of settings")
        table[key] = inner
        table = inner
    inner = table.get(last)
    if last in named and isinstance(inner, dict) and "name" not in inner and isinstance(value, str):
        inner["name"] = value  # the options were given before the name that they belong to
    else:
        table[last] = value


def explain(error: ValidationError, model: type[BaseModel], place: Callable[[KeyPath], str]) -> ConfigError:
    """Pydantic's report in our words, one line for each wrong setting.

    Args:
        error: what pydantic raised while it built `model`.
        model: the top of the tree of models.
        place: from the path of a key to where it was written ("" when unknown).
    """
    lines = []
    for item in error.errors():
        path = tuple(str(part) for part in item["loc"])
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, SettingError) and cause.key is not None:
            path = (*path, cause.key)
        where = place(path)
        lines.append((f"{where}: " if where else "") + _sentence(path, item, cause, model))
    return ConfigError("\n".join(lines))


def _sentence(path: KeyPath, item: Mapping[str, Any], cause: object, model: type[BaseModel]) -> str:
    key = ".".join(path)
    if isinstance(cause, ValueError):
        return f"{key}: {cause}" if key else str(cause)
    if item["type"] == "extra_forbidden":
        inside = _table(model, path[:-1])
        kind = f"setting in [{'.'.join(path[:-1])}]" if path[:-1] else "setting"
        return unknown(kind, path[-1], inside.model_fields)
    if item["type"] == "literal_error":
        hint: Any = _table(model, path[:-1]).model_fields[path[-1]].annotation
        while get_origin(hint) is not Literal:  # that of an optional setting
            hint = get_args(hint)[0]
        return f"{key}: {unknown('value', str(item['input']), map(str, get_args(hint)))}"
    message = item["msg"]
    return f"{key} = {item['input']!r}: {message[:1].lower()}{message[1:]}"


def _table(model: type[BaseModel], path: KeyPath) -> type[BaseModel]:
    for key in path:
        inner = model.model_fields[key].annotation
        assert isinstance(inner, type)
        assert issubclass(inner, BaseModel)
        model = inner
    return model
