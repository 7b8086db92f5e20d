"""What cannot become a circuit, refused before it is traced: the module, the reason, the remedy."""

from __future__ import annotations

import inspect
import warnings

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import ParametrizationList

from apical.errors import CircuitError
from apical.layers import kind_of, known_kinds
from apical.layers.synapses import replaced_methods

_NORMS = (nn.LayerNorm, nn.RMSNorm)

REMEDIES: tuple[tuple[tuple[type[nn.Module], ...], str], ...] = (
    (
        (nn.RNNBase, nn.RNNCellBase),
        "credit through recurrent synapses needs an account of time that no rule here gives yet; use a "
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
        if isinstance(module, (*_NORMS, ParametrizationList)):
            continue
        if type(module).__module__.startswith("torch._dynamo"):
            raise CircuitError(
                f"{path or type(model).__name__}: a compiled module cannot be read. Build the circuit from the plain "
                "one, and compile the circuit: torch.compile(apical.Circuit(model, rule))."
            )
        named = f"{path or type(model).__name__} ({type(module).__name__})"
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
    own = module.named_parameters(recurse=False)
    # One number for each unit, with axes of size 1 for broadcasting, connects no units.
    heavy = [(name, weight.dim()) for name, weight in own if sum(size > 1 for size in weight.shape) > 1]
    if heavy:
        raise CircuitError(
            f"{named}: its parameter {heavy[0][0]!r} has {heavy[0][1]} axes, so it connects units with each other, "
            f"and apical has no synapses for it. Known are {', '.join(known_kinds())}. Use one of these, register "
            "a kind of your own with @apical.layers.synapses_of, or keep the module outside the circuit."
        )


def warn_of_hooks(model: nn.Module) -> None:
    """Say of hooks that a circuit goes past them."""
    for path, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
            warnings.warn(
                f"{path or type(model).__name__} ({type(module).__name__}) has hooks; a circuit calls synapses and "
                "neurons itself while it learns, so they fire only where no gradient is wanted.",
                stacklevel=4,
            )
