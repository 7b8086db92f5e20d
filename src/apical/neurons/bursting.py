"""The full two-compartment neuron, in which a spike that travels back into the dendrite sets off a burst."""

from typing import ClassVar

import torch
from torch import Tensor

from apical.neurons.neuron import Advance, SpikingNeuron
from apical.neurons.pyramidal import VARIABLES, Compartments, Dendrite, PyramidalState, Soma
from apical.options import check_signs


class TwoCompartmentNeuron(SpikingNeuron[PyramidalState]):
    """A pyramidal neuron whose dendrite turns single spikes into bursts.

    The equations of `Soma` and `Dendrite`, and what couples them:

        C_s dV_s/dt = ... + g_s f(V_d)
        C_d dV_d/dt = ... + g_d f(V_d) + c_d K(t)

    K is 1 for `backpropagation_time` after each spike and else 0: the spike that travels back into the dendrite.
    Together with current into the dendrite it sets off f, and f sends a current into the soma that makes further
    spikes: a burst.

    Takes two currents in pA, into the soma and into the dendrite: `neuron(soma_current, dendrite_current)`, each
    (time, ..., units). Its state has one timer, K's.

    Args:
        soma: its constants.
        dendrite: its constants.
        soma_coupling: g_s, in pA.
        dendrite_coupling: g_d, in pA.
        backpropagation_current: c_d, in pA.
        backpropagation_time: how long K lasts, in ms.
        time_step: in ms.

    Integration: exact over one time step, for f and the currents held at their values at its start.

    Raises: ConfigError on constants out of range; DataError, NonFiniteError on currents.

    Source: Payeur et al., Nature Neuroscience 24, 1010-1019 (2021), figs. 2 and 3, after Naud and Sprekeler, PNAS 115,
    E6329 (2018); the constants from the authors' spikingburstprop.
    """

    currents: ClassVar[tuple[str, ...]] = ("soma", "dendrite")
    variables: ClassVar[tuple[str, ...]] = VARIABLES

    def __init__(
        self,
        *,
        soma: Soma | None = None,
        dendrite: Dendrite | None = None,
        soma_coupling: float = 1300.0,
        dendrite_coupling: float = 1200.0,
        backpropagation_current: float = 2600.0,
        backpropagation_time: float = 2.0,
        time_step: float = 0.1,
    ) -> None:
        super().__init__(time_step=time_step)
        self.soma = soma or Soma()
        self.dendrite = dendrite or Dendrite()
        self.soma_coupling = soma_coupling
        self.dendrite_coupling = dendrite_coupling
        self.backpropagation_current = backpropagation_current
        self.backpropagation_time = backpropagation_time
        couplings = ("soma_coupling", "dendrite_coupling", "backpropagation_current", "backpropagation_time")
        check_signs(self, not_negative=couplings)
        self._compartments = Compartments(
            self.soma, self.dendrite, soma_coupling, dendrite_coupling, backpropagation_current
        )

    def _at_rest(self, zeros: Tensor) -> PyramidalState:
        return self._compartments.at_rest(zeros, timers=1)

    def _stepper(self, state: PyramidalState) -> Advance:
        soma, threshold, backpropagating = state.soma, state.threshold, state.timers[0]
        relax, travels_back = self._compartments.relaxation(state, self.time_step)
        fire = self._compartments.firing(state)
        lasts = self._steps(self.backpropagation_time)

        def advance(currents: tuple[Tensor, ...], spikes: Tensor) -> None:
            torch.gt(backpropagating, 0, out=travels_back)
            relax(*currents)
            torch.gt(soma, threshold, out=spikes)
            fire(spikes)
            backpropagating.sub_(1).masked_fill_(spikes, lasts)

        return advance
