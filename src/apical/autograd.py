"""The boundary to autograd: above it any PyTorch code, below it the learning rule.

`connect` ties an output that was computed without autograd to the circuit's parameters. What the rule needs for the
backward pass is kept beside autograd, with version numbers, as autograd would; where torch has to see the tensors
(compilers, `torch.func`, hooks on saved tensors), autograd saves them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from apical import compat
from apical.errors import CircuitError
from apical.layers import ForwardState

Parameters = list[nn.Parameter | None]


class Learner(Protocol):
    """What the boundary needs of a circuit."""

    def rule_version(self) -> int:
        """A number that changes with the circuit's rule and the places of parameters."""

    def assign_gradients(
        self, state: ForwardState, error: Tensor, input_wanted: bool, parameters: Parameters
    ) -> tuple[Tensor | None, list[Tensor | None]]:
        """The signal at the input, and the update of every parameter."""


def connect(circuit: Learner, state: ForwardState, y: Tensor, x: Tensor, parameters: Parameters) -> Tensor:
    """The output as a function of input and parameters whose backward pass is the rule's.

    Args:
        circuit: receives the backward pass.
        state: of the forward pass.
        y: the output, without a graph.
        x: the input.
        parameters: of the circuit.
    """
    if not torch.compiler.is_compiling() and not compat.autograd_must_save():
        return _apply(circuit, _Kept(circuit, state, parameters, y), y, x, *parameters)
    tensors, packed = state.pack()
    y = y.view_as(y)  # it may be among the tensors, and a compiler accepts none twice
    arguments = ((circuit.rule_version(), packed), y, x, len(parameters), *parameters, *tensors)
    connected: Tensor = _SavingBoundary.apply(circuit, *arguments)  # type: ignore[no-untyped-call]
    return connected


@contextmanager
def standing_in(places: Sequence[tuple[nn.Module, str]], parameters: Parameters) -> Iterator[None]:
    """Put the parameters of a forward pass at their places, where the modules have others by now.

    Args:
        places: the module and the name of each.
        parameters: of the forward pass (`torch.func.functional_call`).
    """
    pairs = zip(places, parameters, strict=True)
    others = [(module, name, used) for (module, name), used in pairs if module._parameters[name] is not used]
    kept = [module._parameters[name] for module, name, _ in others]
    try:
        for module, name, used in others:
            module._parameters[name] = used
        yield
    finally:
        for (module, name, _), before in zip(others, kept, strict=True):
            module._parameters[name] = before


def empty_gradients(
    state: ForwardState, parameters: Parameters, input_wanted: bool
) -> tuple[Tensor | None, list[Tensor | None]]:
    """The gradients of an empty batch: zero, since the equations of rules are about samples."""
    return torch.zeros_like(state.source) if input_wanted else None, [
        torch.zeros_like(parameter) if wanted and parameter is not None else None
        for parameter, wanted in zip(parameters, state.plan.requires_grad, strict=True)
    ]


class _Boundary(torch.autograd.Function):
    """Takes the circuit, what is kept of the forward pass, the output, the input and the parameters."""

    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        # The output was already computed; this node only connects it to the parameters. It is detached and no view,
        # since users may modify the output in place.
        y: Tensor = inputs[2]
        return y.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.circuit, ctx.kept = inputs[:2]

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor | None, ...]:
        if not torch.is_grad_enabled():
            return _backward(ctx, error)
        with torch.no_grad():
            return _refuse_second_derivative(_backward(ctx, error))


def _backward(ctx: Any, error: Tensor) -> tuple[Tensor | None, ...]:
    kept: _Kept | None = ctx.kept
    if kept is None:
        raise RuntimeError(
            "Trying to backward through a circuit's graph a second time, after its saved state was freed. Pass "
            "retain_graph=True to the first loss.backward()."
        )
    if compat.keeps_graph():
        state = kept.state.copy()
    else:
        state, ctx.kept = kept.state, None
    _check_rule(ctx.circuit, kept.version)
    kept.check_versions(state)
    parameters = kept.parameters
    del kept  # and with it the output
    x, gradients = ctx.circuit.assign_gradients(state, error, ctx.needs_input_grad[3], parameters)
    return (None, None, None, x, *gradients)


