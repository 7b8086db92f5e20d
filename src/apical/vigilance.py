"""Checks of a circuit's surroundings: a changed model, feedback that no optimizer moves, a scaled loss."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Mapping, Sequence
from itertools import chain, repeat
from typing import Any, NoReturn

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from apical.errors import CircuitError
from apical.layers import kind_of
from apical.layers.steps import is_own

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_LIVE = ("_own", "_children", "_parameters", "_hooks", "_convolutions")  # dictionaries of the modules themselves
_INTERNAL = {*vars(nn.Module()), "forward", "_conv_forward"}
_PLAIN = (bool, int, float, str, tuple, list, dict, type(None))
_SHORT = 100  # parts of a list or dictionary whose parts are compared, too
_OFTEN = 10  # readings of the same model
_LARGEST = 30.0  # derivative of a sample's own loss, root mean square over the batch
_LOOKS = 4  # the first backward passes, all of which are measured
_REST, _BOUND, _ALMOST = 1e-3, 0.98, 0.9  # of the way from rest to a bound; the part of the signals that is almost all


class ModelWatch:
    """Notices at every forward pass whether the model is still the one that the circuit was built from.

    It compares identities of modules, their type (parametrising a module changes it), overridden methods, the names of
    their parameters (pruning renames them), hooks, and the plain attributes that a forward with synapses may have read.
    It does not compare the parameters' identities, which change under `torch.func.functional_call` and sharding. Where
    only the way has changed in which weights are kept, the model is read again; another model is refused.

    Args:
        model: as it was read.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._paths = [path for path, _ in model.named_modules()]
        self._modules = list(model.modules())
        self._plain = [
            (module, name)
            for module in self._modules
            # A neuron with a memory is taken as it is, and keeps its clock and state in attributes.
            if is_own(module) and not hasattr(module, "ends_time") and any(map(kind_of, module.modules()))
            for name, value in vars(module).items()
            if name not in _INTERNAL and (callable(value) or isinstance(value, _PLAIN))
        ]
        self._readings = 1
        self._look_up()
        self._known_children = [dict(children) for children in self._children]
        self._names, self._types, self._forwards = self._read()
        self._known_values = self._values()
        self._known_texts = [*map(str, self._known_values[: len(self._plain)])]
        self._known_structure = self._structure()
        self._hooked = sum(map(len, self._hooks))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in _LIVE}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._look_up()

    def _look_up(self) -> None:
        # The dictionaries of a module stay the same objects. Comparing them costs microseconds at every step.
        self._own = [module.__dict__ for module in self._modules]
        self._children: list[dict[str, nn.Module]] = [own["_modules"] for own in self._own]
        self._parameters: list[dict[str, Tensor]] = [own["_parameters"] for own in self._own]
        self._hooks = [getattr(module, kind) for module in self._modules for kind in _HOOKS]
        self._convolutions = [module.__dict__ for module in self._modules if hasattr(module, "_conv_forward")]

    def _values(self) -> list[Any]:
        """The plain attributes, then the parts of lists and dictionaries among them."""
        found = parts = [module.__dict__.get(name) for module, name in self._plain]
        for _ in range(2):
            short = [value for value in parts if isinstance(value, list | dict) and len(value) <= _SHORT]
            parts = [part for value in short for part in (value.values() if isinstance(value, dict) else value)]
            found = found + parts
        return found

    def _read(self) -> tuple[list[str], list[type], list[Any]]:
        return (
            [*chain.from_iterable(self._parameters)],
            [*map(type, self._modules)],
            [
                *map(dict.get, self._own, repeat("forward")),
                *map(dict.get, self._convolutions, repeat("_conv_forward")),
            ],
        )

    def _structure(self) -> list[Any]:
        """The types of the modules, their parts and their overridden methods, parametrisations left out."""
        return [
            (
                type(module).__bases__[0] if is_parametrized(module) else type(module),
                [child for name, child in module._modules.items() if name != "parametrizations"],
                [vars(module).get(name) for name in ("forward", "_conv_forward")],
            )
            for module, path in zip(self._modules, self._paths, strict=True)
            if "parametrizations" not in path.split(".")
        ]

    def check(self, attributes: bool = True) -> bool:
        """Whether parameters are kept in another way than before; warns once of hooks registered since.

        Args:
            attributes: whether plain attributes count; not where the model itself computes the output.

        Raises:
            CircuitError: a module was exchanged or given another `forward`.
        """
        if self._children != self._known_children or self._read() != (self._names, self._types, self._forwards):
            if self._structure() != self._known_structure:
                self.refuse()
            return True
        if attributes and self._plain:
            values, known = self._values(), self._known_values
            if len(values) != len(known) or not all(map(operator.is_, values, known)):
                return True
        if any(self._hooks) and sum(map(len, self._hooks)) > self._hooked:
            self._hooked = sum(map(len, self._hooks))
            warnings.warn(
                "a hook was registered on a module after the circuit was built. A circuit calls synapses and neurons "
                "itself while it learns, so hooks run only where no gradient is wanted. Use circuit.observe, or a hook "
                "on the circuit.",
                stacklevel=4,
            )
        return False

    def refuse(self) -> NoReturn:
        """Raise the error that names the first change."""
        names, types, _ = self._read()
        attributes = self._changed_attributes()
        changed = [
            (module, f"its class was {old.__name__} (parametrised?)")
            for module, old, new in zip(self._modules, self._types, types, strict=True)
            if old is not new
        ]
        if changed:
            module, what = changed[0]
        elif self._children != self._known_children:
            module, what = self._exchanged(), "a module was exchanged, added or removed"
        elif names != self._names:
            module, what = self._model, "a parameter was exchanged, added or removed (pruned?)"
        elif attributes:
            module, what = self._model, f"its forward reads other values of its attributes ({attributes})"
        else:
            module, what = self._model, "a forward was replaced"
        path = self._paths[next(place for place, other in enumerate(self._modules) if other is module)]
        raise CircuitError(
            f"{path or type(module).__name__}: {what} after the circuit was built, and the circuit would "
            "teach the old model. Change the model first, and build the circuit from it."
        )

    def renewed(self) -> ModelWatch:
        """The watch of the same model as it is now; warns once where attributes change often."""
        watch = ModelWatch(self._model)
        watch._readings = self._readings + 1
        attributes = self._changed_attributes()
        if watch._readings == _OFTEN and attributes:
            warnings.warn(
                f"{attributes} of the model changes from step to step, and the circuit reads the model again each "
                "time, which takes longer than a step. Keep it outside the model, or in a module without synapses.",
                stacklevel=7,
            )
        return watch

    def _changed_attributes(self) -> str:
        texts = zip(self._plain, self._values(), self._known_texts, strict=False)
        changed = [place for place, value, text in texts if str(value) != text]
        return ", ".join(f"{self._paths[self._modules.index(module)]}.{name}".lstrip(".") for module, name in changed)

    def _exchanged(self) -> nn.Module:
        """The first module that is no longer where it was, or the model where some were added."""
        now = {id(child) for children in self._children for child in children.values()}
        known = (child for children in self._known_children for child in children.values())
        return next((child for child in known if id(child) not in now), self._model)


