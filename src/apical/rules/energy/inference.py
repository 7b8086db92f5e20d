"""Inference of predictive coding: the states of the hidden layers, the signals between them, and credit at the end."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from apical.errors import ConfigError
from apical.layers import Credit, ForwardState, Layer
from apical.layers.axes import sum_per_sample
from apical.layers.moving import MovingState
from apical.layers.products import transpose_product
from apical.rules.energy.divergence import check_energy
from apical.rules.energy.hierarchy import Hierarchy
from apical.rules.energy.nudging import Nudge
from apical.rules.energy.relax import relax
from apical.wiring import Wiring

if TYPE_CHECKING:
    from apical.rules.energy.predictive_coding import PredictiveCoding


@dataclass(frozen=True)
class Requirement:
    """Options that a variant has no use for.

    Attributes:
        options: each with the values that it may have.
        reason: why no others.
        remedy: what to change.
    """

    options: Mapping[str, tuple[Any, ...]]
    reason: str
    remedy: str

    def check(self, rule: str, given: Any) -> None:
        """Refuse other values.

        Args:
            rule: its name, with the variant.
            given: has the options as attributes.

        Raises:
            ConfigError: an option has another value.
        """
        for option, allowed in self.options.items():
            value = getattr(given, option)
            if value not in allowed:
                raise ConfigError(f"{rule}: {option}={value!r} has no use here: {self.reason}. {self.remedy}")


class Inference(ABC):
    """One backward pass of predictive coding. A subclass is a variant, and moves the states in its own way.

    Every layer that drives another holds a value v at its soma; the layers below predict it by their drive a. Signals
    travel down through the derivatives of the neurons as they fire now. What no signal has reached keeps the state of
    the free pass, and so do the layers below all that learns.

    Args:
        rule: with the options.
        wiring: of the circuit.
        free: the state of the free pass; with every drive and rate if the variant `moves_rates`.
        error: dL/dy.

    Attributes:
        variant: the name.
        default_steps: how many steps; None: as many as there are levels of hidden layers.
        default_rate: of inference.
        default_momentum: of inference.
        requirements: options that the variant has no use for.
        moves_rates: whether neurons fire again at every step.
        moving: the states of the circuit's nodes.
        values: v of the hidden layers that a signal has reached, by the layer's index.
        posts: a - v of these: prediction errors with the sign of a gradient.
    """

    variant: ClassVar[str]
    default_steps: ClassVar[int | None] = None
    default_rate: ClassVar[float] = 1.0
    default_momentum: ClassVar[float] = 0.0
    requirements: ClassVar[tuple[Requirement, ...]] = ()
    moves_rates: ClassVar[bool] = True

    def __init__(self, rule: PredictiveCoding, wiring: Wiring, free: ForwardState, error: Tensor) -> None:
        self.rule = rule
        self.wiring = wiring
        self.free = free
        self.error = error
        self.hierarchy = Hierarchy(wiring, free.plan)
        self.levels = self.hierarchy.levels
        self.steps = rule.steps or self.default_steps or self.hierarchy.depth
        self.rate = self.default_rate if rule.rate is None else rule.rate
        self.momentum = self.default_momentum if rule.momentum is None else rule.momentum
        self.samples = wiring.samples(free, error)
        self.values: dict[int, Tensor] = {}
        self.posts: dict[int, Tensor] = {}
        self._velocities: dict[int, Tensor] = {}
        self._imbalances: list[tuple[Tensor, Tensor]] = []

    def assign_credit(self) -> Iterator[Credit]:
        """Let the states settle, and assign credit by what they are then."""
        self.begin()
        record = self.show if self.wiring.observers else None
        outcome = relax(self, self.steps, tolerance=self.rule.tolerance, record=record)
        pushed = self.output_error()
        self.check_divergence(outcome.steps, pushed)
        self.rule.monitor.check(outcome, self.error)
        yield from self.credits(pushed, 1 / (self.samples * self.rule.nudging))

    # The states

    def begin(self) -> None:
        """Start from the state of the free pass, with one set of feedback weights for the whole pass."""
        self.moving = MovingState(self.free, anchored=True)
        needed = self.free.plan.needs_signal
        self.weights = {
            layer: self.rule.pathway.weight(layer) for layer in self.wiring.layers if needed[layer.sources[0]]
        }
        self._learns_nothing = (False,) * len(self.free.plan.requires_grad)
        self._target: Tensor | None = None
        self._scale: float | Tensor = 1.0
        if not self.moves_rates:
            self._constant = self.error * self.samples
            return
        y, rule = self.y, self.rule
        if rule.clamped:
            self._target = y - self.error.to(y.dtype) * (self.samples * rule.nudging)
        else:
            axis, mean = self.free.batch_axis(self.wiring.output), self.wiring.reduction == "mean"
            self._nudge = Nudge(rule.loss, y, self.error, self.samples, batch_axis=axis, mean=mean, recognises=True)
            self._scale = self._nudge.scale
            rule.check_recognised(self._nudge)
        self._at_start = y, self.output_error()

    @property
    def energy_falls(self) -> bool:
        """Whether inference has to lower the energy: with symmetric weights it descends."""
        return self.rule.pathway.descends

    @property
    def y(self) -> Tensor:
        """The output as it is now."""
        return self.moving.rate(self.wiring.output)

    def output_error(self) -> Tensor:
        """The error at the output as it is now, of each sample."""
        if not self.moves_rates:
            return self._constant
        if self._target is not None:
            return self.y - self._target
        error, nudging = self._nudge(self.y), self.rule.nudging
        return error if nudging == 1 else error * nudging

    def step(self, *, measured: bool) -> None:
        """Move the states once: signals down, then the rates that follow from the states up."""
        self._imbalances.clear()
        walk = self.wiring.backward(
            self.moving.state, self.output_error(), needs_signal=self.hierarchy.needs_signal, free_buffers=False
        )
        walk.requires_grad = self._learns_nothing
        for layer, own in walk:
            signal = walk.receive(layer)
            if signal is not None:
                signal = walk.somatic(layer, own, signal)
            if measured and layer.index in self.levels:
                self._note_imbalance(self.posts.get(layer.index), signal)
            sent = self.move(layer, signal)
            if sent is not None and walk.needs_input_grad(layer):
                walk.send(layer, self.send(layer, sent))
        self.update()

    @abstractmethod
    def move(self, layer: Layer, signal: Tensor | None) -> Tensor | None:
        """Move a layer's state by the signal at its soma, and return the signal that travels down from there."""

    @abstractmethod
    def update(self) -> None:
        """Let the moved states drive the layers above."""

    def send(self, layer: Layer, post: Tensor) -> Tensor:
        """Carry a signal at a layer's soma down to the rate that arrives there."""
        return transpose_product(layer.synapses, post, self.weights[layer], self.moving.pre(layer))

    def nearer(self, index: int, signal: Tensor, *, in_place: bool) -> Tensor:
        """A layer's error, moved towards the signal: post + rate (signal - post)."""
        post = self.posts.get(index)
        if self.momentum:
            velocity = self._velocities.get(index)
            move = signal if post is None else signal - post
            velocity = move.clone() if velocity is None else velocity.mul_(self.momentum).add_(move)
            self._velocities[index] = velocity
            return velocity * self.rate if post is None else torch.add(post, velocity, alpha=self.rate)
        if post is None:
            return signal * self.rate
        return post.lerp_(signal, self.rate) if in_place else torch.lerp(post, signal, self.rate)

    # Convergence

    def residual(self) -> float:
        """The largest velocity of a layer, as a part of its signal; infinite while no signal has reached one."""
        if len(self._imbalances) < len(self.hierarchy.hidden):
            return math.inf
        ratios = [move / size for move, size in self._imbalances]
        return math.sqrt(float(torch.stack(ratios).max())) if ratios else 0.0

    def _note_imbalance(self, post: Tensor | None, signal: Tensor | None) -> None:
        """How far a layer is from its balance, post = signal, beside the larger of the two."""
        if post is None and signal is None:
            return
        if post is None or signal is None:
            one = torch.ones(())
            self._imbalances.append((one, one))
            return
        tiny = torch.finfo(post.dtype).tiny
        size = torch.maximum(post.square().sum(), signal.square().sum()).clamp_min(tiny)
        self._imbalances.append(((post - signal).square().sum(), size))

    def check_divergence(self, steps: int, pushed: Tensor) -> None:
        """Stop where the states have diverged.

        Args:
            steps: taken.
            pushed: the error at the output now.

        Raises:
            NonFiniteError: they have.
        """
        if self.moves_rates and not torch.compiler.is_compiling():
            check_energy(self, self._at_start, pushed, steps)

    # Credit

    def credits(self, pushed: Tensor, unit: float) -> Iterator[Credit]:
        """What the synapses see in the states as they are.

        Args:
            pushed: the error at the output, of each sample.
            unit: what a sample's signal is multiplied by for the loss's mean.
        """
        learns = self.free.plan.requires_grad
        # Hidden layers learn from their own errors: signals travel again only for the own parameters of neurons, which
        # learn from the signal at the rate, and for the input.
        learners = {node for node, _ in self.free.plan.order if any(learns[number] for number in node.neuron_indices)}
        sends = bool(learners) or self.free.plan.needs_signal[0]
        walk = self.wiring.backward(self.moving.state, pushed * (self._scale * unit), free_buffers=False)
        for layer, own in walk:
            signal = walk.receive(layer)
            if layer.index in self.levels:
                if signal is not None and layer in learners:
                    walk.somatic(layer, own, signal)
                error = self.posts.get(layer.index)
                post = self._zeros(layer) if error is None else error * (self._scale_at(layer) * unit)
            elif signal is None:
                continue
            else:
                post = walk.somatic(layer, own, signal)
            if sends and walk.needs_input_grad(layer):
                walk.send(layer, self.send(layer, post))
            yield Credit(layer, self.moving.pre(layer), post, reciprocal=self.rule.pathway.reciprocal(layer))
        self.free.input_signal = self.moving.state.input_signal
        yield from walk.credits()

    def _scale_at(self, layer: Layer) -> float | Tensor:
        """What each sample's loss was divided by, at a layer's soma, where the batch is as in the rate that arrives."""
        axis = self.free.batch_axis(layer.sources[0])
        if not isinstance(self._scale, Tensor) or axis is None:
            return self._scale
        return self._scale.flatten().view(
            [-1 if place == axis else 1 for place in range(self.posts[layer.index].dim())]
        )

    def _zeros(self, layer: Layer) -> Tensor:
        """The error of a layer that no signal has reached."""
        return torch.zeros_like(layer.synapses.forward(self.moving.pre(layer)))

    # Observers

    def show(self, taken: int, residual: float | None) -> None:
        """Give the prediction errors to the circuit's observers."""
        for layer in self.hierarchy.hidden:
            post = self.posts.get(layer.index)
            if post is not None:
                self.show_error(layer, post, taken, residual)

    def show_error(self, layer: Layer, post: Tensor, taken: int, residual: float | None) -> None:
        """Give a layer's prediction error to the circuit's observers."""
        measured = {} if residual is None else {"residual": torch.tensor(residual)}
        # At the soma the batch is where it is in the rate that arrives: the neurons may move it.
        energy = sum_per_sample(post.square(), self.free.batch_axis(layer.sources[0])) / 2
        self.wiring.show(layer, step=torch.tensor(taken), prediction_error=-post, energy=energy, **measured)
