"""Consolidation: synapses that protect what they know while a network learns further tasks."""

from apical.optim.consolidation.elastic import EWC, MAS, OnlineEWC
from apical.optim.consolidation.intelligence import SI
from apical.optim.consolidation.orthogonal import OWM
from apical.optim.consolidation.protection import Assumptions, Protection

__all__ = ["EWC", "MAS", "OWM", "SI", "Assumptions", "OnlineEWC", "Protection"]
