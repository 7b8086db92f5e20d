"""The standard sets: which files they are, where they lie, how they are fetched and read."""

import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from apical.data.arrays import Arrays
from apical.data.cifar import read_batch
from apical.data.downloads import RemoteFile, download
from apical.data.idx import read_idx
from apical.errors import DataError

ENVIRONMENT_VARIABLE = "APICAL_DATA"


def roots(root: Path | None) -> Iterator[Path]:
    """Where standard files are looked for: under `root`, or else `APICAL_DATA` and the user's cache."""
    if root is not None:
        yield Path(root).expanduser()
        return
    if named := os.environ.get(ENVIRONMENT_VARIABLE):
        yield Path(named).expanduser()
    import pooch

    yield Path(pooch.os_cache("apical"))


@dataclass(frozen=True)
class StandardSet:
    """A well-known set in its standard layout.

    Attributes:
        name: of the task.
        folder: of its files, relative to a root.
        members: names of the files that are read; idx files may also be there with the ending `.gz`.
        remote: what a download brings: each member gzipped, or one archive of them all.
        mirrors: addresses of the folders that have the remote files.
        read: from the folder to the arrays.
        source: where the set comes from.
        licence: as its authors state it.
    """

    name: str
    folder: str
    members: tuple[str, ...]
    remote: tuple[RemoteFile, ...]
    mirrors: tuple[str, ...]
    read: Callable[[Path], Arrays]
    source: str
    licence: str

    def check(self, folder: Path) -> None:
        """Compare the idx files with the checksums that are known; those of an archive's members are not.

        Raises:
            DataError: a file is not the set's.
        """
        for remote in (remote for remote in self.remote if remote.of_content):
            path = _member(folder, remote.name.removesuffix(".gz"))
            if reason := remote.mismatch(path):
                owner = next((each.name for each in SETS.values() if each._has(remote.name, path)), "")
                raise DataError(
                    f"{path}: is not {self.name}'s file: {f'it is that of {owner}' if owner else reason}. Delete the "
                    "file (it is then downloaded again), or load your own data with npz:PATH."
                )

    def _has(self, name: str, path: Path) -> bool:
        """Whether a file has the content of the set's remote file of this name."""
        return any(remote.name == name and remote.mismatch(path) is None for remote in self.remote)

    def find(self, root: Path | None) -> Path | None:
        """The folder with all members, or None."""
        folders = (place / self.folder for place in roots(root))
        return next((folder for folder in folders if not self._missing(folder)), None)

    def fetch_bytes(self, root: Path | None) -> int:
        """Bytes that `fetch` would download."""
        if self.find(root) is not None:
            return 0
        target = _target(root)
        return sum(
            remote.size
            for remote in self._wanted(target)
            if not (_is_archive(remote) and (target / remote.name).exists())
        )

    def fetch(self, root: Path | None, *, mirrors: Sequence[str] | None, progress: bool) -> Path:
        """Download what is missing, if anything, and return the folder with all members.

        Raises:
            DataError: see `apical.data.downloads.download`; or the archive that lies there is a wrong one.
        """
        if (found := self.find(root)) is not None:
            return found
        target = _target(root)
        folder = target / self.folder
        mirrors = self.mirrors if mirrors is None else mirrors
        for remote in self._wanted(target):
            if _is_archive(remote):
                self._fetch_archive(remote, target, mirrors, progress)
            else:
                self._download(remote, folder, target, mirrors, progress)
        return folder

    def remedy(self, root: Path | None) -> str:
        """How to bring the files by hand, as the rest of a sentence."""
        target = _target(root)
        files = ", ".join(remote.name for remote in self.remote)
        place = target if _is_archive(self.remote[0]) else target / self.folder
        return (
            f"or put {files} into {place} by hand, or let {ENVIRONMENT_VARIABLE} name a folder that has {self.folder}/."
        )

    def _missing(self, folder: Path) -> list[str]:
        return [name for name in self.members if not _member(folder, name).is_file()]

    def _wanted(self, target: Path) -> list[RemoteFile]:
        missing = self._missing(target / self.folder)
        if not missing:
            return []
        return [r for r in self.remote if _is_archive(r) or r.name.removesuffix(".gz") in missing]

    def _download(self, remote: RemoteFile, folder: Path, target: Path, mirrors: Sequence[str], progress: bool) -> Path:
        remedy = f"Try again, {self.remedy(target)}"
        return download(remote, folder, mirrors=mirrors, progress=progress, remedy=remedy)

    def _fetch_archive(self, remote: RemoteFile, target: Path, mirrors: Sequence[str], progress: bool) -> None:
        by_hand = target / remote.name
        try:
            if by_hand.exists() and (reason := remote.mismatch(by_hand)):
                raise DataError(
                    f"{by_hand}: {reason}. Delete it, to have it downloaded, or replace it by a sound copy."
                )
            target.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".apical-", dir=target) as name:
                scratch = Path(name)
                archive = by_hand if by_hand.exists() else self._download(remote, scratch, target, mirrors, progress)
                self._unpack(archive, scratch, target / self.folder)
        except OSError as error:
            raise DataError(
                f"{target}: cannot be used ({error.strerror or error}). Make it writable, {self.remedy(target)}"
            ) from error

    def _unpack(self, archive: Path, scratch: Path, folder: Path) -> None:
        """Unpack the members, and only them, whole, before the first gets its name in `folder`."""
        with tarfile.open(archive) as tar:
            for name in self.members:
                content = tar.extractfile(f"{self.folder}/{name}")
                assert content is not None  # the checksum vouches for the archive's table of contents
                with content, (scratch / name).open("wb") as file:
                    shutil.copyfileobj(content, file)
        folder.mkdir(exist_ok=True)
        for name in self.members:
            (scratch / name).replace(folder / name)


