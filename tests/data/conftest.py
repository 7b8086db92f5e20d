import dataclasses
import gzip
import hashlib
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from data_samples import Mirror, cifar_batch, tar_gz, tiny_idx_members

from apical.data.downloads import RemoteFile
from apical.data.standard import CIFAR10, MNIST, StandardSet


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    mirror = Mirror()
    yield mirror
    mirror.close()


@pytest.fixture
def real_root() -> Path:
    """The folder of the real standard files, for the tests that need one of them."""
    named = os.environ.get("APICAL_DATA")
    if not named:
        pytest.skip("APICAL_DATA does not name a folder with the real data")
    return Path(named)


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No APICAL_DATA, and an empty user's cache: the folder that it is below."""
    monkeypatch.delenv("APICAL_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def tiny_mnist(mirror: Mirror) -> StandardSet:
    """A set of 30 pictures in MNIST's layout, offered by the mirror."""
    members = tiny_idx_members(np.random.default_rng(0))
    mirror.files = {f"{name}.gz": gzip.compress(content) for name, content in members.items()}
    remote = tuple(
        RemoteFile(f"{name}.gz", 100, "sha256:" + hashlib.sha256(content).hexdigest(), of_content=True)
        for name, content in members.items()
    )
    return dataclasses.replace(MNIST, remote=remote, mirrors=(mirror.url,))


@pytest.fixture
def tiny_cifar10(mirror: Mirror) -> StandardSet:
    """A set of 60 pictures in CIFAR-10's layout, offered by the mirror as one archive."""
    generator = np.random.default_rng(0)
    files = {
        f"cifar-10-batches-py/{name}": pickle.dumps(cifar_batch(generator), protocol=2)
        for name in (*CIFAR10.members, "batches.meta")
    }
    archive = tar_gz({**files, "../escaped": b"an archive may name any path"})
    mirror.files = {"cifar-10-python.tar.gz": archive}
    remote = RemoteFile("cifar-10-python.tar.gz", len(archive), "md5:" + hashlib.md5(archive).hexdigest())
    return dataclasses.replace(CIFAR10, remote=(remote,), mirrors=(mirror.url,))


@pytest.fixture
def write_npz(tmp_path: Path) -> Callable[..., Path]:
    def write(**arrays: object) -> Path:
        path = tmp_path / "own.npz"
        np.savez(path, **arrays)
        return path

    return write
