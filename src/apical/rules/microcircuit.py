"""The dendritic cortical microcircuit: errors are what interneurons fail to predict of the area above."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apical.errors import CircuitError, ConfigError
from apical.layers import Layer, Step
from apical.options import check_choice
from apical.rules.nudging import UnsettledWarning
from apical.rules.randomness import Randomness, check_init, feedback_like, standard_deviation
from apical.rules.rule import LearningRule, PerLayer
from apical.rules.settling import Settling, settle
from apical.wiring import Activity, Credit, Reach, Wiring

_SMALL = 0.05  # a shift of this part of a potential has lost four digits in single precision
_CHOICES = {
    "dynamics": ("two_step", "steady_state"),
    "top_down": ("fixed", "tied", "learned"),
    "interneurons": ("learned", "tied"),
}


@dataclass(frozen=True)
class Area:
    """What the theory makes of a layer.

    Attributes:
        activation: phi, from a pyramid's somatic potential to its rate; None where the rate is the potential.
        after: what follows a pyramid's rate: pooling, dropout, changes of shape.
        linearised: something else stands between the synapses and the soma (a norm, a module of the user's).
        mixing: lambda, the share of the soma's potential that its teacher has: the apical dendrite, or the target.
        gain: what is left, at this soma, of an error of one at the output: the mixing factors on the way here.
    """

    activation: Step | None
    after: tuple[Step, ...]
    linearised: bool
    mixing: float
    gain: float

    def fire(self, potential: Tensor) -> Tensor:
        """The rate of a potential, which is left as it is."""
        if self.activation is None:
            return potential
        return self.activation.fire(potential)

    def to_pyramids(self, signal: Tensor, saved: list[Any]) -> Tensor:
        """A signal at the layer's rate, taken back to the pyramids through what follows them."""
        for step, kept in zip(reversed(self.after), reversed(saved), strict=False):
            signal = step.backward(signal, kept, ())[0]
        return signal


class DendriticMicrocircuit(LearningRule):
    """Dendritic microcircuits: the apical dendrite of a pyramid carries what its interneurons cannot explain.

    Each layer k is a population of pyramids with a soma u_k, a basal dendrite and an apical one. Interneurons, one for
    each pyramid of the layer above, learn to predict those from the same input, and inhibit the apical dendrites;
    what remains there is the part of the feedback that nobody expected: the error. With phi the layer's activation,

        leak u_k  : u_k = v^_k + lambda_k vA_k,             v^_k = W_k r_(k-1) + b_k       (the model's own drive)
        apical    : vA_k = W^TD phi(u_(k+1)) + W^PI phi(u^I_k)
        interneur.: u^I_k = (1 - lambda_I) v^I_k + lambda_I u_(k+1),   v^I_k = W^IP r_k + b^I
        output    : u_N = (1 - lambda_N) v^_N + lambda_N u_trgt

        dW_k  = eta_k [phi(u_k) - phi(v^_k)] r_(k-1)^T             eta_k = eta / (lambda_N prod (1 - lambda_I) lambda)
        dW^IP ~ [phi(u^I) - phi(v^I)] r_k^T,   dW^PI ~ -vA phi(u^I)^T
        dW^TD ~ [r_k - phi(W^TD phi(u_(k+1)))] phi(u_(k+1))^T

    In the self-predicting state, W^IP = W_(k+1) and W^PI = -W^TD, apical dendrites are silent without a teacher, and
    with a weak one the update is that of backpropagation (W^TD = W^T) or feedback alignment (W^TD random).

    The model's weights are the basal synapses *after* attenuation: the paper's W^PP is (g_lk + g_B + g_A) / g_B times
    W (without g_A at the output), and its W^IP is (g_lk + g_D) / g_D times ours. So a circuit without teacher answers
    as the plain model does. u_trgt is the free potential minus the loss's derivative: any loss will do.

    Args:
        dynamics: "two_step" (what the paper used on MNIST: the free answer, and one way down from the taught output)
            or "steady_state" (the fixed point of all equations above, found by iteration). The two differ by
            O(lambda_N lambda_k): what the moving hidden layers do to the output's prediction.
        top_down: W^TD: "fixed" (random), "tied" (W^T at every step) or "learned" (inverts the layer above).
        interneurons: "learned" (W^IP and its bias learn by their own rule) or "tied" (always self-predicting: W^IP
            is the forward weights, which costs nothing).
        init: of W^TD where it is not tied, as for feedback alignment; "weights" starts at a copy of the forward ones.
        scale: multiplies W^TD at the start, and is not divided out.
        self_predicting: where learned interneurons start; otherwise W^IP (and W^PI, where it learns) is random.
        prediction_rate: how much faster than W the interneurons correct what they predict wrongly without a teacher.
        cancellation_rate: the same for W^PI; 0 keeps it where it is, as the paper does on MNIST.
        top_down_rate: the same for W^TD where it is learned.
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

    Needs: any circuit in two steps; learned interneurons want an optimizer over `circuit.parameters()`. The steady
    state needs a chain of synapses, activations and pooling. Learned W^TD needs layers whose rates arrive at the next
    one as they are. Raises: ConfigError on unknown or contradictory options; CircuitError as just said.

    Pooling, norms and junctions hand signals down by their own derivative. A layer with a norm (or a module without
    a closed form) before its activation answers linearly to its apical dendrite, and its mirror is tied. Under a
    residual sum paths of several lengths meet; top-down synapses of the shorter ones count as weaker by the mixing
    factors that they skip, so that one learning rate a layer suits all.

    The shifts shrink by lambda (1 - lambda_I) = 0.24 with every layer, as the paper's do: in float32 ten layers are
    at the limit of what rounding leaves.

    Departs from the paper: learning rates are rescaled by the exact mixing factors, so that one suits this and
    backpropagation; in two steps, r is the free rate; the teacher's part of W^IP's increment is that of W (its own
    is the same to first order, and what interneurons lag behind drowns the error); the part that corrects its
    prediction is divided by the number of its synapses, as are the increments of W^PI and W^TD, instead of by the
    mixing factors. So random interneurons (self_predicting=False) want small steps until they have learned to predict.

    Source: Sacramento, Ponte Costa, Bengio and Senn, NeurIPS 2018, eqs. 1-9 and the section on MNIST.
    """

    name = "dendritic_microcircuit"
    title = "Dendritic microcircuit"
    summary = "Apical dendrites carry what interneurons fail to predict of the area above."
    paper = "Sacramento et al. 2018"
    needs = "any circuit (steady state: a chain); an optimizer over circuit.parameters() where interneurons learn"
    carries: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "apical_potential": "vA of hidden layers' pyramids, in units of the drive: zero where all is predicted",
            "somatic_potential": "u with its teacher, in units of the drive (of layers that are not linearised)",
            "interneuron_rate": "rate of the interneurons below that mirror this layer, where anything learns there",
        }
    )
    records_drives = True

    def __init__(
        self,
        *,
        dynamics: str = "two_step",
        top_down: str = "fixed",
        interneurons: str = "learned",
        init: str = "match",
        scale: float = 1.0,
        self_predicting: bool = True,
        prediction_rate: float = 1.0,
        cancellation_rate: float = 0.0,
        top_down_rate: float = 1.0,
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
        self.top_down = top_down
        self.interneurons = interneurons
        self.init = init
        self.scale = scale
        self.self_predicting = self_predicting
        self.prediction_rate = prediction_rate
        self.cancellation_rate = cancellation_rate
        self.top_down_rate = top_down_rate
        self.leak = leak
        self.basal = basal
        self.apical = apical
        self.dendritic = dendritic
        self.somatic = somatic
        self.teaching = teaching
        self.settle_steps = settle_steps
        self.tolerance = tolerance
        self.seed = seed
        self._check()
        self.randomness = Randomness(seed)
        self.top_down_weights = PerLayer()
        self.interneuron_weights = PerLayer()
        self.interneuron_biases = PerLayer()
        self.inhibition = PerLayer()
        self._areas: dict[int, Area] = {}
        self._lowest: set[int] = set()
        self._told = False

    def _check(self) -> None:
        for option, known in _CHOICES.items():
            check_choice("DendriticMicrocircuit", option, getattr(self, option), known)
        for option in ("basal", "apical", "dendritic", "somatic", "teaching", "tolerance"):
            if not (math.isfinite(getattr(self, option)) and getattr(self, option) > 0):
                raise ConfigError(f"DendriticMicrocircuit: {option}={getattr(self, option)!r} must be above 0.")
        for option in ("leak", "prediction_rate", "cancellation_rate", "top_down_rate"):
            if not (math.isfinite(getattr(self, option)) and getattr(self, option) >= 0):
                raise ConfigError(f"DendriticMicrocircuit: {option}={getattr(self, option)!r} must not be negative.")
        if self.settle_steps < 1:
            raise ConfigError(f"DendriticMicrocircuit: settle_steps={self.settle_steps!r} must be at least 1.")
        if self.interneurons == "tied" and not self.self_predicting:
            raise ConfigError(
                "DendriticMicrocircuit: interneurons='tied' are always self-predicting. Say interneurons='learned' "
                "with self_predicting=False."
            )
        if self.top_down == "tied" and self.cancellation_rate:
            raise ConfigError(
                "DendriticMicrocircuit: top_down='tied' moves with the forward weights, and W_PI with it; there is "
                "nothing for a cancellation_rate to learn. Leave it 0, or say top_down='fixed' or 'learned'."
            )
        if self.top_down == "learned" and not self.cancellation_rate:
            raise ConfigError(
                "DendriticMicrocircuit: with top_down='learned', W_PI has to follow, or the apical dendrites fill with "
                "feedback that nobody cancels. Set a cancellation_rate, e.g. 1.0."
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
        return self.top_down == "tied" and self.interneurons == "tied" and self.dynamics == "two_step"

    def bind(self, wiring: Wiring) -> None:
        areas = self._read(wiring)
        if self.dynamics == "steady_state":
            _refuse_what_cannot_settle(wiring, areas)
        if self.top_down == "learned":
            _refuse_what_cannot_be_inverted(wiring, areas)
        self._areas = areas
        self._lowest = {layer.index for layer in wiring.lowest()}
        self.randomness = Randomness(self.seed)
        self.top_down_weights, self.inhibition = PerLayer(), PerLayer()
        self.interneuron_weights, self.interneuron_biases = PerLayer(), PerLayer()
        for layer in wiring.layers:
            if layer.feeds_back:
                self._grow(layer)

    def _read(self, wiring: Wiring) -> dict[int, Area]:
        """What the theory makes of every layer, from the output down."""
        readouts = wiring.readouts()
        step_down = (1 - self.interneuron_mixing) * self.apical_mixing
        depth = [0] * (len(wiring.nodes) + 1)
        areas: dict[int, Area] = {}
        for node in reversed(wiring.nodes):
            below = depth[node.index + 1]
            if isinstance(node, Layer):
                gain = self.output_mixing * step_down**below
                mixing = self.output_mixing if node in readouts else self.apical_mixing
                areas[node.index] = _area(node, mixing, gain)
                below += 1
            for source in node.sources:
                depth[source] = max(depth[source], below)
        return areas

    def _grow(self, layer: Layer) -> None:
        """Make the synapses between a layer and the one below."""
        weight = layer.weight.detach()
        if self.top_down != "tied":
            made = feedback_like(weight, self.init, self.scale, self.randomness, layer.name)
            self.top_down_weights.hold(layer, made, learned=self.top_down == "learned")
        if self._areas[layer.index].linearised:
            return
        bias = layer.synapses.bias
        if self.interneurons == "learned":
            name = f"{layer.name}/interneurons"
            copied = (
                weight.clone() if self.self_predicting else feedback_like(weight, "match", 1.0, self.randomness, name)
            )
            self.interneuron_weights.hold(layer, copied, learned=True)
            if bias is not None:
                start = bias.detach().clone() if self.self_predicting else torch.zeros_like(bias)
                self.interneuron_biases.hold(layer, start, learned=True)
        if self.cancellation_rate:
            known = self.self_predicting
            spread = standard_deviation(made)
            drawn = f"{layer.name}/inhibition"
            start = -self.top_down_weights[layer].detach() if known else self.randomness.uniform(weight, spread, drawn)
            self.inhibition.hold(layer, start, learned=True)

    def respond(self, wiring: Wiring, x: Tensor, reach: Reach) -> tuple[Tensor, Activity]:
        if self.dynamics == "two_step":
            return super().respond(wiring, x, reach)
        # What settles, settles as a whole: whether anything is frozen is no matter of the dynamics.
        y, activity = super().respond(wiring, x, wiring.reach((True,) * len(reach.learns), False))
        activity.reach = reach
        return y, activity

    def teach(self, wiring: Wiring, activity: Activity, error: Tensor) -> Iterator[Credit]:
        samples = wiring.samples(error)
        if self.dynamics == "steady_state":
            yield from self._teach_settled(wiring, activity, error, samples)
            return
        descent = wiring.descend(activity, error, once=True)
        for layer, record, arrived in descent:
            if arrived is None:
                continue
            area, pre = self._areas[layer.index], record.pre
            assert pre is not None
            assert record.drive is not None
            if area.linearised:
                if wiring.observers and layer not in wiring.readouts():
                    wiring.show(layer, apical_potential=arrived * (-samples * area.gain / area.mixing))
                post = descent.somatic(layer, record, arrived)
                yield Credit(layer, pre, post)
                if descent.goes_on(layer):
                    descent.send(layer, layer.synapses.transport(post, self._feedback(layer), pre))
                continue
            signal = area.to_pyramids(arrived, record.saved)
            soma = Soma(area, *_precise(layer, record.drive, pre, signal), samples)
            told = soma.teaching_signal()
            yield Credit(layer, pre, told)
            mirror = self._mirror(layer, pre, soma)
            yield from self._prediction(layer, pre, soma, mirror, told)
            goes_on = descent.goes_on(layer)
            # Synapses onto a taught input learn in every pass, whether somebody asks for its error or not.
            if goes_on or (layer.index in self._lowest and layer.feeds_back):
                below = self._unexplained(layer, pre, soma, mirror)
                yield from self._cancellation(layer, pre, soma, mirror, below)
                if goes_on:
                    descent.send(layer, below)
            if wiring.observers:
                self._show(wiring, layer, soma, mirror)

    def _teach_settled(self, wiring: Wiring, activity: Activity, error: Tensor, samples: int) -> Iterator[Credit]:
        def message(layer: Layer, pre: Tensor, basal: Tensor, signal: Tensor) -> Tensor:
            soma = Soma(self._areas[layer.index], basal, signal, samples)
            return self._unexplained(layer, pre, soma, self._mirror(layer, pre, soma))

        settling = Settling(self._areas, message, samples, self.settle_steps, self.tolerance)
        states, residual = settle(settling, wiring, activity, error)
        self._tell(residual)
        for layer, pre, basal, signal in states:
            if not activity.reach.values[layer.index + 1]:
                break
            soma = Soma(self._areas[layer.index], basal, signal, samples)
            told = soma.teaching_signal()
            yield Credit(layer, pre, told)
            mirror = self._mirror(layer, pre, soma)
            yield from self._prediction(layer, pre, soma, mirror, told)
            if self.inhibition.learned(layer) is not None or self.top_down_weights.learned(layer) is not None:
                below = self._unexplained(layer, pre, soma, mirror)
                yield from self._cancellation(layer, pre, soma, mirror, below)
            if wiring.observers:
                self._show(wiring, layer, soma, mirror)

    def _tell(self, residual: float) -> None:
        """Say once that the dynamics have not settled."""
        if residual <= self.tolerance or self._told:
            return
        self._told = True
        warnings.warn(
            f"DendriticMicrocircuit: after {self.settle_steps} iterations the dynamics have not settled: potentials "
            f"still move by {residual:.1e} of the teacher's shift, and {self.tolerance:.1e} was asked for. Raise "
            "settle_steps or tolerance, or weaken the feedback (teaching, apical or scale). This is said once.",
            UnsettledWarning,
            stacklevel=2,
        )

    def _feedback(self, layer: Layer) -> Tensor:
        return layer.weight.detach() if self.top_down == "tied" else self.top_down_weights[layer].detach()

    def _mirror(self, layer: Layer, pre: Tensor, soma: Soma) -> Mirror:
        """The interneurons that mirror a layer's pyramids."""
        weight = self.interneuron_weights.learned(layer)
        if weight is None:
            return Mirror(soma, self.interneuron_mixing, None)
        bias = self.interneuron_biases.learned(layer)
        own = None if bias is None else bias.detach()
        return Mirror(soma, self.interneuron_mixing, _deliver(layer, pre.to(weight.dtype), weight.detach(), own))

    def _unexplained(self, layer: Layer, pre: Tensor, soma: Soma, mirror: Mirror) -> Tensor:
        """What arrives at the apical dendrites below, as an error there: vA over -samples times the gain so far."""
        unit = -1 / (soma.samples * soma.area.gain * (1 - self.interneuron_mixing))
        feedback = self._feedback(layer)
        below = layer.synapses.transport(mirror.unexplained() * unit, feedback, pre)
        inhibition = self.inhibition.learned(layer)
        if inhibition is not None:
            apart = feedback + inhibition.detach()  # zero in the self-predicting state, to the last bit
            below = below + layer.synapses.transport(mirror.rate.to(soma.dtype) * unit, apart, pre)
        return below

    def _prediction(self, layer: Layer, pre: Tensor, soma: Soma, mirror: Mirror, told: Tensor) -> Iterator[Credit]:
        """The interneurons' own rule, dW^IP ~ [phi(u^I) - phi(v^I)] r^T, in its two parts.

        What the teacher does to the pyramids that they mirror (`told`) has its full size, as in W's rule: in the
        interneurons' own rates it is lambda_I of that, but for the curvature of phi, and it is by such small lags that
        unpredicted feedback would drown the error. What their prediction lacks is at a rate of its own.
        """
        weight = self.interneuron_weights.learned(layer)
        if weight is None:
            return
        positions = soma.basal[0].numel() / layer.weight.shape[0]
        corrected = self.prediction_rate / (soma.samples * positions * (layer.synapses.fan_in + 1))
        post = told - mirror.lag() * (corrected / mirror.mixing)
        yield Credit(layer, pre, post, learner=weight, learner_bias=self.interneuron_biases.learned(layer))

    def _cancellation(self, layer: Layer, pre: Tensor, soma: Soma, mirror: Mirror, below: Tensor) -> Iterator[Credit]:
        """The rules of W^PI, which silences the apical dendrite, and of W^TD, which predicts the rates below."""
        inhibition, top_down = self.inhibition.learned(layer), self.top_down_weights.learned(layer)
        positions = soma.basal[0].numel() / layer.weight.shape[0]
        unit = 1 / (soma.samples * positions * (layer.synapses.fan_out + 1))
        if inhibition is not None:
            apical = below * (-soma.samples * soma.area.gain * (1 - self.interneuron_mixing))
            post = mirror.rate.to(soma.dtype) * (self.cancellation_rate * unit)
            yield Credit(layer, apical.to(post.dtype), post, learner=inhibition)
        if top_down is not None:
            rate = soma.area.fire(soma.basal).to(soma.dtype)
            guess = layer.synapses.transport(rate, self._feedback(layer), pre)
            source = self._areas.get(layer.sources[0] - 1)
            wrong = pre - (guess if source is None else source.fire(guess))
            yield Credit(layer, wrong, rate * (-self.top_down_rate * unit), learner=top_down)

    def _show(self, wiring: Wiring, layer: Layer, soma: Soma, mirror: Mirror) -> None:
        shown = {"somatic_potential": (soma.basal + soma.shift).to(soma.dtype)}
        if layer not in wiring.readouts():
            shown["apical_potential"] = (soma.shift / soma.area.mixing).to(soma.dtype)
        if layer.feeds_back:
            shown["interneuron_rate"] = mirror.rate.to(soma.dtype)
        wiring.show(layer, **shown)


class Soma:
    """A layer's pyramids under their teacher.

    Attributes:
        area: what they are.
        basal: v^, what their basal dendrites predict, (batch, units ...).
        shift: what the teacher adds to it, lambda vA, or lambda_N (u_trgt - v^) at the output.
        samples: what the loss's mean divided by.
        dtype: of the circuit.
        wide: whether differences of rates are taken in double precision, so that small ones survive.
    """

    def __init__(self, area: Area, basal: Tensor, signal: Tensor, samples: int) -> None:
        self.area = area
        self.dtype = basal.dtype
        self.samples = samples
        self._signal = signal
        low = torch.finfo(basal.dtype).eps > torch.finfo(torch.float32).eps
        self.wide = area.activation is not None and (low or area.gain < _SMALL)
        if self.wide:
            basal, signal = _wide(basal), _wide(signal)
        self.basal = basal
        self.shift = signal * (-samples * area.gain)
        self._rate: Tensor | None = None

    def teaching_signal(self) -> Tensor:
        """phi(v^) - phi(u), the mixing factors and the batch's mean undone: with the sign of a gradient."""
        if self.area.activation is None:
            return self._signal
        change = self.area.fire(self.basal) - self.rate
        return change.mul_(1 / (self.samples * self.area.gain)).to(self.dtype)

    @property
    def rate(self) -> Tensor:
        """phi(u), what they fire."""
        if self._rate is None:  # the compiler knows no cached_property
            self._rate = self.area.fire(self.basal + self.shift)
        return self._rate


class Mirror:
    """The interneurons that mirror a layer's pyramids, in the area below.

    Attributes:
        soma: the pyramids.
        mixing: lambda_I.
        predicted: v^I, what they predict of the pyramids' potential; None where that is always right.
    """

    def __init__(self, soma: Soma, mixing: float, predicted: Tensor | None) -> None:
        self.soma = soma
        self.mixing = mixing
        self.predicted = predicted
        self._rate: Tensor | None = None
        if predicted is not None and soma.wide:
            self.predicted = _wide(predicted)

    @property
    def free(self) -> Tensor:
        """Their potential if the pyramids had no teacher."""
        if self.predicted is None:
            return self.soma.basal
        return torch.lerp(self.predicted, self.soma.basal, self.mixing)

    @property
    def rate(self) -> Tensor:
        """phi(u^I), what they fire."""
        if self._rate is None:
            self._rate = self.soma.area.fire(self.free + self.mixing * self.soma.shift)
        return self._rate

    def unexplained(self) -> Tensor:
        """phi(u) - phi(u^I)."""
        soma = self.soma
        if soma.area.activation is not None:
            return (soma.rate - self.rate).to(soma.dtype)
        apart = soma.shift if self.predicted is None else soma.shift + (soma.basal - self.predicted)
        return apart * (1 - self.mixing)

    def lag(self) -> Tensor:
        """phi(u^I) - phi(v^I) without a teacher: what the prediction lacks."""
        assert self.predicted is not None
        soma, area = self.soma, self.soma.area
        if area.activation is None:
            return (soma.basal - self.predicted) * self.mixing
        return area.fire(self.free.to(soma.dtype)) - area.fire(self.predicted.to(soma.dtype))


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.device.type == "mps" else tensor.double()  # which has no double precision


def _area(layer: Layer, mixing: float, gain: float) -> Area:
    first, after = None, layer.steps
    if after and after[0].traits.activation and after[0].traits.elementwise:
        first, *after = after
    passive = all(step.traits.commutes_with_relu or step.traits.pools for step in after)
    return Area(first, tuple(after), not passive, mixing, gain)


def _precise(layer: Layer, basal: Tensor, pre: Tensor, signal: Tensor) -> tuple[Tensor, Tensor]:
    """Potentials in which small differences survive: under autocast the drive is computed again."""
    weight = layer.weight
    if basal.dtype == weight.dtype:
        return basal, signal if signal.dtype == basal.dtype else signal.to(basal.dtype)
    bias = layer.synapses.bias
    own = None if bias is None else bias.detach()
    return _deliver(layer, pre.to(weight.dtype), weight.detach(), own), signal.to(weight.dtype)


def _deliver(layer: Layer, pre: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What the layer's synapses would deliver with other weights."""
    module = layer.synapses.module
    if isinstance(module, nn.Linear):
        return F.linear(pre, weight, bias)
    own = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    delivered: Tensor = torch.func.functional_call(module, own, (pre,))
    return delivered


def _refuse_what_cannot_settle(wiring: Wiring, areas: dict[int, Area]) -> None:
    remedy = "Use dynamics='two_step', which works in any circuit."
    if not wiring.is_chain():
        raise CircuitError(
            "DendriticMicrocircuit: dynamics='steady_state' needs a plain chain of layers, each with interneurons that "
            f"mirror the next, and in this circuit rates part or meet. {remedy}"
        )
    if wiring.teach_input:
        raise CircuitError(
            "DendriticMicrocircuit: teach_input=True, but with dynamics='steady_state' the input has no pyramids that "
            f"could settle. {remedy}"
        )
    for layer in wiring.layers:
        area = areas[layer.index]
        random = [step for step in area.after if step.traits.random]
        if area.linearised or random:
            reason = f"{random[0]!r} draws anew" if random else f"one of {layer.steps!r} is no activation or pooling"
            raise CircuitError(
                f"{layer.name}: dynamics='steady_state' has the neurons answer again and again until they settle, and "
                f"{reason}. Take it out, or: {remedy}"
            )


def _refuse_what_cannot_be_inverted(wiring: Wiring, areas: dict[int, Area]) -> None:
    for layer in wiring.layers:
        if not layer.feeds_back or layer.sources[0] == 0:
            continue
        source = wiring.nodes[layer.sources[0] - 1]
        area = areas.get(source.index)
        if area is None or area.linearised or area.after:
            raise CircuitError(
                f"{layer.name}: top_down='learned' predicts the rates below through their own activation, and between "
                f"{source.name} and this layer they are pooled, normalised or joined. Use top_down='fixed' or 'tied'."
            )
