"""Which optimizer learns most from a few examples of each digit, each seen once? Nine methods, tuned alike.

    python benchmarks/few_examples.py

fills benchmarks/results/few_examples.json cell by cell (a cell is a method with one network and one kind of inputs) and
goes on from there when it is started again; at the end it writes the tables, few_examples.md, beside it. It takes about
twelve minutes on two cores. With `--figure few_examples.html` the gains over gradient descent are drawn, too.

The protocol and the ranges of all options are in `apical.papers.few_examples`.
"""

import argparse
import datetime
import json
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from plotly.subplots import make_subplots
from rich.progress import Progress

from apical import data
from apical.papers import few_examples
from apical.papers.few_examples import METHODS, Budget
from apical.statistics import Spread, paired
from apical.study.runs import environment, files

RESULTS = Path(__file__).parent / "results" / "few_examples.json"
POLL = 0.5  # seconds between looks at the steps that were taken
WIDTHS = (100, 30)
# Compared with each other below each table, beside the comparison of all with gradient descent.
VARIANTS = ("adaptation:base", "adaptation:abs")
RIVALS = ("adam", "rmsprop")

Cell = dict[str, Any]
Setting = tuple[str, int, str]  # inputs, hidden units, method

_steps: Any = None  # in a process of the pool: steps taken by all of them


def begin(steps: Any) -> None:
    """Make a process of the pool ready."""
    global _steps
    _steps = steps
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # moments of weights that are hardly used fall to where processors are slow


def advance(steps: int) -> None:
    """Count steps that were taken."""
    with _steps.get_lock():
        _steps.value += steps


def measure(task: str, setting: Setting, budget: Budget) -> Cell:
    """One cell, ready for JSON."""
    started = time.perf_counter()
    inputs, hidden, method = setting
    outcomes = few_examples.cell(data.load(task), inputs, hidden, method, budget, advance)
    return {
        "inputs": inputs,
        "hidden": hidden,
        "method": method,
        "seconds": round(time.perf_counter() - started, 1),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "outcomes": {str(count): asdict(outcome) for count, outcome in outcomes.items()},
    }


def fill(path: Path, task: str, settings: Sequence[Setting], budget: Budget, jobs: int) -> list[Cell]:
    """Measure the cells that the file does not have yet, and write each as it comes."""
    cells = read(path, task, budget)
    done = {(cell["inputs"], cell["hidden"], cell["method"]) for cell in cells}
    missing = [setting for setting in settings if setting not in done]
    context = multiprocessing.get_context("spawn")
    steps = context.Value("q")
    each = few_examples.steps_of(budget, data.load(task).classes)
    with Progress() as progress, ProcessPoolExecutor(jobs, context, begin, (steps,)) as pool:
        shown = progress.add_task("cells", total=each * len(missing))
        pending = {pool.submit(measure, task, setting, budget) for setting in missing}
        while pending:
            finished, pending = wait(pending, POLL, FIRST_COMPLETED)
            for future in finished:
                cells.append(future.result())
                write(path, task, budget, cells)
            progress.update(shown, completed=steps.value, description=f"{len(cells)} of {len(settings)} cells")
    return cells


def read(path: Path, task: str, budget: Budget) -> list[Cell]:
    """The cells that are there, which must be of the same budget."""
    if not path.exists():
        return []
    document = json.loads(path.read_text())
    if (document["task"], document["protocol"]) != (task, json.loads(json.dumps(asdict(budget)))):
        raise SystemExit(f"{path} holds cells of another task or protocol: take another file with --out, or remove it")
    cells: list[Cell] = document["cells"]
    return cells


def write(path: Path, task: str, budget: Budget, cells: Sequence[Cell]) -> None:
    """All cells so far, one a line."""
    about = json.dumps({"task": task, "protocol": asdict(budget), "environment": environment.describe()})
    ordered = sorted(cells, key=lambda cell: (cell["inputs"], cell["hidden"], list(METHODS).index(cell["method"])))
    lines = ",\n".join(json.dumps(cell, allow_nan=False) for cell in ordered)
    files.atomic_write(path, f'{about[:-1]}, "cells": [\n{lines}\n]}}\n'.encode())


def tables(cells: Sequence[Cell], budget: Budget) -> str:
    """A table for each network and kind of inputs, as Markdown."""
    about = environment.describe()
    spent = sum(cell["seconds"] for cell in cells) / 60
    parts = [
        f"Measured by `python benchmarks/few_examples.py` on {about['cpu']}, PyTorch {about['torch']}, "
        f"{max(cell['date'] for cell in cells)}; {spent:.0f} minutes, cell after cell. Test accuracy, mean (standard "
        f"deviation) of {budget.seeds} seeds, and the paired gain over sgd ± its standard error, in points.\n"
    ]
    for (inputs, hidden), rows in by_setting(cells):
        parts.append(f"\n### {hidden} hidden units, {inputs} inputs\n")
        parts.append("| method | " + " | ".join(f"{count} a digit" for count in budget.counts) + " |")
        parts.append("|---" * (1 + len(budget.counts)) + "|")
        for name, row in rows.items():
            parts.append(f"| {name} | " + " | ".join(entries(name, row, rows, budget)) + " |")
        for name in VARIANTS:
            for other in RIVALS:
                if name in rows and other in rows:
                    gains = (gained(rows[name], rows[other], count) for count in budget.counts)
                    parts.append(f"| {name} over {other} | " + " | ".join(gains) + " |")
    return "\n".join(parts) + "\n"


