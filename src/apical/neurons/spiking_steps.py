"""The closed forms of neurons with a memory: their runs over the moments of a sequence, forward and backward."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from apical.layers.moments import Reader
from apical.layers.steps import Saved, Step, closed_form
from apical.layers.traits import Traits
from apical.neurons.moments import TemporalNeuron, detached
from apical.neurons.spiking import ALIF, IF, LIF, LeakyReadout

_PIECE = 2**16  # potentials of one moment that are kept in the cache


class _OverMoments(Step):
    """A step over the moments of a sequence, whose neuron says how many there are."""

    module: TemporalNeuron

    def __init__(self, module: TemporalNeuron) -> None:
        self.module = module

    def sequence(self, drive: Tensor) -> tuple[Tensor, bool]:
        """The drive at each moment, (time, batch, ...), and whether it is the same at all."""
        moments, batch = self.module.clock_for(drive)
        x = self.module.unfolded(drive, moments, batch)
        return x, len(drive) != moments * batch


class ReadoutStep(_OverMoments):
    """Leaky integration, and its transpose, the same backward in time.

    Its mean over time is a weighted sum of the drives; see `shares`.
    """

    traits = Traits(keeps_shape=True, in_time=True)
    module: LeakyReadout

    def gain(self, moments: int) -> float:
        """The mean over time for a drive of 1 at every moment."""
        return sum(self._sums(moments)) / moments

    def shares(self, moments: int) -> list[float]:
        """The part of each moment's drive in the mean over time; they add up to 1."""
        sums = self._sums(moments)
        return [one / sum(sums) for one in sums]

    def averages(self) -> bool:
        """Whether the output is the mean over this sequence alone: no state comes from the last or goes to the next."""
        return self.module.average and self.module.kept is None and not self.module.continues

    def _sums(self, moments: int) -> list[float]:
        """1 + decay + decay^2 + ..., as far as the drive of each moment lasts."""
        return list(itertools.accumulate(self.module.decay**age for age in range(moments)))[::-1]

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        neuron = self.module
        drive, constant = self.sequence(x)
        if constant and self.averages():
            return x * self.gain(len(drive)), (len(drive), constant, True)
        y = torch.empty(drive.shape, dtype=drive.dtype, device=drive.device)
        before = neuron.start(drive[0]) if neuron.kept is None else neuron.kept
        for moment in range(len(drive)):
            before = torch.add(drive[moment], before, alpha=neuron.decay, out=y[moment])
        if neuron.continues:
            neuron.kept = y[-1].clone()
        return (y.mean(0) if neuron.average else y.flatten(0, 1)), (len(drive), constant, False)

    def backward(self, grad: Tensor, saved: Saved, learns: Sequence[bool]) -> tuple[Tensor, Sequence[Tensor | None]]:
        return self.derivative(grad, *saved), ()

    def derivative(self, grad: Tensor, *saved: Any) -> Tensor:
        moments, constant, scaled = saved
        if scaled:
            return grad * self.gain(moments)
        neuron = self.module
        signal = (grad / moments).expand(moments, *grad.shape) if neuron.average else _by_moment(grad, moments)
        out = torch.empty(signal.shape, dtype=grad.dtype, device=grad.device)
        above = torch.zeros_like(signal[0])
        for moment in range(moments - 1, -1, -1):
            above = torch.add(signal[moment], above, alpha=neuron.decay, out=out[moment])
        return out.sum(0) if constant else out.flatten(0, 1)


def _by_moment(rows: Tensor, moments: int) -> Tensor:
    return rows.reshape(moments, -1, *rows.shape[1:])


