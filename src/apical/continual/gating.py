"""Protections that decide which units take part in a task, or which layers learn at all."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from apical.errors import CheckpointError, ConfigError
from apical.layers import Layer, Node, Step
from apical.layers.norms import Norm
from apical.layers.over_time import written_for_one_moment
from apical.optim.consolidation import Protection
from apical.optim.consolidation.protection import LossOfLabels
from apical.options import check_ranges
from apical.rules.neuromodulation.gate import Context, RandomGate
from apical.tracing import trace
from apical.wiring import Wiring


class XdG(Protection):
    """Context-dependent gating (XdG): each task has its own random share of the hidden units, and all others are 0.

        h <- h * m_t,   m_t fixed for each task t and hidden layer, with the share 1 - gated of its units at 1

    A gate, `apical.RandomGate`, follows every hidden activation. It is a module of the network: units that are closed
    neither answer nor learn, by any rule. The masks depend on the seed, the layer's name and the task alone. The task
    must be known in testing, so that it is for the scenario "task".

    `prepare` returns a copy of the model that has the gates.

    Args:
        gated: the share of units that are closed, from 0 (no protection) to below 1. At least one unit stays open.
        seed: of the masks.

    Raises:
        ConfigError: an option is out of range; the model has no module that is a hidden activation, one of these is
            used in two places or is a function, or the model has such gates already.

    Source: N. Y. Masse, G. D. Grant and D. J. Freedman (2018), Alleviating catastrophic forgetting using
        context-dependent gating and synaptic stabilization, PNAS 115, E10467: 80 % of the hidden units of each layer.
        There the gate comes with a stabilisation of synapses; here it is alone.
    """

    name = "xdg"
    title = "Context-dependent gating (XdG)"
    summary = "Each task uses its own random share of the hidden units; the task must be known in testing."
    paper = "Masse et al. 2018"
    needs_identity = True

    def __init__(self, *, gated: float = 0.8, seed: int = 0) -> None:
        self.gated = gated
        self.seed = seed
        check_ranges(self.name, self, {"gated": (0 <= gated < 1, "at least 0 and below 1")})
        self._context: Context | None = None
        self._task = 0

    def prepare(self, model: nn.Module, tasks: int) -> nn.Module:
        if any(isinstance(module, RandomGate) for module in model.modules()):
            raise ConfigError("xdg: the model has gates of an earlier call. Pass the model without them.")
        model = copy.deepcopy(model)
        context = self._context = Context("oracle", contexts=tasks)
        for parent, name, path in _hidden_activations(model):
            gate = RandomGate(context, gated=self.gated, seed=self.seed, name=path)
            setattr(parent, name, nn.Sequential(getattr(parent, name), gate))
        self.select(0)
        return model

    def attach(self, circuit: nn.Module, loss: LossOfLabels) -> None:
        _require_prepared(self.name, self._context is not None)
        super().attach(circuit, loss)

    def select(self, task: int) -> None:
        assert self._context is not None
        self._context.tell(task)
        self._task = task

    def state_dict(self) -> dict[str, Any]:
        return {"task": self._task}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if set(state) != {"task"}:
            raise CheckpointError(f"xdg: the state has {sorted(state)}, and must have 'task'.")
        self.select(state["task"])


class Freeze(Protection):
    """Frozen hidden layers: only the layers that the output is read from learn.

    A floor and not a method: what a protection adds to random features has to exceed it. The running statistics of
    batch norms in hidden layers still follow the data.

    `prepare` returns a copy of the model, in which all other parameters have `requires_grad` False, so that no rule
    computes an update for them.

    Raises:
        ConfigError: when it prepares a model, all its layers are read out, or the last one's parameters are others',
            too.
    """

    name = "freeze"
    title = "Frozen hidden layers"
    summary = "Only the last layer learns, on random features: a floor."
    _prepared = False

    def attach(self, circuit: nn.Module, loss: LossOfLabels) -> None:
        _require_prepared(self.name, self._prepared)
        super().attach(circuit, loss)

    def prepare(self, model: nn.Module, tasks: int) -> nn.Module:
        model = copy.deepcopy(model)
        wiring = Wiring(trace(written_for_one_moment(model)[0]))
        readouts = wiring.readouts()
        learning = {own for node in readouts for own in _parameters(node)}
        hidden = {own for node in wiring.nodes if node not in readouts for own in _parameters(node)}
        if not hidden or learning & hidden:
            fact = "the last layer shares parameters with a hidden one" if hidden else "the model has no hidden layer"
            raise ConfigError(f"freeze: {fact}. Use a network with hidden layers of their own.")
        for own in model.parameters():
            if own not in learning:
                own.requires_grad_(False)
        self._prepared = True
        return model


def _require_prepared(name: str, prepared: bool) -> None:
    if not prepared:
        raise ConfigError(
            f"{name}: it works in the network, and this one was built without it. Build the circuit with "
            "protection.prepare(model, tasks)."
        )


def _parameters(node: Node) -> Iterator[nn.Parameter]:
    """The parameters of a node: those of its synapses and of its neurons."""
    owners = [node.synapses.module] if isinstance(node, Layer) else []
    for module in [*owners, *(step.module for step in node.steps)]:
        if isinstance(module, nn.Module):
            yield from module.parameters()


def _hidden_activations(model: nn.Module) -> list[tuple[nn.Module, str, str]]:
    """Where the hidden activations of a model are: a module, the name in it, and the path in the model."""
    model, _ = written_for_one_moment(model)
    places = _places(model)
    wiring = Wiring(trace(model))
    steps = [step.module for node in wiring.nodes for step in node.steps]
    found: list[tuple[nn.Module, str, str]] = []
    for node in _hidden(wiring):
        fires = [step for step in node.steps if step.traits.activation] or list(filter(_may_fire, node.steps))
        if not fires:
            continue
        step = fires[-1]
        own = places.get(step.module, [])
        if len(own) != 1 or sum(module is step.module for module in steps) != 1:
            raise ConfigError(
                f"xdg: {step}, the activation after {node.name}, is a function or a module that is used twice, and "
                "a gate follows one module. Give each layer an activation module of its own, such as nn.ReLU()."
            )
        found += own
    if not found:
        raise ConfigError("xdg: the model has no hidden layer with an activation, so there is nothing to gate.")
    return found


def _places(model: nn.Module) -> dict[nn.Module, list[tuple[nn.Module, str, str]]]:
    """For each module where it stands: its parent, its name there, and its path."""
    places: dict[nn.Module, list[tuple[nn.Module, str, str]]] = {}
    for path, parent in model.named_modules():
        for name, module in parent._modules.items():
            if module is not None:
                places.setdefault(module, []).append((parent, name, f"{path}.{name}".removeprefix(".")))
    return places


def _hidden(wiring: Wiring) -> Iterator[Node]:
    """The nodes behind a layer that are no read-out."""
    readouts, driven = wiring.readouts(), set[int]()
    for node in wiring.nodes:
        if isinstance(node, Layer) or driven.intersection(node.sources):
            driven.add(node.index + 1)
            if node not in readouts:
                yield node


def _may_fire(step: Step) -> bool:
    """Whether a step of unknown traits may be an activation: a function, a module of the user's own, nn.PReLU."""
    kind, traits = type(step.module).__module__, step.traits
    if isinstance(step, Norm) or traits.moves or traits.masks or traits.pools:
        return False
    return step.name is not None or kind == "torch.nn.modules.activation" or not kind.startswith("torch.nn")
