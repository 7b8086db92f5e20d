import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from data_samples import cifar_batch

from apical.data.cifar import read_batch
from apical.errors import DataError


def python_2_batch(data: np.ndarray, labels: list[int]) -> bytes:
    """A batch as Python 2 and its NumPy pickled it (protocol 2, byte strings): the form of the original files."""
    raw = data.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01M" + struct.pack("<H", data.shape[0]) + b"M" + struct.pack("<H", data.shape[1]) + b"\x86"
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89T" + struct.pack("<I", len(raw)) + raw + b"tb"
    )
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels" + numbers + b"u."


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data_batch_1"


@pytest.fixture
def batch() -> dict[bytes, object]:
    return cifar_batch(np.random.default_rng(0))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_batches_of_every_pickle_protocol_are_read(path: Path, batch: dict[bytes, object], protocol: int) -> None:
    path.write_bytes(pickle.dumps(batch, protocol=protocol))
    pictures, labels = read_batch(path)
    np.testing.assert_array_equal(pictures.reshape(10, 3072), batch[b"data"])
    assert pictures.shape == (10, 3, 32, 32)
    assert labels.tolist() == batch[b"labels"]
    assert labels.dtype == np.int64


def test_batches_as_python_2_wrote_them_are_read(path: Path, batch: dict[bytes, object]) -> None:
    path.write_bytes(python_2_batch(batch[b"data"], batch[b"labels"]))
    pictures, labels = read_batch(path)
    np.testing.assert_array_equal(pictures.reshape(10, 3072), batch[b"data"])
    assert labels.tolist() == batch[b"labels"]


class Touch:
    """Pickles into a call of a function of the operating system."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_would_run_something_is_refused_and_does_not_run(path: Path, tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    path.write_bytes(pickle.dumps({b"data": Touch(trap), b"labels": [0]}))
    with pytest.raises(DataError, match=r"asks for \w+\.mkdir, which has no place in a data file"):
        read_batch(path)
    assert not trap.exists()
    pickle.loads(path.read_bytes())
    assert trap.exists(), "the trap of this test does not work"


def test_a_call_of_the_array_type_itself_is_refused(path: Path) -> None:
    path.write_bytes(b"cnumpy\nndarray\n(K\x01tR.")
    with pytest.raises(DataError, match="damaged or not a CIFAR-10 batch"):
        read_batch(path)


def test_arrays_of_objects_are_refused(path: Path) -> None:
    path.write_bytes(pickle.dumps({b"data": np.array([{}, []], dtype=object), b"labels": [0]}))
    with pytest.raises(DataError, match="array of object, not of numbers"):
        read_batch(path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.99, 0.9999])
def test_truncated_batches_are_refused(path: Path, batch: dict[bytes, object], share: float) -> None:
    whole = pickle.dumps(batch)
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match="damaged or not a CIFAR-10 batch") as caught:
        read_batch(path)
    assert str(path) in str(caught.value)
    assert "Delete its folder" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({b"data": np.zeros((10, 3000), np.uint8)}, r"'data' is \(10, 3000\) of uint8"),
        ({b"data": np.zeros((10, 3072), np.float32)}, r"'data' is \(10, 3072\) of float32"),
        ({b"labels": [0] * 9}, r"'labels' is \(9,\) of int64 for 10 pictures"),
        ({b"labels": [0.5] * 10}, r"'labels' is \(10,\) of float64"),
        ({b"labels": [[0], [1, 2]] * 5}, "'labels' is not an array"),
    ],
)
def test_contents_of_another_form_are_refused(
    path: Path, batch: dict[bytes, object], change: dict[bytes, object], reason: str
) -> None:
    path.write_bytes(pickle.dumps({**batch, **change}))
    with pytest.raises(DataError, match=reason):
        read_batch(path)


def test_missing_entries_are_named(path: Path, batch: dict[bytes, object]) -> None:
    del batch[b"labels"]
    path.write_bytes(pickle.dumps(batch))
    with pytest.raises(DataError, match=r"has no entry 'labels', only \['data', 'filenames'\]"):
        read_batch(path)
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(DataError, match="holds list, not the mapping"):
        read_batch(path)


def test_a_missing_file_is_refused(path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_batch(path)
