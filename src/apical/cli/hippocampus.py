"""The verb `apical hippocampus`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apical.cli import options, terminal
from apical.errors import ConfigError

if TYPE_CHECKING:
    from apical.hippocampus.claims import Judged
    from apical.hippocampus.demonstration import Demonstration

PAGE, RUNS, FRESH = "hippocampus.html", "runs.jsonl", 100


def hippocampus(
    rule: Annotated[
        str, typer.Option("--rule", metavar="NAME", help="That carries the mismatch. Example: --rule backprop")
    ] = "countercurrent_inhibition",
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", help="Of world, weights and order. Example: --seed 1")
    ] = 0,
    small: Annotated[
        bool, typer.Option("--small", help="Half of the cells and a third of the positions. Example: --small --test 5")
    ] = False,
    test: Annotated[
        int,
        typer.Option(
            "--test",
            metavar="N",
            help="Also test the claims on N seeds: minutes for each. Stopped, it is resumed by the same command. "
            "Example: --test 5",
        ),
    ] = 0,
    first: Annotated[
        int,
        typer.Option("--first", metavar="N", help="Seed of --test; below 100 is exploration. Example: --first 0"),
    ] = FRESH,
    experiments: Annotated[
        str | None,
        typer.Option(
            "--experiments", metavar="NAMES", help="For --test; all if left out. Example: --experiments cells,novelty"
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Of the page and the runs. Example: --out runs/loop")
    ] = Path("runs/hippocampus"),
    json: options.Json = False,
) -> None:
    """Teach a hippocampal loop one room, and write a page with its cells, its remapping and its surprise.

    Without options it takes about a minute. The loop learns to return its own input, and receives no position.

    Example: apical hippocampus --rule backprop --out runs/loop
    """
    from apical.hippocampus.claims import judged, run
    from apical.hippocampus.demonstration import demonstrate
    from apical.hippocampus.experiments import EXPERIMENTS
    from apical.hippocampus.learner import Setup
    from apical.report import hippocampus as page

    if test < 0:
        raise ConfigError(f"--test {test}: pass the number of seeds, 0 or more.")
    setup = Setup.small() if small else Setup()
    runs: list[dict[str, Any]] = []
    if test:
        names = [word.strip() for word in experiments.split(",")] if experiments else list(EXPERIMENTS)
        runs = run(names, range(first, first + test), out / RUNS, setup, _advance)
    shown = demonstrate(setup, seed, rule, lambda step: terminal.say(f"{step} ..."))
    path = page.write(shown, out / PAGE, runs)
    claims = [each for each in judged(runs) if each[2]]
    if json:
        terminal.as_json({**summary(shown, claims), "page": path})
        return
    show(shown, claims)
    terminal.line(f"page  {path}")


def _advance(name: str, seed: int, seconds: float) -> None:
    terminal.say(f"{name}, seed {seed}: {seconds:.0f} s")


def summary(shown: "Demonstration", claims: "list[Judged]") -> dict[str, Any]:
    """What a demonstration found, and which claims hold."""
    return {
        "rule": shown.rule,
        "seed": shown.seed,
        "mismatch": dict(zip(("untrained", "trained"), shown.mismatch, strict=True)),
        "cells": shown.cells,
        "visits": shown.visits,
        "claims": [
            {"says": claim.says, "verdict": verdict, "seeds": len(pairs), "holds_on": claim.holding(pairs)}
            for claim, verdict, pairs in claims
        ],
    }


def show(shown: "Demonstration", claims: "list[Judged]") -> None:
    """Show fields and mismatch, and the claims that were tested."""
    rows = [
        [
            name,
            *(f"{each[key]:.{digits}f}" for key, digits in (("single", 2), ("size", 3), ("share", 2), ("active", 2))),
        ]
        for name, each in shown.cells.items()
    ]
    terminal.table(["cells", "one field", "size", "in largest", "fire"], rows, title=f"{shown.rule}, seed {shown.seed}")
    terminal.paragraph(
        "One field: share of cells. Size: median of the largest field, as a share of the room. In largest: mean share "
        "of a cell's firing inside it. Fire: share of cells."
    )
    visits = ", ".join(f"{name} {curve[0][1]:.2g} to {curve[-1][1]:.2g}" for name, curve in shown.visits.items())
    terminal.paragraph(
        f"Mismatch / variance of the input: {shown.mismatch[0]:.2g} untrained, {shown.mismatch[1]:.2g} trained. "
        f"Visits of {shown.visits['A'][-1][0]:g} epochs: {visits}."
    )
    if claims:
        rows = [[each.says, f"{each.holding(pairs)} of {len(pairs)}", verdict] for each, verdict, pairs in claims]
        terminal.table(["claim", "seeds", "verdict"], rows, words=[0])
