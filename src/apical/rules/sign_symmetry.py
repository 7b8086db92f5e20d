"""Sign symmetry: feedback that knows the sign of every forward weight, and nothing of its size."""

from __future__ import annotations

import math

from torch import Tensor

from apical.errors import ConfigError
from apical.layers import Layer, Record
from apical.rules.randomness import Randomness, check_init, spread_of
from apical.rules.rule import PerLayer, Sweep
from apical.wiring import Wiring

_MAGNITUDES = ("uniform", "batchwise", "fixed")
_LEVELS = 256  # of the batchwise magnitudes: the odd ones of a byte


class SignSymmetry(Sweep):
    """Sign symmetry: errors travel down weights that share the forward weights' signs but not their sizes.

        delta_l = (B_(l+1) delta_(l+1)) * phi'(a_l),   sign(B) = sign(W^T) at every step

        "uniform"    B = s sign(W)          one size s for all
        "batchwise"  B = |R| sign(W)        sizes R drawn anew for every batch
        "fixed"      B = |R0| sign(W)       sizes R0 drawn once

    Args:
        magnitude: one of the three.
        init: the size s, and the standard deviation that R is drawn with before its sign is dropped (uniform,
            as the weights are): "match" (that of the layer's own weights when the circuit is built) or "xavier"
            (Glorot's).
        scale: multiplies the feedback weights.
        seed: of the sizes.

    Needs: any circuit. Raises: ConfigError on unknown options.

    Departs from the papers: batchwise sizes are drawn from 128 equally spaced levels of the uniform distribution
    (a byte each, the mean exact), for speed.

    Source: Liao, Leibo and Poggio, AAAI 2016; Moskovitz, Litwin-Kumar and Abbott, arXiv 1812.06488 (2018).
    """

    name = "sign_symmetry"
    title = "Sign symmetry"
    summary = "Errors travel down weights that share the forward weights' signs, not their sizes."
    paper = "Liao et al. 2016; Moskovitz et al. 2018"

    def __init__(self, *, magnitude: str = "uniform", init: str = "match", scale: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        if magnitude not in _MAGNITUDES:
            raise ConfigError(f"SignSymmetry: magnitude={magnitude!r} is unknown; use one of {', '.join(_MAGNITUDES)}.")
        check_init("SignSymmetry", init, scale, ("match", "xavier"))
        self.magnitude = magnitude
        self.init = init
        self.scale = scale
        self.seed = seed
        self.randomness = Randomness(seed)
        self.sizes = PerLayer()

    @property
    def teaches_input(self) -> bool:
        return self.magnitude != "fixed"

    def bind(self, wiring: Wiring) -> None:
        self.randomness = Randomness(self.seed)
        self.sizes = PerLayer()
        for layer in wiring.layers:
            weight = layer.weight.detach()
            spread = self.scale * spread_of(weight, self.init)
            if self.magnitude == "fixed":
                if layer.feeds_back:
                    self.sizes.hold(layer, self.randomness.uniform(weight, spread, layer.name).abs_())
            else:
                self.sizes.hold(layer, weight.new_tensor(spread))

    def feedback_weights(self, layer: Layer) -> Tensor:
        """The feedback weights of a layer for one batch: a batchwise call draws anew."""
        pattern, size = self._pattern(layer)
        return pattern if size is None else pattern * size

    def feedback(self, layer: Layer, record: Record, post: Tensor) -> Tensor:
        assert record.pre is not None
        pattern, size = self._pattern(layer)
        # One size for a whole layer scales the error, which is far smaller than the weights.
        return layer.synapses.transport(post if size is None else post * size, pattern, record.pre)

    def _pattern(self, layer: Layer) -> tuple[Tensor, Tensor | None]:
        """The feedback weights of a layer, but for the one size that all of them share, where there is one."""
        signs = layer.weight.detach().sign()
        size = self.sizes[layer]
        if self.magnitude == "fixed":
            return signs.mul_(size), None
        if self.magnitude == "batchwise":
            return self.randomness.odd_bytes(signs).mul_(signs), size * (math.sqrt(3) / _LEVELS)
        return signs, size
