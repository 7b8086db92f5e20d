"""Every operation of a model, sorted into a layer, a junction or a step of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from apical.errors import CircuitError
from apical.functions import (
    ADDITIONS,
    CONCATENATIONS,
    CUTS,
    MULTIPLICATIONS,
    Reshape,
    as_module,
    expression,
    is_parts,
    is_reshape,
    is_size,
    works_in_place,
)
from apical.layers import (
    Junction,
    Layer,
    LocalGraph,
    Merge,
    Node,
    Step,
    closed_form_of,
    kind_of,
    known_kinds,
    merges,
)
from apical.layers.activations import ReLU
from apical.layers.norms import Norm
from apical.layers.probing import traits_of, traits_of_function
from apical.layers.shapes import ChannelDropout, Dropout
from apical.layers.traits import UNKNOWN, stated
from apical.tracing.graph import NUMBERS, Constants, Root, refuse_other_outputs
from apical.tracing.in_place import read_what_was_overwritten
from apical.tracing.refusals import refuse_empty_synapses


@dataclass
class ModelGraph:
    """A model, read.

    Attributes:
        nodes: layers and junctions in the order in which they answer; value 0 is the input, value i + 1 the
            rate of node i.
        output: the value that the model returns.
        parameters: where each of the model's parameters is: the module, and the name there.
        last_use: for every node, the values that no later node needs.
        constants: what it holds of the model's attributes for good.
    """

    nodes: list[Node]
    output: int
    parameters: list[tuple[nn.Module, str]]
    last_use: list[tuple[int, ...]]
    constants: Constants


class Reader:
    """Walks the graph once and sorts every operation into a layer, a junction or a step of one."""

    def __init__(self, root: Root, graph: fx.Graph, constants: Constants, teach_input: bool) -> None:
        self.root = root
        self.constants = constants
        self.model = type(root.model).__name__
        self.graph = graph
        self.nodes: list[Node] = []
        self.values: dict[fx.Node, int] = {}
        self.tails: dict[int, fx.Node] = {}
        self.fresh: set[int] = set()
        self.learns = [teach_input]
        self.calls: dict[nn.Module, str] = {}
        self.names = {path or self.model for path, module in root.model.named_modules() if kind_of(module)}
        self.parameters: list[tuple[nn.Module, str]] = []
        self.index_of: dict[nn.Parameter, int] = {}
        for name, parameter in root.named_parameters():
            owner, _, own = name.rpartition(".")
            self.index_of[parameter] = len(self.parameters)
            self.parameters.append((root.get_submodule(owner), own))

    def read(self) -> ModelGraph:
        """The model's layers and junctions."""
        for node in self.graph.nodes:
            is_size(node)
        self._pass_identities()
        read_what_was_overwritten(self.graph, self._module, self._named)
        output: int | None = None
        for node in self.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = 0
            elif node.op == "output":
                output = self._output(node)
            elif node.op == "get_attr":
                self._attribute(node)
            elif not is_size(node) and not is_parts(node):
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

    def _named(self, node: fx.Node) -> str:
        """What the user calls the operation: a module by its path, anything else by its function."""
        return self._path(node.target) if node.op == "call_module" else node.name

    def _unique(self, node: fx.Node) -> str:
        """A name for a junction that no layer and no other junction has."""
        name = wanted = self._named(node)
        times = 1
        while name in self.names:
            times += 1
            name = f"{wanted}:{times}"
        self.names.add(name)
        return name

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.root.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _pass_identities(self) -> None:
        for node in list(self.graph.nodes):
            module = self._module(node)
            if type(module) is nn.Identity and "forward" not in vars(module) and len(node.args) == 1:
                node.replace_all_uses_with(node.args[0])
                self.graph.erase_node(node)

    def _output(self, node: fx.Node) -> int:
        answer = node.args[0]
        if not isinstance(answer, fx.Node):
            several = [kind.__name__ for kind in (tuple, list, dict) if isinstance(answer, kind)]
            raise CircuitError(
                f"{self.model}: its forward returns a {(several or [type(answer).__name__])[0]}; a circuit has one "
                "answer, a tensor, since one loss teaches it. Return the tensor that the loss is taken of."
            )
        if answer not in self.values:
            raise CircuitError(
                f"{self.model}: its forward returns {answer}, which is not a rate. Return the tensor that the loss is "
                "taken of."
            )
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
        module = self._module(node)
        if node.target in NUMBERS:
            raise CircuitError(
                f"{self._named(node)}: it reads numbers off a tensor, and no signal comes back from them. Compute with "
                "the tensor, or move this into a module of its own without synapses."
            )
        if module is not None:
            refuse_other_outputs(self._path(node.target), module)
            self._refuse_reuse(module, self._path(node.target))
        direct, read_off = self._arriving(node)
        if not direct and not read_off:
            raise CircuitError(
                f"{self._named(node)}: an operation on no rate ({node.format_node()}). Compute constants in "
                "__init__ and register them as buffers."
            )
        kind = None if module is None else kind_of(module)
        if module is not None and kind is not None:
            if [*node.args, *node.kwargs.values()] != direct:
                raise CircuitError(
                    f"{self._path(node.target)} ({type(module).__name__}): synapses take one tensor and nothing else."
                )
            synapses = kind(module, self._path(node.target))
            refuse_empty_synapses(synapses)
            layer = Layer(len(self.nodes), synapses.name, self.values[direct[0]], synapses)
            synapses.weight_index, synapses.bias_index = map(self._index, (synapses.holder,) * 2, ("weight", "bias"))
            self._append(layer, node, learns=True, fresh=True)
        elif node.target in CUTS:
            value = self.values[direct[0]]
            self._append(
                Junction(len(self.nodes), self._unique(node), (value,), merges.Detach()),
                node,
                learns=False,
                fresh=False,
            )
            del self.tails[len(self.nodes)]  # what follows is beyond the cut
        elif len(direct) == 1 and not read_off:
            self._follow(self._step(node, module, direct[0]), node, direct[0])
        else:
            self._merge_rates(node, module, direct, read_off)

    def _index(self, holder: nn.Module, name: str) -> int | None:
        """The index of a weight or a bias, which counts as a parameter where a module computes it."""
        tensor = holder._parameters[name]
        if tensor is None:
            return None
        index = self.index_of.setdefault(tensor, len(self.parameters))
        self.parameters[index : index + 1] = [(holder, name)]
        return index

    def _arriving(self, node: fx.Node) -> tuple[list[fx.Node], list[fx.Node]]:
        """The rates that the operation takes, and those that it only reads a size off."""
        direct: dict[fx.Node, None] = {}
        read_off: dict[fx.Node, None] = {}
        pending = [(source, direct) for source in reversed(node.all_input_nodes)]
        while pending:
            source, found = pending.pop()
            if source in self.values:
                found[source] = None
            else:
                found = read_off if is_size(source) else found
                pending.extend((below, found) for below in reversed(source.all_input_nodes))
        return list(direct), [source for source in read_off if source not in direct]

    def _readers(self, source: fx.Node) -> set[fx.Node]:
        """The operations that take the tensor, its size, or a part of it."""
        found: set[fx.Node] = set()
        pending = list(source.users)
        while pending:
            user = pending.pop()
            if is_size(user) or is_parts(user):
                pending.extend(user.users)
            else:
                found.add(user)
        return found

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
            return closed_form_of(module) or LocalGraph(module, traits=traits_of(module))
        call = expression(node, {source: 0}, self.root)
        stands_for = as_module(node)
        if stands_for is not None:
            equivalent, mode = stands_for
            step = closed_form_of(equivalent)
            if isinstance(step, (Dropout, ChannelDropout)):
                step.mode = mode
            if step is not None:
                return step
        if is_reshape(node):
            return Reshape(call)
        if module is not None:
            return LocalGraph(module, call, stated(module) or UNKNOWN)
        return LocalGraph(nn.Identity(), call, traits_of_function(call) if call.is_fixed else UNKNOWN)

    def _follow(self, step: Step, node: fx.Node, source: fx.Node) -> None:
        """Add a step to the node that made its argument, or to a new junction where others read that, too."""
        value = self.values[source]
        alone = value > 0 and self.tails.get(value) is source and self._readers(source) == {node}
        if not alone:
            junction = Junction(len(self.nodes), self._unique(node), (value,), merges.Identity())
            self._append(junction, node, learns=self.learns[value], fresh=False)
            value = self.values[node]
        owner = self.nodes[value - 1]
        if isinstance(step, ReLU):
            wanted = bool(step.module.inplace) or works_in_place(node, None)
            step.in_place = wanted and value in self.fresh
        indices = tuple(self.index_of[step.module.get_parameter(name)] for name in step.parameters)
        owner.add(step, indices)
        if indices:
            self.learns[value] = True
        # Norms make a new tensor and keep their argument; other steps may keep what they made.
        if isinstance(step, Norm):
            self.fresh.add(value)
        else:
            self.fresh.discard(value)
        self.values[node] = value
        self.tails[value] = node

    def _merge_rates(
        self, node: fx.Node, module: nn.Module | None, direct: Sequence[fx.Node], read_off: Sequence[fx.Node]
    ) -> None:
        if module is not None and any(True for _ in module.parameters()):
            raise CircuitError(
                f"{self._path(node.target)} ({type(module).__name__}): a junction, where rates meet, has no parameters "
                "of its own. Put them into a layer before or after it."
            )
        merge = self._known_merge(node, direct) if not read_off else None
        if merge is None:
            places = {source: place for place, source in enumerate((*direct, *read_off))}
            merge = merges.Function(expression(node, places, self.root), self._named(node))
        sources = tuple(self.values[n] for n in (*direct, *read_off))
        if isinstance(merge, (merges.Sum, merges.Product, merges.Concatenate)):
            sources = tuple(self.values[n] for n in _operands(node))
        junction = Junction(len(self.nodes), self._unique(node), sources, merge)
        learns = any(self.learns[self.values[n]] for n in direct)
        self._append(junction, node, learns=learns, fresh=isinstance(merge, (merges.Sum, merges.Product)))

    def _known_merge(self, node: fx.Node, direct: Sequence[fx.Node]) -> Merge | None:
        operands = _operands(node)
        plain = bool(operands) and all(n in self.values for n in operands)
        if node.target in ADDITIONS and plain and len(operands) == 2 and not node.kwargs:
            return merges.Sum()
        if node.target in MULTIPLICATIONS and plain and len(operands) == 2 and not node.kwargs:
            return merges.Product()
        if node.target in CONCATENATIONS and plain:
            axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
            if isinstance(axis, int):
                return merges.Concatenate(axis)
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

    def _without_dead_ends(self, output: int) -> ModelGraph:
        """Nodes whose rate nobody uses are dropped, and those that no error ever reaches are marked."""
        alive, taught = {output}, {output}
        for node in reversed(self.nodes):
            if node.index + 1 in alive:
                alive.update(node.sources)
            cut = isinstance(node, Junction) and isinstance(node.merge, merges.Detach)
            node.reachable = node.index + 1 in taught and not cut
            if node.reachable:
                taught.update(node.sources)
        places = {0: 0}
        nodes: list[Node] = []
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
        return ModelGraph(nodes, output, self.parameters, done, self.constants)


def _operands(node: fx.Node) -> tuple[fx.Node, ...]:
    """The tensors of an addition or a concatenation, in order and with repetitions."""
    if node.target in CONCATENATIONS:
        listed = node.args[0] if node.args else node.kwargs.get("tensors", ())
        items = tuple(listed) if isinstance(listed, (list, tuple)) else ()
    else:
        items = node.args
    return tuple(n for n in items if isinstance(n, fx.Node)) if all(isinstance(n, fx.Node) for n in items) else ()
