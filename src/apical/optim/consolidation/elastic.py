"""Elastic weight consolidation, memory aware synapses: importances that are measured when a task ends."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from apical.layers.over_time import refuse_time
from apical.measure.importance import KINDS, Importance, fisher, sensitivity
from apical.optim.consolidation.protection import Assumptions, Data, LossOfLabels
from apical.optim.consolidation.synaptic import Quadratic
from apical.options import check_choice, check_ranges


class _Measured(Quadratic):
    """A quadratic penalty whose importances are measured on the data of the task that ends."""

    samples: int | None

    def __init__(self, strength: float, samples: int | None, by_rule: bool, seed: int) -> None:
        self.strength, self.samples, self.by_rule, self.seed = strength, samples, by_rule, seed
        check_ranges(
            self.name,
            self,
            {
                "strength": (0 <= strength < float("inf"), "a number, not negative"),
                "samples": (samples is None or samples >= 1, "at least 1, or None for all"),
            },
        )

    def attach(self, circuit: nn.Module, loss: LossOfLabels) -> None:
        refuse_time(circuit, self.name)
        super().attach(circuit, loss)

    def assumptions(self) -> Assumptions:
        return replace(super().assumptions(), epochs=1 if self.strength else 0)

    def chosen(self, examples: Data) -> tuple[Tensor, Tensor]:
        """The examples on which importance is measured."""
        if self.samples is None or self.samples >= len(examples.y):
            return examples.x, examples.y
        generator = torch.Generator().manual_seed(self.seed)
        places = torch.randperm(len(examples.y), generator=generator)[: self.samples].to(examples.x.device)
        return examples.x[places], examples.y[places.to(examples.y.device)]


class EWC(_Measured):
    r"""Elastic weight consolidation: a quadratic penalty for each task, weighted by the Fisher information.

        L = L_task + strength/2 · Σ_t Σ_i F_{t,i} (θ_i - θ*_{t,i})²

    F_t is the diagonal of the Fisher information (`apical.measure.fisher`) on the data of task t at its end, θ*_t the
    parameters then. The sum over tasks is kept as one quadratic with the same derivative: Σ_t F_t around the mean of
    the θ*_t, weighted by F_t. So two tensors a parameter are kept, after any number of tasks.

    Args:
        strength: λ.
        fisher: "exact", "sampled" or "empirical", as for `apical.measure.fisher`.
        samples: examples of a task on which it is measured; None: all.
        by_rule: measure with the updates of the circuit's own rule in place of the gradient.
        seed: of the examples and of the labels that are drawn.

    Raises:
        ConfigError: an option that cannot be.

    Source: Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks" (PNAS 2017), eq. 3.

    Example:
        >>> from apical.optim import consolidation
        >>> consolidation.EWC(strength=100.0, fisher="sampled").assumptions().boundaries
        True
    """

    name = "ewc"
    title = "Elastic weight consolidation"
    summary = "A quadratic penalty for each task, weighted by the Fisher information."
    paper = "Kirkpatrick et al. 2017"
    share = 0.5

    def __init__(
        self,
        strength: float = 10.0,
        *,
        fisher: str = "exact",
        samples: int | None = None,
        by_rule: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(strength, samples, by_rule, seed)
        check_choice(self.name, "fisher", fisher, KINDS)
        self.fisher = fisher

    def consolidate(self, examples: Data) -> None:
        for name, found in self.measured(examples).items():
            own = self.parameters[name].detach()
            total = found + self.importance[name] if name in self.importance else found
            anchor = self.anchor.setdefault(name, own.clone())
            anchor.lerp_(own, torch.where(total > 0, found / total, 0.0))
            self.importance[name] = total

    def assumptions(self) -> Assumptions:
        found = super().assumptions()
        backward = len(self.outputs or ()) if self.fisher == "exact" else 1
        return replace(found, epochs=found.epochs * (1 + 2 * backward) / 3 if backward else found.epochs)

    def measured(self, examples: Data) -> Importance:
        """The Fisher information of the task that ends."""
        x, y = self.chosen(examples)
        return fisher(self.circuit, x, y, kind=self.fisher, outputs=self.outputs, by_rule=self.by_rule, seed=self.seed)


class OnlineEWC(EWC):
    r"""Online elastic weight consolidation: one penalty, around the parameters at the end of the last task.

        L = L_task + strength/2 · Σ_i F̃_i (θ_i - θ*_i)²,    F̃ ← decay · F̃ + F_t

    Args:
        strength: λ.
        decay: γ, from 0 (the last task alone) to 1 (no task fades).
        fisher: as for `EWC`, and so are the rest.

    Raises:
        ConfigError: an option that cannot be.

    Source: Schwarz et al., "Progress & compress: a scalable framework for continual learning" (ICML 2018).

    Example:
        >>> from apical.optim import consolidation
        >>> consolidation.OnlineEWC(strength=100.0, decay=0.9).decay
        0.9
    """

    name = "online_ewc"
    title = "Online elastic weight consolidation"
    summary = "One quadratic penalty, whose Fisher information fades from task to task."
    paper = "Schwarz et al. 2018"

    def __init__(
        self,
        strength: float = 10.0,
        *,
        decay: float = 1.0,
        fisher: str = "exact",
        samples: int | None = None,
        by_rule: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(strength, fisher=fisher, samples=samples, by_rule=by_rule, seed=seed)
        self.decay = decay
        check_ranges(self.name, self, {"decay": (0 <= decay <= 1, "from 0 to 1")})

    def consolidate(self, examples: Data) -> None:
        for name, found in self.measured(examples).items():
            faded = self.importance[name] * self.decay if name in self.importance else 0
            self.importance[name] = found + faded
            self.anchor[name] = self.parameters[name].detach().clone()


class MAS(_Measured):
    r"""Memory aware synapses: importance is how much the size of the output depends on a parameter.

        L = L_task + strength · Σ_i Ω_i (θ_i - θ*_i)²,    Ω ← Ω + mean_x |d ||f(x)||² / dθ|

    θ* are the parameters at the end of the last task, f(x) the outputs that compete in the task. No labels are needed.

    Args:
        strength: λ.
        samples: examples of a task on which it is measured; None: all.
        by_rule: measure with the updates of the circuit's own rule in place of the gradient.
        seed: of the examples that are drawn.

    Raises:
        ConfigError: an option that cannot be.

    Source: Aljundi et al., "Memory aware synapses: learning what (not) to forget" (ECCV 2018), the global version.
    Departs from it: importances of tasks are added up.

    Example:
        >>> from apical.optim import consolidation
        >>> consolidation.MAS(strength=1.0).needs_boundaries
        True
    """

    name = "mas"
    title = "Memory aware synapses"
    summary = "A quadratic penalty, weighted by how much the output depends on a parameter."
    paper = "Aljundi et al. 2018"

    def __init__(
        self, strength: float = 0.1, *, samples: int | None = None, by_rule: bool = False, seed: int = 0
    ) -> None:
        super().__init__(strength, samples, by_rule, seed)

    def consolidate(self, examples: Data) -> None:
        x, _ = self.chosen(examples)
        for name, found in sensitivity(self.circuit, x, outputs=self.outputs, by_rule=self.by_rule).items():
            self.importance[name] = found + self.importance[name] if name in self.importance else found
            self.anchor[name] = self.parameters[name].detach().clone()
