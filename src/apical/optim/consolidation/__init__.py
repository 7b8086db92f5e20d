"""Consolidation: synapses that protect what they know while a network learns further tasks."""

from apical.optim.consolidation.elastic import EWC, MAS, OnlineEWC
from apical.optim.consolidation.intelligence import SI
from apical.optim.consolidation.metaplasticity import Metaplasticity
from apical.optim.consolidation.orthogonal import OWM
from apical.optim.consolidation.protection import Assumptions, Protection
from apical.optim.consolidation.uncertainty import MESU

__all__ = ["EWC", "MAS", "MESU", "OWM", "SI", "Assumptions", "Metaplasticity", "OnlineEWC", "Protection"]
