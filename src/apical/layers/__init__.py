"""What circuits are made of: synapses, the neurons that they drive, and the junctions between layers."""

from apical.layers import activations, norms, shapes
from apical.layers.nodes import (
    Add,
    AnyMeeting,
    Concatenate,
    Cut,
    Gradients,
    Junction,
    Layer,
    Meeting,
    Multiply,
    Node,
    PassOn,
    Record,
)
from apical.layers.steps import LocalGraph, Step, closed_form, closed_form_of, known_closed_forms
from apical.layers.synapses import Synapses, kind_of, known_kinds, synapses_of
from apical.layers.traits import Traits, has_traits

__all__ = [
    "Add",
    "AnyMeeting",
    "Concatenate",
    "Cut",
    "Gradients",
    "Junction",
    "Layer",
    "LocalGraph",
    "Meeting",
    "Multiply",
    "Node",
    "PassOn",
    "Record",
    "Step",
    "Synapses",
    "Traits",
    "activations",
    "closed_form",
    "closed_form_of",
    "has_traits",
    "kind_of",
    "known_closed_forms",
    "known_kinds",
    "norms",
    "shapes",
    "synapses_of",
]
