"""Orthogonal weights modification: steps that leave the answers to earlier inputs as they are."""

import copy
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from apical.circuit import Circuit
from apical.errors import ConfigError
from apical.layers.over_time import refuse_time
from apical.measure.importance import inputs
from apical.optim.consolidation.protection import Assumptions, Data, LossOfLabels
from apical.optim.consolidation.synaptic import SynapticProtection
from apical.options import check_positive
from apical.rules import Backprop


class _Weights(NamedTuple):
    """A layer's weight, with a bias that learns."""

    weight: nn.Parameter
    bias: nn.Parameter | None


class OWM(SynapticProtection):
    r"""Orthogonal weights modification: each step of a layer's weights is projected away from earlier inputs.

        P = I - A (AᵀA + α I)⁻¹ Aᵀ = α (α I + A Aᵀ)⁻¹
        ΔW ← ΔW P

    ΔW, (units, fan-in), is the step that the optimizer takes, whatever the rule. The columns of A are the mean inputs
    of the layer, in evaluation mode, of all batches of all earlier tasks. So W x stays for what the columns span, up to
    α. A convolution has a column for each batch and position, the mean patch there; each of its groups has a P.

    A bias is a synapse from a unit whose rate is always 1: it is projected together with the weight, and inputs have
    one more entry.

    Args:
        alpha: α, above 0: directions in which A Aᵀ is far below α stay free.
        batch_size: examples whose inputs are averaged to a column; 1: each example is a column.

    Raises:
        ConfigError: an option that cannot be; when it is attached, a network with parameters that learn and are not
            those of linear or convolutional layers, or are computed from others, or are shared by layers with biases;
            a frozen weight whose bias learns.

    Source: Zeng, Chen, Cui and Yu, "Continual learning of context-dependent processing in neural networks" (Nature
    Machine Intelligence 2019). Departs from it: P is computed from A Aᵀ, which equals the paper's recursion over
    batches for one α; the step is projected and not the gradient, which is the same for gradient descent, with or
    without momentum, and holds for every other optimizer, too; biases are protected.

    Example:
        >>> from apical.optim import consolidation
        >>> consolidation.OWM(alpha=0.1).alpha
        0.1
    """

    name = "owm"
    title = "Orthogonal weights modification"
    summary = "Steps are projected away from the inputs of earlier tasks, layer by layer."
    paper = "Zeng et al. 2019"
    needs_boundaries = True
    keeps = ("gram",)
    gram: dict[str, Tensor]

    def __init__(self, alpha: float = 0.1, *, batch_size: int = 32) -> None:
        check_positive(self.name, alpha=alpha, batch_size=batch_size)
        self.alpha, self.batch_size = alpha, batch_size

    def attach(self, circuit: nn.Module, loss: LossOfLabels) -> None:
        refuse_time(circuit, self.name)
        super().attach(circuit, loss)
        model = circuit.model if isinstance(circuit, Circuit) else circuit
        layers = Circuit(copy.deepcopy(model), Backprop()).layers
        names = {id(own): name for name, own in self.parameters.items()}
        self._weights: dict[str, _Weights] = {}
        self._layers: dict[str, str] = {}  # the name of a layer's weight
        for layer in layers:
            module = model.get_submodule(layer.synapses.name) if layer.synapses.module is not model else model
            weight, bias = module._parameters.get("weight"), module._parameters.get("bias")
            if weight is None:
                raise ConfigError(
                    f"{layer.name}: {self.name} projects the step of a weight, and this one is computed from others. "
                    "Remove the parametrisation, or use another protection."
                )
            own = _Weights(weight, bias if bias is not None and bias.requires_grad else None)
            name = self._layers[layer.name] = names[id(weight)]
            if name in self._weights and (own.bias is not None or self._weights[name].bias is not None):
                raise ConfigError(
                    f"{layer.name}: its weight is shared with another layer, and {self.name} projects a weight "
                    "together with one bias. Pass bias=False."
                )
            self._weights[name] = own
            self._learns(name)
        covered = {id(tensor) for own in self._weights.values() for tensor in own}
        for name, parameter in self.learning().items():
            if id(parameter) not in covered:
                raise ConfigError(
                    f"{name}: {self.name} protects weights and biases of linear and convolutional layers, and this "
                    "parameter learns, too. Freeze it, or pass affine=False to a norm."
                )
        self._projectors: dict[str, Tensor] = {}

    @torch.no_grad()
    def step(self, optimizer: torch.optim.Optimizer) -> None:
        self._projectors = self._projectors or {name: self._projector(gram) for name, gram in self.gram.items()}
        before = {name: self._matrix(name) for name in self._projectors if self._learns(name)}
        optimizer.step()
        for name, earlier in before.items():
            self._assign(name, earlier + (self._matrix(name) - earlier) @ self._projectors[name])

    @torch.no_grad()
    def end_task(self, examples: Data) -> None:
        for batch in inputs(self.circuit, examples.x, self.batch_size):
            for synapses, layer, pre in batch:
                name = self._layers[layer]
                columns = synapses.patches(pre).mean(0).double()
                if self._weights[name].bias is not None:
                    columns = torch.cat([columns, torch.ones_like(columns[:, :1])], 1)
                product = columns @ columns.transpose(1, 2)
                self.gram[name] = self.gram[name] + product if name in self.gram else product
        self._projectors = {}

    def assumptions(self) -> Assumptions:
        return replace(super().assumptions(), epochs=1 / 3)  # a forward pass

    def _learns(self, name: str) -> bool:
        """Whether a layer's weight learns, and its bias with it."""
        weight, bias = self._weights[name]
        if bias is not None and weight.requires_grad != bias.requires_grad:
            raise ConfigError(
                f"{name}: {self.name} projects a weight together with its bias, and one of them is frozen. Freeze "
                "both, or freeze the bias before the protection is attached."
            )
        return weight.requires_grad

    def _projector(self, gram: Tensor) -> Tensor:
        """P of a layer: (groups, fan-in, fan-in)."""
        identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram + self.alpha * identity))
        return (self.alpha * inverse).to(next(iter(self.parameters.values())).dtype)

    def _matrix(self, name: str) -> Tensor:
        """A copy of a layer's weight, with the bias as its last column: (groups, units of a group, fan-in)."""
        weight, bias = self._weights[name]
        flat = weight.detach().flatten(1)
        matrix = flat.clone() if bias is None else torch.cat([flat, bias.detach()[:, None]], 1)
        return matrix.view(len(self.gram[name]), -1, matrix.shape[1])

    def _assign(self, name: str, matrix: Tensor) -> None:
        weight, bias = self._weights[name]
        flat = matrix.flatten(0, 1)
        if bias is None:
            weight.copy_(flat.view_as(weight))
            return
        weight.copy_(flat[:, :-1].reshape(weight.shape))
        bias.copy_(flat[:, -1])

    def _fits(self, kept: Tensor, parameter: Tensor) -> bool:
        fan_in = parameter[0].numel()
        return kept.dim() == 3 and kept.shape[1] == kept.shape[2] and kept.shape[1] in (fan_in, fan_in + 1)
