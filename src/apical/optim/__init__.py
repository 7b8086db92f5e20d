"""Optimizers that brain research suggests, for any PyTorch model and after any rule of apical."""

from apical.optim.adaptation import Adaptation as Adaptation

__all__ = ["Adaptation"]
