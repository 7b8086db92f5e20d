"""The verbs of many runs: `apical compare`, `apical report`, `apical figure`."""

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apical.cli import options, terminal
from apical.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from apical.statistics import Spread
    from apical.study import Comparison, Config
    from apical.study.comparison.schema import Arm

PAGE = "report.html"


def compare(
    task: options.Task = None,
    model: options.Model = None,
    rules: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            help="Learning rules, with commas between them and options after a colon; every one if left out. "
            "Example: --rules backprop,sign_symmetry:magnitude=fixed",
        ),
    ] = None,
    seeds: options.Seeds = "3",
    epochs: options.Epochs = None,
    lr: options.Rates = None,
    batch_size: options.BatchSize = None,
    optimizer: options.Optimizer = None,
    device: options.Device = None,
    log: options.Log = None,
    config: options.File = None,
    settings: options.Changes = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Of the comparison; if left out, one under runs/ that these settings always get. "
            "Example: --out runs/mnist",
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    changed: options.Changed = False,
    jobs: options.Jobs = None,
    cost: Annotated[
        bool, typer.Option("--cost/--no-cost", help="Time the training steps, after training. Example: --no-cost")
    ] = True,
    title: options.Title = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also write a table with a row for each rule and seed. Example: --csv runs.csv"
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Train by many rules from many seeds, and show accuracy, angle to the gradient and cost of each.

    Without options: every rule on scikit-learn's handwritten digits, three seeds, about a minute on two processors.
    The same command continues where it was stopped, and keeps the runs that have finished.

    Example: apical compare --task mnist --model mlp:500,500 --rules backprop,feedback_alignment --seeds 5
    """
    from apical import study

    given: dict[str, Any] = {"task": task, "model": model, "epochs": epochs, "batch_size": batch_size, "device": device}
    chosen = options.configuration(config, settings, optimizer=optimizer, lr=options.read_rates(lr), log=log, **given)
    names = options.read_rules(rules)
    folder = out or usual_folder(chosen, "compare")
    if (folder / "comparison.json").is_file() and not overwrite:
        terminal.say(f"{folder} holds this comparison already: runs that have finished are kept.")
    if csv is not None and csv.expanduser().is_dir():
        raise ConfigError(f"--csv {csv}: is a folder. Name a file, such as {csv / 'runs.csv'}")
    with delivered(folder, None if json else show, summary, csv) as deliver:
        comparison = study.compare(
            chosen,
            names,
            read_seeds(seeds),
            folder,
            jobs=jobs,
            cost=cost,
            overwrite=overwrite,
            changed=changed,
            title=title,
        )
        deliver(comparison)


@contextmanager
def delivered(
    folder: Path,
    show: "Callable[[Comparison], None] | None",
    summarise: "Callable[[Comparison], dict[str, Any]]",
    csv: Path | None = None,
) -> "Iterator[Callable[[Comparison], None]]":
    """A function that says what a comparison found, and then writes its page into its folder.

    A comparison that could not be written is shown all the same. Where no run has ended, the exit code is 1.

    Args:
        folder: of the comparison.
        show: shows it on the terminal; None: JSON is printed instead.
        summarise: what the JSON has.
        csv: the file for a table of all runs.
    """
    from apical import report as page
    from apical.study.comparison import frames
    from apical.study.comparison.schema import UnwrittenError

    path = folder.expanduser() / PAGE

    def tell(comparison: "Comparison") -> None:
        if show is None:
            terminal.as_json({**summarise(comparison), "folder": folder, "page": path})
        else:
            show(comparison)

    def deliver(comparison: "Comparison") -> None:
        tell(comparison)
        page.write(comparison, path)
        if show is not None:
            terminal.line(f"page  {path}")
        if csv is not None:
            frames.write_csv(frames.rows(comparison), csv.expanduser())
        if not any(arm.finished() for arm in comparison.arms):
            raise typer.Exit(1)

    try:
        yield deliver
    except UnwrittenError as error:
        tell(error.comparison)
        raise


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Folders of comparisons, or of single runs. Example: runs/comparison"),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the page goes. Example: --out both.html")
    ] = None,
) -> None:
    """Make the page of one or more comparisons, or of single runs.

    Example: apical report runs/mnist runs/fashion --out both.html
    """
    from apical import report as page
    from apical.study.comparison.gathering import gather

    comparisons = gather(runs)
    path = out or (runs[0] / PAGE if len(runs) == 1 and runs[0].is_dir() else Path(PAGE))
    page.write(comparisons, path)
    terminal.line(f"page  {path}")


def figure(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="The folder of a comparison, or of runs. Example: runs/comparison"),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="The figure, .svg, .png or .pdf; its data go beside it. Example: --out a.pdf"
        ),
    ] = Path("figure.svg"),
    show: Annotated[
        str,
        typer.Option(
            metavar="PANELS",
            help="Some of accuracy, loss, validation, angles. Example: --show accuracy,angles",
        ),
    ] = "accuracy,loss,validation",
) -> None:
    """Draw a comparison for print: a figure with a legend, and its data as CSV beside it (needs matplotlib).

    Example: apical figure runs/comparison --out figure.pdf
    """
    from apical.report import printing
    from apical.study.comparison.gathering import gather

    comparisons = gather(runs)
    if len(comparisons) > 1:
        raise ConfigError(f"these runs belong to {len(comparisons)} comparisons, and a figure shows one. Name fewer.")
    path = out.expanduser()
    beside = printing.draw(comparisons[0], path, [panel.strip() for panel in show.split(",") if panel.strip()])
    terminal.line(f"figure  {path}")
    terminal.line(f"data    {beside}")


def read_seeds(text: str) -> int | list[int]:
    """`3` is how many; `0,7` or `7,` are which.

    Raises:
        ConfigError: it is neither.
    """
    parts = [part.strip() for part in text.split(",")]
    which = [part for part in parts if part]
    if not which or not all(part.isdecimal() for part in which):
        raise ConfigError(f"--seeds {text}: write how many (--seeds 3), or which (--seeds 0,7)")
    if len(parts) > 1:
        return [int(part) for part in which]
    if int(text) == 0:
        raise ConfigError("--seeds 0: at least one is needed; the seed 0 alone is written --seeds 0,")
    return int(text)


def usual_folder(config: "Config", verb: str) -> Path:
    """One for each verb and configuration, always the same, so that a command that was stopped finds its runs again."""
    from apical.study.runs import fingerprint

    task = Path(config.task.partition(":")[2] or config.task).stem
    return Path("runs") / f"{verb}-{task}-{fingerprint.of_settings(config)[:8]}"


def summary(comparison: "Comparison") -> dict[str, Any]:
    """What a comparison found, without the curves."""
    from apical.report import findings

    return {
        "title": comparison.title,
        "headline": findings.headline(comparison),
        "task": comparison.task.name,
        "test_examples": comparison.task.test,
        "config": {key: value for key, value in comparison.config.items() if key not in ("rule", "seed")},
        "arms": [
            {
                **arm.model_dump(include={"rule", "title", "settings", "notes", "badges", "tuning"}),
                "cost": arm.timing and arm.timing.model_dump(),
                "test_accuracy": _spread(arm.accuracy()),
                "from_backprop": _difference(comparison, arm),
                "angles": arm.angles(),
                "failures": [{"seed": run.seed, "error": run.error} for run in arm.failures()],
            }
            for arm in comparison.arms
        ],
    }


def _difference(comparison: "Comparison", arm: "Arm") -> dict[str, Any] | None:
    difference, twin = comparison.difference(arm), comparison.twin(arm)
    if difference is None:
        return None
    same = twin[1] if twin is not None and twin[0] is comparison.reference else None
    return {**difference.to_dict(), "same_update": same}


def _spread(spread: "Spread | None") -> dict[str, Any] | None:
    if spread is None:
        return None
    return {"mean": spread.mean, "deviation": spread.deviation or 0.0, "count": spread.n}


# More angles than this get a table of their own, with a row for each layer.
LAYERS_IN_A_ROW = 4


def show(comparison: "Comparison") -> None:
    """Show what a comparison found."""
    from apical.report import findings

    arms = comparison.arms
    angles = _angles(arms)
    in_a_row = len(angles) <= LAYERS_IN_A_ROW
    columns = {"": [str(number) for number in range(1, len(arms) + 1)], "rule": [_rule(arm) for arm in arms]}
    columns |= _accuracies(comparison)
    if in_a_row:
        columns |= {f"angle\nat {layer}": shown for layer, shown in angles.items()}
    if any(arm.timing for arm in arms):
        columns["step\ntime"] = [_cost(arm) for arm in arms]
    terminal.table(list(columns), zip(*columns.values(), strict=True), title=comparison.title, words=[1])
    if not in_a_row:
        terminal.table(["angle at", *columns[""]], ([layer, *shown] for layer, shown in angles.items()))
    for sentence in (findings.headline(comparison), *findings.training_sentences(comparison)):
        terminal.paragraph(sentence)
    _explain(comparison, bool(angles))
    for arm in arms:
        for note in arm.notes:
            terminal.paragraph(f"{arm.title} {note}.")
        for run in arm.failures():
            terminal.paragraph(f"{arm.title}, seed {run.seed}, failed: {run.error}")


def _accuracies(comparison: "Comparison") -> dict[str, list[str]]:
    """The column of accuracies; where there are paired seeds, each with its points from backpropagation under it."""
    from apical.report import findings

    points = [findings.points_beside_reference(comparison, arm) for arm in comparison.arms]
    heading = "test accuracy" + "\nfrom backprop" * any(own for own, _ in points)
    cells = [
        _accuracy(comparison, arm) + (f"\n{own} ({interval.replace(' to ', ' ')})" if own else "")
        for arm, (own, interval) in zip(comparison.arms, points, strict=True)
    ]
    return {heading: cells}


def _rule(arm: "Arm") -> str:
    """Its title; under it the badges, and the rate where it was chosen for it."""
    from apical.study.comparison.badges import EDGE

    said = [text for text in arm.badge_texts() if text != EDGE]
    if arm.tuning is not None:
        said.append(f"rate {arm.settings.learning_rate:g}" + ", edge of grid" * arm.tuning.at_edge)
    return "\n".join([arm.title, *(f"[{text}]" for text in said)])


def _angles(arms: "Sequence[Arm]") -> dict[str, list[str]]:
    """For every layer the angle of each arm."""
    layers = dict.fromkeys(layer for arm in arms for layer in arm.angles())
    return {layer: [_angle(arm.angles().get(layer)) for arm in arms] for layer in layers}


def _explain(comparison: "Comparison", angles: bool) -> None:
    from apical.report import findings

    config, task = comparison.config, comparison.task
    seeds = f"{comparison.sample} seed{'s' * (comparison.sample != '1')}"
    said = [
        f"{config['model']}, {terminal.count(config['epochs'], 'epoch')}. Accuracy: on {task.test} test examples, "
        f"measured once at the end; mean ± standard deviation over {seeds}."
    ]
    if any(findings.points_beside_reference(comparison, arm)[0] for arm in comparison.arms):
        said.append(
            "From backprop: points, the mean difference over paired seeds and its 95 % interval, the test set's own "
            "error included."
        )
    if angles:
        said.append("Angle: degrees between the rule's update and the true gradient at the end of training, by layer.")
    costs = [arm.timing for arm in comparison.arms if arm.timing is not None]
    if costs:
        said.append(
            f"Step time: of a whole training step at batch {costs[0].batch_size} on one thread, as a multiple of plain "
            f"PyTorch's ({costs[0].plain_milliseconds:.2f} ms); median and quartiles."
        )
    if busy := sum(arm.cost is not None and arm.timing is None for arm in comparison.arms):
        said.append(f"The machine was too busy to time {'any rule' if not costs else terminal.count(busy, 'rule')}.")
    terminal.paragraph(" ".join(said))


def _accuracy(comparison: "Comparison", arm: "Arm") -> str:
    accuracy = arm.accuracy()
    if accuracy is None:
        return "failed"
    missing = len(arm.runs) - accuracy.n
    shown = accuracy.text(comparison.accuracy_decimals, unit=" %", factor=100)
    return shown + (f"\n({missing} failed)" if missing else "")


def _cost(arm: "Arm") -> str:
    return f"{arm.timing.ratio:.2f}\n({arm.timing.low:.2f}-{arm.timing.high:.2f})" if arm.timing else "-"


def _angle(angle: float | None) -> str:
    return "-" if angle is None else f"{angle:.1f}"
