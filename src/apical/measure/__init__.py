"""Measurements: how close to the gradient, and at what cost."""

from apical.measure.alignment import alignment, angle
from apical.measure.cost import StepCost, step_cost

__all__ = ["StepCost", "alignment", "angle", "step_cost"]
