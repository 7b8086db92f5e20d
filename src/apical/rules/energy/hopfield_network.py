"""The chain of layers that a Hopfield network is made of: what it needs of a circuit, and what its neurons do."""

from collections.abc import Callable, Mapping

from torch import Tensor

from apical.errors import CircuitError
from apical.layers import BackwardPlan, Junction, Layer, NodeState, Step, passes, products
from apical.layers.steps import Saved
from apical.wiring import Wiring

Activation = Callable[[Tensor], Tensor]
"""Takes a tensor of its own, which it may overwrite."""

SHAPES: Mapping[str, Activation] = {
    "hard_sigmoid": lambda x: x.clamp_(0, 1),
    "half_hard_sigmoid": lambda x: x.mul_(0.5).clamp_(0, 1),
    "centered_hard_sigmoid": lambda x: x.clamp_(-0.5, 0.5),
    "shifted_sigmoid": lambda x: x.sub_(0.5).mul_(4).sigmoid_(),
}
"""Activations by name, in place."""


class HopfieldNetwork:
    """A chain of layers whose synapses carry rates both ways, and a linear read-out.

    Args:
        wiring: of the circuit.
        rule: the name, for messages.
        activation: one of `SHAPES`, or None for the model's own.
        synchronous: all layers at once, instead of every second and then the others.
        damping: how far a state goes towards the one that its input asks for, in a step.
        holomorphic: whether states will be complex.

    Attributes:
        layers: the hidden ones.
        readout: the last layer.
        pools: of each hidden layer, its pooling and changes of shape.
        turns: the places of the layers that move together, in the order in which they move.

    Raises:
        CircuitError: the network does not settle to a minimum of an energy.
    """

    def __init__(
        self, wiring: Wiring, rule: str, *, activation: str | None, synchronous: bool, damping: float, holomorphic: bool
    ) -> None:
        self.wiring = wiring
        self.damping = damping
        self._rule = rule
        self._check_chain()
        self.layers = wiring.layers[:-1]
        self.readout = wiring.layers[-1]
        self.pools: list[list[Step]] = []
        self._own: list[Step | None] = []
        for layer in self.layers:
            pools, own = self._parts(layer, named=activation is not None)
            if holomorphic:
                self._check_holomorphic(layer, pools, own, activation)
            self.pools.append(pools)
            self._own.append(own)
        self.activation = activation
        # From above: a layer that sends up has then pooled the state that is there now, and unpools by that.
        places = range(len(self.layers))[::-1]
        self.turns = (
            [list(places)] if synchronous else [[place for place in places if place % 2 == odd] for odd in (0, 1)]
        )

    # Checks

    def _check_chain(self) -> None:
        wiring = self.wiring
        said = f"{self._rule}(network='hopfield') lets a chain of layers settle"
        if not wiring.is_line():
            crossing = next(
                (node.name for node in wiring.nodes if node.sources != (node.index,)), wiring.nodes[-1].name
            )
            raise CircuitError(
                f"{crossing}: {said}, and here rates part or meet. Use a chain, or network='feedforward', which takes "
                "any graph."
            )
        first = next(node.index for node in wiring.nodes if isinstance(node, Layer))
        for node in wiring.nodes:
            if isinstance(node, Junction) and (node.index > first or node.own_indices):
                raise CircuitError(
                    f"{node.name}: {said}, and this is a place without synapses between them. Put what it does into "
                    "the layer below, or use network='feedforward'."
                )
        last = wiring.layers[-1]
        if any(not (step.traits.moves and step.traits.elementwise) for step in last.steps):
            raise CircuitError(
                f"{last.name}: {said}, and reads its answer out by a linear layer, which {last.steps[0]!r} follows. "
                "Take it out (F.cross_entropy has its own softmax), or use network='feedforward'."
            )

    def _parts(self, layer: Layer, *, named: bool) -> tuple[list[Step], Step | None]:
        """The pooling and changes of shape of a layer, and its activation."""
        pools: list[Step] = []
        own: Step | None = None
        for step in layer.steps:
            # An activation that grows may trade places with max-pooling, but not with means.
            traits = step.traits
            if traits.moves or traits.pools == "max" or (traits.pools == "mean" and own is None):
                pools.append(step)
            elif traits.activation and traits.monotone and own is None:
                own = step
            else:
                self._refuse(layer, step, own)
        if own is None and not named:
            raise CircuitError(
                f"{layer.name}: it has no activation, and a linear layer that is fed back on settles only by luck. Add "
                "nn.Hardtanh(0.0, 1.0), say activation='hard_sigmoid', or use network='feedforward'."
            )
        return pools, own

    def _refuse(self, layer: Layer, step: Step, own: Step | None) -> None:
        said = f"{layer.name}: {self._rule}(network='hopfield') "
        if step.traits.pools == "mean":
            raise CircuitError(
                f"{said}adds what comes from above after pooling, and average pooling that follows the activation "
                "cannot trade places with it. Put the pooling before the activation."
            )
        if step.traits.activation and step.traits.monotone:
            raise CircuitError(f"{said}has one activation a layer, and finds {own!r} and {step!r}. Keep one.")
        raise CircuitError(
            f"{said}has no place for {step!r}: a state settles to a minimum of an energy where its activation never "
            "falls, and norms and dropout are no part of it. Use nn.Hardtanh(0.0, 1.0), nn.Sigmoid or another that "
            "grows, with pooling at most, or network='feedforward', which takes any."
        )

    def _check_holomorphic(self, layer: Layer, pools: list[Step], own: Step | None, activation: str | None) -> None:
        smooth = activation == "shifted_sigmoid" or (activation is None and own is not None and own.traits.holomorphic)
        pooled = [step for step in pools if not step.traits.moves]
        if not smooth or pooled:
            what = repr(pooled[0]) if smooth else repr(activation or own)
            raise CircuitError(
                f"{layer.name}: {what} has no derivative in the complex plane, where "
                f"{self._rule}(nudging='holomorphic') nudges. Use nn.Tanh, nn.Sigmoid or "
                "activation='shifted_sigmoid' without pooling, or nudging='centered'."
            )

    # Neurons

    def fire(self, place: int, x: Tensor) -> Tensor:
        """The rate of a layer for its input, which is overwritten."""
        if self.activation is not None:
            return SHAPES[self.activation](x)
        own = self._own[place]
        assert own is not None
        return own.fire_(x)

    def pooled(self, place: int, pre: Tensor) -> tuple[Tensor, list[Saved]]:
        """The pooled drive of a layer, and what its pooling saves."""
        x = products.forward(self.layers[place].synapses, pre)
        saved = []
        for step in self.pools[place]:
            x, own = step.forward(x)
            saved.append(own)
        return x, saved

    def unpooled(self, place: int, state: Tensor, saved: list[Saved]) -> Tensor:
        """A layer's state where its synapses end."""
        for step, own in zip(reversed(self.pools[place]), reversed(saved), strict=True):
            state = step.derivative(state, *own)
        return state

    def enter(self, x: Tensor) -> tuple[Tensor, list[NodeState | None]]:
        """The rate that arrives at the first layer, and the states of the junctions that the input passes."""
        wiring = self.wiring
        count = wiring.layers[0].index
        plan = BackwardPlan((), (True,) * (count + 1), ())
        rate, state = passes.forward(wiring.nodes[:count], wiring.last_use[:count], count, x, plan)
        return rate.to(self.readout.weight.dtype), state.nodes
