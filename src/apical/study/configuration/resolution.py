"""From a configuration as it was given to the one that is run: every number there, and a note for each choice.

What the user left open is chosen here: the optimizer's defaults, the learning rate and weight decay that the
rule is known to want (its `recommends`), the loss that it needs (its `learns_from`) or follows (its option `loss`), the
rule's seed, the number of threads.
"""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from apical import models, sources
from apical.rules import LearningRule
from apical.study.configuration.config import Config
from apical.study.configuration.tables import DEFAULTS, OPTIMIZERS

# The losses of a study, as rules that follow theirs name them.
_NAMES = {"cross_entropy": "cross_entropy", "mse": "squared_error"}


@dataclass(frozen=True)
class Resolved:
    """A complete configuration.

    Attributes:
        config: it; as the configuration of one run it stays what it is when it is resolved again.
        notes: what was chosen because the rule recommends it, a sentence each.
    """

    config: Config
    notes: tuple[str, ...]


def resolve(config: Config, *, shared: bool = False, chosen: bool = False, rectified: bool | None = None) -> Resolved:
    """Fill in what `config` leaves open.

    A rule may recommend `learning_rate_factor`, times the rate that suits backprop, `rectified_rate_factor`, another
    such factor where the network rectifies, and `weight_decay`. A learning rate given for one run is taken as it is. In
    a comparison the rate is shared by all rules, and the factors are applied to it (`shared`), unless the rate was
    chosen for this rule (`chosen`). A weight decay that was given is always kept. A rule that learns from a reward
    takes the loss that gives it one, unless another is given for it alone.

    Args:
        config: as it was given.
        shared: whether `optimizer.lr` and `loss` speak of backprop, as those of a comparison do, rather than of this
            rule.
        chosen: whether `optimizer.lr` is for this rule even so.
        rectified: whether the network has neurons that compute max(0, x); None: as the network's name says, and no for
            one from a file, which only building it shows.

    Raises:
        ConfigError: `optimizer.lr` is a list.
    """
    rule = config.rule.make()
    values: dict[str, Any] = {}
    notes: list[str] = []
    if rectified is None:
        spec = models.parse(config.model)
        rectified = spec.file is None and spec.activation == "relu"
    optimizer = _optimizer(config, rule, shared=shared and not chosen, rectified=rectified)
    for found, said in (optimizer, _loss(config, rule, shared=shared)):
        values |= found
        notes += said
    if "seed" in rule.option_names() and "seed" not in config.rule.options:
        values["rule.seed"] = config.seed
    if config.protect.takes("seed") and "seed" not in config.protect.options:
        values["protect.seed"] = config.seed
    loss = _NAMES.get(values.get("loss", config.loss))
    # Where the outputs of one task compete, dL/dy is not that of the loss of all outputs.
    among_all = config.stream.asks != "task"
    if rule.follows_loss and "loss" not in config.rule.options and loss is not None and among_all:
        values["rule.loss"] = loss
    if not config.threads:
        values["threads"] = torch.get_num_threads()
    values |= _absolute_paths(config)
    return Resolved(config.with_values(values), tuple(notes))


def _optimizer(
    config: Config, rule: LearningRule, *, shared: bool, rectified: bool
) -> tuple[dict[str, Any], list[str]]:
    """The optimizer's settings, and a note for each that the rule recommends."""
    given, recommended = config.optimizer, rule.recommends()
    defaults = dict(DEFAULTS[given.name])
    default_rate = defaults.pop("lr")
    rate, decay, notes = given.rate or default_rate, given.weight_decay, []
    factors = {"learning_rate_factor": "as the rule recommends"}
    if rectified:
        factors["rectified_rate_factor"] = "as recommended where a network rectifies"
    for key, why in factors.items():
        factor = recommended.get(key, 1.0)
        if factor != 1.0 and (shared or given.rate is None):
            whose = "shared" if shared else "default"
            notes.append(
                f"uses {factor:g} times the {whose} learning rate ({rate * factor:g} instead of {rate:g}), {why}"
            )
            rate *= factor
    if decay is None and "weight_decay" in recommended:
        decay = recommended["weight_decay"]
        notes.append(f"uses a weight decay of {decay:g}, as the rule recommends")
    if decay is None:
        known = inspect.signature(OPTIMIZERS[given.name]).parameters
        decay = known["weight_decay"].default if "weight_decay" in known else 0.0
    left = {f"optimizer.{key}": value for key, value in defaults.items() if key not in given.options}
    return {"optimizer.lr": rate, "optimizer.weight_decay": float(decay), **left}, notes


def _loss(config: Config, rule: LearningRule, *, shared: bool) -> tuple[dict[str, Any], list[str]]:
    """The loss that the rule needs, where it needs one of its own."""
    own = rule.learns_from
    if own in ("error", config.loss) or not (shared or "loss" not in config.model_fields_set):
        return {}, []
    return {"loss": own}, [
        f"learns from a scalar reward (its loss is {own}): it hears whether the one class that it tried was right, "
        "and sees no label"
    ]


def _absolute_paths(config: Config) -> dict[str, str]:
    """A run must find its files again from wherever it is resumed."""
    values = {}
    if config.task.startswith("npz:"):
        values["task"] = f"npz:{Path(config.task[4:]).expanduser().resolve()}"
    spec = models.parse(config.model)
    if spec.file is not None:
        values["model"] = f"{spec.file.resolve()}:{spec.function}"
    if own := sources.split_name(config.rule.name):
        values["rule.name"] = f"{own[0].resolve()}:{own[1]}"
    return values
