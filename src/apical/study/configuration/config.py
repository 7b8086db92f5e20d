"""The configuration of a training run: one frozen model, the same from TOML, from flags and from Python.

    task = "mnist"
    model = "mlp:500,500"
    epochs = 10

    [rule]
    name = "sign_symmetry"
    magnitude = "fixed"

    [optimizer]
    name = "sgd"
    lr = 0.1
    momentum = 0.9

A rule's options are the keyword arguments of its constructor, an optimizer's those of its class in
`torch.optim` (`adaptation`: `apical.optim.Adaptation`); both are checked when the configuration is made, so that a
typing error costs no training time.
"""

import inspect
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar, get_type_hints

import tomli_w
import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from apical.errors import ApicalError, ConfigError
from apical.optim import Adaptation
from apical.options import unknown
from apical.study.configuration import parsing
from apical.study.configuration.parsing import KeyPath, SettingError

if TYPE_CHECKING:
    from apical.rules import LearningRule

OPTIMIZERS: Mapping[str, type[torch.optim.Optimizer]] = MappingProxyType(
    {
        "sgd": torch.optim.SGD,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "rmsprop": torch.optim.RMSprop,
        "rprop": torch.optim.Rprop,
        "adaptation": Adaptation,
    }
)
# Chosen for backprop on standardised data; momentum is part of what "sgd" means in this field.
DEFAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "sgd": {"lr": 0.05, "momentum": 0.9},
        "adam": {"lr": 1e-3},
        "adamw": {"lr": 1e-3},
        "rmsprop": {"lr": 1e-3},
        "rprop": {"lr": 1e-3},
        "adaptation": {"lr": 0.1, "gain": 0.1, "slope": 10.0, "relaxation": 0.07},
    }
)
NAMED_TABLES = ("rule", "optimizer", "schedule")
OWN_TASK = "own:"

Model = TypeVar("Model", bound=BaseModel)


class Table(BaseModel):
    """A table of settings: immutable, no unknown keys, no silent conversions (`"5"` is no number)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class NamedTable(Table):
    """A table that its name alone can stand for, with whatever options that name takes beside it."""

    model_config = ConfigDict(extra="allow")
    name: str

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def options(self) -> dict[str, Any]:
        """The options given beside the settings that every such table has."""
        return dict(self.model_extra or {})


class RuleConfig(NamedTable):
    """A learning rule by its registered name, and the options of its constructor."""

    name: str = "backprop"

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        from apical import rules  # plug-in rules are looked up here, not when this module is imported

        known = rules.names()
        if self.name not in known:
            raise SettingError(unknown("rule", self.name, known), key="name")
        constructor = rules.get(self.name).__init__
        allowed = rules.get(self.name).option_names()
        hints = get_type_hints(constructor)
        for key, value in self.options.items():
            if key not in allowed:
                raise SettingError(unknown(f"option of {self.name}", key, allowed), key=key)
            if key in hints:
                _check_type(self.name, key, value, hints[key])
        try:
            self.make()
        except (ApicalError, ValueError, TypeError) as error:
            raise SettingError(str(error), key=_named_in(str(error), self.options)) from error
        return self

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a rule as it is written on one line: `backprop`, `sign_symmetry:magnitude=fixed,seed=1`.

        Raises:
            ConfigError: an unknown rule or option, or a value that the rule refuses.
        """
        name, _, options = text.partition(":")
        table: dict[str, Any] = {"name": name.strip()}
        for option in filter(None, options.split(",")):
            path, value = parsing.parse_setting(option, flag=f"rule {text!r}:")
            parsing.put(table, path, value, origin=f"rule {text!r}", named=())
        return _validate(cls, table, lambda path: f"rule {text!r}")

    def make(self) -> "LearningRule":
        """The rule, with a state of its own."""
        from apical import rules

        return rules.make(self.name, **self.options)

    @property
    def label(self) -> str:
        """The rule on one line, the reverse of `parse`: `sign_symmetry:magnitude=fixed`."""
        options = ",".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.name}:{options}" if options else self.name

    def without_seed(self) -> "RuleConfig":
        """The same rule, for where its seed goes without saying."""
        options = {key: value for key, value in self.options.items() if key != "seed"}
        return RuleConfig.model_validate({"name": self.name, **options})


