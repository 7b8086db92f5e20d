"""Carried: what a rule's signals are made of, per layer, as numbers to follow through training."""

import copy

import torch
from torch import Tensor

from apical.circuit import Circuit
from apical.errors import DataError
from apical.losses import Loss


def carried(circuit: Circuit, x: Tensor, y: Tensor, loss: Loss) -> dict[str, dict[str, float]]:
    """The mean of everything that a rule carries while it teaches, per layer: burst rates, apical potentials, energies.

    The circuit is left as it was: gradients, buffers and random states. For whole tensors observe the circuit
    (`Circuit.observe`).

    Args:
        circuit: the circuit.
        x: (batch, ...), examples.
        y: (batch, ...), their targets.
        loss: of the answer and the targets.

    Returns:
        by the layer's module path, the mean over units and examples of each quantity that the rule's `carries` names;
        the mean over all that it showed where it showed a quantity several times.

    Raises:
        DataError: no examples were given.
    """
    if len(x) == 0:
        raise DataError("what a rule carries shows on examples, and the batch is empty.")
    twin = copy.deepcopy(circuit)
    if not twin.rule.observables:
        return {}
    seen: dict[str, dict[str, list[float]]] = {layer.name: {} for layer in twin.layers}

    def note(layer: str, quantities: dict[str, Tensor]) -> None:
        for name, values in quantities.items():
            if name in twin.rule.observables:
                seen.setdefault(layer, {}).setdefault(name, []).append(values.double().mean().item())

    devices = [x.device.index or 0] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad(), twin.observe(note):
        torch.autograd.backward(loss(twin(x), y))
    return {
        layer: {name: sum(means) / len(means) for name, means in quantities.items()}
        for layer, quantities in seen.items()
        if quantities
    }
