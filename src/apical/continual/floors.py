"""Floors: learners of one pass that store no examples, and that every method against forgetting has to exceed.

They learn by `partial_fit(x, y)`, in any number of calls, and answer by `predict(x)`, as in scikit-learn. None of them
depends on the order of tasks in a way that matters, since class means and covariances are sums over examples.
"""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from apical.data import Examples
from apical.errors import ConfigError, DataError
from apical.finiteness import finite
from apical.optim.consolidation.protection import bytes_of

_ROWS = 4096  # examples whose deviations are in memory at once


class NearestClassMean:
    """The class whose mean is nearest, by Euclidean distance.

        μ_k = mean of the examples of class k                predict(x) = argmin_k |x - μ_k|²

    Example:
        >>> import apical
        >>> floor = apical.continual.NearestClassMean()
        >>> for task in apical.continual.split("digits"):
        ...     _ = floor.partial_fit(task.train.x, task.train.y)
        >>> floor
        NearestClassMean(10 classes, 64 features)

    Attributes:
        classes: the labels seen, in the order in which they came.
        means: (classes, features), float64, in that order; `counts` has the number of examples of each.
    """

    def __init__(self) -> None:
        self.classes: list[int] = []
        self.counts = torch.zeros(0, dtype=torch.float64)
        self.means = torch.zeros(0, 0, dtype=torch.float64)

    def partial_fit(self, x: Tensor, y: Tensor) -> Self:
        """Learn from further examples.

        Args:
            x: (n, ...), floating point; what follows the first axis is flattened to features.
            y: (n,), int64, labels; new ones may come at any time.

        Raises:
            DataError: x or y has another shape or type, x has another number of features than before, or holds NaN or
                infinity.
        """
        rows = self._rows(Examples(x, y).x)
        for label in sorted(set(y.tolist()) - set(self.classes)):
            self._open(label, rows)
        places = {label: place for place, label in enumerate(self.classes)}
        owner = torch.tensor([places[label] for label in y.tolist()], dtype=torch.int64, device=rows.device)
        for start in range(0, len(rows), _ROWS):
            self._learn(rows[start : start + _ROWS], owner[start : start + _ROWS])
        return self

    def predict(self, x: Tensor, *, among: Sequence[int] | None = None) -> Tensor:
        """The labels of examples: (n, ...) to (n,), int64.

        Args:
            x: the examples.
            among: the labels to choose from, where they are known to be of one task; all by default. If none of them
                was seen, the first of them.

        Raises:
            DataError: nothing was learned yet, or x is not as in `partial_fit`.
        """
        scores = self.scores(x)
        places = [place for place, label in enumerate(self.classes) if among is None or label in among]
        labels = torch.tensor([self.classes[place] for place in places] or among, device=scores.device)
        return labels[scores[:, places].argmax(1) if places else scores.new_zeros(len(scores), dtype=torch.int64)]

    @property
    def kept_bytes(self) -> int:
        """What it keeps of the examples, in bytes."""
        return bytes_of([self.counts, self.means])

    def scores(self, x: Tensor) -> Tensor:
        """For each class, in the order of `classes`, how likely it is, but for a constant: (n, classes), float64."""
        if not self.classes:
            raise DataError(f"{type(self).__name__}: no example was learned yet. Call partial_fit(x, y) first.")
        weight = self._weight()
        return self._rows(x).double() @ weight.T - (weight * self.means).sum(1) / 2

    def _weight(self) -> Tensor:
        """The class means as a linear classifier's weights, (classes, features)."""
        return self.means

    def _learn(self, rows: Tensor, owner: Tensor) -> None:
        self._deviations(rows.double(), owner)

    def _deviations(self, rows: Tensor, owner: Tensor) -> Tensor:
        """Each row's deviation from the mean of its class before that row; the means then include all rows.

        The first example of a class deviates by 0: it is its mean.
        """
        deviations = torch.zeros_like(rows)
        for place in set(owner.tolist()):
            mine = (owner == place).nonzero().squeeze(1)
            own, count, mean = rows[mine], self.counts[place], self.means[place]
            counts = count + torch.arange(1, len(own) + 1, device=own.device, dtype=own.dtype)
            after = mean + (own - mean).cumsum(0) / counts[:, None]
            first = mean if count else own[0]
            deviations[mine] = own - torch.cat([first[None], after[:-1]])
            self.means[place], self.counts[place] = after[-1], counts[-1]
        return deviations

    def _open(self, label: int, rows: Tensor) -> None:
        """A place for a class that was not seen before."""
        zero = torch.zeros(1, rows.shape[1], dtype=torch.float64, device=rows.device)
        self.means = torch.cat([self.means, zero]) if self.classes else zero
        self.counts = torch.cat([self.counts.to(zero), zero[:, 0]])
        self.classes.append(label)

    def _rows(self, x: Tensor) -> Tensor:
        return _rows(type(self).__name__, x, self.means.shape[1] if self.classes else None)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.classes)} classes, {self.means.shape[1]} features)"


