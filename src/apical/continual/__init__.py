"""Continual learning: streams of tasks, the accuracy matrix, floors that every method must exceed, and protections."""

from apical.continual.distilling import LwF
from apical.continual.floors import NearestClassMean, RandomFeatures, StreamingLDA
from apical.continual.gating import Freeze, XdG
from apical.continual.learning import Learner, Outcome, joint, run
from apical.continual.matrix import Metrics, metrics
from apical.continual.modulating import Neuromodulation
from apical.continual.replaying import AGEM, DER, DERpp, Remembering, Replay
from apical.continual.stream import Stream, StreamTask, single
from apical.continual.streams import from_tasks, one_class, permuted, rotated, split

__all__ = [
    "AGEM",
    "DER",
    "DERpp",
    "Freeze",
    "Learner",
    "LwF",
    "Metrics",
    "NearestClassMean",
    "Neuromodulation",
    "Outcome",
    "RandomFeatures",
    "Remembering",
    "Replay",
    "Stream",
    "StreamTask",
    "StreamingLDA",
    "XdG",
    "from_tasks",
    "joint",
    "metrics",
    "one_class",
    "permuted",
    "rotated",
    "run",
    "single",
    "split",
]
