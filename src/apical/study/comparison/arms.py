"""Arms and runs of a comparison document, from the folders of runs."""

from collections.abc import Mapping, Sequence
from typing import Any

from apical import rules
from apical.continual import protections
from apical.errors import RunError
from apical.study.comparison.parts import ArmSettings, Run, StreamRun, Tuning
from apical.study.comparison.schema import Arm
from apical.study.configuration import Config, RuleConfig
from apical.study.executors.jobs import DIED
from apical.study.runs.folder import RunFolder


def arm(
    rule: RuleConfig,
    config: Config,
    runs: Sequence[Run],
    notes: Sequence[str],
    *,
    shared: Config | None = None,
    tuning: Tuning | None = None,
    test_error: float | None = None,
) -> Arm:
    """A rule with its runs.

    Args:
        rule: without the seed of a single run.
        config: of one of the runs, complete.
        runs: of all seeds.
        notes: a sentence each.
        shared: what all arms of the comparison share; None: the configuration of the runs.
        tuning: how the learning rate was chosen, where it was.
        test_error: of the difference to backpropagation, where it is known from disagreements.
    """
    kind = rules.get(rule.name)
    limit = rule.make().equals_backprop
    equal = [f"equals backpropagation {limit}"] if limit and rule.name != "backprop" else []
    title = _with_options(kind.title, rule.options)
    single = config.stream.is_single and config.protect.name == "none"  # else it is a stream, perhaps the user's own
    return Arm(
        rule=rule.name,
        title=title if single else f"{title}, {_protection(config)}",
        summary=kind.summary,
        paper=kind.paper,
        settings=ArmSettings(
            learning_rate=config.optimizer.rate or 0.0,
            weight_decay=config.optimizer.weight_decay or 0.0,
            loss=None if shared is None or shared.loss == config.loss else config.loss,
            epochs=None if shared is None or shared.epochs == config.epochs else config.epochs,
            protection=None if single else config.protect.without_seed().label,
            joint=None if single else config.stream.joint,
            options=rule.options,
        ),
        notes=[*equal, *notes],
        tuning=tuning,
        test_error=test_error,
        runs=list(runs),
    )


def run_record(run: RunFolder, *, seed: int, folder: str, error: str | None) -> Run:
    """One run as the document has it; one whose files are damaged has failed.

    Args:
        run: its folder.
        seed: of the run.
        folder: its path in the document.
        error: why it has no result, where that is known.
    """
    result, epochs = None, []
    try:
        result = None if error else run.result()
        epochs = run.epochs()
    except RunError as problem:
        result, error = None, error or str(problem)
    measured = {key: result[key] if result else None for key in ("test_accuracy", "test_loss", "angles")}
    stream = (result or {}).get("stream")
    if stream:
        measured["stream"] = {key: stream[key] for key in StreamRun.model_fields}
    measured["spikes"] = (result or {}).get("spikes")
    return Run(
        seed=seed,
        status="finished" if result else "failed",
        error=None if result else error or DIED,
        folder=folder,
        epochs=epochs,
        **measured,
    )


def _protection(config: Config) -> str:
    """What protects earlier tasks, in an arm's title."""
    if config.stream.joint:
        return "all tasks at once"
    protect = config.protect.without_seed()
    if protect.name == "none":
        return "unprotected"
    title = protections.get(protect.name).title
    if title[1:2].islower():  # not an abbreviation
        title = title[0].lower() + title[1:]
    return _with_options(title, protect.options)


def _with_options(title: str, options: Mapping[str, Any]) -> str:
    """A title, and the options that were given behind it."""
    given = ", ".join(f"{key}={value}" for key, value in options.items())
    return f"{title} ({given})" if given else title
