"""Error-optimised predictive coding: the errors are the state."""

from torch import Tensor

from apical.layers import Layer
from apical.rules.energy.inference import Inference


class ErrorOptimised(Inference):
    """The errors descend: post <- post + rate (signal - post). The signal travels down as it arrived.

    The values v = a - post follow in one perturbed forward pass.
    """

    variant = "error_optimised"
    default_steps = 10
    default_rate = 0.2

    def move(self, layer: Layer, signal: Tensor | None) -> Tensor | None:
        if signal is not None and layer.index in self.levels:
            self.posts[layer.index] = self.nearer(layer.index, signal, in_place=True)
        return signal

    def update(self) -> None:
        self.moving.update(self._potential)

    def _potential(self, layer: Layer, moved: bool) -> Tensor | None:
        post = self.posts.get(layer.index)
        if not moved and post is None:
            return None
        drive = self.moving.drive(layer) if moved else self.moving.state[layer].drive
        assert drive is not None
        return drive if post is None else drive - post
