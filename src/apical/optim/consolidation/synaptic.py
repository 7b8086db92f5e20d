"""Protections of single synapses: tensors that are kept for each parameter of a model."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from apical.circuit import Circuit
from apical.errors import CheckpointError
from apical.optim.consolidation.protection import Data, LossOfLabels, Protection, refuse_loss_scale


class SynapticProtection(Protection):
    """A protection that keeps tensors for each parameter of the model.

    A circuit's rule may have feedback weights that learn. They are not protected: what a network knows is in the
    weights of its forward pass.

    Attributes:
        keeps: the attributes that hold its state, each a tensor for each parameter by the parameter's name.
        parameters: those of the model, by name, shared ones once.
        outputs: those that compete in this task; None: all.
    """

    keeps: ClassVar[tuple[str, ...]] = ()
    parameters: dict[str, nn.Parameter]
    outputs: list[int] | None = None

    def attach(self, circuit: nn.Module, loss: LossOfLabels) -> None:
        super().attach(circuit, loss)
        refuse_loss_scale(circuit, self.name)
        model = circuit.model if isinstance(circuit, Circuit) else circuit
        self.parameters = dict(model.named_parameters())
        for kept in self.keeps:
            setattr(self, kept, {})

    def begin_task(self, outputs: Sequence[int]) -> None:
        self.outputs = list(outputs)

    def learning(self) -> dict[str, nn.Parameter]:
        """The parameters that are not frozen."""
        return {name: own for name, own in self.parameters.items() if own.requires_grad}

    def state_dict(self) -> dict[str, Any]:
        return {"outputs": self.outputs, **{kept: dict(getattr(self, kept, {})) for kept in self.keeps}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state.keys() != {"outputs", *self.keeps}:
            raise CheckpointError(f"{self.name}: the state has {sorted(state)}. Load that of a {self.name}.")
        loaded = {kept: self._loaded(kept, state[kept]) for kept in self.keeps}
        self.outputs = None if state["outputs"] is None else list(state["outputs"])
        for kept, tensors in loaded.items():
            setattr(self, kept, tensors)

    def _loaded(self, kept: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = {}
        for name, tensor in tensors.items():
            own = self.parameters.get(name)
            if own is None or not self._fits(tensor, own):
                raise CheckpointError(
                    f"{self.name}: {kept} has {name} of {tuple(tensor.shape)}, and the network does not. Load the "
                    "state into the network that it was saved with."
                )
            found[name] = tensor.to(own.device, copy=True)
        return found

    def _fits(self, kept: Tensor, parameter: Tensor) -> bool:
        return kept.shape == parameter.shape


class Quadratic(SynapticProtection):
    r"""A penalty that holds each parameter at an anchor, the more firmly the more it matters.

        L = L_task + strength · share · Σ importance (θ - anchor)²

    Its derivative is added to `.grad` after the backward pass, whatever rule made that. Plain gradient descent on it is
    stable while lr · strength · 2 · share · importance stays below 2 for every parameter.

    Attributes:
        strength: of the penalty. With 0, `.grad` keeps its bits, and nothing is measured.
        share: 1/2 or 1, as the paper writes its penalty.
        importance: by parameter.
        anchor: by parameter.
    """

    needs_boundaries = True
    keeps: ClassVar[tuple[str, ...]] = ("importance", "anchor")
    share: ClassVar[float] = 1.0
    strength: float
    importance: dict[str, Tensor]
    anchor: dict[str, Tensor]

    @torch.no_grad()
    def correct(self) -> None:
        if not self.strength:
            return
        learning = self.learning()
        held = [
            (own, self.importance[name], self.anchor[name]) for name, own in learning.items() if name in self.importance
        ]
        if not held:
            return
        parameters, importances, anchors = (list(column) for column in zip(*held, strict=True))
        for own in parameters:
            if own.grad is None:
                own.grad = torch.zeros_like(own)
        away = torch._foreach_sub(parameters, anchors)
        torch._foreach_addcmul_(
            [own.grad for own in parameters], importances, away, value=2 * self.share * self.strength
        )

    @torch.no_grad()
    def end_task(self, examples: Data) -> None:
        if self.strength:
            self.consolidate(examples)

    def consolidate(self, examples: Data) -> None:
        """Renew importance and anchor from the task that ends."""
        raise NotImplementedError(f"{type(self).__name__} is abstract: it has no importance.")
