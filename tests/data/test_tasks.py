import dataclasses
import gzip
import hashlib
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from data_samples import Mirror, cifar_batch, files_below, idx_bytes, tiny_idx_members

from apical.data import fetch, load, names, status
from apical.data.digits import read_digits
from apical.data.downloads import RemoteFile
from apical.data.standard import CIFAR10, MNIST, SETS
from apical.errors import DataError


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with tiny files in MNIST's layout, one of them unpacked, which pass for MNIST's own."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    members = tiny_idx_members(np.random.default_rng(0))
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
    remote = tuple(
        RemoteFile(each.name, each.size, f"sha256:{digests[each.name.removesuffix('.gz')]}", of_content=True)
        for each in MNIST.remote
    )
    monkeypatch.setitem(SETS, "mnist", dataclasses.replace(MNIST, remote=remote))
    for name, content in members.items():
        if name == "train-labels-idx1-ubyte":
            (folder / name).write_bytes(content)
        else:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    return folder


@pytest.fixture
def batches_py(tmp_path: Path) -> Path:
    """A folder with tiny files in CIFAR-10's layout."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name in CIFAR10.members:
        (folder / name).write_bytes(pickle.dumps(cifar_batch(generator), protocol=2))
    return folder


# ---------------------------------------------------------------- digits


def test_digits() -> None:
    task = load("digits")
    assert task.input_shape == (1, 8, 8)
    assert (len(task.train), len(task.test), task.classes) == (1442, 355, 10)
    assert torch.bincount(task.train.y).tolist() == [143, 146, 142, 147, 145, 146, 145, 144, 140, 144]
    assert torch.bincount(task.test.y).tolist() == [35, 36, 35, 36, 36, 36, 36, 35, 34, 36]
    assert task.train.x.mean().abs() < 1e-6
    assert task.train.x.std(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_digits_are_scikit_learns_cut_by_the_documented_rule() -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    seen, test = [0] * 10, []
    for label in bunch.target:
        seen[label] += 1
        test.append(seen[label] % 5 == 0)
    arrays = read_digits()
    np.testing.assert_array_equal(arrays.x_test[:, 0], bunch.images[test])
    np.testing.assert_array_equal(arrays.y_test, bunch.target[test])
    np.testing.assert_array_equal(arrays.x_train[:, 0], bunch.images[~np.array(test)])


# ---------------------------------------------------------------- standard layouts


def test_idx_files_are_read_and_standardised(raw: Path, tmp_path: Path) -> None:
    task = load("mnist", root=tmp_path, download=False)
    members = tiny_idx_members(np.random.default_rng(0))
    pixels = np.frombuffer(members["train-images-idx3-ubyte"], np.uint8, offset=16).reshape(20, 1, 5, 4)
    shown = np.frombuffer(members["t10k-images-idx3-ubyte"], np.uint8, offset=16).reshape(10, 1, 5, 4)
    unit, unit_shown = pixels / 255, shown / 255
    np.testing.assert_allclose(task.train.x, (unit - unit.mean()) / unit.std(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(task.test.x, (unit_shown - unit.mean()) / unit.std(), rtol=1e-4, atol=1e-5)
    assert task.train.x.dtype == torch.float32
    assert task.train.y.tolist() == [*range(10), *range(10)]


def test_a_task_is_its_own(raw: Path, tmp_path: Path) -> None:
    task = load("mnist", root=tmp_path)
    task.train.x.zero_()
    assert load("mnist", root=tmp_path).train.x.any()


def test_cifar_batches_are_read_in_order(batches_py: Path, tmp_path: Path) -> None:
    task = load("cifar10", root=tmp_path, download=False)
    generator = np.random.default_rng(0)
    pixels = np.concatenate([cifar_batch(generator)[b"data"] for _ in range(5)]).reshape(50, 3, 32, 32)
    mean, std = pixels.mean((0, 2, 3), keepdims=True), pixels.std((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(task.train.x, (pixels - mean) / std, rtol=1e-4, atol=1e-5)
    assert task.input_shape == (3, 32, 32)
    assert (len(task.train), len(task.test)) == (50, 10)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("t10k-labels-idx1-ubyte", np.zeros(9, np.uint8), "has 9 labels, but t10k-images.* has 10 pictures"),
        ("t10k-labels-idx1-ubyte", np.full(10, 10, np.uint8), "holds no labels from 0 to 9"),
        ("t10k-labels-idx1-ubyte", np.zeros((10, 2), np.uint8), "holds no labels"),
        ("train-images-idx3-ubyte", np.zeros((20, 20), np.uint8), r"holds \(20, 20\) of uint8"),
        ("train-images-idx3-ubyte", np.zeros((20, 5, 4), np.float32), "of >f4, wanted are pictures"),
        ("t10k-images-idx3-ubyte", np.zeros((10, 4, 5), np.uint8), "is not mnist's file: wrong checksum.*npz:PATH"),
    ],
)
def test_idx_files_that_are_no_such_set_are_refused(
    raw: Path, tmp_path: Path, name: str, content: np.ndarray, reason: str
) -> None:
    (raw / name).write_bytes(idx_bytes(content))
    with pytest.raises(DataError, match=reason):
        load("mnist", root=tmp_path)


@pytest.mark.parametrize("packed", [True, False])
def test_files_of_another_set_are_named(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    """Fashion-MNIST has files of the same names, and once passed for MNIST."""
    other = tiny_idx_members(np.random.default_rng(1))
    name = "t10k-images-idx3-ubyte"
    remote = RemoteFile(f"{name}.gz", 1, f"sha256:{hashlib.sha256(other[name]).hexdigest()}", of_content=True)
    monkeypatch.setitem(SETS, "fashion-mnist", dataclasses.replace(SETS["fashion-mnist"], remote=(remote,)))
    path = raw / f"{name}.gz" if packed else raw / name
    path.write_bytes(gzip.compress(other[name]) if packed else other[name])
    with pytest.raises(DataError, match=rf"{path}: is not mnist's file: it is that of fashion-mnist\. Delete the file"):
        load("mnist", root=tmp_path)


def test_a_damaged_file_is_named(raw: Path, tmp_path: Path) -> None:
    path = raw / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=rf"{path}: its gzip data are truncated\. Delete the file"):
        load("mnist", root=tmp_path)


def test_labels_that_are_not_cifars_are_refused(batches_py: Path, tmp_path: Path) -> None:
    batch = cifar_batch(np.random.default_rng(0))
    (batches_py / "data_batch_3").write_bytes(pickle.dumps({**batch, b"labels": [10] * 10}))
    with pytest.raises(DataError, match="has labels beyond 0 to 9"):
        load("cifar10", root=tmp_path)


def test_missing_files_are_an_error_where_downloads_are_not_wanted(
    homeless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APICAL_DATA", str(homeless / "named"))
    with pytest.raises(DataError) as caught:
        load("mnist", download=False)
    message = str(caught.value)
    assert f"{homeless / 'named' / 'MNIST' / 'raw'} or {homeless}" in message
    assert "Allow the download, or put train-images-idx3-ubyte.gz" in message
    assert files_below(homeless) == []


def test_load_downloads_what_is_missing(mirror: Mirror, homeless: Path) -> None:
    with pytest.raises(DataError, match="the server answers 404"):
        load("fashion-mnist", mirrors=[mirror.url], progress=False)
    assert mirror.requests == ["train-images-idx3-ubyte.gz"]


# ---------------------------------------------------------------- names and status


def test_every_name_has_a_status(homeless: Path) -> None:
    assert names() == ["digits", "mnist", "fashion-mnist", "cifar10"]
    by_name = {each.name: each for each in status()}
    assert list(by_name) == names()
    assert by_name["digits"].found is not None
    assert by_name["digits"].fetch_bytes == 0
    for name, official in SETS.items():
        assert by_name[name].found is None
        assert by_name[name].fetch_bytes == sum(remote.size for remote in official.remote)
    assert all(each.licence and each.source for each in by_name.values())


def test_status_finds_what_is_there(raw: Path, batches_py: Path, tmp_path: Path) -> None:
    found = {each.name: (each.found, each.fetch_bytes > 0) for each in status(root=tmp_path)}
    assert found["mnist"] == (raw, False)
    assert found["cifar10"] == (batches_py, False)
    assert found["fashion-mnist"] == (None, True)
    (raw / "train-labels-idx1-ubyte").unlink()
    assert status(root=tmp_path)[1].fetch_bytes == 28881


def test_fetch_of_what_is_here_gives_the_place(raw: Path, tmp_path: Path) -> None:
    assert fetch("mnist", root=tmp_path, mirrors=[]) == raw
    assert fetch("digits").name == "sklearn"
    own = tmp_path / "own.npz"
    with pytest.raises(DataError, match="there is no such file"):
        fetch(f"npz:{own}")
    own.touch()
    assert fetch(f"npz:{own}") == own


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("minst", " Did you mean mnist?"),
        ("Fashion_MNIST", " Did you mean fashion-mnist?"),
        ("cifar-10", " Did you mean cifar10?"),
        ("own.npz", " Did you mean npz:own.npz?"),
        ("weather", ""),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(name: str, suggestion: str) -> None:
    for function in (load, fetch):
        with pytest.raises(DataError) as caught:
            function(name)
        assert str(caught.value) == (
            f"there is no task '{name}'.{suggestion} There are: digits, mnist, fashion-mnist, cifar10, npz:PATH."
        )


def test_heavy_packages_are_imported_only_when_needed() -> None:
    code = """
