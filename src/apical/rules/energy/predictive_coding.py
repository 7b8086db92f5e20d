"""Predictive coding: layers predict each other, and weights learn from the errors that remain once they settle."""

import math
import warnings
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from apical.errors import CircuitError, ConfigError
from apical.feedback.registry import Given
from apical.layers import BackwardPlan, Credit, ForwardState
from apical.options import check_choice, check_ranges
from apical.rules.energy.again import refuse_what_cannot_fire_again, widened
from apical.rules.energy.error_optimised import ErrorOptimised
from apical.rules.energy.fixed_prediction import FixedPrediction, ZeroDivergence
from apical.rules.energy.incremental import Incremental
from apical.rules.energy.inference import Inference
from apical.rules.energy.nudging import Nudge, check_loss
from apical.rules.energy.relax import ConvergenceMonitor
from apical.rules.energy.strict import Strict
from apical.rules.rule import LearningRule
from apical.wiring import Wiring

VARIANTS: Mapping[str, type[Inference]] = MappingProxyType(
    {
        inference.variant: inference
        for inference in (FixedPrediction, ZeroDivergence, Strict, ErrorOptimised, Incremental)
    }
)
"""Every variant by name."""


class PredictiveCoding(LearningRule):
    """Predictive coding: every layer predicts the next, and weights learn from the remaining prediction errors.

        F = 1/2 sum_l |e_l|^2 + C(a_L),   e_l = v_l - a_l,   a_l = W_l phi(v_(l-1)) + b_l,   from v_l = a_l on
        v_l <- v_l + rate (-e_l + phi'(v_l) W_(l+1)^T e_(l+1)),   e_L = -dC/dy          (inference)
        dW_l = eta e_l phi(v_(l-1))^T                                                    (learning)

    v is the value at a layer's soma, a its prediction by the layers below, e the error between. The output is nudged
    by the loss; a layer that drives no other holds no value. The same holds on any graph: phi is everything between
    a layer's soma and the next synapses (activation, norm, pooling, residual sums), and its derivative carries errors
    back. The variants:

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
      sum of these moves over eta, and does not change the model's weights: with SGD(lr=learning_rate), step() arrives
      at the weights of iPC. Other optimizers receive an average over the steps.

    Args:
        variant: see above.
        steps: of inference, at most; None: as many as the network is deep (fixed_prediction), 20 (strict, incremental),
            10 (error_optimised).
        rate: of inference, up to 1; None: 1 (fixed_prediction), 0.05 (strict, incremental), 0.2 (error_optimised).
        tolerance: stop when no layer's velocity is more than this part of its signal, and warn, once, if that does
            not happen within `steps`. None: take all steps. Inside `torch.compile` all steps are taken.
        momentum: of inference; None: 0, and 0.65 (incremental).
        loss: "cross_entropy", "mse" (F.mse_loss) or "squared_error" (half the squared distance, summed over outputs):
            the output's error is then dC/dy at the output as it is. None: the loss is recognised by dC/dy at the free
            output if it is one of these, cross-entropy with hard labels (or one label smoothing for all) or a squared
            error with targets 0 and 1; any other is refused at a nudging of 1 or more, and linear below. "linear", for
            any loss: the error stays dC/dy at the free output, of the same strength however far the output has moved,
            and training at full nudging may diverge. Fixed predictions have no use for it.
        nudging: multiplies the output's error, and is divided out of what the weights learn. Towards 0, strict and
            error_optimised become backpropagation; their difference falls in proportion. It may be negative.
        clamped: hold the output at y - nudging dC/dy, e_L = that - a_L (Pinchetti et al.'s positive or negative
            nudging; at nudging 1 and half the squared error, the classical clamp to the target). **Does not become
            backpropagation however weak the nudging.**
        feedback: a pathway of `apical.feedback` by name or object: "tied" (W^T), "kolen_pollack" (weights of their own
            that take W's increments: give the optimizer `circuit.parameters()` and a weight decay), "fixed" (random),
            "sign_symmetric" or "weight_mirror". Without symmetric weights no energy descends, so that divergence is
            recognised by states that are not finite (and a missing rest by `tolerance`) alone.
        learning_rate: of "incremental": the optimizer's, for a mean loss.
        seed: of the feedback weights.

    Each sample's factor in a cross-entropy of three or more classes (class weights, ignored targets, accumulation) is
    found in dC/dy. The sample settles as without it, and its update is multiplied by it. Other losses that are
    multiplied need `Circuit.loss_scale`, or `reduction`.

    Shapes: v, a and e have that of the layer's drive, (batch, units ...).

    Needs: any circuit. With values that move (strict, error_optimised, incremental), neurons fire again at every step:
    dropout masks and batch statistics are those of the free pass (the derivative of batch norm too, with that of its
    statistics), and running statistics move once. Layers below all that learns do not move.

    Raises: ConfigError on options that do not exist or do not fit; CircuitError on neurons that draw random numbers of
    their own at every call, and in the backward pass on a loss that is not recognised or is not the one passed;
    NonFiniteError where inference diverges.
    Warns: once, where the samples' factors differ: focal and generalised cross-entropy have the same derivative.

    Departs from the papers: the energy of a sample has no factor for the batch, so that rate and nudging mean the same
    at every batch size; incremental divides the learning rate by the number of steps, so that one learning rate suits
    all variants. Where every way from the output to a layer has the same number of errors on it, one wave computes the
    result of any number of steps with fixed predictions (see `apical.rules.energy.fixed_prediction`), to rounding.

    Source: Whittington and Bogacz, Neural Computation 29, 1229 (2017) (strict); Millidge, Tschantz and Buckley,
    arXiv:2006.04182 (2020) (fixed predictions); Song, Lukasiewicz, Xu and Bogacz, NeurIPS 2020 (Z-IL), and Salvatori et
    al., AAAI 2022 (on any graph); Salvatori et al., ICLR 2024 (iPC); Goemaere et al. 2025 (ePC); Pinchetti et al.,
    ICLR 2025 (benchmarks, clamp nudging).
    """

    name = "predictive_coding"
    title = "Predictive coding"
    summary = (
        "Layers predict each other and settle between input and nudged output; weights learn from the errors left."
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
        momentum: float | None = None,
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
        self.monitor = self._make_monitor()
        self._warned = False

    def _check(self) -> None:
        """Refuse options that do not exist, or that the variant has no use for."""
        check_choice("PredictiveCoding", "variant", self.variant, tuple(VARIANTS))
        check_loss("PredictiveCoding", self.loss)
        variant = f"PredictiveCoding(variant={self.variant!r})"
        for requirement in VARIANTS[self.variant].requirements:
            requirement.check(variant, self)
        if self.loss is not None and self.clamped:
            raise ConfigError(
                f"{variant}: a clamped output follows no loss. Pass loss={self.loss!r} or clamped=True, not both."
            )
        ranges = {
            "steps": (self.steps is None or self.steps >= 1, "at least 1"),
            "rate": (self.rate is None or 0 < self.rate <= 1, "above 0 and at most 1"),
            "momentum": (self.momentum is None or 0 <= self.momentum < 1, "at least 0 and below 1"),
            "tolerance": (
                self.tolerance is None or 0 < self.tolerance < 1,
                "between 0 and 1: it is the part of a layer's signal by which its state may still move",
            ),
            "nudging": (
                math.isfinite(self.nudging) and self.nudging != 0,
                "a number other than 0: it multiplies the output's error, and is divided out of what the weights learn",
            ),
            "learning_rate": (math.isfinite(self.learning_rate) and self.learning_rate >= 0, "at least 0"),
        }
        check_ranges("PredictiveCoding", self, ranges)

    def _make_monitor(self) -> ConvergenceMonitor:
        default = VARIANTS[self.variant].default_rate
        raised = "steps, rate" if (default if self.rate is None else self.rate) < 1 else "steps"
        lowered = "lower rate, momentum or nudging."
        if self.loss == "linear" and not self.clamped:
            lowered = f"pass the loss (loss='cross_entropy' or 'mse'), so that the push ends with it, or {lowered}"
        return ConvergenceMonitor(
            f"PredictiveCoding(variant={self.variant!r})",
            "the largest move of a layer, as a part of its signal,",
            if_unsettled=f"Raise {raised} or tolerance, or pass variant='error_optimised', which needs fewer steps.",
            if_diverged=lowered[0].upper() + lowered[1:],
        )

    @property
    def transposed_limit(self) -> str | None:  # type: ignore[override]
        if self.variant == "incremental" or self.clamped:
            return None
        if VARIANTS[self.variant].moves_rates:
            return "as nudging goes to 0 and inference settles"
        whole = self.rate in (None, 1) and self.steps is None and not self.momentum
        return "" if whole or self.variant == "zero_divergence" else "as inference settles"

    def check_recognised(self, nudge: Nudge) -> None:
        """Refuse a loss that was to be recognised and is not, where training would diverge.

        Raises:
            CircuitError: the loss is not known, and its derivative would be held constant at full nudging.
        """
        if self.loss is not None:
            return
        if torch.compiler.is_compiling():
            raise CircuitError(
                f"{self.monitor.rule}: loss=None is recognised by the values of dL/dy, which torch.compile does not "
                "read. Pass loss='cross_entropy', 'mse', 'squared_error' or 'linear'."
            )
        if nudge.loss is None and self.nudging >= 1 and bool(torch.isfinite(nudge.error).all()):
            raise CircuitError(
                f"{self.monitor.rule}: loss=None, and dL/dy, {tuple(nudge.error.shape)}, is not "
                "recognised as that of a cross-entropy with hard labels or of a squared error with targets 0 and 1, in "
                "float32 or float64. Pass loss='cross_entropy', 'mse' or 'squared_error'; for any other loss pass a "
                "nudging below 1, or loss='linear'."
            )
        if isinstance(nudge.scale, Tensor) and not self._warned:
            factors = nudge.scale[nudge.scale > 0]
            self._warned = bool(factors.amax() > factors.amin() * 1.001) if factors.numel() else False
            if self._warned:
                warnings.warn(
                    f"{self.monitor.rule}: the loss is recognised as a cross-entropy with a factor for each sample, "
                    "such as class weights. Focal and generalised cross-entropy have the same derivative. Pass "
                    "loss='cross_entropy' if it is this, or loss='linear' and a lower nudging if not. This warning "
                    "appears once.",
                    stacklevel=2,
                )

    @property
    def has_absolute_scale(self) -> bool:  # type: ignore[override]
        return self.saves_drives  # with fixed predictions it is linear in the error

    @property
    def follows_loss(self) -> bool:
        return self.saves_drives and not self.clamped

    @property
    def saves_drives(self) -> bool:  # type: ignore[override]
        return VARIANTS[self.variant].moves_rates

    @property
    def saves_rates(self) -> bool:  # type: ignore[override]
        return VARIANTS[self.variant].moves_rates

    def setup(self, wiring: Wiring) -> None:
        super().setup(wiring)
        self.monitor = self._make_monitor()
        if VARIANTS[self.variant].moves_rates:
            refuse_what_cannot_fire_again(
                wiring, "PredictiveCoding", ", or variant='fixed_prediction', whose neurons fire once"
            )

    def forward(self, wiring: Wiring, x: Tensor, plan: BackwardPlan) -> tuple[Tensor, ForwardState]:
        if not VARIANTS[self.variant].moves_rates:
            return super().forward(wiring, x, plan)
        y, state = super().forward(wiring, x, widened(plan))
        state.plan = plan
        return y, state

    def assign_credit(self, wiring: Wiring, state: ForwardState, error: Tensor) -> Iterator[Credit]:
        yield from VARIANTS[self.variant](self, wiring, state, error).assign_credit()
