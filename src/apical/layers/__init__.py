"""The building blocks of circuits: synapses, the neurons that they drive, and the junctions between layers."""

from apical.layers import activations, convolutions, merges, norms, shapes, sparsity
from apical.layers.credit import Credit
from apical.layers.merges import Merge
from apical.layers.nodes import Derivatives, Junction, Layer, Node, NodeState
from apical.layers.passes import BackwardPass, BackwardPlan, ForwardState
from apical.layers.sparsity import FiringCost, KWinners
from apical.layers.steps import LocalGraph, Step, closed_form, closed_form_of, known_closed_forms
from apical.layers.synapses import Synapses, kind_of, known_kinds, synapses_of
from apical.layers.traits import Traits, has_traits

__all__ = [
    "BackwardPass",
    "BackwardPlan",
    "Credit",
    "Derivatives",
    "FiringCost",
    "ForwardState",
    "Junction",
    "KWinners",
    "Layer",
    "LocalGraph",
    "Merge",
    "Node",
    "NodeState",
    "Step",
    "Synapses",
    "Traits",
    "activations",
    "closed_form",
    "closed_form_of",
    "convolutions",
    "has_traits",
    "kind_of",
    "known_closed_forms",
    "known_kinds",
    "merges",
    "norms",
    "shapes",
    "sparsity",
    "synapses_of",
]
