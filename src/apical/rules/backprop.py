"""Backpropagation, as the rule that all others are measured against."""

from __future__ import annotations

from torch import Tensor

from apical.layers import Layer, Record
from apical.rules.rule import Sweep


class Backprop(Sweep):
    """Backpropagation: errors travel down the very weights that carried the rates up.

    With a_l = W_l h_(l-1) + b_l, h_l = phi(a_l) and delta_L = dL/da_L:

        delta_l = (W_(l+1)^T delta_(l+1)) * phi'(a_l)
        dW_l    = -eta delta_l h_(l-1)^T

    No brain has the copy of the weights that W^T asks for; this rule is here so that the others' accuracy,
    cost and alignment are measured on the same circuit and the same work.

    Needs: any circuit. Raises: nothing of its own.

    Source: Rumelhart, Hinton and Williams, Nature 323, 533 (1986).
    """

    name = "backprop"
    title = "Backpropagation"
    summary = "The true gradient: errors travel down a copy of the forward weights."
    paper = "Rumelhart, Hinton & Williams 1986"

    @property
    def teaches_input(self) -> bool:
        return True

    def feedback(self, layer: Layer, record: Record, post: Tensor) -> Tensor:
        assert record.pre is not None
        return layer.synapses.transport(post, layer.synapses.weight, record.pre)
