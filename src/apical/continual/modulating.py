"""A protection that modulates how plastic hidden layers are: by the label of each example, or by its novelty."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from apical.continual.refusals import check_strengths
from apical.continual.replaying import Replay
from apical.errors import CheckpointError, ConfigError
from apical.layers import Credit
from apical.optim.consolidation import Assumptions
from apical.optim.consolidation.protection import LossOfLabels, bytes_of
from apical.options import check_choice
from apical.rules.hebbian.rules import Hebbian
from apical.rules.neuromodulation.naca import Modulatory
from apical.wiring import Wiring

COMPARED = 128  # kept examples that an example's novelty is measured against
_ITSELF = 0.01  # of its norm: an example at less distance is a copy of the same one


class Neuromodulation(Replay):
    r"""Neuromodulated plasticity: a third factor, set by label or novelty, scales how much hidden synapses change.

        dW_l = -eta mean over b of (m_l(b) * delta_l(b)) h_(l-1)(b)^T      hidden layers;   the read-out: m = 1

        by="label"      m_lj(b) = |phi(lambda_lj(y_b))|^p, divided by its mean over classes and units
        by="novelty"    m(b)    = 2 d_b^p / (d_b^p + u^p)
        d_b  the squared distance of the example to the nearest of 128 that are drawn from the memory, itself left out
        u    the mean of d over all examples so far, these included

    delta_l is the teaching signal of any rule; signals that travel down are not modulated, and no gate is in the
    forward pass, so that nothing can leak in testing. lambda and phi are NACA's level and curve (`apical.NACA`): there
    phi replaces the error, here its size decides how plastic each unit's synapses are while a class is learned, so that
    classes change other synapses each, more or less. The factor by novelty needs no label and is one for a sample. Both
    are 1 on average, or at the typical distance, so that a learning rate keeps its meaning.

    Examples are kept and replayed as in `Replay`. The weights of the model's layers are modulated; the parameters of
    norms, and synapses of a rule's own, learn as ever. With exponent=0 this is `Replay`.

    Args:
        by: "label" or "novelty".
        exponent: p, at least 0: the larger, the fewer units, or the fewer examples, learn.
        replayed: learn from kept examples. With False they are kept for the comparison alone.
        size: examples kept; 0 replays nothing, which "novelty" refuses.
        batch: examples drawn for each step, with replacement; None: as many as the current batch has.
        seed: of what is kept and drawn, and of lambda.

    Raises:
        ConfigError: an option is out of range; when it is attached, the network has no hidden layer or no rule, the
            rule is Hebbian, whose decay no factor of a sample can scale, or the batch axis is not 0; in the first
            step, the rule's signals have not one row for each example, or the circuit is compiled.

    Source: ours. The level and its curve: Zhang et al., Science Advances 9, eadi2947 (2023). It is not ahead of plain
        replay: see `docs/naca.md` for the measurement.

    Example:
        >>> import apical
        >>> apical.continual.Neuromodulation(by="novelty", size=200).assumptions().passes
        2.0
    """

    name = "neuromodulation"
    title = "Neuromodulated plasticity"
    summary = "The label or the novelty of an example scales how much hidden synapses change; with replay."
    paper = ""

    def __init__(
        self,
        *,
        by: str = "label",
        exponent: float = 1.0,
        replayed: bool = True,
        size: int = 500,
        batch: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(size=size, batch=batch, seed=seed)
        check_choice(self.name, "by", by, ("label", "novelty"))
        check_strengths(self.name, exponent=exponent)
        if by == "novelty" and not size:
            raise ConfigError(f"{self.name}: size=0, and novelty is measured against kept examples. Keep some.")
        self.by, self.exponent, self.replayed = by, exponent, replayed
        self._pathway = Modulatory(seed=seed)
        self._plasticity: dict[int, Tensor] = {}  # (classes, units ...) of each hidden layer
        self._typical, self._seen = torch.zeros(()), 0
        self._pending = False  # factors that no backward pass has used

    def attach(self, circuit: nn.Module, loss: LossOfLabels) -> None:
        super().attach(circuit, loss)
        wiring = getattr(circuit, "wiring", None)
        if not isinstance(wiring, Wiring):
            raise ConfigError(f"{self.name}: plasticity is that of a rule. Pass apical.Circuit(model, 'backprop').")
        if isinstance(getattr(circuit, "rule", None), Hebbian):
            raise ConfigError(
                f"{self.name}: the decay of {type(circuit.rule).__name__} is a sum over samples, which no factor of a "
                "sample can scale. Use a rule that learns from an error."
            )
        if wiring.batch_axis:
            raise ConfigError(f"{self.name}: batch_axis={wiring.batch_axis}, and it must be 0. Put the batch first.")
        self._hidden = {layer.index for layer in wiring.layers if layer not in wiring.readouts()}
        if not self._hidden:
            raise ConfigError(f"{self.name}: the model has no hidden layer, and only these are modulated. Add one.")
        self._wiring = wiring

    def correct(self) -> None:
        self._wiring.modulate = None
        if self._pending:
            raise ConfigError(
                f"{self.name}: the backward pass did not use the factors, as in a compiled circuit. Do not compile it."
            )

    def assumptions(self) -> Assumptions:
        found = super().assumptions()
        return replace(found, bytes=found.bytes + bytes_of(self._plasticity))

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "typical": self._typical, "seen": self._seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if not {"typical", "seen"} <= set(state):
            raise CheckpointError(f"{self.name}: the state has {sorted(state)}, and must have 'typical' and 'seen'.")
        super().load_state_dict({key: state[key] for key in state if key not in ("typical", "seen")})
        self._typical, self._seen = state["typical"].clone(), state["seen"]

    def _draw(self, current: int) -> list[Tensor]:
        return super()._draw(current) if self.replayed else []

    def _draws(self) -> int:
        return int(self.replayed)

    def _answer(self, x: Tensor, y: Tensor) -> Tensor:
        answer = super()._answer(x, y)
        if not self.exponent:
            return answer
        novelty = self._novelty(x) if self.by == "novelty" else None
        classes = answer.shape[1]

        def modulate(credit: Credit) -> Credit:
            self._pending = False
            if credit.post is None or credit.synapses is not None or credit.layer.index not in self._hidden:
                return credit
            # In time a sample has a row for each moment, time slowest.
            moments = max(1, len(credit.post) // len(y)) if self._wiring.sequences.neurons else 1
            if len(credit.post) != moments * len(y):
                raise ConfigError(
                    f"{self.name}: the rule teaches {credit.layer.name} with {len(credit.post)} rows for {len(y)} "
                    "examples. Use a rule with one signal for each example, such as FeedbackAlignment."
                )
            if novelty is None:
                factor = self._of_labels(credit, classes)[y.repeat(moments)]
            else:
                factor = _along(novelty.repeat(moments), credit.post)
            return credit._replace(modulator=factor if credit.modulator is None else factor * credit.modulator)

        self._wiring.modulate, self._pending = modulate, True
        return answer

    def _of_labels(self, credit: Credit, classes: int) -> Tensor:
        """How plastic each unit is for each class, (classes, units ...)."""
        assert credit.post is not None
        known = self._plasticity.get(credit.layer.index)
        if known is None or known.dtype != credit.post.dtype:
            levels = self._pathway.draw(credit.post.new_zeros(classes, *credit.post.shape[1:]), credit.layer)
            size = self._pathway.modulated(levels).abs() ** self.exponent
            known = self._plasticity[credit.layer.index] = size / size.mean()
        return known

    @torch.no_grad()
    def _novelty(self, x: Tensor) -> Tensor:
        """The factor of each example, (batch,)."""
        kept = self.memory.draw(COMPARED)
        if not kept:
            return x.new_ones(len(x))
        rows = x.flatten(1)
        distance = torch.cdist(rows, kept[0].flatten(1))
        distance.masked_fill_(distance < _ITSELF * rows.norm(dim=1, keepdim=True), torch.inf)
        nearest = distance.amin(1).square()
        known = nearest.isfinite()  # others than itself were drawn
        self._seen += len(x)
        mean = nearest.where(known, nearest.new_zeros(())).sum() / known.sum().clamp(min=1)
        self._typical = self._typical.to(mean).lerp(mean, len(x) / self._seen)
        size = torch.finfo(mean.dtype).tiny
        ratio = nearest.clamp(min=size).log() - self._typical.clamp(min=size).log()
        return torch.where(known, 2 * torch.sigmoid(self.exponent * ratio), 1.0)


def _along(factor: Tensor, post: Tensor) -> Tensor:
    """A factor of each sample, (batch,), with the axes of a signal."""
    return factor.view(-1, *[1] * (post.dim() - 1))
