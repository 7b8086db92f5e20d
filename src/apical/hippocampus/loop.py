"""The trisynaptic loop as a network: entorhinal cortex, dentate gyrus, CA3, CA1, and back."""

from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from apical.errors import ConfigError
from apical.layers import FiringCost, KWinners
from apical.options import check_choice

AREAS = ("dentate", "ca3", "ca1")
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "softplus": nn.Softplus,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}
_READOUTS: dict[str, type[nn.Module]] = {"linear": nn.Identity, **_ACTIVATIONS}
_SPARSITIES = ("k_winners", "l1", "none")
Rates = TypeVar("Rates")  # tensors, or arrays of an estimator


class Areas(NamedTuple, Generic[Rates]):
    """The rates of every area, (batch, cells).

    Attributes:
        dentate: of the dentate gyrus.
        ca3: of CA3.
        ca1: of CA1.
        deep: of the deep entorhinal layers: the reconstruction of the input.
    """

    dentate: Rates
    ca3: Rates
    ca1: Rates
    deep: Rates


class TrisynapticLoop(nn.Module):
    """The trisynaptic loop: an autoencoder in the order of the hippocampal areas.

        dentate = f(W_d x + b_d)
        ca3     = f(W_3 [dentate, x] + b_3)        mossy fibres, and the direct entorhinal path
        ca1     = f(W_1 [ca3, x] + b_1)            Schaffer collaterals, and the direct entorhinal path
        deep    = s(W_o ca1 + b_o)

    x are the rates of the superficial entorhinal layers, and the loop learns to return them in the deep ones. f is, in
    this order, homeostasis (a norm without parameters of its own), the activation, and competition. Homeostasis gives
    every cell the same mean and spread of drive, so that all of them win at times: without it, k-winners silence most.

    The module computes and does not learn: `apical.Circuit(loop, rule)` does, by `learn`.

    Args:
        inputs: entorhinal cells.
        dentate: granule cells.
        ca3: cells of CA3.
        ca1: cells of CA1.
        activation: "relu", "softplus", "sigmoid" or "tanh".
        sparsity: "k_winners" (a share of the most excited cells fires), "l1" (firing has a cost) or "none".
        share: of the cells that fire under "k_winners", one number or one for each area by name.
        cost: of a cell's firing under "l1", in units of the loss.
        homeostasis: normalise every cell's drive over the batch before it competes.
        readout: s, "linear", or one of the activations: "relu", "softplus" and "sigmoid" are never negative.
        direct: whether the direct entorhinal paths to CA3 and CA1 are there.

    Shapes: (batch, inputs) to (batch, inputs).

    Raises: ConfigError on unknown options or options out of range.

    Source: Santos-Pata et al., iScience 24, 102364 (2021), for the areas, their order and the reconstruction of the
    input. Sizes, direct paths, sparsity and homeostasis are ours: the paper's could not be read.

    Example:
        >>> import torch, apical
        >>> loop = apical.hippocampus.TrisynapticLoop(12, dentate=20, ca3=8, ca1=10)
        >>> circuit = apical.Circuit(loop, "countercurrent_inhibition")
        >>> loss = circuit.learn(torch.rand(5, 12))
    """

    def __init__(
        self,
        inputs: int,
        dentate: int = 1000,
        ca3: int = 200,
        ca1: int = 300,
        *,
        activation: str = "relu",
        sparsity: str = "k_winners",
        share: float | Mapping[str, float] = 0.05,
        cost: float = 1e-3,
        homeostasis: bool = True,
        readout: str = "linear",
        direct: bool = True,
    ) -> None:
        super().__init__()
        check_choice("TrisynapticLoop", "activation", activation, tuple(_ACTIVATIONS))
        check_choice("TrisynapticLoop", "sparsity", sparsity, _SPARSITIES)
        check_choice("TrisynapticLoop", "readout", readout, tuple(_READOUTS))
        for name, cells in {"inputs": inputs, "dentate": dentate, "ca3": ca3, "ca1": ca1}.items():
            if not isinstance(cells, int) or isinstance(cells, bool) or cells < 1:
                raise ConfigError(f"TrisynapticLoop: {name}={cells!r} must be a number of cells, 1 or more.")
        shares = {**dict.fromkeys(AREAS, 0.05), **share} if isinstance(share, Mapping) else dict.fromkeys(AREAS, share)
        for name in shares.keys() - set(AREAS):
            raise ConfigError(f"TrisynapticLoop: share has the unknown area {name!r}; areas are {', '.join(AREAS)}.")
        self.inputs = inputs
        self.direct = direct

        def area(name: str, arriving: int, cells: int) -> nn.Sequential:
            steps: list[nn.Module] = [nn.Linear(arriving, cells, bias=not homeostasis)]  # which would take it away
            if homeostasis:
                steps.append(nn.BatchNorm1d(cells, affine=False))
            if (activation, sparsity) != ("relu", "k_winners"):  # winners are rectified
                steps.append(_ACTIVATIONS[activation]())
            if sparsity == "k_winners":
                steps.append(KWinners(shares[name]))
            elif sparsity == "l1":
                steps.append(FiringCost(cost))
            return nn.Sequential(*steps)

        beside = inputs if direct else 0
        self.dentate = area("dentate", inputs, dentate)
        self.ca3 = area("ca3", dentate + beside, ca3)
        self.ca1 = area("ca1", ca3 + beside, ca1)
        self.deep = nn.Sequential(nn.Linear(ca1, inputs), _READOUTS[readout]())

    def areas(self, x: Tensor) -> Areas[Tensor]:
        """The rates of every area for entorhinal rates (batch, inputs)."""
        dentate = self.dentate(x)
        ca3 = self.ca3(torch.cat([dentate, x], 1) if self.direct else dentate)
        ca1 = self.ca1(torch.cat([ca3, x], 1) if self.direct else ca3)
        return Areas(dentate, ca3, ca1, self.deep(ca1))

    def forward(self, x: Tensor) -> Tensor:
        return self.areas(x).deep

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Set the means and spreads of homeostasis to those of these samples.

        In training every batch is normalised by its own; in evaluation by running averages, which lag behind the
        weights. Call this before evaluating, with the samples that the loop has learned.

        Args:
            x: (batch, inputs), at least two samples.

        Raises:
            ValueError: fewer than two samples.
        """
        norms = [module for module in self.modules() if isinstance(module, nn.BatchNorm1d)]
        if norms and len(x) < 2:
            raise ValueError(f"TrisynapticLoop: calibrate got {len(x)} sample(s). Pass two or more: it needs a spread.")
        training, momenta = self.training, [norm.momentum for norm in norms]
        try:
            self.train()
            for norm in norms:
                norm.momentum = 1.0
            self.areas(x)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
            self.train(training)
