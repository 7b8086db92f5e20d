"""Locality: how far a rule's update moves when something is changed that a local synapse could not know.

The interventions are made on the running rule, between the forward pass and the backward pass. Changing a `Credit`
afterwards would show nothing: an outer product has only two ends.
"""

import copy
import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from apical import feedback as pathways
from apical import rules as registry
from apical.circuit import Circuit
from apical.errors import ConfigError
from apical.feedback.weights import PerLayer
from apical.layers import ForwardState, Layer, Node
from apical.layers.over_time import refuse_time
from apical.losses import LOSSES, Loss
from apical.neurons import BurstDependentPlasticity
from apical.rules import LearningRule

TOLERANCE = 1e-9  # in double precision: rounding is far below, and an effect far above
INPUTS, CLASSES = 8, 4
_SIZES, _CHANCES = (0.3, 1.0, 3.0), 10

VARIANTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "oja": ("", ":units=sanger", ":units=independent"),
        "burst_ccn": ("", ":events=learned"),
        "burstprop": ("", ":recurrent=true"),
        "dendritic_microcircuit": ("", ":dynamics=steady_state", ":feedback=inverse,cancellation_rate=1.0"),
        "e_prop": ("", ":feedback=symmetric", ":feedback=adaptive"),
        "equilibrium_propagation": ("", ":network=hopfield"),
        "predictive_coding": (
            *("", ":variant=zero_divergence", ":variant=strict", ":variant=strict,tolerance=0.1,steps=100"),
            *(":variant=error_optimised", ":variant=incremental"),
        ),
        "segregated_dendrites": ("", ":feedback=direct,feedback.symmetric=true"),
    }
)
"""The options, by rule, of the variants whose locality differs."""


@dataclass(frozen=True)
class Locality:
    """How far an update moves under each intervention, as a part of its size; None: it has no meaning here.

    Attributes:
        rule: with its options.
        feedback: the pathway.
        neurons: of the network's hidden layers.
        weights_above: every weight above a layer is replaced after the forward pass; the update of that layer.
        other_samples: the update of a batch beside the sum of the updates of its samples; of a rule that draws random
            numbers, one sample's part of the update beside its part among other samples.
        other_units: drives and weights of a layer's other units are replaced, and the signals that arrive at the layer
            are kept; the update of one unit's synapses.
        future_moments: inputs after a moment are replaced; the update up to that moment. For rules in time.
    """

    rule: str
    feedback: str = "-"
    neurons: str = "-"
    weights_above: float | None = None
    other_samples: float | None = None
    other_units: float | None = None
    future_moments: float | None = None


def _chain(norm: Callable[[int], nn.Module] | None = None, activation: Callable[[], nn.Module] = nn.Tanh) -> nn.Module:
    first, second = ([] if norm is None else [norm(units)] for units in (7, 6))
    return nn.Sequential(
        *(nn.Linear(INPUTS, 7), *first, activation(), nn.Linear(7, 6), *second, activation(), nn.Linear(6, CLASSES))
    )


def _normalised_by_batch() -> nn.Module:
    """Channels at four positions, so that a batch of one sample has statistics, too."""
    hidden = (nn.Conv1d(2, 7, 1), nn.BatchNorm1d(7), nn.Tanh(), nn.Conv1d(7, 6, 1), nn.BatchNorm1d(6), nn.Tanh())
    return nn.Sequential(nn.Unflatten(1, (2, 4)), *hidden, nn.Flatten(), nn.Linear(24, CLASSES))


NEURONS: Mapping[str, Callable[[], nn.Module]] = MappingProxyType(
    {
        "tanh": _chain,
        "softmax": partial(_chain, activation=partial(nn.Softmax, 1)),
        "layer_norm": partial(_chain, nn.LayerNorm),
        "batch_norm": _normalised_by_batch,
    }
)
"""Networks of two hidden layers, by the neurons of these."""

Intervention = Callable[[Circuit, ForwardState], None]


