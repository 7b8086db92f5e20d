"""The learning rate as a function of the step.

A function and not a state: a run that is resumed at a step has the rate of that step.
"""

import math

from apical.study.configuration import ScheduleConfig


def factor_at(schedule: ScheduleConfig, step: int, *, steps_per_epoch: int, epochs: int) -> float:
    """The factor on the learning rate for the step number `step`.

    Args:
        schedule: which one.
        step: from 0; the steps taken so far.
        steps_per_epoch: how many make an epoch.
        epochs: of the whole training.
    """
    epoch = step / steps_per_epoch
    factor = 1.0
    if schedule.name == "step":
        factor = schedule.factor ** (int(epoch) // schedule.every)
    elif schedule.name == "milestones":
        factor = schedule.factor ** sum(epoch >= share * epochs for share in schedule.milestones)
    elif schedule.name == "cosine":
        factor = schedule.final + (1 - schedule.final) * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
    if epoch < schedule.warmup:
        factor *= (step + 1) / (schedule.warmup * steps_per_epoch + 1)
    return factor


def is_constant(schedule: ScheduleConfig) -> bool:
    """Whether the factor is 1 throughout."""
    return schedule.name == "constant" and schedule.warmup == 0
