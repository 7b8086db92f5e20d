"""The size in which backpropagation brings signals to every node, measured once."""

import math
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from apical.feedback.randomness import glorot, uniform
from apical.layers import BackwardPass, ForwardState, Layer, Node
from apical.layers.axes import batch_at, batch_first
from apical.wiring import Wiring

SAMPLES = 8
SENT = 4
"""How many inputs the measurement has, and how many signals it sends down for each."""


def backpropagated_sizes(wiring: Wiring, state: ForwardState, y: Tensor, seed: int) -> list[float]:
    """For every node the root mean square of the signal that arrives at its rate for one of size 1 at the output.

        size_l = sqrt(mean over samples and units i of sum_k (dy_k / dh_(l,i))^2)

    Random signs at the output are sent down by backpropagation. Inputs and signs come from the seed, so that all
    processes of a group agree; a model that processes no such inputs is measured on its first.

    Args:
        wiring: of the circuit.
        state: of a forward pass with the first inputs.
        y: the output of that pass.
        seed: of the inputs and signs. The caller restores torch's random state.
    """
    axis = state.batch_axis(wiring.output) or 0
    y, state = _of_drawn_inputs(wiring, state, y, seed)
    power: dict[int, float] = {}
    for number in range(SENT):
        signs = batch_at(uniform(batch_first(y, axis), 1.0, seed, f"the signs of measurement {number}").sign_(), axis)
        walk = _Measured(state.copy(), wiring.output, signs)
        walk.power = power
        for layer, own in walk:
            signal, pre = walk.receive(layer), own.pre
            if signal is not None and pre is not None:
                post = walk.somatic(layer, own, signal)
                if walk.needs_input_grad(layer):
                    walk.send(layer, layer.synapses.transpose_product(post, _of_some_size(layer, seed), pre))
    sizes, last = [0.0] * len(wiring.nodes), 1.0
    for node in reversed(wiring.nodes):
        found = math.sqrt(power.get(node.index, 0.0) / SENT)
        # Where no signal arrives (a gain of zero, silent neurons), the size of the node above.
        last = sizes[node.index] = found if 0 < found < math.inf else last
    return sizes


class _Measured(BackwardPass):
    """A backward pass that adds the mean square of the signal at every node to `power`, by the node's index."""

    power: dict[int, float]

    def receive(self, node: Node) -> Any:
        signal = super().receive(node)
        if signal is not None:
            self.power[node.index] = self.power.get(node.index, 0.0) + float(signal.double().square().mean())
        return signal


def _of_drawn_inputs(wiring: Wiring, state: ForwardState, y: Tensor, seed: int) -> tuple[Tensor, ForwardState]:
    """Output and state for inputs of mean 0 and variance 1, for bytes of all values; else those that are given."""
    x = batch_first(state.source, wiring.batch_axis)
    drawn = uniform(x.new_empty(SAMPLES, *x.shape[1:], dtype=torch.float64), 1.0, seed, "the inputs of the measurement")
    drawn = batch_at(drawn, wiring.batch_axis)
    if x.dtype == torch.uint8:
        drawn.mul_(73).add_(128)
    elif not x.is_floating_point():
        return y, state
    with suppress(RuntimeError, ValueError, IndexError, AssertionError):
        noise = torch.cuda.default_generators[x.get_device()] if x.is_cuda else torch.default_generator
        noise.manual_seed(seed % 2**63)  # of dropout
        output, found = wiring.forward(drawn.to(x), state.plan)
        if bool(output.isfinite().all()):
            return output, found
    return y, state


def _of_some_size(layer: Layer, seed: int) -> Tensor:
    """A layer's weights; in place of zeros, below which layers are taught too, random ones of Glorot's size."""
    weight = layer.weight.detach()
    return (
        weight if weight.any() or not weight.numel() else uniform(weight, glorot(weight), seed, f"{layer.name}/zeros")
    )
