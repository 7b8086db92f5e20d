"""Settings as people write them: TOML text, `--set key=value`, and the messages when one is wrong.

All of them lead to one tree of pydantic models. This module finds the line of a key in a TOML file, reads
`rule.beta=0.1`, and turns pydantic's report into sentences that name the key, its place, what was probably
meant, and what is allowed.
"""

import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cache
from typing import Any, Literal, TypeAlias, get_args, get_origin

import tomli_w
from pydantic import BaseModel, ValidationError

from apical.errors import ConfigError
from apical.options import unknown

KeyPath: TypeAlias = tuple[str, ...]
_NUMBER = re.compile(r"[+-]?(\d+\.|\.\d+)([eE][+-]?\d+)?")  # as Python writes numbers and TOML does not: .5 and 5.

WORDS: Mapping[str, bool | None] = {"True": True, "False": False, "None": None}  # as Python writes them
LONGEST = 50  # lines of one statement
MOST_ERRORS = 20  # that one message has
MOST_CHARACTERS = 200  # of a value that a message repeats
DEEPEST = 8  # tables in tables whose lines are found


class SettingError(ValueError):
    """A value that a validator refuses, with the key inside the table that it is about (None: the table)."""

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


def lines_of(text: str) -> dict[KeyPath, int]:
    """The line (from 1) on which valid TOML first gives each key and each table.

    The shortest run of lines that is valid by itself is a statement. So dotted keys, inline tables and values over
    several lines need no parser of our own. A statement of more than `LONGEST` lines ends the search.
    """
    found: dict[KeyPath, int] = {}
    table: KeyPath = ()
    lines, start = text.split("\n"), 0
    while start < len(lines):
        for end in range(start + 1, min(len(lines), start + LONGEST) + 1):
            try:
                parsed = tomllib.loads("\n".join(lines[start:end]))
                break
            except tomllib.TOMLDecodeError:
                continue
        else:
            break
        paths = list(_paths(parsed))
        if lines[start].lstrip().startswith("["):  # the head of a table, [a.b] or [[a.b]]
            table = paths[-1]
            paths = [(*table[:depth],) for depth in range(1, len(table) + 1)]
        else:
            paths = [(*table, *path) for path in paths]
        for path in paths:
            found.setdefault(path, start + 1)
        start = end
    return found


def _paths(table: Mapping[str, Any], depth: int = DEEPEST) -> Iterator[KeyPath]:
    for key, value in table.items():
        yield (key,)
        inner = value[-1] if isinstance(value, list) and value else value
        if isinstance(inner, Mapping) and depth:
            yield from ((key, *path) for path in _paths(inner, depth - 1))


def place_in(text: str, file: str) -> Callable[[KeyPath], str]:
    """A function from a key's path to `file:line`, falling back to the table around it, then to the file."""

    @cache
    def lines() -> dict[KeyPath, int]:
        return lines_of(text)

    def place(path: KeyPath) -> str:
        known = (lines().get(path[:length]) for length in range(len(path), 0, -1))
        line = next((line for line in known if line), None)
        return f"{file}:{line}" if line else file

    return place


