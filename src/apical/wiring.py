"""The wiring of a circuit: the verbs by which a learning rule reaches a layer and its neighbours.

respond: an input is answered, node by node, and what learning needs of it is kept (`Activity`)
descend: an error at the output travels back, from layer to layer, over the junctions between them
credit: a pair of signals, before and after a layer's synapses, becomes the update of these synapses
show: what a rule carries while it teaches is handed to whoever observes the circuit
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from apical.layers import Gradients, Junction, Layer, Node, Record
from apical.tracing import Plan

Message = Tensor | tuple[Tensor, ...]
"""What travels down: one error, or several streams of signals side by side."""

Observer = Callable[[str, dict[str, Tensor]], None]
"""Takes the name of a layer, and what the rule carries there: the quantity's name, and its values."""


class Credit(NamedTuple):
    """What the synapses of one layer see: before them `pre`, after them `post`.

    Attributes:
        layer: the layer whose synapses learn.
        pre: (batch, fan-in ...), the rate that arrived.
        post: (batch, units ...), the teaching signal at the soma, with the sign of a gradient.
        reciprocal: feedback weights of the rule that take the identical increment.
        learner: weights of the rule that learn from this pair in place of the layer's, as synapses of its kind do.
        learner_bias: the same for a bias.
        decay: (units,), what every synapse of a unit loses in proportion to its own strength, summed over the batch:
            `decay` times the weight is added to the gradient. For rules that look at the synapse's own weight.
    """

    layer: Layer
    pre: Tensor
    post: Tensor
    reciprocal: nn.Parameter | None = None
    learner: nn.Parameter | None = None
    learner_bias: nn.Parameter | None = None
    decay: Tensor | None = None


class Reach(NamedTuple):
    """What can learn in one pass.

    Attributes:
        learns: for every parameter of the circuit, whether it learns.
        values: for every value, whether anything at or above its source learns, so that errors are wanted there.
        way: the nodes that an error has to pass, from the output down; with each, whether it is a layer.
    """

    learns: tuple[bool, ...]
    values: tuple[bool, ...]
    way: tuple[tuple[Node, bool], ...]