def locality(rule: LearningRule | str, model: nn.Module, x: Tensor, y: Tensor) -> Locality:
    """Intervene on a rule that teaches a model, in double precision, and measure how far its updates move.

    Args:
        rule: that no circuit has yet, or the name of one.
        model: that it can teach; it is copied.
        x: (batch, ...), examples.
        y: (batch,), their labels.

    Raises:
        CircuitError: the rule cannot teach the model, or the model's neurons have a memory.

    Example:
        >>> import torch, apical
        >>> from apical import measure
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        >>> x, y = torch.randn(6, 4), torch.randint(0, 3, (6,))
        >>> measure.locality(apical.FeedbackAlignment(), model, x, y).weights_above
        0.0
    """
    refuse_time(model, "locality", "Measure the same network of rates.")
    x, y = x.double().cpu(), y.cpu()
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # an unsettled network is measured as it is
        torch.manual_seed(0)
        circuit = Circuit(copy.deepcopy(model).double().cpu(), rule, reduction="sum", example=x)
        rule = circuit.rule
        with torch.no_grad():
            for own in rule.parameters():  # away from their start, at which some are zero, or copies
                own.add_(torch.randn_like(own), alpha=0.1)
        pathway = getattr(rule, "pathway", None)
        return Locality(
            rule.name,
            "-" if pathway is None else pathway.name,
            weights_above=_weights_above(circuit, x, y),
            other_samples=_with_chances(_other_samples, circuit, x, y),
            other_units=_with_chances(_other_units, circuit, x, y),
        )


def _weights_above(circuit: Circuit, x: Tensor, y: Tensor) -> float | None:
    updated = _updated(circuit, x, y)
    found = []
    for layer in circuit.layers[:-1]:

        def exchange(twin: Circuit, state: ForwardState, above: int = layer.index + 1) -> None:
            for node in twin.wiring.nodes[above:]:
                for parameter in _parameters(twin, node):
                    parameter.add_(_like(parameter), alpha=0.25)  # signs change, and what settles still does

        found.append(_change(_at(updated, layer), _at(_updated(circuit, x, y, exchange), layer)))
    return max(found, default=None)


def _other_samples(circuit: Circuit, x: Tensor, y: Tensor) -> float:
    if hasattr(circuit.rule, "randomness"):
        # A sample alone would get other draws: compared is the first sample's part in two batches of one size.
        other = x.roll(1, -1)
        (a, b), (c, d) = [
            [_updated(circuit, torch.cat([first, rest]), y) for first in (x[:1], other[:1])]
            for rest in (x[1:], other[1:])
        ]
        return max(_change(_at(a, layer) - _at(b, layer), _at(c, layer) - _at(d, layer)) for layer in circuit.layers)
    batch = _updated(circuit, x, y)
    single = [_updated(circuit, x[place : place + 1], y[place : place + 1]) for place in range(len(x))]
    return max(
        _change(_at(batch, layer), torch.stack([_at(one, layer) for one in single]).sum(0)) for layer in circuit.layers
    )


def _other_units(circuit: Circuit, x: Tensor, y: Tensor) -> float | None:
    """Of the layers that only the input drives, where no rate moves that arrives."""
    found = []
    for layer in circuit.wiring.lowest() - circuit.wiring.readouts():
        signals: list[Any] = []
        before = _updated(circuit, x, y, partial(_hold, layer.index, signals, False))
        units = range(layer.synapses.units)
        # The last, which an order of the units would show, and the one that learns most: others may be silent.
        for unit in {units[-1], max(units, key=lambda unit: float(_at(before, layer, unit).norm()))}:
            after = _updated(circuit, x, y, partial(_replace_others, layer.index, unit, signals))
            found.append(_change(_at(before, layer, unit), _at(after, layer, unit)))
    return max(found, default=None)


def _with_chances(
    measured: Callable[[Circuit, Tensor, Tensor], float | None], circuit: Circuit, x: Tensor, y: Tensor
) -> float | None:
    """Measured again at other inputs, until it moves, where a rule ends its steps once all has settled.

    Whether that is a step earlier or later is a matter of chance.
    """
    rule: Any = circuit.rule
    steady = getattr(rule, "dynamics", None) == "steady_state"
    stops = steady or (rule.name == "predictive_coding" and rule.tolerance is not None)
    for turn in range(_CHANCES if stops else 1):
        found = measured(circuit, x.roll(turn, -1) * 2 ** (turn % 3), y)
        if found is not None and found > TOLERANCE:
            break
    return found


