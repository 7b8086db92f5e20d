"""Checks of options that are alike everywhere: one of some names, or a positive number."""

from __future__ import annotations

import math
from collections.abc import Sequence

from apical.errors import ConfigError


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


def check_positive(what: str, **options: float) -> None:
    """Refuse options that are not positive, finite numbers."""
    for option, value in options.items():
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{what}: {option}={value!r} must be a positive number.")
