"""Measurements: alignment, cost, locality, importance of parameters, contents of signals, leaks, spikes."""

from apical.measure.alignment import alignment, angle
from apical.measure.carried import carried
from apical.measure.cost import StepCost, step_cost
from apical.measure.importance import fisher, sensitivity
from apical.measure.leakage import Leakage, leakage
from apical.measure.locality import Locality, locality
from apical.measure.spikes import Spikes, spikes

__all__ = [
    "Leakage",
    "Locality",
    "Spikes",
    "StepCost",
    "alignment",
    "angle",
    "carried",
    "fisher",
    "leakage",
    "locality",
    "sensitivity",
    "spikes",
    "step_cost",
]