class FeedbackWatch:
    """Warns once where the forward weights move and learned feedback does not: the optimizer lacks it.

    Args:
        rule: the rule's name.
    """

    def __init__(self, rule: str) -> None:
        self._rule = rule
        self._versions: tuple[int, int] | None = None
        self._stuck = 0

    def check(self, weights: Sequence[Tensor | None], feedback: Sequence[Tensor | None]) -> bool:
        """Compare version numbers with those of the last backward pass; whether nothing is left to find out."""
        now = (_version(weights), _version(feedback))
        before, self._versions = self._versions, now
        if before is None or now[0] == before[0]:
            return False
        if now[1] != before[1]:
            return True
        self._stuck += 1
        if self._stuck == 3:
            warnings.warn(
                f"{self._rule}: its learned feedback weights have a gradient, and the optimizer moves the model's "
                "weights alone. Give it circuit.parameters() in place of model.parameters(), or use fixed feedback.",
                stacklevel=2,
            )
        return self._stuck == 3


def _version(tensors: Sequence[Tensor | None]) -> int:
    return sum([tensor._version for tensor in tensors if tensor is not None])


class ScaleWatch:
    """Warns once where a rule whose errors have an absolute scale is given a loss that was multiplied.

    It measures the derivative of each sample's loss and, where the rule has bounded signals, how many of a layer's are
    at their bounds: in the first backward passes, and then in every 4^n-th.

    Args:
        rule: the rule's name.
        bounds: of its signals that saturate, by the name of the observable.
    """

    def __init__(self, rule: str, bounds: Mapping[str, tuple[float, float]]) -> None:
        self._rule = rule
        self.bounds = dict(bounds)  # a mapping proxy cannot be copied
        self._passes = 0
        self.warned = False

    def looks(self) -> bool:
        """Count a backward pass; whether it is measured."""
        self._passes += 1
        return not self.warned and (self._passes <= _LOOKS or self._at_a_power_of_four())

    def observes(self) -> bool:
        """Whether bounded signals are measured in this backward pass, which costs more than the step itself."""
        return bool(self.bounds) and self._at_a_power_of_four()

    def _at_a_power_of_four(self) -> bool:
        return not self._passes & (self._passes - 1) and self._passes.bit_length() % 2 == 1

    def check(self, error: Tensor, samples: float) -> None:
        """Measure the derivative of each sample's own loss."""
        size = float(error.detach().double().square().mean().sqrt()) * samples
        if _LARGEST < size < math.inf:
            self._warn(f"the derivative of a sample's loss has the size {size:.3g}")

    def observe(self, layer: str, quantities: Mapping[str, Tensor]) -> None:
        """Measure the part of a layer's bounded signals that is at a bound, of those that differ from rest."""
        for name in self.bounds.keys() & quantities.keys():
            low, high = self.bounds[name]
            off = (quantities[name].double() * 2 - (low + high)).abs() / (high - low)
            active, bound = int((off > _REST).sum()), int((off > _BOUND).sum())
            if not self.warned and bound > max(_ALMOST * active, _LOOKS):
                self._warn(f"{layer}: {bound / active:.0%} of its signals ({name}) are at their bounds")

    def _warn(self, fact: str) -> None:
        self.warned = True
        warnings.warn(
            f"{self._rule}: {fact}, and this rule's signals saturate at errors of order 1. If the loss "
            "is multiplied (GradScaler, accumulation), set circuit.loss_scale to the factor or to a function such as "
            "scaler.get_scale; otherwise normalise the targets. This warning appears once.",
            stacklevel=2,
        )


