"""Optimizers that brain research suggests, and consolidation, for any PyTorch model and after any rule of apical."""

from importlib import import_module
from typing import Any

from apical.optim.adaptation import Adaptation as Adaptation

__all__ = ["Adaptation", "consolidation"]


def __getattr__(name: str) -> Any:
    if name != "consolidation":
        raise AttributeError(f"module 'apical.optim' has no attribute {name!r}")
    return import_module("apical.optim.consolidation")
