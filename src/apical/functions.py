"""Functional calls (`F.relu`, `torch.flatten`, `x.view`) as the modules or expressions that they stand for."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from apical.layers.shapes import SHAPE
from apical.layers.steps import ParameterFree, Saved

_POOL = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
_MAX_POOL = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_DROPOUT = ("p", "training", "inplace")

# A module, what its options are called as the arguments after the tensor, and the calls that it stands for.
_CALLS: tuple[tuple[type[nn.Module], tuple[str, ...], tuple[Any, ...]], ...] = (
    (nn.ReLU, ("inplace",), (F.relu,)),
    (nn.ReLU, (), (torch.relu, torch.relu_, "relu", "relu_")),
    (nn.ReLU6, ("inplace",), (F.relu6,)),
    (nn.Hardtanh, ("min_val", "max_val", "inplace"), (F.hardtanh,)),
    (nn.LeakyReLU, ("negative_slope", "inplace"), (F.leaky_relu,)),
    (nn.ELU, ("alpha", "inplace"), (F.elu,)),
    (nn.CELU, ("alpha", "inplace"), (F.celu,)),
    (nn.SELU, ("inplace",), (F.selu,)),
    (nn.GELU, (), (F.gelu,)),
    (nn.SiLU, ("inplace",), (F.silu,)),
    (nn.Mish, ("inplace",), (F.mish,)),
    (nn.Softplus, ("beta", "threshold"), (F.softplus,)),
    (nn.Hardsigmoid, ("inplace",), (F.hardsigmoid,)),
    (nn.Hardswish, ("inplace",), (F.hardswish,)),
    (nn.LogSigmoid, (), (F.logsigmoid,)),
    (nn.Tanh, (), (torch.tanh, F.tanh, "tanh")),
    (nn.Sigmoid, (), (torch.sigmoid, F.sigmoid, "sigmoid")),
    (nn.Softmax, ("dim",), (F.softmax, torch.softmax, "softmax")),
    (nn.LogSoftmax, ("dim",), (F.log_softmax, torch.log_softmax, "log_softmax")),
    (nn.Flatten, ("start_dim", "end_dim"), (torch.flatten, "flatten")),
    (nn.MaxPool1d, _MAX_POOL, (F.max_pool1d,)),
    (nn.MaxPool2d, _MAX_POOL, (F.max_pool2d,)),
    (nn.AvgPool1d, _POOL[:-1], (F.avg_pool1d,)),
    (nn.AvgPool2d, _POOL, (F.avg_pool2d,)),
    (nn.AdaptiveAvgPool1d, ("output_size",), (F.adaptive_avg_pool1d,)),
    (nn.AdaptiveAvgPool2d, ("output_size",), (F.adaptive_avg_pool2d,)),
    (nn.Dropout, _DROPOUT, (F.dropout,)),
    (nn.Dropout1d, _DROPOUT, (F.dropout1d,)),
    (nn.Dropout2d, _DROPOUT, (F.dropout2d,)),
    (nn.Dropout3d, _DROPOUT, (F.dropout3d,)),
)
_AS_MODULES = {call: (kind, names) for kind, names, calls in _CALLS for call in calls}
# torch.flatten begins at axis 0 where nn.Flatten begins at 1.
_DEFAULTS: dict[Any, dict[str, Any]] = {torch.flatten: {"start_dim": 0}, "flatten": {"start_dim": 0}}

ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
MULTIPLICATIONS = (operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_", "multiply", "multiply_")
CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)
CUTS = (torch.detach, "detach", "detach_")
_RESHAPES = ("view", "reshape", torch.reshape, "squeeze", "unsqueeze", torch.squeeze, torch.unsqueeze)
_SIZES = ("size", "dim", "numel", "ndimension", "nelement", "stride", "is_contiguous")
_SIZE_ATTRIBUTES = ("shape", "ndim", "dtype", "device", "is_cuda", "requires_grad")
IN_PLACE = {f"__i{name}__": f"__{name}__" for name in ("add", "sub", "mul", "truediv", "pow", "floordiv", "mod")}
"""The operators that overwrite their left side, as methods, and the name of the operation."""
_IN_PLACE = [getattr(operator, method) for method in IN_PLACE]
# Made of their argument's shape alone; part of an operation that compares a tensor with them, entry by entry.
_BLANKS = ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")
_COMPARISONS = ("maximum", "minimum", "max", "min", "fmax", "fmin", "where", "clamp", "clip")
# Several tensors at once, always and only where an axis is given; what takes one of them is the operation.
_PARTS = ("chunk", "split", "split_with_sizes", "tensor_split", "hsplit", "vsplit", "dsplit", "unbind", "meshgrid")
_EXTREMES = ("max", "min", "median", "mode", "kthvalue", "topk", "sort", "cummax", "cummin", "std_mean", "var_mean")
# What may answer with the memory of its argument, beside the operations whose schema says so.
_VIEWS = (
    *("dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"),
    *("getattr", "getitem", "pos", "unflatten", "einsum", "atleast_1d", "atleast_2d", "atleast_3d", *_PARTS),
    *("type", "type_as", "float", "double", "half", "bfloat16", "to_dense", "conj_physical", "broadcast_tensors"),
)
_VIEW_MODULES = (nn.Identity, nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd)


def works_in_place(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether the call overwrites its first argument."""
    if module is not None:
        # PyTorch's alpha dropout takes the option, and ignores it.
        return bool(getattr(module, "inplace", False)) and type(module) not in (nn.AlphaDropout, nn.FeatureAlphaDropout)
    if node.target in _IN_PLACE or node.kwargs.get("inplace", False):
        return True
    name = _called(node)
    if name.endswith("_") and not name.endswith("__"):
        return True
    return _bound(node).get("inplace", False) is True


