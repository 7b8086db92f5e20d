import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from apical.data import load
from apical.errors import DataError

Write = Callable[..., Path]


def parts(**changes: object) -> dict[str, object]:
    """Four good arrays, 12 and 6 rows of 3 values in 3 classes, with some of them changed."""
    generator = np.random.default_rng(0)
    return {
        "x_train": generator.normal(5, 2, (12, 3)),
        "y_train": np.arange(12) % 3,
        "x_test": generator.normal(5, 2, (6, 3)),
        "y_test": np.arange(6) % 3,
        **changes,
    }


def test_four_arrays_become_a_task(write_npz: Write) -> None:
    arrays = parts()
    path = write_npz(**arrays)
    task = load(f"npz:{path}")
    mean, std = arrays["x_train"].mean(axis=0), arrays["x_train"].std(axis=0)
    np.testing.assert_allclose(task.train.x, (arrays["x_train"] - mean) / std, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(task.test.x, (arrays["x_test"] - mean) / std, rtol=1e-5, atol=1e-6)
    assert task.train.y.tolist() == arrays["y_train"].tolist()
    assert task.test.y.tolist() == arrays["y_test"].tolist()
    assert (task.classes, task.input_shape, task.name) == (3, (3,), f"npz:{path}")
    assert str(path) in task.source


def test_the_test_part_has_no_say_in_the_scaling(write_npz: Write) -> None:
    one = load(f"npz:{write_npz(**parts())}")
    with pytest.warns(UserWarning, match="on another scale than the training part"):
        other = load(f"npz:{write_npz(**parts(x_test=np.full((6, 3), 1000.0)))}")
    assert one.train.x.equal(other.train.x)
    assert one.scaling.mean.tolist() == other.scaling.mean.tolist()


def test_a_pair_is_split_by_class_and_always_alike(write_npz: Write) -> None:
    x, y = np.arange(50.0)[:, None], np.repeat([0, 1], [30, 20])
    path = write_npz(x=x, y=y)
    task, again = load(f"npz:{path}"), load(f"npz:{path}")
    assert np.bincount(task.train.y).tolist() == [24, 16]
    assert np.bincount(task.test.y).tolist() == [6, 4]
    assert task.test.x.equal(again.test.x)
    rows = torch.cat([task.train.x, task.test.x]).numpy() * task.scaling.std + task.scaling.mean
    np.testing.assert_allclose(np.sort(rows, axis=0), x, atol=1e-4)


def test_integer_pictures_get_a_channel_axis(write_npz: Write) -> None:
    generator = np.random.default_rng(0)
    pictures = {
        "x_train": generator.integers(0, 256, (12, 5, 4)).astype(np.uint8),
        "x_test": generator.integers(0, 256, (6, 5, 4)).astype(np.uint8),
    }
    task = load(f"npz:{write_npz(**parts(**pictures))}")
    assert task.input_shape == (1, 5, 4)
    x = pictures["x_train"].astype(np.float64)
    np.testing.assert_allclose(task.train.x[:, 0], (x - x.mean()) / x.std(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "shape", "wanted"),
    [
        (np.float32, (5, 4), (5, 4)),
        (np.float32, (5, 5), (1, 5, 5)),
        (np.float32, (1, 1), (1, 1)),
        (np.int32, (5, 4), (1, 5, 4)),
        (np.uint8, (3, 5, 4), (3, 5, 4)),
        (np.bool_, (5, 4), (1, 5, 4)),
        (">i2", (7,), (7,)),
        (np.float16, (7,), (7,)),
    ],
)
def test_shapes_and_types_that_are_taken(
    write_npz: Write, dtype: str, shape: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    values = np.random.default_rng(0).integers(0, 2, (18, *shape)).astype(dtype)
    task = load(f"npz:{write_npz(**parts(x_train=values[:12], x_test=values[12:]))}")
    assert task.input_shape == wanted
    assert task.train.x.isfinite().all()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"y_train": np.arange(12) % 3 / 1.0}, r"y_train is \(12,\) of float64.*y_train\.astype\(int\)"),
        ({"y_train": np.arange(12) % 3 - 1}, "y_train has the label -1 at 0, labels start at 0"),
        ({"y_test": np.eye(6)}, r"y_test is \(6, 6\) of float64.*argmax"),
        ({"y_train": np.array(["a"] * 12)}, r"y_train is \(12,\) of <U1"),
        ({"y_train": np.arange(11) % 3}, "x_train has 12 examples, y_train 11 labels"),
        ({"y_test": np.arange(7) % 3}, "x_test has 6 examples, y_test 7 labels"),
        ({"y_train": np.arange(12) * 100}, "the label 1100 asks for 1101 classes.*numpy.unique"),
        ({"y_train": np.full(12, 2**63, np.uint64)}, "the label 9223372036854775808 at 0.*not a class index"),
        ({"y_train": np.zeros(12, int), "y_test": np.zeros(6, int)}, "every label is 0"),
        ({"y_train": np.full(12, 2)}, "every label is 2, so there is nothing to tell apart in training"),
        ({"x_train": np.array([[1.0, np.nan, 0]] * 12)}, r"x_train has 12 values.*NaN.*first at \(0, 1\)"),
        ({"x_test": np.array([[0, 0, 1.0]] * 5 + [[0, 0, np.inf]])}, r"x_test has 1 values.*\(5, 2\)"),
        ({"x_test": np.zeros((6, 4))}, r"x_train has the shape \(3,\), of x_test \(4,\)"),
        ({"x_train": np.zeros((12, 3), complex)}, "x_train is of the type complex128"),
        ({"x_train": np.array([["a"] * 3] * 12)}, "x_train is of the type <U1"),
        ({"x_train": np.zeros(12)}, r"x_train has the shape \(12,\).*x_train\[:, None\]"),
        ({"x_train": np.zeros((0, 3))}, r"x_train has the shape \(0, 3\)"),
        ({"x_train": np.zeros((12, 8, 8, 3), np.uint8)}, "channels last.*moveaxis"),
        ({"x_train": np.zeros((12, 8, 8, 3), np.float32)}, "channels last.*moveaxis"),
        ({"x_train": np.array([{}] * 12, dtype=object)}, "holds Python objects"),
        ({"x_test": np.full((6, 3), 1e60)}, "test part: the value 1e.60 at"),
    ],
)
def test_arrays_of_another_form_are_refused(write_npz: Write, changes: dict[str, object], reason: str) -> None:
    path = write_npz(**parts(**changes))
    with pytest.raises(DataError, match=reason) as caught:
        load(f"npz:{path}")
    assert str(path) in str(caught.value)


