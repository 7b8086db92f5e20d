"""Protections against forgetting by name, wherever they are written."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from apical.errors import ConfigError
from apical.optim.consolidation import Protection
from apical.options import unknown

_HOMES: Mapping[str, str] = {
    "none": "apical.optim.consolidation:Protection",
    "freeze": "apical.continual.gating:Freeze",
    "replay": "apical.continual.replaying:Replay",
    "der": "apical.continual.replaying:DER",
    "derpp": "apical.continual.replaying:DERpp",
    "agem": "apical.continual.replaying:AGEM",
    "lwf": "apical.continual.distilling:LwF",
    "xdg": "apical.continual.gating:XdG",
    "neuromodulation": "apical.continual.modulating:Neuromodulation",
    "ewc": "apical.optim.consolidation:EWC",
    "online_ewc": "apical.optim.consolidation:OnlineEWC",
    "si": "apical.optim.consolidation:SI",
    "mas": "apical.optim.consolidation:MAS",
    "owm": "apical.optim.consolidation:OWM",
    "metaplasticity": "apical.optim.consolidation:Metaplasticity",
    "mesu": "apical.optim.consolidation:MESU",
}


def names() -> list[str]:
    """The protections that `make` knows."""
    return list(_HOMES)


def get(name: str) -> type[Protection]:
    """The class of a protection.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in _HOMES:
        raise ConfigError(unknown("protection", name, names()))
    module, _, kind = _HOMES[name].partition(":")
    found: type[Protection] = getattr(import_module(module), kind)
    return found


def make(name: str, **options: Any) -> Protection:
    """A protection with these options.

    Raises:
        ConfigError: an unknown name or option, or a value out of range.

    Example:
        >>> from apical.continual import protections
        >>> protections.make("none").title
        'No protection'
    """
    kind = get(name)
    try:
        return kind(**options)
    except TypeError as error:
        raise ConfigError(f"{name}: {error}.") from None
