"""A model's operations, read by `torch.fx`: one list of them, for training and evaluation alike."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from apical.errors import CircuitError
from apical.functions import IN_PLACE, ByMode, is_size, works_in_place
from apical.layers import closed_form_of, kind_of
from apical.layers.memory import undisturbed
from apical.layers.steps import is_own
from apical.tracing.refusals import REMEDIES

NUMBERS = ("item", "tolist", "numpy")
"""The methods that read numbers off a tensor."""
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_REMEDIED = tuple(known for known, _ in REMEDIES)


def _overwriting(method: str, name: str) -> Callable[[fx.Proxy, Any], Any]:
    def call(self: fx.Proxy, other: Any) -> Any:
        function = getattr(operator, name if is_size(self.node) else method)
        return self.tracer.create_proxy("call_function", function, (self, other), {}, name=name.strip("_"))

    return call


def _assign(self: fx.Proxy, name: str, value: Any) -> None:
    if name in ("data", "real", "imag"):
        raise TypeError(f"an assignment to .{name} is not recorded")
    object.__setattr__(self, name, value)


_METHODS: dict[str, Any] = {method: _overwriting(method, name) for method, name in IN_PLACE.items()}
_METHODS |= {"__setattr__": _assign, "__getattr__": lambda self, name: _Attribute(self, name)}
_Attribute: type[fx.proxy.Attribute] = type("_Attribute", (fx.proxy.Attribute,), _METHODS)
_Proxy: type[fx.Proxy] = type("_Proxy", (fx.Proxy,), _METHODS)
"""Records `x *= y` as a call that overwrites x, also of `x.mT`; the proxies of torch.fx record `x * y`."""


class _Tracer(fx.Tracer):
    # Or what is computed of a buffer would be computed now, once and for ever.
    proxy_buffer_attributes = True

    def create_node(self, *args: Any, **options: Any) -> fx.Node:
        node = super().create_node(*args, **options)
        node.meta["no_grad"] = not torch.is_grad_enabled()
        return node

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        raise _DecisionError("shape" if is_size(obj.node) else "values")

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, _CONTAINERS):
            return False
        if kind_of(m) is not None or m.__module__.startswith("torch.nn") or closed_form_of(m) is not None:
            return True
        # A module of the user's own without synapses is a kind of neuron: what it does inside is its business.
        inside = [inner for inner in m.modules() if kind_of(inner) or isinstance(inner, _REMEDIED)]
        if inside and hasattr(m, "ends_time"):
            raise CircuitError(
                f"{module_qualified_name.removeprefix('model.')} ({type(m).__name__}): a neuron with a memory of its "
                f"own class has a {type(inside[0]).__name__} inside, which would have one input at every moment. Put "
                "it before the neuron, pass LIF(recurrent=...), or keep its weights as an nn.Parameter."
            )
        return not inside


class _InnerTracer(_Tracer):
    """Traces a module whose inside is its own business to a circuit."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name != "model" and super().is_leaf_module(m, module_qualified_name)


class Root(nn.Module):
    """Around every model: so a model that is one module has something to be a part of.

    The defaults of its forward apply as they do when it is called.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.model(x)
        return result


class Constants(NamedTuple):
    """What a graph holds of a model's attributes for good: plain arguments of calls, in their order, and tensors."""

    arguments: list[str]
    tensors: list[Tensor]

    def agree(self, other: Constants) -> bool:
        """Whether they are the same."""
        return self.arguments == other.arguments and _same(self.tensors, other.tensors)