def test_float_pictures_are_standardised_as_pictures(write_npz: Write) -> None:
    """Rows of a picture once were channels, each with a mean and a deviation of its own."""
    x = np.random.default_rng(0).normal(size=(18, 5, 5)).cumsum(axis=1)
    task = load(f"npz:{write_npz(**parts(x_train=x[:12], x_test=x[12:]))}")
    np.testing.assert_allclose(task.train.x[:, 0], (x[:12] - x[:12].mean()) / x[:12].std(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"y_train": np.arange(12) % 2 * 2, "y_test": np.arange(6) % 2 * 2}, "of 3 classes.*in no example: 1. Renumb"),
        ({"y_train": np.arange(12) % 2}, "of 3 classes these are in test examples alone, so .*: 2. Check how"),
        ({"y_train": np.arange(12) % 2 * 11, "y_test": np.zeros(6, int)}, r"in no example: 1, 2, .*, 10\. Renumber"),
        ({"x_test": np.random.default_rng(1).normal(5, 2, (12, 3)) / 255, "y_test": np.arange(12) % 3}, "scale than"),
        ({"x_test": 255 * np.random.default_rng(1).normal(5, 2, (6, 3))}, "mean .* and the deviation .* one scale"),
    ],
)
def test_arrays_that_look_like_a_mistake_are_named(write_npz: Write, changes: dict[str, object], reason: str) -> None:
    with pytest.warns(UserWarning, match=reason) as caught:
        load(f"npz:{write_npz(**parts(**changes))}")
    assert len(caught) == 1
    assert Path(caught[0].filename).name != "arrays.py"