def _updated(circuit: Circuit, x: Tensor, y: Tensor, intervene: Intervention | None = None) -> Circuit:
    """A copy of the circuit after one backward pass.

    Args:
        circuit: stays as it is.
        x: examples.
        y: their labels.
        intervene: called between the forward pass and the rule's backward pass.
    """
    twin = copy.deepcopy(circuit)
    assign = twin.assign_gradients

    def intervened(state: ForwardState, *rest: Any) -> Any:
        if intervene is not None:
            intervene(twin, state)
        return assign(state, *rest)

    twin.__dict__["assign_gradients"] = intervened
    monitor: Any = getattr(twin.rule, "monitor", None)
    if monitor is not None:  # an intervention may raise an energy without a divergence
        monitor.stop = lambda *_, **__: None
    torch.manual_seed(0)
    torch.autograd.backward(_loss(twin.rule)(twin(x), y))
    return twin


def _loss(rule: LearningRule) -> Loss:
    own = LOSSES.get(rule.learns_from)
    return partial(nn.functional.cross_entropy if own is None else partial(own, policy="greedy"), reduction="sum")


def _parameters(circuit: Circuit, node: Node) -> list[nn.Parameter]:
    """The model's parameters at a node."""
    places = [circuit.wiring.parameters[index] for index in node.own_indices]
    return [parameter for module, name in places if (parameter := module._parameters[name]) is not None]


def _at(circuit: Circuit, layer: Layer, unit: int | None = None) -> Tensor:
    """The update at a layer, the rule's own synapses there included; or that of one unit's forward synapses."""
    found: list[Any] = _parameters(circuit, circuit.wiring.nodes[layer.index])
    if unit is not None:
        units = layer.synapses.units
        return torch.cat([_gradient(each)[unit].flatten() for each in found if each.shape[:1] == (units,)])
    for part in circuit.rule.modules():
        if isinstance(part, PerLayer) and layer in part and part.learns(layer):
            synapses = part.synapses(layer)
            found += [each for each in (synapses.weight, synapses.bias) if each is not None]
    return torch.cat([_gradient(each).flatten() for each in found])


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _like(tensor: Tensor) -> Tensor:
    """Random numbers of the size of a tensor's."""
    return torch.randn_like(tensor) * tensor.square().mean().sqrt()


def _change(before: Tensor, after: Tensor) -> float:
    """The difference of two updates, as a part of the first."""
    moved = float((after - before).norm())
    return moved / float(before.norm()) if moved and before.any() else math.inf if moved else 0.0


def _hold(index: int, signals: list[Any], replay: bool, twin: Circuit, state: ForwardState) -> None:
    """Record the signals that arrive at a layer, pass by pass, or give it those that were recorded."""
    backward, recorded = twin.wiring.backward, iter(list(signals))

    def held(*arguments: Any, **options: Any) -> Any:
        walk = backward(*arguments, **options)
        receive = walk.receive

        def received(node: Node) -> Any:
            message = receive(node)
            if node.index != index:
                return message
            if replay:
                return copy.deepcopy(next(recorded, signals[-1] if signals else message))
            signals.append(copy.deepcopy(message))
            return message

        walk.__dict__["receive"] = received
        return walk

    twin.wiring.__dict__["backward"] = held


def _replace_others(index: int, unit: int, signals: list[Any], twin: Circuit, state: ForwardState) -> None:
    """Replace drives and weights of a layer's units but one, and keep the signals that arrive at the layer."""
    _hold(index, signals, True, twin, state)
    layer = twin.wiring.nodes[index]
    assert isinstance(layer, Layer)
    own, synapses = state[layer], layer.synapses
    assert own.pre is not None
    drive = synapses.forward(own.pre) if own.drive is None else own.drive.clone()
    others = torch.arange(synapses.units) != unit
    shape = [1] * drive.dim()
    shape[synapses.unit_axis] = -1
    drive = torch.where(others.view(shape), _like(drive), drive)
    rate, saved = layer.fire(drive.clone())
    own.saved = saved if own.saved else []
    own.drive = None if own.drive is None else drive
    own.rate = None if own.rate is None else rate
    for parameter in (synapses.weight, synapses.bias):
        if parameter is not None:
            parameter[others] = _like(parameter)[others]