class SpikingStep(_OverMoments):
    """LIF and ALIF neurons: their potentials are kept, and errors run backward neuron by neuron.

    With the signals gs at the spikes, the signals at the potentials are

        gs_t  += dv_(t+1)/ds_t gv_(t+1) + ga_(t+1) + R^T gv_(t+1)
        gv_t   = surrogate_t gs_t + dv_(t+1)/dv_t gv_(t+1),   ga_t = adaptation ga_(t+1) - strength surrogate_t gs_t

    R^T carries errors back in time over the recurrent synapses, as far as the rule has it: see `through_time`.

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
            self.parameters = ("recurrent.weight",)

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        neuron = self.module
        drive, constant = self.sequence(x)
        shares = self._shares(len(drive))
        mean = None if shares is None else torch.zeros_like(drive[0])
        v = drive.new_empty(drive.shape)
        once = mean is not None and self._forgets()
        s = drive.new_empty(drive.shape[1:] if once else drive.shape)
        a = drive.new_empty(drive.shape) if neuron.adapts else None
        state = self._start(drive)
        for piece in self._pieces(drive):
            spikes = [s[piece]] * len(v) if once else s[:, piece].unbind()
            means = None if mean is None or shares is None else (mean[piece], shares)
            self._fire(drive, v, spikes, a, state, piece, means)
        if neuron.continues:
            self._keep(v[-1], s if once else s[-1], a)
        first = state[1] if neuron.recurrent is not None else None
        return (s.flatten(0, 1) if mean is None else mean), (v, None if once else s, a, first, constant, mean)

    def _shares(self, moments: int) -> list[float] | None:
        """The part of each moment in the mean of the spikes; None where all moments are read."""
        read = self.late is None and self.reader is not None and self.reader.averages()
        return self.reader.shares(moments) if read and self.reader is not None else None

    def _forgets(self) -> bool:
        """Whether spikes whose mean is read are needed no further."""
        return self.sums and self.module.recurrent is None and not self.module.adapts

    def _keep(self, v: Tensor, s: Tensor, a: Tensor | None) -> None:
        """Keep the state after the last moment."""
        state = (v, s) if a is None else (v, s, self.module.adaptation * a[-1] + s)
        self.module.kept = detached(tuple(part.clone() for part in state))

    def _start(self, drive: Tensor) -> tuple[Tensor, ...]:
        kept = self.module.kept
        return tuple(self.module.start(drive[0]) if kept is None else kept)

    def _pieces(self, drive: Tensor) -> list[slice]:
        """Parts of the batch that fit into the cache."""
        rows = max(1, _PIECE * drive.shape[1] // max(1, drive[0].numel()))
        return [slice(start, start + rows) for start in range(0, drive.shape[1], rows)]

    def _fire(
        self,
        drive: Tensor,
        v: Tensor,
        s: Sequence[Tensor],
        a: Tensor | None,
        state: tuple[Tensor, ...],
        piece: slice,
        means: tuple[Tensor, Sequence[float]] | None,
    ) -> None:
        neuron = self.module
        recurrent = None if neuron.recurrent is None else neuron.recurrent.weight.detach().t()
        potential, spikes = state[0][piece], state[1][piece]
        levels = None if a is None else a[:, piece].unbind()
        if levels is not None:
            levels[0].copy_(state[2][piece])
        left = torch.empty_like(potential)
        moments = zip(drive[:, piece].unbind(), v[:, piece].unbind(), s, strict=True)
        for moment, (arriving, now, fired) in enumerate(moments):
            if neuron.reset == "zero":
                torch.addcmul(potential, potential, spikes, value=-1, out=left)
                torch.add(arriving, left, alpha=neuron.decay, out=now)
            else:
                torch.add(arriving, potential, alpha=neuron.decay, out=now)
            if neuron.reset == "subtract":
                now.sub_(spikes, alpha=neuron.threshold)
            if recurrent is not None:
                now.add_(spikes.matmul(recurrent))
            if levels is None:
                torch.ge(now, neuron.threshold, out=fired)
            else:
                torch.sub(now, levels[moment], alpha=neuron.strength, out=left)
                torch.ge(left, neuron.threshold, out=fired)
                if moment + 1 < len(levels):
                    torch.add(fired, levels[moment], alpha=neuron.adaptation, out=levels[moment + 1])
            if means is not None:
                means[0].add_(fired, alpha=means[1][moment])
            potential, spikes = now, fired

    def backward(self, grad: Tensor, saved: Saved, learns: Sequence[bool]) -> tuple[Tensor, Sequence[Tensor | None]]:
        v, s, _, first, constant, mean = saved
        if self.late is not None:
            return self._taught_at_end(grad.reshape(v.shape), saved), [None] * len(learns)
        shares = None
        if mean is not None:
            assert self.reader is not None
            shares = [1 / len(v)] * len(v) if self.evenly else self.reader.shares(len(v))
        constant = constant and self.sums
        sums = constant and not any(learns)  # recurrent synapses learn from each moment
        out = torch.zeros_like(v[0]) if sums else torch.empty_like(v)
        for piece in self._pieces(v):
            arriving = grad.reshape(v.shape)[:, piece].unbind() if shares is None else [grad[piece]] * len(v)
            self._back(arriving, shares, saved, out, piece)
        found: list[Tensor | None] = []
        if learns:
            found = [self._recurrent_update(out, s, first) if learns[0] else None]
        if sums:
            return out, found
        return out.sum(0) if constant else out.flatten(0, 1), found

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
    ) -> None:
        """The signals at the potentials of a part of the batch, or their sum over moments.

        Args:
            arriving: at the spikes of each moment; with `shares`, at their mean.
            shares: the part of the signal at the mean that reaches each moment.
            saved: by the forward pass.
            out: (time, batch, ...), or of the sum (batch, ...).
            piece: the part.
        """
        neuron, (v, s, a) = self.module, saved[:3]
        back = self._weights_back()
        potentials = v[:, piece].unbind()
        spikes = None if s is None else s[:, piece].unbind()
        levels = None if a is None else a[:, piece].unbind()
        at_spike, sums = torch.empty_like(potentials[0]), out.dim() < v.dim()
        total = out[piece] if sums else None
        places = (torch.empty_like(at_spike), torch.empty_like(at_spike)) if sums else out[:, piece].unbind()
        above: Tensor | None = None  # at the potentials of the next moment
        adapting: Tensor | None = None  # at the adaptation of the next moment
        for moment in range(len(v) - 1, -1, -1):
            now, here, sent = potentials[moment], places[moment % 2 if sums else moment], arriving[moment]
            if shares is not None:
                sent = torch.mul(sent, shares[moment], out=at_spike)
            if above is not None:
                sent = self._at_spike(sent, above, now, adapting, back, at_spike)
            torch.sub(now, neuron.threshold, out=here)
            if levels is not None:
                here.sub_(levels[moment], alpha=neuron.strength)
            torch.mul(neuron.surrogate.derivative(here), sent, out=here)
            if levels is not None:
                lowered = here * -neuron.strength
                adapting = lowered if adapting is None else lowered.add_(adapting, alpha=neuron.adaptation)
            if above is not None:
                self._leaked(here, above, now, None if spikes is None else spikes[moment], at_spike)
            if total is not None:
                total.add_(here)
            above = here

    def _at_spike(
        self,
        sent: Tensor,
        above: Tensor,
        now: Tensor,
        adapting: Tensor | None,
        back: Tensor | None,
        into: Tensor,
    ) -> Tensor:
        """The signal at a spike: from its own moment, the reset, the adaptation and the recurrent synapses."""
        neuron = self.module
        if neuron.reset == "zero" and not neuron.detach_reset:
            sent = torch.addcmul(sent, above, now, value=-neuron.decay, out=into)
        elif neuron.reset == "subtract" and not neuron.detach_reset:
            sent = torch.sub(sent, above, alpha=neuron.threshold, out=into)
        if adapting is not None:
            sent = torch.add(sent, adapting, out=into)
        return sent if back is None else torch.add(sent, above.matmul(back), out=into)

    def _leaked(self, here: Tensor, above: Tensor, now: Tensor, fired: Tensor | None, spare: Tensor) -> None:
        """Add to a signal at a potential the one of the next moment, as far as the potential lasts until then."""
        neuron = self.module
        here.add_(above, alpha=neuron.decay)
        if neuron.reset == "zero":
            fired = torch.ge(now, neuron.threshold, out=spare) if fired is None else fired
            here.addcmul_(above, fired, value=-neuron.decay)

    def _weights_back(self) -> Tensor | None:
        recurrent = self.module.recurrent
        if recurrent is None or self.through_time is None:
            return None
        return recurrent.weight.detach() if isinstance(self.through_time, str) else self.through_time

    def _taught_at_end(self, signal: Tensor, saved: Saved) -> Tensor:
        """The sum of the signals over moments times how the neuron changes at the end, at the last moment."""
        v, s, a, _, constant, _ = saved
        assert self.late is not None
        before = s[-2] if len(s) > 1 else torch.zeros_like(s[0])
        distance = v[-1] if a is None else v[-1] - self.module.strength * a[-1]
        change = (distance > self.module.threshold - self.late).to(s.dtype) - before
        taught: Tensor = signal.sum(0) * change
        if constant:
            return taught
        out = torch.zeros_like(v)
        out[-1] = taught
        return out.flatten(0, 1)

    def output(self, saved: Saved) -> Tensor:
        spikes, mean = saved[1], saved[-1]
        rate: Tensor = spikes.flatten(0, 1) if mean is None or not self.sums else mean
        return rate


@closed_form(LIF, IF, ALIF)
def _spiking(module: LIF) -> Step:
    return SpikingStep(module)


@closed_form(LeakyReadout)
def _readout(module: LeakyReadout) -> Step:
    return ReadoutStep(module)