class OptimizerConfig(NamedTable):
    """An optimizer and its arguments. What is left out is filled in when training starts."""

    name: Literal["sgd", "adam", "adamw", "rmsprop", "rprop", "adaptation"] = "sgd"
    lr: Annotated[float, Field(gt=0)] | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        kind = OPTIMIZERS[self.name]
        defaults = {
            key: parameter.default
            for key, parameter in inspect.signature(kind).parameters.items()
            if key not in {"params", "lr", "weight_decay"}
        }
        for key, value in self.options.items():
            if key not in defaults:
                allowed = ["lr", "weight_decay", *defaults]
                raise SettingError(unknown(f"option of {self.name}", key, allowed), key=key)
            _check_like(key, value, defaults[key])
        if self.weight_decay and not _decays(kind):
            raise SettingError(f"{self.name} has no weight decay; take adamw or sgd for it, or 0", key="weight_decay")
        try:
            self.make([torch.zeros(1)])
        except (ValueError, TypeError, RuntimeError) as error:
            raise SettingError(str(error), key=_named_in(str(error), self.options)) from error
        return self

    def make(self, parameters: Sequence[torch.Tensor]) -> torch.optim.Optimizer:
        """The optimizer over `parameters`; what this table leaves out is as in `DEFAULTS`, then as in PyTorch."""
        given = {"lr": self.lr, "weight_decay": self.weight_decay, **self.options}
        arguments = {**DEFAULTS[self.name], **{key: value for key, value in given.items() if value is not None}}
        for key, value in arguments.items():
            if isinstance(value, list):  # TOML has no tuples
                arguments[key] = tuple(value)
        if not _decays(OPTIMIZERS[self.name]):
            arguments.pop("weight_decay", None)
        return OPTIMIZERS[self.name](parameters, **arguments)


class ScheduleConfig(Table):
    """The learning rate through training, as a factor on `optimizer.lr`.

    constant: 1. cosine: from 1 to `final` along half a cosine. step: times `factor` after every `every` epochs.
    milestones: times `factor` at each of `milestones`, which are shares of the training (0.5: half-way), so that a
    training that is made shorter keeps its shape.
    Over the first `warmup` epochs (a fraction is fine) the factor also rises linearly from 0.
    """

    name: Literal["constant", "cosine", "step", "milestones"] = "constant"
    warmup: Annotated[float, Field(ge=0)] = 0.0
    every: Annotated[int, Field(ge=1)] = 10
    factor: Annotated[float, Field(gt=0)] = 0.1
    final: Annotated[float, Field(ge=0)] = 0.0
    milestones: list[Annotated[float, Field(gt=0, lt=1)]] = [0.5, 0.75]

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class CheckpointConfig(Table):
    """When to save: after every `epochs` epochs, and inside an epoch after `seconds` or `steps` (0: not)."""

    epochs: Annotated[int, Field(ge=1)] = 1
    seconds: Annotated[float, Field(ge=0)] = 60.0
    steps: Annotated[int, Field(ge=0)] = 0


