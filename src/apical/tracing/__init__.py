"""From a model to its layers and junctions, by `torch.fx`; refusals say where, why and what to do."""

from __future__ import annotations

from torch import nn

from apical.tracing.graph import read_graph
from apical.tracing.reader import ModelGraph, Reader
from apical.tracing.refusals import refuse_more_inputs, refuse_unknown_weights, warn_of_hooks

__all__ = ["ModelGraph", "trace"]


def trace(model: nn.Module, *, teach_input: bool = False) -> ModelGraph:
    """Read a model's layers and junctions.

    Args:
        model: any module that `torch.fx` can trace, with one tensor in and one out.
        teach_input: whether teaching signals are sent to the input, too.

    Raises:
        CircuitError: the model cannot become a circuit: the module's path, the reason, what to do instead.
    """
    refuse_unknown_weights(model)
    refuse_more_inputs(model)
    plan = Reader(*read_graph(model), teach_input).read()
    warn_of_hooks(model)
    return plan
