"""The options that several verbs share, and how they become a configuration."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from apical.study import Config

Task = Annotated[
    str | None,
    typer.Option(
        "--task", metavar="NAME", help="What to learn: a name from `apical data`, or npz:PATH. Example: --task mnist"
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="The network: mlp:WIDTHS, conv:CHANNELS, lenet, resnet20, or file.py:function of your own. "
        "Example: --model mlp:500,500",
    ),
]
Epochs = Annotated[
    int | None, typer.Option("--epochs", metavar="N", help="Passes over the training data. Example: --epochs 10")
]
Rate = Annotated[
    float | None,
    typer.Option(
        "--lr",
        metavar="RATE",
        help="The learning rate; in a comparison backprop's, and a rule that is known to want another gets its "
        "multiple. Example: --lr 0.05",
    ),
]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", metavar="N", help="Examples in a step. Example: --batch-size 64")
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", metavar="N", help="Of the weights, the order of the data and the rule. Example: --seed 1"),
]
Optimizer = Annotated[
    str | None,
    typer.Option(
        "--optimizer", metavar="NAME", help="sgd, adam, adamw, rmsprop, rprop, adaptation. Example: --optimizer adam"
    ),
]
Device = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="cpu, cuda, cuda:1, ... Example: --device cuda")
]
Log = Annotated[
    str | None,
    typer.Option("--log", metavar="NAME", help="Write scalars into each run's folder. Example: --log tensorboard"),
]
File = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="Settings from a TOML file; options override it. Example: --config run.toml"
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any setting, as often as needed. Example: --set schedule=cosine --set optimizer.momentum=0.9",
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Remove what other settings left there. Example: --out runs/a --overwrite")
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs", metavar="N", help="Processes at a time; one for each processor if left out. Example: --jobs 4"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs. Example: --json > result.json")]


def configuration(file: Path | None, flags: Mapping[str, Any], settings: list[str] | None) -> "Config":
    """The configuration that a file, then flags, then `--set` give.

    A table that `--set` names as a whole (`optimizer=adam`) comes before the flags, since a new name empties the
    table: so `--lr 0.1 --set optimizer=adam` keeps the rate, in whichever order it is written.

    Args:
        file: in TOML, or None.
        flags: values by dotted key; None stands for a flag that was not given.
        settings: as `KEY=VALUE`, or None.

    Raises:
        ConfigError: a wrong key or value.
    """
    from apical.study import Config
    from apical.study.configuration.tables import NAMED_TABLES

    config = Config.load(file) if file else Config()
    given = {key: value for key, value in flags.items() if value is not None}
    tables = [setting for setting in settings or [] if setting.partition("=")[0].strip() in NAMED_TABLES]
    others = [setting for setting in settings or [] if setting not in tables]
    return config.with_settings(tables).with_values(given).with_settings(others)


def rule(text: str | None) -> dict[str, Any] | None:
    """A rule with its options, as a table of settings: `sign_symmetry:magnitude=fixed`.

    Raises:
        ConfigError: no such rule or option.
    """
    from apical.study import RuleConfig

    return None if text is None else RuleConfig.parse(text).model_dump()


def counting_from_one(value: int | None, flag: str) -> int | None:
    """The value, if it is a number of things to do.

    Raises:
        ConfigError: it is below 1.
    """
    from apical.errors import ConfigError

    if value is not None and value < 1:
        raise ConfigError(f"{flag} {value}: at least 1 is needed")
    return value


def read_rules(texts: Sequence[str] | None) -> list[str] | None:
    """The rules of all `--rules`, commas or blanks between them; a rule's options, which hold `=`, stay with it."""
    if texts is None:
        return None
    between = re.compile(r"[,\s]+(?=[A-Za-z_][\w-]*(?:[:,\s]|$))")
    return [rule for text in texts for rule in between.split(text.strip()) if rule]
