"""Streams from one task (cut by class, permuted, rotated) and from a user's own list."""

import math
import operator
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from apical import data
from apical.continual.stream import MakePart, Scenario, Stream, check_examples, stream_of
from apical.data import Examples, Task
from apical.data.sampling import stratified_indices
from apical.errors import ConfigError, DataError

Part = Literal["train", "test"]


def split(
    task: str | Task,
    classes_per_task: int = 2,
    scenario: Scenario = "class",
    *,
    classes: Sequence[Sequence[int]] | None = None,
    shuffle: bool = False,
    validation: float = 0.0,
    seed: int = 0,
) -> Stream:
    """Cut a task by class: each task of the stream has classes of its own ("split MNIST").

    In the scenarios "class" and "task" the labels are those of the data; in "domain" they are the places within the
    task, so that the first class of every task is 0.

    Args:
        task: a name, as for `apical.data.load`, or a task.
        classes_per_task: how many classes each task has, in ascending order; it divides the number of classes.
        scenario: see `Stream`.
        classes: the classes of each task, in place of `classes_per_task`: any partition of all classes or of some,
            `[(0, 1), (2, 3)]`.
        shuffle: draw the order of the classes from `seed`.
        validation: the share of each task's training data that is cut off for validation.
        seed: of the validation part and of the order of the classes.

    Raises:
        ConfigError: the classes overlap, a task has none or (in "task" and "domain") one, the tasks differ in their
            number of classes (in "domain"), `classes_per_task` divides nothing, or an option is unknown.
        DataError: the data lack a class, or hold NaN or infinity.

    Example:
        >>> import apical
        >>> stream = apical.continual.split("digits", classes_per_task=2)
        >>> len(stream), stream[1].labels, stream[1].train.x.shape
        (5, (2, 3), torch.Size([294, 1, 8, 8]))
    """
    source = _loaded(task)
    name = f"split {source.name}"
    if classes is None:
        classes = _equal_parts(name, range(source.classes), classes_per_task)
    parts = [tuple(map(operator.index, own)) for own in classes]
    _check_partition(name, parts, source)
    if shuffle:
        parts = _shuffled(parts, seed)
    for own in parts:
        stratified_indices(source.train.y[_among(source.train.y, own)], validation, seed=seed)  # raises, or fits
    labels = _places_within(name, parts) if scenario == "domain" else parts
    outputs = len(labels[0]) if scenario == "domain" else source.classes
    tasks = (
        ("classes " + " ".join(map(str, own)), own, new, partial(_of_classes, source, own))
        for own, new in zip(parts, labels, strict=True)
    )
    return stream_of(name, scenario, outputs, source.input_shape, tasks, validation, seed)


def one_class(task: str | Task, *, shuffle: bool = False, validation: float = 0.0, seed: int = 0) -> Stream:
    """Cut a task into tasks of one class each, in the scenario "class".

    Within such a task there is nothing to discriminate, and batches of test data that are cut from one task hold one
    class: see `apical.measure.leakage`. Arguments and errors are those of `split`.
    """
    return split(task, 1, "class", shuffle=shuffle, validation=validation, seed=seed)


def permuted(
    task: str | Task, tasks: int = 10, scenario: Scenario = "domain", *, validation: float = 0.0, seed: int = 0
) -> Stream:
    """The same task with its inputs' values permuted, by another permutation in each task ("permuted MNIST").

    The first task is the original. In the scenario "domain" all tasks share the labels of the data; in "task" and
    "class" those of task i follow those of task i - 1, so that a network needs `tasks * classes` outputs.

    Args:
        task: a name, as for `apical.data.load`, or a task.
        tasks: how many.
        scenario: see `Stream`.
        validation: the share of each task's training data that is cut off for validation.
        seed: of the permutations and of the validation part.

    Raises:
        ConfigError: an option is unknown or out of range.
        DataError: the data hold NaN or infinity.
    """
    source = _loaded(task)
    generator, values = torch.Generator().manual_seed(seed), math.prod(source.input_shape)
    orders = [torch.arange(values), *(torch.randperm(values, generator=generator) for _ in range(tasks - 1))]
    made = [(f"permutation {i}", partial(_permuted, source, order)) for i, order in enumerate(orders[: max(tasks, 0)])]
    return _transformed(f"permuted {source.name}", source, made, scenario, validation, seed)


