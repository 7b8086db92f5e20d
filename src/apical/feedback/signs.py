"""Sign symmetry: feedback that has the sign of every forward weight, but not its size."""

import math

from torch import Tensor

from apical.feedback.pathway import Pathway
from apical.feedback.randomness import Randomness, check_init, spread_of, uniform
from apical.feedback.weights import PerLayer
from apical.layers import Layer
from apical.options import check_choice
from apical.wiring import Wiring

_LEVELS = 256  # of the batchwise magnitudes: the odd numbers of a byte


class SignSymmetric(Pathway):
    """Feedback weights that share the forward weights' signs, but not their sizes.

        sign(B) = sign(W) at every step

        "uniform"    B = s sign(W)          one size s for all
        "batchwise"  B = |R| sign(W)        sizes R drawn for every batch
        "fixed"      B = |R0| sign(W)       sizes R0 drawn once

    Args:
        magnitude: one of the three.
        init: the size s, and the standard deviation of R before its sign is dropped (uniform, as the weights are):
            "match" (that of the layer's own weights when the circuit is built) or "xavier" (Glorot's).
        scale: multiplies the feedback weights.
        seed: of the sizes.

    Raises:
        ConfigError: an unknown magnitude or init, or a scale that is not positive.

    Departs from the papers: batchwise sizes are drawn from 128 equally spaced levels of the uniform distribution (a
    byte each, the mean exact), for speed.

    Source: Liao, Leibo and Poggio, AAAI 2016; Moskovitz, Litwin-Kumar and Abbott, arXiv 1812.06488 (2018).

    Example:
        >>> import apical
        >>> apical.BrainProp(feedback=apical.feedback.SignSymmetric(magnitude="fixed")).feedback
        SignSymmetric(magnitude='fixed', init='match', scale=1.0, seed=0)
    """

    name = "sign_symmetric"
    summary = "Weights that share the forward weights' signs, not their sizes."

    def __init__(self, *, magnitude: str = "uniform", init: str = "match", scale: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        check_choice("SignSymmetric", "magnitude", magnitude, ("uniform", "batchwise", "fixed"))
        check_init("SignSymmetric", init, scale, ("match", "xavier"))
        self.magnitude = magnitude
        self.init = init
        self.scale = scale
        self.seed = seed
        self.randomness = Randomness(seed)
        self.sizes = PerLayer()

    @property
    def teaches_input(self) -> bool:  # type: ignore[override]
        return self.magnitude != "fixed"

    def setup(self, wiring: Wiring) -> None:
        self.randomness = Randomness(self.seed)
        self.sizes = PerLayer()
        for layer in wiring.layers:
            weight = layer.weight.detach()
            spread = self.scale * spread_of(weight, self.init)
            if self.magnitude == "fixed":
                if layer.feeds_back:
                    self.sizes.hold(layer, uniform(weight, spread, self.seed, layer.name).abs_())
            else:
                self.sizes.hold(layer, weight.new_tensor(spread))

    def weight(self, layer: Layer) -> Tensor:
        """The feedback weights of a layer for one backward pass: batchwise ones are drawn at each call."""
        pattern, size = self._pattern(layer)
        return pattern if size is None else pattern * size

    def send(self, layer: Layer, post: Tensor, pre: Tensor) -> Tensor:
        pattern, size = self._pattern(layer)
        # One size for a whole layer scales the signal, which is far smaller than the weights.
        return layer.synapses.transpose_product(post if size is None else post * size, pattern, pre)

    def _pattern(self, layer: Layer) -> tuple[Tensor, Tensor | None]:
        """The feedback weights of a layer, without the size that all of them share, where there is one."""
        signs = layer.weight.detach().sign()
        size = self.sizes[layer]
        if self.magnitude == "fixed":
            return signs.mul_(size), None
        if self.magnitude == "batchwise":
            return self.randomness.odd_bytes(signs).mul_(signs), size * (math.sqrt(3) / _LEVELS)
        return signs, size
