"""Open tables of settings: a name, and the options that this name takes, of the types that they have in Python.

An option is checked by the annotation of the constructor's argument of its name, and kept as it is there.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator

from apical.errors import ApicalError
from apical.options import unknown
from apical.study.configuration import parsing
from apical.study.configuration.parsing import KeyPath, SettingError

NAMED_TABLES = ("rule", "optimizer", "schedule", "feedback", "stream", "protect")
SPECIAL = ",:'\"[]{} \t\n"  # a text that holds one of these is quoted in a label
_ONE_LINE = re.compile(r"(?P<name>(?:[^=]*?\.py:)?[^:]*)(?::(?P<options>.*))?", re.DOTALL)

Model = TypeVar("Model", bound=BaseModel)


class Table(BaseModel):
    """A table of settings: immutable, no unknown keys, no silent conversions (`"5"` is text)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class NamedTable(Table):
    """A table that its name alone can stand for."""

    name: str

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    def _set(self, key: str, value: Any) -> None:
        """Set an option, or leave it out (None), while the table is being checked; afterwards it is frozen."""
        assert self.__pydantic_extra__ is not None
        self.__pydantic_extra__[key] = value
        if value is None:
            del self.__pydantic_extra__[key]


class OpenTable(NamedTable):
    """A named table with the options that its name takes beside the settings that every such table has."""

    model_config = ConfigDict(extra="allow")

    @property
    def options(self) -> dict[str, Any]:
        """These options, as they were given."""
        return dict(self.model_extra or {})

    def _check_options(self, constructor: Callable[..., Any], allowed: Sequence[str], make: Callable[[], Any]) -> None:
        """Refuse options that a constructor does not take or with values that it refuses; keep them as converted."""
        self._convert(constructor, allowed, f"option of {self.name}")
        try:
            make()
        except (ApicalError, ValueError, TypeError, RuntimeError) as error:
            raise SettingError(str(error), key=named_in(str(error), self.options)) from error

    def _convert(self, constructor: Callable[..., Any], allowed: Sequence[str], kind: str) -> None:
        hints, parameters = get_type_hints(constructor), inspect.signature(constructor).parameters
        for key, value in self.options.items():
            if key not in allowed:
                raise SettingError(unknown(kind, key, allowed), key=key)
            converted = convert(self.name, key, value, hints.get(key, Any))
            if converted is None and parameters[key].default is not None:
                raise SettingError(f"{self.name} takes None from Python alone; a file has no None", key=key)
            self._set(key, converted)  # None is its default

    @property
    def label(self) -> str:
        """The name and its options on one line, the reverse of `parse`: `sign_symmetry:magnitude=fixed`."""
        options = (f"{key}={parsing.write_value(value, special=SPECIAL)}" for key, value in _flat(self.options))
        return ":".join(filter(None, (self.name, ",".join(options))))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a table as it is written on one line: `backprop`, `sign_symmetry:magnitude=fixed,seed=1`.

        Raises:
            ConfigError: an unknown name or option, one that is given twice, or a value that is refused.
        """
        what = cls.__name__.removesuffix("Config").lower()
        found = _ONE_LINE.fullmatch(text.strip())
        assert found is not None
        table: dict[str, Any] = {"name": found["name"].strip()}
        options = parsing.split_list(found["options"] or "")
        for _, path, value in parsing.parse_settings(options, flag=f"{what} {text!r}:"):
            parsing.put(table, path, value, origin=f"{what} {text!r}", named=NAMED_TABLES)
        return validate(cls, table, lambda path: f"{what} {text!r}")

    def without_seed(self) -> Self:
        """The same, for where its seed goes without saying."""
        options = {key: value for key, value in self.options.items() if key != "seed"}
        return type(self).model_validate({"name": self.name, **options})


def validate(model: type[Model], table: Mapping[str, Any], place: Callable[[KeyPath], str]) -> Model:
    """A configuration, or one of its tables, from nested settings.

    Args:
        model: the class.
        table: the settings.
        place: from the path of a key to where it was written ("" when unknown).

    Raises:
        ConfigError: a wrong key or value.
    """
    made = model.__new__(model)
    try:
        BaseModel.__init__(made, **table)  # not Config's own, which could not tell the place
        return made
    except ValidationError as error:
        raise parsing.explain(error, model, place) from None


def convert(name: str, key: str, value: Any, hint: Any) -> Any:
    """A value of an option, of the type that its hint says; a text "None" where None is meant.

    Raises:
        SettingError: it is of another type; nothing is converted that would lose anything, or guess.
    """
    adapter: TypeAdapter[Any] = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True, strict=True))
    given = tuple(value) if isinstance(value, list) and get_origin(hint) is tuple else value
    try:
        found = adapter.validate_python(None if value == "None" else given)
        return list(found) if isinstance(found, tuple) else found  # TOML and JSON have no tuples
    except ValidationError as error:
        if value == "none" and type(None) in get_args(hint):
            return None
        problems = [item for item in error.errors() if item["type"] != "is_instance_of"] or error.errors()
        reasons = "; ".join(dict.fromkeys(item["msg"] for item in problems))
        raise SettingError(f"{name} cannot take {value!r}: {reasons}", key=key) from error


def _flat(options: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Options as they are written on one line: `feedback=kolen_pollack`, `feedback.scale=0.5`."""
    for key, value in options.items():
        if not isinstance(value, Mapping):
            yield key, value
            continue
        for inner, own in value.items():
            yield (key if inner == "name" else f"{key}.{inner}"), own


def named_in(message: str, options: Mapping[str, Any]) -> str | None:
    """The option that a message is about, by its name."""
    return next((key for key in options if key.removesuffix("s") in message.lower()), None)
