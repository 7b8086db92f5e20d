"""Measurements: how close to the gradient, at what cost, and what the signals are made of."""

from apical.measure.alignment import alignment, angle
from apical.measure.carried import carried
from apical.measure.cost import StepCost, step_cost

__all__ = ["StepCost", "alignment", "angle", "carried", "step_cost"]
