"""Measurements: how close to the gradient, at what cost, how local, what the signals are made of, what a test leaks."""

from apical.measure.alignment import alignment, angle
from apical.measure.carried import carried
from apical.measure.cost import StepCost, step_cost
from apical.measure.leakage import Leakage, leakage
from apical.measure.locality import Locality, locality

__all__ = [
    "Leakage",
    "Locality",
    "StepCost",
    "alignment",
    "angle",
    "carried",
    "leakage",
    "locality",
    "step_cost",
]
