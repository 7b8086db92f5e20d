"""What cannot become a circuit, refused before it is traced: the module, the reason, the remedy."""

from __future__ import annotations

import inspect
import warnings

from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

from apical.errors import CircuitError
from apical.layers import Synapses, kind_of, known_kinds
from apical.layers.effective import HOOKS
from apical.layers.memory import undisturbed
from apical.layers.synapses import known_modules, replaced_methods

_NORMS = (nn.LayerNorm, nn.RMSNorm)

REMEDIES: tuple[tuple[tuple[type[nn.Module], ...], str], ...] = (
    (
        (nn.RNNBase, nn.RNNCellBase),
        "no rule here gives its gates credit; use neurons with a memory (apical.neurons.LIF with recurrent=), a "
        "convolution over time (nn.Conv1d), or keep the recurrent part outside the circuit and detach its output",
    ),
    (
        (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.Transformer),
        "the weights that attention computes from rates are no synapses with two ends of their own; keep that "
        "part outside the circuit and detach its output",
    ),
    (
        (nn.Embedding, nn.EmbeddingBag),
        "look the embedding up before the circuit and give the circuit the vectors, or one-hot inputs to an nn.Linear",
    ),
)


def refuse_more_inputs(model: nn.Module) -> None:
    """Refuse a model whose forward needs more than one argument."""
    required = [
        name
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    if len(required) > 1:
        raise CircuitError(
            f"{type(model).__name__}: its forward needs {len(required)} arguments ({', '.join(required)}). A circuit "
            "answers one input: concatenate them, or split the model into circuits."
        )


def refuse_unknown_weights(model: nn.Module) -> None:
    """Refuse weights that connect units and are no known synapses."""
    for path, module in model.named_modules():
        if isinstance(module, _NORMS) or "parametrizations" in path.split("."):
            continue
        if type(module).__module__.startswith("torch._dynamo"):
            raise CircuitError(
                f"{path or type(model).__name__}: a compiled module cannot be read. Build the circuit from the plain "
                "one, and compile the circuit: torch.compile(apical.Circuit(model, rule))."
            )
        named = f"{path or type(model).__name__} ({type(module).__name__})"
        if any(parameter.is_meta for parameter in module.parameters(recurse=False)):
            raise CircuitError(
                f"{named}: its parameters are on the meta device and have no values, from which rules make their "
                "feedback weights. Materialise the model first (to_empty, then load or initialise it)."
            )
        if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():  # type: ignore[misc]
            raise CircuitError(
                f"{named}: its weights have no shape yet. Let the model answer one example first, then build the "
                "circuit."
            )
        for kinds, remedy in REMEDIES:
            if isinstance(module, kinds):
                raise CircuitError(f"{named}: a weighted module that apical has no synapses for; {remedy}.")
        if kind_of(module) is not None:
            continue
        _refuse_unknown_kind(named, module)


def _refuse_unknown_kind(named: str, module: nn.Module) -> None:
    """Refuse a module whose weights connect units, or whose forward was replaced."""
    replaced = replaced_methods(module) & {"forward", "_conv_forward"}
    if replaced and any(True for _ in module.parameters()):
        raise CircuitError(
            f"{named}: its {sorted(replaced)[0]} was replaced on this module, and a circuit computes synapses "
            "itself. Build the circuit first and wrap it as a whole, or restore the method with del module.forward."
        )
    kind = next((base for base in type(module).__mro__ if base in known_modules()), None)
    if kind is not None:
        raise CircuitError(
            f"{named}: it is an nn.{kind.__name__} with a forward of its own, which may compute anything. Inherit the "
            "forward and put what is added into a module after it, or register synapses for the class with "
            "@apical.layers.synapses_of."
        )
    own = [*module.named_parameters(recurse=False), *_parametrised(module)]
    # One number for each unit, with axes of size 1 for broadcasting, connects no units.
    heavy = [(name, weight.dim()) for name, weight in own if sum(size > 1 for size in weight.shape) > 1]
    if heavy:
        raise CircuitError(
            f"{named}: its parameter {heavy[0][0]!r} has {heavy[0][1]} axes, so it connects units with each other, "
            f"and apical has no synapses for it. Known are {', '.join(known_kinds())}. Use one of these, register "
            "a kind of your own with @apical.layers.synapses_of, or keep the module outside the circuit."
        )


def _parametrised(module: nn.Module) -> list[tuple[str, Tensor]]:
    """The parametrised tensors of a module."""
    if not is_parametrized(module):
        return []
    with undisturbed(module):
        return [(name, getattr(module, name)) for name in module.parametrizations]  # type: ignore[union-attr]


def refuse_empty_synapses(synapses: Synapses) -> None:
    """Refuse synapses without a unit or an input."""
    if not synapses.weight.numel():
        raise CircuitError(
            f"{synapses.name} ({type(synapses.module).__name__}): its weight {tuple(synapses.weight.shape)} is empty, "
            "so it has nothing to learn. Remove the layer, or give it units and inputs."
        )


def warn_of_hooks(model: nn.Module) -> None:
    """Say of hooks that a circuit goes past them."""
    for path, module in model.named_modules():
        before = [hook for hook in module._forward_pre_hooks.values() if not isinstance(hook, HOOKS)]
        if module._forward_hooks or before or module._backward_hooks or module._backward_pre_hooks:
            warnings.warn(
                f"{path or type(model).__name__} ({type(module).__name__}) has hooks; a circuit calls synapses and "
                "neurons itself while it learns, so they fire only where no gradient is wanted.",
                stacklevel=4,
            )
