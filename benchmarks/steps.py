"""Every rule's training step beside plain PyTorch, on every network, batch size and number of threads.

    python benchmarks/steps.py --out benchmarks/results

writes steps.json (everything) and steps.md (tables for people) into the folder, after each network at each batch size,
and says which figures miss their goals. It takes some three hours, most of them for the rules that settle on the wide
convolutions and ResNet-20; `--rules`, `--seconds`, `--networks`, `--batches` and `--threads` make it shorter.
`apical bench` shows the same measurements for a few cases. Run it on a quiet machine.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from apical.cli.timing import read_threads
from apical.measure import benchmark
from apical.measure.benchmark import Cell, Row
from apical.study import RuleConfig
from apical.study.runs import environment

BATCHWISE = "sign_symmetry:magnitude=batchwise"
ONE_PASS = 1.1  # the ratio of products above which a rule does more than pass forward and back once
BURSTPROP = {("conv", "burstprop"): 1.53, ("mlp", "burstprop:recurrent=true"): 1.96}  # at batch 128


def goal(cell: Cell, row: Row) -> float | None:
    """The largest ratio to plain PyTorch that a rule's step should have, on one thread; None where there is no goal."""
    if cell.threads != 1:
        return None
    if not _passes_once(row):
        return BURSTPROP.get((cell.network, row.rule)) if cell.batch_size == 128 else None
    batchwise = row.rule == BATCHWISE
    if cell.network == "resnet20" and cell.batch_size == 32:
        return 1.15 if batchwise else 1.08
    if cell.batch_size >= 128:
        return 1.15 if batchwise else 1.03
    if cell.batch_size == 8 and cell.network != "resnet20":
        return 1.40 if batchwise else 1.10
    return None


def _passes_once(row: Row) -> bool:
    return row.products is not None and row.products <= ONE_PASS


def misses(cells: Sequence[Cell]) -> Iterator[str]:
    """The figures that miss their goals, a line each."""
    for cell in cells:
        where = f"{cell.network}, batch {cell.batch_size}, threads {cell.threads}"
        for row in cell.rows:
            wanted = goal(cell, row)
            if row.time is not None and wanted is not None and row.time.ratio > wanted:
                yield f"{where}: {row.rule} takes {row.time.ratio:.3f}, and the goal is {wanted:.2f}"
            if row.step_bytes is not None and cell.plain_bytes is not None and row.own_bytes is not None:
                allowed = cell.plain_bytes + row.own_bytes
                if _passes_once(row) and row.step_bytes > allowed:
                    yield (
                        f"{where}: {row.rule} holds {_megabytes(row.step_bytes)} MB in a step, and the goal is "
                        f"{_megabytes(allowed)}, plain PyTorch's and the feedback weights"
                    )


def markdown(cells: Sequence[Cell]) -> str:
    """Tables: for each network and number of threads a row for each rule, a column for each batch size."""
    about = environment.describe()
    parts = [
        f"Measured by `python benchmarks/steps.py` on {about['cpu']}, PyTorch {about['torch']}. "
        "Each figure is the median ratio of a whole step to plain PyTorch's, with its quartiles, and behind the slash "
        "what counting matrix products predicts.\n"
    ]
    for network, threads in dict.fromkeys((cell.network, cell.threads) for cell in cells):
        own = [cell for cell in cells if (cell.network, cell.threads) == (network, threads)]
        parts.append(f"### {benchmark.network(network).title}, {threads} thread{'s' * (threads != 1)}\n")
        parts.append("| rule | " + " | ".join(f"batch {cell.batch_size}" for cell in own) + " |")
        parts.append("|---|" + "---|" * len(own))
        parts.append("| plain PyTorch | " + " | ".join(f"{cell.plain_milliseconds:.2f} ms" for cell in own) + " |")
        for number, row in enumerate(own[0].rows):
            parts.append(f"| {row.rule} | " + " | ".join(_figure(cell.rows[number]) for cell in own) + " |")
        parts.append("")
        if all(cell.plain_bytes is not None for cell in own):
            parts += _memory_table(own)
    return "\n".join(parts)


def _figure(row: Row) -> str:
    if row.time is None:
        return "refuses"
    return f"{row.time.ratio:.3f} ({row.time.low:.3f}-{row.time.high:.3f}) / {row.products:.3f}"


def _memory_table(cells: Sequence[Cell]) -> list[str]:
    parts = [
        "| memory of a step, MB (feedback weights apart) | " + " | ".join(f"batch {c.batch_size}" for c in cells) + " |"
    ]
    parts.append("|---|" + "---|" * len(cells))
    parts.append("| plain PyTorch | " + " | ".join(_megabytes(cell.plain_bytes) for cell in cells) + " |")
    for number, row in enumerate(cells[0].rows):
        figures = (f"{_megabytes(c.rows[number].step_bytes)} + {_megabytes(c.rows[number].own_bytes)}" for c in cells)
        parts.append(f"| {row.rule} | " + " | ".join(figures) + " |")
    return [*parts, ""]


def _megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for steps.json and steps.md")
    parser.add_argument("--networks", default=",".join(benchmark.NETWORKS))
    parser.add_argument("--batches", default="8,32,128,512")
    parser.add_argument("--threads", default="1,all")
    parser.add_argument("--rules", nargs="*", help="as for apical compare; every variant of every one if left out")
    parser.add_argument("--seconds", type=float, default=60.0, help="to time each network at each batch size")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--no-check-finite", action="store_true", help="without looking for NaN and infinity")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    cells: list[Cell] = []
    for cell in benchmark.benchmark(
        chosen.networks.split(","),
        [int(size) for size in chosen.batches.split(",")],
        RuleConfig.makers(benchmark.default_rules() if chosen.rules is None else chosen.rules),
        threads=read_threads(chosen.threads),
        seconds=chosen.seconds,
        memory=not chosen.no_memory,
        check_finite=not chosen.no_check_finite,
        announce=lambda what: print(what, file=sys.stderr, flush=True),
    ):
        cells.append(cell)
        document = {"environment": environment.describe(), "cells": [each.to_dict() for each in cells]}
        (chosen.out / "steps.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        (chosen.out / "steps.md").write_text(markdown(cells), encoding="utf-8")
    missed = list(misses(cells))
    print("\n".join(missed) or "every figure reaches its goal")
    print(chosen.out / "steps.md")


if __name__ == "__main__":
    main()
