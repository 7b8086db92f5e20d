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
    from apical.interrupts import Interrupted as Interrupted
    from apical.models import build as build
    from apical.study.comparison.compare import compare as compare
    from apical.study.comparison.schema import Comparison as Comparison
    from apical.study.configuration import Config as Config
    from apical.study.configuration import OptimizerConfig as OptimizerConfig
    from apical.study.configuration import RuleConfig as RuleConfig
    from apical.study.configuration import ScheduleConfig as ScheduleConfig
    from apical.study.runs.folder import RunFolder as RunFolder
    from apical.study.runs.results import Evaluation as Evaluation
    from apical.study.runs.results import Result as Result
    from apical.study.training.evaluation import evaluate as evaluate
    from apical.study.training.session import resume as resume
    from apical.study.training.session import train as train

_HOMES = {
    "apical.interrupts": ["Interrupted"],
    "apical.models": ["build"],
    "apical.study.comparison.compare": ["compare"],
    "apical.study.comparison.schema": ["Comparison"],
    "apical.study.configuration": ["Config", "OptimizerConfig", "RuleConfig", "ScheduleConfig"],
    "apical.study.runs.folder": ["RunFolder"],
    "apical.study.runs.results": ["Evaluation", "Result"],
    "apical.study.training.evaluation": ["evaluate"],
    "apical.study.training.session": ["resume", "train"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'apical.study' has no attribute {name!r}")
    found = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
