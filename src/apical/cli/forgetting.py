"""The verbs of forgetting: `apical continual`, `apical protections`."""

import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apical.cli import options, terminal
from apical.cli.comparing import delivered, read_seeds, usual_folder
from apical.errors import ConfigError

if TYPE_CHECKING:
    from apical.statistics import Spread
    from apical.study import Comparison
    from apical.study.comparison.parts import Floor
    from apical.study.comparison.schema import Arm

KINDS = ("split", "one-class", "permuted", "rotated")
PROTECTIONS = "none,freeze,ewc,replay"


def continual(
    stream: Annotated[
        str,
        typer.Option(
            metavar="KIND-TASK",
            help="How a task becomes a stream (split, one-class, permuted, rotated), and the task from `apical data`. "
            "Example: --stream split-mnist",
        ),
    ] = "split-digits",
    scenario: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What is to be answered: task (the class within the task, which is given), domain (the class within "
            "the task), class (the class among all). Example: --scenario class",
        ),
    ] = None,
    rules: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            help="Learning rules, as for `apical compare`. Example: --rules backprop,feedback_alignment",
        ),
    ] = None,
    protect: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            help="Protections against forgetting, with options after a colon; each with every rule. `apical "
            "protections` lists them. Example: --protect none,ewc:strength=100,replay:size=200",
        ),
    ] = None,
    model: options.Model = None,
    seeds: options.Seeds = "3",
    epochs: Annotated[int | None, typer.Option(metavar="N", help="Passes over each task. Example: --epochs 5")] = None,
    lr: options.Rate = None,
    batch_size: options.BatchSize = None,
    optimizer: options.Optimizer = None,
    device: options.Device = None,
    config: options.File = None,
    settings: options.Changes = None,
    joint: Annotated[
        bool, typer.Option("--joint/--no-joint", help="Also all tasks at once, the ceiling. Example: --no-joint")
    ] = True,
    floors: Annotated[
        bool,
        typer.Option("--floors/--no-floors", help="Also learners of one pass without a network. Example: --no-floors"),
    ] = True,
    equal_compute: Annotated[
        bool,
        typer.Option(
            "--equal-compute",
            help="Give each learner as many epochs as cost the passes of the dearest. Example: --equal-compute",
        ),
    ] = False,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="For kept examples: protections that keep some keep as many as fit, and floors that keep more are "
            "left out. Example: --memory 100kB",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Of the comparison; if left out, one under runs/ that these settings always get. "
            "Example: --out runs/forgetting",
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    changed: options.Changed = False,
    jobs: options.Jobs = None,
    title: options.Title = None,
    json: options.Json = False,
) -> None:
    """Learn tasks one after another, and show what is forgotten, by rule and protection, beside the floors.

    Without options: split digits, class-incremental, backpropagation with a few protections, three seeds, about a
    minute on two processors. The same command continues where it was stopped.

    Example: apical continual --stream split-mnist --scenario class --rules backprop,burst_ccn --protect none,ewc,replay
    """
    from apical import study

    kind, task = read_stream(stream)
    given: dict[str, Any] = {"task": task, "model": model, "batch_size": batch_size, "device": device}
    given |= {"stream": {"name": kind, **({"scenario": scenario} if scenario else {})}}
    chosen = options.configuration(config, settings, optimizer=optimizer, lr=lr, epochs=epochs or 5, **given)
    folder = out or usual_folder(chosen, "continual")
    with delivered(folder, None if json else show, summary) as deliver:
        deliver(
            study.compare(
                chosen,
                options.read_rules(rules) or ["backprop"],
                read_seeds(seeds),
                folder,
                jobs=jobs,
                protect=options.read_rules(protect or [PROTECTIONS]),
                joint=joint,
                floors=floors,
                equal_compute=equal_compute,
                memory=None if memory is None else read_bytes(memory),
                cost=False,
                overwrite=overwrite,
                changed=changed,
                title=title,
            )
        )


def protections(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One protection: its equations and options. Example: ewc")
    ] = None,
    json: options.Json = False,
) -> None:
    """List the protections against forgetting with their papers and what they assume, or explain one.

    Example: apical protections ewc
    """
    from apical.continual import protections as registry

    known = {each: registry.get(each) for each in ([name] if name else registry.names())}
    described = {each: _describe(kind) for each, kind in known.items()}
    if json:
        terminal.as_json(described[name] if name else list(described.values()))
    elif name:
        about = described[name]
        terminal.line(f"{name}: {about['title']}")
        terminal.line(f"paper: {about['paper'] or '-'}")
        terminal.line()
        terminal.text(about["description"])
        terminal.line()
        if about["options"]:
            terminal.table(["option", "default"], ((key, str(value)) for key, value in about["options"].items()))
    else:
        rows = ((each, f"{about['summary']}\n{_needs(about)}") for each, about in described.items())
        terminal.table(["protection", "what it does"], rows, words=[1])
        terminal.paragraph("`apical protections NAME` shows equations and options.")


