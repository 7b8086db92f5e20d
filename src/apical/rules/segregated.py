"""Segregated dendrites: the difference of two plateau potentials, with and without the target, is the error."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from apical.errors import CircuitError, ConfigError
from apical.layers import Node, Record
from apical.layers.synapses import LinearSynapses
from apical.options import check_choice
from apical.rules.direct_feedback import DirectFeedbackAlignment
from apical.wiring import Activity, Credit, Reach, Wiring

_FEEDBACKS = ("broadcast", "sparse", "symmetric")


class SegregatedDendrites(DirectFeedbackAlignment):
    """Segregated dendrites: each layer's apical dendrites see the output, without and with its target.

    The output's rates y reach the apical dendrites of every layer over fixed weights. At the end of each of two
    phases the dendrite fires a plateau potential; the difference is the layer's teaching signal. With sigma the
    logistic function, per sample:

        forward phase   alpha_f = sigma(gain * Y_l y)
        target phase    alpha_t = sigma(gain * Y_l y_t),     y_t = y - dL/dy
        delta_l = -(4 / gain) (alpha_t - alpha_f) * phi'(v_l),     dW_l = -eta delta_l r_(l-1)^T

    The layers that the output reads use the error itself. Where plateaus do not saturate, and gain * Y_l dL/dy is
    small, this is direct feedback alignment: 4 / gain undoes the slope of the logistic function.

    Args:
        feedback: Y: "broadcast" (random from every output), "sparse" (a random part of these, larger by as much as
            keeps their power) or "symmetric" (the product of the forward weights above the layer, at every step).
        density: the part of Y that sparse feedback keeps.
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

    name = "segregated_dendrites"
    title = "Segregated dendrites"
    summary = "The output reaches every layer's apical dendrites; plateau potentials with and without target differ."
    paper = "Guerguiev et al. 2017"
    needs = "any circuit; answers of one size"
    connection = "feedback to its apical dendrites"
    carries: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "apical_potential": "gain * Y y of the forward phase, without unit",
            "forward_plateau": "alpha_f, from 0 to 1",
            "target_plateau": "alpha_t, from 0 to 1",
        }
    )

    def __init__(
        self,
        *,
        feedback: str = "broadcast",
        density: float = 0.2,
        gain: float = 1.0,
        init: str = "match",
        scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(init=init, scale=scale, seed=seed)
        check_choice("SegregatedDendrites", "feedback", feedback, _FEEDBACKS)
        if not 0 < density <= 1:
            raise ConfigError(f"SegregatedDendrites: density={density!r} must be above 0 and at most 1.")
        if not (math.isfinite(gain) and gain > 0):
            raise ConfigError(f"SegregatedDendrites: gain={gain!r} must be a positive number: it is divided out again.")
        self.feedback = feedback
        self.density = density
        self.gain = gain

    def bind(self, wiring: Wiring) -> None:
        if self.feedback == "symmetric":
            _refuse_what_has_no_transpose(wiring)
        super().bind(wiring)

    @property
    def ready(self) -> bool:
        return self.feedback == "symmetric" or super().ready

    def prepare(self, wiring: Wiring, activity: Activity, y: Tensor) -> None:
        super().prepare(wiring, activity, y)
        if self.feedback == "sparse":
            for name, weights in self.weights.named_buffers():
                # Uniform numbers of the same source: below the density's quantile the synapse is there.
                drawn = self.randomness.uniform(weights, 1 / math.sqrt(12), f"{name}/density") + 0.5
                weights.mul_((drawn < self.density) / math.sqrt(self.density))

    def respond(self, wiring: Wiring, x: Tensor, reach: Reach) -> tuple[Tensor, Activity]:
        y, activity = super().respond(wiring, x, reach)
        record = activity.records[wiring.output - 1] if wiring.output else None
        if record is not None:
            record.rate = y.clone()  # the answer may be overwritten before it teaches
        return y, activity

    def teach(self, wiring: Wiring, activity: Activity, error: Tensor) -> Iterator[Credit]:
        answer = activity.records[wiring.output - 1]
        if answer is None or answer.rate is None:  # no error has any way from the output
            return
        samples = wiring.samples(error)
        # The target phase in both halves of one batch: what it adds is kept apart from what was there before.
        # In low precision, what a small error adds to a plateau would not survive.
        wide = torch.promote_types(error.dtype, torch.float32)
        sent = torch.cat([self.signal(wiring, answer.rate.to(wide)), self.signal(wiring, error.to(wide)) * -samples])
        products = self._products(wiring) if self.feedback == "symmetric" else {}

        def plateau(node: Node, record: Record) -> Tensor | None:
            weights = products.get(node.index)
            if weights is None:
                if node not in self.weights:
                    return None
                weights = self.weights[node]
            weights = self._checked(node, weights, record, sent.shape[1])
            potential = sent.mm(weights.flatten(1).to(wide)).to(wide).mul_(self.gain)
            apical, pushed = potential.view(2, *record.shape)
            before, after = torch.sigmoid(apical), torch.sigmoid(apical + pushed)
            if wiring.observers:
                wiring.show(node, apical_potential=apical, forward_plateau=before, target_plateau=after)
            return before.sub_(after).mul_(4 / (self.gain * samples)).to(record.dtype)

        yield from self._teach_each(wiring, activity, error, plateau)

    def _products(self, wiring: Wiring) -> dict[int, Tensor]:
        """Symmetric feedback: for every layer the product of the forward weights above it."""
        *lower, last = wiring.layers
        found: dict[int, Tensor] = {}
        product, above = last.weight.detach() * self.scale, last
        for layer in reversed(lower):
            if layer.taught and above is not last:
                product = product.mm(above.weight.detach())
            found[layer.index], above = product, layer
        return found


def _refuse_what_has_no_transpose(wiring: Wiring) -> None:
    if not (wiring.is_chain() and all(isinstance(layer.synapses, LinearSynapses) for layer in wiring.layers)):
        raise CircuitError(
            "SegregatedDendrites: feedback='symmetric' is the product of the forward weights above each layer, which "
            "exists in a plain chain of nn.Linear alone. Use feedback='broadcast' or 'sparse'."
        )
