"""Synaptic metaplasticity: the stronger a hidden weight, the harder it is to weaken."""

from typing import Any

import torch
from torch import Tensor, nn

from apical.errors import ConfigError
from apical.kernels import tanh_
from apical.layers import kind_of
from apical.optim.consolidation.parametrised import parametrised, with_parametrisation
from apical.optim.consolidation.protection import LossOfLabels, Protection
from apical.options import check_ranges


class _Sign(torch.autograd.Function):
    """The sign, 1 for 0; the derivative passes straight through."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor) -> Tensor:
        return weight.ge(0).to(weight.dtype).mul_(2).sub_(1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None: ...

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Binary(nn.Module):
    """The parametrisation of a binary weight: the sign of a hidden one, which learns by its update."""

    def forward(self, hidden: Tensor) -> Tensor:
        """The binary weight."""
        binary: Tensor = _Sign.apply(hidden)  # type: ignore[no-untyped-call]
        return binary


class Metaplasticity(Protection):
    r"""Metaplastic synapses of a binarised network: hidden weights far from zero are hard to move back.

        W_b = sign(W_h)                                   in the forward pass, and for the rule
        ΔW_h ← ΔW_h (1 - tanh²(m |W_h|))                  where the step leads towards zero, W_h ΔW_h < 0

    ΔW_h is the step that the optimizer takes from the update of W_b, whatever the rule. A weight that tasks agree on
    grows, and is protected by its own size. No task boundaries are needed, and nothing more is kept.

    `prepare` returns a copy of the model whose linear and convolutional layers have binary weights. Their fan-in sets
    the scale of what follows, so each needs a norm after it; biases and norms learn as ever.

    Args:
        m: at least 0. With 0 no synapse is metaplastic.
        binary: True: as in the paper. False: the same steps of an ordinary network's weights, which is ours.

    Raises:
        ConfigError: an option that cannot be; a network without layers whose weights learn, or with weights that are
            computed already; binary=True for a network that `prepare` did not return.

    Source: Laborieux, Ernoult, Hirtzlin and Querlioz, "Synaptic metaplasticity in binarized neural networks" (Nature
    Communications 12, 2549, 2021). Departs from it: activations are the model's own, and batch norms are not exchanged
    from task to task.

    Example:
        >>> import torch
        >>> from apical.optim import consolidation
        >>> model = consolidation.Metaplasticity(m=1.35).prepare(torch.nn.Linear(4, 3), tasks=2)
        >>> model.weight.unique().tolist()
        [-1.0, 1.0]
    """

    name = "metaplasticity"
    title = "Synaptic metaplasticity"
    summary = "Binary weights, whose hidden weights resist steps towards zero the more, the larger they are."
    paper = "Laborieux et al. 2021"

    def __init__(self, m: float = 1.35, *, binary: bool = True) -> None:
        self.m, self.binary = m, binary
        check_ranges(self.name, self, {"m": (0 <= m < float("inf"), "a number, not negative")})

    def prepare(self, model: nn.Module, tasks: int) -> nn.Module:
        if not self.binary:
            return model
        return with_parametrisation(model, lambda weight: Binary(), self.name, biases=False)

    def attach(self, circuit: nn.Module, loss: LossOfLabels) -> None:
        super().attach(circuit, loss)
        if self.binary:
            self._hidden = [own for own, _ in parametrised(circuit, Binary)]
        else:
            weights = (module._parameters.get("weight") for module in circuit.modules() if kind_of(module) is not None)
            self._hidden = list({id(own): own for own in weights if own is not None}.values())
        if not self._hidden:
            raise ConfigError(
                f"{self.name}: the network has no {'binary ' * self.binary}weights. Build the circuit of the model "
                "that prepare returns."
            )

    @torch.no_grad()
    def step(self, optimizer: torch.optim.Optimizer) -> None:
        hidden: list[Tensor] = [own for own in self._hidden if own.requires_grad] if self.m else []
        if not hidden:
            optimizer.step()
            return
        before = [own.detach().clone() for own in hidden]
        optimizer.step()
        steps = torch._foreach_sub(hidden, before)
        towards = [step * own < 0 for step, own in zip(steps, before, strict=True)]
        held = torch._foreach_mul(before, self.m)
        for own in held:
            tanh_(own)
        torch._foreach_mul_(held, held)
        torch._foreach_mul_(held, towards)
        torch._foreach_addcmul_(hidden, steps, held, value=-1)
