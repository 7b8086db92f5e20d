"""The moments of a sequence: which rates of a circuit have one row for each, and signals between such and others."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import dropwhile, islice, pairwise
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from apical.errors import CircuitError
from apical.layers.nodes import Layer, Node
from apical.layers.synapses import LinearSynapses


class Clock(NamedTuple):
    """The moments and the samples of the sequence that passes a network."""

    moments: int
    batch: int


class Clocked(Protocol):
    """A neuron with a memory."""

    clock: Clock | None
    ends_time: bool


def clock_of(x: Tensor, axes: int = 3) -> Clock:
    """The moments and the samples of an input with at least so many axes.

    Raises:
        CircuitError: it has no time, or no moment.
    """
    if x.dim() < axes or not x.shape[0]:
        raise CircuitError(
            f"the input is {tuple(x.shape)}, and neurons with a memory need (time, batch, ...) with at least one "
            "moment. Pass x.expand(time, *x.shape) for a constant input."
        )
    return Clock(x.shape[0], x.shape[1])


def unfolded(y: Tensor, clock: Clock, ends: bool) -> Tensor:
    """An output of a model for one moment, (time * batch, ...), as (time, batch, ...); one that `ends` time stays.

    Raises:
        CircuitError: it has another number of rows.
    """
    if not y.dim() or len(y) != (clock.batch if ends else clock.moments * clock.batch):
        raise CircuitError(
            f"the output is {tuple(y.shape)} for {clock.moments} moments of {clock.batch} samples: the model changes "
            "the first axis, which holds time x batch. Keep it, and average over time by a LeakyReadout or behind the "
            "model; where average= of a read-out was changed, build the circuit again."
        )
    return y if ends else y.reshape(*clock, *y.shape[1:])


@contextmanager
def clocked(neurons: Sequence[Clocked], clock: Clock | None) -> Iterator[None]:
    """Run these neurons by a clock, and by the one before afterwards."""
    before = [neuron.clock for neuron in neurons]
    for neuron in neurons:
        neuron.clock = clock
    try:
        yield
    finally:
        for neuron, own in zip(neurons, before, strict=True):
            neuron.clock = own


class Reader(Protocol):
    """A read-out whose mean over time is a weighted sum of what arrives at each moment."""

    def shares(self, moments: int) -> list[float]:
        """The weight of each moment; they add up to 1."""

    def averages(self) -> bool:
        """Whether its output is that mean now."""


class Sequences:
    """The neurons with a memory of a circuit, and where its rates stand in time.

    Attributes:
        neurons: with a memory; none: the circuit has no time.
        ends: the output is one for the sequence, (batch, ...).
        takes_constant: an input that stays the same may pass the first synapses once, since no merge joins a rate from
            before the first neurons with a memory with one from behind them, and no rate but the input stays the same
            that the rule needs by moment. It does not while a step before these neurons trains that draws random
            numbers or moves statistics at every moment (dropout, batch norm), nor where it requires a gradient, which
            is another at every moment.

    Args:
        nodes: of the circuit.
        output: the value that is the output.

    Raises:
        CircuitError: a rate that was averaged over time meets one that was not.
    """

    def __init__(self, nodes: Sequence[Node], output: int) -> None:
        self.neurons: list[Any] = []
        self._steps: list[Any] = []
        self._averaged = list(_averaged(nodes, output))
        self._joins = self._lingers = False
        self._varying: list[Any] = []  # steps before the first neurons that draw or move statistics while they train
        places = ["before"]  # of every value: before the first neurons with a memory, in time, or after it has ended
        for node in nodes:
            arriving = {places[source] for source in node.sources}
            if "after" in arriving and len(arriving) > 1:
                raise CircuitError(
                    f"{node.name}: a rate that was averaged over time meets one of every moment. Average both, or "
                    "neither."
                )
            self._joins |= len(arriving) > 1
            self._lingers |= arriving == {"before"} and not _spikes_first(node)
            place = "in time" if len(arriving) > 1 else next(iter(arriving))
            for step in node.steps:
                if step.traits.in_time:
                    if place == "after":
                        raise CircuitError(
                            f"{node.name}: {step} stands behind a read-out that averages over time. Put it before, or "
                            "pass average=False there."
                        )
                    self.neurons.append(step.module)
                    self._steps.append(step)
                    place = "after" if step.module.ends_time else "in time"
                elif place == "before" and (step.traits.random or step.traits.memory):
                    self._varying.append(step)
            places.append(place)
        self._places = places
        self.ends = places[output] == "after"
        self.takes_constant = not self._joins

    @contextmanager
    def learning_by(
        self, rule: str, takes_time: bool, through_time: str | None, by_moment: bool, evenly: bool
    ) -> Iterator[None]:
        """Set up a rule, with its weights back in time (see `LearningRule`); all stays as it was where that fails.

        Raises:
            CircuitError: the rule has no meaning for neurons with a memory, or for recurrent synapses.
        """
        recurrent = [step for step in self._steps if step.parameters]
        if recurrent and through_time == "refused":
            raise CircuitError(
                f"{rule}: it has no update for the own parameters of {recurrent[0]}, such as recurrent synapses. Leave "
                "them out, or use another rule."
            )
        if self.neurons and not takes_time:
            raise CircuitError(
                f"{rule}: it has no meaning for neurons with a memory, such as {type(self.neurons[0]).__name__}. Use a "
                "rule that carries errors in one pass, or averages of spikes as rates."
            )
        before = [(part, dict(vars(part))) for part in (self, *self._steps)]
        for step in self._steps:
            step.through_time, step.late, step.sums = through_time, None, True
        for step, reader, behind in self._averaged:
            step.reader, step.evenly = None if by_moment else reader, evenly & behind
        self.takes_constant = not (self._joins or (by_moment and self._lingers))
        try:
            yield
        except BaseException:
            for part, own in before:
                vars(part).update(own)
            raise

    def ended(self, node: Node, steps: int) -> bool:
        """Whether a mean over time has been taken before, or by, the first so many steps of a node."""
        own = [step.module.ends_time for step in node.steps[:steps] if step.traits.in_time]
        return self._places[node.sources[0]] == "after" or any(own)

    def keep_moments(self) -> None:
        """Give signals at potentials for each moment, also where the drive is the same at all.

        A constant input then passes synapses once only where they drive spiking neurons that nothing fires before.
        """
        self.takes_constant &= not self._lingers
        for step in self._steps:
            step.sums = False

    def share_evenly(self) -> None:
        """Give each moment an equal part of a signal at the mean of spikes."""
        for step, _, behind in self._averaged:
            step.evenly = behind

    def by_moment(self, signal: Tensor, moments: int) -> Tensor:
        """A signal at the mean of spikes, (batch, ...), at each moment by its part in the mean: (time * batch, ...)."""
        if not self._averaged:
            return signal
        shares = signal.new_tensor(self._averaged[0][1].shares(moments))
        return (shares.view(-1, *[1] * signal.dim()) * signal).flatten(0, 1)

    def teach_at_end(self, nodes: Iterable[Node], width: float) -> None:
        """Teach the spiking neurons of these nodes once a sequence, by how they change at the end."""
        own = [step for node in nodes for step in node.steps]
        for step in self._steps:
            if step in own:
                step.late = width

    def continue_state(self, continues: bool) -> None:
        """Begin each sequence with the state in which the last one ended; False forgets it.

        Raises:
            CircuitError: a neuron that would continue is used twice.
        """
        if continues and len(set(self.neurons)) < len(self.neurons):
            raise CircuitError(
                "a neuron with a memory is used twice, and keeps one state. Use a module for each place."
            )
        for neuron in self.neurons:
            neuron.continue_state(continues)

    def fold(self, x: Tensor) -> tuple[Tensor, Clock]:
        """A sequence, (time, batch, ...), with time x batch as one axis; the first moment of a constant one.

        Without neurons that have a memory this is the input.

        Raises:
            CircuitError: it has no time, or no moment.
        """
        if not self.neurons:
            return x, Clock(1, 1)
        clock = clock_of(x)
        varies = any(getattr(step, "mode", step.module).training for step in self._varying)
        constant = x.stride(0) == 0 and self.takes_constant and not varies and not x.requires_grad
        return (x[0] if constant else x.flatten(0, 1)), clock

    def run(self, x: Tensor, respond: Callable[[Tensor, int], Tensor]) -> Tensor:
        """The output of a sequence, of a function that takes it folded, with the number of moments."""
        folded, clock = self.fold(x)
        with clocked(self.neurons, clock):
            y = respond(folded, clock.moments)
        return unfolded(y, clock, self.ends)

    def rows(self, y: Tensor) -> Tensor:
        """Values of the output's shape with time x batch as one axis, where it has both."""
        return y.flatten(0, 1) if self.neurons and not self.ends else y

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Run the neurons for one moment that begins at rest; the states that they keep stay."""
        before = [(neuron.kept, neuron.continues) for neuron in self.neurons]
        for neuron in self.neurons:
            neuron.kept, neuron.continues = None, False
        try:
            with clocked(self.neurons, None):
                yield
        finally:
            for neuron, kept in zip(self.neurons, before, strict=True):
                neuron.kept, neuron.continues = kept


def _spikes_first(node: Node) -> bool:
    """Whether these are spiking neurons that synapses drive; the rate of others stays the same where the drive does."""
    first = next((step for step in node.steps if step.traits.in_time or step.traits.activation), None)
    return isinstance(node, Layer) and hasattr(first, "reader")


def _averaged(nodes: Sequence[Node], output: int) -> Iterator[tuple[Any, Any, bool]]:
    """The steps of spiking neurons of which only a mean over time is read, each with the read-out's step.

    The last is whether that stands behind synapses: signals at the layer's rate then arrive before it.
    """
    used = [source for node in nodes for source in node.sources]
    for node in nodes:
        for below, step in pairwise(node.steps):
            if hasattr(below, "reader") and hasattr(step, "shares"):
                yield below, step, False
        source = node.sources[0]
        linear = isinstance(node, Layer) and type(node.synapses) is LinearSynapses and source > 0
        if linear and used.count(source) == 1 and source != output and hasattr(next(iter(node.steps), None), "shares"):
            fired = dropwhile(lambda step: step.traits.moves, reversed(nodes[source - 1].steps))
            yield from ((step, node.steps[0], True) for step in islice(fired, 1) if hasattr(step, "reader"))


def at_rows(signal: Tensor, rows: int, moments: int) -> Tensor:
    """A signal, whose first axis holds time x batch or the batch, for a rate with so many rows.

    A signal for the whole sequence reaches each moment as its share, 1 / moments; one for each moment reaches what is
    the same at all of them as the sum.
    """
    if len(signal) == rows or moments == 1:
        return signal
    if len(signal) * moments == rows:
        return (signal / moments).repeat(moments, *[1] * (signal.dim() - 1))
    return signal.reshape(moments, rows, *signal.shape[1:]).sum(0)
