"""What steps over the moments of a sequence share, and the closed form of leaky read-outs."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from apical.layers.steps import Saved, Step, closed_form
from apical.layers.traits import Traits
from apical.neurons.moments import TemporalNeuron
from apical.neurons.spiking import LeakyReadout


class OverMoments(Step):
    """A step over the moments of a sequence, whose neuron says how many there are."""

    module: TemporalNeuron

    def __init__(self, module: TemporalNeuron) -> None:
        self.module = module

    def sequence(self, drive: Tensor) -> tuple[Tensor, bool]:
        """The drive at each moment, (time, batch, ...), and whether it is the same at all."""
        moments, batch = self.module.clock_for(drive)
        x = self.module.unfolded(drive, moments, batch)
        return x, len(drive) != moments * batch


class ReadoutStep(OverMoments):
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
        total = sum(sums)
        return [one / total for one in sums]

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
        before = neuron.begin(drive[0])
        for moment in range(len(drive)):
            before = torch.add(drive[moment], before, alpha=neuron.decay, out=y[moment])
        neuron.keep(y[-1], drive.shape[1])
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


@closed_form(LeakyReadout)
def _readout(module: LeakyReadout) -> Step:
    return ReadoutStep(module)
