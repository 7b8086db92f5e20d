"""Direct feedback: weights that lead from the output straight to each layer."""

from __future__ import annotations

import copy
import math
import weakref
from typing import Any

import torch
from torch import Tensor

from apical.errors import CircuitError, ConfigError
from apical.feedback.pathway import SMALLER_STEPS, Pathway
from apical.feedback.randomness import check_init, uniform
from apical.feedback.sizes import backpropagated_sizes
from apical.feedback.weights import PerLayer
from apical.layers import ForwardState, Layer, Node, NodeState
from apical.layers.axes import batch_at, batch_first
from apical.layers.moments import at_rows
from apical.layers.synapses import LinearSynapses
from apical.wiring import Wiring


class Direct(Pathway):
    """Fixed random weights from the output straight to each layer.

    A convolution gets a dense map from the outputs of a sample to its whole feature map, as in Nokland's paper. Where a
    layer of `nn.Linear` and the output share all axes but the last (tokens, moments), the same weights are used at
    every position. Nothing travels over skip connections.

    Args:
        density: the part of the weights that are there; the others are zero, and those that are there larger by as much
            as keeps their power.
        symmetric: in place of random weights the product of the forward weights above each layer, at every step; only
            in chains of `nn.Linear`.
        init: standard deviation (uniform): "match" (the root mean square of dy/dh_l, the derivative of the outputs by
            the layer's rates, so that signals arrive in backpropagation's size at the start) or "outputs"
            (1 / sqrt(outputs)).
        scale: multiplies the weights.
        seed: of the weights; each layer's depend on the seed and the layer's name alone.

    The sizes of "match" are measured once: signals of random signs go down by backpropagation, through norms, pooling
    and neurons, with the weights as they are. The eight inputs of the measurement, of mean 0 and variance 1 (bytes: of
    all values), depend on the seed and not on data. Inputs of another scale drive neurons with a threshold to other
    slopes: correct that with `scale`. A layer that no signal reaches (a gain of zero above it) takes the size of the
    layer above. Below a mean over positions backpropagation brings the same signal to each, which adds up in the update
    of a convolution; random signals of the same size add up to less.

    Shapes: (outputs, units of the layer ...), made with the circuit if it has an example, and otherwise at the first
    forward pass, since only that shows the size of a feature map.

    Raises:
        ConfigError: an unknown init, a scale that is not positive, or a density outside (0, 1].
        CircuitError: symmetric weights in another circuit than a chain of `nn.Linear`; a later output or rate of
            another size.

    Source: Nokland, NeurIPS 2016, eq. 4; sparse and symmetric: Guerguiev, Lillicrap and Richards, eLife 6, e22901
        (2017).

    Example:
        >>> import apical
        >>> apical.DirectFeedbackAlignment(feedback=apical.feedback.Direct(density=0.5)).feedback.density
        0.5
    """

    name = "direct"
    summary = "Fixed random weights from the output straight to each layer."
    sends_down = False
    recommended = SMALLER_STEPS

    def __init__(
        self,
        *,
        density: float = 1.0,
        symmetric: bool = False,
        init: str = "match",
        scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_init("Direct", init, scale, ("match", "outputs"))
        if not 0 < density <= 1:
            raise ConfigError(f"Direct: density={density!r} must be above 0 and at most 1.")
        self.density = density
        self.symmetric = symmetric
        self.init = init
        self.scale = scale
        self.seed = seed
        self.weights = PerLayer(grows=True)
        self.like: Tensor  # what weights that are still to be made will be: their type, and the device
        self.sizes: list[float] = []  # of "match", for every node; zero until they are measured
        self._copies = _Copies([self])

    def setup(self, wiring: Wiring) -> None:
        if self.symmetric and not (
            wiring.is_chain() and all(isinstance(layer.synapses, LinearSynapses) for layer in wiring.layers)
        ):
            raise CircuitError(
                "Direct: symmetric feedback is the product of the forward weights above each layer, which exists only "
                "in a plain chain of nn.Linear. Use random weights (symmetric=False)."
            )
        self.weights = PerLayer(grows=True)
        self.register_buffer("like", wiring.layers[0].weight.new_empty(0), persistent=False)
        self.sizes = [0.0] * len(wiring.nodes)
        self._copies = _Copies([self])

    @property
    def has_uninitialized_state(self) -> bool:
        """Whether the weights are still to be made by `initialize_lazily`."""
        return not self.symmetric and not len(self.weights)

    def initialize_lazily(self, wiring: Wiring, state: ForwardState, y: Tensor) -> None:
        """Make the weights for rates and outputs of these shapes."""
        readouts = wiring.readouts()
        if self.init == "match" and not any(self.sizes):
            self.sizes = backpropagated_sizes(wiring, state, y, self.seed)
        for node in wiring.nodes:
            own = state.nodes[node.index]
            if own is None or node in readouts or not node.own_indices:
                continue
            axis, output_axis = _axis_of(state, node.index + 1), _axis_of(state, wiring.output)
            positionwise = axis == output_axis and _positionwise(node, own.shape, y.shape)
            outputs = y.shape[-1] if positionwise else y.numel() // y.shape[output_axis]
            units = own.shape[-1:] if positionwise else _without(own.shape, axis)
            like = y.new_empty((outputs, *units), dtype=wiring.layers[0].weight.dtype)
            self.weights.hold(node, self.draw(like, node))
        if not len(self.weights):  # one layer: nothing to send, and nothing to make later
            self.weights.register_buffer("none", y.new_zeros(0))
        for other in self._copies:
            if other.has_uninitialized_state:
                other.sizes, other.weights = list(self.sizes), copy.deepcopy(self.weights).to(other.like)

    def draw(self, like: Tensor, node: Node) -> Tensor:
        """The weights of a node, by the seed and the node's name alone.

        Args:
            like: (outputs, units ...), gives shape, type and device.
            node: that receives the signal.
        """
        spread = (self.sizes[node.index] if self.init == "match" else 1.0) / math.sqrt(len(like))
        made = uniform(like, self.scale * spread, self.seed, node.name)
        if self.density < 1:
            # Uniform numbers from 0 to 1: below the density the synapse is there.
            drawn = uniform(like, 1 / math.sqrt(12), self.seed, f"{node.name}/density") + 0.5
            made.mul_((drawn < self.density) / math.sqrt(self.density))
        return made

    def products(self, wiring: Wiring) -> dict[int, Tensor]:
        """The weights of one backward pass that are computed for it, (outputs, units ...), by the node's index.

        Symmetric feedback: for every layer the product of the forward weights above it.
        """
        found: dict[int, Tensor] = {}
        if not self.symmetric:
            return found
        *lower, last = wiring.layers
        product, above = last.weight.detach() * self.scale, last
        for layer in reversed(lower):
            if above is not last:
                product = product.mm(above.weight.detach())
            found[layer.index], above = product, layer
        return found

    def bring(
        self, node: Node, own: NodeState, state: ForwardState, signal: Tensor, output: int, products: dict[int, Tensor]
    ) -> Tensor | None:
        """Carry a signal at the output to the rate of a node.

        Args:
            node: that receives it.
            own: its state.
            state: of the forward pass.
            signal: of the shape of the output.
            output: the value that is the output.
            products: weights that were computed for this pass.

        Returns:
            of the shape of the node's rate, or None where no weights lead.
        """
        weights = products.get(node.index)
        if weights is None:
            held = self.weights
            if node not in held:
                return None
            weights = held[node]
        axis, output_axis = _axis_of(state, node.index + 1), _axis_of(state, output)
        if axis == output_axis and _positionwise(node, own.shape, signal.shape):
            self._check(node, weights, own.shape[-1:], signal.shape[-1])
            return signal.matmul(weights.flatten(1).to(signal.dtype))
        sent = batch_first(signal, output_axis)
        sent = at_rows(sent.reshape(sent.shape[0], -1), own.shape[axis], state.moments)
        units = _without(own.shape, axis)
        self._check(node, weights, units, sent.shape[1])
        brought = sent.mm(weights.flatten(1).to(sent.dtype)).view(-1, *units)
        return batch_at(brought, axis)

    def _check(self, node: Node, weights: Tensor, units: tuple[int, ...], outputs: int) -> None:
        if tuple(weights.shape) != (outputs, *units):
            raise CircuitError(
                f"{node.name}: its direct feedback weights were made for rates {tuple(weights.shape[1:])} and "
                f"{weights.shape[0]} outputs, and this pass has {tuple(units)} and {outputs}. Keep the size of the "
                "input fixed, or use FeedbackAlignment, which has no dense maps."
            )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._copies.add(self)

    def get_extra_state(self) -> Tensor:
        """The measured sizes, so that weights that are made after loading have them too."""
        return torch.tensor(self.sizes, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the sizes that `get_extra_state` returned."""
        self.sizes = state.tolist()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # The state of a circuit before its first forward pass: the weights are to be drawn again.
        if not any(key.startswith(f"{prefix}weights.") for key in state_dict):
            self.weights = PerLayer(grows=True)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _axis_of(state: ForwardState, value: int) -> int:
    """The batch axis of a value, which the rule requires."""
    axis = state.batch_axis(value)
    assert axis is not None
    return axis


def _positionwise(node: Node, rate: torch.Size, output: torch.Size) -> bool:
    """Whether node and output share all axes but the units, which stand last."""
    last = not isinstance(node, Layer) or node.synapses.unit_axis == -1
    return last and len(rate) == len(output) > 1 and rate[:-1] == output[:-1] and (len(rate) == 2 or _is_layer(node))


def _is_layer(node: Node) -> bool:
    return isinstance(node, Layer)


def _without(shape: torch.Size, axis: int) -> tuple[int, ...]:
    return tuple(size for place, size in enumerate(shape) if place != axis)


class _Copies(weakref.WeakSet["Direct"]):
    """The copies of a pathway, which all hold this set: weights that one makes late, those that have none take.

    `AveragedModel` copies a circuit when it is built, and fails where the circuit gets buffers that the copy lacks.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> _Copies:
        return self

    def __reduce__(self) -> Any:
        return _Copies, ()
