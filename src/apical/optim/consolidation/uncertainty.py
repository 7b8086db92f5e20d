"""Metaplasticity from synaptic uncertainty: Gaussian weights that learn as fast as they are uncertain."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from apical.errors import ConfigError
from apical.optim.consolidation.parametrised import parametrised, with_parametrisation
from apical.optim.consolidation.protection import Assumptions, LossOfLabels, Protection, bytes_of, refuse_loss_scale
from apical.options import check_positive


class Gaussian(nn.Module):
    """The parametrisation of a Gaussian weight: drawn around its mean in training, its mean in evaluation.

    Args:
        mean: of the weight.
        deviation: the standard deviation that each entry begins with.

    Attributes:
        deviation: of each entry; it learns.
    """

    def __init__(self, mean: Tensor, deviation: float) -> None:
        super().__init__()
        self.deviation = nn.Parameter(torch.full_like(mean, deviation, requires_grad=False))

    def forward(self, mean: Tensor) -> Tensor:
        """The weight of one forward pass."""
        return torch.addcmul(mean, self.deviation, torch.randn_like(mean)) if self.training else mean


class MESU(Protection):
    r"""Metaplasticity from synaptic uncertainty: a weight learns with the square of its own uncertainty as its rate.

    Each weight is Gaussian, with mean μ and standard deviation σ, and is drawn in each forward pass of training. With
    the loss C of a batch, summed over its samples, and the prior of mean 0 and standard deviation σ_p:

        Δμ = -σ² ∂C/∂μ - σ² μ / (N σ_p²)
        Δσ = -σ²/2 ∂C/∂σ + σ (σ_p² - σ²) / (2 N σ_p²)

    Weights that matter become certain, and rest; what N batches did not confirm returns to the prior. No task
    boundaries are needed. These steps take the place of the optimizer's for weights and biases of linear and
    convolutional layers. Other parameters, such as those of norms, follow the optimizer. In evaluation mode weights are
    their means.

    ∂C/∂μ is the update of the circuit's rule, and ∂C/∂σ that update times the draw. `prepare` returns a copy of the
    model with Gaussian weights.

    Args:
        prior: σ_p, above 0.
        memory: N, in batches, above 0.
        deviation: σ at the beginning; None: the prior's.
        draws: forward passes of a step, over which the loss is averaged.
        smallest: σ stays at or above this part of σ_p, above 0 and below 1.

    Raises:
        ConfigError: an option that cannot be; a network without layers whose weights learn, or with weights that are
            computed already; a network that `prepare` did not return; a circuit with a loss_scale.

    Source: Bonnet et al., "Bayesian continual learning and forgetting in neural networks" (Nature Communications 2025).
    Departs from it: the bound `smallest`, without which a large step would make σ negative.

    Example:
        >>> import torch
        >>> from apical.optim import consolidation
        >>> model = consolidation.MESU(prior=0.1).prepare(torch.nn.Linear(4, 3), tasks=2)
        >>> torch.equal(model.weight, model.weight), torch.equal(model.eval().weight, model.weight)
        (False, True)
    """

    name = "mesu"
    title = "Metaplasticity from synaptic uncertainty"
    summary = "Gaussian weights that are drawn in each forward pass, and learn as fast as they are uncertain."
    paper = "Bonnet et al. 2025"

    def __init__(
        self,
        *,
        prior: float = 0.03,
        memory: float = 1e5,
        deviation: float | None = None,
        draws: int = 1,
        smallest: float = 0.01,
    ) -> None:
        self.prior, self.memory, self.draws, self.smallest = prior, memory, draws, smallest
        self.deviation = prior if deviation is None else deviation
        check_positive(self.name, prior=prior, memory=memory, deviation=self.deviation, draws=draws, smallest=smallest)
        if smallest >= 1:
            raise ConfigError(f"{self.name}: smallest={smallest!r} must be below 1.")

    def prepare(self, model: nn.Module, tasks: int) -> nn.Module:
        return with_parametrisation(model, lambda own: Gaussian(own.detach(), self.deviation), self.name, biases=True)

    def attach(self, circuit: nn.Module, loss: LossOfLabels) -> None:
        super().attach(circuit, loss)
        refuse_loss_scale(circuit, self.name)
        self._weights = [(mean, own.deviation) for mean, own in parametrised(circuit, Gaussian)]
        if not self._weights:
            raise ConfigError(
                f"{self.name}: the network has no Gaussian weights. Build the circuit of the model that "
                "prepare returns."
            )

    def loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        self._samples = len(y)
        answers, losses = zip(*(super(MESU, self).loss(x, y) for _ in range(self.draws)), strict=True)
        return torch.stack(answers).mean(0), torch.stack(losses).mean()

    @torch.no_grad()
    def step(self, optimizer: torch.optim.Optimizer) -> None:
        certainty = 1 / (self.memory * self.prior**2)
        for mean, deviation in self._weights:
            if mean.grad is None or deviation.grad is None:
                continue
            variance = deviation.square()
            to_mean = mean.grad.mul(self._samples).add_(mean, alpha=certainty)
            to_deviation = deviation.grad.mul(self._samples).mul_(variance)
            to_deviation.addcmul_(deviation, self.prior**2 - variance, value=-certainty)
            mean.addcmul_(variance, to_mean, value=-1)
            deviation.sub_(to_deviation, alpha=0.5).clamp_min_(self.smallest * self.prior)
            mean.grad = deviation.grad = None  # which the optimizer leaves alone
        optimizer.step()

    def assumptions(self) -> Assumptions:
        kept = bytes_of([deviation for _, deviation in getattr(self, "_weights", ())])
        return replace(super().assumptions(), bytes=kept, passes=self.draws)
