"""Checks of a circuit's surroundings: a changed model, feedback that no optimizer moves, a scaled loss."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from torch import Tensor, nn

from apical.errors import CircuitError

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_OVERRIDES = ("forward", "_conv_forward")
_LARGEST = 30.0  # derivative of a sample's own loss, root mean square over the batch
_LOOKS = 4  # backward passes of which the size is measured: a loss is scaled from the first or not at all


class ModelWatch:
    """Notices at every forward pass whether the model is still the one that the circuit was built from.

    It compares identities of modules, their type (parametrising a module changes it), overridden methods, the names of
    their parameters (pruning renames them) and hooks. It does not compare the parameters' identities, which change
    under `torch.func.functional_call` and sharding.

    Args:
        model: as it was read.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._paths = [path for path, _ in model.named_modules()]
        self._modules = list(model.modules())
        # The dictionaries of a module stay the same objects: looking into them costs a microsecond for a small network.
        self._own = [module.__dict__ for module in self._modules]
        self._children: list[dict[str, nn.Module]] = [own["_modules"] for own in self._own]
        self._parameters: list[dict[str, Tensor]] = [own["_parameters"] for own in self._own]
        self._hooks = [getattr(module, kind) for module in self._modules for kind in _HOOKS]
        self._known = self._state()
        self._hooked = sum(map(len, self._hooks))

    def _state(self) -> tuple[list[Any], ...]:
        return (
            [module.__class__ for module in self._modules],
            [child for children in self._children for child in children.values()],
            [name for parameters in self._parameters for name in parameters],
            [own[name] for own in self._own for name in _OVERRIDES if name in own],
        )

    def check(self) -> None:
        """Refuse a changed model, and warn once of hooks registered since.

        Raises:
            CircuitError: a module was exchanged, parametrised, pruned or given another `forward`.
        """
        if self._state() != self._known:
            self._refuse()
        if any(self._hooks) and sum(map(len, self._hooks)) > self._hooked:
            self._hooked = sum(map(len, self._hooks))
            warnings.warn(
                "a hook was registered on a module after the circuit was built. A circuit calls synapses and neurons "
                "itself while it learns, so hooks run only where no gradient is wanted. Use circuit.observe, or a hook "
                "on the circuit.",
                stacklevel=4,
            )

    def _refuse(self) -> NoReturn:
        classes, children, parameters, _ = self._state()
        changed = [
            (module, f"its class was {old.__name__} (parametrised?)")
            for module, old, new in zip(self._modules, self._known[0], classes, strict=True)
            if old is not new
        ]
        gone = [child for child in self._known[1] if not any(child is other for other in children)]
        if changed:
            module, what = changed[0]
        elif children != self._known[1]:
            module, what = (gone or [self._model])[0], "a module was exchanged, added or removed"
        elif parameters != self._known[2]:
            module, what = self._model, "a parameter was exchanged, added or removed (pruned?)"
        else:
            module, what = self._model, "a forward was replaced"
        path = self._paths[next(place for place, other in enumerate(self._modules) if other is module)]
        raise CircuitError(
            f"{path or type(module).__name__}: {what} after the circuit was built, and the circuit would "
            "teach the old model. Change the model first, and build the circuit from it."
        )


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

    Args:
        rule: the rule's name.
    """

    def __init__(self, rule: str) -> None:
        self._rule = rule
        self._looks = _LOOKS

    def check(self, error: Tensor, samples: float) -> None:
        """Measure the derivative of each sample's own loss in the first backward passes."""
        if not self._looks:
            return
        self._looks -= 1
        size = float(error.detach().double().square().mean().sqrt()) * samples
        if _LARGEST < size < math.inf:
            self._looks = 0
            warnings.warn(
                f"{self._rule}: the derivative of a sample's loss has the size {size:.3g}, and this rule's signals "
                "saturate at errors of order 1. If the loss is multiplied (GradScaler, accumulation), set "
                "circuit.loss_scale to the factor or to a function such as scaler.get_scale; otherwise normalise the "
                "targets.",
                stacklevel=2,
            )
