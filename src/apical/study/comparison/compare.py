"""Many learning rules on one task and network, each from several seeds, in parallel processes.

On a stream of tasks an arm is a rule with a protection against forgetting.

For one seed all rules start from the same weights and see the same examples in the same order. Every run is an
ordinary run folder under `runs/`, so that a comparison that was stopped continues with the runs that are there:
finished ones are kept, unfinished ones resumed.
"""

import shlex
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from apical import data, models
from apical import rules as registry
from apical.circuit import Circuit
from apical.continual import Stream
from apical.errors import CircuitError, ConfigError
from apical.rules import LearningRule
from apical.study.comparison import keeping, tuning
from apical.study.comparison.equality import at_equal_compute, at_equal_memory
from apical.study.comparison.floors import measure_floors
from apical.study.comparison.parts import TaskInfo
from apical.study.comparison.running import Planned, Work, every_run
from apical.study.comparison.schema import Arm, Comparison, flatten
from apical.study.configuration import Config, ProtectConfig, RuleConfig
from apical.study.configuration.config import OWN_TASK
from apical.study.configuration.parsing import write_value
from apical.study.executors import pool
from apical.study.runs import display, environment, files, task_record
from apical.study.training.making import make_stream

# How often the angles are measured through training, when the configuration does not say.
ANGLES_THROUGH_TRAINING = 5
DEFAULT_SEEDS = 3

AnyRule: TypeAlias = str | RuleConfig | LearningRule | Callable[[], LearningRule]


