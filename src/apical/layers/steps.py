"""Steps: what happens between the synapses' drive and the rate, one module or function at a time.

A step answers (`forward`, under no_grad) and keeps what it needs to hand a signal back (`backward`). Most
steps do this in closed form with the same kernels that autograd would call (`activations`, `shapes`,
`norms`); any other module or function has a local autograd graph, of this one step (`LocalGraph`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from apical.errors import CircuitError
from apical.layers.effective import computes_weights
from apical.layers.traits import UNKNOWN, Traits

Saved = tuple[Any, ...]
"""What a step keeps from its answer: tensors, and plain values such as shapes."""


class Step(ABC):
    """One parameter-free or per-unit operation on the way from the drive to the rate.

    Attributes:
        module: where the step's options and parameters are.
        name: what it is called, where not by its module's type.
        parameters: names of the step's own parameters in `module`; they learn by their local derivative.
        traits: what is known of it.
        separate: whether `derivatives` are those of each sample, (batch, ...), and not their sum.
    """

    separate: bool = False
    parameters: tuple[str, ...] = ()
    traits: Traits = UNKNOWN
    module: Any
    name: str | None = None

    def __repr__(self) -> str:
        return self.name or type(self.module).__name__

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        """The step's answer, and what `backward` needs."""

    @abstractmethod
    def backward(self, grad: Tensor, saved: Saved, learns: Sequence[bool]) -> tuple[Tensor, Sequence[Tensor | None]]:
        """The signal handed back, and the derivative for each of `parameters` that learns."""

    def derivatives(self, grad: Tensor, saved: Saved, learns: Sequence[bool]) -> tuple[Tensor, Sequence[Tensor | None]]:
        """The signal handed back, and the derivatives, summed over the samples or not."""
        if not (self.separate and any(learns)):
            return self.backward(grad, saved, learns)
        return self.backward(grad, saved, [False] * len(learns))[0], self.sample_derivatives(grad, saved, learns)

    def sample_derivatives(self, grad: Tensor, saved: Saved, learns: Sequence[bool]) -> list[Tensor | None]:
        """Each sample's part of the derivative, (batch, ...), for each of `parameters` that learns.

        The batch is the first axis of `grad`. A step that does not override this computes one sample after the other.
        """
        found = []
        for sample in range(len(grad)):
            alone = torch.zeros_like(grad)
            alone[sample] = grad[sample]
            found.append(self.backward(alone, saved, learns)[1])
        return [None if own[0] is None else torch.stack(own) for own in zip(*found, strict=True)]

    def derivative(self, grad: Tensor, *saved: Any) -> Tensor:
        """The signal handed back, where the step has no parameters."""
        return self.backward(grad, saved, ())[0]

    def output(self, saved: Saved) -> Tensor:
        """The output of the forward pass that saved this; every step with the trait `activation` has it.

        Raises:
            NotImplementedError: the step does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__}: it states the trait activation. Define output(saved), too.")

    def fire(self, x: Tensor) -> Tensor:
        """The output alone; `x` stays as it is."""
        return self.forward(x)[0]

    def fire_(self, x: Tensor) -> Tensor:
        """The output alone; `x` may be overwritten."""
        return self.fire(x)

    def refire(self, x: Tensor, saved: Saved, *, anchored: bool) -> tuple[Tensor, Saved]:
        """The output for another input, and what `backward` needs; `x` stays as it is.

        Args:
            x: the other input.
            saved: of the first forward pass, whose random numbers and batch statistics are used again.
            anchored: whether the derivative of batch norm, which goes by way of the batch's statistics, stays the one
                of the first pass. Taken where the values have gone, beside statistics that are not theirs, it grows
                with their distance.
        """
        return self.forward(x)


def refire_all(
    steps: Sequence[Step], x: Tensor, free: Sequence[Saved], *, anchored: bool
) -> tuple[Tensor, list[Saved]]:
    """The output of several steps, one after the other, and what each saved; see `Step.refire`."""
    saved = []
    for step, known in zip(steps, free, strict=True):
        x, own = step.refire(x, known, anchored=anchored)
        saved.append(own)
    return x, saved


class ParameterFree(Step):
    """A step without parameters: `backward` in one line."""

    def __init__(self, module: Any) -> None:
        self.module = module

    @abstractmethod
    def derivative(self, grad: Tensor, *saved: Any) -> Tensor:
        """The signal handed back."""

    def backward(self, grad: Tensor, saved: Saved, learns: Sequence[bool]) -> tuple[Tensor, Sequence[Tensor | None]]:
        return self.derivative(grad, *saved), ()


StepMaker = Callable[[Any], Step | None]
_CLOSED_FORMS: dict[type[nn.Module], StepMaker] = {}
_Maker = TypeVar("_Maker", bound=StepMaker)
_Result = TypeVar("_Result")


def closed_form(*modules: type[nn.Module]) -> Callable[[_Maker], _Maker]:
    """Register the closed form of these module types.

    What is registered makes the step from a module, or returns None where the closed form does not cover
    the module's options.
    """

    def register(maker: _Maker) -> _Maker:
        for module in modules:
            _CLOSED_FORMS[module] = maker
        return maker

    return register


def closed_form_of(module: nn.Module) -> Step | None:
    """The closed form of a module, or None where there is none."""
    own = {"forward", "start", "advance", "integrate"}
    maker = None if own & vars(module).keys() else _CLOSED_FORMS.get(type(module))
    return None if maker is None or computes_weights(module) else maker(module)


def known_closed_forms() -> list[type[nn.Module]]:
    """The module types that have a closed form."""
    return list(_CLOSED_FORMS)


def without_draws(name: str, compute: Callable[[], _Result], x: Tensor) -> _Result:
    """Compute again what draws no random numbers: others than those of the free pass would move a settled state.

    Args:
        name: of the operation, for the message.
        compute: the operation.
        x: a tensor on the device where it computes.

    Raises:
        CircuitError: it draws some.
    """
    if torch.compiler.is_compiling():
        return compute()
    before = _random_state(x)
    result = compute()
    if not torch.equal(before, _random_state(x)):
        raise CircuitError(
            f"{name}: the rule lets its neurons fire again while the network settles, and {name} draws other random "
            "numbers each time. Use nn.Dropout, nn.Dropout1d to 3d in its place, or draw the numbers outside of the "
            "model."
        )
    return result


def _random_state(x: Tensor) -> Tensor:
    return torch.cuda.get_rng_state(x.device) if x.is_cuda else torch.random.get_rng_state()


class _Graph:
    """The local autograd graph of one answer; not a tensor, so that nobody takes it for one.

    Holds where the output comes out of the graph, and not the output: autograd needs it as little.
    """

    def __init__(self, inputs: Sequence[Tensor], output: Tensor) -> None:
        self.inputs = inputs
        self.edge = get_gradient_edge(output) if output.requires_grad else None
        self.dtype = output.dtype


def local_graph(function: Callable[..., Any], inputs: Sequence[Tensor]) -> tuple[Tensor, _Graph]:
    """The function's answer, and the autograd graph of this function alone."""
    with torch.enable_grad():
        own = [x.detach().requires_grad_(x.is_floating_point() or x.is_complex()) for x in inputs]
        # A copy, since the function may work in place and a leaf of a graph must not be overwritten.
        output = _one_tensor(function, function(*(x.clone() for x in own)))
    return output.detach(), _Graph(own, output)


