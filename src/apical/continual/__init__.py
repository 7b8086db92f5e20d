"""Continual learning: streams of tasks, the accuracy matrix, and floors that every method has to exceed."""

from apical.continual.floors import NearestClassMean, RandomFeatures, StreamingLDA
from apical.continual.learning import Learner, Outcome, joint, run
from apical.continual.matrix import Metrics, metrics
from apical.continual.stream import Stream, StreamTask, single
from apical.continual.streams import from_tasks, one_class, permuted, rotated, split

__all__ = [
    "Learner",
    "Metrics",
    "NearestClassMean",
    "Outcome",
    "RandomFeatures",
    "Stream",
    "StreamTask",
    "StreamingLDA",
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