class StreamingLDA(NearestClassMean):
    """Linear discriminant analysis with one covariance, kept up to date sample by sample.

    For sample t (from 0) with features z and class y, of which c_y samples came before:

        Δ_t = t / (t + 1) · (z - μ_y)(z - μ_y)ᵀ
        Σ ← (t Σ + Δ_t) / (t + 1)
        μ_y ← (c_y μ_y + z) / (c_y + 1)

        Λ = [(1 - ε) Σ + ε I]⁻¹
        predict(z) = argmax_k  (Λ μ_k) · z - ½ μ_k · Λ μ_k

    `partial_fit` computes these sums in blocks: its result is that of the samples one by one, however they are cut into
    calls. The first sample of a class becomes its mean and has no part in Σ, since no mean exists before it. Products
    are computed in the type of the inputs, sums in float64.

    Args:
        shrinkage: ε, above 0 and at most 1. With 1 this is `NearestClassMean`.

    Raises:
        ConfigError: the shrinkage is out of range.

    Attributes:
        covariance: Σ, (features, features), float64.

    Source:
        T. L. Hayes and C. Kanan (2020), Lifelong Machine Learning with Deep Streaming Linear Discriminant Analysis.
    """

    def __init__(self, shrinkage: float = 1e-4) -> None:
        super().__init__()
        if not 0 < shrinkage <= 1:
            raise ConfigError(f"StreamingLDA: shrinkage={shrinkage!r} must be above 0 and at most 1.")
        self.shrinkage = shrinkage
        self._seen = 0
        self._scatter = torch.zeros(0, 0, dtype=torch.float64)  # t Σ
        self._solved: Tensor | None = None

    @property
    def kept_bytes(self) -> int:
        """What it keeps of the examples, in bytes: the means and the covariance."""
        return super().kept_bytes + bytes_of(self._scatter)

    @property
    def covariance(self) -> Tensor:
        """Σ, (features, features)."""
        return self._scatter / max(self._seen, 1)

    def _learn(self, rows: Tensor, owner: Tensor) -> None:
        if not self._seen:
            self._scatter = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64, device=rows.device)
        t = self._seen + torch.arange(len(rows), device=rows.device, dtype=torch.float64)
        weighted = self._deviations(rows.double(), owner) * (t / (t + 1)).sqrt()[:, None]
        weighted = weighted.to(rows.dtype)
        self._scatter += weighted.T @ weighted
        self._seen += len(rows)
        self._solved = None

    def _weight(self) -> Tensor:
        if self._solved is None:
            shrunk = (1 - self.shrinkage) * self.covariance
            shrunk.diagonal().add_(self.shrinkage)
            self._solved = torch.linalg.solve(shrunk, self.means.T).T
        return self._solved


class RandomFeatures:
    """A floor on random features: a hidden layer of rectifiers that never learns.

        z = relu(W x),   W ~ N(0, 1 / inputs), drawn once from the seed

    Args:
        floor: what learns from the features, `StreamingLDA()` or `NearestClassMean()`.
        features: how many.
        seed: of W.

    Raises:
        ConfigError: the number of features is below 1.

    Example:
        >>> import apical
        >>> apical.continual.RandomFeatures(apical.continual.StreamingLDA(), features=1000)
        RandomFeatures(StreamingLDA(0 classes, 0 features), features=1000, seed=0)
    """

    def __init__(self, floor: NearestClassMean, features: int = 1000, seed: int = 0) -> None:
        if features < 1:
            raise ConfigError(f"RandomFeatures: features={features!r} must be at least 1.")
        self.floor, self.features, self.seed = floor, features, seed
        self._weights: Tensor | None = None

    def transform(self, x: Tensor) -> Tensor:
        """The features of examples: (n, ...) to (n, features)."""
        rows = _rows("RandomFeatures", x, None if self._weights is None else len(self._weights))
        if self._weights is None:
            generator = torch.Generator().manual_seed(self.seed)
            self._weights = torch.randn(rows.shape[1], self.features, generator=generator) / rows.shape[1] ** 0.5
        return (rows @ self._weights.to(rows)).relu()

    def partial_fit(self, x: Tensor, y: Tensor) -> Self:
        """Learn from further examples, as the floor does."""
        self.floor.partial_fit(self.transform(x), y)
        return self

    def predict(self, x: Tensor, *, among: Sequence[int] | None = None) -> Tensor:
        """The labels of examples, as the floor's: (n, ...) to (n,), int64."""
        return self.floor.predict(self.transform(x), among=among)

    @property
    def kept_bytes(self) -> int:
        """What the floor keeps of the examples, in bytes; W is drawn from the seed."""
        return self.floor.kept_bytes

    def __repr__(self) -> str:
        return f"RandomFeatures({self.floor}, features={self.features}, seed={self.seed})"


def _rows(what: str, x: Tensor, features: int | None) -> Tensor:
    """Examples as rows of features, checked: (n, ...) to (n, features)."""
    if x.ndim < 2 or not x.is_floating_point():
        raise DataError(
            f"{what}: x is {tuple(x.shape)} of {x.dtype}, and (n, ...) in floating point is needed. Convert it with "
            "x.float(), and give a single example a batch axis: x[None]."
        )
    rows = x.detach().flatten(1)
    if features is not None and rows.shape[1] != features:
        raise DataError(f"{what}: x has {rows.shape[1]} features, and {features} were learned. Pass one shape.")
    if not finite(rows):
        raise DataError(f"{what}: x has values that are NaN or infinite. Replace them, or leave the examples out.")
    return rows
