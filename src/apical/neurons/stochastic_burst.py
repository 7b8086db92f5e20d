"""The simplified pyramidal neuron: its soma decides on events, its dendrite on the probability that they burst."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from apical.errors import ConfigError
from apical.neurons.neuron import Advance, SpikingNeuron
from apical.neurons.pyramidal import VARIABLES, Compartments, Dendrite, PyramidalState, Soma
from apical.options import check_positive


class StochasticBurstNeuron(SpikingNeuron[PyramidalState]):
    """A pyramidal neuron in which events and burst probability are apart by construction.

    The equations of `Soma` and `Dendrite`, without any current between them. When V_s passes the threshold, and the
    last spike is `refractory` ago, the neuron fires an event. With probability f(V_d) it becomes a burst: exactly one
    more spike follows after a uniformly distributed delay. That spike leaves V_s, threshold and adaptation alone, but
    starts the refractory time again.

    Takes two currents in pA, into the soma and into the dendrite: `neuron(soma_current, dendrite_current)`, each
    (time, ..., units). Its state has two timers: of the refractory time, and until the second spike.

    Args:
        soma: its constants.
        dendrite: its constants; E_d is -57 mV here, for want of regenerative currents.
        refractory: in ms.
        second_spike: the shortest and the longest delay of a second spike, in ms.
        time_step: in ms.
        seed: of the bursts; the generator's state is part of `state_dict()`.

    Raises: ConfigError on constants out of range; DataError, NonFiniteError on currents.

    Source: Payeur et al., Nature Neuroscience 24, 1010-1019 (2021), fig. 4; the constants from the authors'
    spikingburstprop.
    """

    currents: ClassVar[tuple[str, ...]] = ("soma", "dendrite")
    variables: ClassVar[tuple[str, ...]] = VARIABLES

    def __init__(
        self,
        *,
        soma: Soma | None = None,
        dendrite: Dendrite | None = None,
        refractory: float = 20.0,
        second_spike: tuple[float, float] = (5.0, 15.0),
        time_step: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(time_step=time_step)
        check_positive("StochasticBurstNeuron", refractory=refractory)
        first, last = second_spike
        if not time_step <= first <= last < refractory:
            raise ConfigError(
                f"StochasticBurstNeuron: second_spike={second_spike!r} ms must be (shortest, longest), at least a time "
                f"step and below refractory={refractory!r} ms."
            )
        self.soma = soma or Soma()
        self.dendrite = dendrite or Dendrite(midpoint=-57.0)
        self.refractory = refractory
        self.second_spike = second_spike
        self.seed = seed
        self.generator = torch.Generator().manual_seed(seed)
        self._compartments = Compartments(self.soma, self.dendrite)

    def burst_probability(self, dendrite: Tensor) -> Tensor:
        """The probability that an event becomes a burst, f(V_d), for potentials in mV."""
        return self.dendrite.regenerative(dendrite)

    def get_extra_state(self) -> dict[str, Any]:
        """The state of the generator."""
        return {"seed": self.seed, "generator": self.generator.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` gave."""
        self.seed = state["seed"]
        self.generator.set_state(state["generator"].cpu())

    def _at_rest(self, zeros: Tensor) -> PyramidalState:
        return self._compartments.at_rest(zeros, timers=2)

    def _stepper(self, state: PyramidalState) -> Advance:
        soma, dendrite, threshold = state.soma, state.dendrite, state.threshold
        timers, (refractory, second_spike) = state.timers, state.timers.unbind()
        relax, _ = self._compartments.relaxation(state, self.time_step)
        fire = self._compartments.firing(state)
        ready, second = torch.empty((2, *soma.shape), dtype=torch.bool, device=soma.device).unbind()
        pause = self._steps(self.refractory)

        def advance(currents: tuple[Tensor, ...], spikes: Tensor) -> None:
            relax(*currents)
            timers.sub_(1)
            torch.gt(soma, threshold, out=spikes)
            spikes.logical_and_(torch.lt(refractory, 0, out=ready))
            fire(spikes)
            self._draw(dendrite, spikes, second_spike)
            spikes.logical_or_(torch.eq(second_spike, 0, out=second))
            refractory.masked_fill_(spikes, pause)

        return advance

    def _draw(self, dendrite: Tensor, events: Tensor, second_spike: Tensor) -> None:
        """Which events become bursts, and when; drawn for those neurons alone that have an event, in their order."""
        where = events.nonzero(as_tuple=True)
        count = len(where[0])
        if not count:
            return
        chance, delay = torch.rand((2, count), generator=self.generator, dtype=torch.float64).to(dendrite.device)
        first, last = self.second_spike
        wait = delay.mul_(last - first).add_(first).div_(self.time_step).round_().to(second_spike.dtype)
        # without a second spike, zero: the event itself
        second_spike[where] = torch.where(chance < self.burst_probability(dendrite[where]), wait, 0)
