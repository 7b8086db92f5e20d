"""A model that is written for one moment, run over a sequence in plain PyTorch."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from apical.errors import CircuitError, ConfigError
from apical.layers.moments import clock_of, clocked, unfolded


def temporal_neurons(model: nn.Module) -> list[Any]:
    """The neurons with a memory in a model."""
    return [module for module in model.modules() if hasattr(module, "ends_time")]


def as_it_is(x: Tensor) -> Tensor:
    """The input itself, which is a sequence."""
    return x


class OverTime(nn.Module):
    """Runs a model that is written for one moment over a sequence, in plain PyTorch.

    Time is folded into the batch, time slowest, so that synapses, pools and norms pass all moments at once (a batch
    norm normalises over time x batch), and neurons with a memory unfold it.

    Args:
        model: with neurons such as `LIF`.
        encode: makes the sequence (time, batch, ...) from an input (batch, ...), such as
            `functools.partial(apical.neurons.encoders.constant, moments=25)`; by default the input is one.

    Shapes: (time, batch, ...), or what `encode` takes, to (time, batch, outputs), or to (batch, outputs) where a
    read-out averages over time.

    `apical.Circuit(OverTime(model, encode), rule)` is a circuit of `model` that encodes its input in the same way.

    Example:
        >>> from functools import partial
        >>> import torch, apical
        >>> from apical import neurons
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), neurons.LIF(), torch.nn.Linear(8, 3))
        >>> neurons.OverTime(model)(torch.rand(10, 5, 4)).shape
        torch.Size([10, 5, 3])
        >>> model.append(neurons.LeakyReadout())
        >>> constant = neurons.OverTime(model, partial(neurons.encoders.constant, moments=10))
        >>> constant(torch.rand(5, 4)).shape, apical.Circuit(constant, "e_prop")(torch.rand(5, 4)).shape
        (torch.Size([5, 3]), torch.Size([5, 3]))
    """

    def __init__(self, model: nn.Module, encode: Callable[[Tensor], Tensor] = as_it_is) -> None:
        super().__init__()
        self.model = model
        self.encode = encode

    def forward(self, x: Tensor) -> Tensor:
        x = self.encode(x)
        neurons = temporal_neurons(self.model)
        clock = clock_of(x, 2)  # numbers alone may be what an embedding takes
        with clocked(neurons, clock):
            y: Tensor = self.model(x.flatten(0, 1))
        # A read-out that averages may lie beside the way to the output, which then has all moments.
        ends = y.shape[:1] == (clock.batch,) and any(neuron.ends_time for neuron in neurons)
        return unfolded(y, clock, ends)


def written_for_one_moment(model: nn.Module) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """The model inside an `OverTime`, or a model itself, and how its input is encoded.

    Raises:
        CircuitError: an `OverTime` of a model whose neurons have no memory.
    """
    if not isinstance(model, OverTime):
        return model, as_it_is
    if not temporal_neurons(model):
        raise CircuitError(
            f"OverTime: no neuron of its {type(model.model).__name__} has a memory, such as LIF and LeakyReadout have. "
            "Give it some, or build the circuit of the model itself."
        )
    return model.model, model.encode


def folded_axis(model: nn.Module, batch_axis: int) -> int:
    """The batch axis of what passes the modules: of (time, batch, ...) time and batch become the first axis.

    Args:
        model: without neurons that have a memory the axis stays.
        batch_axis: of the input; in time 1, or 0 where it was left out.

    Raises:
        ConfigError: it is another in time.
        CircuitError: a part of the model is an `OverTime`.
    """
    for path, module in model.named_modules():
        if isinstance(module, OverTime):
            raise CircuitError(
                f"{path or 'the model'}: an OverTime inside of a circuit's model, which is written for one moment. "
                "Wrap the whole model in one OverTime."
            )
    if not temporal_neurons(model):
        return batch_axis
    if batch_axis > 1:
        raise ConfigError(
            f"batch_axis={batch_axis}: a circuit whose neurons have a memory takes (time, batch, ...). Pass 1, or "
            "leave it out."
        )
    return 0


INSTEAD = "Protect a spiking network by replay or si, which need no samples apart."


def refuse_time(network: nn.Module, what: str, instead: str = INSTEAD) -> None:
    """Refuse networks in time, in which a sample has parts at several moments that are not kept together.

    Args:
        network: a circuit or a module.
        what: the name of what needs samples apart.
        instead: what to do.

    Raises:
        CircuitError: a neuron has a memory.
    """
    neurons = temporal_neurons(network)
    if neurons:
        raise CircuitError(
            f"{what}: {type(neurons[0]).__name__} has a memory, and the moments of one sample are not kept together. "
            f"{instead}"
        )
