"""The hippocampus that teaches itself: entorhinal cells and worlds, rate maps, baselines, and the trisynaptic loop."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apical.hippocampus.aha import AHAMemory as AHAMemory
    from apical.hippocampus.aha import DentateCode as DentateCode
    from apical.hippocampus.arenas import Arena as Arena
    from apical.hippocampus.arenas import CircularTrack as CircularTrack
    from apical.hippocampus.arenas import Disc as Disc
    from apical.hippocampus.arenas import LinearTrack as LinearTrack
    from apical.hippocampus.arenas import Square as Square
    from apical.hippocampus.attractor import HopfieldCA3 as HopfieldCA3
    from apical.hippocampus.baselines import NMF as NMF
    from apical.hippocampus.baselines import PCA as PCA
    from apical.hippocampus.baselines import NearestNeighbour as NearestNeighbour
    from apical.hippocampus.cells import CueCells as CueCells
    from apical.hippocampus.cells import GridCells as GridCells
    from apical.hippocampus.cells import ObjectCells as ObjectCells
    from apical.hippocampus.cells import Rotated as Rotated
    from apical.hippocampus.estimator import HippocampalLoop as HippocampalLoop
    from apical.hippocampus.loop import Areas as Areas
    from apical.hippocampus.loop import TrisynapticLoop as TrisynapticLoop
    from apical.hippocampus.worlds import World as World
    from apical.hippocampus.worlds import rat_in_a_box as rat_in_a_box

_PLACES = {
    "aha": ("AHAMemory", "DentateCode"),
    "arenas": ("Arena", "CircularTrack", "Disc", "LinearTrack", "Square"),
    "attractor": ("HopfieldCA3",),
    "baselines": ("NMF", "PCA", "NearestNeighbour"),
    "cells": ("CueCells", "GridCells", "ObjectCells", "Rotated"),
    "estimator": ("HippocampalLoop",),
    "loop": ("Areas", "TrisynapticLoop"),
    "worlds": ("World", "rat_in_a_box"),
}
_MODULES = ("arenas", "baselines", "cells", "codes", "estimator", "fields", "lattices", "loop", "maps", "worlds")

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
