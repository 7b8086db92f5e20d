"""The verbs of one run: `apical train`, `apical resume`, `apical evaluate`."""

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apical.cli import options, terminal

if TYPE_CHECKING:
    from apical.study import Config, Result
    from apical.study.runs.results import StreamResult

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run. Example: runs/digits-backprop-1")]


def train(
    task: options.Task = None,
    model: options.Model = None,
    rule: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A learning rule from `apical rules`, with its options after a colon. "
            "Example: --rule sign_symmetry:magnitude=fixed",
        ),
    ] = None,
    epochs: options.Epochs = None,
    lr: options.Rate = None,
    batch_size: options.BatchSize = None,
    seed: options.Seed = None,
    optimizer: options.Optimizer = None,
    device: options.Device = None,
    log: options.Log = None,
    config: options.File = None,
    settings: options.Changes = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Of the run; a new one under runs/ if left out. Example: --out runs/first"),
    ] = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Train one network by one rule, and test it once at the end.

    Example: apical train --task mnist --model mlp:500,500 --rule feedback_alignment --epochs 10
    """
    from apical import study

    given: dict[str, Any] = {"task": task, "model": model, "epochs": epochs, "batch_size": batch_size, "device": device}
    chosen = options.configuration(config, settings, optimizer=optimizer, lr=lr, rule=rule, seed=seed, log=log, **given)
    show_result(study.train(chosen, out or _new_folder(chosen), overwrite=overwrite), json=json)


def resume(run: Run, changed: options.Changed = False, json: options.Json = False) -> None:
    """Go on with an interrupted run, to the same weights as if it had never been interrupted.

    Example: apical resume runs/digits-backprop-1
    """
    from apical import study

    show_result(study.resume(run, changed=changed), json=json)


def evaluate(
    run: Run,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Other data than the run's own test part, of the same shape. Example: --task npz:noisy.npz",
        ),
    ] = None,
    changed: options.Changed = False,
    json: options.Json = False,
) -> None:
    """Measure the weights of a run again, on its own test part or on other data.

    Example: apical evaluate runs/digits-backprop-1 --task npz:noisy.npz
    """
    from dataclasses import asdict

    from apical import study

    evaluation = study.evaluate(run, task=task, changed=changed)
    if json:
        terminal.as_json(asdict(evaluation))
        return
    terminal.line(f"accuracy  {terminal.percent(evaluation.accuracy)}")
    terminal.line(f"loss      {evaluation.loss:.4f}")
    terminal.line(f"data      {evaluation.examples} examples of {evaluation.task}")
    terminal.line(f"leak      {_leak(evaluation.leakage)}")
    state = "finished" if evaluation.finished else "unfinished"
    terminal.line(f"run       {evaluation.folder}, after epoch {evaluation.epoch} ({state})")
    terminal.table(
        ["class", "accuracy"],
        (
            (str(label), "no example" if accuracy is None else terminal.percent(accuracy))
            for label, accuracy in enumerate(evaluation.by_class)
        ),
    )
    for note in evaluation.notes:
        terminal.paragraph(f"This run {note}.")


def _leak(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not measured: the examples have one class, or are too few"
    single = "cannot be taken" if found["single"] is None else terminal.percent(found["single"])
    how = f"pure {terminal.percent(found['pure'])}, mixed {terminal.percent(found['mixed'])}, single {single}"
    if not found["leaks"]:
        return f"none: accuracy does not depend on how {found['samples']} examples are cut into batches"
    return f"LEAKS: the answer to an example depends on the others of its batch (batches {how})"


def show_result(result: "Result", *, json: bool) -> None:
    """Show how a run ended."""
    from apical.study.comparison.gathering import gather

    badges = gather([result.folder])[0].arms[0].badges
    if json:
        terminal.as_json({"folder": result.folder, **result.to_dict(), "badges": badges})
        return
    terminal.line(f"test accuracy  {terminal.percent(result.test_accuracy)}")
    terminal.line(f"test loss      {result.test_loss:.4f}")
    if result.validation_accuracy is not None:
        terminal.line(f"validation     {terminal.percent(result.validation_accuracy)}")
    tested = f", tested with the weights of epoch {result.tested_epoch}" if result.tested_epoch != result.epochs else ""
    if badges:
        terminal.line(f"badges         {', '.join(badges)}")
    length = f"{terminal.count(result.epochs, 'epoch')}, {terminal.count(result.steps, 'step')}"
    terminal.line(f"training       {result.status}: {length}{tested}")
    if result.angles is not None:
        terminal.table(
            ["layer", "angle to the gradient"],
            ((layer, "-" if angle is None else f"{angle:.1f}°") for layer, angle in result.angles.items()),
        )
    if result.stream is not None:
        _show_stream(result.stream)
    for note in result.notes:
        terminal.paragraph(note)
    terminal.line(f"run            {result.folder}")


def _show_stream(found: "StreamResult") -> None:
    terminal.table(
        ["accuracy (%) after", *(str(number) for number in range(1, len(found.tasks) + 1))],
        (
            [found.tasks[place] if len(found.matrix) > 1 else "all tasks", *(f"{100 * value:.1f}" for value in row)]
            for place, row in enumerate(found.matrix)
        ),
    )
    for name, value in found.metrics.items():
        if value is not None:
            terminal.line(f"{name.replace('_', ' ')}  {100 * value:.2f}")
    terminal.line(f"leak  {_leak(found.leakage)}")


def _new_folder(config: "Config") -> Path:
    """The first folder `runs/TASK-RULE-N` that is not there yet."""
    task = Path(config.task.partition(":")[2] or config.task).stem
    rule = config.rule.name.rpartition(":")[2]  # of a file of the user's own, the class
    numbered = (Path("runs") / f"{task}-{rule}-{number}" for number in itertools.count(1))
    return next(folder for folder in numbered if not folder.exists())
