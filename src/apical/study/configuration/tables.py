"""The tables of a configuration: learning rule, optimizer, schedule, checkpoints.

A rule's options are the keyword arguments of its constructor, an optimizer's those of its class in
`torch.optim` (`adaptation`: `apical.optim.Adaptation`); both are checked when the configuration is made, so that a
typing error costs no training time.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_type_hints

import torch
from pydantic import Field, field_validator, model_validator

from apical.errors import ConfigError
from apical.feedback import Pathway
from apical.optim import Adaptation
from apical.options import unknown
from apical.sources import split_name
from apical.study.configuration.open_tables import NamedTable, OpenTable, Table, convert, named_in
from apical.study.configuration.parsing import SettingError
from apical.study.configuration.rates import RateOrGrid

if TYPE_CHECKING:
    from apical.continual import Stream
    from apical.data import Task
    from apical.optim.consolidation import Protection
    from apical.rules import LearningRule

OPTIMIZERS: Mapping[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "rprop": torch.optim.Rprop,
    "adaptation": Adaptation,
}
# Chosen for backprop on standardised data; momentum is part of what "sgd" means in this field.
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "sgd": {"lr": 0.05, "momentum": 0.9},
    "adam": {"lr": 1e-3},
    "adamw": {"lr": 1e-3},
    "rmsprop": {"lr": 1e-3},
    "rprop": {"lr": 1e-3},
    "adaptation": {"lr": 0.1, "gain": 0.1, "slope": 10.0, "relaxation": 0.07},
}
# What has no meaning where a loss falls, or only inside a compiler or another optimizer.
_NEVER = {"self", "params", "maximize", "differentiable", "capturable"}
_OF_EVERY_STREAM = {"task", "scenario", "validation", "seed", "return"}


class RuleConfig(OpenTable):
    """A learning rule by its registered name, and the options of its constructor."""

    name: str = "backprop"

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        from apical import rules  # plug-in rules are looked up here, not when this module is imported

        kind = rules.get(self.name)
        self._check_options(kind.__init__, kind.option_names(), self.make)
        given = self.options.get("feedback")
        if isinstance(given, Mapping):
            hints = get_type_hints(type(self.make().pathway).__init__)
            self._set(
                "feedback",
                {key: convert(self.name, f"feedback.{key}", value, hints.get(key, Any)) for key, value in given.items()}
                or None,
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _from_rule(cls, value: Any) -> Any:
        """From a rule, its class, or a function that makes one."""
        from apical.rules import LearningRule

        if not callable(value):
            return value
        if isinstance(value, type) or not isinstance(value, LearningRule):
            value = value()
        if not isinstance(value, LearningRule):
            raise SettingError(f"{value!r} is not a learning rule; give a name, a rule, its class or what makes one")
        return {"name": _name_of(type(value)), **dict(_given(value))}

    @field_validator("name")
    @classmethod
    def _registered(cls, name: str) -> str:
        from apical import rules

        try:
            return rules.get(name).name
        except ConfigError as error:
            if split_name(name):
                raise SettingError(str(error)) from error
            raise SettingError(unknown("rule", name, rules.names())) from error

    def make(self) -> "LearningRule":
        """The rule, with a state of its own."""
        from apical import rules

        return rules.make(self.name, **self.options)

    @classmethod
    def makers(cls, labels: Iterable[str]) -> dict[str, Callable[[], "LearningRule"]]:
        """What makes each rule, by its label.

        Raises:
            ConfigError: as `parse`.
        """
        return {label: cls.parse(label).make for label in labels}


class OptimizerConfig(OpenTable):
    """An optimizer and its arguments. What is left out is filled in when training starts.

    Attributes:
        lr: the learning rate. A list is a grid, of which a comparison chooses one for each rule; of one rate, all take
            that one as it is.
    """

    name: Literal["sgd", "adam", "adamw", "rmsprop", "rprop", "adaptation"] = "sgd"
    lr: RateOrGrid | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        kind = OPTIMIZERS[self.name]
        own = [key for key in inspect.signature(kind).parameters if key not in {*_NEVER, "lr", "weight_decay"}]
        for key in self.options:
            if key not in own:
                allowed = ["lr", "weight_decay", *own]
                raise SettingError(unknown(f"option of {self.name}", key, allowed), key=key)
        self._convert(kind.__init__, own, f"option of {self.name}")
        if not 0 <= self.options.get("dampening", 0) <= 1:
            raise SettingError("must be from 0 to 1: beyond it the step leads up", key="dampening")
        if self.weight_decay and not _decays(kind):
            raise SettingError(f"{self.name} has no weight decay; take adamw or sgd for it, or 0", key="weight_decay")
        try:
            self._make([torch.zeros(1)], self.grid[0] if self.grid else self.rate)
        except (ValueError, TypeError, RuntimeError) as error:
            raise SettingError(str(error), key=named_in(str(error), self.options)) from error
        return self

    @property
    def grid(self) -> list[float]:
        """The learning rates that were given as a list, in their order; else empty."""
        return self.lr if isinstance(self.lr, list) else []

    @property
    def rate(self) -> float | None:
        """The one learning rate, where it is given.

        Raises:
            ConfigError: a list was given.
        """
        if isinstance(self.lr, list):
            raise ConfigError(
                f"optimizer.lr = {self.lr}: a run has one learning rate, and a list is for comparisons, which choose "
                "one for each rule. Pass one rate, or use apical compare (study.compare)."
            )
        return self.lr

    def make(self, parameters: Sequence[torch.Tensor]) -> torch.optim.Optimizer:
        """The optimizer over `parameters`; what this table leaves out is as in `DEFAULTS`, then as in PyTorch."""
        return self._make(parameters, self.rate)

    def _make(self, parameters: Sequence[torch.Tensor], rate: float | None) -> torch.optim.Optimizer:
        given = {"lr": rate, "weight_decay": self.weight_decay, **self.options}
        arguments = {**DEFAULTS[self.name], **{key: value for key, value in given.items() if value is not None}}
        for key, value in arguments.items():
            if isinstance(value, list):
                arguments[key] = tuple(value)
        if not _decays(OPTIMIZERS[self.name]):
            arguments.pop("weight_decay", None)
        return OPTIMIZERS[self.name](parameters, **arguments)


class StreamConfig(OpenTable):
    """How a task becomes a stream of tasks, and the options of `apical.continual.split`, `permuted`, ...

    single: the plain task, a stream of one. `epochs`, `patience` and `schedule` are then about each task of a stream.

    Attributes:
        scenario: what is asked: the class within the task ("task", "domain": with and without the task's identity) or
            among all ("class"); None: the usual one.
        boundaries: a protection knows where a task begins and ends.
        joint: learn all tasks at once, the ceiling.
    """

    name: Literal["single", "split", "one_class", "permuted", "rotated"] = "single"
    scenario: Literal["task", "domain", "class"] | None = None
    boundaries: bool = True
    joint: bool = False

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        from apical import continual

        hints = get_type_hints(getattr(continual, self.name))
        known = [key for key in hints if key not in _OF_EVERY_STREAM]
        for key, value in self.options.items():
            if key not in known:
                allowed = ["scenario", "boundaries", "joint", *known]
                raise SettingError(unknown(f"option of the stream {self.name}", key, allowed), key=key)
            self._set(key, convert(self.name, key, value, hints[key]))
        if self.scenario and "scenario" not in hints:
            raise SettingError(f"the stream {self.name} has one scenario: leave it out", key="scenario")
        return self

    @property
    def is_single(self) -> bool:
        """Whether this is the plain task."""
        return self.name == "single"

    @property
    def asks(self) -> str:
        """The scenario, given or usual."""
        from apical import continual

        usual = inspect.signature(getattr(continual, self.name)).parameters.get("scenario")
        return self.scenario or ("class" if usual is None else str(usual.default))

    def make(self, task: "Task", *, validation: float, seed: int) -> "Stream":
        """The stream.

        Args:
            task: what it is made of.
            validation: the share of each task's training data that is cut off.
            seed: of the validation part, and of what the stream draws.

        Raises:
            ConfigError, DataError: the task cannot be cut in this way.
        """
        from apical import continual

        scenario = {"scenario": self.scenario} if self.scenario else {}
        made: Stream = getattr(continual, self.name)(task, validation=validation, seed=seed, **scenario, **self.options)
        made = made if self.boundaries else made.without_boundaries()
        return made.at_once() if self.joint else made


class ProtectConfig(OpenTable):
    """A protection against forgetting by its name, and the options of its constructor."""

    name: str = "none"

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        from apical.continual import protections

        if self.name not in protections.names():
            raise SettingError(unknown("protection", self.name, protections.names()), key="name")
        constructor = protections.get(self.name).__init__
        self._check_options(constructor, list(inspect.signature(constructor).parameters)[1:], self.make)
        return self

    def make(self) -> "Protection":
        """The protection, with a state of its own."""
        from apical.continual import protections

        return protections.make(self.name, **self.options)

    def takes(self, option: str) -> bool:
        """Whether its constructor has this option."""
        from apical.continual import protections

        return option in inspect.signature(protections.get(self.name).__init__).parameters


class ScheduleConfig(NamedTable):
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
    milestones: list[Annotated[float, Field(gt=0, lt=1)]] = Field(default_factory=lambda: [0.5, 0.75])


class CheckpointConfig(Table):
    """When to save: after every `epochs` epochs, and inside an epoch after `seconds` or `steps` (0: not)."""

    epochs: Annotated[int, Field(ge=1)] = 1
    seconds: Annotated[float, Field(ge=0)] = 60.0
    steps: Annotated[int, Field(ge=0)] = 0


def _name_of(kind: type["LearningRule"]) -> str:
    """The registered name of a rule, or its file and class, from which other processes load it."""
    from apical import rules

    if getattr(kind, "name", "") in rules.names() and rules.get(kind.name) is kind:
        return kind.name
    try:
        file = inspect.getsourcefile(kind)
    except (OSError, TypeError):
        file = None
    if file is None or not file.endswith(".py") or "." in kind.__qualname__:
        raise SettingError(
            f"{kind.__qualname__} has no file from which other processes can load it; write the class at the top of a "
            "file, and name it as file.py:Class"
        )
    return f"{file}:{kind.__name__}"


def _given(rule: "LearningRule") -> Iterator[tuple[str, Any]]:
    """The options of a rule that are not its defaults, as a file can have them."""
    usual = type(rule)().options()
    for key, value in rule.options().items():
        if isinstance(value, Pathway):
            yield key, {"name": value.name, **value.options()}
        elif value != usual[key]:
            yield key, value


def _decays(kind: type[torch.optim.Optimizer]) -> bool:
    return "weight_decay" in inspect.signature(kind).parameters
