"""An episodic memory after AHA: a fixed sparse dentate code in an attractor, with a learned way in and a way out."""

from collections.abc import Callable
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional as F

from apical.circuit import Circuit
from apical.errors import CircuitError, ConfigError, DataError
from apical.finiteness import finite
from apical.hippocampus.attractor import HopfieldCA3
from apical.hippocampus.cells import generator_of
from apical.hippocampus.conventions import Array, Estimator, rule_of
from apical.options import check_positive
from apical.rules import LearningRule

_DECAYS = {"cue": 2.5e-5, "readout": 4e-5}


class DentateCode:
    """A fixed sparse code in which the samples of one batch avoid each other's cells; nothing learns.

        W ~ U[0, 1], a share of the weights knocked out, rows of sum 1
        sample after sample:   the `active` cells with the largest |W x| (1 - h) fire,   h ← decay h + fired

    The refraction h gives similar samples of a batch different codes. So a code depends on the order of the batch, and
    has a meaning at study alone.

    Args:
        inputs: features.
        cells: granule cells.
        active: cells that fire for a sample, fewer than `cells`.
        knockout: the share of the weights that are 0.
        decay: of the refraction from one sample to the next.
        seed: of the weights.

    Raises:
        ConfigError: an option is out of range.

    Source: Kowadlo, Ahmed and Rawlinson (2019), with the numbers of their code.
    """

    def __init__(
        self,
        inputs: int,
        cells: int = 225,
        active: int = 10,
        *,
        knockout: float = 0.25,
        decay: float = 0.95,
        seed: int = 0,
    ) -> None:
        if not (inputs >= 1 and 1 <= active < cells and 0 <= knockout < 1 and 0 <= decay < 1):
            raise ConfigError(
                f"DentateCode: inputs={inputs!r}, cells={cells!r}, active={active!r}, knockout={knockout!r}, "
                f"decay={decay!r}. Pass 1 input or more, 1 or more active cells that are fewer than all, and shares "
                "from 0 to below 1."
            )
        self.active, self.decay = active, decay
        draws = torch.rand(2, cells, inputs, generator=generator_of("dentate", seed))
        weights = draws[0] * (draws[1] >= knockout)
        self.weights = weights / weights.sum(1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)

    def __call__(self, x: Tensor) -> Tensor:
        """The codes of one batch in its order: (samples, inputs) to (samples, cells) of 0 and 1.

        Raises:
            DataError: x has another shape, NaN or infinity.
        """
        cells, inputs = self.weights.shape
        if x.ndim != 2 or x.shape[1] != inputs or not finite(x):
            raise DataError(f"DentateCode: x is {tuple(x.shape)}, or not finite. Pass finite (samples, {inputs}).")
        drive = (x @ self.weights.to(x).T).abs()
        codes, refraction = torch.zeros_like(drive), drive.new_zeros(cells)
        for excited, code in zip(drive, codes, strict=True):
            code[(excited * (1 - refraction)).topk(self.active).indices] = 1.0
            refraction = self.decay * refraction + code
        return codes


