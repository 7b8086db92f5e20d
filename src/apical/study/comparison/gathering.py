"""From folders to comparisons: what `apical report` is given may also be single runs."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from apical.study.comparison.arms import arm, run_record
from apical.study.comparison.parts import TaskInfo
from apical.study.comparison.schema import FILE, Arm, Comparison
from apical.study.configuration import Config
from apical.study.runs import fingerprint
from apical.study.runs.folder import RunFolder

# Where runs of one comparison may differ.
OWN = ("rule", "protect", "seed")
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
            groups.setdefault(repr((run.fingerprint().get("data", run.task()["name"]), _settings(run))), []).append(run)
    return comparisons + [_comparison(runs) for runs in groups.values()]


def _settings(run: RunFolder) -> dict[str, Any]:
    """The configuration without what a run may have of its own."""
    config = run.config().to_dict()
    optimizer = {key: value for key, value in config["optimizer"].items() if key not in OWN_OF_OPTIMIZER}
    return {key: value for key, value in config.items() if key not in OWN} | {"optimizer": optimizer}


def _comparison(runs: Sequence[RunFolder]) -> Comparison:
    arms: dict[str, list[RunFolder]] = {}
    for run in runs:
        arms.setdefault(repr(_own_settings(run.config())), []).append(run)
    task = runs[0].task()
    return Comparison(
        title=f"{len(runs)} run{'s' * (len(runs) != 1)} on {Path(task['name']).name}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=" && ".join(f"apical train --config {run.path / 'config.toml'}" for run in runs),
        environment=runs[0].environment(),
        task=TaskInfo.of(task),
        config=runs[0].config().to_dict() if len(runs) == 1 else _settings(runs[0]),
        arms=[_arm(of_arm) for of_arm in arms.values()],
    )


def _own_settings(config: Config) -> tuple[Any, ...]:
    """The settings of a run that those of its arm share."""
    of_optimizer = (getattr(config.optimizer, key) for key in OWN_OF_OPTIMIZER)
    return config.rule.without_seed(), config.protect.without_seed(), *of_optimizer


def _finished(run: RunFolder) -> bool:
    return (run.path / "result.json").exists()


def _notes(run: RunFolder, config: Config) -> list[str]:
    """The notes of a run, and one more where config.toml is not that of the run."""
    notes, then = list(run.notes()), run.fingerprint()
    found = fingerprint.changes(then, {"settings": fingerprint.of_settings(config)}) if then else ""
    if found and not any("its settings changed" in note for note in notes):
        notes.append(f"{fingerprint.CHANGED}: {found}")
    return notes


def _arm(folders: Sequence[RunFolder]) -> Arm:
    configs = [run.config() for run in folders]
    runs = [
        run_record(
            run,
            seed=config.seed,
            folder=str(run.path),
            error=None if _finished(run) else f"not finished: apical resume {run.path} continues it",
        )
        for run, config in zip(folders, configs, strict=True)
    ]
    notes = dict.fromkeys(note for each in map(_notes, folders, configs) for note in each)
    return arm(configs[0].rule.without_seed(), configs[0], runs, list(notes))
