"""The wiring of a circuit: its nodes, and the operations by which a learning rule reaches them.

forward: compute the output, and save what learning needs (`ForwardState`)
backward: carry signals from the output down, from layer to layer over the junctions (`BackwardPass`)
show: give the quantities that a rule carries to the circuit's observers
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from apical.errors import CircuitError
from apical.layers import Junction, Layer, Node, passes
from apical.layers.axes import BatchAxes, Reduction, divisor
from apical.layers.credit import Credit
from apical.layers.effective import EffectiveWeights
from apical.layers.moments import Sequences
from apical.layers.nodes import Perturbation
from apical.layers.passes import BackwardPass, BackwardPlan, DefaultSignal, ForwardState, Message
from apical.tracing import ModelGraph

Observer = Callable[[str, dict[str, Tensor]], None]
"""Receives the name of a layer, and the quantities that the rule carries there, by name."""


class Wiring:
    """The nodes of a circuit in the order of the forward pass, and the operations that rules use.

    Attributes:
        nodes: layers and junctions.
        layers: the layers alone.
        output: the value that is the circuit's output; value 0 is the input, value i + 1 the rate of node i.
        batch_axis: of the input.
        reduction: how the loss reduces a batch.
        teach_input: whether signals are sent to the input, too.
        parameters: where each of the model's parameters is: the module, and the name there.
        effective: the weights that the model computes from other tensors.
        batch_axes: for inputs of so many axes, the batch axis of every value.
        sequences: the neurons with a memory, and where time ends. In a circuit with time `batch_axis` is that of the
            folded input, 0.
        modulate: changes each credit before its update is made, such as by a third factor; None: nothing does.
    """

    def __init__(
        self, graph: ModelGraph, *, batch_axis: int = 0, reduction: Reduction = "mean", teach_input: bool = False
    ) -> None:
        self.nodes = graph.nodes
        self.layers = [node for node in graph.nodes if isinstance(node, Layer)]
        self.output = graph.output
        self.last_use = graph.last_use
        self.batch_axis = batch_axis
        self.reduction = reduction
        self.teach_input = teach_input
        self.sequences = Sequences(self.nodes, self.output)
        self._place_parameters(graph)
        self.batch_axes: dict[int, BatchAxes] = {}
        self._with_batch: set[int] = set()
        self.observers: OrderedDict[int, Observer] = OrderedDict()
        self.modulate: Callable[[Credit], Credit] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Observers and modulators of a circuit have no part in its copies, and need not be picklable.
        return {**self.__dict__, "observers": OrderedDict(), "modulate": None}

    # Parameters

    def _place_parameters(self, graph: ModelGraph) -> None:
        self.parameters, self.constants = graph.parameters, graph.constants
        self._own_indices = [node.own_indices for node in self.nodes]
        self._plans: dict[tuple[tuple[bool, ...], bool], BackwardPlan] = {}
        holders = [layer.synapses.holder for layer in self.layers]
        self.effective = [holder for holder in holders if isinstance(holder, EffectiveWeights)]

    def adopt_parameters(self, graph: ModelGraph) -> bool:
        """Take the parameters' places from the same model, read again; False where it has become another network."""
        if graph.output != self.output or len(graph.nodes) != len(self.nodes):
            return False
        if not self.constants.agree(graph.constants):
            return False
        pairs = list(zip(self.nodes, graph.nodes, strict=True))
        if not all(own.is_like(other) for own, other in pairs):
            return False
        for own, other in pairs:
            own.adopt_parameters(other)
        self._place_parameters(graph)
        return True

    def compute_weights(self) -> None:
        """Compute the weights that the model computes from other tensors, once for each forward pass."""
        for holder in self.effective:
            holder.compute()

    # Passes

    def plan(self, requires_grad: tuple[bool, ...], input_wanted: bool) -> BackwardPlan:
        """What can learn when these parameters do."""
        key = (requires_grad, input_wanted)
        known = None if torch.compiler.is_compiling() else self._plans.get(key)
        if known is not None:
            return known
        needs_signal = [input_wanted]
        for node, indices in zip(self.nodes, self._own_indices, strict=True):
            own = any(requires_grad[index] for index in indices)
            needs_signal.append(node.reachable and (own or any(needs_signal[source] for source in node.sources)))
        order = [(node, isinstance(node, Layer)) for node in self.nodes if needs_signal[node.index + 1]]
        found = BackwardPlan(requires_grad, tuple(needs_signal), tuple(reversed(order)))
        if not torch.compiler.is_compiling():
            self._plans[key] = found
        return found

    def forward(
        self,
        x: Tensor,
        plan: BackwardPlan,
        *,
        save_drives: bool = False,
        save_rates: bool = False,
        perturb: Perturbation | None = None,
    ) -> tuple[Tensor, ForwardState]:
        """Compute the output for an input; see `apical.layers.passes.forward`."""
        return passes.forward(
            self.nodes,
            self.last_use,
            self.output,
            x,
            plan,
            save_drives=save_drives,
            save_rates=save_rates,
            perturb=perturb,
        )

    def backward(
        self,
        state: ForwardState,
        signal: Message,
        default_signal: DefaultSignal | None = None,
        *,
        needs_signal: Sequence[bool] | None = None,
        free_buffers: bool = True,
    ) -> BackwardPass:
        """Carry signals from the output down; see `apical.layers.passes.BackwardPass`."""
        return BackwardPass(
            state,
            self.output,
            signal,
            default_signal=default_signal,
            needs_signal=needs_signal,
            free_buffers=free_buffers,
        )

    # The batch

    def samples(self, state: ForwardState, error: Tensor, ended: bool = True) -> float:
        """The number by which the loss divided each sample's derivative: of a mean, the batch size.

        Args:
            state: of the forward pass.
            error: at the output.
            ended: of the output's derivatives; False: of each moment's, also where the output is the mean over time.
        """
        found = divisor(self.reduction, error, state.batch_axis(self.output))
        return found if ended or not self.sequences.ends else found * state.moments

    def batch_size(self, state: ForwardState, error: Tensor) -> int:
        """How many samples the batch has."""
        axis = state.batch_axis(self.output)
        return 1 if axis is None else error.shape[axis]

    def batch_axes_of(self, x: Tensor, state: ForwardState) -> BatchAxes:
        """The batch axis of every value for an input and the state of its forward pass.

        Raises:
            CircuitError: inside a compiler, which saw no forward pass before: some rate lacks the batch as first axis.
        """
        known = self.batch_axes.get(x.dim())
        if known is not None:
            return known
        for node, own in zip(self.nodes, state.nodes, strict=True):
            if own is not None and (self.batch_axis != 0 or not own.shape or own.shape[0] != x.shape[0]):
                raise CircuitError(
                    f"{node.name}: its rate {tuple(own.shape)} has to have the batch of the input {tuple(x.shape)} as "
                    "first axis where a compiler reads the circuit before any forward pass. Pass Circuit(..., "
                    "example=x), or run a forward pass before compiling."
                )
        return (0,) * (len(self.nodes) + 1)

    def require_batch(self, x: Tensor, y: Tensor, state: ForwardState, rule: str) -> None:
        """Refuse rates without a batch axis.

        Raises:
            CircuitError: the rule needs to know the samples of a batch, and the rate of a layer, of a junction that
                learns, or the output does not show them, or the output of this batch has lost the axis.
        """
        axis, own = state.batch_axis(self.output), self.batch_axis
        if axis is not None and state.moments == 1 and y.shape[axis : axis + 1] != x.shape[own : own + 1]:
            raise CircuitError(
                f"{self.nodes[self.output - 1].name}: axis {axis} of the output holds the batch, and for the input "
                f"{tuple(x.shape)} the output is {tuple(y.shape)}. Name the axis that is removed (squeeze(-1))."
            )
        if x.dim() in self._with_batch:
            return
        for node in self.nodes:
            matters = isinstance(node, Layer) or node.own_indices or node.index + 1 == self.output
            if matters and node.reachable and state.batch_axis(node.index + 1) is None:
                raise CircuitError(
                    f"{node.name}: {rule} needs the samples of a batch, and no axis of this rate follows axis "
                    f"{self.batch_axis} of the input, its batch axis. Give one sample as a batch of one "
                    "(x.unsqueeze(0)); pass Circuit(..., batch_axis=) where the batch is another axis; return one "
                    "output for each sample and reduce in the loss."
                )
        self._with_batch.add(x.dim())

    # Structure

    def is_line(self) -> bool:
        """Whether every node drives the next and nothing else."""
        return all(node.sources == (node.index,) for node in self.nodes) and self.output == len(self.nodes)

    def is_chain(self) -> bool:
        """Whether every layer drives the next and nothing else, with nothing between them."""
        return self.is_line() and all(isinstance(node, Layer) for node in self.nodes[self.layers[0].index :])

    def lowest(self) -> set[Layer]:
        """The layers that only the input drives."""
        alone = {0}
        found = set()
        for node in self.nodes:
            if all(source in alone for source in node.sources):
                if isinstance(node, Layer):
                    found.add(node)
                else:
                    alone.add(node.index + 1)
        return found

    def readouts(self) -> set[Node]:
        """The nodes from which the output is read: an error at the output reaches them over no synapse."""
        found: set[Node] = set()
        pending = [self.output]
        while pending:
            value = pending.pop()
            if value == 0 or self.nodes[value - 1] in found:
                continue
            node = self.nodes[value - 1]
            found.add(node)
            if isinstance(node, Junction):
                pending.extend(node.sources)
        return found

    def modulated(self, credits: Iterable[Credit]) -> Iterable[Credit]:
        """The credits, each changed by `modulate` before its update is made."""
        return credits if self.modulate is None else map(self.modulate, credits)

    # Observers

    def observe(self, observer: Observer) -> RemovableHandle:
        """Give `observer` the quantities that the rule carries, until the handle is removed or its block ends."""
        handle = RemovableHandle(self.observers)
        self.observers[handle.id] = observer
        return handle

    def show(self, node: Node, **quantities: Tensor) -> None:
        """Give the quantities that a rule carries at a node to all observers."""
        for observer in list(self.observers.values()):
            observer(node.name, {name: value.detach().clone() for name, value in quantities.items()})


__all__ = ["Credit", "ForwardState", "Observer", "Wiring"]
