"""The soma and the apical dendrite of a pyramidal neuron, and their exact relaxation over one time step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from apical.errors import ConfigError
from apical.options import check_signs

VARIABLES = ("soma", "soma_adaptation", "threshold", "dendrite", "dendrite_adaptation")
# What the variables depend on: themselves, the two currents, and three things that are constant during a step.
_V_S, _W_S, _THETA, _V_D, _W_D, _I_S, _I_D, _F, _K, _ONE = range(10)


@dataclass(frozen=True, kw_only=True)
class Soma:
    """A leaky soma with spike-triggered adaptation and a threshold that moves.

        C_s dV_s/dt = -(C_s / tau_s) (V_s - E_L) - b w_s + I_s
        tau_ws dw_s/dt = -w_s,                    w_s += 1 at each spike
        tau_th dtheta/dt = -(theta - theta_0),    theta += jump at each spike
        V_s > theta: spike, V_s = E_L

    Args:
        rest: E_L, in mV; also the reset potential.
        capacitance: C_s, in pF.
        leak_time: tau_s, in ms.
        adaptation_current: b, in pA.
        adaptation_time: tau_ws, in ms.
        threshold: theta_0, in mV.
        threshold_jump: in mV.
        threshold_time: tau_th, in ms.
    """

    rest: float = -70.0
    capacitance: float = 370.0
    leak_time: float = 16.0
    adaptation_current: float = 200.0
    adaptation_time: float = 100.0
    threshold: float = -50.0
    threshold_jump: float = 2.0
    threshold_time: float = 27.0

    def __post_init__(self) -> None:
        check_signs(
            self,
            positive=("capacitance", "leak_time", "adaptation_time", "threshold_time"),
            not_negative=("adaptation_current", "threshold_jump"),
        )
        if not self.threshold > self.rest:
            raise ConfigError(f"Soma: threshold={self.threshold!r} mV must lie above rest={self.rest!r} mV.")

    @property
    def leak_conductance(self) -> float:
        """C_s / tau_s, in nS."""
        return self.capacitance / self.leak_time


@dataclass(frozen=True, kw_only=True)
class Dendrite:
    """A leaky dendrite with adaptation, whose potential drives regenerative activity f.

        C_d dV_d/dt = -(C_d / tau_d) (V_d - E_L) - a w_d + I_d
        tau_wd dw_d/dt = -w_d + (V_d - E_L)
        f(V_d) = 1 / (1 + exp(-(V_d - E_d) / D_d))

    Args:
        rest: E_L, in mV.
        capacitance: C_d, in pF.
        leak_time: tau_d, in ms.
        adaptation_conductance: a, in nS.
        adaptation_time: tau_wd, in ms.
        midpoint: E_d, the potential at which f is a half, in mV.
        slope: D_d, in mV.
    """

    rest: float = -70.0
    capacitance: float = 170.0
    leak_time: float = 7.0
    adaptation_conductance: float = 13.0
    adaptation_time: float = 30.0
    midpoint: float = -38.0
    slope: float = 6.0

    def __post_init__(self) -> None:
        check_signs(
            self,
            positive=("capacitance", "leak_time", "adaptation_time", "slope"),
            not_negative=("adaptation_conductance",),
        )

    @property
    def leak_conductance(self) -> float:
        """C_d / tau_d, in nS."""
        return self.capacitance / self.leak_time

    def regenerative(self, voltage: Tensor, out: Tensor | None = None) -> Tensor:
        """f(V_d), from 0 to 1, for potentials in mV."""
        return torch.sub(voltage, self.midpoint, out=out).mul_(1 / self.slope).sigmoid_()


class PyramidalState(NamedTuple):
    """Pyramidal neurons at one moment.

    Attributes:
        variables: what changes smoothly between spikes, (5, ..., units); its rows have names of their own, below.
        timers: time steps that are left of each process, int32 (timers, ..., units); zero and below for nothing.
    """

    variables: Tensor
    timers: Tensor

    @property
    def soma(self) -> Tensor:
        """V_s, in mV, (..., units)."""
        return self.variables[_V_S]

    @property
    def soma_adaptation(self) -> Tensor:
        """w_s, in spikes, (..., units)."""
        return self.variables[_W_S]

    @property
    def threshold(self) -> Tensor:
        """Theta, in mV, (..., units)."""
        return self.variables[_THETA]

    @property
    def dendrite(self) -> Tensor:
        """V_d, in mV, (..., units)."""
        return self.variables[_V_D]

    @property
    def dendrite_adaptation(self) -> Tensor:
        """w_d, in mV, (..., units)."""
        return self.variables[_W_D]


@dataclass(frozen=True)
class Compartments:
    """A soma and a dendrite, what couples them, and how they change over one time step.

    Between spikes their equations are linear in the five variables, but for f(V_d). With f and the currents held
    through the step, its outcome is therefore one matrix times (variables, I_s, I_d, f, K, 1): exact, at any step.

    Args:
        soma: its constants.
        dendrite: its constants.
        soma_coupling: g_s, f's current into the soma, in pA.
        dendrite_coupling: g_d, f's current into the dendrite, in pA.
        backpropagation_current: c_d, K's current into the dendrite, in pA.
    """

    soma: Soma
    dendrite: Dendrite
    soma_coupling: float = 0.0
    dendrite_coupling: float = 0.0
    backpropagation_current: float = 0.0

    def at_rest(self, zeros: Tensor, timers: int) -> PyramidalState:
        """The state at rest, of the shape (..., units), type and device of `zeros`."""
        rest = [self.soma.rest, 0.0, self.soma.threshold, self.dendrite.rest, 0.0]
        return PyramidalState(
            variables=torch.stack([torch.full_like(zeros, value) for value in rest]),
            timers=zeros.new_zeros((timers, *zeros.shape), dtype=torch.int32),
        )

    def propagator(self, time_step: float) -> Tensor:
        """The matrix of one time step in ms, float64 (5, 10)."""
        soma, dendrite = self.soma, self.dendrite
        change = torch.zeros(10, 10, dtype=torch.float64)  # d/dt of each row, by what it depends on
        change[_V_S, _V_S] = -1 / soma.leak_time
        change[_V_S, _W_S] = -soma.adaptation_current / soma.capacitance
        change[_V_S, _I_S] = 1 / soma.capacitance
        change[_V_S, _F] = self.soma_coupling / soma.capacitance
        change[_V_S, _ONE] = soma.rest / soma.leak_time
        change[_W_S, _W_S] = -1 / soma.adaptation_time
        change[_THETA, _THETA] = -1 / soma.threshold_time
        change[_THETA, _ONE] = soma.threshold / soma.threshold_time
        change[_V_D, _V_D] = -1 / dendrite.leak_time
        change[_V_D, _W_D] = -dendrite.adaptation_conductance / dendrite.capacitance
        change[_V_D, _I_D] = 1 / dendrite.capacitance
        change[_V_D, _F] = self.dendrite_coupling / dendrite.capacitance
        change[_V_D, _K] = self.backpropagation_current / dendrite.capacitance
        change[_V_D, _ONE] = dendrite.rest / dendrite.leak_time
        change[_W_D, _W_D] = -1 / dendrite.adaptation_time
        change[_W_D, _V_D] = 1 / dendrite.adaptation_time
        change[_W_D, _ONE] = -dendrite.rest / dendrite.adaptation_time
        propagator: Tensor = torch.linalg.matrix_exp(change * time_step)
        return propagator[:5]

    def relaxation(self, state: PyramidalState, time_step: float) -> tuple[Callable[[Tensor, Tensor], None], Tensor]:
        """How the variables change between spikes.

        Returns:
            A function of the two currents that updates `state` in place by one step; and the room for K during the
            step, (..., units), all zero, for the caller to fill.
        """
        shape = state.variables.shape[1:]
        matrix = self.propagator(time_step).to(state.variables)
        terms = state.variables.new_zeros((10, *shape))
        terms[_ONE] = 1
        variables, before = state.variables.view(5, -1), terms[:5].view(5, -1)
        dendrite, soma_current, dendrite_current, regenerative = terms[_V_D], terms[_I_S], terms[_I_D], terms[_F]
        flat, function = terms.view(10, -1), self.dendrite.regenerative
        coupled = self.soma_coupling > 0 or self.dendrite_coupling > 0

        def relax(into_soma: Tensor, into_dendrite: Tensor) -> None:
            before.copy_(variables)
            soma_current.copy_(into_soma)
            dendrite_current.copy_(into_dendrite)
            if coupled:
                function(dendrite, out=regenerative)
            torch.mm(matrix, flat, out=variables)

        return relax, terms[_K]

    def firing(self, state: PyramidalState) -> Callable[[Tensor], None]:
        """What a spike leaves behind: a function of who fires, boolean (..., units), that updates `state` in place."""
        soma, of_spikes = state.soma, state.variables[: _THETA + 1]
        jumps = soma.new_tensor([0.0, 1.0, self.soma.threshold_jump]).view(3, *[1] * soma.dim())
        fired, rest = torch.empty_like(soma), self.soma.rest

        def fire(spikes: Tensor) -> None:
            of_spikes.addcmul_(jumps, fired.copy_(spikes))
            soma.masked_fill_(spikes, rest)

        return fire
