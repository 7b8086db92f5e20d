"""From folders to comparisons: what `apical report` is given may also be single runs."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from apical import rules
from apical.study.comparison.schema import FILE, Arm, Comparison, Run, Settings, TaskInfo
from apical.study.runs.folder import RunFolder

# Where runs of one comparison may differ.
OWN = ("rule", "seed")
OWN_OF_OPTIMIZER = ("lr", "weight_decay")


def gather(paths: Iterable[Path]) -> list[Comparison]:
    """The comparisons that are in these folders; single runs become comparisons of those that belong together.

    Runs belong together when they have the same task and settings, but for the rule and what goes with it.

    Raises:
        RunError: a folder is neither of a comparison nor of a run.
    """
    comparisons: list[Comparison] = []
    groups: dict[str, list[RunFolder]] = {}
    for path in paths:
        if path.is_file() or (path / FILE).is_file():
            comparisons.append(Comparison.load(path))
        else:
            run = RunFolder.open(path)
            groups.setdefault(_shared(run), []).append(run)
    return comparisons + [_comparison(runs) for runs in groups.values()]


def _settings(run: RunFolder) -> dict[str, Any]:
    """The configuration without what a run may have of its own."""
    config = run.config().to_dict()
    optimizer = {key: value for key, value in config["optimizer"].items() if key not in OWN_OF_OPTIMIZER}
    return {key: value for key, value in config.items() if key not in OWN} | {"optimizer": optimizer}


def _shared(run: RunFolder) -> str:
    return repr((run.task()["fingerprint"], _settings(run)))


def _comparison(runs: Sequence[RunFolder]) -> Comparison:
    arms: dict[str, list[RunFolder]] = {}
    for run in runs:
        arms.setdefault(repr(_arm_settings(run)), []).append(run)
    task = runs[0].task()
    return Comparison(
        title=f"{len(runs)} run{'s' * (len(runs) != 1)} on {Path(task['name']).name}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=" && ".join(f"apical train --config {run.path / 'config.toml'}" for run in runs),
        environment=runs[0].environment(),
        task=TaskInfo(**{key: task[key] for key in TaskInfo.model_fields}),
        config=runs[0].config().to_dict() if len(runs) == 1 else _settings(runs[0]),
        arms=[_arm(of_arm) for of_arm in arms.values()],
    )


def _arm_settings(run: RunFolder) -> tuple[str, Settings]:
    config = run.config()
    options = {key: value for key, value in config.rule.options.items() if key != "seed"}
    return config.rule.name, Settings(
        learning_rate=config.optimizer.lr or 0.0, weight_decay=config.optimizer.weight_decay or 0.0, options=options
    )


def _arm(runs: Sequence[RunFolder]) -> Arm:
    name, settings = _arm_settings(runs[0])
    kind = rules.get(name)
    options = ", ".join(f"{key}={value}" for key, value in settings.options.items())
    return Arm(
        rule=name,
        title=f"{kind.title} ({options})" if options else kind.title,
        summary=kind.summary,
        paper=kind.paper,
        settings=settings,
        notes=list(dict.fromkeys(note for run in runs for note in run.notes())),
        runs=[_run(run) for run in runs],
    )


def _run(run: RunFolder) -> Run:
    result: Mapping[str, Any] | None = run.result()
    return Run(
        seed=run.config().seed,
        status="finished" if result else "failed",
        error=None if result else f"not finished: apical resume {run.path} goes on with it",
        folder=str(run.path),
        epochs=run.epochs(),
        test_accuracy=result["test_accuracy"] if result else None,
        test_loss=result["test_loss"] if result else None,
        angles=result["angles"] if result else None,
    )
