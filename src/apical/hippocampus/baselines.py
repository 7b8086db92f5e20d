"""Baselines that take two lines: non-negative factors, principal components, the nearest neighbour.

Each has `fit(x)`, `transform(x)` for codes, `recall(cue)` for completed inputs and `score_samples(x)`, minus the
mismatch, so that a loop and a baseline can be exchanged. In a cue, lost entries are 0.
"""

from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from apical.errors import ConfigError, DataError
from apical.finiteness import finite

_TINY = 1e-9


class _Baseline:
    """What baselines have in common: checks, and mismatch from recall."""

    features: int | None = None

    def fit(self, x: Tensor) -> Self:
        """Learn from samples, (n, features)."""
        raise NotImplementedError

    def recall(self, cue: Tensor) -> Tensor:
        """Inputs completed from cues: (n, features) to the same shape."""
        raise NotImplementedError

    def score_samples(self, x: Tensor) -> Tensor:
        """Minus the mean squared mismatch of each sample with its recall: (n, features) to (n,)."""
        return -(x - self.recall(x)).square().mean(1)

    def _check(self, x: Tensor, *, fitting: bool = False) -> Tensor:
        name = type(self).__name__
        if x.ndim != 2 or not x.is_floating_point() or not len(x):
            raise DataError(f"{name}: x is {tuple(x.shape)} of {x.dtype}. Pass (n, features) in floating point, n > 0.")
        if not finite(x):
            raise DataError(f"{name}: x holds NaN or infinity. Replace them, or leave the samples out.")
        if fitting:
            self.features = x.shape[1]
        elif self.features is None:
            raise DataError(f"{name}: it is not fitted. Call fit(x) first.")
        elif self.features != x.shape[1]:
            raise DataError(f"{name}: x has {x.shape[1]} features, and {self.features} were fitted. Pass one shape.")
        return x


class NMF(_Baseline):
    """Non-negative factors, with `sparsity` above 0 non-negative sparse coding.

        min |X - H W|² / 2 + λ Σ H,   H, W ≥ 0,   rows of W of norm 1
        H ← H ∘ X Wᵀ / (H W Wᵀ + λ)
        W ← W ∘ (Hᵀ X + W ∘ s(Hᵀ H W)) / (Hᵀ H W + W ∘ s(Hᵀ X)),   s(V) = row sums of W ∘ V

    The second term of each bracket holds the norm (Eggert and Körner 2004), so that λ cannot be evaded by large W. The
    number of steps is fixed.

    Args:
        units: how many factors.
        sparsity: λ, times the mean of x.
        steps: of both updates in `fit`, and of the first one in `transform`.
        seed: of the first W and H, which are uniform.

    Raises:
        ConfigError: `units` or `steps` is below 1, or `sparsity` below 0.

    Example:
        >>> import torch
        >>> from apical.hippocampus import NMF
        >>> x = torch.rand(50, 20)
        >>> NMF(10).fit(x).transform(x).shape
        torch.Size([50, 10])

    Source:
        D. D. Lee and H. S. Seung (2001), Algorithms for non-negative matrix factorization; P. O. Hoyer (2002),
        Non-negative sparse coding. Y. Lian and A. N. Burkitt (2021) obtain place cells from grid cells in this way.
    """

    def __init__(self, units: int, *, sparsity: float = 0.0, steps: int = 200, seed: int = 0) -> None:
        if units < 1 or steps < 1 or not sparsity >= 0:
            raise ConfigError(f"NMF: units={units!r}, steps={steps!r}, sparsity={sparsity!r}. Pass 1, 1 and 0 or more.")
        self.units, self.sparsity, self.steps, self.seed = units, sparsity, steps, seed
        self.components = torch.zeros(0)

    def fit(self, x: Tensor) -> Self:
        """Find the factors of samples: (n, features), at least 0.

        Raises:
            DataError: x is not of this shape, not finite, or has a value below 0.
        """
        x = self._check(x, fitting=True)
        generator = torch.Generator().manual_seed(self.seed)
        w = torch.rand(self.units, x.shape[1], generator=generator).to(x)
        self.penalty = self.sparsity * float(x.mean())
        self.components = F.normalize(w, dim=1)
        h = self._start(x)
        for _ in range(self.steps):
            h = self._code(x @ self.components.T, h)
            w, up, down = self.components, h.T @ x, (h.T @ h) @ self.components
            norm_up, norm_down = (w * down).sum(1, keepdim=True), (w * up).sum(1, keepdim=True)
            self.components = F.normalize(w * (up + w * norm_up) / (down + w * norm_down + _TINY), dim=1)
        return self

    def transform(self, x: Tensor) -> Tensor:
        """The strengths H of the factors: (n, features) to (n, units).

        Raises:
            DataError: x is not as in `fit`, or nothing was fitted.
        """
        x = self._check(x)
        h, drive = self._start(x), x @ self.components.T
        for _ in range(self.steps):
            h = self._code(drive, h)
        return h

    def recall(self, cue: Tensor) -> Tensor:
        """Inputs completed from cues, H W: (n, features) to the same shape."""
        return self.transform(cue) @ self.components

    def _start(self, x: Tensor) -> Tensor:
        h = torch.rand(len(x), self.units, generator=torch.Generator().manual_seed(self.seed + 1))
        return h.to(x) * x.mean() + _TINY

    def _code(self, drive: Tensor, h: Tensor) -> Tensor:
        h = h * drive / (h @ (self.components @ self.components.T) + self.penalty + _TINY)
        return F.threshold(h, 1e-12, 0.0)  # products of many small factors would become slow subnormal numbers

    def _check(self, x: Tensor, *, fitting: bool = False) -> Tensor:
        if (super()._check(x, fitting=fitting) < 0).any():
            raise DataError("NMF: x has values below 0. Pass rates of at least 0.")
        return x


