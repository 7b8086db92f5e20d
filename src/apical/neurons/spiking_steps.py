"""The closed forms of neurons with a memory: their runs over the moments of a sequence, forward and backward."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from apical.errors import CircuitError
from apical.layers.moments import Reader
from apical.layers.steps import Saved, Step, closed_form
from apical.layers.traits import Traits
from apical.neurons.readout_step import OverMoments
from apical.neurons.spiking import ALIF, IF, LIF

_PIECE = 3 * 2**14  # potentials of one moment that are kept in the cache


Bend = Callable[[Tensor, Tensor], Tensor]


class _Trace:
    """How a mean of a neuron's spikes depends on a drive that is the same at all moments, forward in time.

    This is the eligibility trace of what drives the neuron, eps_t = dv_t/ddrive:

        slope   = sum_t share_t surrogate_t eps_t
        eps_t+1 = 1 + (dv_(t+1)/dv_t + dv_(t+1)/ds_t surrogate_t) eps_t,   eps_1 = 1

    Args:
        neuron: whose state is its potential and its spike alone.
        slope: receives the sum, and is zero at first.
        shares: the part of each moment in the mean.
    """

    def __init__(self, neuron: LIF, slope: Tensor, shares: Sequence[float]) -> None:
        self._neuron = neuron
        self._slope = slope
        self._shares = iter(shares)
        self._derivative = neuron.surrogate.prepared(slope)
        self._one, self._decay = slope.new_tensor(1.0), slope.new_tensor(neuron.decay)
        self._eps, self._spare = torch.ones_like(slope), torch.empty_like(slope)

    def follow(self, v: Tensor, s: Tensor, threshold: Tensor) -> None:
        """Go on by a moment, with its potentials and spikes."""
        neuron, eps = self._neuron, self._eps
        slope = self._derivative(torch.sub(v, threshold, out=self._spare))
        self._slope.addcmul_(slope, eps, value=next(self._shares))
        torch.addcmul(self._one, eps, _lasting(neuron, v, s, slope, self._decay, self._spare), out=eps)


def _lasting(neuron: LIF, v: Tensor, s: Tensor, slope: Tensor, decay: Tensor, into: Tensor) -> Tensor:
    """How far a potential reaches into the next: dv_(t+1)/dv_t + dv_(t+1)/ds_t slope_t."""
    if neuron.reset == "zero":
        lost = s if neuron.detach_reset else torch.addcmul(s, v, slope, out=into)
        return torch.sub(decay, lost, alpha=neuron.decay, out=into)
    if neuron.reset == "subtract" and not neuron.detach_reset:
        return torch.sub(decay, slope, alpha=neuron.threshold, out=into)
    return decay


class SpikingStep(OverMoments):
    """LIF and ALIF neurons: their potentials are kept, and errors run backward neuron by neuron.

    With the signals gs at the spikes, the signals at the potentials are

        gs_t  += dv_(t+1)/ds_t gv_(t+1) + ga_(t+1) + R^T gv_(t+1)
        gv_t   = surrogate_t gs_t + dv_(t+1)/dv_t gv_(t+1),   ga_t = adaptation ga_(t+1) - strength surrogate_t gs_t

    R^T carries errors back in time over the recurrent synapses, as far as the rule has it: see `through_time`.

    Where a mean of the spikes is all that is read, of LIF neurons whose drive is the same at all moments, how the mean
    depends on the drive is computed on the way forward, and no moment is kept.

    Attributes:
        through_time: the weights by which errors travel back over the recurrent synapses, (n, n): "tied" for their own
            (backpropagation through time), a tensor, or None for none.
        late: a rule teaches the neuron once a sequence, by its change at the end, [v_T > threshold - late] - s_(T-1);
            None: at every moment, by the equations above.
        reader: what averages the spikes over time, behind synapses or not. Since both are linear, the output is then
            the weighted mean of the spikes, (batch, ...), and what follows is computed once.
        evenly: each moment receives an equal part of a signal at that mean, and not its share of the mean.
        sums: of a drive that is the same at all moments, the sum of the signals over moments is wanted; False: signals,
            and `output`, of each moment.
    """

    traits = Traits(activation=True, lowest_rate=0.0, saturating=True, keeps_shape=True, in_time=True)
    module: LIF

    def __init__(self, module: LIF) -> None:
        super().__init__(module)
        self.through_time: str | Tensor | None = "tied"
        self.late: float | None = None
        self.reader: Reader | None = None
        self.evenly = False
        self.sums = True
        if module.recurrent is not None:
            if "weight" not in module.recurrent._parameters:
                raise CircuitError(
                    f"{type(module).__name__}: the weight of its recurrent synapses is computed from other tensors "
                    "(a parametrisation, pruning, the protection metaplasticity or mesu). Use a plain nn.Linear(n, n, "
                    "bias=False) without them."
                )
            self.parameters = ("recurrent.weight",)

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        neuron = self.module
        drive, constant = self.sequence(x)
        shares = self._shares(len(drive))
        mean = None if shares is None else torch.zeros_like(drive[0])
        once = mean is not None and neuron.recurrent is None  # spikes whose mean is read are needed no further
        follows = once and constant and self.sums and not neuron.adapts  # the trace is all that is wanted
        slope = torch.zeros_like(drive[0]) if follows else None
        v, s = _memory(drive, follows), _memory(drive, once)
        a = _memory(drive, False) if neuron.adapts else None
        state = neuron.begin(drive[0])
        for piece in self._pieces(drive):
            means = None if mean is None or shares is None else (mean[piece], shares)
            trace = None if slope is None else _Trace(neuron, slope[piece], self._parts(len(drive)))
            self._fire(drive, v, s, a, state, piece, means, trace)
        self._keep(v[-1], s[-1], a)
        kept = (None if follows else v, None if once else s, a, self._before(state), constant, mean, slope)
        return (s.flatten(0, 1) if mean is None else mean), kept

    def _shares(self, moments: int) -> list[float] | None:
        """The part of each moment in the mean of the spikes; None where all moments are read."""
        if self.late is not None or self.reader is None or not self.reader.averages():
            return None
        return self.reader.shares(moments)

    def _parts(self, moments: int) -> list[float]:
        """The part of a signal at the mean of the spikes that reaches each moment."""
        assert self.reader is not None
        return [1 / moments] * moments if self.evenly else self.reader.shares(moments)

    def _before(self, state: tuple[Tensor, ...]) -> Tensor | None:
        """The spikes before the first moment, where something learns from them."""
        return None if self.module.recurrent is None and self.late is None else state[1]

    def _keep(self, v: Tensor, s: Tensor, a: Tensor | None) -> None:
        """Keep the state after the last moment for the next sequence, if it continues."""
        if self.module.continues:
            level = () if a is None else (self.module.adaptation * a[-1] + s,)
            self.module.keep((v, s, *level), len(v))

    def _pieces(self, drive: Tensor) -> list[slice]:
        """Parts of the batch that fit into the cache."""
        rows = max(1, -(-drive.shape[1] // max(1, -(-drive[0].numel() // _PIECE))))
        return [slice(start, start + rows) for start in range(0, drive.shape[1], rows)]

    def _fire(
        self,
        drive: Tensor,
        v: Tensor,
        s: Tensor,
        a: Tensor | None,
        state: tuple[Tensor, ...],
        piece: slice,
        means: tuple[Tensor, Sequence[float]] | None,
        trace: _Trace | None,
    ) -> None:
        neuron = self.module
        potential, spikes = state[0][piece], state[1][piece]
        # Where there is place for one moment alone, each takes the place of the one before.
        places = [one[:, piece].unbind() * (len(drive) // len(one)) for one in (drive, v, s)]
        levels = None if a is None else a[:, piece].unbind()
        if levels is not None:
            levels[0].copy_(state[2][piece])
        spare, threshold = torch.empty_like(potential), drive.new_tensor(neuron.threshold)
        for moment, (arriving, now, fired) in enumerate(zip(*places, strict=True)):
            self._integrate(arriving, potential, spikes, now, spare)
            level = None if levels is None else levels[moment]
            self._spikes(now, level, threshold, fired)
            if means is not None:
                means[0].add_(fired, alpha=means[1][moment])
            if trace is not None:
                trace.follow(now, fired, threshold)
            if levels is not None and level is not None and moment + 1 < len(levels):
                torch.add(fired, level, alpha=neuron.adaptation, out=levels[moment + 1])
            potential, spikes = now, fired

    def _integrate(self, arriving: Tensor, v: Tensor, s: Tensor, now: Tensor, spare: Tensor) -> None:
        """The potential of the next moment, which may take the place of this one's."""
        neuron = self.module
        left = torch.addcmul(v, v, s, value=-1, out=spare) if neuron.reset == "zero" else v
        torch.add(arriving, left, alpha=neuron.decay, out=now)
        if neuron.reset == "subtract":
            now.sub_(s, alpha=neuron.threshold)
        if neuron.recurrent is not None:
            now.add_(s.matmul(neuron.recurrent.weight.detach().t()))

    def _spikes(self, v: Tensor, level: Tensor | None, threshold: Tensor, into: Tensor) -> Tensor:
        """1 where a potential reaches the threshold, else 0."""
        distance = v if level is None else torch.sub(v, level, alpha=self.module.strength, out=into)
        return torch.ge(distance, threshold, out=into)

    def backward(self, grad: Tensor, saved: Saved, learns: Sequence[bool]) -> tuple[Tensor, Sequence[Tensor | None]]:
        v, s, _, first, constant, _, slope = saved
        if slope is not None:
            return grad * slope, ()
        if self.late is not None:
            return self._taught_at_end(grad.reshape(v.shape), saved), [None] * len(learns)
        constant = constant and self.sums
        sums = constant and not any(learns)  # recurrent synapses learn from each moment
        out = torch.zeros_like(v[0]) if sums else torch.empty_like(v)
        self._carry(grad, saved, out)
        found: list[Tensor | None] = []
        if learns:
            found = [self._recurrent_update(out, s, first) if learns[0] else None]
        if sums:
            return out, found
        return out.sum(0) if constant else out.flatten(0, 1), found

    def lasts(self, saved: Saved) -> bool:
        """Whether the drive was the same at all moments."""
        return bool(saved[4])

    def taught(self, grad: Tensor, saved: Saved, bend: Bend) -> Tensor:
        """The sum of bent signals at the potentials over the moments in which the neuron fires.

        Args:
            grad: at the output.
            saved: by the forward pass; the drive `lasts`, and `sums` is off.
            bend: an elementwise function of the signals, which stay as they are, and of memory for its values.

        Returns:
            (batch, ...).
        """
        out = torch.zeros_like(saved[0][0])
        self._carry(grad, saved, out, bend)
        return out

    def _carry(self, grad: Tensor, saved: Saved, out: Tensor, bend: Bend | None = None) -> None:
        """Carry a signal at the output back to the potentials, or to its sum over moments; see `_back`."""
        v, mean = saved[0], saved[5]
        shares = None if mean is None else self._parts(len(v))
        for piece in self._pieces(v):
            arriving = grad.reshape(v.shape)[:, piece].unbind() if shares is None else [grad[piece]] * len(v)
            self._back(arriving, shares, saved, out, piece, bend)

    def _recurrent_update(self, out: Tensor, s: Tensor, first: Tensor) -> Tensor:
        """The sum over samples and moments of the signal at a potential times the spike before."""
        before = torch.cat([first[None], s[:-1]])
        return out.flatten(0, -2).t().mm(before.flatten(0, -2))

    def _back(
        self,
        arriving: Sequence[Tensor],
        shares: Sequence[float] | None,
        saved: Saved,
        out: Tensor,
        piece: slice,
        bend: Bend | None,
    ) -> None:
        """The signals at the potentials of a part of the batch, or their sum over moments.

        Args:
            arriving: at the spikes of each moment; with `shares`, at their mean.
            shares: the part of the signal at the mean that reaches each moment.
            saved: by the forward pass.
            out: (time, batch, ...), or of the sum (batch, ...).
            piece: the part.
            bend: see `taught`.
        """
        neuron, (v, s, a) = self.module, saved[:3]
        back, sums = self._weights_back(v), out.dim() < v.dim()
        potentials = v[:, piece].unbind()
        spikes = None if s is None else s[:, piece].unbind()
        levels = [None] * len(v) if a is None else a[:, piece].unbind()
        threshold, decay = v.new_tensor(neuron.threshold), v.new_tensor(neuron.decay)
        distance, fired = torch.empty_like(potentials[0]), torch.empty_like(potentials[0])
        derivative = neuron.surrogate.prepared(distance)
        total = out[piece] if sums else out
        places = (torch.empty_like(fired), torch.empty_like(fired)) if sums else out[:, piece].unbind()
        above = torch.zeros_like(fired)  # at the potentials of the next moment
        adapting = None if a is None else torch.zeros_like(fired)  # at the adaptation of the next moment
        for moment in range(len(v) - 1, -1, -1):
            now, here, level = potentials[moment], places[moment % len(places)], levels[moment]
            if spikes is not None:
                fired = spikes[moment]
            elif neuron.reset == "zero" or bend is not None:
                self._spikes(now, level, threshold, fired)
            slope = derivative(self._distance(now, level, threshold, distance))
            torch.mul(above, _lasting(neuron, now, fired, slope, decay, here), out=here)
            here.addcmul_(slope, arriving[moment], value=1.0 if shares is None else shares[moment])
            if back is not None:
                here.addcmul_(slope, above.matmul(back))
            if adapting is not None:
                here.addcmul_(slope, adapting)
                self._adapt(adapting, here, above, fired)
            if bend is not None:
                total.addcmul_(bend(here, distance), fired)
            elif sums:
                total.add_(here)
            above = here

    def _distance(self, v: Tensor, level: Tensor | None, threshold: Tensor, into: Tensor) -> Tensor:
        """By how much a potential is above the threshold, with the adaptation there."""
        torch.sub(v, threshold, out=into)
        return into if level is None else into.sub_(level, alpha=self.module.strength)

    def _adapt(self, adapting: Tensor, here: Tensor, above: Tensor, fired: Tensor) -> None:
        """Take the signal at the adaptation from the next moment to this one, in place."""
        neuron = self.module
        kept = above - above * fired if neuron.reset == "zero" else above
        by_spikes = here - kept * neuron.decay  # surrogate_t gs_t
        adapting.mul_(neuron.adaptation).sub_(by_spikes, alpha=neuron.strength)

    def _weights_back(self, like: Tensor) -> Tensor | None:
        """The weights by which errors travel back in time, in the type of the potentials (autocast)."""
        recurrent = self.module.recurrent
        if recurrent is None or self.through_time is None:
            return None
        return (recurrent.weight.detach() if isinstance(self.through_time, str) else self.through_time).to(like.dtype)

    def _taught_at_end(self, signal: Tensor, saved: Saved) -> Tensor:
        """The sum of the signals over moments times how the neuron changes at the end, at the last moment."""
        v, s, a, first, constant = saved[:5]
        assert self.late is not None
        before = s[-2] if len(s) > 1 else first
        distance = v[-1] if a is None else v[-1] - self.module.strength * a[-1]
        change = (distance > self.module.threshold - self.late).to(s.dtype) - before
        taught: Tensor = signal.sum(0) * change
        if constant:
            return taught
        out = torch.zeros_like(v)
        out[-1] = taught
        return out.flatten(0, 1)

    def output(self, saved: Saved) -> Tensor:
        v, s, a, _, _, mean, _ = saved
        spikes: Tensor
        if mean is not None and self.sums:
            spikes = mean
        elif s is None:
            spikes = self._spikes(v, a, v.new_tensor(self.module.threshold), torch.empty_like(v)).flatten(0, 1)
        else:
            spikes = s.flatten(0, 1)
        return spikes


def _memory(drive: Tensor, once: bool) -> Tensor:
    """Place for a number of each neuron and moment, or, `once`, for that of one moment after the other."""
    return torch.empty_like(drive[:1] if once else drive, memory_format=torch.contiguous_format)


@closed_form(LIF, IF, ALIF)
def _spiking(module: LIF) -> Step:
    return SpikingStep(module)
