"""Equilibrium propagation: credit from the difference between a network's states under opposite nudges."""

import math
from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from apical.errors import CircuitError, ConfigError
from apical.feedback.randomness import Randomness, check_init
from apical.feedback.registry import Given
from apical.layers import BackwardPlan, Credit, ForwardState, Junction, Layer
from apical.options import check_choice, check_ranges
from apical.rules.energy import hopfield
from apical.rules.energy.again import refuse_what_cannot_fire_again, widened
from apical.rules.energy.feedforward import NudgedPhases, Settling
from apical.rules.energy.hopfield_network import SHAPES, HopfieldNetwork
from apical.rules.energy.nudged import Neurons
from apical.rules.energy.nudging import Betas, Nudge, check_loss
from apical.rules.energy.relax import ConvergenceMonitor, Outcome
from apical.rules.rule import LearningRule
from apical.wiring import Wiring

_NUDGINGS = ("centered", "positive", "negative", "random", "holomorphic", "clamped")


class EquilibriumPropagation(LearningRule):
    """Equilibrium propagation: the loss nudges a network that settles, and the states' move is the error.

        F(theta, s, beta) = E(theta, x, s) + beta C(y),      s_beta minimises F
        dC/dtheta = (1 / 2 beta) (dF/dtheta(s_beta) - dF/dtheta(s_-beta)) + O(beta^2)

    Each synapse learns from its own two ends in states of the network, and receives no other signal.

    **feedforward**: E = 1/2 sum_k |h_k - f_k(h_<k)|^2, so the free phase is one forward pass and the output is the
    model's own. In the nudged phase, layers at an even and at an odd distance from the output move alternately,

        h_k <- f_k(h_<k) + J_(k+1)^T eps_(k+1),   eps_k = h_k - f_k(h_<k),   at the output h <- f - beta dC/dy

    and where neurons rectify, by the paper's "mod-PGD": h_k <- ReLU(a_k + J_(k+1)^T eps_(k+1)) with the drive a_k, so
    that a state is a rate. It is defined on any graph of layers and junctions. Dropout masks and batch statistics are
    those of the free pass, and running statistics move once.

    **hopfield**: synapses carry rates both ways, and the output is read from the state to which the network settles:

        s_l <- sigma(P(W_l s_(l-1) + b_l) + W_(l+1)^T P^-1(s_(l+1)) [- beta dC/ds_l]),   y = W_L s_(L-1) + b_L

    with pooling P and unpooling P^-1 (to the argmax of the moment), for `free_steps` from silence and `nudged_steps`
    from there; the last layer is a linear read-out. `circuit.model` alone remains the feed-forward network of these
    weights, with another output: evaluate the circuit.

    Args:
        network: "feedforward" or "hopfield".
        nudging: "centered" (beta and -beta: error of order beta^2), "positive" or "negative" (one nudged state: order
            beta; in a Hopfield network known to fail on hard tasks), "random" (one of the two, drawn for each
            batch), "holomorphic" (`points` complex betas on a circle: order beta^points), or "clamped" (the output is
            held a step of size beta down the loss, with both signs: **this does not converge to the gradient**;
            feedforward only).
        points: of "holomorphic", an even number; 2 is "centered".
        beta: the nudging strength; None: 0.001 (feedforward), 0.1 (hopfield).
        sweeps: feedforward: how often each layer moves when nudged; None: as often as a signal takes from the output
            to the lowest layer (two layers a sweep), and once more.
        free_steps: hopfield: steps of the free phase.
        nudged_steps: hopfield: steps of the nudged one.
        schedule: "asynchronous" (even and odd layers alternate) or "synchronous" (all at once).
        step: the part of the way that a state takes towards the one that its input asks for; below 1 (with more
            sweeps) for networks that would not settle, as clamped ones often do not.
        activation: hopfield: None (the model's own), "hard_sigmoid" (x cut to 0..1), "half_hard_sigmoid" (x/2 cut to
            0..1), "centered_hard_sigmoid" (x cut to -1/2..1/2) or "shifted_sigmoid" (1 / (1 + exp(-4 (x - 1/2)))).
        loss: the nudge at outputs other than the free one: None or "linear" (the free output's, held constant),
            "cross_entropy" or "mse" (exact, see `apical.rules.energy.nudging.Nudge`).
        feedback: a pathway of `apical.feedback` by name or object: "tied" (symmetric synapses), "kolen_pollack"
            (weights of their own that learn by the forward ones' increments), "fixed" (random), "sign_symmetric" or,
            feedforward, "weight_mirror". In a Hopfield network they change the output too, and it may not settle.
        init: of feedback weights, as for feedback alignment.
        scale: of feedback weights.
        tolerance: warn, once, where the last sweep still moved signals (hopfield: the last step states) by more than
            this part of their whole way.
        seed: of feedback weights and random nudging.

    Shapes: states are as the layers' rates, (batch, units ...).

    A Hopfield network's gradient is exact for the circuit that settles. It learns best from the squared error, passed
    as `loss="mse"`; by cross-entropy it needs learning rates some ten times smaller than its feed-forward twin.

    Needs: feedforward: any circuit whose neurons can fire again with the random draws of the free pass. hopfield: a
    chain of layers with one monotone activation each, max pooling anywhere or average pooling before the activation,
    and a linear read-out.

    Raises: ConfigError on unknown options; CircuitError on networks that the theory does not cover; NonFiniteError
    where states diverge.
    Warns: UnsettledWarning, once, where a relaxation has not settled.

    Departs from the papers: feedforward: credit is the move that each state's input asked for when it moved last, which
    is its error eps_k once settled, in half the sweeps; neurons that do not rectify move to f_k + J^T eps, since
    phi(a_k + J^T eps) minimises F for a rectifying phi alone; signals are in units of beta, so that small ones lose no
    digits. hopfield: no output state; any loss nudges the last hidden layer through the read-out, as Laborieux et al.
    do for cross-entropy.

    Source: Scellier and Bengio, Front. Comput. Neurosci. 11, 24 (2017); hopfield: Ernoult et al., NeurIPS 2019,
    Laborieux et al., Front. Neurosci. 15, 633674 (2021), Scellier et al., NeurIPS 2023; holomorphic: Laborieux and
    Zenke, NeurIPS 2022; feedforward: Kerjan, Hoier and Scellier, arXiv 2606.03584 (2026).
    """

    name = "equilibrium_propagation"
    title = "Equilibrium propagation"
    summary = "The loss nudges a network that settles; the difference between two states is the error."
    paper = "Scellier & Bengio 2017; Kerjan et al. 2026"
    needs = "any circuit (hopfield: a chain with monotone activations and a linear read-out)"
    observables: ClassVar[Mapping[str, str]] = {
        "energy": "the layer's part of F, (batch): 1/2 |h - f|^2 (hopfield: 1/2 |s|^2 less what its drive makes of it)",
        "residual": "how far the last step went, as a part of the whole way, one number",
        "steps": "how many sweeps or nudged steps there were",
    }
    has_absolute_scale = True
    saves_drives = True
    saves_rates = True

    def __init__(
        self,
        *,
        network: str = "feedforward",
        nudging: str = "centered",
        points: int = 6,
        beta: float | None = None,
        sweeps: int | None = None,
        free_steps: int = 60,
        nudged_steps: int = 15,
        schedule: str = "asynchronous",
        step: float = 1.0,
        activation: str | None = None,
        loss: str | None = None,
        feedback: Given = "tied",
        init: str = "match",
        scale: float = 1.0,
        tolerance: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.network = network
        self.nudging = nudging
        self.points = points
        self.beta = beta
        self.sweeps = sweeps
        self.free_steps = free_steps
        self.nudged_steps = nudged_steps
        self.schedule = schedule
        self.step = step
        self.activation = activation
        self.loss = loss
        self.init = init
        self.scale = scale
        self.tolerance = tolerance
        self.seed = seed
        self.take_pathway(feedback, init=init, scale=scale, seed=seed)
        self.transposed_limit = None if nudging == "clamped" else "as beta goes to 0"
        if network == "hopfield":
            self.transposed_limit = f"{self.transposed_limit}, through the time in which the network settles"
        self._check()
        self.randomness = Randomness(seed)
        self.monitor = self._make_monitor()
        self._hopfield: HopfieldNetwork | None = None
        self._neurons: dict[int, Neurons] = {}

    def _check(self) -> None:
        """Refuse options that do not exist or do not fit."""
        own = type(self).__name__
        check_loss(own, self.loss)
        check_init(own, self.init, self.scale, ("match", "xavier", "weights"))
        choices: dict[str, tuple[str | None, ...]] = {
            "network": ("feedforward", "hopfield"),
            "nudging": _NUDGINGS,
            "schedule": ("asynchronous", "synchronous"),
            "activation": (None, *SHAPES),
        }
        for option, known in choices.items():
            check_choice(own, option, getattr(self, option), known)
        count = "a whole number, at least 1"
        ranges = {
            "sweeps": (self.sweeps is None or _is_count(self.sweeps), count),
            "free_steps": (_is_count(self.free_steps), count),
            "nudged_steps": (_is_count(self.nudged_steps), count),
            "points": (
                _is_count(self.points) and self.points % 2 == 0,
                "an even number, at least 2: they come in opposite pairs",
            ),
            "beta": (
                self.beta is None or 0 < self.beta < math.inf,
                "a positive number; nudging='negative' turns its sign",
            ),
            "step": (0 < self.step <= 1, "above 0 and at most 1: it is a part of the way"),
            "tolerance": (self.tolerance > 0, "positive: it is a part of the whole way"),
        }
        check_ranges(own, self, ranges)
        if self.network == "hopfield":
            self._check_hopfield()

    def _check_hopfield(self) -> None:
        """Refuse options that a Hopfield network has no use for."""
        own = type(self).__name__
        if self.nudging == "clamped":
            raise ConfigError(
                f"{own}: nudging='clamped' holds an output state, and a Hopfield network has none. Pass "
                "nudging='centered', or network='feedforward'."
            )
        if self.pathway.name == "weight_mirror":
            raise ConfigError(
                f"{own}(network='hopfield'): feedback={self.pathway.name!r} has no meaning here: the feedback weights "
                "are part of the network that computes the output, and noise between forward passes would change it. "
                "Use 'tied', 'fixed', 'sign_symmetric' or 'kolen_pollack'."
            )
        if getattr(self.pathway, "magnitude", None) == "batchwise":
            raise ConfigError(
                f"{own}(network='hopfield'): feedback weights drawn for every batch have no meaning here: they are "
                "part of the network that computes the output. Use magnitude='uniform' or 'fixed'."
            )

    def _make_monitor(self) -> ConvergenceMonitor:
        return ConvergenceMonitor(
            type(self).__name__,
            "the last step, as a part of the whole way,",
            if_unsettled="Raise sweeps (feedforward) or free_steps and nudged_steps (hopfield), lower beta, or set "
            "step below 1.",
            if_diverged="Set step below 1 or lower beta, lower the learning rate, or, in a Hopfield network, choose a "
            "bounded activation (activation='hard_sigmoid').",
        )

    # What it asks of a circuit

    def setup(self, wiring: Wiring) -> None:
        super().setup(wiring)
        self.randomness = Randomness(self.seed)
        self.monitor = self._make_monitor()
        self._hopfield = None
        if self.network == "hopfield":
            self._hopfield = HopfieldNetwork(
                wiring,
                type(self).__name__,
                activation=self.activation,
                synchronous=self.schedule == "synchronous",
                damping=self.step,
                holomorphic=self._complex,
            )
        else:
            self._check_circuit(wiring)
            self._neurons = {layer.index: Neurons(layer) for layer in wiring.layers}

    @property
    def _complex(self) -> bool:
        return self.nudging == "holomorphic" and self.points > 2

    def _check_circuit(self, wiring: Wiring) -> None:
        own = type(self).__name__
        refuse_what_cannot_fire_again(wiring, own)
        if self.nudging == "clamped" and not (wiring.output and isinstance(wiring.nodes[wiring.output - 1], Layer)):
            raise CircuitError(
                f"{own}(nudging='clamped') holds the state of the layer that answers, and this answer is read off a "
                f"junction, {wiring.nodes[wiring.output - 1].name}. Let a layer come last, or take nudging='centered'."
            )
        if not self._complex:
            return
        for node in wiring.nodes:
            for step in node.steps:
                if not step.traits.holomorphic:
                    raise CircuitError(
                        f"{node.name}: {step!r} has no derivative in the complex plane, where "
                        f"{own}(nudging='holomorphic') nudges. Use nn.Tanh or nn.Sigmoid without norms and pooling, or "
                        "nudging='centered'."
                    )
            if isinstance(node, Junction) and not node.merge.holomorphic:
                raise CircuitError(
                    f"{node.name}: a {node.merge.name} of rates cannot be nudged in the complex plane here; sums and "
                    "concatenations can. Use nudging='centered'."
                )

    @property
    def follows_loss(self) -> bool:
        return True

    # The forward pass

    def forward(self, wiring: Wiring, x: Tensor, plan: BackwardPlan) -> tuple[Tensor, ForwardState]:
        if self._hopfield is not None:
            weights = self._hopfield_weights(wiring)
            y, state, outcome = hopfield.forward(self._hopfield, x, plan, weights, self.free_steps, self.tolerance)
            self.monitor.check(outcome)
            return y, state
        y, state = super().forward(wiring, x, widened(plan))
        state.plan = plan
        return y, state

    def evaluate(self, model: nn.Module, x: Tensor) -> Tensor:
        if self._hopfield is None:
            return super().evaluate(model, x)
        with torch.no_grad():
            self._hopfield.wiring.compute_weights()
            weights = self._hopfield_weights(self._hopfield.wiring)
            first, _ = self._hopfield.enter(x)
            return hopfield.settle_freely(self._hopfield, first, weights, self.free_steps)[0]

    # The nudged phase

    def assign_credit(self, wiring: Wiring, state: ForwardState, error: Tensor) -> Iterator[Credit]:
        samples = wiring.samples(state, error)
        y = state.rate(wiring.output)
        assert y is not None
        dtype = wiring.layers[0].weight.dtype
        nudge = Nudge(
            self.loss,
            y.to(dtype),
            error,
            samples,
            batch_axis=state.batch_axis(wiring.output),
            mean=wiring.reduction == "mean",
        )
        if self._hopfield is None:
            yield from self._credit_feedforward(wiring, state, nudge, samples)
            return
        weights = self._hopfield_weights(wiring, state.plan)
        phase = hopfield.HopfieldNudges(self._hopfield, state, nudge, samples, self._betas(0.1), weights)
        outcome = phase.settle(self.nudged_steps, self.tolerance)
        self.monitor.check(outcome, error)
        yield from phase.credits(self.pathway.reciprocal)
        if wiring.observers:
            for layer, energy in phase.energies():
                self._show(wiring, layer, energy, outcome)

    def _betas(self, default: float) -> Betas:
        """The nudging strengths of a backward pass."""
        beta = default if self.beta is None else self.beta
        if self._complex:
            return Betas.circle(beta, self.points)
        if self.nudging == "random":
            return Betas.real(beta if self.randomness.coin() else -beta)
        return {"positive": Betas.real(beta), "negative": Betas.real(-beta)}.get(self.nudging, Betas.real(beta, -beta))

    def _feedback_weights(self, wiring: Wiring, plan: BackwardPlan | None = None) -> dict[Layer, Tensor]:
        """The weights that carry signals down, of the layers below which something learns, or may learn."""
        return {
            layer: self.pathway.weight(layer)
            for layer in wiring.layers
            if (layer.feeds_back if plan is None else plan.needs_signal[layer.sources[0]])
        }

    def _hopfield_weights(self, wiring: Wiring, plan: BackwardPlan | None = None) -> dict[Layer, Tensor]:
        """The same of a Hopfield network: none where its synapses are symmetric."""
        return {} if self.pathway.descends else self._feedback_weights(wiring, plan)

    def _credit_feedforward(
        self, wiring: Wiring, state: ForwardState, nudge: Nudge, samples: float
    ) -> Iterator[Credit]:
        settling = Settling(
            self.sweeps, self.schedule == "synchronous", self.step, self.nudging == "clamped", self.tolerance
        )
        weights = self._feedback_weights(wiring, state.plan)
        phases = NudgedPhases(settling, wiring, state, self._neurons, weights, nudge, self._betas(0.001))
        self.monitor.check(phases.outcome)
        for layer in phases.layers:
            if wiring.observers:
                self._show(wiring, layer, phases.energy(layer), phases.outcome)
            for pre, post in phases.ends(layer, 1 / samples):
                yield Credit(layer, pre, post, reciprocal=self.pathway.reciprocal(layer))
        yield from phases.neuron_credits(1 / samples)

    def _show(self, wiring: Wiring, layer: Layer, energy: Tensor, outcome: Outcome) -> None:
        measured = {} if outcome.residual is None else {"residual": torch.tensor(outcome.residual)}
        wiring.show(layer, energy=energy, steps=torch.tensor(outcome.steps), **measured)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value >= 1