def _describe(kind: Any) -> dict[str, Any]:
    parameters = [
        each
        for each in inspect.signature(kind).parameters.values()
        if each.kind is each.KEYWORD_ONLY or each.kind is each.POSITIONAL_OR_KEYWORD
    ]
    return {
        **{
            key: getattr(kind, key)
            for key in ("name", "title", "summary", "paper", "needs_boundaries", "needs_identity")
        },
        "options": {each.name: each.default for each in parameters},
        "description": inspect.getdoc(kind) or "",
    }


def _needs(about: dict[str, Any]) -> str:
    needs = ["where tasks begin and end"] * about["needs_boundaries"] + ["the task in testing"] * about[
        "needs_identity"
    ]
    return f"{about['paper']}. ".lstrip(". ") + f"Needs to know: {' and '.join(needs) or 'nothing of tasks'}."


def read_stream(text: str) -> tuple[str, str]:
    """`split-mnist` as the kind of the stream, as the configuration writes it, and the task.

    Raises:
        ConfigError: it is not a kind and a task with a hyphen between.
    """
    for kind in KINDS:
        if text.startswith(f"{kind}-") and len(text) > len(kind) + 1:
            return kind.replace("-", "_"), text[len(kind) + 1 :]
    raise ConfigError(f"--stream {text}: write a kind ({', '.join(KINDS)}) and a task, such as split-mnist")


def read_bytes(text: str) -> int:
    """`500`, `100kB` or `1.5MB` as a number of bytes.

    Raises:
        ConfigError: it is none of these.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kM]?)B?", text)
    if found is None:
        raise ConfigError(f"--memory {text}: write a number of bytes, such as 100kB or 1.5MB")
    return int(float(found[1]) * {"": 1, "k": 1000, "M": 1_000_000}[found[2]])


def summary(comparison: "Comparison") -> dict[str, Any]:
    """What a comparison on a stream found."""
    return {
        "title": comparison.title,
        "stream": comparison.task.stream and comparison.task.stream.model_dump(),
        "arms": [
            {**arm.model_dump(include={"rule", "title", "settings", "notes"}), **_found(arm)} for arm in comparison.arms
        ],
        "floors": [{"title": floor.title, **_found(floor)} for floor in comparison.floors],
    }


def _found(learner: "Arm | Floor") -> dict[str, Any]:
    runs = learner.of_streams()
    return {
        "matrix": learner.matrix(),
        "metrics": {name: _spread(learner.metric(name)) for name in (runs[0].metrics if runs else {})},
        "assumptions": runs[0].assumptions if runs else None,
        "leaks": learner.leaks,
    }


def _spread(spread: "Spread | None") -> dict[str, Any] | None:
    return None if spread is None else {"mean": spread.mean, "deviation": spread.deviation, "count": spread.n}


def show(comparison: "Comparison") -> None:
    """Show what was learned and forgotten."""
    rows = [_row(arm.label, arm) for arm in comparison.arms] + [_row(each.title, each) for each in comparison.floors]
    columns = ["", "accuracy", "forgets", "leak", "bounds", "samples", "memory", "passes"]
    terminal.table(columns, rows, title=comparison.title)
    stream, config = comparison.task.stream, comparison.config
    tasks = len(stream.tasks) if stream else 1
    epochs = sorted({arm.settings.epochs or config["epochs"] for arm in comparison.arms})
    most = terminal.count(epochs[-1], "epoch")
    most = most if len(epochs) == 1 else f"{epochs[0]} to {most}, at equal compute,"
    length = f"{terminal.count(tasks, 'task')}, {most} each"
    terminal.paragraph(
        f"{config['model']}, {length}. Accuracy: mean over tasks at the end, in %. Forgetting: the best accuracy on a "
        "task before the last one minus that at the end, in points (Chaudhry et al. 2018). Both: mean ± standard "
        f"deviation over {terminal.count(len(comparison.seeds), 'seed')}. Leak: whether answers depend on how the test "
        "data are cut into batches. Bounds: it needs to know where tasks begin and end. Samples and memory: kept. "
        "Passes: forward and backward passes of a step."
    )
    from apical.report import findings

    for sentence in findings.floor_sentences(comparison):
        terminal.paragraph(sentence)
    for arm in comparison.arms:
        for run in arm.failures():
            terminal.paragraph(f"{arm.label}, seed {run.seed}, failed: {run.error}")


def _row(title: str, learner: "Arm | Floor") -> list[str]:
    runs = learner.of_streams()
    if not runs:
        return [title, "failed", *[""] * 6]
    keeps, accuracy, forgetting = runs[0].assumptions, learner.metric("accuracy"), learner.metric("forgetting_max")
    return [
        title,
        "-" if accuracy is None else accuracy.text(1, factor=100),
        "-" if forgetting is None else forgetting.text(1, factor=100),
        "-" if runs[0].leakage is None else "LEAKS" if learner.leaks else "no",
        "yes" if keeps["boundaries"] else "no",
        f"{keeps['samples'] or '-'}",
        terminal.megabytes(keeps["bytes"]) if keeps["bytes"] else "-",
        f"{keeps['passes']:.3g}" if keeps["passes"] else "-",
    ]