def read_graph(model: nn.Module) -> tuple[Root, fx.Graph, Constants]:
    """The model's graph; what it does in training and in evaluation must be the same operations.

    Plain values that differ between the two (`training=self.training`) become `ByMode` arguments.
    """
    (_, evaluation), (root, training), (_, again) = traced = _trace_modes(model)
    others = {other: node for node, other in zip(training.nodes, evaluation.nodes, strict=False)}
    in_evaluation, in_training, once_more = [[(node.op, node.target) for node in graph.nodes] for _, graph in traced]
    constants = [[value for value in vars(own).values() if isinstance(value, Tensor)] for own, _ in traced]
    if in_training != once_more or not _same(*constants[1:]) or str(training) != str(again):
        raise CircuitError(
            f"{type(model).__name__}: its forward is not deterministic: two traces differ, and the circuit would "
            "replay the first one. Use torch.rand_like and its kin, or move the random operation into a submodule "
            "without synapses."
        )
    kept = Constants(_plain_parts(traced[0][1], training), constants[1])
    try:
        if in_evaluation != in_training or not _same(*constants[:2]):
            raise _OtherOperationsError
        for node, other in zip(training.nodes, evaluation.nodes, strict=True):
            stack = node.meta.get("nn_module_stack")
            path, _ = list(stack.values())[-1] if stack else ("model", None)
            owner = root.get_submodule(path)
            node.args = _by_mode(node.args, other.args, others, owner)
            node.kwargs = _by_mode(node.kwargs, other.kwargs, others, owner)
        _detach_under_no_grad(training)
    except _OtherOperationsError:
        raise CircuitError(
            f"{type(model).__name__}: it performs other operations in training than in evaluation, and a "
            "circuit has one list of layers. Move the difference into a module of its own without synapses, "
            "such as nn.Dropout."
        ) from None
    return root, training, kept


def _trace_modes(model: nn.Module) -> list[tuple[Root, fx.Graph]]:
    """The graphs in evaluation, in training, and in training again; the model's modes stay."""
    traced = []
    with undisturbed(model):
        for mode in (False, True, True):
            for module in model.modules():
                module.training = mode
            root = Root(model)
            traced.append((root, _trace_once(root)))
        assigned = [
            (path or type(model).__name__, name)
            for path, module in model.named_modules()
            for name, value in (*vars(module).items(), *module._buffers.items())
            if isinstance(value, fx.Proxy)
        ]
    if assigned and str(traced[1][1]) != str(traced[2][1]):
        path, name = assigned[0]
        raise CircuitError(
            f"{path}: its forward assigns self.{name} and reads it in the next forward pass, and a circuit, which has "
            "one fixed list of operations, would read what it was when the circuit was built. Move the state and what "
            "updates it into a module of its own without synapses."
        )
    return traced


class _DecisionError(Exception):
    """The forward decides by a tensor's shape or by its values."""


class _OtherOperationsError(Exception):
    """Training and evaluation differ in more than a plain value."""


def _detach_under_no_grad(graph: fx.Graph) -> None:
    """Detach the output of every operation that is called under `torch.no_grad`."""
    for node in list(graph.nodes):
        first = node.args[0] if node.args else None
        overwrites = node.op in ("call_function", "call_method") and works_in_place(node, None)
        if overwrites and (node.meta["no_grad"] or (isinstance(first, fx.Node) and first.op == "get_attr")):
            raise CircuitError(
                f"{node.name}: it overwrites {str(getattr(first, 'target', first)).removeprefix('model.')} in place, a "
                "buffer or a tensor under torch.no_grad(), which a circuit cannot replay. Compute a new tensor, or "
                "move it into a module of its own without synapses."
            )
        if node.meta["no_grad"] and node.op.startswith("call_") and not is_size(node):
            with graph.inserting_after(node):
                cut = graph.call_method("detach", (node,))
            cut.meta["no_grad"] = False
            node.replace_all_uses_with(cut, lambda user, cut=cut: user is not cut)


def refuse_other_outputs(path: str, module: nn.Module) -> None:
    """Refuse a module whose output is not one tensor, where `torch.fx` can see it.

    Raises:
        CircuitError: it returns a tuple, a list, a dict or a number.
    """
    found: Any = () if getattr(module, "return_indices", False) else None
    if is_own(module):
        found = next((node.args[0] for node in inside_of(module) if node.op == "output"), None)
    if isinstance(found, fx.Node) and found.target in NUMBERS:
        found = 0.0
    kind = next((kind.__name__ for kind in (tuple, list, dict, float, int) if isinstance(found, kind)), None)
    if kind is not None:
        raise CircuitError(
            f"{path} ({type(module).__name__}): it returns a {kind}, and what serves a layer or a junction returns one "
            "tensor. Return the one that is used."
        )


def inside_of(module: nn.Module) -> list[fx.Node]:
    """A module's operations as `torch.fx` sees them, or none where its forward cannot be traced."""
    try:
        with undisturbed(module), torch.enable_grad(), _functions_as_calls():
            return list(_InnerTracer().trace(Root(module)).nodes)
    except Exception:  # whatever the module's own code raises when it meets a proxy
        return []


