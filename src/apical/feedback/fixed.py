"""Feedback by the forward weights themselves, and by fixed random weights."""

from torch import Tensor

from apical.feedback.pathway import SMALLER_STEPS, Pathway
from apical.feedback.randomness import check_init, feedback_like
from apical.feedback.weights import PerLayer
from apical.layers import Layer
from apical.wiring import Wiring


class Tied(Pathway):
    """Feedback by the forward weights: B = W, as in backpropagation.

    No brain has the copy of the weights that this needs; it is the reference for all other pathways.

    Example:
        >>> import apical
        >>> apical.BurstCCN(feedback=apical.feedback.Tied()).feedback
        Tied()
    """

    name = "tied"
    summary = "The forward weights themselves (weight transport)."
    teaches_input = True
    descends = True
    limit = ""

    def weight(self, layer: Layer) -> Tensor:
        return layer.synapses.weight.detach()

    def send(self, layer: Layer, post: Tensor, pre: Tensor) -> Tensor:
        return layer.synapses.transpose_product(post, layer.synapses.weight, pre)


class Fixed(Pathway):
    """Fixed random feedback weights B of the shape of W, as in feedback alignment.

    Args:
        init: "match" (uniform, with the standard deviation of the layer's own weights when the circuit is built),
            "xavier" (uniform, Glorot's) or "weights" (a copy of the layer's own weights).
        scale: multiplies the weights.
        seed: of the weights; each layer's depend on the seed and the layer's name alone.

    Raises:
        ConfigError: an unknown init, or a scale that is not positive.

    Source: Lillicrap, Cownden, Tweed and Akerman, Nature Communications 7, 13276 (2016).

    Example:
        >>> import apical
        >>> apical.BurstCCN(feedback=apical.feedback.Fixed(scale=0.5)).feedback
        Fixed(init='match', scale=0.5, seed=0)
    """

    name = "fixed"
    summary = "Fixed random weights."
    recommended = SMALLER_STEPS

    def __init__(self, *, init: str = "match", scale: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        check_init(type(self).__name__, init, scale, ("match", "xavier", "weights"))
        self.init = init
        self.scale = scale
        self.seed = seed
        self.weights = PerLayer()

    def setup(self, wiring: Wiring) -> None:
        self.weights = PerLayer()
        for layer in wiring.layers:
            if layer.feeds_back:
                made = feedback_like(layer.weight, self.init, self.scale, self.seed, layer.name)
                self.weights.hold(layer, made, learned=self.learned)

    def weight(self, layer: Layer) -> Tensor:
        return self.weights[layer].detach()

    def send(self, layer: Layer, post: Tensor, pre: Tensor) -> Tensor:
        return layer.synapses.transpose_product(post, self.weights[layer], pre)
