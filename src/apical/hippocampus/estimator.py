"""The loop as an estimator with scikit-learn's conventions; it works without scikit-learn, too."""

from collections.abc import Mapping
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from apical.circuit import Circuit
from apical.errors import ConfigError
from apical.hippocampus.conventions import Array, Estimator, rule_of
from apical.hippocampus.loop import Areas, TrisynapticLoop
from apical.options import check_choice, check_positive
from apical.rules import LearningRule

_AT_ONCE = 4096  # samples of one evaluation
_RECTIFIED = ("relu", "softplus", "sigmoid")


class HippocampalLoop(Estimator):
    """Self-supervised learning, recall from incomplete cues and novelty, by the entorhinal-hippocampal loop.

    `fit` lets a `TrisynapticLoop` learn to return its input by a learning rule. `transform` then gives the rates of an
    area, `recall` the input that belongs to a cue, and `novelty` the mismatch between input and output.

    The default rule is counter-current inhibition: it is the mechanism that the loop is about, and on grid and cue
    cells it reconstructs as well as backpropagation and gives as many cells with one field
    (`python benchmarks/hippocampus.py fields`).

    Args:
        dentate: granule cells.
        ca3: cells of CA3.
        ca1: cells of CA1.
        area: whose rates `transform` returns: "dentate", "ca3", "ca1" or "deep".
        activation: as for `TrisynapticLoop`.
        sparsity: as for `TrisynapticLoop`.
        share: as for `TrisynapticLoop`.
        cost: as for `TrisynapticLoop`.
        homeostasis: as for `TrisynapticLoop`.
        readout: as for `TrisynapticLoop`.
        direct: as for `TrisynapticLoop`.
        rule: the name of a learning rule, or a rule with options, of which every fit makes a new one.
        epochs: passes over the samples.
        batch_size: samples in a step, at least 2; as many or more, so that none is left alone.
        learning_rate: of Adam.
        weight_decay: of Adam, decoupled; None: the rule's own (Kolen-Pollack feedback needs one).
        random_state: the seed of initial weights, feedback and order; None: another one each time.
        device: of torch.

    Attributes:
        circuit_: the loop and its rule, an `apical.Circuit`.
        loss_curve_: mean loss of every epoch.
        scale_: by which the input is divided: the largest absolute value of the first samples. 0 stays 0.
        mismatch_: mean squared mismatch of the samples that were learned last.
        n_features_in_: entorhinal cells.
        feature_names_in_: names of the features, where the input had some (with scikit-learn).

    Raises:
        ValueError: an input that is not two-dimensional, has NaN, infinity, fewer than two samples to learn from or
            another number of features than before; negative values for a read-out that is never negative.
        CircuitError: the rule needs a label or a reward.
        ConfigError: unknown options or options out of range.

    Example:
        >>> import numpy as np
        >>> from apical.hippocampus import HippocampalLoop
        >>> X = np.random.default_rng(0).random((64, 12))
        >>> loop = HippocampalLoop(dentate=40, ca3=20, ca1=20, epochs=5).fit(X)
        >>> loop.transform(X).shape, loop.recall(X * (X > 0.5)).shape, loop.novelty(X).shape
        ((64, 20), (64, 12), (64,))
    """

    def __init__(
        self,
        dentate: int = 1000,
        ca3: int = 200,
        ca1: int = 300,
        *,
        area: str = "ca3",
        activation: str = "relu",
        sparsity: str = "k_winners",
        share: float | Mapping[str, float] = 0.05,
        cost: float = 1e-3,
        homeostasis: bool = True,
        readout: str = "linear",
        direct: bool = True,
        rule: str | LearningRule = "countercurrent_inhibition",
        epochs: int = 10,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        weight_decay: float | None = None,
        random_state: int | None = 0,
        device: str = "cpu",
    ) -> None:
        self.dentate = dentate
        self.ca3 = ca3
        self.ca1 = ca1
        self.area = area
        self.activation = activation
        self.sparsity = sparsity
        self.share = share
        self.cost = cost
        self.homeostasis = homeostasis
        self.readout = readout
        self.direct = direct
        self.rule = rule
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.random_state = random_state
        self.device = device

    # Learning

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Learn these samples, (samples, features), from new weights on."""
        rates = self._rates(X, first=True)
        self._begin(rates)
        return self._learn(rates, self.epochs)

    def partial_fit(self, X: ArrayLike, y: object = None) -> Self:
        """Learn these samples in one more pass, from where the loop is; the first call begins."""
        first = not self.__sklearn_is_fitted__()
        rates = self._rates(X, first=first, least=2)
        if first:
            self._begin(rates)
        return self._learn(rates, 1)

    def _begin(self, X: Array) -> None:
        check_choice("HippocampalLoop", "area", self.area, Areas._fields)
        check_positive("HippocampalLoop", epochs=self.epochs, learning_rate=self.learning_rate)
        if self.batch_size < 2:
            raise ConfigError(
                f"HippocampalLoop: batch_size={self.batch_size!r} must be 2 or more: homeostasis needs a spread."
            )
        self._order = np.random.default_rng(self.random_state)
        seed = int(self._order.integers(2**31)) if self.random_state is None else int(self.random_state)
        self.scale_ = float(np.abs(X).max()) or 1.0
        own = ("activation", "sparsity", "share", "cost", "homeostasis", "readout", "direct")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            loop = TrisynapticLoop(
                X.shape[1], self.dentate, self.ca3, self.ca1, **{name: getattr(self, name) for name in own}
            )
        loop = loop.to(device=self.device, dtype=torch.float32 if X.dtype == np.float32 else torch.float64)
        self.circuit_ = Circuit(loop, rule_of(self.rule, seed))
        decay = self.weight_decay
        if decay is None:
            decay = self.circuit_.rule.recommends().get("weight_decay", 0.0)
        self._optimizer = torch.optim.AdamW(self.circuit_.parameters(), lr=self.learning_rate, weight_decay=decay)
        self.loss_curve_: list[float] = []

    def _learn(self, X: Array, epochs: int) -> Self:
        x = self._tensor(X)
        self.circuit_.train()
        for _ in range(epochs):
            order = torch.from_numpy(self._order.permutation(len(x))).to(self.device)
            total = 0.0
            for batch in order.tensor_split(max(1, len(x) // self.batch_size)):
                self._optimizer.zero_grad()
                total += float(self.circuit_.learn(x[batch])) * len(batch)
                self._optimizer.step()
            self.loss_curve_.append(total * self.scale_**2 / len(x))
        self._loop.calibrate(x)
        self.mismatch_ = float(-2 * self._score(X).mean())
        return self

    # Use

    def transform(self, X: ArrayLike) -> Array:
        """The rates of the area `area`, (samples, cells)."""
        found: Array = getattr(self.areas(X), self.area)
        return found

    def fit_transform(self, X: ArrayLike, y: object = None) -> Array:
        """Learn these samples, and return the rates that they have."""
        return self.fit(X).transform(X)

    def areas(self, X: ArrayLike) -> Areas[Array]:
        """The rates of every area, as arrays; those of the deep layers in the units of X."""
        return self._areas(self._rates(X))

    def recall(self, cue: ArrayLike) -> Array:
        """The input that belongs to a cue, (samples, features), in which lost entries are 0."""
        return self.areas(cue).deep

    def score_samples(self, X: ArrayLike) -> Array:
        """Minus half the squared mismatch of each sample: the higher, the better known."""
        return self._score(self._rates(X))

    def novelty(self, X: ArrayLike) -> Array:
        """The squared mismatch of each sample over the mean of those that were learned: about 1 for known ones."""
        return -2 * self.score_samples(X) / max(self.mismatch_, np.finfo(float).tiny)

    def _score(self, X: Array) -> Array:
        mismatch = X - self._areas(X).deep
        score: Array = -0.5 * np.square(mismatch).sum(1)
        return score

    @torch.no_grad()
    def _areas(self, X: Array) -> Areas[Array]:
        self.circuit_.eval()
        parts = [self._loop.areas(x) for x in torch.split(self._tensor(X), _AT_ONCE)]
        dentate, ca3, ca1, deep = [torch.cat(rates).cpu().numpy() for rates in zip(*parts, strict=True)]
        return Areas(dentate, ca3, ca1, deep * self.scale_)

    @property
    def _loop(self) -> TrisynapticLoop:
        loop = self.circuit_.model
        assert isinstance(loop, TrisynapticLoop)
        return loop

    def _tensor(self, X: Array) -> Tensor:
        return torch.from_numpy(X / X.dtype.type(self.scale_)).to(self.device, next(self._loop.parameters()).dtype)

    def _rates(self, X: ArrayLike, *, first: bool = False, least: int = 1) -> Array:
        rates = super()._rates(X, first=first, least=least)
        if self.readout in _RECTIFIED and rates.min() < 0:
            raise ValueError(
                f"HippocampalLoop: X has negative values, and readout={self.readout!r} never answers with one. Use "
                "readout='linear'."
            )
        return rates

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "mismatch_")
