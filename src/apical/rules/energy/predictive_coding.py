"""Predictive coding: layers predict each other, and weights learn from what is left of the errors once they settle."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from apical.errors import ConfigError
from apical.feedback.registry import Given
from apical.layers import BackwardPlan, Credit, Derivatives, ForwardState, Layer, Synapses
from apical.layers.axes import sum_per_sample
from apical.layers.credit import neuron_credits
from apical.options import check_choice
from apical.rules.energy.again import refuse_what_cannot_fire_again, widened
from apical.rules.energy.divergence import stop_where_diverged
from apical.rules.energy.incremental import learn_while_inferring
from apical.rules.energy.inference import Inference
from apical.rules.energy.nudging import Nudge, UnsettledWarning, check_loss
from apical.rules.energy.relaxation import Hierarchy, Relaxation
from apical.rules.energy.wavefront import shares, teach_by_wave
from apical.rules.rule import LearningRule
from apical.wiring import Wiring

_VARIANTS: Mapping[str, tuple[int | None, float]] = MappingProxyType(
    {
        "fixed_prediction": (None, 1.0),
        "zero_divergence": (None, 1.0),
        "strict": (20, 0.05),
        "error_optimised": (4, 0.5),
        "incremental": (20, 0.05),
    }
)
"""Every variant, its number of steps (None: as many as there are levels of hidden layers) and its rate."""
_FREE_NEURONS = ("fixed_prediction", "zero_divergence")
_KINDS = {"fixed_prediction": "fixed", "error_optimised": "errors", "strict": "values", "incremental": "values"}


class PredictiveCoding(LearningRule):
    """Predictive coding: every layer predicts the next, and weights learn from what stays unpredicted.

        F = 1/2 sum_l |e_l|^2 + C(a_L),   e_l = v_l - a_l,   a_l = W_l phi(v_(l-1)) + b_l,   from v_l = a_l on
        v_l <- v_l + rate (-e_l + phi'(v_l) W_(l+1)^T e_(l+1)),   e_L = -dC/dy          (inference)
        dW_l = eta e_l phi(v_(l-1))^T                                                    (learning)

    v is the value at a layer's soma, a what the layers below predict of it, e the error between. The output is nudged
    by the loss; a layer that drives no other holds no value. The same holds on any graph: phi is whatever lies between
    a layer's soma and the next synapses (activation, norm, pooling, residual sums), and its derivative carries errors
    back. What the variants differ in:

    - "fixed_prediction": a and phi' stay those of the free pass. Settles at backpropagation's signals: at rate 1 it is
      there after as many steps as there are hidden layers on the longest way. **The default**: it learns as well as
      backpropagation with the same learning rate, whatever the network and the loss, and cannot diverge.
    - "zero_divergence" (Z-IL): inference at rate exactly 1, and a layer t synapses below the output learns at step t
      alone: backpropagation again. On other graphs than chains, errors that come by a shorter way wait for those that
      come by a longer one (Salvatori et al. 2022), which is one wave downwards.
    - "strict": F's own descent, towards its minimum; not backpropagation. Needs many small steps, the more the deeper.
    - "error_optimised" (ePC): the errors are the state, v_l = a_l + e_l in one perturbed forward pass, and descend on F
      by e_l <- e_l + rate (-e_l + phi'(v_l) W_(l+1)^T s_(l+1)), with s the signal that arrived and not its error. The
      same minimum as strict; every layer is reached in the first step, and small errors drown in no rounding.
    - "incremental" (iPC): W moves at every step of inference, by eta / steps, beside v. `loss.backward()` leaves the
      sum of these moves over eta, with the model's weights untouched: with SGD(lr=learning_rate), step() arrives at the
      weights that iPC arrives at. Other optimizers take it for what it is, an average over the steps.

    Args:
        variant: see above.
        steps: of inference, at most; None: as many as the network is deep (fixed_prediction), 20 (strict, incremental),
            4 (error_optimised).
        rate: of inference, up to 1; None: 1 (fixed_prediction), 0.05 (strict, incremental), 0.5 (error_optimised).
        tolerance: stop when no layer's velocity is more than this part of its signal, and warn, once, if that does
            not come within `steps`. None: take all steps. Inside `torch.compile` all steps are taken.
        momentum: of inference.
        loss: "cross_entropy" or "mse" where the loss is F.cross_entropy or F.mse_loss: the output's error is then
            dC/dy at the output as it is. None, for any other: it stays dC/dy at the free output. That pushes on with
            the same strength however far the output has gone, and training at full nudging may run away: tell it the
            loss, or lower `nudging`. Fixed predictions have no use for it.
        nudging: multiplies the output's error, and is divided out of what the weights learn. Towards 0, strict and
            error_optimised become backpropagation; their difference falls in proportion. It may be negative.
        clamped: hold the output at y - nudging dC/dy, e_L = that - a_L (Pinchetti et al.'s positive or negative
            nudging; at nudging 1 and half the squared error, the classical clamp to the target). **Does not become
            backpropagation however weak the nudging.**
        feedback: a pathway of `apical.feedback` by name or object: "tied" (W^T), "kolen_pollack" (weights of their own
            that take W's increments: give the optimizer `circuit.parameters()` and a weight decay), "fixed" (random),
            "sign_symmetric" or "weight_mirror". Without symmetric weights no energy descends.
        learning_rate: of "incremental": the optimizer's, for a mean loss.
        seed: of the feedback weights.

    Shapes: v, a and e have that of the layer's drive, (batch, units ...).

    Needs: any circuit. With values that move (strict, error_optimised, incremental), neurons fire again at every step:
    dropout masks and batch statistics are the free pass's (the derivative of batch norm too, and it goes by way of the
    statistics), and running statistics move once. Layers below all that learns hold still.

    Raises: ConfigError on options that do not exist or do not fit; CircuitError on neurons that draw random numbers of
    their own at every call; NonFiniteError where inference diverges.

    Departs from the papers: the energy of a sample has no factor for the batch, so that rate and nudging mean the same
    at every batch size; incremental divides the learning rate by the number of steps, so that one learning rate suits
    all variants. Where every way from the output to a layer has the same number of errors on it, what fixed predictions
    come to after any number of steps is computed in one wave (see `apical.rules.wavefront`), to rounding the same.

    Source: Whittington and Bogacz, Neural Computation 29, 1229 (2017) (strict); Millidge, Tschantz and Buckley,
    arXiv:2006.04182 (2020) (fixed predictions); Song, Lukasiewicz, Xu and Bogacz, NeurIPS 2020 (Z-IL), and Salvatori et
    al., AAAI 2022 (on any graph); Salvatori et al., ICLR 2024 (iPC); Goemaere et al. 2025 (ePC); Pinchetti et al.,
    ICLR 2025 (benchmarks, clamp nudging).
    """

    name = "predictive_coding"
    title = "Predictive coding"
    summary = (
        "Layers predict each other and settle between input and nudged output; weights learn what stays unpredicted."
    )
    paper = (
        "Whittington & Bogacz 2017; Millidge et al. 2022; Song et al. 2020; Salvatori et al. 2024; Goemaere et al. 2025"
    )
    needs = "any circuit; symmetric weights, unless feedback says otherwise"
    observables: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "step": "steps of inference so far",
            "prediction_error": "v - a at the soma of a hidden layer, (batch, units ...)",
            "energy": "half the sum of the squared prediction errors of each sample, (batch,)",
            "residual": "largest velocity left in any layer, as a part of its signal; only with a tolerance",
        }
    )

    def __init__(
        self,
        *,
        variant: str = "fixed_prediction",
        steps: int | None = None,
        rate: float | None = None,
        tolerance: float | None = None,
        momentum: float = 0.0,
        loss: str | None = None,
        nudging: float = 1.0,
        clamped: bool = False,
        feedback: Given = "tied",
        learning_rate: float = 0.05,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.variant = variant
        self.steps = steps
        self.rate = rate
        self.tolerance = tolerance
        self.momentum = momentum
        self.loss = loss
        self.nudging = nudging
        self.clamped = clamped
        self.learning_rate = learning_rate
        self.seed = seed
        self.take_pathway(feedback, seed=seed)
        self._check()
        self._told = False

    def _check(self) -> None:
        """Refuse options that do not exist, or that the variant has no use for."""
        check_choice("PredictiveCoding", "variant", self.variant, tuple(_VARIANTS))
        check_loss("PredictiveCoding", self.loss)
        variant = f"PredictiveCoding(variant={self.variant!r})"
        if self.variant == "zero_divergence" and any(
            (self.steps is not None, self.rate not in (None, 1.0), self.tolerance is not None, self.momentum)
        ):
            raise ConfigError(
                f"{variant}: its rate is exactly 1 and its steps are as many as the network is deep, or it is not this "
                "algorithm. Leave out steps, rate, tolerance and momentum, or say variant='fixed_prediction'."
            )
        if self.variant in _FREE_NEURONS and (self.loss is not None or self.clamped or self.nudging != 1):
            raise ConfigError(
                f"{variant}: its predictions stay those of the free pass, so the output's error never changes. Leave "
                "out loss, nudging and clamped, or say variant='strict'."
            )
        if self.variant == "incremental" and self.tolerance is not None:
            raise ConfigError(
                f"{variant}: weights move at every step, so there is no state to settle in. Leave out tolerance."
            )
        if self.loss is not None and self.clamped:
            raise ConfigError(
                f"{variant}: a clamped output follows no loss; say loss={self.loss!r} or clamped=True, not both."
            )
        steps_fit = self.steps is None or self.steps >= 1
        rate_fits = self.rate is None or 0 < self.rate <= 1
        if not (steps_fit and rate_fits and 0 <= self.momentum < 1):
            raise ConfigError(
                f"PredictiveCoding: steps={self.steps!r} must be at least 1, rate={self.rate!r} above 0 and at most 1, "
                f"momentum={self.momentum!r} at least 0 and below 1."
            )
        if self.tolerance is not None and not 0 < self.tolerance < 1:
            raise ConfigError(
                f"PredictiveCoding: tolerance={self.tolerance!r} must be between 0 and 1: it is the part of a layer's "
                "signal by which its state may still move."
            )
        if not (math.isfinite(self.nudging) and self.nudging):
            raise ConfigError(
                f"PredictiveCoding: nudging={self.nudging!r} must be a number other than 0: it multiplies the output's "
                "error, and is divided out of what the weights learn."
            )
        if not (math.isfinite(self.learning_rate) and self.learning_rate >= 0):
            raise ConfigError(f"PredictiveCoding: learning_rate={self.learning_rate!r} must be at least 0.")

    @property
    def saves_drives(self) -> bool:  # type: ignore[override]
        return self.variant not in _FREE_NEURONS

    @property
    def saves_rates(self) -> bool:  # type: ignore[override]
        return self.variant not in _FREE_NEURONS

    def setup(self, wiring: Wiring) -> None:
        super().setup(wiring)
        if self.variant not in _FREE_NEURONS:
            refuse_what_cannot_fire_again(
                wiring, "PredictiveCoding", ", or variant='fixed_prediction', whose neurons fire once"
            )

    def forward(self, wiring: Wiring, x: Tensor, plan: BackwardPlan) -> tuple[Tensor, ForwardState]:
        if self.variant in _FREE_NEURONS:
            return super().forward(wiring, x, plan)
        y, state = super().forward(wiring, x, widened(plan))
        state.plan = plan
        return y, state

    def assign_credit(self, wiring: Wiring, state: ForwardState, error: Tensor) -> Iterator[Credit]:
        hierarchy = Hierarchy(wiring, state.plan)
        own = {layer: self.pathway.weight(layer) for layer in wiring.layers if layer.feeds_back}
        default, rate = _VARIANTS[self.variant]
        rate = rate if self.rate is None else self.rate
        steps = self.steps or default or hierarchy.depth
        if self.variant == "zero_divergence":
            yield from self._wave(wiring, state, error, own, hierarchy, None)
            return
        if self.variant == "fixed_prediction" and hierarchy.levelled:
            parts, residual, taken = shares(hierarchy.depth, steps, rate, self.momentum, self.tolerance)
            self._tell(residual, taken, rate)
            yield from self._wave(wiring, state, error, own, hierarchy, parts)
            return
        states = Relaxation(wiring, state, hierarchy, own)
        samples = wiring.samples(state, error)
        nudge = self._nudge(states, error, samples)
        inference = Inference(
            states,
            nudge,
            kind=_KINDS[self.variant],
            rate=rate,
            momentum=self.momentum,
            tolerance=self.tolerance,
        )
        unit = 1 / (samples * self.nudging)
        before = None if self.variant == "fixed_prediction" else (states.y, nudge())
        if self.variant == "incremental":

            def after() -> None:
                self._show(inference)
                self._judge(inference, before, nudge())

            yield from learn_while_inferring(
                inference,
                lambda: self._credits(states, nudge(), unit / steps),
                steps,
                self.learning_rate * samples / wiring.batch_size(state, error),
                tied=self.pathway.descends,
                after=after,
            )
            return
        for _ in range(steps):
            settled = inference.step()
            self._show(inference)
            if settled:
                break
        pushed = nudge()
        self._judge(inference, before, pushed)
        if inference.residual is not None:
            self._tell(inference.residual, inference.taken, rate)
        yield from self._credits(states, pushed, unit)

    def _nudge(self, states: Relaxation, error: Tensor, samples: float) -> Callable[[], Tensor]:
        """The error at the output, of each sample, as the states are now."""
        if self.variant == "fixed_prediction":
            constant = error * samples
            return lambda: constant
        free = states.y
        error = error.to(free.dtype)
        if self.clamped:
            target = free - error * (samples * self.nudging)
            return lambda: states.y - target
        wiring = states.wiring
        axis, mean = states.state.batch_axis(wiring.output), wiring.reduction == "mean"
        nudge, strength = Nudge(self.loss, free, error, samples, batch_axis=axis, mean=mean), self.nudging
        return (lambda: nudge(states.y)) if strength == 1 else (lambda: nudge(states.y) * strength)

    def _wave(
        self,
        wiring: Wiring,
        state: ForwardState,
        error: Tensor,
        weights: Mapping[Layer, Tensor],
        hierarchy: Hierarchy,
        parts: list[float] | None,
    ) -> Iterator[Credit]:
        samples = wiring.samples(state, error)

        def show(layer: Layer, post: Tensor) -> None:
            if layer.index in hierarchy.levels:
                shown = _carried(post * samples, state.batch_axis(layer.index + 1))
                wiring.show(layer, step=torch.tensor(hierarchy.levels[layer.index]), **shown)

        seen = show if wiring.observers else None
        yield from teach_by_wave(wiring, state, error, weights, self._reciprocals(wiring), hierarchy, parts, seen)

    def _reciprocals(self, wiring: Wiring) -> dict[Layer, Synapses]:
        found = {layer: self.pathway.reciprocal(layer) for layer in wiring.layers}
        return {layer: feedback for layer, feedback in found.items() if feedback is not None}

    def _credits(self, states: Relaxation, error: Tensor, unit: float) -> Iterator[Credit]:
        """What the synapses see in the states as they are.

        Args:
            states: of the layers.
            error: at the output, of each sample.
            unit: what a sample's signal is multiplied by for the loss's mean.
        """
        state, levels = states.state, states.levels
        learns = state.plan.requires_grad
        gradients: Derivatives = {}
        # Signals need to be carried to where they arrived anyway only for those that learn by what arrives: the
        # neurons' own parameters, and whatever made the input.
        learners = {
            node for node, _ in states.up if any(learns[slot] for slots in node.parameter_indices for slot in slots)
        }
        carried = bool(learners) or state.plan.needs_signal[0]
        reciprocals = self._reciprocals(states.wiring)
        found: list[Credit] = []

        def visit(layer: Layer, message: Tensor | None) -> Tensor | None:
            index = layer.index
            if index in levels:
                if message is not None and layer in learners:
                    states.back(layer, message, learns, gradients)
                post = states.posts.get(index)
                post = torch.zeros_like(layer.synapses.forward(states.pre(layer))) if post is None else post * unit
            elif message is None:
                return None
            else:
                post = states.back(layer, message, learns, gradients)
            found.append(Credit(layer, states.pre(layer), post, reciprocal=reciprocals.get(layer)))
            return post if carried else None

        state.input_signal = states.sweep(error * unit, visit, learns, gradients)
        yield from found
        yield from neuron_credits([node for node, _ in states.down], gradients)

    # What it says of itself

    def _show(self, inference: Inference) -> None:
        states = inference.states
        if not states.wiring.observers:
            return
        more = {} if inference.residual is None else {"residual": torch.tensor(inference.residual)}
        for layer in states.wiring.layers:
            post = states.posts.get(layer.index)
            if layer.index in states.levels and post is not None:
                states.wiring.show(
                    layer,
                    step=torch.tensor(inference.taken),
                    **_carried(post, states.state.batch_axis(layer.index + 1)),
                    **more,
                )

    def _tell(self, residual: float, steps: int, rate: float) -> None:
        """Say once that the states have not settled."""
        if self.tolerance is None or residual <= self.tolerance or self._told:
            return
        self._told = True
        quicker = ", rate" if rate < 1 else ""
        warnings.warn(
            f"PredictiveCoding(variant={self.variant!r}): after {steps} steps the states have not settled: some layer "
            f"still moves by {residual:.1e} of its signal, and {self.tolerance:.1e} was asked for. Raise steps{quicker}"
            " or tolerance, or take variant='error_optimised', which needs fewer steps. This is said once.",
            UnsettledWarning,
            stacklevel=2,
        )

    def _judge(self, inference: Inference, before: tuple[Tensor, Tensor] | None, pushed: Tensor) -> None:
        # Where weights are symmetric this is descent; and errors that follow a bounded push stay bounded.
        bounded = self.variant == "strict" or self.loss in ("mse", "squared_error") or self.clamped
        falls = self.pathway.descends and bounded
        remedy = "Lower rate or momentum, or lower nudging."
        if self.loss is None and not self.clamped:
            remedy = "Tell it the loss (loss='cross_entropy' or 'mse') so that the push ends with it, or l" + remedy[1:]
        stop_where_diverged(
            inference, before, pushed, rule=f"PredictiveCoding(variant={self.variant!r})", falls=falls, remedy=remedy
        )


def _carried(post: Tensor, batch_axis: int | None) -> dict[str, Tensor]:
    return {"prediction_error": -post, "energy": sum_per_sample(post.square(), batch_axis) / 2}
