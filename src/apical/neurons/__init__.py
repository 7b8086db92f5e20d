"""Neurons that fire in bursts, and the plasticity that reads them. Times in ms, rates in Hz, mV, pF, nS and pA.

spikes = TwoCompartmentNeuron()(soma_current, dendrite_current).spikes      # a raster (time, ..., units)
events, bursts = events_and_bursts(spikes, step=0.1)                        # two messages in one train
"""

from apical.layers.over_time import OverTime
from apical.neurons import encoders, spiking_steps, surrogates
from apical.neurons.asynchronous import (
    AsynchronousNetwork,
    DecisionCurve,
    Responses,
    decision_curve,
    teacher_and_student,
)
from apical.neurons.bursting import TwoCompartmentNeuron
from apical.neurons.interneurons import AdaptiveExponentialNeuron, AdaptiveExponentialState
from apical.neurons.moments import SequenceDropout, TemporalNeuron
from apical.neurons.neuron import Run, SpikingNeuron
from apical.neurons.plasticity import BurstDependentPlasticity, SynapseState
from apical.neurons.protocols import burst_poisson, periodic_pairing
from apical.neurons.pyramidal import Dendrite, PyramidalState, Soma
from apical.neurons.short_term import ShortTermPlasticity, ShortTermState
from apical.neurons.spiking import ALIF, IF, LIF, LeakyReadout
from apical.neurons.stochastic_burst import StochasticBurstNeuron
from apical.neurons.synapses import Conductances, ConductanceSynapses, Projection
from apical.neurons.trains import (
    BURST_THRESHOLD,
    EventsAndBursts,
    Messages,
    events_and_bursts,
    messages,
    pad,
    to_raster,
    to_times,
)

__all__ = [
    "ALIF",
    "BURST_THRESHOLD",
    "IF",
    "LIF",
    "AdaptiveExponentialNeuron",
    "AdaptiveExponentialState",
    "AsynchronousNetwork",
    "BurstDependentPlasticity",
    "ConductanceSynapses",
    "Conductances",
    "DecisionCurve",
    "Dendrite",
    "EventsAndBursts",
    "LeakyReadout",
    "Messages",
    "OverTime",
    "Projection",
    "PyramidalState",
    "Responses",
    "Run",
    "SequenceDropout",
    "ShortTermPlasticity",
    "ShortTermState",
    "Soma",
    "SpikingNeuron",
    "StochasticBurstNeuron",
    "SynapseState",
    "TemporalNeuron",
    "TwoCompartmentNeuron",
    "burst_poisson",
    "decision_curve",
    "encoders",
    "events_and_bursts",
    "messages",
    "pad",
    "periodic_pairing",
    "spiking_steps",
    "surrogates",
    "teacher_and_student",
    "to_raster",
    "to_times",
]
