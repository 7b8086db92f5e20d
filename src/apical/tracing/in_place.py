"""Operations in place: a tensor that is read after it was overwritten is what it became."""

from collections.abc import Callable

from torch import fx, nn

from apical.errors import CircuitError
from apical.functions import is_size, may_share_memory, works_in_place
from apical.layers.steps import is_own
from apical.tracing.graph import inside_of


def read_what_was_overwritten(
    graph: fx.Graph, module_of: Callable[[fx.Node], nn.Module | None], named: Callable[[fx.Node], str]
) -> None:
    """Let every operation after one that works in place read the output of that one.

    Args:
        graph: of a model; changed.
        module_of: the module that a node calls, if it calls one.
        named: what the user calls a node.

    Raises:
        CircuitError: a tensor that may share the overwritten memory is read again later.
    """
    order = {node: place for place, node in enumerate(graph.nodes)}
    memory: dict[fx.Node, fx.Node] = {}

    def read_after(tensor: fx.Node, node: fx.Node) -> list[fx.Node]:
        return [user for user in tensor.users if order[user] > order[node] and not is_size(user)]

    for node in graph.nodes:
        if not node.op.startswith("call_") or not node.all_input_nodes:
            continue
        first = node.all_input_nodes[0]
        module, own = module_of(node), memory.get(first, first)
        overwrites, shares = uses_of_memory(node, module)
        if overwrites:
            known = {first} if works_in_place(node, module) else set()
            sharing = {own, *(tensor for tensor, base in memory.items() if base is own)} - known
            unknown = sorted((tensor for tensor in sharing if read_after(tensor, node)), key=order.__getitem__)
            if unknown:
                raise CircuitError(
                    f"{named(node)}: it overwrites the answer of {named(first)}, which may share its memory with that "
                    f"of {named(unknown[0])}, and the latter is read again later. Do not work in place here."
                )
            for user in read_after(first, node):
                user.replace_input_with(first, node)
        if overwrites or shares:
            memory[node] = own


def uses_of_memory(node: fx.Node, module: nn.Module | None) -> tuple[bool, bool]:
    """Whether a call overwrites its first argument, and whether its answer may be a view of it.

    A module of the user's own is read; one that `torch.fx` cannot trace counts as one that does neither.
    """
    if module is None or not is_own(module):
        return works_in_place(node, module), may_share_memory(node, module)
    overwrites, sharing = works_in_place(node, module), set()
    for inner in inside_of(module):
        if inner.op == "placeholder":
            sharing.add(inner)
        elif not sharing.isdisjoint(inner.all_input_nodes[:1]):
            part = module.get_submodule(str(inner.target).removeprefix("model.")) if inner.op == "call_module" else None
            writes, shares = uses_of_memory(inner, part)
            overwrites = overwrites or writes
            sharing |= {inner} if writes or shares or inner.op == "output" else set()
    return overwrites, any(inner.op == "output" for inner in sharing)
