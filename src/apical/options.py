"""Checks of options: one of some names, a range, and the message for a name that does not exist."""

import difflib
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from numbers import Real

from apical.errors import ConfigError

# What PyTorch users and papers call things, where spelling alone would not find ours.
SYNONYMS = {
    "learning_rate": "lr",
    "eta": "lr",
    "wd": "weight_decay",
    "decay": "weight_decay",
    "dataset": "task",
    "data": "task",
    "network": "model",
    "net": "model",
    "batch": "batch_size",
    "bs": "batch_size",
    "scheduler": "schedule",
    "grad_clip": "clip",
    "early_stopping": "patience",
    "algorithm": "rule",
    "criterion": "loss",
}


def offered(group: str) -> Sequence[EntryPoint]:
    """The entry points of a group, searched once for each `sys.path`: a search reads a file of every package."""
    return _offered(group, tuple(sys.path))


@cache
def _offered(group: str, path: tuple[str, ...]) -> Sequence[EntryPoint]:
    return tuple(entry_points(group=group))


def check_choice(what: str, option: str, value: str | None, known: Sequence[str | None]) -> None:
    """Refuse a value that is none of those known.

    Args:
        what: has the option: a rule, a neuron.
        option: its name.
        value: as it was given.
        known: at least one.
    """
    if value not in known:
        *others, last = map(repr, known)
        choice = f"{', '.join(others)} or {last}" if others else last
        raise ConfigError(f"{what}: {option}={value!r} is unknown; use {choice}.")


def check_numbers(what: str, **options: object) -> None:
    """Refuse options that are not numbers: text, and tensors, which would look as if they were learned."""
    for option, value in options.items():
        if isinstance(value, bool) or not isinstance(value, Real):
            raise ConfigError(f"{what}: {option} is a {type(value).__name__}, and must be a number.")


def check_positive(what: str, **options: float) -> None:
    """Refuse options that are not positive, finite numbers."""
    check_numbers(what, **options)
    for option, value in options.items():
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{what}: {option}={value!r} must be a positive number.")


def check_signs(given: object, *, positive: Sequence[str] = (), not_negative: Sequence[str] = ()) -> None:
    """Refuse attributes of `given` that are not positive, finite numbers, or that are negative.

    Args:
        given: a neuron, a synapse; its class is named in the message.
        positive: attributes.
        not_negative: attributes.
    """
    what = type(given).__name__
    check_positive(what, **{option: getattr(given, option) for option in positive})
    for option in not_negative:
        value = getattr(given, option)
        if not value >= 0:
            raise ConfigError(f"{what}: {option}={value!r} must not be negative.")


def check_ranges(what: str, given: object, ranges: Mapping[str, tuple[bool, str]]) -> None:
    """Refuse options outside their ranges.

    Args:
        what: has the options: a rule, a neuron.
        given: has them as attributes.
        ranges: for each option, whether its value is inside, and the range in words.
    """
    for option, (inside, words) in ranges.items():
        if not inside:
            raise ConfigError(f"{what}: {option}={getattr(given, option)!r} must be {words}.")


def suggestion(wrong: str, allowed: Iterable[str]) -> str:
    """`"; did you mean 'epochs'?"`, or an empty string when nothing is near.

    Args:
        wrong: what was written.
        allowed: what could have been.
    """
    meant = {name.partition(":")[0]: name for name in allowed}
    meant |= {synonym: name for synonym, name in SYNONYMS.items() if name in meant}
    near = difflib.get_close_matches(wrong, meant, n=1, cutoff=0.5)
    return f"; did you mean {meant[near[0]]!r}?" if near else ""


def unknown(kind: str, wrong: str, allowed: Iterable[str]) -> str:
    """`unknown KIND 'wrong'; did you mean 'right'? Allowed: ...`."""
    names = list(allowed)
    hint = suggestion(wrong, names) or ";"
    return f"unknown {kind} {wrong!r}{hint} allowed: {', '.join(names) or 'none'}"