def compare(
    config: Config,
    rules: str | Sequence[AnyRule] | None = None,
    seeds: int | Sequence[int] = DEFAULT_SEEDS,
    folder: str | Path = "runs/comparison",
    *,
    jobs: int | None = None,
    protect: Sequence[str | ProtectConfig] | None = None,
    joint: bool = False,
    floors: bool = False,
    equal_compute: bool = False,
    memory: int | None = None,
    cost: bool = True,
    overwrite: bool = False,
    changed: bool = False,
    progress: bool | None = None,
    title: str | None = None,
    command: str | None = None,
    lr: float | Sequence[float] | None = None,
) -> Comparison:
    """Train with every rule from every seed, and write comparison.json.

    Called again with the same folder it keeps the runs that have finished and continues the others; more rules
    or seeds may be added. Run from a script, the call stands under `if __name__ == "__main__":`, as everything
    that starts processes by `spawn`.

    Args:
        config: what all share. Its learning rate is backprop's; a rule that is known to want another gets its
            recommended multiple, and its recommended weight decay unless one is given. A list of learning rates is a
            grid: each arm takes the rate with the highest validation accuracy, a mean over `tuning.RUNS` runs from
            seeds that are not reported. Its loss is that of all rules but those that learn from a reward, which have
            their own. Its own `rule` lends its options to the rule of that name. Each run uses one thread.
        rules: names, or names with options such as `"sign_symmetry:magnitude=fixed"`, rules, their classes, or
            functions that make them; None: every registered one.
        seeds: the seeds, or how many, from `config.seed` on.
        folder: for the comparison; runs are in `runs/RULE/seed-N` under it.
        jobs: processes at a time; None: one for each processor. With 1 no process is started.
        protect: on a stream, each rule with each of these protections against forgetting, as names or names with
            options such as `"replay:size=200"`; None: that of the configuration.
        joint: on a stream, also each rule on all tasks at once, which is the ceiling.
        floors: on a stream, also learners of one pass without a network, which every method has to exceed.
        equal_compute: on a stream, each arm gets as many epochs as cost the forward and backward passes of the dearest.
        memory: on a stream, the bytes for kept examples: protections that keep some keep as many as fit, and floors
            that keep more are left out. Other protections keep what they do.
        cost: also measure what a training step costs beside plain PyTorch, after training.
        overwrite: remove runs that were made with other settings, or of other data, networks, rules or versions.
        changed: keep runs of other data, networks, rules or versions, with a note. Without this and `overwrite` they
            are refused.
        progress: show a bar on standard error; None: when that is a terminal.
        title: of the page.
        command: that makes this comparison, for the page; None: worked out from the arguments.
        lr: a learning rate, or a list of them, in place of the configuration's.

    Returns:
        The comparison. A run that fails is in it with its error.

    Raises:
        ConfigError, DataError: what is asked for cannot be had.
        RunError: the folder holds runs with other settings, is in use, or cannot be written.
        Interrupted: Ctrl-C or SIGTERM; finished runs are kept, the others saved.
    """
    pool.refuse_in_import()
    folder = Path(folder).expanduser()
    if lr is not None:
        config = config.with_values({"optimizer.lr": lr})
    chosen = _rules(rules, config.rule)
    numbers = _seeds(seeds, config.seed)
    guarded = _protections(protect, config, joint=joint or floors or equal_compute or memory is not None)
    if config.task.startswith(OWN_TASK):
        raise ConfigError("a comparison needs a task that its processes can load: a name, or npz:PATH")
    words = _words_of_streams(config, guarded, joint, floors, equal_compute, memory)
    shared = _shared(config)
    task = data.load(shared.task, progress=display.visible(progress))
    stream = make_stream(shared, task)
    if len(stream) == 1 and not shared.stream.is_single:
        raise ConfigError(
            f"{stream.name}: the stream has one task, so there is nothing to forget. Cut it into more, or compare with "
            "stream=single."
        )
    settings = _settings(shared, guarded, stream, joint, equal_compute, memory)
    tuning.check_tunable(shared)
    plan = [Planned(rule, own) for rule in chosen for own in settings]
    work = Work(folder, jobs, progress, overwrite, changed, rectified=_rectifies(shared, stream))
    files.make_folder(folder)
    with files.locked(folder, "comparing"):
        plan = work.with_runs(work.tune(plan, shared.optimizer.grid, numbers), numbers)
        arms = work.train(plan, shared, task if cost else None)
        before = keeping.arms_of_before(folder, every_run(plan), shared)
        comparison = Comparison(
            title=title or _title(len(arms + before), shared, task),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=command or _command(config, chosen, before, numbers, words),
            environment={**environment.describe(), "threads": 1},
            task=_task_info(task, shared),
            config=shared.to_dict(),
            arms=arms + before,
            floors=measure_floors(shared, task, numbers, memory=memory, progress=progress) if floors else [],
        )
        comparison.write(folder)
    return comparison


def _rectifies(config: Config, stream: Stream) -> bool | None:
    """Whether a network from a file has neurons that compute max(0, x); None: its name says it."""
    if models.parse(config.model).file is None:
        return None
    model = models.build(config.model, input_shape=stream.input_shape, classes=stream.outputs, seed=0)
    try:
        nodes = Circuit(model, "backprop").wiring.nodes
    except CircuitError:  # every run will say why
        return None
    return any(step.traits.rectifies for node in nodes for step in node.steps)


def _seeds(seeds: int | Sequence[int], first: int) -> list[int]:
    if isinstance(seeds, bool | float | str):
        raise ConfigError(f"seeds {seeds!r}: write how many (3), or which ([0, 7])")
    numbers = list(range(first, first + seeds)) if isinstance(seeds, int) else list(seeds)
    if not numbers or len(set(numbers)) != len(numbers):
        raise ConfigError(f"seeds {numbers}: at least one is needed, and each once")
    return numbers


def _rules(rules: str | Sequence[AnyRule] | None, lender: RuleConfig) -> list[RuleConfig]:
    names = registry.names() if rules is None else [rules] if isinstance(rules, str) else rules
    chosen = [
        RuleConfig.parse(rule) if isinstance(rule, str) else Config().with_values({"rule": rule}).rule for rule in names
    ]
    chosen = [lender if rule.name == lender.name and not rule.options else rule for rule in chosen]
    labels = [rule.label for rule in chosen]
    if not labels or len(set(labels)) != len(labels):
        raise ConfigError(f"rules {', '.join(labels) or '(none)'}: at least one is needed, and each once")
    return chosen


