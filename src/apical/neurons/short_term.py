"""Short-term depression and facilitation: synapses that transmit events, and synapses that transmit bursts."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from apical.errors import ConfigError, DataError
from apical.neurons.trains import check_raster
from apical.options import check_signs


class ShortTermState(NamedTuple):
    """Synapses' resources at one moment, (..., units) each, for each presynaptic neuron.

    Attributes:
        utilisation: u, the share of what is there that a spike releases.
        available: x, the share of vesicles that is there.
    """

    utilisation: Tensor
    available: Tensor


class ShortTermPlasticity(nn.Module):
    """Extended Tsodyks-Markram plasticity: how much of a synapse's weight each presynaptic spike delivers.

        between spikes:  tau_D dx/dt = 1 - x,   tau_F du/dt = U - u
        at a spike:      efficacy = u x,   then x -= u x,   then u += f (1 - u)

    With `depressing()` a burst delivers hardly more than its first spike: the synapse transmits events. With
    `facilitating()` single spikes deliver next to nothing: the synapse transmits bursts.

    Args:
        baseline: U, from 0 to 1.
        increment: f, from 0 to 1.
        depression_time: tau_D, in ms.
        facilitation_time: tau_F, in ms.
        time_step: in ms.

    Raises: ConfigError on constants out of range; DataError on spikes that are no raster.

    Source: Payeur et al., Nature Neuroscience 24, 1010-1019 (2021), fig. 3, after Mongillo, Barak and Tsodyks, Science
    319, 1543 (2008); the constants from the authors' spikingburstprop.
    """

    def __init__(
        self,
        *,
        baseline: float,
        increment: float,
        depression_time: float,
        facilitation_time: float,
        time_step: float = 0.1,
    ) -> None:
        super().__init__()
        if not (0 < baseline <= 1 and 0 <= increment <= 1):
            raise ConfigError(
                f"ShortTermPlasticity: baseline={baseline!r} must be above 0 and at most 1, increment={increment!r} "
                "from 0 to 1: they are shares."
            )
        self.baseline = baseline
        self.increment = increment
        self.depression_time = depression_time
        self.facilitation_time = facilitation_time
        self.time_step = time_step
        check_signs(self, positive=("depression_time", "facilitation_time", "time_step"))
        self._recovery = math.exp(-time_step / depression_time)
        self._forgetting = math.exp(-time_step / facilitation_time)

    @classmethod
    def depressing(cls, *, time_step: float = 0.1) -> ShortTermPlasticity:
        """The synapses that carry events forward."""
        return cls(baseline=0.9, increment=0.1, depression_time=20.0, facilitation_time=1000.0, time_step=time_step)

    @classmethod
    def facilitating(cls, *, time_step: float = 0.1) -> ShortTermPlasticity:
        """The synapses that carry bursts back."""
        return cls(baseline=0.02, increment=0.1, depression_time=100.0, facilitation_time=100.0, time_step=time_step)

    def start(
        self, *shape: int, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
    ) -> ShortTermState:
        """The state after a long silence, of presynaptic neurons (..., units)."""
        available = torch.ones(shape, dtype=dtype, device=device)
        return ShortTermState(torch.full_like(available, self.baseline), available)

    @torch.no_grad()
    def step(self, state: ShortTermState, spikes: Tensor) -> Tensor:
        """One time step. `state` is updated in place.

        Args:
            state: of the synapses.
            spikes: which presynaptic neurons fire, boolean (..., units).

        Returns:
            u x where a neuron fires, zero elsewhere, (..., units).
        """
        utilisation, available = state
        if spikes.shape != available.shape:
            raise DataError(f"spikes are {tuple(spikes.shape)}, the synapses' state is {tuple(available.shape)}.")
        utilisation.mul_(self._forgetting).add_(self.baseline * (1 - self._forgetting))
        available.mul_(self._recovery).add_(1 - self._recovery)
        fired = spikes.to(available.dtype)
        efficacy = torch.mul(utilisation, available).mul_(fired)
        available.sub_(efficacy)
        fired.mul_(self.increment)
        utilisation.addcmul_(utilisation, fired, value=-1).add_(fired)
        return efficacy

    def forward(self, spikes: Tensor, state: ShortTermState | None = None) -> tuple[Tensor, ShortTermState]:
        """Run over time.

        Args:
            spikes: a raster, boolean (time, ..., units).
            state: where to start, left as it is; after a long silence, if None.

        Returns:
            The efficacies (time, ..., units), and the state at the end.
        """
        check_raster(spikes, "spikes")
        if state is None:
            state = self.start(*spikes.shape[1:], device=spikes.device)
        else:
            state = ShortTermState(*(tensor.clone() for tensor in state))
        efficacies = torch.empty(spikes.shape, dtype=state.available.dtype, device=spikes.device)
        for moment, fired in enumerate(spikes.unbind()):
            efficacies[moment] = self.step(state, fired)
        return efficacies, state
