"""From a model to its layers and junctions, by `torch.fx`; refusals say where, why and what to do."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from apical.errors import CircuitError
from apical.functions import (
    ADDITIONS,
    CONCATENATIONS,
    Reshape,
    as_module,
    expression,
    is_reshape,
    is_size,
    works_in_place,
)
from apical.layers import (
    Add,
    AnyMeeting,
    Concatenate,
    Junction,
    Layer,
    LocalGraph,
    Meeting,
    Node,
    PassOn,
    Step,
    closed_form_of,
    kind_of,
    known_kinds,
)
from apical.layers.activations import ReLU
from apical.layers.norms import Norm
from apical.layers.shapes import ChannelDropout, Dropout

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_NORMS = (nn.LayerNorm, nn.RMSNorm)

_REMEDIES: tuple[tuple[tuple[type[nn.Module], ...], str], ...] = (
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


@dataclass
class Plan:
    """A model, read.

    Attributes:
        nodes: layers and junctions in the order in which they answer; value 0 is the input, value i + 1 the
            rate of node i.
        output: the value that the model returns.
        slots: where each of the model's parameters lives: the module, and the name there.
        last_use: for every node, the values that no later node needs.
    """

    nodes: list[Node]
    output: int
    slots: list[tuple[nn.Module, str]]
    last_use: list[tuple[int, ...]]


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, _CONTAINERS):
            return False
        if m.__module__.startswith("torch.nn"):
            return True
        # A module of the user's own without synapses is a kind of neuron: what it does inside is its business.
        return not any(kind_of(inner) for inner in m.modules()) and not any(
            isinstance(inner, known) for inner in m.modules() for known, _ in _REMEDIES
        )


class _Root(nn.Module):
    # Around every model: so a model that is one module has something to be a part of, and defaults of its
    # forward apply as they do when it is called.
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.model(x)
        return result


def trace(model: nn.Module, *, teach_input: bool = False) -> Plan:
    """Read a model's layers and junctions.

    Args:
        model: any module that `torch.fx` can trace, with one tensor in and one out.
        teach_input: whether teaching signals are sent to the input, too.

    Raises:
        CircuitError: the model cannot become a circuit: the module's path, the reason, what to do instead.
    """
    _refuse_unknown_weights(model)
    _refuse_more_inputs(model)
    root = _Root(model)
    return _Reader(root, _graph(root), teach_input).read()


def _refuse_more_inputs(model: nn.Module) -> None:
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


def _graph(root: _Root) -> fx.Graph:
    """The model's graph; what it does in training and in evaluation must be the same operations."""
    before = {module: module.training for module in root.modules()}
    graphs = []
    try:
        for mode in (False, True):
            for module in before:
                module.training = mode
            graphs.append(_trace_once(root))
    finally:
        for module, mode in before.items():
            module.training = mode
    evaluation, training = (list(graph.nodes) for graph in graphs)
    if [(n.op, n.target) for n in evaluation] != [(n.op, n.target) for n in training]:
        raise CircuitError(
            f"{type(root.model).__name__}: it performs other operations in training than in evaluation, and a "
            "circuit has one list of layers. Move what differs into a module of its own without synapses, "
            "such as nn.Dropout."
        )
    # Where the two differ in a `training` argument, the call follows the mode of the module that makes it.
    for node, other in zip(training, evaluation, strict=True):
        node.meta["follows_mode"] = node.op in ("call_function", "call_method") and (
            (_plain(node.args), _plain(node.kwargs)) != (_plain(other.args), _plain(other.kwargs))
        )
    return graphs[1]


def _plain(value: Any) -> Any:
    return fx.node.map_arg(value, lambda node: node.name)


def _trace_once(root: _Root) -> fx.Graph:
    try:
        return _Tracer().trace(root)
    except Exception as error:  # whatever the model's own code raises when it meets a proxy
        raise CircuitError(
            f"{type(root.model).__name__}: torch.fx cannot trace its forward ({type(error).__name__}: {error}). "
            "A circuit needs one fixed list of operations: control flow that depends on values cannot be read. "
            "Move the decision out of forward, or into a module of its own without synapses, which is taken as it is."
        ) from error


