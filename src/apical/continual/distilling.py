"""Learning without forgetting: a network keeps the answers that it gave when a task began."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from apical.continual.refusals import check_strengths, require_free_error
from apical.errors import CheckpointError
from apical.optim.consolidation import Assumptions, Protection
from apical.optim.consolidation.protection import Data, LossOfLabels
from apical.options import check_positive


class LwF(Protection):
    """Learning without forgetting (LwF): on the data of a new task, answers keep what the network answered before it.

        L = l(B) + strength T^2 mean over B of KL(softmax(z' / T) || softmax(z / T))
        z' the outputs of the network as it was when the task began, in evaluation mode;   z those of now

    The softmax goes over the labels that earlier tasks had. Where tasks have outputs of their own (the scenario
    "task"), each has a softmax of its own, and the divergences add up. The first task has no earlier labels: its steps
    are those without protection, as all are with strength=0.

    With rules that learn from any error. Refused: rules that learn from the reward of a choice, Hebbian rules, and
    rules that read the label off the error. The outputs are taken to be logits.

    Args:
        strength: of the divergence; 0 protects nothing.
        temperature: T.

    Raises:
        ConfigError: an option is out of range; when it is attached, the rule is one of those refused.

    Source: Z. Li and D. Hoiem (2016), Learning without Forgetting, ECCV: the sum over earlier tasks of distillation
        losses with T = 2 and strength 1. T^2 keeps the size of the derivative (G. Hinton et al. 2015).
    """

    name = "lwf"
    title = "Learning without forgetting (LwF)"
    summary = "On the data of a new task, outputs for earlier labels stay what they were when the task began."
    paper = "Li & Hoiem 2016"
    needs_boundaries = True

    def __init__(self, *, strength: float = 1.0, temperature: float = 2.0) -> None:
        self.strength = strength
        self.temperature = temperature
        check_strengths(self.name, strength=strength)
        check_positive(self.name, temperature=temperature)
        self._outputs: tuple[int, ...] = ()
        self._labels: dict[tuple[int, ...], set[int]] = {}  # of earlier tasks, by the outputs that compete in them
        self._before: nn.Module | None = None
        self._heads: list[Tensor] = []

    def attach(self, circuit: nn.Module, loss: LossOfLabels) -> None:
        require_free_error(self.name, circuit, "the divergence from earlier outputs")
        super().attach(circuit, loss)
        self._outputs, self._labels, self._before, self._heads = (), {}, None, []

    def begin_task(self, outputs: Sequence[int]) -> None:
        self._outputs = tuple(outputs)
        if self._labels and self.strength:
            self._before = self._copy()
            self._heads = [torch.tensor(sorted(labels), device=self._device()) for labels in self._labels.values()]

    def end_task(self, examples: Data) -> None:
        self._labels.setdefault(self._outputs, set()).update(examples.y.tolist())

    def loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        answer, loss = super().loss(x, y)
        if self._before is None:
            return answer, loss
        with torch.no_grad():
            before = self._before(x) / self.temperature
        now = answer / self.temperature
        for head in self._heads:
            old, new = before.index_select(1, head).softmax(1), now.index_select(1, head).log_softmax(1)
            divergence = F.kl_div(new, old, reduction="batchmean")
            loss = loss + self.strength * self.temperature**2 * divergence
        return answer, loss

    def assumptions(self) -> Assumptions:
        # A forward pass is counted as a third of a step.
        return replace(super().assumptions(), passes=4 / 3 if self.strength else 1)

    def state_dict(self) -> dict[str, Any]:
        return {
            "outputs": list(self._outputs),
            "labels": [[list(outputs), sorted(labels)] for outputs, labels in self._labels.items()],
            "heads": self._heads,
            "before": None if self._before is None else self._before.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if set(state) != set(self.state_dict()):
            raise CheckpointError(f"lwf: the state has {sorted(state)}, and must have {sorted(self.state_dict())}.")
        self._outputs = tuple(state["outputs"])
        self._labels = {tuple(outputs): set(labels) for outputs, labels in state["labels"]}
        self._heads = [head.to(self._device()) for head in state["heads"]]
        self._before = None if state["before"] is None else self._copy()
        if self._before is not None:
            self._before.load_state_dict(state["before"])

    def _copy(self) -> nn.Module:
        """The network as it is now, in evaluation mode."""
        return copy.deepcopy(self.circuit).eval().requires_grad_(False)

    def _device(self) -> torch.device:
        return next(self.circuit.parameters()).device