def test_missing_arrays_are_named_and_others_may_be_anything(write_npz: Write) -> None:
    arrays = parts()
    del arrays["y_test"]
    with pytest.raises(DataError, match=r"has the arrays x_test, x_train, y_train; wanted are x_train, y_train"):
        load(f"npz:{write_npz(**arrays)}")
    with pytest.raises(DataError, match="has the arrays none at all"):
        load(f"npz:{write_npz()}")
    assert load(f"npz:{write_npz(**parts(names=np.array([{}], dtype=object)))}").classes == 3


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    path.write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises(DataError, match="not an npz file, or holds Python objects"):
        load(f"npz:{path}")


def test_an_archive_that_claims_more_than_there_is_is_not_unpacked(write_npz: Write, tmp_path: Path) -> None:
    """A header of a terabyte; a part that says so of itself; one that is encrypted; a pipe."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": (2**37, 2)})
    path = tmp_path / "own.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", buffer.getvalue() + bytes(16))
        archive.writestr("y.npy", buffer.getvalue())
    with pytest.raises(DataError, match=r"has \d+ bytes, not those of the shape"):
        load(f"npz:{path}")
    whole = write_npz(**parts()).read_bytes()
    at = whole.index(b"PK\x01\x02")  # the first entry of the directory
    for place, value, says in ((24, b"\xff\xff\xff\x7f", "damaged"), (8, b"\1", "is encrypted")):
        path.write_bytes(whole[: at + place] + value + whole[at + place + len(value) :])
        with pytest.raises(DataError, match=says):
            load(f"npz:{path}")
    path.write_bytes(whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sysconf", lambda name: 1)
        with pytest.raises(DataError, match="this machine has 0 GB of memory"):
            load(f"npz:{path}")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match="not a regular file"):
        load(f"npz:{path}")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
def test_truncated_files_are_refused(write_npz: Write, share: float) -> None:
    path = write_npz(**parts())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match=r"own\.npz"):
        load(f"npz:{path}")


def test_flipped_bytes_in_the_values_are_refused(write_npz: Write) -> None:
    path = write_npz(**parts())
    content = bytearray(path.read_bytes())
    content[content.index(b"NUMPY") + 200] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match="is damaged"):
        load(f"npz:{path}")


def test_a_single_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "own.npy", np.zeros((3, 2)))
    with pytest.raises(DataError, match="holds a single array"):
        load(f"npz:{tmp_path / 'own.npy'}")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=rf"nowhere\.npz: there is no such file.*starts at {tmp_path}"):
        load("npz:nowhere.npz")
    with pytest.raises(DataError, match="cannot be read"):
        load(f"npz:{tmp_path}")
    with pytest.raises(DataError, match="names no file"):
        load("npz:")


def test_paths_may_start_at_home(write_npz: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_npz(**parts())
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load("npz:~/own.npz").classes == 3


def test_another_file_is_scaled_as_the_training_data_were(write_npz: Write) -> None:
    arrays = parts()
    trained = load(f"npz:{write_npz(**arrays)}")
    for keys in (("x_test", "y_test"), ("x", "y")):
        path = write_npz(**dict(zip(keys, (arrays["x_test"], arrays["y_test"]), strict=True)))
        other = load(f"npz:{path}", scaling=trained.scaling)
        assert other.test.x.equal(trained.test.x)
        assert other.test.y.equal(trained.test.y)
        assert len(other.train) == 0
    with pytest.raises(DataError, match=r"test part: an example has the shape \(4,\)"):
        load(f"npz:{write_npz(x=np.zeros((6, 4)), y=arrays['y_test'])}", scaling=trained.scaling)
