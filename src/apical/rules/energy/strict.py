"""Strict predictive coding: values descend on the energy."""

import torch
from torch import Tensor

from apical.layers import Layer
from apical.rules.energy.inference import Inference


class Strict(Inference):
    """The values descend: v <- v + rate ((a - v) - signal). The signal that travels down is a - v.

    Attributes:
        weights_move: whether drives change though the rates that arrive do not.
    """

    variant = "strict"
    default_steps = 20
    default_rate = 0.05
    weights_move = False

    def move(self, layer: Layer, signal: Tensor | None) -> Tensor | None:
        index = layer.index
        if index not in self.levels:
            return signal
        post = self.posts.get(index)
        if post is None and signal is None:
            return None
        if signal is not None and self._keeps_drive(layer):
            # The error is the state, so that nothing is lost to rounding; no layer below receives it.
            self.posts[index] = self.nearer(index, signal, in_place=True)
            return None
        self._descend(layer, post, signal)
        return post

    def _descend(self, layer: Layer, post: Tensor | None, signal: Tensor | None) -> None:
        index = layer.index
        value = self.values.get(index)
        if self.momentum:
            velocity = self._velocities.get(index)
            if velocity is None:
                velocity = self._velocities[index] = torch.zeros_like(self._drive(layer))
            velocity.mul_(self.momentum)
            if post is not None:
                velocity.add_(post)
            if signal is not None:
                velocity.sub_(signal)
            if value is None:
                self.values[index] = torch.add(self._drive(layer), velocity, alpha=self.rate)
            else:
                value.add_(velocity, alpha=self.rate)
        elif value is None:
            assert signal is not None
            self.values[index] = torch.sub(self._drive(layer), signal, alpha=self.rate)
        else:
            if post is not None:
                value.add_(post, alpha=self.rate)
            if signal is not None:
                value.sub_(signal, alpha=self.rate)

    def update(self) -> None:
        self.moving.update(self._potential)

    def _potential(self, layer: Layer, moved: bool) -> Tensor | None:
        index = layer.index
        driven = moved or self.weights_move
        if index not in self.levels:
            return self.moving.drive(layer) if driven else None
        if self._keeps_drive(layer):
            if index in self.posts:
                self.values[index] = self._drive(layer) - self.posts[index]
        elif driven:
            if index not in self.values:
                self.values[index] = self._drive(layer).clone()
            # The drive is this step's own: nothing else needs it.
            self.posts[index] = self.moving.drive(layer).sub_(self.values[index])
        elif index in self.values:
            self.posts[index] = self._drive(layer) - self.values[index]
        return self.values.get(index)

    def _keeps_drive(self, layer: Layer) -> bool:
        """Whether a layer's drive stays that of the free pass."""
        return not (self.hierarchy.needs_signal[layer.sources[0]] or self.weights_move)

    def _drive(self, layer: Layer) -> Tensor:
        """The drive that was evaluated last."""
        drive = self.moving.state[layer].drive
        assert drive is not None
        return drive
