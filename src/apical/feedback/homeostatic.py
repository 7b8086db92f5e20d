"""Homeostatic feedback: weights that learn by their own bursts to cancel the events."""

from apical.feedback.fixed import Fixed
from apical.feedback.pathway import Pathway
from apical.feedback.randomness import feedback_like
from apical.feedback.weights import PerLayer
from apical.wiring import Wiring


class Homeostatic(Fixed):
    """Feedback weights Y that learn from burst rates to cancel what events bring to the apical dendrite.

        dY = eta_Q u b^T,   u the apical potential, b the burst rate

    Only `BurstCCN` has burst rates and event feedback to cancel, and its option `homeostasis` is eta_Q. Y is a
    parameter of each layer whose feedback reaches apical dendrites; the lowest layers' stays as it was drawn.

    Args:
        init: of Y, as for `Fixed`.
        scale: of Y, as for `Fixed`.
        seed: of Y, as for `Fixed`.

    Source: the later work (2026) of the authors of Greedy, Zhu, Pemberton, Mellor and Costa, NeurIPS 2022.

    Example:
        >>> import apical
        >>> apical.BurstCCN(feedback="homeostatic", events="learned").feedback
        'homeostatic'
    """

    name = "homeostatic"
    summary = "Weights that learn from their own burst rates to cancel the events (BurstCCN)."
    learned = True
    recommended = Pathway.recommended

    def setup(self, wiring: Wiring) -> None:
        self.weights = PerLayer()
        lowest = wiring.lowest()
        for layer in wiring.layers:
            if layer.feeds_back:
                made = feedback_like(layer.weight, self.init, self.scale, self.seed, layer.name)
                self.weights.hold(layer, made, learned=layer not in lowest)
