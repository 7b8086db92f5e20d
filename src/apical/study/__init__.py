"""Experiments: a configuration, a trainer, run folders that survive interruption, and comparisons of rules.

    from apical.study import Config, compare, evaluate, resume, train

    config = Config().with_settings(["task=mnist", "model=mlp:500,500", "rule=feedback_alignment"])
    result = train(config, "runs/first")
    comparison = compare(config, ["backprop", "feedback_alignment"], seeds=3, folder="runs/both")

The names are loaded when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apical.interrupts import Interrupted
    from apical.models import build
    from apical.study.comparison.compare import compare
    from apical.study.comparison.schema import Comparison
    from apical.study.configuration import Config, OptimizerConfig, RuleConfig, ScheduleConfig
    from apical.study.runs.folder import RunFolder
    from apical.study.runs.results import Evaluation, Result
    from apical.study.training.evaluation import evaluate
    from apical.study.training.session import resume, train

_HOMES = {
    "Comparison": "apical.study.comparison.schema",
    "Config": "apical.study.configuration",
    "Evaluation": "apical.study.runs.results",
    "Interrupted": "apical.interrupts",
    "OptimizerConfig": "apical.study.configuration",
    "Result": "apical.study.runs.results",
    "RuleConfig": "apical.study.configuration",
    "RunFolder": "apical.study.runs.folder",
    "ScheduleConfig": "apical.study.configuration",
    "build": "apical.models",
    "compare": "apical.study.comparison.compare",
    "evaluate": "apical.study.training.evaluation",
    "resume": "apical.study.training.session",
    "train": "apical.study.training.session",
}

__all__ = [
    "Comparison",
    "Config",
    "Evaluation",
    "Interrupted",
    "OptimizerConfig",
    "Result",
    "RuleConfig",
    "RunFolder",
    "ScheduleConfig",
    "build",
    "compare",
    "evaluate",
    "resume",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'apical.study' has no attribute {name!r}")
    found = getattr(import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
