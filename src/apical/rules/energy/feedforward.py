"""Feed-forward equilibrium propagation: credit from the states of a circuit under all nudges of a backward pass."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from apical.layers import Credit, Derivatives, ForwardState, Layer
from apical.layers.credit import neuron_credits
from apical.layers.products import real_pairs
from apical.rules.energy.nudged import FreePhase, Neurons, NudgedPhase
from apical.rules.energy.nudging import Betas, Nudge
from apical.rules.energy.relax import Outcome, relax
from apical.rules.energy.schedule import UpdateSchedule
from apical.wiring import Wiring


@dataclass(frozen=True)
class Settling:
    """How the nudged phases settle.

    Attributes:
        sweeps: how often each layer moves; None: as often as a signal takes to the lowest, and once more.
        synchronous: all layers at once, instead of those at an even and at an odd distance from the output.
        damping: how far a signal goes towards the one that arrives.
        clamped: hold the output where the first nudge put it.
        tolerance: of the first phase, which alone is measured.
    """

    sweeps: int | None
    synchronous: bool
    damping: float
    clamped: bool
    tolerance: float


class NudgedPhases:
    """A circuit under every nudge of one backward pass.

    Args:
        settling: how they settle.
        wiring: of the circuit.
        state: of the free pass.
        neurons: of the layers, by index.
        weights: the feedback weights, by layer.
        nudge: gives the error at an output, of each sample.
        betas: the nudging strengths.

    Attributes:
        phases: one for each of the strengths.
        outcome: of the first phase.
    """

    def __init__(
        self,
        settling: Settling,
        wiring: Wiring,
        state: ForwardState,
        neurons: Mapping[int, Neurons],
        weights: Mapping[Layer, Tensor],
        nudge: Nudge,
        betas: Betas,
    ) -> None:
        self.settling = settling
        self.wiring = wiring
        self.state = state
        self.betas = betas
        schedule = UpdateSchedule(state.plan, wiring.output, 1 if settling.synchronous else 2)
        free = FreePhase(wiring, state, schedule, neurons, weights, nudge)
        enough = math.ceil(schedule.depth / len(schedule.layers))
        sweeps = enough + 1 if settling.sweeps is None else settling.sweeps
        self.outcome = self._settle(free, sweeps)
        if self.outcome.diverged:
            # Were the numbers lost before the states could run away? Then the first signals show the circuit where.
            first = self._settle(free, enough)
            if first.diverged:
                self.outcome = Outcome(sweeps)

    def _settle(self, free: FreePhase, sweeps: int) -> Outcome:
        settling, outcomes = self.settling, []
        self.phases = [
            NudgedPhase(free, beta, damping=settling.damping, clamped=settling.clamped) for beta in self.betas.strengths
        ]
        for number, phase in enumerate(self.phases):
            tolerance = None if number else settling.tolerance
            outcomes.append(relax(phase, sweeps, tolerance=tolerance, stops=False))
        return outcomes[0]

    @property
    def layers(self) -> list[Layer]:
        """The layers that received a signal, from the output down."""
        posts = self.phases[0].posts
        return [node for node, _ in self.state.plan.order if isinstance(node, Layer) and node.index in posts]

    def ends(self, layer: Layer, unit: float) -> Iterator[tuple[Tensor, Tensor]]:
        """The signals before and after a layer's synapses in all phases: their update is the sum over these.

        Complex states are given as real pairs. Where the input of a layer never moves, one pair will do.

        Args:
            layer: that learns.
            unit: what a sample's signal is multiplied by for the loss's mean.
        """
        phases, index = self.phases, layer.index
        if self.betas.are_complex:
            pairs = [real_pairs(phase.pre(layer), phase.posts[index]) for phase in phases]
            posts = [post * (part * unit) for (_, post), part in zip(pairs, self.betas.parts, strict=True)]
            yield torch.cat([pre for pre, _ in pairs]), torch.cat(posts)
            return
        unit /= len(phases)
        if any(phase.has_moved_input(layer) for phase in phases):
            for phase in phases:
                yield phase.pre(layer), phase.posts[index] * unit
            return
        post = phases[0].posts[index]
        for phase in phases[1:]:
            post = post + phase.posts[index]
        yield phases[0].pre(layer), post * unit

    def energy(self, layer: Layer) -> Tensor:
        """The mean over the phases of a layer's part of F, for each sample."""
        return torch.stack([phase.energy(layer) for phase in self.phases]).mean(0)

    def neuron_credits(self, unit: float) -> Iterator[Credit]:
        """Credit for the own parameters of neurons and junctions; sets the signal at the circuit's input.

        Args:
            unit: what a sample's signal is multiplied by for the loss's mean.
        """
        plan = self.state.plan
        needs_signal = [False] * len(plan.needs_signal)
        needs_signal[0] = plan.needs_signal[0]
        for node, is_layer in reversed(plan.order):
            learns = any(plan.requires_grad[index] for index in node.neuron_indices)
            below = any(needs_signal[source] for source in node.sources)
            needs_signal[node.index + 1] = not is_layer and (learns or below)
        learners = [layer for layer in self.layers if any(plan.requires_grad[i] for i in layer.neuron_indices)]
        derivatives: Derivatives = {}
        for phase, part in zip(self.phases, self.betas.parts, strict=True):
            found: Derivatives = {}
            for layer in learners:
                phase.teach_neurons(layer, plan.requires_grad, found)
            if any(needs_signal):
                self._add_to_input(phase.teach_junctions(needs_signal, plan.requires_grad, found), part * unit)
            for index, derivative in found.items():
                scaled = derivative * (part * unit)
                derivatives[index] = derivatives[index] + scaled if index in derivatives else scaled
        yield from neuron_credits([node for node, _ in plan.order], derivatives)

    def _add_to_input(self, signal: Tensor | None, unit: float) -> None:
        if signal is None or not self.state.plan.needs_signal[0]:
            return
        signal = (signal.real if signal.is_complex() else signal) * unit
        known = self.state.input_signal
        self.state.input_signal = signal if known is None else known + signal
