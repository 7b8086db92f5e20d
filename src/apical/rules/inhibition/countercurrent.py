"""Counter-current inhibition: interneurons fire by the mismatch above, and what they silence is the error."""

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from apical.feedback.randomness import check_init
from apical.feedback.registry import Given
from apical.layers import BackwardPass, Credit, ForwardState, Layer, NodeState
from apical.options import check_ranges
from apical.rules.rule import Sweep
from apical.wiring import Wiring


class CountercurrentInhibition(Sweep):
    """Counter-current inhibition: an area learns from the part of its activity that inhibition from above takes away.

    An inhibitory population in every area fires at a tonic rate I0, and more or less by the mismatch m that arrives
    from the area above, against the current of the forward pass. With rates r and drives a, per sample:

        m_L = dL/dr_L;   I_l = [I0 + m_l]_+,   n_l = I_l - I0              inhibition, and its distance from tonic
        r~_l = [r_l - g n_l]_+                                             the activity that inhibition leaves
        d_l = phi'(a_l) (r_l - r~_l) / g,   d_L = phi'(a_L) m_L            teaching signal
        dW_l = -eta d_l r_(l-1)^T,   m_(l-1) = C_l d_l                     plasticity; mismatch of the area below

    Where input and output agree, inhibition is tonic and nothing is learned. Inhibition takes at most the activity
    that is there, and disinhibition ends where no inhibition is left, so that the teaching signal is the mismatch
    between two bounds:

        d_l = phi'(a_l) min(max(m_l, -I0), r_l / g)

    For small g and large I0 this is backpropagation, or feedback alignment, by the pathway C.

    Args:
        feedback: C, a pathway of `apical.feedback` by name or object: "tied" (the forward weights), "fixed" (random),
            "sign_symmetric", "kolen_pollack" or "weight_mirror".
        gain: g, the activity that one unit of inhibition takes away. 0 is the limit: the activity does not bound
            inhibition, and the tonic rate alone bounds the signal.
        tonic: I0, in units of the mismatch of one sample; `math.inf` for no bound.
        init: as for feedback alignment, of C.
        scale: as for feedback alignment, of C.
        seed: of C.

    Populations: cells fire where the activation is, after a norm and before pooling, and r is their rate above its
    lowest (ReLU, k-winners and sigmoid: the rate; tanh: 1 + tanh). Layers without a lowest rate (a sum follows, leaky
    ones) have no bound by r. The layers that the output reads have the comparator: the mismatch itself. Norms, pooling
    and junctions propagate the signal by their own derivative. The bounds apply at the cells, before the derivative of
    a norm: that derivative gives silent cells a signal, too, and a bound behind it would let them gain and never lose.

    Needs: any circuit, and a loss in units of the rates; for half the squared error of each sample (`Circuit.learn`),
    the mismatch is the difference of two rates. Learned C: an optimizer over `circuit.parameters()`.

    Raises: ConfigError on unknown options or options out of range.

    Departs from the source: Santos-Pata et al. say that inhibition carries the error, and train by backpropagation. No
    equation of theirs for the inhibitory cells could be read; the equations above are ours.

    Source: Santos-Pata, Amil, Raikov, Rennó-Costa, Mura, Soltesz and Verschure, iScience 24, 102364 (2021).

    Example:
        >>> import torch, apical
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
        >>> circuit = apical.Circuit(model, apical.CountercurrentInhibition(gain=0.1))
        >>> loss = circuit.learn(torch.rand(5, 4))
    """

    name = "countercurrent_inhibition"
    title = "Counter-current inhibition"
    summary = "Inhibition carries the mismatch down: what it takes away of an area's activity is the error."
    paper = "after Santos-Pata et al. 2021"
    transposed_limit = "for small gain and a large tonic rate"
    has_absolute_scale = True
    needs_batch = True
    by_moment = True
    observables: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "inhibition": "above its tonic rate, in units of the mismatch of one sample; hidden layers",
            "inhibited_rate": "what inhibition leaves of the rate above its lowest; hidden layers whose cells have one",
        }
    )

    def __init__(
        self,
        *,
        feedback: Given = "tied",
        gain: float = 0.1,
        tonic: float = 1.0,
        init: str = "match",
        scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        rule = type(self).__name__
        check_init(rule, init, scale, ("match", "xavier", "weights"))
        self.gain = gain
        self.tonic = tonic
        self.init = init
        self.scale = scale
        self.seed = seed
        check_ranges(
            rule,
            self,
            {
                "gain": (gain == 0 or 1e-6 <= gain < math.inf, "0, or a finite number of at least 1e-6"),
                "tonic": (tonic > 0, "above 0, or math.inf for no bound"),
            },
        )
        self.take_pathway(feedback, init=init, scale=scale, seed=seed)
        self._areas: dict[int, tuple[int, float | None]] = {}  # the hidden layers': where cells fire, their lowest rate

    def setup(self, wiring: Wiring) -> None:
        super().setup(wiring)
        comparators = wiring.readouts()
        hidden = [layer for layer in wiring.layers if layer not in comparators]
        self._areas = {layer.index: (layer.firing_place, layer.floor) for layer in hidden}

    def assign_credit(self, wiring: Wiring, state: ForwardState, error: Tensor) -> Iterator[Credit]:
        samples = [wiring.samples(state, error, ended) for ended in (False, True)]
        walk = wiring.backward(state, error)
        for layer, own in walk:
            mismatch = walk.receive(layer)
            if mismatch is not None:
                yield from self.teach(walk, layer, own, self._inhibit(wiring, walk, layer, own, mismatch, samples))
            del own
        if walk.derivatives:
            yield from walk.credits()

    def _inhibit(
        self, wiring: Wiring, walk: BackwardPass, layer: Layer, own: NodeState, mismatch: Tensor, units: list[float]
    ) -> Tensor:
        """The teaching signal at the soma, for a mismatch at the layer's rate in units of the loss."""
        if layer.index not in self._areas:
            return walk.somatic(layer, own, mismatch)
        place, floor = self._areas[layer.index]
        samples = units[wiring.sequences.ended(layer, place + 1)]
        if place + 1 < len(layer.steps):
            mismatch = walk.through(layer, own, mismatch, slice(place + 1, None))
        rate = None if floor is None else layer.steps[place].output(own.saved[place])
        if wiring.observers:
            self._show(wiring, layer, mismatch * samples, None if rate is None or floor is None else rate - floor)
        return walk.through(layer, own, self._taken(mismatch, rate, floor, samples), slice(0, place + 1))

    def _taken(self, mismatch: Tensor, rate: Tensor | None, floor: float | None, samples: float) -> Tensor:
        """(r - r~) / g, in units of the loss: the mismatch between minus the tonic rate and what the cells can lose."""
        if rate is not None and floor is not None and self.gain:
            share = 1 / (self.gain * samples)
            most = rate.mul(share)
            mismatch = torch.minimum(mismatch, most.sub_(floor * share) if floor else most)
        return mismatch.clamp(min=-self.tonic / samples)

    def _show(self, wiring: Wiring, layer: Layer, mismatch: Tensor, rate: Tensor | None) -> None:
        inhibition = mismatch.clamp(min=-self.tonic)
        if rate is None:
            wiring.show(layer, inhibition=inhibition)
        else:
            wiring.show(layer, inhibition=inhibition, inhibited_rate=(rate - self.gain * inhibition).clamp_(min=0))