def rotated(
    task: str | Task,
    tasks: int = 10,
    scenario: Scenario = "domain",
    *,
    angles: Sequence[float] | None = None,
    validation: float = 0.0,
    seed: int = 0,
) -> Stream:
    """The same pictures, rotated by another angle in each task ("rotated MNIST").

    A rotation interpolates bilinearly, and what enters at the border repeats the border. Labels are as in `permuted`.

    Args:
        task: a name, as for `apical.data.load`, or a task; its inputs are pictures, (n, channels, height, width).
        tasks: how many, at angles that are evenly spaced from 0 and below 180 degrees.
        scenario: see `Stream`.
        angles: in degrees, counterclockwise, one for each task, in place of `tasks`.
        validation: the share of each task's training data that is cut off for validation.
        seed: of the validation part.

    Raises:
        ConfigError: an option is unknown or out of range.
        DataError: the inputs are no pictures, or hold NaN or infinity.
    """
    source = _loaded(task)
    if len(source.input_shape) != 3:
        raise DataError(
            f"rotated {source.name}: an example has the shape {source.input_shape}, and only pictures, (channels, "
            "height, width), can be rotated. Reshape the inputs, or use permuted."
        )
    degrees = [180 * i / tasks for i in range(tasks)] if angles is None else [float(angle) for angle in angles]
    if not all(map(math.isfinite, degrees)):
        raise ConfigError(f"rotated {source.name}: angles={degrees} must be finite numbers, in degrees.")
    made = [(f"{angle:g} degrees", partial(_rotated, source, angle)) for angle in degrees]
    return _transformed(f"rotated {source.name}", source, made, scenario, validation, seed)


def from_tasks(
    tasks: Sequence[Any],
    scenario: Scenario = "class",
    *,
    separate: bool = False,
    validation: float = 0.0,
    seed: int = 0,
) -> Stream:
    """A stream of your own tasks or datasets.

    Labels are taken as they are: in the scenario "domain" all tasks share them, in "task" and "class" no two tasks may
    have the same one.

    Args:
        tasks: each is a name, as for `apical.data.load`, an `apical.data.Task`, or a pair of a training and a test
            part: `Examples`, or map-style datasets (see `apical.data.from_dataset`).
        scenario: see `Stream`.
        separate: the classes of each task are others than those of the tasks before, whatever their labels: they are
            numbered one task after another.
        validation: the share of each task's training data that is cut off for validation.
        seed: of the validation part.

    Raises:
        ConfigError: two tasks have the same class (in "task" and "class"), a task shares no label with those before (in
            "domain"), or a task has a single class (in "task" and "domain").
        DataError: a task is empty, holds NaN or infinity, tests a class that it does not train, or has inputs of
            another shape or type than the first.
    """
    name = "own tasks"
    loaded = [_own(i, each) for i, each in enumerate(tasks)]
    for i, own in enumerate(loaded):
        check_examples(f"{name}: task {i} ({own.name})", own.train, own.test)
        if own.input_shape != loaded[0].input_shape:
            raise DataError(
                f"{name}: task {i} ({own.name}) has examples of the shape {own.input_shape}, task 0 of "
                f"{loaded[0].input_shape}. One network learns all of them: bring them to one shape."
            )
        if own.train.x.dtype != loaded[0].train.x.dtype:
            raise DataError(
                f"{name}: task {i} ({own.name}) has examples of {own.train.x.dtype}, task 0 of "
                f"{loaded[0].train.x.dtype}. Convert them to one type."
            )
        if unseen := set(_present(own.test)) - set(_present(own.train)):
            raise DataError(
                f"{name}: task {i} ({own.name}) tests the class {min(unseen)}, which its training part lacks. Leave "
                "those test examples out, or train on the class."
            )
        stratified_indices(own.train.y, validation, seed=seed)  # raises, or fits
    labels = classes = [_present(own.train) for own in loaded]
    if separate:
        starts = [sum(map(len, classes[:i])) for i in range(len(classes))]
        labels = [tuple(range(start, start + len(own))) for start, own in zip(starts, classes, strict=True)]
    elif scenario != "domain":
        _check_overlap(name, classes, "Pass separate=True if these are different classes, or scenario='domain'.")
    if scenario == "domain":
        _check_shared(name, labels)
    outputs = 1 + max((max(own) for own in labels), default=0)
    rows = ((own.name, old, new, partial(getattr, own)) for own, old, new in zip(loaded, classes, labels, strict=True))
    return stream_of(name, scenario, outputs, loaded[0].input_shape if loaded else (), rows, validation, seed)


def _loaded(task: str | Task) -> Task:
    source = data.load(task) if isinstance(task, str) else task
    if not isinstance(source, Task):
        raise ConfigError(f"a stream is made of a task or the name of one, not of {type(source).__name__}.")
    check_examples(source.name, source.train, source.test)
    return source


def _own(index: int, given: Any) -> Task:
    if isinstance(given, str | Task):
        return data.load(given) if isinstance(given, str) else given
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise ConfigError(
            f"own tasks: task {index} is of the type {type(given).__name__}. Pass a name, an apical.data.Task, or a "
            "pair (training part, test part) of datasets."
        )
    train, test = (part if isinstance(part, Examples) else data.from_dataset(part) for part in given)
    highest = max((int(part.y.max()) for part in (train, test) if len(part)), default=0)
    return Task(f"task {index}", train, test, highest + 1)


