import dataclasses

import numpy as np
import pytest
import torch

from apical.data import Examples, Task
from apical.errors import DataError


def test_take_picks_and_copies() -> None:
    examples = Examples(torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 2]))
    taken = examples.take([2, 0, 2])
    assert taken.x.tolist() == [[4, 5], [0, 1], [4, 5]]
    assert taken.y.tolist() == [2, 0, 2]
    taken.x.zero_()
    assert examples.x[2].tolist() == [4, 5]
    assert len(examples.take(torch.tensor([], dtype=torch.int64))) == 0


def test_to_moves_both() -> None:
    moved = Examples(torch.zeros(2, 3), torch.tensor([0, 1])).to("meta")
    assert moved.x.device.type == moved.y.device.type == "meta"


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), "3 inputs but 2 labels"),
        (torch.zeros(3, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), r"x is \(3, 2\) of uint8"),
        (torch.zeros(3), torch.zeros(3, dtype=torch.int64), r"x is \(3,\) of float32.*x\[:, None\]"),
        (torch.zeros(3, 2), torch.zeros(3), r"y is \(3,\) of float32.*y.long\(\)"),
        (torch.zeros(3, 2), torch.zeros(3, 4, dtype=torch.int64), r"y is \(3, 4\).*argmax"),
    ],
)
def test_examples_of_another_form_are_refused(x: torch.Tensor, y: torch.Tensor, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        Examples(x, y)


def test_numpy_arrays_become_tensors() -> None:
    taken = Examples(np.arange(6.0).reshape(3, 2), np.array([0, 1, 2], np.uint8))  # type: ignore[arg-type]
    assert (taken.x.dtype, taken.y.dtype) == (torch.float32, torch.int64)
    assert taken.x.tolist() == [[0, 1], [2, 3], [4, 5]]
    for x, y, reason in (
        ([[0.0]], np.zeros(1, int), "x is of <class 'list'>, wanted is a tensor or a NumPy array of float32"),
        (np.zeros((1, 2), np.uint8), np.zeros(1, int), r"x is \(1, 2\) of uint8"),
        (np.zeros((1, 2)), np.zeros(1), r"y is \(1,\) of float64, wanted .* of int64"),
    ):
        with pytest.raises(DataError, match=reason):
            Examples(x, y)  # type: ignore[arg-type]


def examples(*shape: int, labels: tuple[int, ...] = (0, 1)) -> Examples:
    return Examples(torch.zeros(len(labels), *shape), torch.tensor(labels))


def test_a_task_of_ones_own() -> None:
    task = Task("mine", examples(1, 4, 4), examples(1, 4, 4), classes=2)
    assert task.input_shape == (1, 4, 4)
    assert task.scaling is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.classes = 3  # type: ignore[misc]


def test_a_task_of_two_shapes_is_refused() -> None:
    with pytest.raises(DataError, match=r"mine: a training example has the shape \(4,\), a test example \(5,\)"):
        Task("mine", examples(4), examples(5), classes=2)


@pytest.mark.parametrize("labels", [(0, 2), (0, -1)])
def test_labels_beyond_the_classes_are_refused(labels: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=f"mine: test example 1 has the label {labels[1]}.* from 0 to 1"):
        Task("mine", examples(4), examples(4, labels=labels), classes=2)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"train": torch.zeros(2, 4)}, r"mine: train is of the type Tensor.*train=Examples\(x, y\)"),
        ({"classes": 2.0}, "mine: classes is 2.0, wanted is a whole number"),
        ({"classes": True}, "mine: classes is True"),
        ({"classes": 0}, "mine: classes is 0"),
        ({"test": Examples(torch.zeros(2, 4).double(), torch.tensor([0, 1]))}, r"test inputs \(2, 4\) of float64"),
    ],
)
def test_a_task_of_other_things_is_refused(changes: dict[str, object], reason: str) -> None:
    given = {"train": examples(4), "test": examples(4), "classes": 2, **changes}
    with pytest.raises(DataError, match=reason):
        Task("mine", **given)  # type: ignore[arg-type]
