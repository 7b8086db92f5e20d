"""A stream: tasks that are learned one after another, and what a network is asked about them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Literal, overload

import torch
from torch import Tensor

from apical import data
from apical.data import Examples, Task
from apical.errors import ConfigError, DataError
from apical.finiteness import finite
from apical.losses import Loss
from apical.options import check_choice

Scenario = Literal["task", "domain", "class"]
SCENARIOS = ("task", "domain", "class")

MakePart = Callable[[Literal["train", "test"]], Examples]
"""Makes the training or the test examples of a task, labelled with the task's classes."""


@dataclass(frozen=True, eq=False)
class StreamTask:
    """One task of a stream. Its examples are made when they are first read, and kept as long as the task is.

    Attributes:
        index: its place in the stream, from 0. This is the task's identity ("task id").
        name: for people.
        classes: the classes of the data that it has.
        labels: the labels in `y`, in the order of `classes`; which these are depends on the scenario (see `Stream`).
        outputs: the outputs of the network that compete for an example: those of the task in the scenario "task", else
            all of them.
    """

    index: int
    name: str
    classes: tuple[int, ...]
    labels: tuple[int, ...]
    outputs: tuple[int, ...]
    _make: MakePart
    _validation: float
    _seed: int

    @property
    def train(self) -> Examples:
        """The training examples, without those that were cut off for validation."""
        return self._parts[0]

    @property
    def validation(self) -> Examples | None:
        """The examples cut from the training data, each class in proportion; None where none were asked for."""
        return self._parts[1] if self._validation else None

    @cached_property
    def test(self) -> Examples:
        """The test examples."""
        return self._labelled("test")

    def restrict(self, y: Tensor) -> Tensor:
        """The network's output, (batch, outputs), with -inf for the outputs that do not compete.

        Where all outputs compete, this is `y` itself. Masking the outputs of other tasks equals a head for each task.
        """
        if len(self.outputs) == y.shape[1]:
            return y
        competing = torch.zeros(y.shape[1], dtype=torch.bool, device=y.device)
        competing[list(self.outputs)] = True
        return y.masked_fill(~competing, -torch.inf)

    @cached_property
    def _parts(self) -> tuple[Examples, Examples]:
        return data.split(self._labelled("train"), self._validation, seed=self._seed)

    def _labelled(self, part: Literal["train", "test"]) -> Examples:
        made = self._make(part)
        if self.labels == self.classes:
            return made
        new = torch.zeros(max(self.classes) + 1, dtype=torch.int64, device=made.y.device)
        new[list(self.classes)] = torch.tensor(self.labels, device=new.device)
        return Examples(made.x, new[made.y])


