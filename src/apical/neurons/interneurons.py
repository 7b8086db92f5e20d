"""Adaptive exponential integrate-and-fire neurons: the inhibitory cells around the bursting ones."""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from apical.errors import ConfigError
from apical.neurons.neuron import Advance, SpikingNeuron
from apical.options import check_signs


class AdaptiveExponentialState(NamedTuple):
    """Adaptive exponential neurons at one moment; every tensor is (..., units).

    Attributes:
        soma: V, in mV.
        adaptation: w, in pA.
        refractory: time steps until the neuron leaves its reset potential, int32; zero and below for now.
    """

    soma: Tensor
    adaptation: Tensor
    refractory: Tensor


class AdaptiveExponentialNeuron(SpikingNeuron[AdaptiveExponentialState]):
    """An adaptive exponential integrate-and-fire neuron.

        C dV/dt = -g_L (V - E_L) + g_L D exp((V - V_T) / D) - w + I
        tau_w dw/dt = a (V - E_L) - w
        V > peak: spike, V = V_reset for the refractory time, w += b

    Its threshold is given by its rheobase, the constant current from which on it has no resting potential:
    I = (g_L + a) (V_T - E_L - D + D ln(1 + a / g_L)).

    Takes one current in pA: `neuron(current)`, (time, ..., units).

    Args:
        leak_conductance: g_L, in nS.
        leak_time: C / g_L, in ms.
        rheobase: in pA.
        slope: D, in mV.
        adaptation_conductance: a, in nS.
        adaptation_current: b, in pA.
        adaptation_time: tau_w, in ms.
        rest: E_L, in mV.
        reset: V_reset, in mV.
        peak: in mV.
        refractory: in ms.
        time_step: in ms.

    Integration: potential and adaptation relax exactly over one time step, for the exponential and the currents held at
    their values at its start; the adaptation follows the new potential.

    Raises: ConfigError on constants out of range; DataError, NonFiniteError on currents.

    Source: Brette and Gerstner, Journal of Neurophysiology 94, 3637 (2005). `pv` and `som` have the constants of Payeur
    et al. 2021 (the authors' spikingburstprop), but for E_L and the peak, which are ours.
    """

    currents: ClassVar[tuple[str, ...]] = ("soma",)
    variables: ClassVar[tuple[str, ...]] = ("soma", "adaptation")

    def __init__(
        self,
        *,
        leak_conductance: float,
        leak_time: float,
        rheobase: float,
        slope: float,
        adaptation_conductance: float = 0.0,
        adaptation_current: float = 0.0,
        adaptation_time: float = 100.0,
        rest: float = -70.0,
        reset: float = -65.0,
        peak: float = 0.0,
        refractory: float = 1.0,
        time_step: float = 0.1,
    ) -> None:
        super().__init__(time_step=time_step)
        self.leak_conductance = leak_conductance
        self.leak_time = leak_time
        self.rheobase = rheobase
        self.slope = slope
        self.adaptation_conductance = adaptation_conductance
        self.adaptation_current = adaptation_current
        self.adaptation_time = adaptation_time
        self.rest = rest
        self.reset = reset
        self.peak = peak
        self.refractory = refractory
        check_signs(
            self,
            positive=("leak_conductance", "leak_time", "rheobase", "slope", "adaptation_time"),
            not_negative=("adaptation_conductance", "adaptation_current", "refractory"),
        )
        share = adaptation_conductance / leak_conductance
        at_rheobase = rheobase / (leak_conductance + adaptation_conductance)
        self.threshold = rest + slope - slope * math.log1p(share) + at_rheobase
        if not max(self.threshold, reset) < peak:
            raise ConfigError(
                f"{type(self).__name__}: peak={peak!r} mV must lie above the threshold, {self.threshold:g} mV, and "
                f"reset={reset!r} mV."
            )

    @classmethod
    def pv(cls, *, time_step: float = 0.1) -> AdaptiveExponentialNeuron:
        """Fast-spiking parvalbumin cells, without adaptation."""
        return cls(
            leak_conductance=10.0,
            leak_time=10.0,
            rheobase=200.0,
            slope=2.0,
            reset=-55.0,
            refractory=1.0,
            time_step=time_step,
        )

    @classmethod
    def som(cls, *, time_step: float = 0.1) -> AdaptiveExponentialNeuron:
        """Adapting somatostatin cells."""
        return cls(
            leak_conductance=5.0,
            leak_time=20.0,
            rheobase=25.0,
            slope=4.0,
            adaptation_conductance=0.5,
            adaptation_current=10.0,
            adaptation_time=500.0,
            reset=-65.0,
            refractory=2.0,
            time_step=time_step,
        )

    def _at_rest(self, zeros: Tensor) -> AdaptiveExponentialState:
        return AdaptiveExponentialState(
            soma=torch.full_like(zeros, self.rest),
            adaptation=torch.zeros_like(zeros),
            refractory=torch.zeros_like(zeros, dtype=torch.int32),
        )

    def _stepper(self, state: AdaptiveExponentialState) -> Advance:
        soma, adaptation, refractory = state
        upstroke, resting = torch.empty_like(soma), torch.empty_like(soma, dtype=torch.bool)
        decay = math.exp(-self.time_step / self.leak_time)
        gain = (1 - decay) / self.leak_conductance  # mV for each pA
        adaptation_decay = math.exp(-self.time_step / self.adaptation_time)
        share = (1 - adaptation_decay) * self.adaptation_conductance
        pause = self._steps(self.refractory)

        def advance(currents: tuple[Tensor, ...], spikes: Tensor) -> None:
            torch.sub(soma, self.threshold, out=upstroke).mul_(1 / self.slope).exp_()
            soma.mul_(decay).add_(self.rest * (1 - decay))
            soma.add_(upstroke, alpha=gain * self.leak_conductance * self.slope)
            soma.add_(currents[0], alpha=gain).sub_(adaptation, alpha=gain)
            soma.masked_fill_(torch.gt(refractory, 0, out=resting), self.reset)
            torch.gt(soma, self.peak, out=spikes)
            soma.masked_fill_(spikes, self.reset)
            adaptation.mul_(adaptation_decay).add_(soma, alpha=share).sub_(self.rest * share)
            adaptation.add_(spikes, alpha=self.adaptation_current)
            refractory.sub_(1).masked_fill_(spikes, pause)

        return advance
