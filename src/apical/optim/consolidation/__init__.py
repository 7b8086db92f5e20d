"""Consolidation: synapses that protect what they know while a network learns further tasks."""

from apical.optim.consolidation.protection import Assumptions, Protection

__all__ = ["Assumptions", "Protection"]