def refuse_own_input(rule: Any, x: Tensor) -> None:
    """Refuse to learn from the input alone by a rule that needs more, or from one sample without a batch axis.

    Raises:
        CircuitError: with the reason.
    """
    if rule.learns_from != "error":
        raise CircuitError(
            f"{type(rule).__name__}: circuit.learn has no label and no reward, and this rule learns from "
            f"{rule.learns_from!r}. Use a rule that learns from any error, such as FeedbackAlignment."
        )
    loss = getattr(rule, "loss", None)
    if loss not in (None, "squared_error", "linear"):
        raise CircuitError(
            f"{type(rule).__name__}: loss={loss!r}, and the loss of circuit.learn is half the squared distance. Pass "
            "loss='squared_error'."
        )
    if x.dim() < 2:
        raise CircuitError(
            f"circuit.learn: an input of shape {tuple(x.shape)} has no batch axis. Give one sample as a batch of one "
            "(x.unsqueeze(0))."
        )


def mismatch_of(y: Tensor, x: Tensor) -> Tensor:
    """The output minus the input, without a graph.

    Raises:
        CircuitError: their shapes differ.
    """
    if y.shape != x.shape:
        raise CircuitError(
            f"circuit.learn: the target is the input {tuple(x.shape)}, and the output is {tuple(y.shape)}. Give the "
            "model as many outputs as inputs, or take a loss of circuit(x) and call its backward()."
        )
    return y.detach() - x