class AHAMemory(Estimator):
    """An episodic memory for a small batch of samples: one study, then recall of the nearest episode from a cue.

        study:    c = dentate(x), of 0 and 1;   CA3 stores 2 c - 1
                  cue path:   p(x) → c           sigmoid cross-entropy     (perforant path, PR)
                  read-out:   m(c) → x           mean squared error        (CA1 and entorhinal cortex, PM)
        recall:   q = sigmoid(p(x)),   q ← active q / Σ q,   u = 2 q - 1
                  y = CA3(u - threshold),   recalled = m((y + 1) / 2)
                  threshold: the mean of the active-th and the next largest of u

    The dentate code is fixed and separates: similar samples have different codes. It depends on the batch, so that the
    cue path, which has learned the codes of the study, takes its place in recall. Cue path and read-out are circuits of
    one hidden layer with leaky rectifiers, which any rule whose error travels can teach.

    Departures from the source: features are of the caller's choice, and divided by their largest absolute value; no
    salt noise on the cue path's input beside its dropout; weight decay is decoupled (AdamW); learning takes the whole
    study in every step. The source's threshold is the (active + 1)-th largest: cells that are silent in a perfect cue
    then receive 0, and CA3 turns many of them on. The read-out takes rates from 0 to 1: from -1 and 1, of which nearly
    all are the same, it learns little but the mean sample. Other numbers are those of the authors' code.

    Args:
        cells: of the dentate gyrus and of CA3; more than studied samples.
        active: cells that fire in a dentate code.
        hidden: units of the cue path.
        readout: hidden units of the read-out.
        rule: the name of a learning rule, or a rule with options, of which every study makes two new ones.
        steps: of learning, for the cue path and for the read-out.
        learning_rate: of AdamW.
        weight_decay: of AdamW; None: the rule's own, or 2.5e-5 for the cue path and 4e-5 for the read-out.
        dropout: the share of the cue path's input that is 0 in a step.
        random_state: the seed of weights, dropout and updates; None: another one each time.
        device: of torch.

    Attributes:
        dentate_: the `DentateCode`.
        ca3_: the `HopfieldCA3`.
        cue_: the cue path, an `apical.Circuit`.
        readout_: the read-out, an `apical.Circuit`.
        scale_: by which samples are divided.
        losses_: mean loss of each step: "cue" and "readout".
        n_features_in_: features.
        feature_names_in_: names of the features, where the input had some (with scikit-learn).

    Raises:
        ValueError: an input that is not two-dimensional, has NaN, infinity, fewer than two samples to study or another
            number of features than before.
        DataError: all samples of a study are the same, or they are more than `cells` can hold.
        CircuitError: the rule needs a label or a reward.
        ConfigError: unknown options or options out of range.

    Source: G. Kowadlo, A. Ahmed and D. Rawlinson (2019), AHA! an artificial hippocampal algorithm for episodic machine
    learning, arXiv 1909.10340.

    Example:
        >>> import numpy as np
        >>> from apical.hippocampus import AHAMemory
        >>> X = np.random.default_rng(0).random((8, 30))
        >>> memory = AHAMemory().fit(X)
        >>> memory.match(X).tolist(), memory.recall(X).shape
        ([0, 1, 2, 3, 4, 5, 6, 7], (8, 30))
    """

    def __init__(
        self,
        cells: int = 225,
        active: int = 10,
        *,
        hidden: int = 800,
        readout: int = 100,
        rule: str | LearningRule = "backprop",
        steps: int = 60,
        learning_rate: float = 0.01,
        weight_decay: float | None = None,
        dropout: float = 0.25,
        random_state: int | None = 0,
        device: str = "cpu",
    ) -> None:
        self.cells = cells
        self.active = active
        self.hidden = hidden
        self.readout = readout
        self.rule = rule
        self.steps = steps
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.dropout = dropout
        self.random_state = random_state
        self.device = device

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Study these samples, (samples, features), in place of those studied before."""
        rates = self._rates(X, first=True)
        check_positive(
            "AHAMemory",
            hidden=self.hidden,
            readout=self.readout,
            steps=self.steps,
            learning_rate=self.learning_rate,
        )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"AHAMemory: dropout={self.dropout!r} must be from 0 to below 1.")
        if (rates == rates[0]).all():
            raise DataError(
                f"AHAMemory: all features are constant over the {len(rates)} samples, so that no cue can tell one "
                "from another. Pass samples that differ."
            )
        seed = int(np.random.default_rng(self.random_state).integers(2**31))
        self.scale_ = float(np.abs(rates).max())
        x = self._tensor(rates)
        self.dentate_ = DentateCode(x.shape[1], self.cells, self.active, seed=seed)
        codes = self.dentate_(x)
        self.ca3_ = HopfieldCA3(seed=seed).fit(2 * codes - 1)
        self.losses_: dict[str, list[float]] = {}
        self.cue_ = self._learn("cue", self.hidden, x, codes, F.binary_cross_entropy_with_logits, self.dropout, seed)
        self.readout_ = self._learn("readout", self.readout, codes, x, F.mse_loss, 0.0, seed)
        return self

    def _learn(
        self,
        path: str,
        hidden: int,
        x: Tensor,
        target: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor],
        dropout: float,
        seed: int,
    ) -> Circuit:
        """A circuit with one hidden layer that has learned the target."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Linear(x.shape[1], hidden), nn.LeakyReLU(), nn.Linear(hidden, target.shape[1]))
        rule = rule_of(self.rule, seed, loss="mse" if loss is F.mse_loss else "linear")
        if rule.learns_from != "error":
            raise CircuitError(
                f"AHAMemory: {type(rule).__name__} learns from {rule.learns_from!r}, and a study has neither label nor "
                "reward. Use a rule that learns from any error, such as FeedbackAlignment."
            )
        circuit = Circuit(model.to(x), rule)
        decay = self.weight_decay
        if decay is None:
            decay = rule.recommends().get("weight_decay", _DECAYS[path])
        optimizer = torch.optim.AdamW(circuit.parameters(), lr=self.learning_rate, weight_decay=decay)
        noise = generator_of(f"dropout of the {path}", seed)
        losses = self.losses_[path] = []
        for _ in range(self.steps):
            kept = (torch.rand(x.shape, generator=noise) >= dropout).to(x) / (1 - dropout) if dropout else 1.0
            optimizer.zero_grad()
            value = loss(circuit(x * kept), target)
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(value.item())
        return circuit.eval()

    def transform(self, X: ArrayLike) -> Array:
        """CA3's rates after recall from these cues, (samples, cells), from -1 to 1."""
        rates: Array = self._recalled(self._rates(X)).cpu().numpy()
        return rates

    def fit_transform(self, X: ArrayLike, y: object = None) -> Array:
        """Study these samples, and return what CA3 recalls from them."""
        return self.fit(X).transform(X)

    @torch.no_grad()
    def recall(self, cue: ArrayLike) -> Array:
        """The episode that belongs to a cue, in the units of the samples: (samples, features) to the same shape."""
        rates = self._recalled(self._rates(cue))
        recalled: Array = self.readout_((rates + 1) / 2).cpu().numpy()
        return recalled * self.scale_

    def match(self, X: ArrayLike) -> Array:
        """The place in the study of the episode that each cue recalls: (samples, features) to (samples,)."""
        rates = self._recalled(self._rates(X))
        found: Array = self.ca3_.match(rates).cpu().numpy()
        return found

    @torch.no_grad()
    def _recalled(self, X: Array) -> Tensor:
        cue = self.cue_(self._tensor(X)).sigmoid()
        cue = 2 * self.active * cue / cue.sum(1, keepdim=True).clamp_min(torch.finfo(cue.dtype).tiny) - 1
        return self.ca3_.recall(cue - cue.topk(self.active + 1).values[:, -2:].mean(1, keepdim=True))

    def _tensor(self, X: Array) -> Tensor:
        return torch.from_numpy(X / X.dtype.type(self.scale_)).to(self.device)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "readout_")
