"""Weight mirrors: feedback weights that learn the forward ones from noise, between forward passes."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from apical.errors import ConfigError
from apical.feedback.fixed import Fixed
from apical.feedback.randomness import Randomness
from apical.wiring import Wiring


class WeightMirror(Fixed):
    """Feedback weights that learn from the response of each layer to noise, between forward passes.

        x~ ~ U, mean 0, variance 1,  y~ = W x~         (mirror mode)
        B <- (1 - rate) B + rate E[y~ x~^T],   E[y~ x~^T] = W

    The update is made in place while the circuit trains; the optimizer never sees B.

    Args:
        rate: by how much one mirror phase moves B.
        samples: patterns of noise in a mirror phase.
        every: forward passes from one mirror phase to the next (inside `torch.compile`, each has one).
        init: of B, as for `Fixed`.
        scale: of B, as for `Fixed`.
        seed: of B and of the noise.

    Raises:
        ConfigError: a rate outside (0, 1], or samples or every below 1.

    Departs from the paper: the noise is normalised out of the update (its variance times eta_m is `rate`, and the
    paper's separate decay is the same `rate`), so that B converges to W and not to a multiple of it; y~ is the drive
    without bias, where the paper's passes the activation too. A convolution's noise is one patch of its receptive
    field.

    Source: Akrout, Wilson, Humphreys, Lillicrap and Tweed, NeurIPS 2019, eqs. 7-8.

    Example:
        >>> import apical
        >>> apical.PredictiveCoding(feedback="weight_mirror").feedback
        'weight_mirror'
    """

    name = "weight_mirror"
    limit = "once feedback weights mirror the forward ones, up to a factor for each layer"
    summary = "Weights that learn the forward ones from noise, between forward passes."
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
        self.randomness = Randomness(seed)
        self._due = 0

    def setup(self, wiring: Wiring) -> None:
        self.randomness = Randomness(self.seed)
        super().setup(wiring)

    def before_forward(self, wiring: Wiring) -> None:
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
        response = noise.mm(flat.t()).to(feedback.dtype)  # autocast may have lowered its precision
        feedback.view(flat.shape).addmm_(response.t(), noise, beta=1 - self.rate, alpha=self.rate / self.samples)

    def get_extra_state(self) -> Tensor:
        """The number of forward passes since the last mirror phase."""
        return torch.tensor(self._due)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the number that `get_extra_state` returned."""
        self._due = int(state)
