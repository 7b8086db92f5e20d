"""The settings of a run: how they are written, checked and read, and how open ones are filled in."""

from apical.study.configuration.config import Config
from apical.study.configuration.tables import OptimizerConfig, ProtectConfig, RuleConfig, ScheduleConfig, StreamConfig

__all__ = ["Config", "OptimizerConfig", "ProtectConfig", "RuleConfig", "ScheduleConfig", "StreamConfig"]
