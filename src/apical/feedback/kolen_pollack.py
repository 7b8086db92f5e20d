"""Kolen-Pollack feedback: weights that take the increments of the forward ones."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from apical.feedback.fixed import Fixed
from apical.layers import Layer, Synapses


class KolenPollack(Fixed):
    """Feedback weights that take the same increments as the forward ones, and decay with them.

        dB_l = dW_l - lambda B_l,   dW_l = ... - lambda W_l   =>   W - B shrinks as (1 - lambda)^t

    B is a parameter, in `circuit.parameters()`, and its `.grad` is that of W. Under any optimizer that treats both in
    the same way, momentum and Adam included, the increments are identical; the decay is the optimizer's `weight_decay`
    (decoupled for Adam: use AdamW). Without a decay the difference stays as it was.

    Args:
        init: of B, as for `Fixed`.
        scale: of B, as for `Fixed`.
        seed: of B, as for `Fixed`.

    Source: Kolen and Pollack, ICNN 1994; Akrout, Wilson, Humphreys, Lillicrap and Tweed, NeurIPS 2019, eqs. 16-17.

    Example:
        >>> import apical
        >>> apical.PredictiveCoding(feedback=apical.feedback.KolenPollack(init="xavier")).feedback
        KolenPollack(init='xavier', scale=1.0, seed=0)
    """

    name = "kolen_pollack"
    summary = "Weights that take the forward weights' increments and decay, and so converge to them."
    learned = True
    limit = "once weight decay has removed the difference of feedback and forward weights"
    recommended: ClassVar[Mapping[str, float]] = MappingProxyType({"weight_decay": 1e-3})

    def reciprocal(self, layer: Layer) -> Synapses | None:
        return self.weights.find(layer)