def read_toml(text: str) -> dict[str, Any]:
    """`tomllib.loads`, which refuses by one kind of error alone.

    Raises:
        TOMLDecodeError: the text is not TOML, is nested too deeply, or holds a number that is too long.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise tomllib.TOMLDecodeError("arrays or tables are nested too deeply") from None
    except tomllib.TOMLDecodeError:
        raise
    except ValueError as error:  # Python's limit to the digits of a whole number
        raise tomllib.TOMLDecodeError(str(error)) from error


def parse_setting(setting: str, flag: str = "--set") -> tuple[KeyPath, Any]:
    """Read `rule.beta=0.1` into `(("rule", "beta"), 0.1)`.

    The value is read as a TOML literal (`0.1`, `true`, `[1, 2]`, `"text"`, `{name = "adam"}`) or as Python's `True`,
    `False` and `None`; what is none is a bare string, so that `model=mlp:500,500` needs no quotes.

    Raises:
        ConfigError: there is no `=`, the key is empty, or the value opens a quote or bracket and is not TOML.
    """
    key, equals, value = setting.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        raise ConfigError(f"{flag} {setting!r}: write it as key=value, such as seed=1")
    value = value.strip()
    if value in WORDS:
        return path, WORDS[value]
    try:
        table = read_toml(f"value = {value}")
    except tomllib.TOMLDecodeError as error:
        if value[:1] in {'"', "'", "[", "{"}:
            raise ConfigError(f"{flag} {setting}: the value is not valid TOML ({error})") from error
        return path, float(value) if _NUMBER.fullmatch(value) else value
    return path, table["value"] if table.keys() == {"value"} else value


def parse_settings(settings: Iterable[str], flag: str = "--set") -> Iterator[tuple[str, KeyPath, Any]]:
    """Read several settings, each of another key.

    Yields:
        each as it was written, its path and its value.

    Raises:
        ConfigError: `parse_setting` refuses one, or a key is given twice, by itself or in a table.
    """
    found: set[KeyPath] = set()
    for setting in settings:
        path, value = parse_setting(setting, flag)
        inner = [(*path, *own) for own in _paths(value)] if isinstance(value, Mapping) else []
        own = {key[:-1] if len(key) > 1 and key[-1] == "name" else key for key in (path, *inner)}
        lost = {key for key in found if inner and key[: len(path)] == path}
        if again := own & found | lost:
            raise ConfigError(f"{flag} {setting}: {'.'.join(min(again))} is given twice. Leave one of them out.")
        found |= own
        yield setting, path, value


def write_value(value: Any, *, special: str = "") -> str:
    """A value as `parse_setting` reads it back.

    Args:
        value: a switch, a number, a text, None, or lists and tables of them.
        special: characters that a text without quotes must not hold.
    """
    if value is None:
        return "None"
    if isinstance(value, str):
        bare = parse_setting(f"a={value}")[1] if value[:1] not in {'"', "'", "[", "{"} else None
        return value if bare == value and not set(special) & set(value) else _quoted(value)
    return _literal(value)


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_quoted(key)} = {_literal(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return str(value)


def _quoted(text: str) -> str:
    return tomli_w.dumps({"a": text}).removeprefix("a = ").removesuffix("\n")


def split_list(text: str, separator: str = ",") -> list[str]:
    """The parts of a list between separators outside quotes and brackets, stripped, without empty ones.

    Args:
        text: such as `a:x=1,y=[1, 2]`.
        separator: a pattern for one character.
    """
    parts, depth = [""], 0
    for token in re.findall(r"""\"(?:\\.|[^"\\])*"|'[^']*'|.""", text, re.DOTALL):
        depth += (token in ("[", "{")) - (token in ("]", "}"))
        if depth <= 0 and re.fullmatch(separator, token):
            parts.append("")
        else:
            parts[-1] += token
    return [part.strip() for part in parts if part.strip()]


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
    lines, items = [], error.errors()
    for item in items[:MOST_ERRORS]:
        path = tuple(str(part) for part in item["loc"])
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, SettingError) and cause.key is not None:
            path = (*path, cause.key)
        where = place(path)
        lines.append((f"{where}: " if where else "") + _sentence(path, item, cause, model))
    if more := len(items) - len(lines):
        lines.append(f"and {more} more wrong settings")
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
    given = repr(item["input"])
    if len(given) > MOST_CHARACTERS:
        given = given[:MOST_CHARACTERS] + "..."
    return f"{key} = {given}: {message[:1].lower()}{message[1:]}"


def _table(model: type[BaseModel], path: KeyPath) -> type[BaseModel]:
    for key in path:
        inner = model.model_fields[key].annotation
        assert isinstance(inner, type)
        assert issubclass(inner, BaseModel)
        model = inner
    return model
