"""Memory of modules: state that a forward pass leaves behind, restored after probes and found where it lasts."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


@contextmanager
def undisturbed(model: nn.Module, x: Tensor | None = None) -> Iterator[None]:
    """Restore the model's buffers, its modules' own attributes and the random state on leaving; compute without
    gradients.

    Modules may keep state in attributes, such as the membrane potential of a spiking neuron. The random state is that
    of the CPU and of the device of `x`, or, without it, of the first parameter.
    """
    buffers = {buffer: buffer.clone() for buffer in model.buffers()}
    attributes = [(module, dict(vars(module))) for module in model.modules()]
    containers = [
        (value, copy.copy(value))
        for _, kept in attributes
        for name, value in kept.items()
        if (name == "_buffers" or name not in _OF_EVERY_MODULE) and isinstance(value, dict | list | set)
    ]
    with torch.no_grad(), torch.random.fork_rng(devices=_devices(next(model.parameters(), None) if x is None else x)):
        try:
            yield
        finally:
            for buffer, before in buffers.items():
                if not torch.equal(buffer, before):  # a graph may have saved it
                    buffer.copy_(before)
            # In place, since others may hold them.
            for container, content in [*((vars(module), kept) for module, kept in attributes), *containers]:
                container.clear()
                container.extend(content) if isinstance(container, list) else container.update(content)


def _devices(x: Tensor | None) -> list[int]:
    """The GPU of a tensor, whose random state is kept beside the CPU's."""
    return [x.device.index or 0] if x is not None and x.is_cuda else []


def warn_of_lasting_state(model: nn.Module, x: Tensor) -> None:
    """Warn where modules keep state from one forward pass to the next, as the membrane potential of a spiking neuron.

    Two forward passes with the same input and the same random draws show it: a tensor that only records what the last
    pass computed is the same after both. They run in evaluation mode, where no statistics move, and leave the model as
    it was.
    """
    found = []
    with undisturbed(model, x):
        for module in model.modules():
            module.training = False
        try:
            for _ in range(2):
                with torch.random.fork_rng(devices=_devices(x)):
                    model(x.detach())
                found.append({place: value.clone() for place, value in _kept_tensors(model)})
        except Exception:  # of the user's code, and the pass that follows raises it
            return
    first, second = found
    for place, value in second.items():
        if place in first and not (first[place].shape == value.shape and torch.equal(first[place], value)):
            path, name = place[:2]
            kind = type(model.get_submodule(path)).__name__
            warnings.warn(
                f"{path or 'the model'} ({kind}): its state {name!r} lasts from one forward pass to the next, and "
                "credit through time is cut: a backward pass assigns none to earlier forward passes. Reset and detach "
                "the state before each forward pass, or compute all time steps inside one forward of this module, "
                "which is then differentiated as a whole.",
                stacklevel=5,
            )
            return


def _kept_tensors(model: nn.Module) -> Iterator[tuple[tuple[str, str, int], Tensor]]:
    """The floating-point tensors that modules keep in buffers, attributes and containers, by path, name and place."""
    for path, module in model.named_modules():
        own = {name: value for name, value in vars(module).items() if name not in _OF_EVERY_MODULE}
        for name, value in {**module._buffers, **own}.items():
            parts = list(value.values()) if isinstance(value, dict) else value
            for place, part in enumerate(parts if isinstance(parts, list | tuple) else [parts]):
                if isinstance(part, Tensor) and (part.is_floating_point() or part.is_complex()):
                    yield (path, name, place), part