class PCA(_Baseline):
    """Principal components, by singular values.

        codes = (x - μ) Vᵀ,   recall = codes V + μ

    Args:
        units: how many components.

    Raises:
        ConfigError: `units` is below 1.
    """

    def __init__(self, units: int) -> None:
        if units < 1:
            raise ConfigError(f"PCA: units={units!r} is below 1. Pass 1 or more.")
        self.units = units

    def fit(self, x: Tensor) -> Self:
        """Find the components of samples, (n, features).

        Raises:
            DataError: x is not of this shape, not finite, or has fewer samples or features than components.
        """
        x = self._check(x, fitting=True)
        if self.units > min(x.shape):
            raise DataError(f"PCA: x, {tuple(x.shape)}, has fewer samples or features than {self.units} components.")
        self.mean = x.mean(0)
        self.components = torch.linalg.svd(x - self.mean, full_matrices=False)[2][: self.units]
        return self

    def transform(self, x: Tensor) -> Tensor:
        """Codes: (n, features) to (n, units)."""
        codes: Tensor = (self._check(x) - self.mean) @ self.components.T
        return codes

    def recall(self, cue: Tensor) -> Tensor:
        """The projection of cues onto the components: (n, features) to the same shape."""
        recalled: Tensor = self.transform(cue) @ self.components + self.mean
        return recalled


class NearestNeighbour(_Baseline):
    """The sample that was stored and is nearest, by Euclidean distance over the entries of the cue that are not 0."""

    def fit(self, x: Tensor) -> Self:
        """Store samples, (n, features).

        Raises:
            DataError: x is not of this shape, or not finite.
        """
        self.stored = self._check(x, fitting=True)
        return self

    def transform(self, x: Tensor) -> Tensor:
        """The index of the nearest sample, one-hot: (n, features) to (n, stored)."""
        return F.one_hot(self._nearest(self._check(x)), len(self.stored)).to(x)

    def recall(self, cue: Tensor) -> Tensor:
        """The nearest samples: (n, features) to the same shape."""
        return self.stored[self._nearest(self._check(cue))]

    def _nearest(self, cue: Tensor) -> Tensor:
        # Σ over known entries of (c - s)² is c² - 2 c s + s², and c s has no unknown entry since c is 0 there.
        return ((cue != 0).to(cue) @ self.stored.square().T - 2 * cue @ self.stored.T).argmin(1)

    def score_samples(self, x: Tensor) -> Tensor:
        """Minus the mean squared distance to the nearest sample: (n, features) to (n,)."""
        nearest = torch.cdist(self._check(x), self.stored).amin(1)
        return -nearest.square() / x.shape[1]
