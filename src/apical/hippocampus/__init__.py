"""The hippocampus that teaches itself: the trisynaptic loop, as a network and as an estimator."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apical.hippocampus.estimator import HippocampalLoop as HippocampalLoop
    from apical.hippocampus.loop import Areas as Areas
    from apical.hippocampus.loop import TrisynapticLoop as TrisynapticLoop

_PLACES = {
    "estimator": ("HippocampalLoop",),
    "loop": ("Areas", "TrisynapticLoop"),
}
_MODULES = ("estimator", "loop")

__all__ = [*_MODULES, *(name for names in _PLACES.values() for name in names)]


def __getattr__(name: str) -> Any:
    """A public name, loaded when it is first used."""
    if name in _MODULES:
        return import_module(f"apical.hippocampus.{name}")
    for module, names in _PLACES.items():
        if name in names:
            found = getattr(import_module(f"apical.hippocampus.{module}"), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module 'apical.hippocampus' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
