"""Any PyTorch network, learning by the brain's rules instead of backpropagation, measured honestly.

    circuit = apical.Circuit(model, apical.FeedbackAlignment())     # the same parameters, a new way to learn
    loss = F.cross_entropy(circuit(x), y)
    loss.backward()                                                 # credit travels by the rule
    optimizer.step()                                                # any torch.optim

The public names are loaded when they are first used, so that importing apical costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from apical import continual as continual
    from apical import data as data
    from apical import errors as errors
    from apical import feedback as feedback
    from apical import hippocampus as hippocampus
    from apical import layers as layers
    from apical import losses as losses
    from apical import measure as measure
    from apical import models as models
    from apical import neurons as neurons
    from apical import optim as optim
    from apical import papers as papers
    from apical import reinforcement as reinforcement
    from apical import report as report
    from apical import rules as rules
    from apical import study as study
    from apical.circuit import Circuit as Circuit
    from apical.rules import *  # noqa: F403

_PARTS = (
    "continual",
    "data",
    "errors",
    "feedback",
    "hippocampus",
    "layers",
    "losses",
    "measure",
    "models",
    "neurons",
    "optim",
    "papers",
    "reinforcement",
    "report",
    "rules",
    "study",
)


def __getattr__(name: str) -> Any:
    """A part of the library, the circuit, or any learning rule, loaded now."""
    if name in _PARTS:
        found = import_module(f"apical.{name}")
    elif name == "Circuit":
        found = import_module("apical.circuit").Circuit
    elif name[:1].isupper() and hasattr(rules := import_module("apical.rules"), name):
        found = getattr(rules, name)
    else:
        raise AttributeError(f"module 'apical' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    rules = [name for name in vars(import_module("apical.rules")) if name[:1].isupper()]
    return sorted({*globals(), *_PARTS, "Circuit", *rules})