import sys, apical.data
apical.data.names()
print(*(name for name in ("pooch", "requests", "sklearn", "rich", "pandas") if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# ---------------------------------------------------------------- the real data


def real_folder(root: Path, name: str) -> Path:
    folder = SETS[name].find(root)
    if folder is None:
        pytest.skip(f"{root} has no {SETS[name].folder}")
    return folder


@pytest.mark.parametrize(
    ("name", "per_class", "mean", "std"),
    [
        ("mnist", [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949], [0.1307], [0.3081]),
        ("fashion-mnist", [6000] * 10, [0.2860], [0.3530]),
        ("cifar10", [5000] * 10, [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
    ],
)
def test_the_real_sets_have_their_published_statistics(
    real_root: Path, name: str, per_class: list[int], mean: list[float], std: list[float]
) -> None:
    real_folder(real_root, name)
    task = load(name, root=real_root, download=False)
    assert torch.bincount(task.train.y).tolist() == per_class
    assert torch.bincount(task.test.y, minlength=10).sum() == len(task.test) == 10000
    assert task.scaling is not None
    np.testing.assert_allclose(task.scaling.mean.ravel() / 255, mean, atol=1e-4)
    np.testing.assert_allclose(task.scaling.std.ravel() / 255, std, atol=1e-4)
    axes = (0, 2, 3)
    np.testing.assert_allclose(task.train.x.mean(axes), 0, atol=1e-4)
    np.testing.assert_allclose(task.train.x.std(axes, correction=0), 1, atol=1e-4)
    assert task.train.x.is_contiguous()
