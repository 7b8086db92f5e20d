"""Backpropagation, as the rule that all others are measured against."""

from apical.rules.rule import Sweep


class Backprop(Sweep):
    """Backpropagation: errors travel down the weights that carried the rates up.

    With a_l = W_l h_(l-1) + b_l, h_l = phi(a_l) and delta_L = dL/da_L:

        delta_l = (W_(l+1)^T delta_(l+1)) * phi'(a_l)
        dW_l    = -eta delta_l h_(l-1)^T

    No brain has the copy of the weights that W^T needs; the other rules' accuracy, cost and alignment are measured
    beside this one on the same circuit and the same work.

    Needs: any circuit. Raises: nothing of its own.

    Source: Rumelhart, Hinton and Williams, Nature 323, 533 (1986).

    Example:
        >>> import torch, apical
        >>> circuit = apical.Circuit(torch.nn.Linear(4, 3), apical.Backprop())
        >>> circuit(torch.randn(5, 4)).sum().backward()
    """

    name = "backprop"
    through_time = "tied"
    title = "Backpropagation"
    transposed_limit = ""
    summary = "The true gradient: errors travel down a copy of the forward weights."
    paper = "Rumelhart, Hinton & Williams 1986"

    def __init__(self) -> None:
        super().__init__()
        self.take_pathway("tied")
