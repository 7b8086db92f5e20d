"""Measurements: alignment with the gradient, cost, locality, importance of parameters, contents of signals, leaks."""

from apical.measure.alignment import alignment, angle
from apical.measure.carried import carried
from apical.measure.cost import StepCost, step_cost
from apical.measure.importance import fisher, sensitivity
from apical.measure.leakage import Leakage, leakage
from apical.measure.locality import Locality, locality

__all__ = [
    "Leakage",
    "Locality",
    "StepCost",
    "alignment",
    "angle",
    "carried",
    "fisher",
    "leakage",
    "locality",
    "sensitivity",
    "step_cost",
]
