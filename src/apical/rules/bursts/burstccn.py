"""BurstCCN: bursts carry errors, and a second feedback path takes away what events alone would bring."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import ClassVar

from torch import Tensor

from apical.errors import ConfigError
from apical.feedback import Homeostatic
from apical.feedback.randomness import feedback_like
from apical.feedback.registry import Given
from apical.feedback.weights import PerLayer
from apical.layers import BackwardPass, Credit, ForwardState, Layer, NodeState, Synapses
from apical.options import check_choice, check_positive
from apical.rules.bursts.populations import Bursts, Population
from apical.rules.rule import NO_DIRECT
from apical.wiring import Wiring


class BurstCCN(Bursts):
    """Bursting cortico-cortical networks: a burst is worth what it has more than its events let expect.

    With event rates e_l, burst probabilities p_l, burst rates b_l = p_l e_l, and h(e) = phi'/e:

        u_l  = Q_l e_(l+1) - Y_l b_(l+1)                     apical potential: events against bursts
        p_l  = 2 p_b sigmoid((2 / p_b) h(e_l) * u_l)         hidden; slope 1 at u = 0 for any baseline p_b
        p_L  = p_b + p_b error_scale (-dL/dv_L) / e_L        output; (t - e) h(e) of squared error
        dW_l = eta (p_l - p_b) e_l e_(l-1)^T                 constant baseline: one phase, no moving average
        dQ_l = -eta_Q u_l e_(l+1)^T                          homeostasis: silences the apical dendrite

    Where Q = p_b Y, u holds the errors in the bursts alone, -Y (b - p_b e). What is computed is then, in units of the
    loss and with s = error_scale and g the signal that feedback brings to the soma,

        delta_l = (e_l / s) tanh(s g_l / e_l),   g_l = (Y_l delta_(l+1)) * phi'

    which is backpropagation to third order in u where Y is the forward weights, feedback alignment where it is random.
    A neuron without events cannot burst and learns nothing.

    Args:
        feedback: Y, a pathway of `apical.feedback` by name or object: "kolen_pollack" (a parameter of the rule that
            takes W's increments, and the optimizer's weight decay), "fixed" (random), "tied" (W itself),
            "sign_symmetric", "weight_mirror" or "homeostatic" (learns by its own bursts to cancel the events,
            dY = eta_Q u b^T; needs events="fixed" or "learned").
        events: Q: "matched" (always p_b Y, which costs no second product), "fixed" (p_b times Y and a fixed random
            mismatch) or "learned" (dQ; the mismatch is a Parameter of the rule. With learned Y, Q takes p_b dY too).
        mismatch: where Q is not matched, spread of Q / p_b - Y at the start, in units of Y's.
        homeostasis: eta_Q over the optimizer's learning rate, and over the number of synapses that meet on an apical
            dendrite, so that one value suits layers of any size; over the mean square of the rate that a synapse
            carries, too, where that is above 1. The mean is each presynaptic unit's own, over batch and positions,
            which stand for the unit's average over time.
        error_scale: s, the part of the baseline that an output error of 1 adds or takes. Divided out again, so that
            small ones only keep populations in their linear range; but where Q is not matched, errors have to stand out
            from what events bring. None: 0.1 where Q is matched, else 1.
        baseline: p_b, at most 0.5. It drops out of all updates.
        tonic: event rate at rest of ON and OFF populations, where neurons have no lowest rate (see below).
        init: as for feedback alignment, of Y.
        scale: as for feedback alignment, of Y.
        seed: of the feedback weights: with those of feedback alignment's seed, the very same.

    Populations: no event or burst rate is negative. The event rate is the rate above the activation's floor (ReLU,
    sigmoid: the rate; tanh: 1 + tanh), where the activation is: before pooling, after a norm. Layers without a floor
    (no activation of their own, such as those under a residual sum, or a leaky one) and the output are pairs of ON and
    OFF populations whose difference is the rate v, |v| + tonic events in all, with opposite apical potentials. Feedback
    passes norms, pooling and junctions by their own derivative, as it does in every rule here.

    Shapes: Y and Q as the layer's weight, convolutions included. Layers with nothing to teach below them have none.

    Needs: any circuit; learned feedback an optimizer over `circuit.parameters()`, "kolen_pollack" with weight decay.
    Raises: ConfigError on unknown options.

    At the defaults populations stay in their linear range: on tanh networks the update is Kolen-Pollack's to some 3e-3.
    With error_scale from about 3, bursts saturate and it becomes another.

    Departs from the paper: errors are those of any torch loss, per sample; gains are divided out, so that one learning
    rate suits backpropagation and this; Y and Q have the sign of W (the paper's Y = -W^T). The paper's figures have
    Y fixed and Q learned or matched; the default here is learned Y, which its authors' later work (2026) needs beyond
    MNIST. The form of p for any baseline, and "homeostatic" Y, are of that later work, too. Output bursts are held
    between never and twice the baseline.

    Source: Greedy, Zhu, Pemberton, Mellor and Costa, NeurIPS 2022, section 3.
    """

    name = "burst_ccn"
    title = "BurstCCN"
    summary = "Bursts carry errors down; feedback of events removes the bursts that are not errors."
    paper = "Greedy et al. 2022"
    needs = "any circuit; an optimizer over circuit.parameters() with weight decay"
    refused_pathways: ClassVar[Mapping[str, str]] = MappingProxyType({"direct": NO_DIRECT})
    observables: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "event_rate": "events per neuron, in units of its rate",
            "burst_probability": "part of the events that are bursts",
            "burst_rate": "bursts per neuron, in units of its rate",
            "burst_modulation": "(p - p_b) / p_b of the ON population, from -1 to 1",
            "apical_potential": "at the rate, in units of burst rate: hidden layers; positive raises bursting",
        }
    )

    def __init__(
        self,
        *,
        feedback: Given = "kolen_pollack",
        events: str = "matched",
        mismatch: float = 0.01,
        homeostasis: float = 1.0,
        error_scale: float | None = None,
        baseline: float = 0.5,
        tonic: float = 1.0,
        init: str = "match",
        scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        if error_scale is None:
            error_scale = 0.1 if events == "matched" else 1.0
        super().__init__(
            feedback=feedback,
            error_scale=error_scale,
            baseline=baseline,
            tonic=tonic,
            init=init,
            scale=scale,
            seed=seed,
        )
        check_choice("BurstCCN", "events", events, ("matched", "fixed", "learned"))
        check_positive("BurstCCN", mismatch=mismatch, homeostasis=homeostasis)
        if isinstance(self.pathway, Homeostatic) and events == "matched":
            raise ConfigError(
                "BurstCCN: feedback='homeostatic' learns to cancel what events bring, and with events='matched' "
                "nothing is left to cancel. Use events='fixed' or 'learned'."
            )
        self.events = events
        self.by_moment = events != "matched"  # then feedback learns from products of two signals
        limits = {"matched": "for small errors", "learned": "for small errors once Q cancels the events"}
        self.transposed_limit = limits.get(events)
        self.mismatch = mismatch
        self.homeostasis = homeostasis
        self.event_weights = PerLayer()

    def setup(self, wiring: Wiring) -> None:
        super().setup(wiring)
        self.event_weights = PerLayer()
        lowest = wiring.lowest()  # below which no apical dendrites could be silenced
        own = self.pathway.options()  # the mismatch is in units of Y's spread
        init = "xavier" if own.get("init", self.init) == "xavier" else "match"
        scale = own.get("scale", self.scale)
        for layer in wiring.layers if self.events != "matched" else ():
            if not layer.feeds_back or layer in lowest:
                continue
            apart = feedback_like(layer.weight, init, scale, self.seed, f"{layer.name}/mismatch")
            apart.mul_(self.mismatch)
            if isinstance(self.pathway, Homeostatic):
                apart += self.pathway.weight(layer)
            self.event_weights.hold(layer, apart, learned=self.events == "learned")

    def assign_credit(self, wiring: Wiring, state: ForwardState, error: Tensor) -> Iterator[Credit]:
        samples = [wiring.samples(state, error, ended) for ended in (False, True)]
        walk = wiring.backward(state, error)
        for layer, own in walk:
            yield from self._visit(wiring, walk, layer, own, samples[self._populations[layer.index].ended])
            del own
        yield from walk.credits()

    def _visit(
        self, wiring: Wiring, walk: BackwardPass, layer: Layer, own: NodeState, samples: float
    ) -> Iterator[Credit]:
        potential, unit = walk.receive(layer), self.error_scale * samples
        if potential is None:
            return
        population = self._populations[layer.index]
        sends = walk.needs_input_grad(layer)
        if population.lasts(own) and not wiring.observers and layer not in self.event_weights:
            bursts = population.all_bursts(layer, own, potential, walk, unit)
        else:
            signal = population.arrive(layer, own, potential, walk)
            bursts = population.bursts(signal, population.heard(layer, own), unit)
            bursts = population.spread(layer, own, bursts, walk)
            del signal  # releases its memory
        if wiring.observers:
            self._show(wiring, layer, population, population.rate(layer, own), bursts, potential, unit)
        net = None
        if sends and layer in self.event_weights:
            rate = population.rate(layer, own)
            net = population.net(rate, population.events(rate, unit), unit)
            net = population.leave(layer, own, net, walk, learning=False)
        post = population.leave(layer, own, bursts, walk)
        del potential, bursts  # releases their memory
        pre = own.pre
        assert pre is not None
        yield Credit(layer, pre, post, reciprocal=self.pathway.reciprocal(layer))
        if not sends:
            return
        below = self.pathway.send(layer, post, pre)
        if net is not None:
            below = below + layer.synapses.transpose_product(net, self._unmatched(layer), pre)
            yield from self._homeostasis(layer, net, post, below, unit, samples)
        walk.send(layer, below)

    def _unmatched(self, layer: Layer) -> Tensor:
        """Q / p_b - Y."""
        kept = self.event_weights[layer]
        return kept - self.pathway.weight(layer) if isinstance(self.pathway, Homeostatic) else kept

    def _homeostasis(
        self, layer: Layer, net: Tensor, post: Tensor, below: Tensor, unit: float, samples: float
    ) -> Iterator[Credit]:
        """Credit for Q and Y by this layer's part of the apical potential below, u / p_b = unit * below."""
        rate = self.homeostasis * unit**2 / (samples * layer.synapses.fan_out)
        plans: list[tuple[Synapses, Tensor, float]] = []
        if self.events == "learned":
            plans.append((self.event_weights.synapses(layer), net, rate))
        if isinstance(self.pathway, Homeostatic):
            plans.append((self.pathway.weights.synapses(layer), net - post, -rate))
        for synapses, sent, factor in plans:
            # Large event rates, such as a rectified layer's, would make these steps too large to converge.
            power = sent.square().mean(layer.synapses.other_axes(sent), keepdim=True).mul_(unit**2).clamp_(min=1)
            yield Credit(layer, below, sent * (factor / power), synapses=synapses)

    def _show(
        self,
        wiring: Wiring,
        layer: Layer,
        population: Population,
        rate: Tensor,
        bursts: Tensor,
        potential: Tensor,
        unit: float,
    ) -> None:
        events = population.events(rate, unit)
        share = bursts / events  # how far the probability is below the baseline, in units of it
        if population.floor is not None:
            share = share.masked_fill(rate <= population.floor, 0.0)  # without events there is none
        net = population.net(rate, events, unit)
        burst_rate = self.baseline * unit * (events - share * net)
        quantities = {
            "event_rate": events * unit,
            "burst_rate": burst_rate,
            "burst_modulation": -share,
            "burst_probability": burst_rate / (events * unit),
        }
        if not population.output:
            quantities["apical_potential"] = potential * (-self.baseline * unit)
        wiring.show(layer, **quantities)
