"""Synaptic intelligence: importance from the path that the parameters take while they learn."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from apical.optim.consolidation.protection import Data, LossOfLabels
from apical.optim.consolidation.synaptic import Quadratic
from apical.options import check_positive, check_ranges


class SI(Quadratic):
    r"""Synaptic intelligence: importance is a parameter's part in the fall of the loss, for the way that it went.

        L = L_task + strength · Σ_i Ω_i (θ_i - θ*_i)²

        ω_i ← ω_i - g_i Δθ_i                     in each step; g is `.grad` without the penalty, Δθ the step
        Ω_i ← Ω_i + ω_i / (Δ_i² + damping)       when a task ends; Δ is the way from θ*
        θ*  ← θ,  ω ← 0

    g is whatever the circuit's rule leaves in `.grad`, and Δθ what the optimizer makes of it, so both are at hand in
    the synapse. Where g is not the gradient, ω does not measure the loss.

    Args:
        strength: c.
        damping: ξ, above 0.

    Raises:
        ConfigError: an option that cannot be.

    Source: Zenke, Poole and Ganguli, "Continual learning through synaptic intelligence" (ICML 2017), eqs. 3 to 5.

    Example:
        >>> from apical.optim import consolidation
        >>> consolidation.SI(strength=0.1).assumptions().epochs
        0
    """

    name = "si"
    title = "Synaptic intelligence"
    summary = "A quadratic penalty, weighted by each parameter's part in the fall of the loss."
    paper = "Zenke, Poole & Ganguli 2017"
    keeps = ("importance", "anchor", "path")
    path: dict[str, Tensor]
    _before: Sequence[tuple[str, nn.Parameter, Tensor, Tensor]] = ()

    def __init__(self, strength: float = 0.1, *, damping: float = 0.1) -> None:
        self.strength, self.damping = strength, damping
        check_ranges(self.name, self, {"strength": (0 <= strength < float("inf"), "a number, not negative")})
        check_positive(self.name, damping=damping)

    def attach(self, circuit: nn.Module, loss: LossOfLabels) -> None:
        super().attach(circuit, loss)
        if self.strength:
            self.anchor = {name: own.detach().clone() for name, own in self.parameters.items()}
            self.path = {name: torch.zeros_like(own) for name, own in self.anchor.items()}
            self.importance = {name: torch.zeros_like(own) for name, own in self.anchor.items()}

    @torch.no_grad()
    def correct(self) -> None:
        learning = self.learning().items() if self.strength else ()
        self._before = [
            (name, own, own.detach().clone(), own.grad.clone()) for name, own in learning if own.grad is not None
        ]
        super().correct()

    @torch.no_grad()
    def step(self, optimizer: torch.optim.Optimizer) -> None:
        optimizer.step()
        if self._before:
            names, now, before, gradients = (list(column) for column in zip(*self._before, strict=True))
            steps = torch._foreach_sub(now, before)
            torch._foreach_addcmul_([self.path[name] for name in names], gradients, steps, value=-1)
            self._before = ()

    def consolidate(self, examples: Data) -> None:
        for name, path in self.path.items():
            own = self.parameters[name].detach()
            self.importance[name] += path / ((own - self.anchor[name]).square() + self.damping)
            self.anchor[name].copy_(own)
            path.zero_()
