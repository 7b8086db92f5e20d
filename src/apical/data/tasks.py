"""Tasks by name: what there is, where it lies, fetching and loading it."""

import difflib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from apical.data import digits
from apical.data.arrays import Arrays, read_npz
from apical.data.examples import Examples, Task
from apical.data.scaling import Scaling
from apical.data.standard import SETS, StandardSet, roots
from apical.errors import DataError

_DIGITS = "digits"
_NPZ = "npz:"
_FAR, _ENOUGH = 20.0, 10  # of a deviation from 1, in either direction; the fewest examples that have one


@dataclass(frozen=True)
class TaskStatus:
    """Whether a task's files are on this machine.

    Attributes:
        name: of the task.
        found: the folder that has them, or None.
        fetch_bytes: what would be downloaded (0 where nothing needs to be).
        source: where the data come from.
        licence: as their authors state it.
    """

    name: str
    found: Path | None
    fetch_bytes: int
    source: str
    licence: str


def names() -> list[str]:
    """The tasks that `load` knows by name; a user's own arrays are `npz:PATH` besides."""
    return [_DIGITS, *SETS]


def status(*, root: Path | None = None) -> list[TaskStatus]:
    """Every named task: where its files are and what a download would take. Nothing is read or fetched."""
    embedded = TaskStatus(_DIGITS, digits.folder(), 0, digits.SOURCE, digits.LICENCE)
    standard = (
        TaskStatus(name, each.find(root), each.fetch_bytes(root), each.source, each.licence)
        for name, each in SETS.items()
    )
    return [embedded, *standard]


def fetch(name: str, *, root: Path | None = None, progress: bool = True, mirrors: Sequence[str] | None = None) -> Path:
    """Make sure that a task's files are on this machine, and say where.

    They are looked for under `root`; without one under the environment variable `APICAL_DATA`, then in the
    user's cache. What is missing is downloaded, to the first of these places that can be written, and gets
    its name only once its checksum is right.

    Args:
        name: a task's name, as for `load`.
        root: the folder that has, or is to have, the standard layout (`MNIST/raw/`, ...).
        progress: show a bar on standard error.
        mirrors: addresses to download from in place of the official ones.

    Returns:
        The folder of the files (of `npz:PATH`, the file).

    Raises:
        DataError: there is no such task or file, or the download failed; the message says why and what to do.
    """
    if (path := _npz_path(name)) is not None:
        if not path.is_file():
            raise DataError(f"{path}: there is no such file. Your own arrays cannot be fetched, check the path.")
        return path
    if name == _DIGITS:
        if (folder := digits.folder()) is None:
            raise DataError("digits: they come with scikit-learn. Install it: pip install scikit-learn.")
        return folder
    return _standard(name).fetch(root, mirrors=mirrors, progress=progress)


def load(
    name: str,
    *,
    root: Path | None = None,
    download: bool = True,
    progress: bool = True,
    mirrors: Sequence[str] | None = None,
    scaling: Scaling | None = None,
    parts: bool = False,
) -> Task:
    """Load a task whole into memory, downloading it first where it is missing.

    | name | train / test | one example | from |
    |---|---|---|---|
    | `digits` | 1,442 / 355 | (1, 8, 8) | scikit-learn; every fifth picture of each class is a test picture |
    | `mnist` | 60,000 / 10,000 | (1, 28, 28) | `MNIST/raw/*-ubyte`, or the same with `.gz` |
    | `fashion-mnist` | 60,000 / 10,000 | (1, 28, 28) | `FashionMNIST/raw/*-ubyte`, or the same with `.gz` |
    | `cifar10` | 50,000 / 10,000 | (3, 32, 32) | `cifar-10-batches-py/` |
    | `npz:PATH` | as in the file | as in the file | see `apical.data.arrays` |

    Inputs are float32 and standardised with the training part's statistics; see `Task`.

    Args:
        name: one of the above.
        root: where standard files lie; by default `APICAL_DATA`, then the user's cache (see `fetch`).
        download: fetch what is missing. If not, missing files are an error.
        progress: show a bar on standard error while downloading.
        mirrors: addresses to download from in place of the official ones.
        scaling: use these statistics instead of the task's own. With `other.scaling`, a network that was
            trained on the task `other` is tested on this one. An npz file then needs no training part (which
            stays empty), and a pair x, y in it is all test part.
        parts: cut such a pair into a training and a test part all the same.

    Raises:
        DataError: there is no such task, or its files are missing, damaged or not of the form they should be.
    """
    if (path := _npz_path(name)) is not None:
        arrays = read_npz(path, only_to_test=scaling is not None and not parts)
        task = _task(name, arrays, f"{path} (your own)", "your own", scaling)
        _compare_scales(task)
        return task
    if name == _DIGITS:
        return _task(name, digits.read_digits(), digits.SOURCE, digits.LICENCE, scaling)
    standard = _standard(name)
    if (folder := standard.find(root)) is None:
        # An archive that was put there by hand needs no download, only unpacking.
        if not download and standard.fetch_bytes(root) > 0:
            places = " or ".join(str(place / standard.folder) for place in roots(root))
            raise DataError(f"{name}: its files are not in {places}. Allow the download, " + standard.remedy(root))
        folder = standard.fetch(root, mirrors=mirrors, progress=progress)
    arrays = standard.read(folder)
    standard.check(folder)
    return _task(name, arrays, standard.source, standard.licence, scaling)


def _task(name: str, arrays: Arrays, source: str, licence: str, scaling: Scaling | None) -> Task:
    train_name, test_name = f"{name}, training part", f"{name}, test part"
    scaling = scaling or Scaling.fit(arrays.x_train, what=train_name)
    test = Examples(scaling.apply(arrays.x_test, what=test_name), torch.from_numpy(arrays.y_test))
    train = Examples(scaling.apply(arrays.x_train, what=train_name), torch.from_numpy(arrays.y_train))
    return Task(name, train, test, arrays.classes, source, licence, scaling)


def _compare_scales(task: Task) -> None:
    """Warn of a test part whose standardised values are far from mean 0 and deviation 1."""
    x = task.test.x.double()
    mean, deviation = float(x.mean()), float(x.var(0, correction=0).mean().sqrt())
    if abs(mean) > _FAR or deviation > _FAR or (len(x) >= _ENOUGH and deviation < 1 / _FAR):
        warnings.warn(
            f"{task.name}: the test part is on another scale than the training part: by the training part's mean and "
            f"deviation it has the mean {mean:.3g} and the deviation {deviation:.3g}. Bring both to one scale.",
            stacklevel=3,
        )


def _npz_path(name: str) -> Path | None:
    if not name.startswith(_NPZ):
        return None
    path = name.removeprefix(_NPZ)
    if not path:
        raise DataError("npz: names no file. Write the path behind the colon: npz:arrays.npz.")
    return Path(path).expanduser()


def _standard(name: str) -> StandardSet:
    if name in SETS:
        return SETS[name]
    known = ", ".join([*names(), "npz:PATH"])
    if name.endswith(".npz"):
        suggestion = f" Did you mean {_NPZ}{name}?"
    else:
        spelled = name.strip().lower().replace("_", "-").replace(" ", "-")
        close = difflib.get_close_matches(spelled, names(), n=1)
        suggestion = f" Did you mean {close[0]}?" if close else ""
    raise DataError(f"there is no task '{name}'.{suggestion} There are: {known}.")
