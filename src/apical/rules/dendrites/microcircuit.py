"""The dendritic cortical microcircuit: errors are what interneurons fail to predict of the area above."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from apical.errors import ConfigError
from apical.feedback import Fixed
from apical.feedback.randomness import check_init, feedback_like, standard_deviation, uniform
from apical.feedback.registry import Given
from apical.feedback.weights import PerLayer
from apical.layers import BackwardPass, BackwardPlan, Credit, ForwardState, Layer, NodeState
from apical.options import check_choice, check_ranges
from apical.rules.dendrites.interneurons import Interneurons, LagWatch
from apical.rules.dendrites.inverse import Inverse, refuse_what_cannot_be_inverted
from apical.rules.dendrites.somas import Area, Mirror, Soma, areas_of, precise
from apical.rules.dendrites.steady_state import SteadyState, refuse_what_cannot_settle
from apical.rules.energy.relax import ConvergenceMonitor, relax
from apical.rules.rule import LearningRule
from apical.wiring import Wiring

_CHOICES = {
    "dynamics": ("two_step", "steady_state"),
    "interneurons": ("learned", "reciprocal", "tied"),
}


class DendriticMicrocircuit(LearningRule):
    """Dendritic microcircuits: the apical dendrite of a pyramid carries what its interneurons cannot explain.

    Each layer k is a population of pyramids with a soma u_k, a basal dendrite and an apical one. Interneurons, one for
    each pyramid of the layer above, learn to predict those from the same input, and inhibit the apical dendrites; the
    part of the feedback that remains there is the error. With phi the layer's activation,

        leak u_k  : u_k = v^_k + lambda_k vA_k,             v^_k = W_k r_(k-1) + b_k       (the model's own drive)
        apical    : vA_k = W^TD phi(u_(k+1)) + W^PI phi(u^I_k)
        interneur.: u^I_k = (1 - lambda_I) v^I_k + lambda_I u_(k+1),   v^I_k = W^IP r_k + b^I
        output    : u_N = (1 - lambda_N) v^_N + lambda_N u_trgt

        dW_k  = eta_k [phi(u_k) - phi(v^_k)] r_(k-1)^T             eta_k = eta / (lambda_N prod (1 - lambda_I) lambda)
        dW^IP = eta^IP [phi(u^I) - phi(v^I)] r_k^T                 eta^IP = prediction_rate eta_(k+1) / lambda_I
        dW^PI ~ -vA phi(u^I)^T
        dW^TD ~ [r_k - phi(W^TD phi(u_(k+1)))] phi(u_(k+1))^T

    In the self-predicting state, W^IP = W_(k+1) and W^PI = -W^TD, apical dendrites are silent without a teacher, and
    with a weak one the update is that of backpropagation (W^TD = W^T) or feedback alignment (W^TD random).

    The model's weights are the basal synapses *after* attenuation: the paper's W^PP is (g_lk + g_B + g_A) / g_B times
    W (without g_A at the output), and its W^IP is (g_lk + g_D) / g_D times ours. So a circuit without teacher has
    the output of the plain model. u_trgt is the free potential minus the loss's derivative: any loss will do.

    Args:
        dynamics: "two_step" (as the paper on MNIST: the free forward pass, and one pass down from the taught output)
            or "steady_state" (the fixed point of all equations above, found by iteration). The two differ by
            O(lambda_N lambda_k): the effect of the moving hidden layers on the output's prediction.
        feedback: W^TD, a pathway of `apical.feedback` by name or object, or "inverse" (learns to predict the rates
            below from those above).
        interneurons: "learned" (W^IP and its bias learn by the paper's rule, above), "reciprocal" (they have the
            increments of W_(k+1), and correct without a teacher what they predict wrongly: another model, which
            needs the change of each synapse of another area) or "tied" (always self-predicting: W^IP is the forward
            weights, which costs nothing).
        init: of W^TD where it has weights of its own, as for feedback alignment; "weights" starts at a copy of the
            forward ones.
        scale: multiplies W^TD at the start, and is not divided out.
        self_predicting: where interneurons start; otherwise W^IP (and W^PI, where it learns) is random.
        prediction_rate: multiplies the learning rate of learned interneurons; of reciprocal ones, the part that
            corrects their prediction.
        cancellation_rate: the learning rate of W^PI beside that of W; 0 keeps it, as the paper does on MNIST.
        inverse_rate: the same for W^TD where it is "inverse".
        leak: g_lk.
        basal: g_B.
        apical: g_A.
        dendritic: g_D.
        somatic: g_som of the interneurons.
        teaching: g_som of the output: the teacher's strength.
        settle_steps: most iterations of the steady state.
        tolerance: the steady state is found when no potential's shift moves by more than this part of the largest.
        seed: of W^TD.

    Shapes: W^TD, W^PI and W^IP have the shape of the layer's weight, of the area above; convolutions share them over
    space. They belong to the synapses between two areas, and layers with nothing to teach below them have none. Unless
    tied or fixed they are Parameters of the rule, with a `.grad` of their own.

    Needs: any circuit in two steps; learned interneurons need an optimizer over `circuit.parameters()`. The steady
    state needs a chain of synapses, activations and pooling. "inverse" needs layers whose rates arrive at the next
    one as they are. Raises: ConfigError on unknown or contradictory options; CircuitError on other circuits than these;
    NonFiniteError where the steady state diverges. Warns: UnsettledWarning, once, where it has not settled; once where
    learned interneurons lag behind by more than the teacher's shift.

    Pooling, norms and junctions propagate signals by their own derivative. A layer with a norm (or a module without
    a closed form) before its activation responds linearly to its apical dendrite, and its mirror is tied. Under a
    residual sum paths of several lengths meet; top-down synapses of the shorter ones count as weaker by the mixing
    factors that they skip, so that one learning rate a layer suits all.

    The shifts shrink by lambda (1 - lambda_I) = 0.24 with every layer, as the paper's do: in float32 ten layers are
    at the limit of what rounding leaves.

    Learned interneurons follow the pyramids to first order in the teacher's shift, exactly where phi is linear: in the
    self-predicting state with prediction_rate 1, dW^IP = dW. They have to predict better than that shift, or what they
    lag behind hides the error. Since eta^IP grows as the shifts shrink, their prediction is a stiff system: plain
    descent on it is stable for eta < 2 lambda_N prod (1 - lambda_I) lambda / (phi' |r|^2) alone, a quarter of it with
    every layer, and optimizers that rescale each parameter (Adam) move W^IP apart from W.

    Departs from the paper: learning rates are rescaled by the exact mixing factors, so that one suits this and
    backpropagation; in two steps, r is the free rate. The increments of W^PI and W^TD, and the correction by reciprocal
    interneurons, are divided by the number of synapses instead of by the mixing factors.

    Source: Sacramento, Ponte Costa, Bengio and Senn, NeurIPS 2018, eqs. 1-9 and the section on MNIST.
    """

    name = "dendritic_microcircuit"
    transposed_limit = "for a weak teacher in the self-predicting state"
    title = "Dendritic microcircuit"
    summary = "Apical dendrites carry what interneurons fail to predict of the area above."
    paper = "Sacramento et al. 2018"
    needs = "any circuit (steady state: a chain); an optimizer over circuit.parameters() where interneurons learn"
    recommended: ClassVar[Mapping[str, float]] = MappingProxyType({"learning_rate_factor": 0.1})
    observables: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "apical_potential": "vA of hidden layers' pyramids, in units of the drive: zero where all is predicted",
            "somatic_potential": "u with its teacher, in units of the drive (of layers that are not linearised)",
            "interneuron_rate": "rate of the interneurons below that mirror this layer, where anything learns there",
        }
    )
    has_absolute_scale = True
    saves_drives = True

    def __init__(
        self,
        *,
        dynamics: str = "two_step",
        feedback: Given = "fixed",
        interneurons: str = "learned",
        init: str = "match",
        scale: float = 1.0,
        self_predicting: bool = True,
        prediction_rate: float = 1.0,
        cancellation_rate: float = 0.0,
        inverse_rate: float = 1.0,
        leak: float = 0.1,
        basal: float = 1.0,
        apical: float = 0.8,
        dendritic: float = 1.0,
        somatic: float = 0.8,
        teaching: float = 0.8,
        settle_steps: int = 100,
        tolerance: float = 1e-5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_init("DendriticMicrocircuit", init, scale, ("match", "xavier", "weights"))
        self.dynamics = dynamics
        self.interneurons = interneurons
        self.init = init
        self.scale = scale
        self.self_predicting = self_predicting
        self.prediction_rate = prediction_rate
        self.cancellation_rate = cancellation_rate
        self.inverse_rate = inverse_rate
        self.leak = leak
        self.basal = basal
        self.apical = apical
        self.dendritic = dendritic
        self.somatic = somatic
        self.teaching = teaching
        self.settle_steps = settle_steps
        self.tolerance = tolerance
        self.seed = seed
        if feedback == Inverse.name:  # for this rule alone, so it is not in the registry
            self.take_pathway(Inverse(init=init, scale=scale, seed=seed))
            self._given_feedback = Inverse.name
        else:
            self.take_pathway(feedback, init=init, scale=scale, seed=seed)
        self._check()
        self.interneuron_weights = PerLayer()
        self.inhibition = PerLayer()
        self._areas: dict[int, Area] = {}
        self._lowest: set[int] = set()
        self.monitor, self.lag_watch = self._make_monitor(), LagWatch()

    def _make_monitor(self) -> ConvergenceMonitor:
        return ConvergenceMonitor(
            "DendriticMicrocircuit(dynamics='steady_state')",
            "the largest move of a potential, as a part of the teacher's shift,",
            if_unsettled="Raise settle_steps or tolerance, or weaken the feedback (teaching, apical or scale).",
            if_diverged="Weaken the feedback (teaching, apical or scale), or lower the learning rate.",
        )

    def _check(self) -> None:
        for option, known in _CHOICES.items():
            check_choice("DendriticMicrocircuit", option, getattr(self, option), known)
        positive = ("basal", "apical", "dendritic", "somatic", "teaching", "tolerance")
        others = ("leak", "prediction_rate", "cancellation_rate", "inverse_rate")
        ranges = {
            **{option: (0 < getattr(self, option) < math.inf, "above 0 and finite") for option in positive},
            **{option: (0 <= getattr(self, option) < math.inf, "at least 0 and finite") for option in others},
            "settle_steps": (self.settle_steps >= 1, "at least 1"),
        }
        check_ranges("DendriticMicrocircuit", self, ranges)
        if self.interneurons == "tied" and not self.self_predicting:
            raise ConfigError(
                "DendriticMicrocircuit: interneurons='tied' are always self-predicting. Pass interneurons='learned' "
                "with self_predicting=False."
            )
        inverse = isinstance(self.pathway, Inverse)
        if self.cancellation_rate and not (inverse or type(self.pathway) is Fixed):
            raise ConfigError(
                f"DendriticMicrocircuit: feedback={self.pathway.name!r} moves, and W_PI = -W_TD with it; a "
                "cancellation_rate has nothing to learn. Leave it 0, or use feedback='fixed' or 'inverse'."
            )
        if inverse and not self.cancellation_rate:
            raise ConfigError(
                "DendriticMicrocircuit: with feedback='inverse', W_PI has to follow, or uncancelled feedback fills the "
                "apical dendrites. Set a cancellation_rate, e.g. 1.0."
            )

    @property
    def output_mixing(self) -> float:
        """lambda_N: the target's share of an output pyramid's potential, which has no apical dendrite."""
        return self.teaching / (self.leak + self.basal + self.teaching)

    @property
    def apical_mixing(self) -> float:
        """lambda_k: the apical dendrite's share of a hidden pyramid's potential."""
        return self.apical / (self.leak + self.basal + self.apical)

    @property
    def interneuron_mixing(self) -> float:
        """lambda_I: the pyramid's share of the potential of the interneuron that mirrors it."""
        return self.somatic / (self.leak + self.dendritic + self.somatic)

    @property
    def teaches_input(self) -> bool:
        return super().teaches_input and self.interneurons == "tied" and self.dynamics == "two_step"

    def recommends(self) -> Mapping[str, float]:
        return super().recommends() if self.interneurons == "learned" else self.pathway.recommended

    def setup(self, wiring: Wiring) -> None:
        areas = areas_of(wiring, self.output_mixing, self.apical_mixing, self.interneuron_mixing)
        if self.dynamics == "steady_state":
            refuse_what_cannot_settle(wiring, areas)
        if isinstance(self.pathway, Inverse):
            refuse_what_cannot_be_inverted(wiring, areas)
        self.monitor, self.lag_watch = self._make_monitor(), LagWatch()
        self._areas = areas
        self._lowest = {layer.index for layer in wiring.lowest()}
        super().setup(wiring)
        self.interneuron_weights, self.inhibition = PerLayer(), PerLayer()
        for layer in wiring.layers:
            if layer.feeds_back:
                self._grow(layer)

    def _grow(self, layer: Layer) -> None:
        """Make the synapses of the interneurons that mirror a layer, in the area below."""
        weight = layer.weight.detach()
        if self._areas[layer.index].linearised:
            return
        bias = layer.synapses.bias
        known = self.self_predicting
        if self.interneurons != "tied":
            name = f"{layer.name}/interneurons"
            start = weight.clone() if known else feedback_like(weight, "match", 1.0, self.seed, name)
            own = None if bias is None else bias.detach().clone() if known else torch.zeros_like(bias)
            self.interneuron_weights.hold(layer, start, learned=True, bias=own)
        if self.cancellation_rate:
            top_down = self.pathway.weight(layer)
            name = f"{layer.name}/inhibition"
            start = -top_down if known else uniform(weight, standard_deviation(top_down), self.seed, name)
            self.inhibition.hold(layer, start, learned=True)

    def forward(self, wiring: Wiring, x: Tensor, plan: BackwardPlan) -> tuple[Tensor, ForwardState]:
        if self.dynamics == "two_step":
            return super().forward(wiring, x, plan)
        # The circuit settles as a whole, whichever of its parameters learn.
        y, state = super().forward(wiring, x, wiring.plan((True,) * len(plan.requires_grad), False))
        state.plan = plan
        return y, state

    def assign_credit(self, wiring: Wiring, state: ForwardState, error: Tensor) -> Iterator[Credit]:
        if self.self_predicting and not torch.compiler.is_compiling():
            self.lag_watch.begin_pass()
        if self.dynamics == "steady_state":
            yield from self._credit_settled(wiring, state, error)
            return
        samples, batch = wiring.samples(state, error), wiring.batch_size(state, error)
        interneurons = Interneurons(self, self._areas)
        walk = wiring.backward(state, error)
        for layer, own in walk:
            signal = walk.receive(layer)
            if signal is None:
                continue
            area, pre = self._areas[layer.index], own.pre
            assert pre is not None
            assert own.drive is not None
            if area.linearised:
                yield from self._credit_linearised(wiring, walk, layer, own, signal, samples)
                continue
            apical = area.to_pyramids(signal, own.saved)
            soma = Soma(area, *precise(layer, own.drive, pre, apical), samples, batch)
            mirror, below = interneurons.mirror(layer, pre, soma), None
            # Synapses onto a taught input learn in every pass, whether its signal is needed or not.
            if walk.needs_input_grad(layer) or (layer.index in self._lowest and layer.feeds_back):
                feedback = self.pathway.weight(layer)
                below = interneurons.unexplained(layer, pre, mirror, feedback), feedback
                if walk.needs_input_grad(layer):
                    walk.send(layer, below[0])
            yield from self._credits(wiring, layer, pre, interneurons, mirror, below)
        yield from walk.credits()

    def _credit_linearised(
        self, wiring: Wiring, walk: BackwardPass, layer: Layer, own: NodeState, signal: Tensor, samples: float
    ) -> Iterator[Credit]:
        """Credit for a layer whose pyramids respond linearly to their apical dendrites."""
        area, pre = self._areas[layer.index], own.pre
        assert pre is not None
        if wiring.observers and layer not in wiring.readouts():
            wiring.show(layer, apical_potential=signal * (-samples * area.gain / area.mixing))
        post = walk.somatic(layer, own, signal)
        if walk.needs_input_grad(layer):
            walk.send(layer, self.pathway.send(layer, post, pre))
        yield Credit(layer, pre, post, reciprocal=self.pathway.reciprocal(layer))

    def _credit_settled(self, wiring: Wiring, state: ForwardState, error: Tensor) -> Iterator[Credit]:
        samples, batch = wiring.samples(state, error), wiring.batch_size(state, error)
        feedback = {layer.index: self.pathway.weight(layer) for layer in wiring.layers if layer.feeds_back}
        interneurons = Interneurons(self, self._areas)

        def mirror_of(layer: Layer, pre: Tensor, basal: Tensor, signal: Tensor) -> Mirror:
            return interneurons.mirror(layer, pre, Soma(self._areas[layer.index], basal, signal, samples, batch))

        def message(layer: Layer, pre: Tensor, basal: Tensor, signal: Tensor) -> Tensor:
            mirror = mirror_of(layer, pre, basal, signal)
            return interneurons.unexplained(layer, pre, mirror, feedback[layer.index])

        system = SteadyState(self._areas, message, samples, wiring, state, error)
        outcome = relax(system, self.settle_steps, tolerance=self.tolerance)
        if not outcome.settled:
            system.update()
        self.monitor.check(outcome, error)
        for layer, pre, basal, signal in system.states():
            if not state.plan.needs_signal[layer.index + 1]:
                break
            mirror, below = mirror_of(layer, pre, basal, signal), None
            if layer in self.inhibition:
                own = feedback[layer.index]
                below = interneurons.unexplained(layer, pre, mirror, own), own
            yield from self._credits(wiring, layer, pre, interneurons, mirror, below)

    def _credits(
        self,
        wiring: Wiring,
        layer: Layer,
        pre: Tensor,
        interneurons: Interneurons,
        mirror: Mirror,
        below: tuple[Tensor, Tensor] | None,
    ) -> Iterator[Credit]:
        """Credit for a layer's pyramids, and for the interneurons that mirror them.

        Args:
            wiring: of the circuit.
            layer: of the pyramids.
            pre: the rate that arrives at them.
            interneurons: of the circuit.
            mirror: those that mirror the pyramids.
            below: the signal at the apical dendrites below, and the feedback weights; None: nothing learns there.
        """
        post = mirror.soma.teaching_signal()
        yield Credit(layer, pre, post, reciprocal=self.pathway.reciprocal(layer))
        yield from interneurons.prediction(layer, pre, mirror, post)
        if below is not None:
            yield from interneurons.cancellation(layer, pre, mirror, *below)
        if wiring.observers:
            self._show(wiring, layer, mirror)

    def _show(self, wiring: Wiring, layer: Layer, mirror: Mirror) -> None:
        soma = mirror.soma
        shown = {"somatic_potential": (soma.basal + soma.shift).to(soma.dtype)}
        if layer not in wiring.readouts():
            shown["apical_potential"] = (soma.shift / soma.area.mixing).to(soma.dtype)
        if layer.feeds_back:
            shown["interneuron_rate"] = mirror.rate.to(soma.dtype)
        wiring.show(layer, **shown)
