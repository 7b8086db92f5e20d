"""Step sizes that each synapse adapts: they grow while its steps keep one direction, and relax in between."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, cast, get_args, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from apical.errors import ConfigError
from apical.kernels import tanh_
from apical.optim import fused as kernels

Variant = Literal["base", "abs", "step", "sign"]

# What a synapse has: its weight, its gradient, its adaptation and, in the variant "sign", its last direction.
SynapseState = tuple[Tensor, ...]

# Entries for each thread that are updated together: few enough for the processor's cache to hold all that a step reads
# and writes of them, many enough that calling the operations costs little.
BLOCK = 131072


class Adaptation(Optimizer):
    r"""Adaptation-accelerated learning: every synapse has a step size of its own, which grows with coherent steps.

    With the gradient g of a weight w, its adaptation η (0 at first), the gain A, the slope β and the relaxation τ:

        η ← exp(-τ) η + A tanh(β g)        first, with the gradient of this step
        "base"    w ← w - lr (1 + |η|) g
        "abs"     w ← w - lr |η| g
        "step"    w ← w - lr η             η itself is the step, with its sign

        "sign"    η ← exp(-τ) η + A |tanh(β g)|  if g and the gradient before have one sign, else exp(-τ) η
                  w ← w - lr η g

    |η| never exceeds A / (1 - exp(-τ)), so that the largest step size of "base" is lr (1 + A / (1 - exp(-τ))): what is
    stable follows from that, not from `lr`. Steps that come more often, with less relaxation between them, end at
    larger step sizes. "step" with a slope towards 0 and gain * slope = 1 is heavy-ball momentum,
    `torch.optim.SGD(lr=lr, momentum=exp(-relaxation))`; "base" with gain 0 is plain gradient descent; "sign" is of the
    family of delta-bar-delta and Rprop.

    Weight decay is outside the step size, as in `torch.optim.AdamW`: w ← (1 - lr * weight_decay) w comes first.
    Adaptations too small to be normal numbers become 0, because processors calculate slowly with them. A parameter
    whose `.grad` is None is left alone, and its step sizes do not relax.

    Args:
        params: parameters, or groups of them; every option below can be set for a group.
        lr: learning rate, at least 0. It scales every step of every variant, so that schedules of it act on all.
        gain: A, at least 0: the most that one step adds to η, whose unit is `lr`.
        slope: β, above 0, in units of 1 / gradient: gradients far above 1 / slope count as full steps.
        relaxation: τ, above 0: the time between two steps, as a multiple of the time in which η falls by e.
        variant: "base" (the most robust), "abs", "step" or "sign".
        weight_decay: at least 0.
        maximize: climb instead of descend.
        foreach: True updates all parameters of a device in one call for each operation; False goes parameter by
            parameter, in blocks that fit the processor's cache, on processors to the same bits in single and double
            precision. None takes the faster: False on processors, True elsewhere.
        fused: True updates each parameter in one pass over memory, several times faster, by a kernel that
            `torch.compile` makes at the first step (some seconds; needs a C++ compiler on processors, Triton on GPUs)
            and that serves all shapes and options after that. It differs from the other forms by rounding, and excludes
            foreach=True. None and False do not compile.
        differentiable: only False: the step is not recorded for autograd.

    Raises:
        ConfigError: an option that cannot be; a complex parameter; in `step`, a sparse gradient, or a kernel that could
            not be compiled.

    Source: the idea is of Sardi et al., "Brain experiments imply adaptation mechanisms which outperform common AI
    learning algorithms" (Scientific Reports 10, 6923, 2020). The equations are a reconstruction: no code was published,
    and the paper's equations and constants could not be compared. Departs from it: the variants are readings of the
    idea, and A and η are multiples of `lr`. For absolute ones, A' and a base step size of η', take lr = η' and
    gain = A' / η'; without a base, lr = 1 and gain = A'.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        gain: float,
        slope: float,
        relaxation: float,
        variant: Variant = "base",
        *,
        weight_decay: float = 0.0,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        differentiable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "gain": gain,
            "slope": slope,
            "relaxation": relaxation,
            "variant": variant,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "fused": fused,
            "differentiable": differentiable,
        }
        _check(defaults)  # before the parameters: an option that no group uses must be a good one, too
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take up a state, also of a version that had fewer options."""
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("fused", None)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, with the optimizer's options where it has none of its own.

        Raises:
            ConfigError: an option that cannot be, or a complex parameter.
        """
        _check({**self.defaults, **param_group})
        held = param_group.get("params", ())
        if isinstance(held, Tensor):
            param_group = {**param_group, "params": [held]}
        elif not isinstance(held, set):  # a set has no order: torch.optim refuses it, and says so
            param_group = {**param_group, "params": list(held)}
        for entry in param_group.get("params", ()):
            parameter = entry[1] if isinstance(entry, tuple) else entry
            if isinstance(parameter, Tensor) and parameter.is_complex():
                raise ConfigError(
                    f"Adaptation got a complex parameter of shape {tuple(parameter.shape)}, and a complex gradient has "
                    "no direction that could persist: keep real and imaginary part as real parameters "
                    "(torch.view_as_real)"
                )
        super().add_param_group(param_group)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Adapt the step sizes and update the weights once.

        Args:
            closure: evaluates the model again, calls backward and returns the loss, which this returns.

        Raises:
            ConfigError: a gradient is sparse, and no weight has changed; or fused=True and the kernel could not be
                compiled.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            _refuse_sparse(group["params"])
        for group in self.param_groups:
            rows = [self._synapses(parameter, group) for parameter in group["params"] if parameter.grad is not None]
            for (device, _), same in _by_kind(rows).items():
                together = device.type != "cpu" if group["foreach"] is None else group["foreach"]
                if group["fused"]:
                    _update_fused(same, group)
                elif together:
                    _update_many(same, group)
                else:
                    _update_blocks(same, group)
        return loss

    def step_size(self, parameter: Tensor) -> Tensor:
        """What multiplies the gradient of each weight now: lr (1 + |η|) in "base", lr |η| in "abs" and "sign".

        In "step" it is lr η, the step itself with its sign. The shape is the parameter's.

        Raises:
            ConfigError: the optimizer does not train this parameter.
        """
        for group in self.param_groups:
            if any(parameter is held for held in group["params"]):
                adaptation = self.state[parameter].get("adaptation") if parameter in self.state else None
                size = torch.zeros_like(parameter) if adaptation is None else adaptation.clone()
                if group["variant"] != "step":
                    size.abs_()
                if group["variant"] == "base":
                    size.add_(1.0)
                return cast(Tensor, size.mul_(group["lr"])).detach()
        raise ConfigError(
            f"Adaptation does not train this parameter of shape {tuple(parameter.shape)}, so it has no step size: "
            "ask for one of those in param_groups, or add it with add_param_group"
        )

    def _synapses(self, parameter: Tensor, group: dict[str, Any]) -> SynapseState:
        state = self.state[parameter]
        if "adaptation" not in state:
            state["adaptation"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        row = (parameter, cast(Tensor, parameter.grad), state["adaptation"])
        if group["variant"] != "sign":
            return row
        if "direction" not in state:
            state["direction"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return (*row, state["direction"])


def _by_kind(rows: Iterable[SynapseState]) -> dict[tuple[torch.device, torch.dtype], list[SynapseState]]:
    kinds: dict[tuple[torch.device, torch.dtype], list[SynapseState]] = {}
    for row in rows:
        kinds.setdefault((row[0].device, row[0].dtype), []).append(row)
    return kinds


def _update_blocks(rows: Sequence[SynapseState], group: dict[str, Any]) -> None:
    """One parameter after another, large ones in slices, all in the same spare memory."""
    most = min(BLOCK * torch.get_num_threads(), max(1, *(row[0].numel() for row in rows)))
    memory = [torch.empty(most, dtype=rows[0][0].dtype, device=rows[0][0].device) for _ in range(2)]
    for row in rows:
        flat = _flat(row)
        if flat is None:
            _update(row, group, [torch.empty_like(row[0]) for _ in memory])
            continue
        for start in range(0, len(flat[0]), most):
            block = [tensor[start : start + most] for tensor in flat]
            _update(block, group, [spare[: len(block[0])] for spare in memory])


def _update_fused(rows: Sequence[SynapseState], group: dict[str, Any]) -> None:
    """In one pass; what is too small for that, or scattered in memory, as without the kernel."""
    lr, sense = group["lr"], -1.0 if group["maximize"] else 1.0
    options = kernels.packed(
        1.0 - lr * group["weight_decay"],
        sense * group["slope"],
        math.exp(-group["relaxation"]),
        group["gain"],
        -lr if group["variant"] == "step" else -sense * lr,
        dtype=rows[0][0].dtype,
        device=rows[0][0].device,
    )
    rest: list[SynapseState] = []
    for row in rows:
        flat = _flat(row) if row[0].numel() >= kernels.LEAST else None
        if flat is None:
            rest.append(row)
        else:
            kernels.step(flat, group["variant"], options)
    if rest:
        _update_blocks(rest, group)


def _flat(row: SynapseState) -> list[Tensor] | None:
    """The tensors as vectors in the order in which they lie in memory, or None if it is not the same without gaps."""
    weight = row[0]
    order = sorted(range(weight.dim()), key=weight.stride, reverse=True)
    inside_out = [tensor.permute(order) for tensor in row]
    return [tensor.view(-1) for tensor in inside_out] if all(t.is_contiguous() for t in inside_out) else None


def _update(synapses: Sequence[Tensor], group: dict[str, Any], memory: Sequence[Tensor]) -> None:
    """The equations, for the synapses of one parameter or some of them."""
    weight, gradient, adaptation, *last = synapses
    push, spare = memory
    variant, lr = group["variant"], group["lr"]
    sense = -1.0 if group["maximize"] else 1.0
    if group["weight_decay"]:
        weight.mul_(1.0 - lr * group["weight_decay"])
    torch.mul(gradient, sense * group["slope"], out=push)
    tanh_(push, spare)
    if variant == "sign":
        torch.sign(push, out=spare)
        push.mul_(last[0]).clamp_min_(0.0)  # |tanh| where the sign is that of the last step, else 0
        last[0].copy_(spare)
    adaptation.mul_(math.exp(-group["relaxation"])).add_(push, alpha=group["gain"])
    _flush(adaptation)
    if variant == "step":
        weight.add_(adaptation, alpha=-lr)
        return
    # Never η g: it is never negative on a fresh synapse, and every step would lower the weight.
    size = torch.abs(adaptation, out=push)
    if variant == "base":
        size.add_(1.0)
    weight.addcmul_(gradient, size, value=-sense * lr)


def _update_many(rows: Sequence[SynapseState], group: dict[str, Any]) -> None:
    """The same, operation by operation, for many parameters of one device and one type."""
    weights, gradients, adaptations, *last = (list(column) for column in zip(*rows, strict=True))
    variant, lr = group["variant"], group["lr"]
    sense = -1.0 if group["maximize"] else 1.0
    if group["weight_decay"]:
        torch._foreach_mul_(weights, 1.0 - lr * group["weight_decay"])
    push = torch._foreach_mul(gradients, sense * group["slope"])
    if weights[0].device.type == "cpu":
        for value in push:
            tanh_(value)
    else:
        torch._foreach_tanh_(push)
    if variant == "sign":
        directions = torch._foreach_sign(push)
        torch._foreach_mul_(push, last[0])
        torch._foreach_clamp_min_(push, 0.0)
        torch._foreach_copy_(last[0], directions)
    torch._foreach_mul_(adaptations, math.exp(-group["relaxation"]))
    torch._foreach_add_(adaptations, push, alpha=group["gain"])
    for adaptation in adaptations:
        _flush(adaptation)
    if variant == "step":
        torch._foreach_add_(weights, adaptations, alpha=-lr)
        return
    sizes = torch._foreach_abs(adaptations)
    if variant == "base":
        torch._foreach_add_(sizes, 1.0)
    torch._foreach_addcmul_(weights, gradients, sizes, value=-sense * lr)


def _flush(adaptation: Tensor) -> None:
    """Denormal numbers become 0 where they are slow: on processors, except in half precision, which needs them."""
    if adaptation.device.type == "cpu" and adaptation.dtype != torch.float16:
        torch.hardshrink(adaptation, torch.finfo(adaptation.dtype).tiny, out=adaptation)


def _refuse_sparse(parameters: Iterable[Tensor]) -> None:
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.layout != torch.strided:
            raise ConfigError(
                f"Adaptation got a sparse gradient for a parameter of shape {tuple(parameter.shape)}, and the step "
                "sizes of all its synapses relax at every step, also where the gradient is 0: make it dense "
                "(nn.Embedding(sparse=False), or .to_dense())"
            )


def _check(options: dict[str, Any]) -> None:
    """Refuse an option that cannot be.

    Raises:
        ConfigError: which one, why, and what can be.
    """
    for name, reason in (
        ("lr", "it scales every step"),
        ("gain", "it is what a step adds to the step size"),
        ("weight_decay", "it is how fast weights shrink"),
    ):
        if not _is_finite(options[name]) or options[name] < 0:
            raise ConfigError(f"Adaptation: {name} is {options[name]!r}, and {reason}: give a number of at least 0")
    for name, reason in (
        ("slope", "without it no gradient would count"),
        ("relaxation", "without it step sizes would grow without bound"),
    ):
        if not _is_finite(options[name]) or options[name] <= 0:
            raise ConfigError(f"Adaptation: {name} is {options[name]!r}, and {reason}: give a number above 0")
    if options["variant"] not in get_args(Variant):
        known = ", ".join(repr(name) for name in get_args(Variant))
        raise ConfigError(f"Adaptation: variant is {options['variant']!r}, which does not exist: choose one of {known}")
    if not (options["fused"] is None or isinstance(options["fused"], bool)):
        raise ConfigError(
            f"Adaptation: fused is {options['fused']!r}: give True, False or None, which does not compile"
        )
    if options["fused"] and options["foreach"]:
        raise ConfigError(
            "Adaptation: fused and foreach are both True, and each is a way of its own to take the step: leave one out"
        )
    if options["differentiable"]:
        raise ConfigError(
            "Adaptation: differentiable is True, and its steps happen in place, which autograd cannot follow: leave it "
            "False, and use torch.optim.SGD(differentiable=True) to learn through an optimizer"
        )


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
