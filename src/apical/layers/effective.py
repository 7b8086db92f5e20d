"""Effective weights: those that a module computes from other tensors, and the way from them to these tensors.

A weight norm, a spectral norm, a pruning mask or a parametrisation of the user's own computes the weight that synapses
use. A rule gives the update of this effective weight, and autograd takes it through the parametrisation to the
parameters behind it, since the effective weight is computed with a graph, once for each forward pass.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from apical.errors import CircuitError
from apical.layers.memory import undisturbed

_WEIGHTS = ("weight", "bias")
HOOKS = (BasePruningMethod, WeightNorm, SpectralNorm)
"""The hooks by which PyTorch computes a weight before a module's forward."""


def is_plain(module: nn.Module) -> bool:
    """Whether weight and bias are the module's own parameters."""
    return all(name in module._parameters for name in _WEIGHTS)


def computes_weights(module: nn.Module) -> bool:
    """Whether a hook of PyTorch's computes a parameter before the module's forward."""
    return any(isinstance(hook, HOOKS) for hook in module._forward_pre_hooks.values())


class EffectiveWeights(nn.Module):
    """Holds the weight and the bias that a module computes from other tensors.

    Args:
        module: computes them by parametrisations, or by the hooks of `torch.nn.utils`.
        name: its path in the model.

    Raises:
        CircuitError: other hooks run before the module's forward, and may set the weight.
    """

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.module = module
        self.name = name
        unknown = [hook for hook in module._forward_pre_hooks.values() if not isinstance(hook, HOOKS)]
        if unknown:
            raise CircuitError(
                f"{name} ({type(module).__name__}): its weight is not a parameter of its own, and a forward_pre_hook "
                f"({getattr(unknown[0], '__name__', type(unknown[0]).__name__)}) may set it, which a circuit cannot "
                "call. Compute it with torch.nn.utils.parametrize.register_parametrization."
            )
        with undisturbed(module):
            self.compute()

    def compute(self) -> None:
        """Compute weight and bias, as the module does before its forward."""
        module = self.module
        for hook in module._forward_pre_hooks.values():
            hook(module, ())
        for name in _WEIGHTS:
            tensor = self._parameters[name] = getattr(module, name)
            if module._forward_pre_hooks and name in vars(module):
                vars(module)[name] = tensor.detach()  # a tensor with a graph could not be copied

    def realised(self, update: Tensor) -> Tensor:
        """The change of the effective weight that a small step by an update makes: J J^T `update`.

            J = d weight / d parameters

        The parameters take J^T `update`, and the weight moves by J times that.

        Raises:
            CircuitError: the computation cannot be differentiated twice.
        """
        weight = self._parameters["weight"]
        assert weight is not None
        parameters = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        with torch.enable_grad():
            leaf = update.detach().requires_grad_()
            found = torch.autograd.grad(weight, parameters, leaf, create_graph=True, allow_unused=True)
            down = [tensor for tensor in found if tensor is not None]
            try:
                return torch.autograd.grad(down, leaf, [tensor.detach() for tensor in down])[0]
            except RuntimeError as error:
                raise CircuitError(
                    f"{self.name} ({type(self.module).__name__}): reciprocal feedback takes the change of a weight "
                    "that is computed from others, by a second derivative of that computation, which failed "
                    "(torch.compile has none). Do not compile, or use feedback='weight_mirror'."
                ) from error

    def __getstate__(self) -> dict[str, Any]:
        # Tensors with a graph can be neither copied nor pickled; the next forward pass computes them.
        detached = {name: None if own is None else own.detach() for name, own in self._parameters.items()}
        return {**self.__dict__, "_parameters": detached}