def _is_archive(remote: RemoteFile) -> bool:
    return remote.name.endswith(".tar.gz")


def _member(folder: Path, name: str) -> Path:
    plain = folder / name
    return plain if plain.is_file() else folder / f"{name}.gz"


def _target(root: Path | None) -> Path:
    """Where downloads go: the first root, unless it cannot be written and there is another."""
    places = list(roots(root))
    return next((place for place in places if _writable(place)), places[-1])


def _writable(folder: Path) -> bool:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return existing.is_dir() and os.access(existing, os.W_OK)


def _read_idx_set(folder: Path) -> Arrays:
    return Arrays(*_read_idx_pair(folder, "train"), *_read_idx_pair(folder, "t10k"), classes=10)


def _read_idx_pair(folder: Path, part: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    images_path = _member(folder, f"{part}-images-idx3-ubyte")
    labels_path = _member(folder, f"{part}-labels-idx1-ubyte")
    images, labels = read_idx(images_path), read_idx(labels_path)
    remedy = "Delete it (it is then downloaded again) or replace it by a sound copy."
    if images.dtype != np.uint8 or images.ndim != 3 or images.size == 0:
        raise DataError(
            f"{images_path}: holds {images.shape} of {images.dtype}, wanted are pictures, (n, height, width) "
            f"of uint8. {remedy}"
        )
    if labels.dtype != np.uint8 or labels.ndim != 1 or labels.max(initial=0) > 9:
        raise DataError(f"{labels_path}: holds no labels from 0 to 9, (n,) of uint8. {remedy}")
    if len(images) != len(labels):
        raise DataError(
            f"{labels_path}: has {len(labels)} labels, but {images_path.name} has {len(images)} pictures, so "
            "one of the two is of another set. Delete both (they are then downloaded again) or replace them."
        )
    return images[:, None], labels.astype(np.int64)


def _read_cifar10(folder: Path) -> Arrays:
    parts = [read_batch(folder / f"data_batch_{number}") for number in range(1, 6)]
    x_train, y_train = np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])
    x_test, y_test = read_batch(folder / "test_batch")
    if max(y_train.max(), y_test.max()) > 9 or min(y_train.min(), y_test.min()) < 0:
        raise DataError(
            f"{folder}: has labels beyond 0 to 9, so it is not CIFAR-10. "
            "Delete the folder (the set is then downloaded again) or replace it by a sound copy."
        )
    return Arrays(x_train, y_train, x_test, y_test, classes=10)


# The files of MNIST and its relatives.
_IDX_MEMBERS = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def _idx_set(name: str, folder: str, *files: tuple[int, str], mirror: str, source: str, licence: str) -> StandardSet:
    """A set in MNIST's form; `files` gives the size of each gzip file and the SHA-256 of the idx file in it."""
    remote = (
        RemoteFile(f"{member}.gz", size, f"sha256:{digest}", of_content=True)
        for member, (size, digest) in zip(_IDX_MEMBERS, files, strict=True)
    )
    return StandardSet(name, folder, _IDX_MEMBERS, tuple(remote), (mirror,), _read_idx_set, source, licence)


MNIST = _idx_set(
    "mnist",
    "MNIST/raw",
    (9912422, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    (28881, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    (1648877, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    (4542, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
    mirror="https://ossci-datasets.s3.amazonaws.com/mnist",
    source="MNIST (LeCun, Cortes and Burges, 1998)",
    licence="CC BY-SA 3.0, as usually given",
)

FASHION_MNIST = _idx_set(
    "fashion-mnist",
    "FashionMNIST/raw",
    (26421880, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
    (29515, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    (4422102, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
    (5148, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
    mirror="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    source="Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017)",
    licence="MIT",
)

CIFAR10 = StandardSet(
    name="cifar10",
    folder="cifar-10-batches-py",
    members=(*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"),
    remote=(RemoteFile("cifar-10-python.tar.gz", 170498071, "md5:c58f30108f718f92721af3b95e74349a"),),
    mirrors=("https://www.cs.toronto.edu/~kriz",),
    read=_read_cifar10,
    source="CIFAR-10 (Krizhevsky, 2009)",
    licence="none stated; cite Krizhevsky (2009), Learning Multiple Layers of Features from Tiny Images",
)

SETS: Mapping[str, StandardSet] = {each.name: each for each in (MNIST, FASHION_MNIST, CIFAR10)}