def entries(name: str, row: Cell, rows: dict[str, Cell], budget: Budget) -> Iterator[str]:
    """A method's entries in a table."""
    for count in budget.counts:
        accuracies = Spread(tuple(row["outcomes"][str(count)]["accuracies"]))
        entry = f"{100 * accuracies.mean:.1f} ({100 * (accuracies.deviation or 0.0):.1f})"
        if name != "sgd" and "sgd" in rows:
            entry += f" {gained(row, rows['sgd'], count)}"
        yield entry


def gained(row: Cell, other: Cell, count: int) -> str:
    """The paired gain of one method over another, with its standard error, in points."""
    gain = gain_over(row, other, count)
    return f"{100 * gain.mean:+.1f} ± {100 * gain.standard_error:.1f}"


def gain_over(row: Cell, other: Cell, count: int) -> Spread:
    return paired(*(each["outcomes"][str(count)]["accuracies"] for each in (row, other)))


def by_setting(cells: Sequence[Cell]) -> Iterator[tuple[tuple[str, int], dict[str, Cell]]]:
    """The cells of each kind of inputs and network, by method, in the order of the methods."""
    for key in sorted({(cell["inputs"], cell["hidden"]) for cell in cells}, key=lambda key: (key[0] == "raw", key[1])):
        own = {cell["method"]: cell for cell in cells if (cell["inputs"], cell["hidden"]) == key}
        yield key, {name: own[name] for name in METHODS if name in own}


def draw(path: Path, cells: Sequence[Cell], budget: Budget) -> None:
    """The gains over gradient descent, a panel for each setting, with two standard errors."""
    settings = [(key, rows) for key, rows in by_setting(cells) if "sgd" in rows]
    titles = [f"{hidden} hidden units, {inputs} inputs" for (inputs, hidden), _ in settings]
    figure = make_subplots(len(settings), 1, subplot_titles=titles, shared_xaxes=True, vertical_spacing=0.06)
    colours = ["#27508f", "#a8330a", "#1f8a5b", "#e0559b", "#b08b1e", "#149bd8", "#8347c6", "#555555"]
    for panel, (_, rows) in enumerate(settings, 1):
        for colour, name in zip(colours, [name for name in METHODS if name != "sgd"], strict=True):
            if name not in rows:
                continue
            gains = [gain_over(rows[name], rows["sgd"], count) for count in budget.counts]
            figure.add_scatter(
                x=list(budget.counts),
                y=[100 * gain.mean for gain in gains],
                error_y={"array": [200 * gain.standard_error for gain in gains]},
                name=name,
                legendgroup=name,
                showlegend=panel == 1,
                line={"color": colour, "dash": "solid" if name.startswith("adaptation") else "dot"},
                row=panel,
                col=1,
            )
        figure.update_yaxes(title="gain over sgd (points)", row=panel, col=1)
    figure.update_xaxes(title="examples of each digit", row=len(settings), col=1)
    figure.update_layout(height=320 * len(settings), template="plotly_white")
    figure.write_html(path, include_plotlyjs=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    standard = Budget()
    parser.add_argument("--out", type=Path, default=RESULTS, help="the JSON file; tables go beside it")
    parser.add_argument("--figure", type=Path, help="an HTML file for the figure")
    parser.add_argument("--jobs", type=int, default=2, help="processes, each with one thread")
    parser.add_argument("--task", default="mnist")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--hidden", nargs="+", type=int, default=WIDTHS)
    parser.add_argument("--inputs", nargs="+", default=few_examples.INPUTS, choices=few_examples.INPUTS)
    parser.add_argument("--counts", nargs="+", type=int, default=standard.counts, help="examples of each digit")
    parser.add_argument("--trials", type=int, default=standard.trials)
    parser.add_argument("--tuning-seeds", type=int, default=standard.tuning_seeds)
    parser.add_argument("--seeds", type=int, default=standard.seeds)
    parser.add_argument("--held-out", type=int, default=standard.held_out)
    chosen = parser.parse_args()
    budget = Budget(
        tuple(chosen.counts), chosen.trials, chosen.tuning_seeds, chosen.seeds, chosen.held_out, standard.test
    )
    # The slowest first, so that no process is left with one of them at the end.
    methods = sorted(chosen.methods, key=list(METHODS).index, reverse=True)
    settings = [(inputs, hidden, name) for hidden in chosen.hidden for inputs in chosen.inputs for name in methods]
    cells = fill(chosen.out, chosen.task, settings, budget, chosen.jobs)
    text = tables(cells, budget)
    chosen.out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    if chosen.figure:
        draw(chosen.figure, cells, budget)


if __name__ == "__main__":
    main()
