"""Feedback pathways: how a teaching signal is carried down through a layer.

A learning rule is a teaching signal times a feedback pathway times plasticity. Every rule that sends signals down takes
`feedback=`, a name or an object from here:

    apical.PredictiveCoding(feedback="weight_mirror")
    apical.BurstCCN(feedback=apical.feedback.KolenPollack(scale=0.5))
"""

from apical.feedback.direct import Direct
from apical.feedback.fixed import Fixed, Tied
from apical.feedback.homeostatic import Homeostatic
from apical.feedback.kolen_pollack import KolenPollack
from apical.feedback.mirror import WeightMirror
from apical.feedback.pathway import Pathway
from apical.feedback.randomness import uniform
from apical.feedback.registry import get, make, names
from apical.feedback.signs import SignSymmetric

__all__ = [
    "Direct",
    "Fixed",
    "Homeostatic",
    "KolenPollack",
    "Pathway",
    "SignSymmetric",
    "Tied",
    "WeightMirror",
    "get",
    "make",
    "names",
    "uniform",
]
