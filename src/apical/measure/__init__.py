"""Measurements: how close to the gradient, at what cost, how local, and what the signals are made of."""

from apical.measure.alignment import alignment, angle
from apical.measure.carried import carried
from apical.measure.cost import StepCost, step_cost
from apical.measure.locality import Locality, locality

__all__ = ["Locality", "StepCost", "alignment", "angle", "carried", "locality", "step_cost"]
