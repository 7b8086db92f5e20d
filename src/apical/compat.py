"""Every private call of torch, each with a public fallback.

`PRIVATE = False` takes the fallbacks everywhere, which the tests do once: results stay the same, steps take longer.
Tested with torch 2.13; the fallbacks need torch 2.6 or later.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from apical.errors import CircuitError

PRIVATE = True
_SET_GRAD_ENABLED: Callable[[bool], None] | None = getattr(torch._C, "_set_grad_enabled", None)
_KEEPS_GRAPH: Callable[[], bool] | None = getattr(
    getattr(torch._C, "_autograd", None), "_get_current_graph_task_keep_graph", None
)


def set_grad_enabled(mode: bool) -> None:
    """Turn autograd's recording on or off; `torch.no_grad` takes a hundredth of a small network's step."""
    if _SET_GRAD_ENABLED is None or not PRIVATE:
        torch.set_grad_enabled(mode)
    else:
        _SET_GRAD_ENABLED(mode)


def keeps_graph() -> bool:
    """Whether the backward pass that runs now keeps its graph; True if torch does not tell, which costs a copy."""
    return True if _KEEPS_GRAPH is None or not PRIVATE else _KEEPS_GRAPH()


def autograd_must_save() -> bool:
    """Whether autograd has to save the tensors itself: under `torch.func`, or with hooks on saved tensors.

    True if torch does not tell, which costs time.
    """
    try:
        if not PRIVATE:
            return True
        return bool(
            torch._C._are_functorch_transforms_active()
            or torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
        )
    except (AttributeError, TypeError):
        return True


def refuse_batched_transforms() -> None:
    """Refuse `torch.func.vmap` and `jvp` around a circuit.

    Raises:
        CircuitError: one of them is active; the plain model would answer, and learn by its true derivative.
    """
    try:
        if not torch._C._are_functorch_transforms_active():
            return
        active = {level.key().name for level in torch._C._functorch.get_interpreter_stack() or ()}
    except AttributeError:
        return
    for name, instead in (("Vmap", "vmap"), ("Jvp", "jvp")):
        if name in active:
            raise CircuitError(
                f"torch.func.{instead} is active around this circuit: under it the plain model would be computed and "
                "its true derivative taken, not the rule's. Loop over the samples or models instead, or give the whole "
                "batch to the circuit."
            )


def apply_of(function: type[torch.autograd.Function]) -> Callable[..., Tensor]:
    """`function.apply` without the signature and the search for wrappers that `Function.apply` makes at each call."""
    try:
        quick: Callable[..., Tensor] = super(torch.autograd.Function, function).apply  # type: ignore[misc]
    except AttributeError:
        quick = function.apply

    return quick


_ONEDNN: Any = (
    getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
    else None
)


def onednn_linear() -> Callable[[Tensor, Tensor, Tensor | None], Tensor] | None:
    """OneDNN's `x @ weight.T + bias`, where it is there and faster than torch's own; it has no derivative."""
    if _ONEDNN is None or not PRIVATE or not torch.backends.mkldnn.enabled:
        return None
    return _linear


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = _ONEDNN(x, weight, bias, "none", [], "")
    return product