class _OnceDifferentiable(torch.autograd.Function):
    """A gradient that is refused where it is differentiated: a rule's update is not a derivative."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, anchor: Tensor) -> Tensor:
        return gradient.detach()

    @staticmethod
    def backward(ctx: Any, *errors: Tensor) -> Any:
        raise CircuitError(
            "a gradient that a circuit's rule made is differentiated again (a gradient penalty, a Hessian), and a "
            "rule's update is not a derivative. Compute the penalty on the plain model (circuit.model), or leave out "
            "create_graph."
        )


def _refuse_second_derivative(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """The gradients with a graph (`create_graph=True`) that refuses to be differentiated."""
    with torch.enable_grad():
        anchor = torch.zeros((), requires_grad=True)
        return tuple(
            None if gradient is None else _OnceDifferentiable.apply(gradient, anchor)  # type: ignore[no-untyped-call]
            for gradient in gradients
        )


def _check_rule(circuit: Learner, version: int) -> None:
    if circuit.rule_version() != version:
        raise CircuitError(
            "the circuit's rule was changed, or a weight parametrised or pruned, between this forward pass and its "
            "loss.backward(), and what the backward pass needs was not saved. Run the forward pass again."
        )


class _Kept:
    """The state of a forward pass until its backward pass, with the version numbers of all that it depends on.

    Autograd's own saving of tensors costs a small network a twentieth of its step.
    """

    __slots__ = ("parameters", "source_version", "state", "version", "versions", "y", "y_version")

    def __init__(self, circuit: Learner, state: ForwardState, parameters: Parameters, y: Tensor) -> None:
        self.state = state
        self.version = circuit.rule_version()
        self.parameters = parameters
        try:
            self.versions = [parameter._version for parameter in parameters if parameter is not None]
            self.source_version = state.source._version
        except RuntimeError as error:
            raise CircuitError(
                "the circuit's input or a weight was made under torch.inference_mode(), and such tensors cannot be "
                "learned from. Pass x.clone(), or make them under torch.no_grad()."
            ) from error
        self.y = y
        self.y_version = y._version

    def check_versions(self, state: ForwardState) -> None:
        """Refuse a backward pass over tensors that were modified since the forward pass."""
        if [parameter._version for parameter in self.parameters if parameter is not None] != self.versions:
            self._refuse("a weight of the circuit")
        if state.source._version != self.source_version:
            self._refuse("the circuit's input")
        if self.y._version != self.y_version:  # allowed, unless the rule needs it
            memory = self.y.untyped_storage().data_ptr()
            if any(tensor.untyped_storage().data_ptr() == memory for tensor in state.tensors()):
                self._refuse("the circuit's output")

    def _refuse(self, what: str) -> NoReturn:
        raise RuntimeError(
            f"{what} has been modified by an inplace operation between the forward pass and loss.backward(), and the "
            "rule needs the original. Run the forward pass again, or modify a copy."
        )


class _SavingBoundary(_Boundary):
    """The same, where autograd saves the tensors.

    Takes the circuit, the layout of the state, the output, the input, the number of parameters, the parameters and, one
    by one, the tensors.
    """

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.circuit, ctx.packed, _, _, ctx.count, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor | None, ...]:
        # Unpacking the saved parameters lets autograd notice one that was modified since the forward pass.
        version, packed = ctx.packed
        _check_rule(ctx.circuit, version)
        saved = ctx.saved_tensors
        state = ForwardState.unpack(saved[ctx.count :], packed)
        parameters = list(saved[: ctx.count])
        x, gradients = ctx.circuit.assign_gradients(state, error, ctx.needs_input_grad[3], parameters)
        return (None, None, None, x, None, *gradients, *(None,) * (len(saved) - ctx.count))


_apply = compat.apply_of(_Boundary)
