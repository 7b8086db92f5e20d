"""From spikes to currents: sparse random projections, and conductances that open and decay."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from apical.errors import ConfigError, DataError
from apical.options import check_positive


class Conductances(NamedTuple):
    """Open conductances at one moment, in units of the leak conductance, (..., units) each.

    Attributes:
        excitatory: AMPA.
        inhibitory: GABA.
    """

    excitatory: Tensor
    inhibitory: Tensor


class ConductanceSynapses(nn.Module):
    """AMPA and GABA conductances of a compartment: each spike opens them by its weight, and they decay.

        I = -g_L [ g_E (V - E_E) + g_I (V - E_I) ],   tau_E dg_E/dt = -g_E,   tau_I dg_I/dt = -g_I

    Spikes are added to the state in place (`Projection`, or plain `add_`); weights are in units of g_L.

    Args:
        leak_conductance: g_L of the compartment, in nS.
        excitatory_time: tau_E, in ms.
        inhibitory_time: tau_I, in ms.
        excitatory_reversal: E_E, in mV.
        inhibitory_reversal: E_I, in mV.
        time_step: in ms.

    Source: constants as in the authors' code of Payeur et al., Nature Neuroscience 24, 1010-1019 (2021); NMDA is off.
    """

    def __init__(
        self,
        leak_conductance: float,
        *,
        excitatory_time: float = 5.0,
        inhibitory_time: float = 10.0,
        excitatory_reversal: float = 0.0,
        inhibitory_reversal: float = -80.0,
        time_step: float = 0.1,
    ) -> None:
        super().__init__()
        check_positive(
            "ConductanceSynapses",
            leak_conductance=leak_conductance,
            excitatory_time=excitatory_time,
            inhibitory_time=inhibitory_time,
            time_step=time_step,
        )
        self.leak_conductance = leak_conductance
        self.excitatory_reversal = excitatory_reversal
        self.inhibitory_reversal = inhibitory_reversal
        self._excitatory_decay = math.exp(-time_step / excitatory_time)
        self._inhibitory_decay = math.exp(-time_step / inhibitory_time)

    def start(
        self, *shape: int, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
    ) -> Conductances:
        """All closed, for neurons (..., units)."""
        zeros = torch.zeros(shape, dtype=dtype, device=device)
        return Conductances(zeros, zeros.clone())

    @torch.no_grad()
    def step(self, state: Conductances, voltage: Tensor) -> Tensor:
        """The current into the compartment in pA, (..., units), for potentials in mV; then one time step of decay."""
        current = torch.rsub(voltage, self.excitatory_reversal).mul_(state.excitatory)
        current.addcmul_(torch.rsub(voltage, self.inhibitory_reversal), state.inhibitory)
        state.excitatory.mul_(self._excitatory_decay)
        state.inhibitory.mul_(self._inhibitory_decay)
        return current.mul_(self.leak_conductance)


class Projection(nn.Module):
    """Sparse random connections of one weight, from one population to another.

    Args:
        pre: number of presynaptic neurons.
        post: number of postsynaptic neurons.
        probability: of each connection.
        weight: of each connection, in units of the target's leak conductance.
        generator: where the random connections come from.

    Attributes:
        weights: (pre, post), a buffer.
    """

    def __init__(self, pre: int, post: int, *, probability: float, weight: float, generator: torch.Generator) -> None:
        super().__init__()
        if not 0 <= probability <= 1:
            raise ConfigError(f"Projection: probability={probability!r} must be from 0 to 1.")
        if not weight >= 0:
            raise ConfigError(
                f"Projection: weight={weight!r} must not be negative: inhibition opens another conductance."
            )
        connected = torch.rand((pre, post), generator=generator) < probability
        self.weights = nn.Buffer(connected.float().mul_(weight))

    @torch.no_grad()
    def forward(self, spikes: Tensor, into: Tensor, efficacy: Tensor | None = None) -> None:
        """Open conductances in place. The cost goes with the number of spikes.

        Args:
            spikes: boolean (..., pre).
            into: the target's conductance (..., post), contiguous.
            efficacy: the share of its weight that each spike delivers, (..., pre); 1 if None.
        """
        if spikes.shape[-1] != self.weights.shape[0] or into.shape != (*spikes.shape[:-1], self.weights.shape[1]):
            raise DataError(
                f"spikes {tuple(spikes.shape)} and conductances {tuple(into.shape)} do not fit connections from "
                f"{self.weights.shape[0]} to {self.weights.shape[1]} neurons."
            )
        sample, unit = spikes.reshape(-1, spikes.shape[-1]).nonzero(as_tuple=True)
        if not len(unit):
            return
        delivered = self.weights[unit].to(into.dtype)
        if efficacy is not None:
            delivered.mul_(efficacy[spikes][:, None])
        into.view(-1, into.shape[-1]).index_add_(0, sample, delivered)