class Config(Table):
    """Everything that determines a training run.

    Attributes:
        task: a task of `apical.data` by name, or `npz:PATH`.
        model: a network of `apical.models` by name, such as `mlp:500,500`, or `file.py:function`.
        rule: the learning rule and its options.
        optimizer: the optimizer and its options; its learning rate suits backprop.
        schedule: the learning rate through training.
        checkpoints: how often the state of training is saved.
        loss: `cross_entropy`; `mse`: half the squared distance to the one-hot target, summed over classes; or one that
            learns from the reward of a choice (1 if it is the label, else 0): `reward_prediction` or `agrel`. A rule
            that needs one of these takes it where none is given.
        exploration: the share of choices that `reward_prediction` draws while the network learns.
        epochs: passes over the training data.
        batch_size: examples a step; what is left of an epoch and fills none waits for the next order.
        seed: of the initial weights, the data's order, the validation split, dropout, and the rule's own draws.
        device: `cpu`, `cuda`, `cuda:1`, ...
        threads: of PyTorch on the CPU; 0 takes what PyTorch would. A resumed run keeps the number, since the
            order of sums, and with it the last bits, depends on it.
        validation: fraction of the training data held out to watch training, the same in every class.
        patience: stop after so many epochs without a lower validation loss, and test the best weights; 0: never.
        clip: largest norm of the whole gradient; 0: no limit.
        alignment: measure the angle to the true gradient every so many epochs; 0: never.
        check_finite: look for NaN and infinity in every layer at every step.
        log: `tensorboard` writes scalars for it into the run folder.
    """

    task: Annotated[str, Field(min_length=1)] = "digits"
    model: str = "mlp:128,64:tanh"
    rule: RuleConfig = Field(default_factory=RuleConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    checkpoints: CheckpointConfig = Field(default_factory=CheckpointConfig)
    loss: Literal["cross_entropy", "mse", "reward_prediction", "agrel"] = "cross_entropy"
    exploration: Annotated[float, Field(ge=0, le=1)] = 0.02
    epochs: Annotated[int, Field(ge=1)] = 20
    batch_size: Annotated[int, Field(ge=1)] = 32
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: str = "cpu"
    threads: Annotated[int, Field(ge=0)] = 0
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.1
    patience: Annotated[int, Field(ge=0)] = 0
    clip: Annotated[float, Field(ge=0)] = 0.0
    alignment: Annotated[int, Field(ge=0)] = 0
    check_finite: bool = True
    log: Literal["none", "tensorboard"] = "none"

    if not TYPE_CHECKING:  # type checkers know the settings by name

        def __init__(self, **values: Any) -> None:
            """Raises ConfigError for a wrong key or value, as every other way to a configuration does."""
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise parsing.explain(error, type(self), lambda path: "") from None

    @field_validator("task")
    @classmethod
    def _task_exists(cls, task: str) -> str:
        from apical import data

        if task not in data.names() and not task.startswith(("npz:", OWN_TASK)):
            raise SettingError(unknown("task", task, [*data.names(), "npz:PATH"]))
        return task

    @field_validator("model")
    @classmethod
    def _model_exists(cls, model: str) -> str:
        from apical import models

        try:
            models.parse(model)
        except ConfigError as error:
            raise SettingError(str(error)) from error
        return model

    @field_validator("device")
    @classmethod
    def _device_exists(cls, device: str) -> str:
        try:
            torch.device(device)
        except RuntimeError as error:
            raise SettingError(f"no such device {device!r}; write cpu, cuda or cuda:NUMBER") from error
        return device

    @model_validator(mode="after")
    def _patience_can_watch(self) -> Self:
        if self.patience and not self.validation:
            raise SettingError("needs a validation part to watch: set validation above 0", key="patience")
        return self

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a TOML file.

        Raises:
            ConfigError: the file cannot be read, is not TOML, or holds a wrong key or value; with its line.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start})") from error
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            reason, _, at = str(error).partition(" (at ")
            line = int(at.split()[1].rstrip(",")) if at.startswith("line") else len(text.splitlines())
            raise ConfigError(f"{path}:{line}: not valid TOML: {reason}") from error
        return _validate(cls, table, parsing.place_in(text, str(path)))

    def with_settings(self, changes: Sequence[str], *, flag: str = "--set") -> Self:
        """A copy with `key=value` settings applied in their order, such as `["rule.beta=0.1", "epochs=3"]`.

        Setting a whole table by its name (`rule=backprop`) forgets the options it had.

        Args:
            changes: the settings; see `apical.study.configuration.parsing.parse_setting` for how values are read.
            flag: how an error calls them.

        Raises:
            ConfigError: a wrong key or value.
        """
        values = {}
        origins = {}
        for change in changes:
            path, value = parsing.parse_setting(change, flag)
            values[path] = value
            origins[path] = f"{flag} {change}"
        return self._with(values, origins)

    def with_values(self, changes: Mapping[str, Any]) -> Self:
        """A copy with values by dotted key, such as `{"epochs": 3, "optimizer.lr": 0.05}`.

        Raises:
            ConfigError: a wrong key or value.
        """
        return self._with({tuple(key.split(".")): value for key, value in changes.items()}, {})

    def _with(self, values: Mapping[KeyPath, Any], origins: Mapping[KeyPath, str]) -> Self:
        table = self.given()
        for path, value in values.items():
            parsing.put(table, path, value, origin=origins.get(path, ".".join(path)), named=NAMED_TABLES)

        def place(path: KeyPath) -> str:
            related = [given for given in origins if given[: len(path)] == path or path[: len(given)] == given]
            return origins[max(related, key=len)] if related else ""

        return _validate(type(self), table, place)

    def given(self) -> dict[str, Any]:
        """The settings that were given, as nested dicts; those left to their defaults are absent."""
        return self.model_dump(exclude_unset=True, exclude_none=True)

    def to_dict(self) -> dict[str, Any]:
        """Every setting as nested dicts, ready for TOML and JSON."""
        return self.model_dump(exclude_none=True)

    def to_toml(self) -> str:
        """Every setting as TOML; `Config.load` reads it back to an equal configuration."""
        return tomli_w.dumps(self.to_dict())


def difference(then: Mapping[str, Any], now: Mapping[str, Any], *, prefix: str = "") -> list[str]:
    """What differs between two nested configurations, as `optimizer.lr: 0.1 there, 0.2 now`."""
    found = []
    for key in sorted({*then, *now}):
        old, new = then.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += difference(old, new, prefix=f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key}: {old!r} there, {new!r} now")
    return found


def _validate(model: type[Model], table: Mapping[str, Any], place: Callable[[KeyPath], str]) -> Model:
    made = model.__new__(model)
    try:
        BaseModel.__init__(made, **table)  # not Config's own, which could not tell the place
        return made
    except ValidationError as error:
        raise parsing.explain(error, model, place) from None


def _check_type(rule: str, key: str, value: Any, hint: Any) -> None:
    try:
        TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        reasons = "; ".join(item["msg"] for item in error.errors())
        raise SettingError(f"{rule} cannot take {value!r}: {reasons}", key=key) from error


def _check_like(key: str, value: Any, default: Any) -> None:
    if isinstance(default, bool):
        fits, wanted = isinstance(value, bool), "true or false"
    elif isinstance(default, int | float):
        fits, wanted = isinstance(value, int | float) and not isinstance(value, bool), "a number"
    elif isinstance(default, str):
        fits, wanted = isinstance(value, str), f"a name, such as {default!r}"
    elif isinstance(default, tuple):
        fits = isinstance(value, list | tuple) and len(value) == len(default)
        wanted = f"{len(default)} numbers, such as {list(default)}"
    else:
        return
    if not fits:
        raise SettingError(f"cannot be {value!r}; it takes {wanted}", key=key)


def _decays(kind: type[torch.optim.Optimizer]) -> bool:
    return "weight_decay" in inspect.signature(kind).parameters


def _named_in(message: str, options: Mapping[str, Any]) -> str | None:
    return next((key for key in options if key.removesuffix("s") in message.lower()), None)
