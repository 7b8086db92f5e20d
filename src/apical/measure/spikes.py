"""Spikes: when the neurons of a network in time fire, and the synaptic events that this costs."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from apical.circuit import Circuit
from apical.errors import CircuitError, DataError
from apical.layers.over_time import OverTime, temporal_neurons, written_for_one_moment
from apical.layers.synapses import Synapses, kind_of


@dataclass(frozen=True)
class Spikes:
    """The spikes of a network while it responds to some samples.

    Attributes:
        trains: by the path of the spiking neurons in the model, 1 where a neuron fires, (time, samples, units ...).
        events: by the path of the synapses, synaptic events for a sample: the sum over moments of the synapses whose
            input is not 0. A constant input counts once, since it passes the first synapses once.
        synapses: by the same path, the products that the same synapses take for one sample in a network of rates.
    """

    trains: Mapping[str, Tensor]
    events: Mapping[str, float]
    synapses: Mapping[str, float]

    @property
    def rates(self) -> dict[str, float]:
        """By the path of the neurons, spikes for a neuron and moment, mean over neurons, moments and samples."""
        return {name: train.double().mean().item() for name, train in self.trains.items()}

    @property
    def silent(self) -> dict[str, float]:
        """By the path of the neurons, the share that fires for no sample."""
        return {
            name: 1 - train.flatten(0, 1).bool().any(0).double().mean().item() for name, train in self.trains.items()
        }


@torch.no_grad()
def spikes(network: nn.Module, x: Tensor) -> Spikes:
    """When the neurons of a spiking network fire, and how many synaptic events a sample takes.

    The network is evaluated in `eval()` mode and left as it was.

    Args:
        network: a circuit or an `apical.neurons.OverTime`.
        x: what the network takes: (samples, ...) where it encodes its input, and (time, samples, ...) otherwise.

    Raises:
        CircuitError: no neuron of the network fires.
        DataError: no samples were given.

    Example:
        >>> import torch, apical
        >>> network = apical.models.build("mlp:20:lif", input_shape=(6,), classes=3, seed=0)
        >>> found = apical.measure.spikes(network, torch.rand(4, 6))
        >>> found.trains["0.2"].shape
        torch.Size([25, 4, 20])
    """
    if isinstance(network, Circuit):
        model, encode = network.model, network.encode
    else:
        model, encode = written_for_one_moment(network)
    model = copy.deepcopy(model).eval()
    firing = [neuron for neuron in temporal_neurons(model) if neuron.fires]
    if not firing:
        raise CircuitError(f"{type(model).__name__}: no neuron fires, such as LIF and ALIF do. Give it some.")
    with torch.random.fork_rng(devices=[]):  # an encoder may draw
        sequence = encode(x)
    if not sequence.numel():
        raise DataError(f"spikes: the input is {tuple(x.shape)}. Pass at least one sample and one moment.")
    moments, samples = sequence.shape[:2]
    once = sequence.stride(0) == 0
    trains: dict[str, Tensor] = {}
    events: dict[str, float] = {}
    synapses: dict[str, float] = {}

    def fired(name: str, module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        name = name if name not in trains else f"{name}:{len(trains) + 1}"  # a module that is used again
        trains[name] = output.reshape(moments, samples, *output.shape[1:]).bool()

    def delivered(name: str, own: Synapses, module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        arriving = arguments[0]
        leaving = _leaving(own, arriving[:1], output[:1])
        active = ((arriving != 0).sum(0) * leaving).sum().item() / samples
        every = leaving.sum().item()
        if len(arriving) == samples:  # recurrent synapses, moment by moment
            events[name] = events.get(name, 0.0) + active
            synapses[name] = every
            return
        constant = once and bool((arriving.reshape(moments, samples, *arriving.shape[1:]) == arriving[:samples]).all())
        events[name] = events.get(name, 0.0) + (active / moments if constant else active)
        synapses[name] = synapses.get(name, 0.0) + every

    for name, module in model.named_modules():  # of the copy, which ends with its hooks
        if module in firing:
            module.register_forward_hook(partial(fired, name))
        elif kind := kind_of(module):
            module.register_forward_hook(partial(delivered, name, kind(module, name)))
    with torch.random.fork_rng(devices=[]):
        OverTime(model)(sequence)
    return Spikes(trains, events, synapses)


def _leaving(own: Synapses, pre: Tensor, drive: Tensor) -> Tensor:
    """How many synapses leave each source, of the shape of one sample: what ones carry down through weights of 1."""
    signal, weight = (torch.ones_like(each, dtype=torch.double) for each in (drive, own.weight))
    return own.transpose_product(signal, weight, pre.double())[0]