def _same(some: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return len(some) == len(other) and all(torch.equal(a, b) for a, b in zip(some, other, strict=True))


def _by_mode(training: Any, evaluation: Any, others: dict[fx.Node, fx.Node], owner: nn.Module) -> Any:
    """The arguments of a call, with `ByMode` where a plain value differs between the modes."""

    def both(a: Any, b: Any) -> Any:
        return _by_mode(a, b, others, owner)

    if isinstance(training, fx.Node) or isinstance(evaluation, fx.Node):
        _require(others.get(evaluation) is training)
        return training
    if isinstance(training, (list, tuple)) and isinstance(evaluation, (list, tuple)):
        _require(len(training) == len(evaluation))
        items = [both(a, b) for a, b in zip(training, evaluation, strict=True)]
        return tuple(items) if isinstance(training, tuple) else items
    if isinstance(training, dict) and isinstance(evaluation, dict):
        _require(training.keys() == evaluation.keys())
        return {key: both(training[key], evaluation[key]) for key in training}
    if isinstance(training, slice) and isinstance(evaluation, slice):
        return slice(*(both(getattr(training, end), getattr(evaluation, end)) for end in ("start", "stop", "step")))
    return training if training == evaluation else ByMode(owner, training, evaluation)


def _plain_parts(*graphs: fx.Graph) -> list[str]:
    """The functions of all calls, and their arguments that are no values of the graph."""

    def text(node: fx.Node) -> str:
        plain = fx.node.map_arg((node.args, node.kwargs), lambda value: None)
        return f"{getattr(node.target, '__name__', node.target)} {plain}"

    return [text(node) for graph in graphs for node in graph.nodes if node.op in ("call_function", "call_method")]


def _require(same: bool) -> None:
    if not same:
        raise _OtherOperationsError


class FunctionCall:
    """A `torch.autograd.Function` as one operation, with its own forward and backward pass.

    Args:
        function: the class.
    """

    def __init__(self, function: type[torch.autograd.Function]) -> None:
        self.function = function
        self.__name__ = function.__name__

    def __call__(self, *arguments: Any) -> Any:
        return self.function.apply(*arguments)  # type: ignore[no-untyped-call]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FunctionCall) and other.function is self.function

    def __hash__(self) -> int:
        return hash(self.function)


@contextmanager
def _functions_as_calls() -> Iterator[None]:
    """Let fx see a `torch.autograd.Function` as one call, or its own backward pass would be lost."""
    original = vars(torch.autograd.Function)["apply"]

    def apply(cls: type[torch.autograd.Function], *arguments: Any, **options: Any) -> Any:
        proxies = [argument for argument in arguments if isinstance(argument, fx.Proxy)]
        if not proxies:
            return original.__func__(cls, *arguments, **options)
        return proxies[0].tracer.create_proxy("call_function", FunctionCall(cls), arguments, options)

    torch.autograd.Function.apply = classmethod(apply)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        torch.autograd.Function.apply = original  # type: ignore[method-assign]


def _trace_once(root: Root) -> fx.Graph:
    try:
        with torch.enable_grad(), _functions_as_calls():
            graph = _Tracer().trace(root)
        for node in graph.nodes:
            node.meta.pop("is_size", None)  # remembered when some of its users were still unknown
        return graph
    except _DecisionError as error:
        raise CircuitError(
            f"{type(root.model).__name__}: its forward decides (if, while, assert, bool) by the {error} of a tensor, "
            "and a circuit has one fixed list of operations. Decide in __init__, or move the decision into a module of "
            "its own without synapses, which is taken as it is."
        ) from None
    except CircuitError:
        raise
    except Exception as error:  # whatever the model's own code raises when it meets a proxy
        raise CircuitError(
            f"{type(root.model).__name__}: torch.fx cannot trace its forward ({type(error).__name__}: {error}). "
            "A circuit needs one fixed list of operations on tensors: numbers read off a tensor (float, len, numpy), "
            "loops over one and decisions by its values cannot be read. Compute with tensors, or move this part into a "
            "module of its own without synapses, which is taken as it is."
        ) from error
