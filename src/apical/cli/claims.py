"""The verbs of the ledger of claims: `apical papers`, `apical reproduce`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apical.cli import options, terminal

if TYPE_CHECKING:
    from apical.papers import Claim, Measurement, Verdict

RUNS = Path("runs/reproduce")


def papers(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="One claim, or the claims of one table. Example: biotorch-mnist"),
    ] = None,
    json: options.Json = False,
) -> None:
    """List the claims of papers: what they say, what was measured here, and the verdict.

    Example: apical papers biotorch-mnist
    """
    from apical import papers as ledger

    claims = ledger.select(name)
    measured = ledger.measurements()
    found = ledger.verdicts(claims, measured)
    if json:
        terminal.as_json([_describe(claim, measured, found[claim.name]) for claim in claims])
        return
    for protocol in dict.fromkeys(claim.protocol for claim in claims):
        own = [claim for claim in claims if claim.protocol == protocol]
        _show(own, measured, found)
        terminal.paragraph(f"{protocol.paper.citation} {protocol.paper.link}".strip())
        terminal.paragraph(f"Where: {protocol.where}.")
        if name is not None:
            terminal.paragraph(f"Protocol: {protocol.theirs}")
            _explain(own, found)
        terminal.line()
    terminal.paragraph(ledger.summary(claims, found))
    if name is None:
        terminal.paragraph("`apical papers NAME` shows a protocol; `apical reproduce NAME` measures again.")


def reproduce(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A claim, or a table of claims, of `apical papers`. Example: mnist-mlp"),
    ],
    epochs: Annotated[
        int | None, typer.Option(metavar="N", help="Fewer than the protocol's, to scale it down. Example: --epochs 2")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(metavar="N", help="Fewer than the protocol's. Example: --seeds 1")
    ] = None,
    jobs: options.Jobs = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="For the runs. Example: --out runs/claims")] = RUNS,
    record: Annotated[
        bool, typer.Option("--record", help="Keep what is measured in the package's ledger. Example: --record")
    ] = False,
    json: options.Json = False,
) -> None:
    """Measure a claim again, and print the paper's value, ours and the verdict.

    After a stop, the same command continues.

    Example: apical reproduce mnist-mlp --epochs 2 --seeds 1
    """
    from apical import papers as ledger

    claims = ledger.select(name)
    measured = ledger.measure(claims, out, epochs=epochs, seeds=seeds, jobs=jobs)
    kept = ledger.record(measured) if record else None
    found = ledger.verdicts(claims, measured)
    if json:
        terminal.as_json([_describe(claim, measured, found[claim.name]) for claim in claims])
        return
    _show(claims, measured, found)
    _explain(claims, found)
    if kept is not None:
        terminal.line(f"recorded in {kept}")


def _show(claims: "Sequence[Claim]", measured: "Mapping[str, Measurement]", found: "Mapping[str, Verdict]") -> None:
    """A table of the claims with their verdicts, and one of the controls with their levels."""
    title = claims[0].protocol.name
    for control, caption, columns in (
        (False, title, ("claim", "verdict")),
        (True, f"controls of {title}", ("control", "level")),
    ):
        rows = [
            [f"{claim.name}\n  {claim.says.text}", _outcome(found[claim.name]), *_ours(claim, measured.get(claim.name))]
            for claim in claims
            if claim.control == control
        ]
        if rows:
            terminal.table([*columns, "ours", "seeds", "epochs"], rows, title=caption)


def _outcome(verdict: "Verdict") -> str:
    """The verdict, or whether a control reaches its level; below it whether today's code measured it."""
    remark = {"other": "stale", "not known": "code not known"}.get(verdict.code, "")
    return "\n".join(filter(None, (verdict.level or verdict.outcome.replace("control", "-"), remark)))


def _explain(claims: "Sequence[Claim]", found: "Mapping[str, Verdict]") -> None:
    for departure in claims[0].protocol.departures:
        terminal.paragraph(f"Departs: {departure}")
    for claim in claims:
        verdict = found[claim.name]
        flag = f" ({verdict.flag})" if verdict.flag else ""
        terminal.paragraph(f"{claim.name}: {verdict.outcome}{flag}: {verdict.why}.")


def _ours(claim: "Claim", measured: "Measurement | None") -> list[str]:
    if measured is None:
        return ["-", "-", "-"]
    value, deviation = 100 * claim.says.value(measured), 100 * measured.deviation
    shown = f"{value:.2f}" + (f" ± {deviation:.2f}" if len(measured.seeds) > 1 else "")
    return [f"{shown} %", str(len(measured.seeds)), str(measured.epochs)]


def _describe(claim: "Claim", measured: "Mapping[str, Measurement]", verdict: "Verdict") -> dict[str, Any]:
    from dataclasses import asdict

    own = measured.get(claim.name)
    return {
        "name": claim.name,
        "paper": claim.protocol.paper.citation,
        "link": claim.protocol.paper.link,
        "where": claim.protocol.where,
        "row": claim.row,
        "rule": claim.rule,
        "says": claim.says.text,
        "protocol": claim.protocol.theirs,
        "departures": claim.protocol.departures,
        "command": claim.command,
        "measured": None if own is None else asdict(own),
        "control": claim.control,
        "verdict": verdict.outcome,
        "holds": verdict.holds,
        "code": verdict.code,
        "stale": verdict.code == "other",
        "why": verdict.why,
    }
