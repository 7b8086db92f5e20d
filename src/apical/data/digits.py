"""The 8x8 handwritten digits that come with scikit-learn: real data with no download."""

import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt

from apical.data.arrays import Arrays
from apical.errors import DataError

SOURCE = "Optical Recognition of Handwritten Digits (Alpaydin and Kaynak, 1998), as embedded in scikit-learn"
LICENCE = "CC BY 4.0"

_EVERY = 5


def folder() -> Path | None:
    """Where scikit-learn lies, or None where it is not installed; it is not imported for that."""
    spec = importlib.util.find_spec("sklearn")
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def read_digits() -> Arrays:
    """1,797 pictures, (1, 8, 8), values 0 to 16, cut into 1,442 for training and 355 for testing.

    scikit-learn has no test part of its own. Here it is every fifth picture of each class, in the order of
    the file: a rule rather than a draw, so that the parts are the same everywhere and for good.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            f"digits: they are read from scikit-learn, which cannot be imported ({error}). "
            "Install it: pip install scikit-learn."
        ) from error
    pictures, labels = load_digits(return_X_y=True)
    x = pictures.astype(np.uint8).reshape(-1, 1, 8, 8)
    y = labels.astype(np.int64)
    test = _every_fifth_of_its_class(y)
    return Arrays(x[~test], y[~test], x[test], y[test], classes=10)


def _every_fifth_of_its_class(y: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    chosen = np.zeros(len(y), dtype=np.bool_)
    for label in np.unique(y):
        chosen[np.flatnonzero(y == label)[_EVERY - 1 :: _EVERY]] = True
    return chosen
