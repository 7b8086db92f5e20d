"""Feedback of the dendritic microcircuit that learns to predict the rates below."""

from __future__ import annotations

from collections.abc import Mapping

from apical.errors import CircuitError
from apical.feedback import Fixed, Pathway
from apical.rules.dendrites.somas import Area
from apical.wiring import Wiring


class Inverse(Fixed):
    """Feedback weights W^TD that learn to predict the rates below from the rates above; for the microcircuit alone.

    Args:
        init: of the weights, as for `apical.feedback.Fixed`.
        scale: of the weights, as for `apical.feedback.Fixed`.
        seed: of the weights, as for `apical.feedback.Fixed`.

    Source: Sacramento, Ponte Costa, Bengio and Senn, NeurIPS 2018, eq. 9.
    """

    name = "inverse"
    summary = "Weights that predict the rates below from those above (dendritic microcircuit)."
    learned = True
    recommended = Pathway.recommended


def refuse_what_cannot_be_inverted(wiring: Wiring, areas: Mapping[int, Area]) -> None:
    """Refuse layers whose input is not the rate of the pyramids below as they fire.

    Raises:
        CircuitError: there is one.
    """
    for layer in wiring.layers:
        if not layer.feeds_back or layer.sources[0] == 0:
            continue
        source = wiring.nodes[layer.sources[0] - 1]
        area = areas.get(source.index)
        if area is None or area.linearised or area.after:
            raise CircuitError(
                f"{layer.name}: feedback='inverse' predicts the rates below through their own activation, and between "
                f"{source.name} and this layer they are pooled, normalised or joined. Use feedback='fixed' or 'tied'."
            )