def may_share_memory(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether the answer may be a view of the first argument."""
    if module is not None:
        return isinstance(module, _VIEW_MODULES)
    packet = getattr(torch.ops.aten, _called(node) or "none", None)
    overloads = [] if packet is None else [getattr(packet, name) for name in packet.overloads()]
    aliases = [found.alias_info for overload in overloads for found in overload._schema.returns]
    known = _called(node) in _VIEWS and (_called(node) != "einsum" or len(node.args) == 2)
    return known or any(alias is not None and not alias.is_write for alias in aliases)


def _called(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def _is_call(node: fx.Node, names: Sequence[str]) -> bool:
    return node.op in ("call_function", "call_method") and _called(node) in names


def is_parts(node: fx.Node) -> bool:
    """Whether the node is several tensors at once, so that only what is taken of them is an operation."""
    if node.op not in ("call_function", "call_method"):
        return False
    name = _called(node)
    if name in _PARTS:
        return True
    if node.target is operator.getitem and isinstance(node.args[1], slice):
        return isinstance(node.args[0], fx.Node) and is_parts(node.args[0])
    return name in _EXTREMES and bool(node.users) and all(_takes_one(user, node) for user in node.users)


def _takes_one(user: fx.Node, parts: fx.Node) -> bool:
    if user.op != "call_function" or user.args[:1] != (parts,):
        return False
    return (user.target is operator.getitem and isinstance(user.args[1], int)) or (
        user.target is getattr and user.args[1] in ("values", "indices")
    )


def is_size(node: fx.Node) -> bool:
    """Whether the node is a plain value read off a tensor, such as its shape, or made of such values and buffers.

    A tensor of zeros beside the one that gave it its shape, as in `torch.maximum(x, torch.zeros_like(x))`, counts. The
    result is remembered, so that a long graph whose nodes are asked in order is not searched to its beginning.
    """
    if "is_size" not in node.meta:
        node.meta["is_size"] = _is_size(node)
    found: bool = node.meta["is_size"]
    return found


def _is_size(node: fx.Node) -> bool:
    if _is_call(node, _BLANKS) and node.users and all(_is_call(user, _COMPARISONS) for user in node.users):
        return True
    if node.op == "call_method" and node.target in _SIZES:
        return True
    if node.op == "call_function" and node.target in (getattr, len):
        return node.target is len or node.args[1] in _SIZE_ATTRIBUTES
    inputs = node.all_input_nodes
    if node.op not in ("call_function", "call_method") or not inputs:
        return False
    return all(n.op == "get_attr" or is_size(n) for n in inputs)


def _bound(node: fx.Node) -> dict[str, Any]:
    entry = _AS_MODULES.get(node.target) if isinstance(node.target, str) or callable(node.target) else None
    if entry is None:
        return {}
    return {**dict(zip(entry[1], node.args[1:], strict=False)), **node.kwargs}


def as_module(node: fx.Node) -> tuple[nn.Module, nn.Module] | None:
    """The module that a functional call stands for.

    Returns:
        the module, and the module whose training mode counts; or None where no module stands for the call.
    """
    if node.op not in ("call_function", "call_method"):
        return None
    entry = _AS_MODULES.get(node.target)
    if entry is None or len(node.args) > 1 + len(entry[1]):
        return None
    kind, names = entry
    options = {**_DEFAULTS.get(node.target, {}), **_bound(node)}
    options.pop("_stacklevel", None)
    if options.get("dtype", 0) is None:
        del options["dtype"]
    if kind is nn.GELU and set(options) == {"approximate"}:
        module: nn.Module = nn.GELU(**options)
        return module, module
    training = options.pop("training", True)  # F.dropout's own default
    if set(options) - set(names) or any(isinstance(value, (fx.Node, ByMode)) for value in options.values()):
        return None
    module = kind(**options)
    if not isinstance(training, ByMode):
        module.train(bool(training))
        return module, module
    return (module, training.owner) if training.training and not training.evaluation else None


@dataclass(frozen=True)
class Argument:
    """The place of a tensor among an expression's arguments."""

    place: int


@dataclass(frozen=True)
class Constant:
    """A buffer of the model, looked up at every call."""

    owner: nn.Module
    name: str


@dataclass(frozen=True)
class ByMode:
    """A plain value that is one in training and another in evaluation, such as `training=self.training`.

    Attributes:
        owner: the module that makes the call; its mode counts.
        training: the value in training.
        evaluation: the value in evaluation.
    """

    owner: nn.Module
    training: Any
    evaluation: Any


class Expression:
    """A call with everything in it but the tensors that arrive; made of plain data, so it copies and pickles."""

    def __init__(self, op: str, target: Any, args: Any, kwargs: Any) -> None:
        self.op = op
        self.target = target
        self.args = args
        self.kwargs = kwargs
        self.__name__ = target if isinstance(target, str) else getattr(target, "__name__", type(target).__name__)

    def __call__(self, *tensors: Tensor) -> Any:
        args = _fill(self.args, tensors)
        kwargs = _fill(self.kwargs, tensors)
        if self.op == "call_method":
            return getattr(args[0], self.target)(*args[1:], **kwargs)
        return self.target(*args, **kwargs)

    @property
    def is_fixed(self) -> bool:
        """Whether nothing in the call ever changes: no buffer, and no value that depends on the mode."""
        return all(_is_fixed(part) for part in (self.args, self.kwargs))

    def __getstate__(self) -> dict[str, Any]:
        # Some of torch's functions are closures: pickle cannot find them by the name that they say they have.
        known = getattr(F, self.__name__, None) is self.target
        return {**self.__dict__, "target": None} if known else self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.target is None:
            self.target = getattr(F, self.__name__)


def _is_fixed(template: Any) -> bool:
    if isinstance(template, Constant):
        return template.name.startswith("_tensor_constant")  # made in the forward pass, while it was read
    if isinstance(template, Expression):
        return template.is_fixed
    if isinstance(template, (list, tuple)):
        return all(_is_fixed(item) for item in template)
    if isinstance(template, dict):
        return all(_is_fixed(item) for item in template.values())
    return not isinstance(template, ByMode)


def _fill(template: Any, tensors: Sequence[Tensor]) -> Any:
    if isinstance(template, Argument):
        return tensors[template.place]
    if isinstance(template, Constant):
        return getattr(template.owner, template.name)
    if isinstance(template, ByMode):
        return template.training if template.owner.training else template.evaluation
    if isinstance(template, Expression):
        return template(*tensors)
    if isinstance(template, (list, tuple)):
        return type(template)(_fill(item, tensors) for item in template)
    if isinstance(template, dict):
        return {key: _fill(value, tensors) for key, value in template.items()}
    if isinstance(template, slice):
        return slice(*(_fill(part, tensors) for part in (template.start, template.stop, template.step)))
    return template


def expression(node: fx.Node, places: dict[fx.Node, int], model: nn.Module) -> Expression:
    """The call of a node as an expression of the tensors in `places`.

    Sizes and parts are computed inside the expression from the tensors that they are taken off.
    """

    def part(other: fx.Node) -> Any:
        if other in places:
            return Argument(places[other])
        if other.op == "get_attr":
            owner, _, name = str(other.target).rpartition(".")
            return Constant(model.get_submodule(owner), name)
        return expression(other, places, model)

    target: Any = model.get_submodule(str(node.target)) if node.op == "call_module" else node.target
    return Expression(node.op, target, *fx.node.map_arg((node.args, node.kwargs), part))


def is_reshape(node: fx.Node) -> bool:
    """Whether the call moves no number, so that the way back is the old shape."""
    return node.target in _RESHAPES


class Reshape(ParameterFree):
    """A change of shape that moves no number."""

    traits = SHAPE

    def __init__(self, function: Expression) -> None:
        super().__init__(nn.Identity())
        self.function = function
        self.name = function.__name__

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        return self.function(x), (x.shape,)

    def derivative(self, grad: Tensor, *saved: Any) -> Tensor:
        return grad.reshape(saved[0])