def _protections(protect: Sequence[str | ProtectConfig] | None, config: Config, *, joint: bool) -> list[ProtectConfig]:
    if config.stream.is_single and (protect is not None or joint or config.protect.name != "none"):
        raise ConfigError(
            "a comparison on a single task has nothing to protect. Set stream, such as stream=split, or leave protect, "
            "joint and floors out."
        )
    given = [config.protect] if protect is None else protect
    chosen = [ProtectConfig.parse(each) if isinstance(each, str) else each for each in given]
    labels = [each.label for each in chosen]
    if not labels or len(set(labels)) != len(labels):
        raise ConfigError(f"protections {', '.join(labels) or '(none)'}: at least one is needed, and each once")
    return chosen


def _settings(
    shared: Config,
    guarded: Sequence[ProtectConfig],
    stream: Stream,
    joint: bool,
    equal_compute: bool,
    memory: int | None,
) -> list[Config]:
    """What each rule is run with: one configuration for each protection, and one for all tasks at once."""
    settings = [shared.with_values({"protect": each.model_dump()}) for each in guarded]
    settings += [shared.with_values({"stream.joint": True, "protect": "none"})] * joint
    if memory is not None:
        settings = at_equal_memory(settings, memory, stream)
    if equal_compute:
        settings = at_equal_compute(settings, stream)
    return settings


def _title(rules: int, config: Config, task: data.Task) -> str:
    if config.stream.is_single:
        return f"{rules} learning rule{'s' * (rules != 1)} on {task.name}"
    return f"Forgetting on {make_stream(config, task).name}, {config.stream.asks}-incremental"


def _shared(config: Config) -> Config:
    values: dict[str, Any] = {"threads": 1}
    if "alignment" not in config.model_fields_set and config.stream.is_single:
        values["alignment"] = max(1, config.epochs // ANGLES_THROUGH_TRAINING)
    return config.with_values(values)


def _task_info(task: data.Task, config: Config) -> TaskInfo:
    train, validation = map(len, data.stratified_indices(task.train.y, config.validation, seed=0))
    stream = make_stream(config, task)
    return TaskInfo.of(task_record.describe(task, stream, train=train, validation=validation))


def _words_of_streams(
    config: Config,
    guarded: Sequence[ProtectConfig],
    joint: bool,
    floors: bool,
    equal_compute: bool,
    memory: int | None,
) -> list[str]:
    """The words of the command line that are about a stream."""
    if config.stream.is_single:
        return []
    words = ["--protect", ",".join(each.label for each in guarded)]
    words += ["--no-joint"] * (not joint) + ["--no-floors"] * (not floors) + ["--equal-compute"] * equal_compute
    return words + ([] if memory is None else ["--memory", str(memory)])


def _command(
    config: Config,
    chosen: Sequence[RuleConfig],
    before: Sequence[Arm],
    seeds: Sequence[int],
    words_of_streams: Sequence[str],
) -> str:
    labels = list(dict.fromkeys([rule.label for rule in chosen] + keeping.labels(before)))
    seeds = sorted({*seeds, *(run.seed for arm in before for run in arm.runs)})
    words = ["apical", "compare" if config.stream.is_single else "continual", *words_of_streams]
    if labels != registry.names() or not config.stream.is_single:
        words += ["--rules", ",".join(labels)]
    if list(seeds) != list(range(config.seed, config.seed + DEFAULT_SEEDS)):
        words += ["--seeds", ",".join(map(str, seeds)) + ("," if len(seeds) == 1 else "")]
    # A table's name empties it, so it comes before its options.
    for key, value in sorted(flatten(config.given()).items(), key=lambda item: item[0].rpartition(".")[2] != "name"):
        words += ["--set", f"{key}={write_value(value)}"]
    return shlex.join(words)
