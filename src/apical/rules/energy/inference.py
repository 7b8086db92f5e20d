"""Steps of inference: how the states of predictive coding move, until they settle."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from apical.layers import Layer
from apical.rules.energy.relaxation import Relaxation

Nudging = Callable[[], Tensor]
"""Gives the error at the output as it is now, of each sample."""


class Inference:
    """Steps of inference on the states of one answer.

    Args:
        states: they move.
        nudge: gives the error at the output.
        kind: "values" (they descend on the energy), "errors" (they do, and the values follow in a perturbed forward
            pass) or "fixed" (errors alone move, the predictions and derivatives are the free pass's).
        rate: of the descent.
        momentum: of the descent.
        tolerance: stop where no layer's velocity is more than this part of its signal; None: never.

    Attributes:
        taken: how many steps there were.
        residual: the largest velocity left in a layer, as a part of its signal; infinite while no signal has reached
            one, and None where nobody looked.
    """

    def __init__(
        self,
        states: Relaxation,
        nudge: Nudging,
        *,
        kind: str,
        rate: float,
        momentum: float,
        tolerance: float | None,
    ) -> None:
        self.states = states
        self.nudge = nudge
        self.rate = rate
        self.momentum = momentum
        self.tolerance = tolerance
        self.kind = kind
        self.taken = 0
        self.residual: float | None = None
        self._velocities: dict[int, Tensor] = {}
        self._moves: list[tuple[Tensor, Tensor]] = []

    def step(self) -> bool:
        """One step; whether the states have settled."""
        states = self.states
        self._moves.clear()
        # Chosen here and kept nowhere: a bound method in the object would be a cycle, and keep its tensors for a while.
        visit = {"values": self._move_value, "errors": self._move_error, "fixed": self._move_alone}[self.kind]
        states.sweep(self.nudge(), visit)
        settled = self._look()
        if self.kind != "fixed":
            states.predict(errors=self.kind == "errors")
        self.taken += 1
        return settled

    def _look(self) -> bool:
        if self.tolerance is None or torch.compiler.is_compiling():
            return False
        if len(self._moves) < len(self.states.hierarchy.hidden):
            self.residual = math.inf  # no signal has reached some layer
            return False
        ratios = [move / size for move, size in self._moves]
        self.residual = math.sqrt(float(torch.stack(ratios).max())) if ratios else 0.0
        return self.residual <= self.tolerance

    def _note(self, post: Tensor | None, signal: Tensor | None) -> None:
        """How far a layer is from its balance, post = signal, beside the larger of the two."""
        if self.tolerance is None or (post is None and signal is None):
            return
        if post is None or signal is None:
            one = torch.ones(())
            self._moves.append((one, one))
            return
        tiny = torch.finfo(post.dtype).tiny
        size = torch.maximum(post.square().sum(), signal.square().sum()).clamp_min(tiny)
        self._moves.append(((post - signal).square().sum(), size))

    def _move_value(self, layer: Layer, message: Tensor | None) -> Tensor | None:
        """Descend: v <- v + rate ((a - v) - signal). What goes down is a - v."""
        states, index = self.states, layer.index
        signal = None if message is None else states.back(layer, message)
        if index not in states.levels:
            return signal
        post, value = states.posts.get(index), states.values.get(index)
        self._note(post, signal)
        if post is None and signal is None:
            return None
        if signal is not None and states.is_driven_alike(layer):
            # Its drive stays what it is, so the error is the state: nothing is lost to rounding, and nobody is below.
            states.posts[index] = self._nearer(index, signal, in_place=True)
            return None
        if self.momentum:
            velocity = self._velocities.get(index)
            if velocity is None:
                velocity = self._velocities[index] = torch.zeros_like(states.drives[index])
            velocity.mul_(self.momentum)
            if post is not None:
                velocity.add_(post)
            if signal is not None:
                velocity.sub_(signal)
            if value is None:
                states.values[index] = torch.add(states.drives[index], velocity, alpha=self.rate)
            else:
                value.add_(velocity, alpha=self.rate)
        elif value is None:
            assert signal is not None
            states.values[index] = torch.sub(states.drives[index], signal, alpha=self.rate)
        else:
            if post is not None:
                value.add_(post, alpha=self.rate)
            if signal is not None:
                value.sub_(signal, alpha=self.rate)
        return post

    def _move_error(self, layer: Layer, message: Tensor | None) -> Tensor | None:
        """Descend: post <- post + rate (signal - post). What goes down is the signal itself."""
        states, index = self.states, layer.index
        if message is None:
            return None
        signal = states.back(layer, message)
        if index in states.levels:
            self._note(states.posts.get(index), signal)
            states.posts[index] = self._nearer(index, signal, in_place=True)
        return signal

    def _move_alone(self, layer: Layer, message: Tensor | None) -> Tensor | None:
        """Descend: post <- post + rate (signal - post). What goes down is the error as it was."""
        states, index = self.states, layer.index
        post = states.posts.get(index)
        if message is None:
            return post
        signal = states.back(layer, message)
        if index not in states.levels:
            return signal
        self._note(post, signal)
        states.posts[index] = self._nearer(index, signal, in_place=False)
        return post

    def _nearer(self, index: int, signal: Tensor, *, in_place: bool) -> Tensor:
        post = self.states.posts.get(index)
        if self.momentum:
            velocity = self._velocities.get(index)
            move = signal if post is None else signal - post
            velocity = move.clone() if velocity is None else velocity.mul_(self.momentum).add_(move)
            self._velocities[index] = velocity
            return velocity * self.rate if post is None else torch.add(post, velocity, alpha=self.rate)
        if post is None:
            return signal * self.rate
        return post.lerp_(signal, self.rate) if in_place else torch.lerp(post, signal, self.rate)