# Rules in time


def future_moments(learned: Callable[[Tensor, int], Tensor], inputs: Tensor, others: Tensor, moment: int) -> float:
    """How far the update up to a moment moves when the inputs after it are replaced.

    Args:
        learned: takes inputs (time, ...) and a moment, and gives what is learned up to it.
        inputs: (time, ...).
        others: of the same shape, of which those from the moment on are used.
        moment: the first whose input is replaced.
    """
    replaced = torch.cat([inputs[:moment], others[moment:]])
    return _change(learned(inputs, moment), learned(replaced, moment))


def _augment(spikes: Tensor, moment: int) -> Tensor:
    from apical.reinforcement import Augment

    network = Augment(INPUTS, CLASSES, dtype=torch.float64)
    start = [parameter.clone() for parameter in network.parameters()]
    for now, seen in enumerate(spikes.double()):
        network.step(seen[None], seen[:1], learning=now < moment)
    return torch.cat([(a - b).flatten() for a, b in zip(network.parameters(), start, strict=True)])


def _bursts(spikes: Tensor, moment: int) -> Tensor:
    pre, post = spikes.chunk(2, 1)
    plasticity = BurstDependentPlasticity()
    state = plasticity.start(torch.zeros(INPUTS // 2, INPUTS // 2, dtype=torch.float64), event_rate=5.0)
    gate = torch.arange(len(spikes)) < moment
    return plasticity.run(state, pre, post, step=4.0, gate=gate).weights


IN_TIME: Mapping[str, Callable[[Tensor, int], Tensor]] = MappingProxyType(
    {"augment": _augment, "burst_dependent_plasticity": _bursts}
)
"""Rules in time: what each learns from a raster (time, INPUTS) up to a moment."""


# The table


def rows(
    rules: Mapping[str, Callable[..., LearningRule]], feedback: Sequence[str] | None = None, *, neurons: str = "tanh"
) -> Iterator[Locality]:
    """The locality of rules under every pathway that each accepts, on a small network.

    Args:
        rules: by their labels, what makes each; it accepts the option `feedback` if the rule does.
        feedback: the pathways, where a rule accepts several; None: all.
        neurons: of `NEURONS`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        deep, shallow = NEURONS[neurons](), nn.Sequential(nn.Linear(INPUTS, 7), nn.Tanh(), nn.Linear(7, CLASSES))
        # Samples of several sizes need several numbers of steps, and drive some neurons into saturation.
        x = torch.randn(len(_SIZES), INPUTS) * torch.tensor(_SIZES)[:, None]
    y = torch.arange(len(x)) % CLASSES
    for label, make in rules.items():
        name, _, options = label.partition(":")
        own = inspect.signature(registry.get(name)).parameters.get("feedback")
        chooses = "feedback=" not in options and own is not None and own.default in pathways.names()
        for given in (feedback or pathways.names()) if chooses else [None]:
            try:
                rule = make() if given is None else make(feedback=given)
            except ConfigError:
                continue  # it has no meaning for the rule
            found = locality(rule, deep, x, y)
            if getattr(rule, "network", None) == "hopfield":
                # The only signal that can be kept there is the error, which arrives at the last hidden layer.
                other = locality(type(rule)(**rule.options()), shallow, x, y)
                found = replace(found, other_units=other.other_units)
            yield replace(found, rule=label, neurons=neurons)


def default_rules() -> list[str]:
    """The labels of every registered rule and of the variants whose locality differs."""
    return [f"{name}{options}" for name in registry.names() for options in VARIANTS.get(name, ("",))]


def rows_in_time() -> Iterator[Locality]:
    """The locality of the rules in time, on random spikes."""
    generator = torch.Generator().manual_seed(0)
    spikes, others = torch.rand(2, 40, INPUTS, generator=generator) < 0.3
    for name, learned in IN_TIME.items():
        yield Locality(name, future_moments=future_moments(learned, spikes, others, 20))