class Activity:
    """What a circuit keeps of one answer.

    Attributes:
        reach: what can learn.
        gradients: what the neurons' own parameters learn in this pass.
        source: the input that was answered.
        at_input: the error that arrived at the circuit's input.
    """

    def __init__(self, records: list[Record | None], reach: Reach, source: Tensor) -> None:
        self.records = records
        self.reach = reach
        self.source = source
        self.gradients: Gradients = {}
        self.at_input: Tensor | None = None

    def __getitem__(self, node: Node) -> Record:
        record = self.records[node.index]
        assert record is not None
        return record

    def pack(self) -> tuple[list[Tensor], Any]:
        """The tensors in it, for autograd to keep, and all else with the tensors' places in it."""
        tensors: list[Tensor] = []
        compiling = torch.compiler.is_compiling()

        def place(item: Any) -> Any:
            if not isinstance(item, Tensor):
                return item
            if compiling:  # takes no tensor twice
                for index, known in enumerate(tensors):
                    if known is item:
                        return (_TENSOR, index)
            tensors.append(item)
            return (_TENSOR, len(tensors) - 1)

        layout: list[Any] = []
        for record in self.records:
            if record is None:
                layout.append(None)
                continue
            heads = (place(record.pre), place(record.drive), place(record.rate))
            saved = [tuple([place(item) for item in kept]) for kept in record.saved]
            layout.append((heads, saved, record.shape, record.dtype))
        return tensors, (layout, self.reach, place(self.source))

    def again(self) -> Activity:
        """The same activity, for another way down."""
        records = [
            None
            if record is None
            else Record(record.pre, record.drive, record.rate, list(record.saved), record.shape, record.dtype)
            for record in self.records
        ]
        return Activity(records, self.reach, self.source)

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor in it."""
        yield self.source
        for record in self.records:
            if record is not None:
                for item in (record.pre, record.drive, record.rate, *(item for kept in record.saved for item in kept)):
                    if isinstance(item, Tensor):
                        yield item

    @classmethod
    def unpack(cls, tensors: Sequence[Tensor], packed: Any) -> Activity:
        """The activity that was packed."""

        def fetch(item: Any) -> Any:
            return tensors[item[1]] if type(item) is tuple and item[0] is _TENSOR else item

        layout, reach, source = packed
        records: list[Record | None] = []
        for entry in layout:
            if entry is None:
                records.append(None)
                continue
            (pre, drive, rate), saved, shape, dtype = entry
            kept = [tuple([fetch(item) for item in items]) for items in saved]
            records.append(Record(fetch(pre), fetch(drive), fetch(rate), kept, shape, dtype))
        return cls(records, reach, fetch(source))


_TENSOR = "the tensor at this place"


class Wiring:
    """The nodes of a circuit in the order in which they answer.

    Attributes:
        nodes: layers and junctions.
        layers: the layers alone.
        output: the value that is the circuit's answer; value 0 is the input, value i + 1 the rate of node i.
        reduction: how the loss adds up a batch, "mean" or "sum".
        teach_input: whether errors are sent to the input, too.
    """

    def __init__(self, plan: Plan, reduction: str, teach_input: bool) -> None:
        self.nodes = plan.nodes
        self.layers = [node for node in plan.nodes if isinstance(node, Layer)]
        self.output = plan.output
        self.last_use = plan.last_use
        self.slots = plan.slots
        self.reduction = reduction
        self.teach_input = teach_input
        self._own_slots = [node.own_slots for node in plan.nodes]
        self._reaches: dict[tuple[bool, ...], Reach] = {}
        self.observers: OrderedDict[int, Observer] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        # Who watches a circuit does not watch its copies, and need not be picklable.
        return {**self.__dict__, "observers": OrderedDict()}

    def observe(self, observer: Observer) -> RemovableHandle:
        """Let `observer` see what the rule carries; the handle's `remove`, or its `with` block's end, stops it."""
        handle = RemovableHandle(self.observers)
        self.observers[handle.id] = observer
        return handle

    def show(self, node: Node, **quantities: Tensor) -> None:
        """Hand what a rule carries at a node to all who observe. Ask `observers` first where it costs something."""
        for observer in list(self.observers.values()):
            observer(node.name, {name: value.detach().clone() for name, value in quantities.items()})

    def samples(self, error: Tensor) -> int:
        """By what the loss's mean divided every sample's error: the batch size, or 1 where the loss is a sum."""
        return error.shape[0] if self.reduction == "mean" else 1

    def is_line(self) -> bool:
        """Whether every node drives the next and nothing else."""
        return all(node.sources == (node.index,) for node in self.nodes) and self.output == len(self.nodes)

    def is_chain(self) -> bool:
        """Whether every layer drives the next and nothing else, with nothing between them."""
        return self.is_line() and all(isinstance(node, Layer) for node in self.nodes[self.layers[0].index :])

    def lowest(self) -> set[Layer]:
        """The layers with nothing but the input below them."""
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
        """The nodes that the answer is read from: an error at the output reaches them over no synapse."""
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

    def reach(self, learns: tuple[bool, ...], input_wanted: bool) -> Reach:
        """What can learn when these parameters do."""
        key = (*learns, input_wanted)
        known = None if torch.compiler.is_compiling() else self._reaches.get(key)
        if known is not None:
            return known
        values = [input_wanted]
        for node, slots in zip(self.nodes, self._own_slots, strict=True):
            own = any(learns[slot] for slot in slots)
            values.append(node.taught and (own or any(values[source] for source in node.sources)))
        way = [(node, isinstance(node, Layer)) for node in self.nodes if values[node.index + 1]]
        found = Reach(learns, tuple(values), tuple(reversed(way)))
        if not torch.compiler.is_compiling():
            self._reaches[key] = found
        return found

    def respond(self, x: Tensor, reach: Reach, *, drives: bool = False, rates: bool = False) -> tuple[Tensor, Activity]:
        """Answer an input.

        Args:
            x: (batch, ...).
            reach: what can learn; nodes below all that learns keep nothing.
            drives: keep every layer's drive.
            rates: keep every node's rate.

        Returns:
            the rate of the output, and what the nodes kept.
        """
        values: list[Tensor | None] = [x] + [None] * len(self.nodes)
        records: list[Record | None] = []
        for node, wanted, done in zip(self.nodes, reach.values[1:], self.last_use, strict=True):
            if isinstance(node, Layer):
                pre = values[node.sources[0]]
                assert pre is not None
                rate, record = node.answer(pre, drives, rates)
            else:
                assert isinstance(node, Junction)
                rate, record = node.answer([values[source] for source in node.sources], rates)  # type: ignore[misc]
            values[node.index + 1] = rate
            records.append(record if wanted else None)
            for value in done:
                values[value] = None
        y = values[self.output]
        assert y is not None
        return y, Activity(records, reach, x)

    def descend(
        self,
        activity: Activity,
        error: Message,
        otherwise: Callable[[Node, Record], Message | None] | None = None,
        *,
        once: bool = False,
    ) -> Descent:
        """An error at the output, on its way back through the circuit.

        Args:
            activity: what the circuit kept of its answer.
            error: dL/dy, or several streams of signals at the output.
            otherwise: gives the message at a node's rate where none arrived by the circuit's own paths.
            once: nothing comes this way again: let go of what a node kept as soon as it is passed, so that a backward
                pass takes no more memory than autograd's.
        """
        return Descent(self, activity, error, otherwise, once)


class Descent:
    """One error's way back, layer by layer from the output.

    Iterating gives every layer that something can still be learned at or below: the layer, its record, and
    the message that arrived at its rate (None where nobody sent any): an error, or, from layers that sent several
    streams, as many, in their order. Junctions are passed on the way, by every stream alike.
    """

    def __init__(
        self,
        wiring: Wiring,
        activity: Activity,
        error: Message,
        otherwise: Callable[[Node, Record], Message | None] | None,
        once: bool,
    ) -> None:
        self.once = once
        self.wiring = wiring
        self.activity = activity
        self.otherwise = otherwise
        self.arrived: dict[int, Message] = {wiring.output: error}

    def __iter__(self) -> Iterator[tuple[Layer, Record, Any]]:
        activity = self.activity
        records, once, take = activity.records, self.once, self._take
        node: Any
        for node, is_layer in activity.reach.way:
            if is_layer:
                # No name for the error here: whoever takes it decides when its memory is free.
                yield node, records[node.index], take(node)
            else:
                self._pass(node)
            if once:
                records[node.index] = None
        at_input = self.arrived.get(0)
        activity.at_input = at_input[0] if isinstance(at_input, tuple) else at_input

    def _take(self, node: Node) -> Message | None:
        """The message that arrived at a node's rate, or the one that is given otherwise."""
        message = self.arrived.pop(node.index + 1, None)
        if message is None and self.otherwise is not None:
            message = self.otherwise(node, self.activity[node])
        return message

    def _pass(self, node: Junction) -> None:
        # An error that did not come by the circuit's paths is for this node alone.
        by_its_paths = node.index + 1 in self.arrived
        message = self._take(node)
        if message is None:
            return
        activity = self.activity
        learns, record = activity.reach.learns, activity[node]
        handed: Sequence[Message]
        if isinstance(message, tuple):
            # The first stream is the one that the junction's own parameters learn from.
            others: Gradients = {}
            streams = [
                node.hand_back(record, stream, learns, others if number else activity.gradients)
                for number, stream in enumerate(message)
            ]
            handed = list(zip(*streams, strict=True))
        else:
            handed = node.hand_back(record, message, learns, activity.gradients, once=self.once)
        if by_its_paths:
            for source, signal in zip(node.sources, handed, strict=True):
                if activity.reach.values[source]:
                    self._arrive(source, signal)

    def _arrive(self, value: int, signal: Message) -> None:
        before = self.arrived.get(value)
        if before is None:
            self.arrived[value] = signal
        elif isinstance(before, tuple):
            self.arrived[value] = tuple([a + b for a, b in zip(before, signal, strict=True)])
        else:
            assert isinstance(signal, Tensor)
            self.arrived[value] = before + signal

    def somatic(self, layer: Layer, record: Record, error: Tensor) -> Tensor:
        """An error at a layer's rate, taken through its neurons to the soma; their own parameters learn."""
        activity = self.activity
        return layer.through_neurons(record, error, activity.reach.learns, activity.gradients, once=self.once)

    def goes_on(self, layer: Layer) -> bool:
        """Whether anything below the layer waits for an error."""
        return self.activity.reach.values[layer.sources[0]]

    def send(self, layer: Layer, message: Message) -> None:
        """Send an error, or several streams, down from a layer to whatever made the rate that arrived there.

        Only where something waits for it: ask `goes_on` first.
        """
        self._arrive(layer.sources[0], message)
