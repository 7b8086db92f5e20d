"""Feedback alignment, and the two rules that let the feedback weights find the forward ones."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from apical.errors import ConfigError
from apical.layers import Layer, Record
from apical.rules.randomness import Randomness, check_init, feedback_like
from apical.rules.rule import PerLayer, Sweep
from apical.wiring import Credit, Wiring


class FeedbackAlignment(Sweep):
    """Feedback alignment: errors travel down fixed random weights, and the forward weights come to suit them.

        delta_l = (B_(l+1) delta_(l+1)) * phi'(a_l),   B of the shape of W^T, fixed
        dW_l    = -eta delta_l h_(l-1)^T

    A convolution's feedback weights are a kernel, shared over space as the forward ones are. Norms, pooling
    and activations hand errors back by their own derivative, as in every published measurement.

    Args:
        init: where the feedback weights start: "match" (uniform, with the standard deviation of the layer's own
            weights when the circuit is built), "xavier" (uniform, Glorot's), or "weights" (a copy of them: then
            this is backpropagation until the first step).
        scale: multiplies the feedback weights.
        seed: of the feedback weights.

    Shapes: B has the shape of the layer's weight. Layers with nothing to teach below them have none.

    Needs: any circuit. Raises: ConfigError on unknown options.

    Departs from the paper: it drew B from a uniform distribution with a hand-set range; "match" keeps errors at
    the size that backpropagation gives them at the start, so that one learning rate suits both.

    Source: Lillicrap, Cownden, Tweed and Akerman, Nature Communications 7, 13276 (2016), eq. in fig. 1.
    """

    name = "feedback_alignment"
    title = "Feedback alignment"
    summary = "Errors travel down fixed random weights."
    paper = "Lillicrap et al. 2016"
    learned = False

    def __init__(self, *, init: str = "match", scale: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        check_init(type(self).__name__, init, scale, ("match", "xavier", "weights"))
        self.init = init
        self.scale = scale
        self.seed = seed
        self.randomness = Randomness(seed)
        self.weights = PerLayer()

    def bind(self, wiring: Wiring) -> None:
        self.randomness = Randomness(self.seed)
        self.weights = PerLayer()
        for layer in wiring.layers:
            if layer.feeds_back:
                feedback = feedback_like(layer.weight, self.init, self.scale, self.randomness, layer.name)
                self.weights.hold(layer, feedback, learned=self.learned)

    def feedback(self, layer: Layer, record: Record, post: Tensor) -> Tensor:
        assert record.pre is not None
        return layer.synapses.transport(post, self.weights[layer], record.pre)


class KolenPollack(FeedbackAlignment):
    """Kolen-Pollack: feedback weights take the same increments as the forward ones, and both decay.

        dW_l = -eta delta_l h_(l-1)^T - lambda W_l
        dB_l = (-eta delta_l h_(l-1)^T)^T - lambda B_l   =>   W - B^T shrinks as (1 - lambda)^t

    B is a Parameter of the rule, in `circuit.parameters()`, and its `.grad` is that of W. So under any optimizer
    that treats both alike, momentum and Adam included, the increments are identical; the decay is the optimizer's
    `weight_decay` (decoupled for Adam: use AdamW), and without any the difference stays what it was.

    Args:
        init: as for feedback alignment.
        scale: as for feedback alignment.
        seed: of the initial feedback weights.

    Needs: any circuit, and an optimizer over `circuit.parameters()` with a weight decay.

    Source: Kolen and Pollack, ICNN 1994; Akrout, Wilson, Humphreys, Lillicrap and Tweed, NeurIPS 2019, eqs. 16-17.
    """

    name = "kolen_pollack"
    title = "Kolen-Pollack"
    summary = "Feedback weights take the forward weights' increments and decay, and so converge to them."
    paper = "Kolen & Pollack 1994; Akrout et al. 2019"
    needs = "any circuit; an optimizer over circuit.parameters() with weight decay"
    recommended: ClassVar[Mapping[str, float]] = MappingProxyType({"weight_decay": 1e-3})
    learned = True

    def credit(self, layer: Layer, pre: Tensor, post: Tensor) -> Credit:
        return Credit(layer, pre, post, self.weights.learned(layer))


class WeightMirror(FeedbackAlignment):
    """Weight mirrors: between responses each layer fires noise, and feedback weights learn from what comes of it.

        x~ ~ U, mean 0, variance 1,  y~ = W x~         (mirror mode)
        B <- (1 - rate) B + rate E[y~ x~^T],   E[y~ x~^T] = W

    The mirror's update is made in place between responses while the circuit trains; the optimizer never sees B.

    Args:
        rate: how far one mirror phase moves B.
        samples: how many patterns of noise a mirror phase has.
        every: responses from one mirror phase to the next (inside `torch.compile`, every response has one).
        init: as for feedback alignment.
        scale: as for feedback alignment.
        seed: of the initial feedback weights and of the noise.

    Needs: any circuit, and smaller steps than backpropagation. B lags behind W, and what it lacks is the same for
    many steps: with steps that suit backpropagation a ReLU network diverges (the paper's code takes a quarter, which
    is `recommended` here; Kunin et al. 2020 found the rule to be sensitive in the same way).

    Departs from the paper: the noise is normalised out of the update (its variance times eta_m is `rate`, and the
    decay that the paper sets apart is the same `rate`), so that B settles at W and at no multiple of it; y~ is the
    drive without bias, where the paper's passes the activation too, which scales what B settles at. A convolution's
    noise is one patch of its receptive field.

    Source: Akrout, Wilson, Humphreys, Lillicrap and Tweed, NeurIPS 2019, eqs. 7-8.
    """

    name = "weight_mirror"
    title = "Weight mirror"
    summary = "Feedback weights learn the forward ones from noise, between responses."
    paper = "Akrout et al. 2019"
    needs = "any circuit; smaller steps than backpropagation"
    recommended: ClassVar[Mapping[str, float]] = MappingProxyType({"learning_rate_factor": 0.25})

    def __init__(
        self,
        *,
        rate: float = 0.02,
        samples: int = 16,
        every: int = 8,
        init: str = "match",
        scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(init=init, scale=scale, seed=seed)
        if not 0 < rate <= 1:
            raise ConfigError(
                f"WeightMirror: rate={rate!r} must be above 0 and at most 1: it is the share of B renewed."
            )
        if samples < 1 or every < 1:
            raise ConfigError(f"WeightMirror: samples={samples!r} and every={every!r} must be at least 1.")
        self.rate = rate
        self.samples = samples
        self.every = every
        self._due = 0

    def between(self, wiring: Wiring) -> None:
        if not torch.compiler.is_compiling():
            self._due += 1
            if self._due < self.every:
                return
            self._due = 0
        with torch.no_grad():
            for layer in wiring.layers:
                if layer in self.weights:
                    self._mirror(self.weights[layer], layer.weight.detach())

    def _mirror(self, feedback: Tensor, weight: Tensor) -> None:
        flat = weight.flatten(1)
        noise = self.randomness.noise((self.samples, flat.shape[1]), weight)
        answer = noise.mm(flat.t()).to(feedback.dtype)  # autocast may have made it shorter
        feedback.view(flat.shape).addmm_(answer.t(), noise, beta=1 - self.rate, alpha=self.rate / self.samples)

    def get_extra_state(self) -> Tensor:
        """The number of forward passes since the last mirror phase."""
        return torch.tensor(self._due)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the number that `get_extra_state` returned."""
        self._due = int(state)
