"""Continual learning: streams of tasks, the accuracy matrix, and floors that every method has to exceed."""

from apical.continual.matrix import Metrics, metrics

__all__ = ["Metrics", "metrics"]
