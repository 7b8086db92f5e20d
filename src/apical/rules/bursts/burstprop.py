"""Burstprop: what a teacher changes in the burst probabilities, against the bursts without a teacher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from apical.feedback.registry import Given
from apical.feedback.weights import PerLayer
from apical.kernels import tanh_
from apical.layers import BackwardPass, Credit, ForwardState, Layer, NodeState
from apical.layers.synapses import LinearSynapses
from apical.options import check_positive
from apical.rules.bursts.populations import Bursts, bounded
from apical.wiring import Wiring

aten = torch.ops.aten


class Burstprop(Bursts):
    """Burst-dependent plasticity: synapses learn from the burst probability that a teacher adds or takes.

    Two streams of bursts travel down, without teacher (b, u, p) and with it (b^T, u^T, p^T). With event rates e_l,
    h(e) = phi'/e and p_0 = baseline:

        p_L = p_0,   p^T_L = p_0 + p_0 error_scale (-dL/dv_L) / e_L     output; (t - e) h(e) of squared error
        u_l = h(e_l) * (Y_l b_(l+1)) - Z_l b~_l,   b~_l = sigmoid(slope Y_l b_(l+1)) e_l,   u^T_l alike with b^T
        p_l = sigmoid(slope u_l),   b_l = p_l e_l                       hidden
        dW_l = eta (p^T_l - p_l) e_l e_(l-1)^T
        dZ_l = eta_Z u_l b~_l^T                                         drives u to 0, where p is linear in it

    The whole burst rate travels through Y, not its error alone as in `BurstCCN`, so the streams without teacher set
    the slope at which each neuron hears its error, and saturate it where feedback is strong. A small slope keeps them
    in the linear range; Z, the recurrent input of the paper, takes what is common to both away.

    Normalised (the default), hidden probabilities are 2 p_0 sigmoid(slope u), and the gain of each stage (the slope
    p_0 slope / 2 at u = 0, p_0 error_scale at the output, the batch's size) is divided out of the difference of the two
    streams, so that one learning rate suits backpropagation and this. Without a stream below (u = 0) this is
    backpropagation to third order in the error where Y is W, and feedback alignment where it is random.

    Args:
        feedback: Y, a pathway of `apical.feedback` by name or object: "kolen_pollack" (a parameter of the rule that
            takes W's increments, and the optimizer's weight decay), "fixed" (random), "tied" (W itself),
            "sign_symmetric" or "weight_mirror".
        recurrent: let fully connected hidden layers whose neurons neither pool nor reshape have the recurrent input Z.
        recurrent_rate: eta_Z over the optimizer's learning rate, times the units of the layer. Z is a Parameter of the
            rule and starts at zero. Its u is clipped where |slope u| = 6: a rectified neuron that hardly fires has a
            potential without bound.
        slope: of the burst probability in the apical potential (the paper's beta).
        normalised: divide the gains out of the differences; otherwise they are the paper's.
        error_scale: the part of the baseline that an output error of 1 adds or takes. None: 0.1 normalised, else 1.
        baseline: p_0, at most 0.5. None: 0.5 normalised, else 0.2 (at the output; hidden layers rest at 0.5).
        tonic: event rate at rest of ON and OFF populations, where neurons have no lowest rate (see `BurstCCN`).
        init: as for feedback alignment, of Y.
        scale: as for feedback alignment, of Y.
        seed: of the feedback weights: with those of feedback alignment's seed, the very same.

    Populations: as in `BurstCCN`; no event or burst rate is negative.

    Shapes: Y as the layer's weight, convolutions included; Z (units, units).

    Needs: any circuit; learned feedback an optimizer over `circuit.parameters()` with weight decay. Raises: ConfigError
    on unknown options.

    Departs from the paper: errors are those of any torch loss, per sample, and updates are the batch's mean where the
    loss is (the released code sums over the batch: `reduction="sum"`). Released defaults are normalised=False, slope 1,
    Y of standard deviation 1, Z on and uniform in +-0.01 at the start, a learning rate for each layer; its author says
    that on CIFAR-10 they do not learn. Here Y has W's spread, and Z starts at zero and is the optimizer's, momentum and
    all, so that processes that share a training agree on it (the released 1e-4 without momentum beside a learning rate
    of 0.1, both summed over the batch, is recurrent_rate=0.5 for its 500 units). Output bursts are held between never
    and twice the baseline.

    Source: Payeur, Guerguiev, Zenke, Richards and Naud, Nature Neuroscience 24, 1010 (2021), eq. 2 and figure 5; the
    static form of the authors' released code for figure 5.
    """

    name = "burstprop"
    title = "Burstprop"
    summary = "Synapses learn from the burst probability that a teacher adds to the bursts without one."
    paper = "Payeur et al. 2021"
    needs = "any circuit; an optimizer over circuit.parameters() with weight decay"
    observables: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "event_rate": "events per neuron, in units of its rate",
            "burst_rate": "bursts per neuron without teacher, in units of its rate",
            "taught_burst_rate": "bursts per neuron with teacher",
            "burst_probability": "part of the events that are bursts, without teacher",
            "taught_burst_probability": "the same with teacher",
            "burst_modulation": "(p - p_0) / p_0 of the ON population with teacher, from -1 to 1",
            "apical_potential": "u without teacher: hidden layers; positive raises bursting",
        }
    )

    def __init__(
        self,
        *,
        feedback: Given = "kolen_pollack",
        recurrent: bool = False,
        recurrent_rate: float = 1.0,
        slope: float = 1.0,
        normalised: bool = True,
        error_scale: float | None = None,
        baseline: float | None = None,
        tonic: float = 1.0,
        init: str = "match",
        scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        own_scale, own_baseline = (0.1, 0.5) if normalised else (1.0, 0.2)
        super().__init__(
            feedback=feedback,
            error_scale=own_scale if error_scale is None else error_scale,
            baseline=own_baseline if baseline is None else baseline,
            tonic=tonic,
            init=init,
            scale=scale,
            seed=seed,
        )
        check_positive("Burstprop", slope=slope, recurrent_rate=recurrent_rate)
        self.transposed_limit = "for small errors and a small slope" if normalised else None
        self.recurrent = recurrent
        self.recurrent_rate = recurrent_rate
        self.slope = slope
        self.normalised = normalised
        self.recurrent_weights = PerLayer()

    def setup(self, wiring: Wiring) -> None:
        super().setup(wiring)
        self.recurrent_weights = PerLayer()
        for layer in wiring.layers if self.recurrent else ():
            population = self._populations[layer.index]
            if isinstance(layer.synapses, LinearSynapses) and population.keeps_shape and not population.output:
                units = layer.weight.shape[0]
                self.recurrent_weights.hold(layer, layer.weight.detach().new_zeros(units, units), learned=True)

    def assign_credit(self, wiring: Wiring, state: ForwardState, error: Tensor) -> Iterator[Credit]:
        units = [self._units(wiring.samples(state, error, ended)) for ended in (False, True)]
        walk = wiring.backward(state, (error, torch.zeros_like(error)))
        for layer, own in walk:
            yield from self._visit(wiring, walk, layer, own, units[self._populations[layer.index].ended])
            del own
        yield from walk.credits()

    def _visit(
        self, wiring: Wiring, walk: BackwardPass, layer: Layer, own: NodeState, units: _Units
    ) -> Iterator[Credit]:
        arrived = walk.receive(layer)
        if arrived is None:
            return
        signal, bursting = arrived
        del arrived
        population = self._populations[layer.index]
        heard = population.heard(layer, own)
        sends = walk.needs_input_grad(layer)
        signal = population.arrive(layer, own, signal, walk)
        if population.output:
            post, bursts = self._output(wiring, layer, heard, signal, units)
        else:
            events = population.events(heard, units.tanh)
            net = population.net(heard, events, units.tanh)
            potential = population.arrive(layer, own, bursting, walk, learning=False) / events
            if layer in self.recurrent_weights:
                yield self._linearise(layer, events, net, potential, bursting, units)
            post, bursts = self._hidden(wiring, walk, layer, own, signal, potential, events, net, units, sends)
            del potential, events, net
        if sends:
            bursts = population.leave(layer, own, bursts, walk, learning=False)
        post = population.leave(layer, own, post, walk)
        del signal, bursting, heard  # releases their memory
        pre = own.pre
        assert pre is not None
        yield Credit(layer, pre, post, reciprocal=self.pathway.reciprocal(layer))
        if sends:
            down, weight = layer.synapses.transpose_product, self.pathway.weight(layer)
            walk.send(layer, (down(post, weight, pre), down(bursts, weight, pre)))

    def _units(self, many: float) -> _Units:
        per_error = many * self.baseline * self.error_scale if self.normalised else many
        resting = self.baseline if self.normalised else 0.5
        return _Units(
            per_error=per_error,
            resting=resting,
            tanh=per_error * self.slope / 2,
            stage=resting * self.slope / 2,
            most=many * self.error_scale,
            samples=many,
        )

    def _output(
        self, wiring: Wiring, layer: Layer, rate: Tensor, signal: Tensor, units: _Units
    ) -> tuple[Tensor, Tensor]:
        """The output's teaching signal, and its bursts without teacher."""
        events = self._populations[layer.index].events(rate, units.most)
        post = bounded(signal, events)
        if wiring.observers:
            still = torch.zeros_like(post)
            self._show(wiring, layer, rate, events, units.most, self.baseline, still, -post / events)
        if not self.normalised:
            post = post * (self.baseline * self.error_scale)
        return post, rate * (self.baseline / units.per_error)

    def _hidden(
        self,
        wiring: Wiring,
        walk: BackwardPass,
        layer: Layer,
        own: NodeState,
        signal: Tensor,
        potential: Tensor,
        events: Tensor,
        net: Tensor,
        units: _Units,
        sending: bool,
    ) -> tuple[Tensor, Tensor]:
        """A hidden layer's teaching signal, and its bursts without teacher (where they are sent)."""
        population = self._populations[layer.index]
        # With T(u) = tanh(slope u / 2), a probability is resting (1 + T); the potential is slope u / 2.
        apical = potential * (2 / self.slope) if wiring.observers else None
        taught = tanh_(potential.sub(signal / events)) if wiring.observers else None
        raised = tanh_(potential)
        post = population.spread(layer, own, _fall(signal, raised, events), walk)
        if not self.normalised:
            post.mul_(units.stage)
        if taught is not None:
            rate = population.rate(layer, own)
            without, taught = (population.spread(layer, own, of, walk) for of in (raised, taught))
            everyone = population.events(rate, units.tanh)
            self._show(wiring, layer, rate, everyone, units.tanh, units.resting, without, taught, apical)
        if not sending:
            return post, net
        if population.pooled:
            added = population.spread(layer, own, raised.mul_(net), walk)
            rate = population.rate(layer, own)
            bursts = added.add_(population.net(rate, population.events(rate, units.tanh), units.tanh))
        else:
            bursts = torch.addcmul(net, raised, population.firing(net, events))
        return post, bursts if units.stage == 1 else bursts.mul_(units.stage)

    def _linearise(
        self, layer: Layer, events: Tensor, net: Tensor, potential: Tensor, bursting: Tensor, units: _Units
    ) -> Credit:
        """Take the recurrent input Z b~ from the potential, in place; what Z learns."""
        recurrent = self.recurrent_weights[layer]
        many = recurrent.shape[0]
        firing = self._populations[layer.index].firing(net, events)
        own = torch.addcmul(net, tanh_(bursting.mul(units.tanh)), firing).mul_(units.stage).view(-1, many)
        flat = potential.view(-1, many)
        flat.addmm_(own, recurrent.to(own.dtype).t(), alpha=-units.tanh)
        rate = self.recurrent_rate / (many * units.samples) * units.per_error * 2 / self.slope
        lesson = flat.clamp(-3, 3).mul_(-rate)
        return Credit(layer, own, lesson, synapses=self.recurrent_weights.synapses(layer))

    def _show(
        self,
        wiring: Wiring,
        layer: Layer,
        rate: Tensor,
        events: Tensor,
        unit: float,
        resting: float,
        without: Tensor,
        taught: Tensor,
        potential: Tensor | None = None,
    ) -> None:
        event_rate = events * unit
        net = self._populations[layer.index].net(rate, events, unit) * unit
        bursts, taught_bursts = (resting * (event_rate + raised * net) for raised in (without, taught))
        quantities = {
            "event_rate": event_rate,
            "burst_rate": bursts,
            "taught_burst_rate": taught_bursts,
            "burst_modulation": taught,
            "burst_probability": bursts / event_rate,
            "taught_burst_probability": taught_bursts / event_rate,
        }
        if potential is not None:
            quantities["apical_potential"] = potential
        wiring.show(layer, **quantities)


class _Units(NamedTuple):
    """In what quantities are kept, so that no multiplication is made twice.

    Attributes:
        per_error: bursts that stand for an error of 1.
        resting: hidden burst probability where the apical potential is zero.
        tanh: events over this are what potentials are divided by inside the hyperbolic tangent.
        stage: what an apical potential gains in burst probability, at zero.
        most: an output's events over this bound its error.
        samples: by what a batch's mean divides each sample's error.
    """

    per_error: float
    resting: float
    tanh: float
    stage: float
    most: float
    samples: float


def _fall(signal: Tensor, raised: Tensor, events: Tensor) -> Tensor:
    """The fall events * (T(u) - T(u - x)) for x = signal / events, without cancellation."""
    x = tanh_(signal.div(events))
    share = torch.rsub(torch.mul(x, raised), 1 + torch.finfo(x.dtype).eps)
    fallen: Tensor = aten.tanh_backward.default(x.mul_(events), raised)
    return fallen.div_(share)
