"""The classes of a configuration, under the path by which other packages import them."""

from apical.study.configuration import Config, OptimizerConfig, RuleConfig, ScheduleConfig

__all__ = ["Config", "OptimizerConfig", "RuleConfig", "ScheduleConfig"]
