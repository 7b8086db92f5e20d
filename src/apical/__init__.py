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
    from apical import data, errors, layers, measure, papers, report, rules, study
    from apical.circuit import Circuit
    from apical.rules import (
        Backprop,
        DirectFeedbackAlignment,
        DirectRandomTargetProjection,
        FeedbackAlignment,
        KolenPollack,
        LearningRule,
        SignSymmetry,
        WeightMirror,
    )

_HOMES = {
    "Circuit": "apical.circuit",
    **dict.fromkeys(
        (
            "Backprop",
            "DirectFeedbackAlignment",
            "DirectRandomTargetProjection",
            "FeedbackAlignment",
            "KolenPollack",
            "LearningRule",
            "SignSymmetry",
            "WeightMirror",
        ),
        "apical.rules",
    ),
}
_PARTS = ("data", "errors", "layers", "measure", "papers", "report", "rules", "study")

__all__ = [
    "Backprop",
    "Circuit",
    "DirectFeedbackAlignment",
    "DirectRandomTargetProjection",
    "FeedbackAlignment",
    "KolenPollack",
    "LearningRule",
    "SignSymmetry",
    "WeightMirror",
    "data",
    "errors",
    "layers",
    "measure",
    "papers",
    "report",
    "rules",
    "study",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        found = getattr(import_module(_HOMES[name]), name)
    elif name in _PARTS:
        found = import_module(f"apical.{name}")
    else:
        raise AttributeError(f"module 'apical' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
