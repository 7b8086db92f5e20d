from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from apical.data import from_dataset
from apical.errors import DataError


class Squares(Dataset[tuple[Any, Any]]):
    """Three pairs of a matrix full of the index' square, and the index; what `change` returns for index 2."""

    def __init__(self, change: Callable[[torch.Tensor, int], Any] = lambda x, y: (x, y)) -> None:
        self.change = change
        self.reads: list[int] = []

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        self.reads.append(index)
        pair = torch.full((1, 2, 2), float(index**2)), index
        return self.change(*pair) if index == 2 else pair


def test_every_pair_is_read_once_in_order() -> None:
    dataset = Squares()
    examples = from_dataset(dataset)
    assert dataset.reads == [0, 1, 2]
    assert examples.x.shape == (3, 1, 2, 2)
    assert examples.x.dtype == torch.float32
    assert examples.x[:, 0, 0, 0].tolist() == [0, 1, 4]
    assert examples.y.tolist() == [0, 1, 2]


def read_only(x: torch.Tensor) -> np.ndarray:
    array = x.numpy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "change",
    [
        lambda x, y: [x.double(), torch.tensor(y)],
        lambda x, y: (x.to(torch.uint8), np.int64(y)),
        lambda x, y: (x.numpy(), np.array(y)),
        lambda x, y: (x.numpy().astype(">u2"), y),
        lambda x, y: (read_only(x), y),
        lambda x, y: (x.requires_grad_(), torch.tensor([y])),
    ],
)
def test_tensors_arrays_and_labels_of_many_types_are_taken(
    change: Callable[[torch.Tensor, int], Any],
) -> None:
    examples = from_dataset(Squares(change))
    assert examples.x[2].tolist() == [[[4, 4], [4, 4]]]
    assert examples.y[2] == 2
    assert not examples.x.requires_grad


def test_torchs_own_datasets_and_lists_are_taken() -> None:
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 0, 1])
    for dataset in (TensorDataset(x, y), list(zip(x, y, strict=True))):
        examples = from_dataset(dataset)
        assert examples.x.equal(x)
        assert examples.y.equal(y)


class Picture:
    """Stands for a picture of a type that is no array."""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x, y: (x[0], y), r"the input has the shape \(2, 2\), that of index 0 has \(1, 2, 2\)"),
        (lambda x, y: (x[:, :1], y), r"the input has the shape \(1, 1, 2\)"),
        (lambda x, y: (Picture(), y), "the input is something of the type Picture.*ToTensor"),
        (lambda x, y: (x.sum(), y), r"the input is Tensor \(\) of torch.float32"),
        (lambda x, y: (x + 1j, y), "of torch.complex64"),
        (lambda x, y: (np.array([["a"]]), y), "of <U1"),
        (lambda x, y: (x * float("nan"), y), "NaN or out of float32's range"),
        (lambda x, y: (x.double() * 1e60, y), "NaN or out of float32's range"),
        (lambda x, y: (x.double().numpy() * 1e60, y), "NaN or out of float32's range"),
        (lambda x, y: (x, float(y)), r"the label is 2\.0, wanted is an integer"),
        (lambda x, y: (x, -y), "the label is -2"),
        (lambda x, y: (x, 2**70), "the label is 1180591620717411303424"),
        (lambda x, y: (x, torch.tensor([0, 1])), r"the label is Tensor \(2,\).*argmax"),
        (lambda x, y: (x, "cat"), "the label is 'cat'"),
        (lambda x, y: x, r"gives Tensor \(1, 2, 2\).*a pair"),
        (lambda x, y: (x, y, y), "gives tuple of 3, wanted is a pair"),
        (lambda x, y: {"x": x}, "gives something of the type dict, wanted is a pair"),
    ],
)
def test_an_example_of_another_form_is_refused_with_its_index(
    change: Callable[[torch.Tensor, int], Any], reason: str
) -> None:
    with pytest.raises(DataError, match=rf"Squares\[2\]: .*({reason})"):
        from_dataset(Squares(change))


def test_an_empty_dataset_is_refused() -> None:
    with pytest.raises(DataError, match="the dataset is empty"):
        from_dataset([])


def test_an_iterable_dataset_is_refused() -> None:
    class Stream(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(range(3))

    with pytest.raises(DataError, match="Stream: has no length"):
        from_dataset(Stream())
