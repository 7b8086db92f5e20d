"""The verb `apical locality`."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from apical.cli import options, terminal

if TYPE_CHECKING:
    from apical.measure import Locality

COLUMNS = {
    "above": "weights_above",
    "samples": "other_samples",
    "units": "other_units",
    "future": "future_moments",
}


def locality(
    rules: Annotated[
        list[str] | None,
        typer.Option(
            "--rules",
            metavar="NAMES",
            help="Learning rules, as for `apical compare`; every rule and its main variants if left out. "
            "Example: --rules burst_ccn,predictive_coding:variant=strict",
        ),
    ] = None,
    feedback: Annotated[
        str | None,
        typer.Option(
            "--feedback",
            metavar="NAMES",
            help="Feedback pathways of rules that have a choice; all if left out. Example: --feedback tied,fixed",
        ),
    ] = None,
    neurons: Annotated[
        str,
        typer.Option(
            "--neurons",
            metavar="NAME",
            help="Of the network: tanh, softmax, layer_norm or batch_norm. Example: --neurons batch_norm",
        ),
    ] = "tanh",
    json: options.Json = False,
) -> None:
    """Intervene on every rule while it learns, and say whether its update moves.

    Example: apical locality --rules feedback_alignment,predictive_coding
    """
    from dataclasses import asdict

    names = options.read_rules(rules)
    pathways = None if feedback is None else [word.strip() for word in feedback.split(",")]
    found = measured(names, pathways, neurons)
    if json:
        terminal.as_json([asdict(row) for row in found])
    else:
        show(found)


def measured(names: Sequence[str] | None, feedback: Sequence[str] | None, neurons: str) -> "list[Locality]":
    """The rows that the options ask for; without a choice of rules also other neurons, and rules in time.

    Raises:
        ConfigError: an unknown rule, pathway or kind of neurons, or pathways that none of the rules accepts.
    """
    from apical import feedback as pathways
    from apical import rules as registry
    from apical.errors import ConfigError
    from apical.measure.locality import NEURONS, default_rules, rows, rows_in_time
    from apical.options import check_choice
    from apical.study import RuleConfig

    check_choice("locality", "neurons", neurons, tuple(NEURONS))
    given = None if feedback is None else [pathways.get(name).name for name in feedback]
    chosen = [RuleConfig.parse(label) for label in (default_rules() if names is None else names)]
    found = list(
        rows({each.label: partial(registry.get(each.name), **each.options) for each in chosen}, given, neurons=neurons)
    )
    if not found:
        raise ConfigError(f"--feedback {','.join(feedback or ())}: none of these rules accepts it. Choose others.")
    if names is None:
        alignment = {"feedback_alignment": registry.get("feedback_alignment")}
        found += [row for other in NEURONS if other != neurons for row in rows(alignment, neurons=other)]
        found += rows_in_time()
    return found


def show(found: "Sequence[Locality]") -> None:
    """Show rows as a table; pathways of a rule with the same outcomes share a line."""
    from apical.measure.locality import TOLERANCE

    def outcome(change: float | None) -> str:
        return "-" if change is None else "moves" if change > TOLERANCE else "holds"

    lines: dict[tuple[str, ...], list[str]] = {}
    every: dict[str, list[str]] = {}
    for row in found:
        name = row.rule.replace(":", "\n  ").replace(",", ",\n  ")
        if row.neurons not in ("-", found[0].neurons):
            name += f"\n  ({row.neurons})"
        outcomes = [outcome(getattr(row, attribute)) for attribute in COLUMNS.values()]
        lines.setdefault((name, *outcomes), []).append(row.feedback)
        every.setdefault(name, []).append(row.feedback)
    cells = [
        [name, "any" if len(feedback) > 1 and feedback == every[name] else ",\n".join(feedback), *outcomes]
        for (name, *outcomes), feedback in lines.items()
    ]
    terminal.table(["rule", "feedback", *COLUMNS], cells, words=[1])
    terminal.paragraph(
        "Does a layer's update move? above: when all weights above the layer change after the forward pass. samples: "
        "with the other samples of the batch. units: a unit's synapses, with the drives and weights of the layer's "
        "other units, while the signals that arrive are kept. future: with what comes later, for rules in time."
    )