def _refuse_unknown_weights(model: nn.Module) -> None:
    for path, module in model.named_modules():
        if isinstance(module, _NORMS):
            continue
        named = path or type(model).__name__
        for kinds, remedy in _REMEDIES:
            if isinstance(module, kinds):
                raise CircuitError(
                    f"{named} ({type(module).__name__}): a weighted module that apical has no synapses for; {remedy}."
                )
        if kind_of(module) is not None:
            continue
        heavy = [(name, weight.dim()) for name, weight in module.named_parameters(recurse=False) if weight.dim() > 1]
        if heavy:
            raise CircuitError(
                f"{named} ({type(module).__name__}): its parameter {heavy[0][0]!r} has {heavy[0][1]} "
                f"axes, so it connects units with each other, and apical has no synapses for it. Known are "
                f"{', '.join(known_kinds())}. Use one of these, register a kind of your own with "
                "@apical.layers.synapses_of, or keep the module outside the circuit."
            )
        if module._forward_hooks or module._forward_pre_hooks:
            warnings.warn(
                f"{named} ({type(module).__name__}) has forward hooks; a circuit calls synapses and neurons itself "
                "while it learns, so they fire only where no gradient is wanted.",
                stacklevel=4,
            )


class _Reader:
    """Walks the graph once and sorts every operation into a layer, a junction or a step of one."""

    def __init__(self, root: _Root, graph: fx.Graph, teach_input: bool) -> None:
        self.root = root
        self.model = type(root.model).__name__
        self.graph = graph
        self.nodes: list[Node] = []
        self.values: dict[fx.Node, int] = {}
        self.tails: dict[int, fx.Node] = {}
        self.fresh: set[int] = set()
        self.learns = [teach_input]
        self.calls: dict[nn.Module, str] = {}
        self.slots: list[tuple[nn.Module, str]] = []
        self.slot_of: dict[nn.Parameter, int] = {}
        for name, parameter in root.named_parameters():
            owner, _, own = name.rpartition(".")
            self.slot_of[parameter] = len(self.slots)
            self.slots.append((root.get_submodule(owner), own))

    def read(self) -> Plan:
        self._respect_in_place()
        output: int | None = None
        for node in self.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = 0
            elif node.op == "output":
                output = self._output(node)
            elif node.op == "get_attr":
                self._attribute(node)
            elif not is_size(node):
                self._operation(node)
        assert output is not None
        if not any(isinstance(node, Layer) for node in self.nodes):
            raise CircuitError(
                f"{self.model}: a model without synapses has nothing to learn by a rule. Give it at "
                f"least one of {', '.join(known_kinds())}."
            )
        return self._without_dead_ends(output)

    def _path(self, target: Any) -> str:
        return str(target).removeprefix("model").removeprefix(".") or self.model

    def _respect_in_place(self) -> None:
        """Whoever reads a tensor after it was overwritten reads what it became."""
        order = {node: place for place, node in enumerate(self.graph.nodes)}
        for node in self.graph.nodes:
            if node.op not in ("call_function", "call_method", "call_module") or not node.args:
                continue
            module = self.root.get_submodule(str(node.target)) if node.op == "call_module" else None
            overwritten = node.args[0]
            if isinstance(overwritten, fx.Node) and works_in_place(node, module):
                for user in list(overwritten.users):
                    if order[user] > order[node]:
                        user.replace_input_with(overwritten, node)

    def _output(self, node: fx.Node) -> int:
        answer = node.args[0]
        if not isinstance(answer, fx.Node):
            raise CircuitError(
                f"{self.model}: its forward returns a {type(answer).__name__}; a circuit has one answer, "
                "a tensor, since one loss teaches it. Return the tensor that the loss is taken of."
            )
        if answer not in self.values:
            raise CircuitError(f"{self.model}: its forward returns {answer}, which is not a rate.")
        return self.values[answer]

    def _attribute(self, node: fx.Node) -> None:
        owner, _, name = str(node.target).rpartition(".")
        if name in self.root.get_submodule(owner)._parameters:
            raise CircuitError(
                f"{self._path(node.target)}: a bare parameter in a forward that also holds synapses; which of its two "
                "ends would it learn from? Put it and the operation that uses it into a module of its own, whose "
                "parameters then learn by their local derivative, or use nn.Linear or a convolution."
            )

    def _operation(self, node: fx.Node) -> None:
        module: nn.Module | None = None
        if node.op == "call_module":
            module = self.root.get_submodule(str(node.target))
            self._refuse_reuse(module, self._path(node.target))
        arriving = [n for n in node.all_input_nodes if n in self.values]
        if not arriving:
            raise CircuitError(
                f"{self._path(node.target)}: an operation on no rate ({node.format_node()}). Compute constants in "
                "__init__ and register them as buffers."
            )
        kind = None if module is None else kind_of(module)
        if module is not None and kind is not None:
            if len(arriving) != 1 or len(node.args) != 1:
                raise CircuitError(f"{self._path(node.target)}: synapses take one tensor.")
            layer = Layer(
                len(self.nodes),
                self._path(node.target),
                self.values[arriving[0]],
                kind(module, self._path(node.target)),
            )
            layer.weight_slot = self.slot_of[module._parameters["weight"]]  # type: ignore[index]
            bias = module._parameters["bias"]
            layer.bias_slot = None if bias is None else self.slot_of[bias]
            self._append(layer, node, learns=True, fresh=True)
            return
        if isinstance(module, nn.Identity):
            value = self.values[arriving[0]]
            self.values[node] = value
            if self.tails.get(value) is arriving[0] and len(arriving[0].users) == 1:
                self.tails[value] = node
            return
        # Sizes may be read off tensors that do not themselves take part.
        direct = [n for n in arriving if n in _direct_arguments(node)]
        read_off = self._sizes_from(node, set(direct))
        if len(direct) == 1 and not read_off:
            step = self._step(node, module, direct[0])
            self._follow(step, node, direct[0])
        else:
            self._meet(node, module, direct, read_off)

    def _sizes_from(self, node: fx.Node, known: set[fx.Node]) -> list[fx.Node]:
        found: dict[fx.Node, None] = {}
        pending = [n for n in node.all_input_nodes if n not in known]
        while pending:
            source = pending.pop()
            if source in self.values:
                if source not in known:
                    found[source] = None
            else:
                pending.extend(source.all_input_nodes)
        return list(found)

    def _refuse_reuse(self, module: nn.Module, path: str) -> None:
        keeps = any(True for _ in module.parameters()) or any(True for _ in module.buffers())
        if module in self.calls and keeps:
            raise CircuitError(
                f"{path} ({type(module).__name__}): the same module is used twice"
                + (f" (also as {self.calls[module]})" if self.calls[module] != path else "")
                + "; its synapses would have two inputs and two teaching signals at once. Make a second module (share "
                "nothing), or compute its answer once and use the result twice."
            )
        self.calls[module] = path

    def _step(self, node: fx.Node, module: nn.Module | None, source: fx.Node) -> Step:
        if module is not None and node.args == (source,) and not node.kwargs:
            return closed_form_of(module) or LocalGraph(module)
        call = expression(node, {source: 0}, self.root)
        stands_for = as_module(node)
        if stands_for is not None:
            equivalent, training = stands_for
            step = closed_form_of(equivalent)
            if isinstance(step, (Dropout, ChannelDropout)):
                if node.meta["follows_mode"]:
                    step.mode = self._owner(node)
                else:
                    equivalent.train(training is not False)
            if step is not None:
                return step
        if is_reshape(node):
            return Reshape(call)
        return LocalGraph(module if module is not None else nn.Identity(), call)

    def _owner(self, node: fx.Node) -> nn.Module:
        stack = node.meta["nn_module_stack"]
        path, _ = stack[next(reversed(stack))]
        return self.root.get_submodule(path)

    def _follow(self, step: Step, node: fx.Node, source: fx.Node) -> None:
        """Add a step to the node that made its argument, or to a new junction where others read that, too."""
        value = self.values[source]
        alone = value > 0 and len(source.users) == 1 and self.tails.get(value) is source
        if not alone:
            junction = Junction(len(self.nodes), node.name, (value,), PassOn())
            self._append(junction, node, learns=self.learns[value], fresh=False)
            value = self.values[node]
        owner = self.nodes[value - 1]
        if isinstance(step, ReLU):
            wanted = bool(step.module.inplace) or works_in_place(node, None)
            step.in_place = wanted and value in self.fresh
        owner.steps.append(step)
        slots = tuple(self.slot_of[step.module.get_parameter(name)] for name in step.parameters)
        owner.slots.append(slots)
        if slots:
            self.learns[value] = True
        # Norms make a new tensor and keep their argument; other steps may keep what they made.
        if isinstance(step, Norm):
            self.fresh.add(value)
        else:
            self.fresh.discard(value)
        self.values[node] = value
        self.tails[value] = node

    def _meet(
        self, node: fx.Node, module: nn.Module | None, direct: Sequence[fx.Node], read_off: Sequence[fx.Node]
    ) -> None:
        if module is not None and any(True for _ in module.parameters()):
            raise CircuitError(
                f"{self._path(node.target)} ({type(module).__name__}): a junction, where rates meet, has no parameters "
                "of its own. Put them into a layer before or after it."
            )
        meeting = self._meeting(node, direct) if not read_off else None
        if meeting is None:
            places = {source: place for place, source in enumerate((*direct, *read_off))}
            meeting = AnyMeeting(expression(node, places, self.root), node.name)
        sources = tuple(self.values[n] for n in (*direct, *read_off))
        if isinstance(meeting, (Add, Concatenate)):
            sources = tuple(self.values[n] for n in _operands(node))
        junction = Junction(len(self.nodes), node.name, sources, meeting)
        learns = any(self.learns[self.values[n]] for n in direct)
        self._append(junction, node, learns=learns, fresh=isinstance(meeting, Add))

    def _meeting(self, node: fx.Node, direct: Sequence[fx.Node]) -> Meeting | None:
        operands = _operands(node)
        plain = bool(operands) and all(n in self.values for n in operands)
        if node.target in ADDITIONS and plain and len(operands) == 2 and not node.kwargs:
            return Add()
        if node.target in CONCATENATIONS and plain:
            axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
            if isinstance(axis, int):
                return Concatenate(axis)
        return None

    def _append(self, new: Node, node: fx.Node, *, learns: bool, fresh: bool) -> None:
        self.nodes.append(new)
        value = len(self.nodes)
        self.values[node] = value
        self.tails[value] = node
        new.feeds_back = any(self.learns[source] for source in new.sources)
        self.learns.append(learns)
        if fresh:
            self.fresh.add(value)

    def _without_dead_ends(self, output: int) -> Plan:
        """Nodes whose rate nobody uses are dropped: no error ever reaches them."""
        alive = {output}
        for node in reversed(self.nodes):
            if node.index + 1 in alive:
                alive.update(node.sources)
        places = {0: 0}
        nodes = []
        for node in self.nodes:
            if node.index + 1 not in alive:
                continue
            places[node.index + 1] = len(nodes) + 1
            node.index = len(nodes)
            node.sources = tuple(places[source] for source in node.sources)
            nodes.append(node)
        last: dict[int, int] = {}
        for node in nodes:
            for source in node.sources:
                last[source] = node.index
        output = places[output]
        done = [tuple(value for value, at in last.items() if at == node.index and value != output) for node in nodes]
        return Plan(nodes, output, self.slots, done)


def _direct_arguments(node: fx.Node) -> set[fx.Node]:
    return {n for n in node.all_input_nodes if not is_size(n) and n.op != "get_attr"}


def _operands(node: fx.Node) -> tuple[fx.Node, ...]:
    """The tensors of an addition or a concatenation, in order and with repetitions."""
    if node.target in CONCATENATIONS:
        listed = node.args[0] if node.args else node.kwargs.get("tensors", ())
        items = tuple(listed) if isinstance(listed, (list, tuple)) else ()
    else:
        items = node.args
    return tuple(n for n in items if isinstance(n, fx.Node)) if all(isinstance(n, fx.Node) for n in items) else ()
