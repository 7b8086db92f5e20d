"""Feedback alignment, and the rules that let the feedback weights find the forward ones: one sweep, four pathways."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from apical.feedback import Fixed
from apical.feedback import KolenPollack as KolenPollackPathway
from apical.feedback import SignSymmetric as SignSymmetricPathway
from apical.feedback import WeightMirror as WeightMirrorPathway
from apical.rules.rule import Sweep


class FeedbackAlignment(Sweep):
    """Feedback alignment: errors travel down fixed random weights, and the forward weights come to suit them.

        delta_l = (B_(l+1) delta_(l+1)) * phi'(a_l),   B of the shape of W^T, fixed
        dW_l    = -eta delta_l h_(l-1)^T

    The pathway is `apical.feedback.Fixed`. A convolution's feedback weights are a kernel, shared over space as the
    forward ones are. Norms, pooling and activations propagate errors by their own derivative, as in every published
    measurement.

    Args:
        init: the initial feedback weights: "match" (uniform, with the standard deviation of the layer's own weights
            when the circuit is built), "xavier" (uniform, Glorot's), or "weights" (a copy of them: then this is
            backpropagation until the first step).
        scale: multiplies the feedback weights.
        seed: of the feedback weights.

    Shapes: B has the shape of the layer's weight. Layers with nothing to teach below them have none.

    Needs: any circuit. Raises: ConfigError on unknown options.

    Departs from the paper: it drew B from a uniform distribution with a hand-set range; "match" keeps errors at the
    size that backpropagation gives them at the start, so that one learning rate suits both.

    Source: Lillicrap, Cownden, Tweed and Akerman, Nature Communications 7, 13276 (2016), eq. in fig. 1.

    Example:
        >>> import torch, apical
        >>> circuit = apical.Circuit(torch.nn.Linear(4, 3), apical.FeedbackAlignment(scale=0.5))
    """

    name = "feedback_alignment"
    title = "Feedback alignment"
    summary = "Errors travel down fixed random weights."
    paper = "Lillicrap et al. 2016"

    def __init__(self, *, init: str = "match", scale: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        self.init = init
        self.scale = scale
        self.seed = seed
        self.take_pathway(Fixed(init=init, scale=scale, seed=seed))


class KolenPollack(Sweep):
    """Kolen-Pollack: feedback weights take the same increments as the forward ones, and both decay.

        dW_l = -eta delta_l h_(l-1)^T - lambda W_l
        dB_l = (-eta delta_l h_(l-1)^T)^T - lambda B_l   =>   W - B^T shrinks as (1 - lambda)^t

    The pathway is `apical.feedback.KolenPollack`: B is a parameter of the rule, in `circuit.parameters()`, and its
    `.grad` is that of W. The decay is the optimizer's `weight_decay` (decoupled for Adam: use AdamW), and without any
    the difference stays as it was.

    Args:
        init: as for feedback alignment.
        scale: as for feedback alignment.
        seed: of the initial feedback weights.

    Needs: any circuit, and an optimizer over `circuit.parameters()` with a weight decay.

    Source: Kolen and Pollack, ICNN 1994; Akrout, Wilson, Humphreys, Lillicrap and Tweed, NeurIPS 2019, eqs. 16-17.

    Example:
        >>> import torch, apical
        >>> circuit = apical.Circuit(torch.nn.Linear(4, 3), apical.KolenPollack())
        >>> optimizer = torch.optim.SGD(circuit.parameters(), lr=0.1, weight_decay=1e-3)
    """

    name = "kolen_pollack"
    transposed_limit = ""
    title = "Kolen-Pollack"
    summary = "Feedback weights take the forward weights' increments and decay, and so converge to them."
    paper = "Kolen & Pollack 1994; Akrout et al. 2019"
    needs = "any circuit; an optimizer over circuit.parameters() with weight decay"
    recommended: ClassVar[Mapping[str, float]] = MappingProxyType({"weight_decay": 1e-3})

    def __init__(self, *, init: str = "match", scale: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        self.init = init
        self.scale = scale
        self.seed = seed
        self.take_pathway(KolenPollackPathway(init=init, scale=scale, seed=seed))


class WeightMirror(Sweep):
    """Weight mirrors: between forward passes each layer fires noise, and feedback weights learn from the response.

        x~ ~ U, mean 0, variance 1,  y~ = W x~         (mirror mode)
        B <- (1 - rate) B + rate E[y~ x~^T],   E[y~ x~^T] = W

    The pathway is `apical.feedback.WeightMirror`, which states where it departs from the paper.

    Args:
        rate: by how much one mirror phase moves B.
        samples: patterns of noise in a mirror phase.
        every: forward passes from one mirror phase to the next (inside `torch.compile`, each has one).
        init: as for feedback alignment.
        scale: as for feedback alignment.
        seed: of the initial feedback weights and of the noise.

    Needs: any circuit, and smaller steps than backpropagation. B lags behind W, and the difference stays the same for
    many steps: with steps that suit backpropagation a ReLU network diverges (the paper's code takes a quarter, which is
    `recommended` here; Kunin et al. 2020 found the rule to be sensitive in the same way).

    Source: Akrout, Wilson, Humphreys, Lillicrap and Tweed, NeurIPS 2019, eqs. 7-8.

    Example:
        >>> import torch, apical
        >>> circuit = apical.Circuit(torch.nn.Linear(4, 3), apical.WeightMirror(every=4))
    """

    name = "weight_mirror"
    transposed_limit = ""
    title = "Weight mirror"
    summary = "Feedback weights learn the forward ones from noise, between forward passes."
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
        super().__init__()
        self.rate = rate
        self.samples = samples
        self.every = every
        self.init = init
        self.scale = scale
        self.seed = seed
        self.take_pathway(
            WeightMirrorPathway(rate=rate, samples=samples, every=every, init=init, scale=scale, seed=seed)
        )


class SignSymmetry(Sweep):
    """Sign symmetry: errors travel down weights that share the forward weights' signs but not their sizes.

        delta_l = (B_(l+1) delta_(l+1)) * phi'(a_l),   sign(B) = sign(W^T) at every step

        "uniform"    B = s sign(W)          one size s for all
        "batchwise"  B = |R| sign(W)        sizes R drawn for every batch
        "fixed"      B = |R0| sign(W)       sizes R0 drawn once

    The pathway is `apical.feedback.SignSymmetric`, which states where it departs from the papers.

    Args:
        magnitude: one of the three.
        init: the size s, and the standard deviation that R is drawn with before its sign is dropped: "match" (that of
            the layer's own weights when the circuit is built) or "xavier" (Glorot's).
        scale: multiplies the feedback weights.
        seed: of the sizes.

    Needs: any circuit. Raises: ConfigError on unknown options.

    Source: Liao, Leibo and Poggio, AAAI 2016; Moskovitz, Litwin-Kumar and Abbott, arXiv 1812.06488 (2018).

    Example:
        >>> import torch, apical
        >>> circuit = apical.Circuit(torch.nn.Linear(4, 3), apical.SignSymmetry(magnitude="batchwise"))
    """

    name = "sign_symmetry"
    title = "Sign symmetry"
    summary = "Errors travel down weights that share the forward weights' signs, not their sizes."
    paper = "Liao et al. 2016; Moskovitz et al. 2018"

    def __init__(self, *, magnitude: str = "uniform", init: str = "match", scale: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        self.magnitude = magnitude
        self.init = init
        self.scale = scale
        self.seed = seed
        self.take_pathway(SignSymmetricPathway(magnitude=magnitude, init=init, scale=scale, seed=seed))
