"""Segregated dendrites: the difference of two plateau potentials, with and without the target, is the error."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from apical.errors import ConfigError
from apical.feedback.registry import Given
from apical.layers import BackwardPlan, Credit, ForwardState, Node, NodeState
from apical.rules.alignment.direct_feedback import DirectFeedback
from apical.wiring import Wiring


class SegregatedDendrites(DirectFeedback):
    """Segregated dendrites: each layer's apical dendrites see the output, without and with its target.

    The output's rates y plan the apical dendrites of every layer over fixed weights. At the end of each of two
    phases the dendrite fires a plateau potential; the difference is the layer's teaching signal. With sigma the
    logistic function, per sample:

        forward phase   alpha_f = sigma(gain * Y_l y)
        target phase    alpha_t = sigma(gain * Y_l y_t),     y_t = y - dL/dy
        delta_l = -(4 / gain) (alpha_t - alpha_f) * phi'(v_l),     dW_l = -eta delta_l r_(l-1)^T

    The layers that the output reads use the error itself. Where plateaus do not saturate, and gain * Y_l dL/dy is
    small, this is direct feedback alignment: 4 / gain undoes the slope of the logistic function.

    Args:
        feedback: Y, the pathway "direct" or an object of it: `apical.feedback.Direct()` (random from every output: the
            paper's broadcast), `Direct(density=0.2)` (its sparse feedback) or `Direct(symmetric=True)` (the product of
            the forward weights above the layer, at every step).
        gain: how strongly feedback drives the plateau potential; divided out again.
        init: as for direct feedback alignment, of random Y.
        scale: as for direct feedback alignment.
        seed: of Y.

    Shapes: Y_l is kept as (outputs, units of layer l ...), made at the circuit's first response; symmetric feedback
    keeps nothing.

    Needs: any circuit whose answers have one size, with answers of order one or normalised: a plateau that the
    answer saturates tells nothing of the target. Symmetric feedback exists in chains of `nn.Linear` whose rates
    arrive at the next layer as they are. Raises: ConfigError on unknown options; CircuitError where symmetric
    feedback does not exist, where the input is to be taught, or where a later answer has another size.

    Departs from the paper: rates alone, at the end of each phase, where the paper averages the spiking network's
    potentials over the phase's last 20-30 ms; the conductances (k_B, k_D), the largest rate and the learning rates
    that undo it are divided out, so that one learning rate suits this and backpropagation; the output is driven by
    the loss's derivative, which for half the squared error is the target; phi is the circuit's own activation; and
    the apical dendrite does not drive the soma (g_A = 0, the paper's main setting).

    Source: Guerguiev, Lillicrap and Richards, eLife 6, e22901 (2017).
    """

    takes_time = False  # its plateaus compare two steady outputs
    name = "segregated_dendrites"
    title = "Segregated dendrites"
    summary = "The output reaches every layer's apical dendrites; plateau potentials with and without target differ."
    has_absolute_scale = True
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = MappingProxyType({"target_plateau": (0.0, 1.0)})
    paper = "Guerguiev et al. 2017"
    observables: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "apical_potential": "gain * Y y of the forward phase, without unit",
            "forward_plateau": "alpha_f, from 0 to 1",
            "target_plateau": "alpha_t, from 0 to 1",
        }
    )

    def __init__(
        self,
        *,
        feedback: Given = "direct",
        gain: float = 1.0,
        init: str = "match",
        scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not (math.isfinite(gain) and gain > 0):
            raise ConfigError(f"SegregatedDendrites: gain={gain!r} must be a positive number: it is divided out again.")
        self.gain = gain
        self.init = init
        self.scale = scale
        self.seed = seed
        self.take_pathway(feedback, init=init, scale=scale, seed=seed)

    def forward(self, wiring: Wiring, x: Tensor, plan: BackwardPlan) -> tuple[Tensor, ForwardState]:
        y, state = super().forward(wiring, x, plan)
        own = state.nodes[wiring.output - 1] if wiring.output else None
        if own is not None:
            own.rate = y.clone()  # users may modify the output in place
        return y, state

    def assign_credit(self, wiring: Wiring, state: ForwardState, error: Tensor) -> Iterator[Credit]:
        y = state.rate(wiring.output)
        if y is None:  # no error can leave the output
            return
        samples = wiring.samples(state, error)
        # In low precision, a small error would be lost beside the plateau.
        wide = torch.promote_types(error.dtype, torch.float32)
        output, target = y.to(wide) * self.gain, error.to(wide) * (-samples * self.gain)
        products = self.direct.products(wiring)

        def plateau(node: Node, own: NodeState) -> Tensor | None:
            apical = self.direct.bring(node, own, state, output, wiring.output, products)
            pushed = self.direct.bring(node, own, state, target, wiring.output, products)
            if apical is None or pushed is None:
                return None
            before, after = torch.sigmoid(apical), torch.sigmoid(apical + pushed)
            if wiring.observers:
                wiring.show(node, apical_potential=apical, forward_plateau=before, target_plateau=after)
            return before.sub_(after).mul_(4 / (self.gain * samples)).to(own.dtype)

        yield from self.teach_each(wiring, state, error, plateau)
