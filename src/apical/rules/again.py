"""Firing again: what neurons do when a network settles, and what has to stay as it was in the free pass."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from apical.errors import CircuitError
from apical.layers import Step
from apical.layers.steps import Saved
from apical.wiring import Reach, Wiring


def widened(reach: Reach) -> Reach:
    """The same reach, with a record for what lies below all that learns but meets at a junction what moves."""
    values = list(reach.values)
    for node, is_layer in reach.way:
        if not is_layer:
            for source in node.sources:
                values[source] = True
    return reach._replace(values=tuple(values))


def refuse_what_cannot_fire_again(wiring: Wiring, rule: str, instead: str = "") -> None:
    """Refuse neurons whose answer to one drive changes from one call to the next.

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


def fire_all_again(
    steps: Sequence[Step], x: Tensor, free: Sequence[Saved], *, anchored: bool
) -> tuple[Tensor, list[Saved]]:
    """What several steps answer, one after the other, and what each keeps."""
    saved = []
    for step, known in zip(steps, free, strict=True):
        x, kept = step.refire(x, known, anchored=anchored)
        saved.append(kept)
    return x, saved
