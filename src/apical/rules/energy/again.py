"""Neurons that fire again while a network settles: what is saved for it, and which neurons cannot."""

from apical.errors import CircuitError
from apical.layers import BackwardPlan
from apical.wiring import Wiring


def widened(plan: BackwardPlan) -> BackwardPlan:
    """The same plan, with a state for what lies below all that learns but meets at a junction what moves."""
    values = list(plan.needs_signal)
    for node, is_layer in plan.order:
        if not is_layer:
            for source in node.sources:
                values[source] = True
    return plan._replace(needs_signal=tuple(values))


def refuse_what_cannot_fire_again(wiring: Wiring, rule: str, instead: str = "") -> None:
    """Refuse neurons whose output for one drive changes from one call to the next.

    Raises:
        CircuitError: one of them draws random numbers, or moves statistics, out of the rule's sight.
    """
    for node in wiring.nodes:
        for step in node.steps:
            traits = step.traits
            if (traits.random or traits.memory) and not traits.replays:
                why = "draws other random numbers" if traits.random else "changes by what it computed before"
                raise CircuitError(
                    f"{node.name}: {rule} lets its neurons fire again while the network settles, and {step!r} {why} "
                    "each time. Use nn.Dropout, nn.Dropout1d to 3d, nn.BatchNorm1d or 2d, or a norm without running "
                    f"statistics in its place{instead}."
                )
