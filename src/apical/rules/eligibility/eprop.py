"""E-prop: eligibility propagation in networks of spiking neurons."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import ClassVar

from torch import Tensor

from apical.errors import CircuitError
from apical.feedback import Direct
from apical.layers import Credit, ForwardState, Layer, Node, NodeState
from apical.layers.moments import at_rows
from apical.layers.synapses import LinearSynapses
from apical.options import check_choice
from apical.rules.alignment.direct_feedback import DirectFeedback
from apical.wiring import Wiring

KINDS = ("random", "symmetric", "adaptive")


class Adaptive(Direct):
    """Direct feedback weights that learn as a read-out would that reads the layer: by their own two ends.

        dB_l = -eta e (s_l)^T summed over moments,   e the error at the read-out's soma

    In the layer that drives the read-out this is the read-out's own update, so that with the same weight decay on both
    the two become each other's transpose.
    """

    name = "adaptive"
    summary = "Direct weights that learn from their own two ends."

    def setup(self, wiring: Wiring) -> None:
        super().setup(wiring)
        readouts = wiring.readouts()
        for layer in wiring.layers:
            if not isinstance(layer.synapses, LinearSynapses):
                raise CircuitError(
                    f"{layer.name}: adaptive feedback exists for nn.Linear alone, and this layer is another. Use "
                    "feedback='random'."
                )
        last = [layer for layer in wiring.layers if layer in readouts]
        if len(last) != 1:
            raise CircuitError(
                f"EProp: the output is read from {', '.join(each.name for each in last)}, and adaptive feedback learns "
                "as one read-out does. End the model in one layer, or use feedback='random'."
            )
        output = last[0].weight.shape[0]
        for layer in wiring.layers:
            if layer not in readouts:
                like = layer.weight.new_empty((output, layer.weight.shape[0]))
                self.weights.hold(layer, self.draw(like, layer), learned=True)

    @property
    def has_uninitialized_state(self) -> bool:
        return False


class EProp(DirectFeedback):
    """E-prop: each synapse keeps an eligibility trace, and a learning signal for its neuron makes a change of it.

        e_ji^t   = surrogate_j^t eps_ji^t,   eps_ji^t the effect of w_ji on the neuron's own state, by way of that state
        L_j^t    = sum_k B_jk e_k^t,         e_k^t the error at the read-out's soma
        dW_ji    = -eta sum_t L_j^t e_ji^t

    This is the gradient without the paths that lead from a spike to another neuron and back. The trace of a synapse
    factors into what arrives at it and what its neuron alone decides, so that its sum over time is computed without
    traces: the learning signals run backward in time through each neuron's own state (membrane potential, reset,
    adaptive threshold), and the result multiplies what arrived at each moment. This is the offline form: it needs the
    sequence to be over, and gives the same numbers.

    With symmetric feedback it equals backpropagation through time exactly in a network with one hidden layer and
    without recurrent synapses. With recurrent synapses it leaves out what a spike does to other neurons; in deeper
    networks B_l is the product of the weights above, without the neurons between. Where the output is read from several
    layers, e is the error at the output.

    Args:
        feedback: B, from the read-out to each layer: "random" (fixed), "symmetric" (the forward weights' product) or
            "adaptive" (learns as a read-out of the layer would).
        init: of random and initial adaptive weights: "match" or "outputs"; see `apical.feedback.Direct`.
        scale: multiplies B.
        seed: of B.

    Needs: neurons with a memory, such as `apical.neurons.LIF`; without them it is direct feedback alignment. Raises:
    CircuitError for symmetric feedback in another circuit than a chain of nn.Linear, adaptive feedback to other layers
    than nn.Linear or from several read-outs.

    Source: Bellec et al., Nature Communications 11, 3625 (2020).

    Example:
        >>> import torch, apical
        >>> from apical import neurons
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(20, 50), neurons.ALIF(), torch.nn.Linear(50, 10), neurons.LeakyReadout()
        ... )
        >>> circuit = apical.Circuit(model, apical.EProp(feedback="symmetric"))
        >>> circuit(torch.rand(25, 8, 20)).sum().backward()
    """

    name = "e_prop"
    title = "E-prop"
    summary = "A synapse's eligibility trace times a learning signal from the read-out for its neuron."
    paper = "Bellec et al. 2020"
    needs = "neurons with a memory (LIF, ALIF)"
    recommended: ClassVar[Mapping[str, float]] = MappingProxyType({})
    shared_evenly = False

    def __init__(self, *, feedback: str = "random", init: str = "match", scale: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        check_choice("EProp", "feedback", feedback, KINDS)
        self.init = init
        self.scale = scale
        self.seed = seed
        if feedback == "symmetric":
            self.take_direct(Direct(symmetric=True, scale=scale, seed=seed))
        elif feedback == "adaptive":  # made with the circuit, before any forward pass could show a size to match
            self.take_direct(Adaptive(init="outputs", scale=scale, seed=seed))
        else:
            self.take_direct(Direct(init=init, scale=scale, seed=seed))
        self._given_feedback = feedback

    @property
    def saves_rates(self) -> bool:  # type: ignore[override]
        return self.feedback == "adaptive"

    def setup(self, wiring: Wiring) -> None:
        super().setup(wiring)
        readouts = wiring.readouts()
        self._several = sum(layer in readouts for layer in wiring.layers) != 1
        if self._several:
            wiring.sequences.share_evenly()

    def assign_credit(self, wiring: Wiring, state: ForwardState, error: Tensor) -> Iterator[Credit]:
        products = self.direct.products(wiring)
        sent = [error] if self._several else []

        def at(rows: int) -> Tensor:
            """The error for a rate with so many rows: of each moment, or of the sequence where only a mean is read."""
            return next((one for one in sent if len(one) == rows), sent[-1])

        def bring(node: Node, own: NodeState) -> Tensor | None:
            if not sent:
                return None
            brought = self.direct.bring(node, own, state, at(own.shape[0]), wiring.output, products)
            return None if brought is None else brought.to(own.dtype)

        for credit in self.teach_each(wiring, state, error, bring):
            if not sent and credit.post is not None:  # at the read-out's soma
                sent.append(credit.post)
                if wiring.sequences.ends and len(credit.post) == len(error):
                    sent.append(wiring.sequences.by_moment(credit.post, state.moments))
            elif credit.post is not None and self.feedback == "adaptive" and isinstance(credit.layer, Layer):
                rate = state[credit.layer].rate
                assert rate is not None
                post = at_rows(at(len(rate)), len(rate), state.moments)
                yield Credit(credit.layer, rate, post, synapses=self.direct.weights.synapses(credit.layer))
            yield credit