@dataclass(frozen=True, eq=False)
class Stream:
    """Tasks in the order in which they are learned: `len(stream)`, `stream[i]`, `for task in stream`.

    What a network is asked, and which labels the examples have, is the scenario (van de Ven and Tolias 2019):

    | scenario | the question | labels |
    |---|---|---|
    | "task" | which of this task's classes? The task's identity is given | of all tasks |
    | "domain" | which class within the task? | the same in every task |
    | "class" | which class of all that the stream has? | of all tasks |

    In "task", only the task's own outputs compete (`StreamTask.restrict`). Examples are made when they are read:
    iterating holds one task in memory at a time.

    A plain task is a stream of one (`apical.continual.single`).

    Attributes:
        name: of the data and of how they were cut.
        scenario: "task", "domain" or "class".
        outputs: how many outputs a network needs.
        input_shape: of one example.
        boundaries: a learner knows where a task begins and ends.
        joint: all tasks are learned at once, which is the ceiling that methods against forgetting are compared with.
    """

    name: str
    scenario: Scenario
    outputs: int
    input_shape: tuple[int, ...]
    _tasks: tuple[StreamTask, ...]
    boundaries: bool = True
    joint: bool = False

    def __post_init__(self) -> None:
        check_choice(self.name, "scenario", self.scenario, SCENARIOS)
        if not self._tasks:
            raise ConfigError(f"{self.name}: the stream has no task. Pass at least one.")
        for task in self:
            if self.scenario != "class" and len(task.outputs) == 1:
                raise ConfigError(
                    f"{self.name}: {task.name} has one class, so in the scenario {self.scenario!r} there is nothing to "
                    "choose from. Pass scenario='class', or give each task two classes."
                )

    @property
    def classes(self) -> tuple[tuple[int, ...], ...]:
        """For each task the classes of the data that it has."""
        return tuple(task.classes for task in self._tasks)

    @property
    def labels(self) -> tuple[tuple[int, ...], ...]:
        """For each task the labels of its classes."""
        return tuple(task.labels for task in self._tasks)

    def without_boundaries(self) -> "Stream":
        """The same stream, whose learner does not know where a task begins and ends."""
        return replace(self, boundaries=False)

    def at_once(self) -> "Stream":
        """The same tasks, to be learned all at once."""
        return replace(self, joint=True)

    def phases(self) -> Iterator[StreamTask]:
        """What is learned one after another: the tasks, or all of them at once."""
        return map(self.phase, range(1 if self.joint else len(self)))

    def phase(self, index: int) -> StreamTask:
        """One of `phases`."""
        if not self.joint:
            return self[index]
        labels = tuple(sorted({label for own in self.labels for label in own}))
        everything, first = tuple(range(self.outputs)), self._tasks[0]
        return StreamTask(0, "all tasks", labels, labels, everything, self._all_tasks, first._validation, first._seed)

    def _all_tasks(self, part: Literal["train", "test"]) -> Examples:
        parts = [task._labelled(part) for task in self]
        return Examples(torch.cat([own.x for own in parts]), torch.cat([own.y for own in parts]))

    def restrict(self, answer: Tensor, y: Tensor) -> Tensor:
        """An answer, (batch, outputs), with -inf for the outputs that do not compete for the example with this label.

        Where all outputs compete, this is `answer` itself.
        """
        return answer if self._competing is None else answer.masked_fill(~self._competing.to(y.device)[y], -torch.inf)

    def loss(self, loss: Loss) -> Loss:
        """A mean loss of an answer and labels, each example on the outputs that compete for it."""
        if self._competing is None:
            return loss
        owners = torch.zeros(self.outputs, dtype=torch.int64)
        for task in self._tasks:
            owners[list(task.labels)] = task.index

        def among_competing(answer: Tensor, y: Tensor) -> Tensor:
            owner, parts = owners.to(y.device)[y], []
            for index in sorted(set(owner.tolist())):
                mine, among = owner == index, torch.tensor(self._tasks[index].outputs, device=y.device)
                own = (y[mine][:, None] == among).long().argmax(1)
                parts.append(loss(answer[mine][:, among], own) * (len(own) / len(y)))
            return torch.stack(parts).sum()

        return among_competing

    @cached_property
    def _competing(self) -> Tensor | None:
        """For each label the outputs that compete, (outputs, outputs); None where all do."""
        if all(len(task.outputs) == self.outputs for task in self._tasks):
            return None
        competing = torch.zeros(self.outputs, self.outputs, dtype=torch.bool)
        for task in self._tasks:
            for label in task.labels:
                competing[label, list(task.outputs)] = True
        return competing

    def __len__(self) -> int:
        return len(self._tasks)

    @overload
    def __getitem__(self, index: int) -> StreamTask: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[StreamTask, ...]: ...
    def __getitem__(self, index: int | slice) -> StreamTask | tuple[StreamTask, ...]:
        if isinstance(index, slice):
            return tuple(replace(task) for task in self._tasks[index])
        return replace(self._tasks[index])  # a copy without examples, so that the stream keeps none

    def __iter__(self) -> Iterator[StreamTask]:
        return map(replace, self._tasks)

    def __repr__(self) -> str:
        shown = " | ".join(_numbers(own) for own in self.labels)
        return f"Stream({self.name}, {self.scenario}-incremental: {len(self)} tasks, labels {shown})"


def stream_of(
    name: str,
    scenario: Scenario,
    outputs: int,
    input_shape: tuple[int, ...],
    tasks: Iterable[tuple[str, tuple[int, ...], tuple[int, ...], MakePart]],
    validation: float,
    seed: int,
) -> Stream:
    """A stream of tasks that are given by name, classes, labels and examples."""
    everything = tuple(range(outputs))
    made = (
        StreamTask(i, own, classes, labels, labels if scenario == "task" else everything, make, validation, seed)
        for i, (own, classes, labels, make) in enumerate(tasks)
    )
    return Stream(name, scenario, outputs, input_shape, tuple(made))


def single(task: Task, *, validation: float = 0.0, seed: int = 0) -> Stream:
    """A plain task as a stream of one, in the scenario "class".

    Args:
        task: the task.
        validation: the share of the training data that is cut off for validation.
        seed: of the validation part.
    """
    classes = tuple(range(task.classes))
    rows = [(task.name, classes, classes, partial(getattr, task))]
    return stream_of(task.name, "class", task.classes, task.input_shape, rows, validation, seed)


def _numbers(own: Sequence[int]) -> str:
    run = len(own) > 3 and tuple(own) == tuple(range(own[0], own[-1] + 1))
    return f"{own[0]} to {own[-1]}" if run else " ".join(map(str, own))


def check_examples(what: str, train: Examples, test: Examples) -> None:
    """Refuse examples that are empty or hold NaN or infinity.

    Raises:
        DataError: with the part and the first index.
    """
    for part, examples in (("training", train), ("test", test)):
        if len(examples) == 0:
            raise DataError(f"{what}: it has no {part} examples. Leave the task out, or give it some.")
        if not finite(examples.x):
            index = int((~examples.x.flatten(1).isfinite().all(1)).nonzero()[0])
            raise DataError(
                f"{what}: {part} example {index} has values that are NaN or infinite. Replace them, or leave the "
                "example out."
            )