def _equal_parts(name: str, classes: Sequence[int], size: int) -> list[tuple[int, ...]]:
    if size < 1 or len(classes) % size:
        raise ConfigError(
            f"{name}: {len(classes)} classes cannot be cut into tasks of classes_per_task={size}. Pass a divisor, or "
            "the classes of each task: classes=[(0, 1), (2, 3, 4)]."
        )
    return [tuple(classes[i : i + size]) for i in range(0, len(classes), size)]


def _shuffled(parts: Sequence[tuple[int, ...]], seed: int) -> list[tuple[int, ...]]:
    flat = [label for own in parts for label in own]
    order = torch.randperm(len(flat), generator=torch.Generator().manual_seed(seed)).tolist()
    drawn = iter([flat[i] for i in order])
    return [tuple(islice(drawn, len(own))) for own in parts]


def _places_within(name: str, parts: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    sizes = [len(own) for own in parts]
    if len(set(sizes)) > 1:
        raise ConfigError(
            f"{name}: the tasks have {', '.join(map(str, sizes))} classes, and in the scenario 'domain' all tasks "
            "share their labels. Give each task the same number of classes."
        )
    return [tuple(range(size)) for size in sizes]


def _check_partition(name: str, parts: Sequence[tuple[int, ...]], source: Task) -> None:
    if not parts:
        raise ConfigError(f"{name}: the stream has no task. Pass the classes of at least one.")
    empty = next((i for i, own in enumerate(parts) if not own), None)
    if empty is not None:
        raise ConfigError(f"{name}: task {empty} has no class. Leave it out, or give it one.")
    _check_overlap(name, parts, "Each class belongs to one task.")
    present = {"training": _present(source.train), "test": _present(source.test)}
    for label in (label for own in parts for label in own):
        for part, there in present.items():
            if label not in there:
                raise DataError(f"{name}: the {part} data have no example of class {label}. Leave the class out.")


def _check_overlap(name: str, parts: Sequence[tuple[int, ...]], remedy: str) -> None:
    owner: dict[int, int] = {}
    for i, own in enumerate(parts):
        for label in own:
            if label in owner:
                raise ConfigError(f"{name}: class {label} is in task {owner[label]} and in task {i}. {remedy}")
            owner[label] = i


def _check_shared(name: str, labels: Sequence[tuple[int, ...]]) -> None:
    seen = set(labels[0]) if labels else set()
    for i, own in enumerate(labels):
        if seen.isdisjoint(own):
            raise ConfigError(
                f"{name}: task {i} has the labels {', '.join(map(str, own))}, and the tasks before none of them, so "
                "that they share no question. Pass scenario='class', or number the classes within each task."
            )
        seen.update(own)


def _transformed(
    name: str, source: Task, made: Sequence[tuple[str, MakePart]], scenario: Scenario, validation: float, seed: int
) -> Stream:
    """A stream whose tasks are all classes of one task, with other inputs each."""
    count, classes = source.classes, tuple(range(source.classes))
    stratified_indices(source.train.y, validation, seed=seed)  # raises, or fits
    starts = [0 if scenario == "domain" else i * count for i in range(len(made))]
    tasks = (
        (own, classes, tuple(range(start, start + count)), make)
        for (own, make), start in zip(made, starts, strict=True)
    )
    outputs = count if scenario == "domain" else count * len(made)
    return stream_of(name, scenario, outputs, source.input_shape, tasks, validation, seed)


def _present(examples: Examples) -> tuple[int, ...]:
    return tuple(sorted(set(examples.y.tolist())))


def _among(y: Tensor, classes: tuple[int, ...]) -> Tensor:
    return torch.isin(y, torch.tensor(classes, device=y.device))


def _of_classes(source: Task, own: tuple[int, ...], part: Part) -> Examples:
    examples: Examples = getattr(source, part)
    return examples.take(_among(examples.y, own).nonzero().squeeze(1))


def _permuted(source: Task, order: Tensor, part: Part) -> Examples:
    examples: Examples = getattr(source, part)
    return Examples(examples.x.flatten(1).index_select(1, order.to(examples.x.device)).view_as(examples.x), examples.y)


def _rotated(source: Task, angle: float, part: Part) -> Examples:
    examples: Examples = getattr(source, part)
    x = examples.x
    *_, height, width = x.shape
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    turn = torch.tensor([[cosine, -sine * height / width, 0], [sine * width / height, cosine, 0]]).to(x)
    # All pictures turn by one grid, as the channels of one picture.
    grid = F.affine_grid(turn[None], [1, 1, height, width], align_corners=False)
    turned = F.grid_sample(x.reshape(1, -1, height, width), grid, padding_mode="border", align_corners=False)
    return Examples(turned.view_as(x), examples.y)
