"""The settings of a run: how they are written, checked and read, and how open ones are filled in."""

from apical.study.configuration.config import Config
from apical.study.configuration.tables import OptimizerConfig, RuleConfig, ScheduleConfig

__all__ = ["Config", "OptimizerConfig", "RuleConfig", "ScheduleConfig"]
