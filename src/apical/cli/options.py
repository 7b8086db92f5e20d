"""The options that several verbs share, and how they become a configuration."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apical.errors import ConfigError

if TYPE_CHECKING:
    from apical.study import Config

Task = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="What to learn: a name from `apical data`, or npz:PATH. Example: --task mnist"),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The network: mlp:WIDTHS, conv:CHANNELS, lenet, resnet20, or file.py:function of your own. "
        "Example: --model mlp:500,500",
    ),
]
Epochs = Annotated[int | None, typer.Option(metavar="N", help="Passes over the training data. Example: --epochs 10")]
Rate = Annotated[
    float | None,
    typer.Option(
        metavar="RATE",
        help="The learning rate; in a comparison backprop's, and a rule that is known to want another gets its "
        "multiple. Example: --lr 0.05",
    ),
]
Rates = Annotated[
    str | None,
    typer.Option(
        metavar="RATE,...",
        help="The learning rate: backprop's, and a rule that is known to want another gets its multiple. Of several, "
        "each rule takes the one that does best on validation data. Example: --lr 0.005,0.015,0.05",
    ),
]
BatchSize = Annotated[int | None, typer.Option(metavar="N", help="Examples in a step. Example: --batch-size 64")]
Seed = Annotated[
    int | None, typer.Option(metavar="N", help="Of the weights, the order of the data and the rule. Example: --seed 1")
]
Optimizer = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="sgd, adam, adamw, rmsprop, rprop, adaptation. Example: --optimizer adam"),
]
Seeds = Annotated[
    str,
    typer.Option(
        metavar="N",
        help="How many, or which (a single one with a comma behind it). Example: --seeds 5, or --seeds 0,7",
    ),
]
Title = Annotated[str | None, typer.Option(metavar="TEXT", help='Of the page. Example: --title "My network"')]
Device = Annotated[str | None, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, ... Example: --device cuda")]
Log = Annotated[
    str | None, typer.Option(metavar="NAME", help="Write scalars into each run's folder. Example: --log tensorboard")
]
File = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Settings from a TOML file; options override it. Example: --config run.toml"),
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
Changed = Annotated[
    bool,
    typer.Option(
        "--changed",
        help="Go on although data, network, rule, settings or versions are not those of the run; the result says so. "
        "Example: --changed",
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Processes at a time; one for each processor if left out. Example: --jobs 4"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs. Example: --json > result.json")]


def configuration(
    file: Path | None,
    settings: list[str] | None,
    *,
    lr: float | list[float] | None,
    rule: str | None = None,
    **flags: Any,
) -> "Config":
    """The configuration that a file, then flags, then `--set` give.

    A table that `--set` names as a whole (`optimizer=adam`) comes before the flags, since a new name empties the
    table: so `--lr 0.1 --set optimizer=adam` keeps the rate, in whichever order it is written.

    Args:
        file: in TOML, or None.
        settings: as `KEY=VALUE`, or None.
        lr: of the optimizer, or several for a comparison; here and below, None stands for a flag that was not given.
        rule: with its options, such as `sign_symmetry:magnitude=fixed`.
        flags: other settings by name.

    Raises:
        ConfigError: a wrong key or value.
    """
    from apical.study import Config, RuleConfig
    from apical.study.configuration.open_tables import NAMED_TABLES
    from apical.study.configuration.parsing import parse_settings

    config = Config.load(file) if file else Config()
    flags |= {"optimizer.lr": lr, "rule": rule and RuleConfig.parse(rule).model_dump()}
    given = {key: value for key, value in flags.items() if value is not None}
    written = [setting for setting, _, _ in parse_settings(settings or [])]  # each key once
    tables = [setting for setting in written if setting.partition("=")[0].strip() in NAMED_TABLES]
    others = [setting for setting in written if setting not in tables]
    return config.with_changes(tables, given, others)


def read_rates(text: str | None) -> float | list[float] | None:
    """`0.05` is a learning rate; with commas, as in `0.005,0.05`, it is a list of them.

    Raises:
        ConfigError: a part is not a number.
    """
    if text is None:
        return None
    try:
        rates = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        rates = []
    if not rates:
        raise ConfigError(f"--lr {text}: write a rate (--lr 0.05), or several (--lr 0.005,0.015,0.05)")
    return rates if "," in text else rates[0]


def read_rules(texts: Sequence[str] | None) -> list[str] | None:
    """The rules of all `--rules`, commas or blanks between them; a rule's options, which hold `=`, stay with it."""
    from apical.study.configuration.parsing import split_list

    if texts is None:
        return None
    found: list[str] = []
    for part in (part for text in texts for part in split_list(text, "[, \t\n]")):
        key, equals, _ = part.partition("=")
        if equals and ":" not in key and found:
            found[-1] += f",{part}"
        else:
            found.append(part)
    return found
