"""Credit: the signals before and after some synapses, and the update that these make of them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from apical.layers.nodes import Derivatives, Layer, Node
from apical.layers.synapses import Synapses

Update = tuple[int, Tensor]
"""The index of a parameter in the circuit, and what is added to its `.grad`."""


class Credit(NamedTuple):
    """What some parameters of one node learn from: the only way into `.grad`.

    Synapses learn from the signals at their two ends: their update is the sum over samples and positions of
    `post * modulator` times `pre`, plus `decay` times the weight. The parameters of neurons, such as the gain of a
    norm, learn by their local derivative.

    Attributes:
        layer: the node that learns.
        pre: (batch, fan-in ...), the rate that arrived at the synapses; None if only neurons learn.
        post: (batch, units ...), the teaching signal at the soma, with the sign of a gradient.
        synapses: synapses of the rule's own that learn in place of the layer's.
        reciprocal: feedback synapses of the rule that take the identical increment.
        modulator: a third factor, for each sample and unit or broadcast over them; None: 1.
        decay: (units,), the part of its own strength that every synapse of a unit loses, summed over the batch; or
            (units, units), the parts of the strengths of all units' synapses from the same input.
        derivatives: those of the neurons' own parameters, by their index.
    """

    layer: Node
    pre: Tensor | None = None
    post: Tensor | None = None
    synapses: Synapses | None = None
    reciprocal: Synapses | None = None
    modulator: Tensor | None = None
    decay: Tensor | None = None
    derivatives: Mapping[int, Tensor] | None = None

    def updates(self, requires_grad: Sequence[bool]) -> list[Update]:
        """The update of each parameter that learns.

        Args:
            requires_grad: for every parameter of the circuit, whether it learns.
        """
        if self.derivatives is not None:
            return list(self.derivatives.items())
        assert isinstance(self.layer, Layer)
        assert self.pre is not None
        assert self.post is not None
        synapses = self.layer.synapses if self.synapses is None else self.synapses
        weight, bias = synapses.weight_index, synapses.bias_index
        weight_learns = weight is not None and requires_grad[weight]
        bias_learns = bias is not None and requires_grad[bias]
        if not (weight_learns or bias_learns):
            return []
        post = self.post if self.modulator is None else self.post * self.modulator
        changes = synapses.plasticity(self.pre, post, weight_learns, bias_learns)
        if self.decay is not None:
            changes = synapses.decayed(changes, self.decay)
        updates: list[Update] = []
        for index, change in zip((weight, bias), changes, strict=True):
            if index is not None and change is not None:
                updates.append((index, change))
        return updates

    def shared_increment(self, requires_grad: Sequence[bool]) -> dict[int, int]:
        """The index of the reciprocal feedback weight, with that of the weight whose increment it takes."""
        assert isinstance(self.layer, Layer)
        feedback = None if self.reciprocal is None else self.reciprocal.weight_index
        weight = self.layer.synapses.weight_index
        if feedback is None or weight is None or not (requires_grad[weight] and requires_grad[feedback]):
            return {}
        return {feedback: weight}


def neuron_credits(nodes: Sequence[Node], derivatives: Derivatives) -> list[Credit]:
    """Credit for the neurons whose own parameters learn, one a node; of a shared one the first node has the sum."""
    found = []
    left = dict(derivatives)
    for node in nodes:
        own = {index: left.pop(index) for index in node.neuron_indices if index in left}
        if own:
            found.append(Credit(node, derivatives=own))
    return found
