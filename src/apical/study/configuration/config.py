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

The tables are in `apical.study.configuration.tables`.
"""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import tomli_w
import torch
from pydantic import Field, ValidationError, field_validator, model_validator

from apical.errors import ConfigError
from apical.options import unknown
from apical.reading import read_regular
from apical.study.configuration import parsing
from apical.study.configuration.open_tables import NAMED_TABLES, Table, validate
from apical.study.configuration.parsing import KeyPath, SettingError
from apical.study.configuration.tables import (
    CheckpointConfig,
    OptimizerConfig,
    ProtectConfig,
    RuleConfig,
    ScheduleConfig,
    StreamConfig,
)

OWN_TASK = "own:"
MOST_THREADS = 1024  # with tens of thousands OpenMP ends the process


class Config(Table):
    """Everything that determines a training run.

    Attributes:
        task: a task of `apical.data` by name, or `npz:PATH`.
        model: a network of `apical.models` by name, such as `mlp:500,500`, or `file.py:function`.
        stream: how the task is cut into tasks that are learned one after another; by default it is not.
        rule: the learning rule and its options.
        protect: a protection against forgetting.
        optimizer: the optimizer and its options; its learning rate suits backprop.
        schedule: the learning rate through training.
        checkpoints: how often the state of training is saved.
        loss: `cross_entropy`; `mse`: half the squared distance to the one-hot target, summed over classes; or one that
            learns from the reward of a choice (1 if it is the label, else 0): `reward_prediction` or `agrel`. A rule
            that needs one of these takes it where none is given.
        exploration: the share of choices that `reward_prediction` draws while the network learns.
        epochs: passes over the training data, of each task in a stream.
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
    stream: StreamConfig = Field(default_factory=StreamConfig)
    rule: RuleConfig = Field(default_factory=RuleConfig)
    protect: ProtectConfig = Field(default_factory=ProtectConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    checkpoints: CheckpointConfig = Field(default_factory=CheckpointConfig)
    loss: Literal["cross_entropy", "mse", "reward_prediction", "agrel"] = "cross_entropy"
    exploration: Annotated[float, Field(ge=0, le=1)] = 0.02
    epochs: Annotated[int, Field(ge=1)] = 20
    batch_size: Annotated[int, Field(ge=1)] = 32
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: str = "cpu"
    threads: Annotated[int, Field(ge=0, le=MOST_THREADS)] = 0
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

    @model_validator(mode="after")
    def _protection_fits(self) -> Self:
        if self.protect.name != "none" and not self.stream.is_single:  # a stream of the user's own may come
            from apical.continual import protections
            from apical.continual.learning import check_protection

            kind = protections.get(self.protect.name)
            try:
                asks = None if self.stream.joint else self.stream.asks
                check_protection(kind, asks, boundaries=self.stream.boundaries and not self.stream.joint)
            except ConfigError as error:
                raise SettingError(str(error), key="protect") from error
        return self

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a TOML file.

        Raises:
            ConfigError: the file cannot be read, is not TOML, or holds a wrong key or value; with its line.
        """
        try:
            text = read_regular(Path(path).expanduser()).decode()
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start})") from error
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read the configuration {path}: {getattr(error, 'strerror', error)}") from error
        try:
            table = parsing.read_toml(text)
        except tomllib.TOMLDecodeError as error:
            reason, _, at = str(error).partition(" (at ")
            line = int(at.split()[1].rstrip(",")) if at.startswith("line") else len(text.splitlines())
            raise ConfigError(f"{path}:{line}: not valid TOML: {reason}") from error
        return validate(cls, table, parsing.place_in(text, str(path)))

    def with_settings(self, changes: Sequence[str], *, flag: str = "--set") -> Self:
        """A copy with `key=value` settings applied in their order, such as `["rule.beta=0.1", "epochs=3"]`.

        Setting a whole table by its name (`rule=backprop`) forgets the options it had.

        Args:
            changes: the settings; see `apical.study.configuration.parsing.parse_setting` for how values are read.
            flag: how an error calls them.

        Raises:
            ConfigError: a wrong key or value.
        """
        return self.with_changes(changes, flag=flag)

    def with_values(self, changes: Mapping[str, Any]) -> Self:
        """A copy with values by dotted key, such as `{"epochs": 3, "optimizer.lr": 0.05}`.

        Raises:
            ConfigError: a wrong key or value.
        """
        return self.with_changes(changes)

    def with_changes(self, *changes: Sequence[str] | Mapping[str, Any], flag: str = "--set") -> Self:
        """A copy with several lists of settings or mappings of values applied in their order, and checked together.

        Raises:
            ConfigError: a wrong key or value, or values that do not fit each other.
        """
        values: dict[KeyPath, Any] = {}
        origins: dict[KeyPath, str] = {}
        for each in changes:
            if isinstance(each, Mapping):
                values |= {tuple(key.split(".")): value for key, value in each.items()}
                continue
            for setting in each:
                path, value = parsing.parse_setting(setting, flag)
                values[path] = value
                origins[path] = f"{flag} {setting}"
        return self._with(values, origins)

    def _with(self, values: Mapping[KeyPath, Any], origins: Mapping[KeyPath, str]) -> Self:
        table = self.given()
        for path, value in values.items():
            parsing.put(table, path, value, origin=origins.get(path, ".".join(path)), named=NAMED_TABLES)

        def place(path: KeyPath) -> str:
            related = [given for given in origins if given[: len(path)] == path or path[: len(given)] == given]
            return origins[max(related, key=len)] if related else ""

        return validate(type(self), table, place)

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