def _one_tensor(function: Callable[..., Any], output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        name = getattr(function, "__name__", type(function).__name__)
        raise CircuitError(
            f"{name}: what serves a layer or a junction must return one tensor, not {type(output).__name__}. Return "
            "the one that is used."
        )
    return output


def local_derivative(graph: _Graph, grad: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """The derivative of a local graph by its inputs and by these parameters."""
    wanted = [*graph.inputs, *parameters]
    if graph.edge is None:
        return (None,) * len(wanted)
    if grad.is_complex() != graph.dtype.is_complex:
        if graph.dtype.is_complex:
            grad = grad.to(graph.dtype)
        else:  # a real graph is linear in the signal: its two parts pass one after the other
            parts = (local_derivative(graph, part, parameters) for part in (grad.real, grad.imag))
            return tuple([a if a is None or b is None else torch.complex(a, b) for a, b in zip(*parts, strict=True)])
    # Rates may have been compared or counted: what is no real number has no derivative.
    real = [tensor for tensor in wanted if tensor.requires_grad]
    found = iter(torch.autograd.grad([graph.edge], real, grad, retain_graph=True, allow_unused=True))
    return tuple([next(found) if tensor.requires_grad else None for tensor in wanted])


def is_own(module: Any) -> bool:
    """Whether a module is the user's own and not one of PyTorch's."""
    return isinstance(module, nn.Module) and not module.__module__.startswith("torch.nn")


class LocalGraph(Step):
    """Any module or function of one tensor, by an autograd graph of this one step.

    Args:
        module: where the parameters are.
        function: what is computed; None: the module.
        traits: what is known of it. Whether it draws random numbers or moves statistics is read off the module's parts.
    """

    def __init__(
        self, module: nn.Module, function: Callable[[Tensor], Any] | None = None, traits: Traits = UNKNOWN
    ) -> None:
        self.module = module
        self.function = module if function is None else function
        self.name = getattr(function, "__name__", None)
        self.parameters = tuple(name for name, _ in module.named_parameters())
        self.traits = replace(
            traits,
            random=traits.random or any(map(_draws, module.modules())),
            memory=traits.memory or any(map(_moves_statistics, module.modules())),
            replays=False,  # its second answer draws again
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        output, graph = local_graph(self.function, [x])
        return output, ((graph, output) if self.traits.activation else (graph,))

    def backward(self, grad: Tensor, saved: Saved, learns: Sequence[bool]) -> tuple[Tensor, Sequence[Tensor | None]]:
        own = [_parameter(self.module, name) for name, wanted in zip(self.parameters, learns, strict=True) if wanted]
        below, *rest = local_derivative(saved[0], grad, own)
        found = iter(rest)
        if below is None:
            below = torch.zeros_like(saved[0].inputs[0])
        return below, [next(found) if wanted else None for wanted in learns]

    def refire(self, x: Tensor, saved: Saved, *, anchored: bool) -> tuple[Tensor, Saved]:
        return without_draws(repr(self), lambda: self.forward(x), x)

    def output(self, saved: Saved) -> Tensor:
        output: Tensor = saved[1]
        return output

    def fire(self, x: Tensor) -> Tensor:
        return self.fire_(x.clone())  # the function may work in place

    def fire_(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return _one_tensor(self.function, self.function(x))


_DRAW = (
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.RReLU),
    nn.FractionalMaxPool2d,
    nn.FractionalMaxPool3d,
)
_MOVE_STATISTICS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)


def _parameter(module: nn.Module, path: str) -> Tensor:
    """A parameter by its path; a tensor that stands in for one is accepted, which `get_parameter` refuses."""
    owner, _, name = path.rpartition(".")
    parameter = module.get_submodule(owner)._parameters[name]
    assert parameter is not None
    return parameter


def _draws(module: nn.Module) -> bool:
    return isinstance(module, _DRAW)


def _moves_statistics(module: nn.Module) -> bool:
    return isinstance(module, _MOVE_STATISTICS) and module.track_running_stats
