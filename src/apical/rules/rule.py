"""What a learning rule is: how a circuit responds, and how it is taught."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from apical.layers import Layer, Node, Record
from apical.wiring import Activity, Credit, Reach, Wiring


class LearningRule(nn.Module, ABC):
    """A backward pass of its own.

    A rule lets the circuit respond, and turns the loss's derivative and the activity into teaching signals:
    for each layer what its synapses see before and after them. What the synapses make of it is not the
    rule's business (see `apical.layers.Synapses.plasticity`), so no rule can reach around locality.

    Options are keyword arguments of the constructor, kept as attributes of the same names.

    Attributes:
        name: the name in the registry.
        title: what people call it.
        summary: one line.
        paper: where it comes from.
        needs: what it asks of a circuit.
        recommended: settings that the rule is known to want, where they differ from backpropagation's:
            "learning_rate_factor" and "weight_decay".
        learns_from: "error" (the derivative of any loss), or the name of the one in `apical.losses` that it needs.
        carries: what an observer of the circuit is shown in every layer beside its teaching signal: the quantity's
            name, and what it is, with its unit.
        records_drives: keep every layer's drive for `teach`.
        records_rates: keep every node's rate for `teach`.
        signals_travel: whether a teaching signal is made of the one above it, as far as to the lowest layer.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str]
    needs: ClassVar[str] = "any circuit"
    recommended: ClassVar[Mapping[str, float]] = MappingProxyType({})
    learns_from: ClassVar[str] = "error"
    carries: ClassVar[Mapping[str, str]] = MappingProxyType({})
    records_drives: ClassVar[bool] = False
    records_rates: ClassVar[bool] = False
    signals_travel: ClassVar[bool] = True

    @property
    def ready(self) -> bool:
        """Whether the rule has all the state that it needs; if not, `prepare` is called with a first answer."""
        return True

    @property
    def teaches_input(self) -> bool:
        """Whether the rule can hand an error to the circuit's input without feedback weights of its own."""
        return False

    def recommends(self) -> Mapping[str, float]:
        """What of `recommended` applies with the options that the rule was made with."""
        return self.recommended

    def bind(self, wiring: Wiring) -> None:
        """Check what the rule needs of a circuit, and make the rule's own state.

        Raises:
            CircuitError: the rule cannot teach this circuit.
        """

    def prepare(self, wiring: Wiring, activity: Activity, y: Tensor) -> None:
        """Make the state that depends on shapes that only an answer shows."""

    def between(self, wiring: Wiring) -> None:
        """What the rule does between responses while the circuit trains."""

    def answer(self, model: nn.Module, x: Tensor) -> Tensor:
        """Answer an input where nothing is learned from it."""
        result: Tensor = model(x)
        return result

    def respond(self, wiring: Wiring, x: Tensor, reach: Reach) -> tuple[Tensor, Activity]:
        """Answer an input, and keep what `teach` needs.

        Args:
            wiring: the circuit's wiring.
            x: (batch, ...).
            reach: what can learn.
        """
        return wiring.respond(x, reach, drives=self.records_drives, rates=self.records_rates)

    @abstractmethod
    def teach(self, wiring: Wiring, activity: Activity, error: Tensor) -> Iterator[Credit]:
        """Turn the loss's derivative into a teaching signal for every layer.

        Args:
            wiring: the circuit's wiring.
            activity: what `respond` kept.
            error: dL/dy, of the shape of the answer.

        Yields:
            for each layer what its synapses see before and after them.
        """

    @classmethod
    def option_names(cls) -> list[str]:
        """The names of the options that the constructor takes."""
        parameters = inspect.signature(cls.__init__).parameters.values()
        return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]

    def options(self) -> dict[str, Any]:
        """The options that the rule was made with."""
        return {name: getattr(self, name) for name in self.option_names()}

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options().items())


class Sweep(LearningRule):
    """The rules that go down once: an error arrives at a layer, passes its neurons, teaches, and goes on."""

    def teach(self, wiring: Wiring, activity: Activity, error: Tensor) -> Iterator[Credit]:
        descent = wiring.descend(activity, error, once=True)
        for layer, record, arrived in descent:
            if arrived is None:
                continue
            post = descent.somatic(layer, record, arrived) if layer.steps else arrived
            del arrived  # its memory is free for what comes
            assert record.pre is not None
            # First down, then the credit: so no synapses' update takes memory while an error is on its way.
            if descent.goes_on(layer):
                descent.send(layer, self.feedback(layer, record, post))
            yield self.credit(layer, record.pre, post)
            del record, post

    def credit(self, layer: Layer, pre: Tensor, post: Tensor) -> Credit:
        """What the layer's synapses see."""
        return Credit(layer, pre, post)

    @abstractmethod
    def feedback(self, layer: Layer, record: Record, post: Tensor) -> Tensor:
        """The error that a layer sends down: (batch, units ...) at its soma to (batch, fan-in ...) below."""


class PerLayer(nn.Module):
    """A rule's own tensors, one a layer: buffers, or parameters where they are learned by the optimizer.

    Args:
        grows: take up tensors from a state_dict for layers that have none yet.
    """

    grows = False

    def __init__(self, *, grows: bool = False) -> None:
        super().__init__()
        self.grows = grows
        self._keys: dict[str, str] = {}

    def _key(self, layer: Node) -> str:
        known = self._keys.get(layer.name)
        if known is not None:
            return known
        key = layer.name.replace(".", "/")
        # A layer may be called what this module calls something of its own.
        return f"/{key}" if hasattr(PerLayer, key) or key in ("_keys", "grows") else key

    def hold(self, layer: Node, tensor: Tensor, *, learned: bool = False) -> None:
        """Keep a tensor for a layer."""
        self._keys[layer.name] = self._key(layer)
        if learned:
            self.register_parameter(self._key(layer), nn.Parameter(tensor))
        else:
            self.register_buffer(self._key(layer), tensor)

    def __contains__(self, layer: Node) -> bool:
        key = self._key(layer)
        return key in self._buffers or key in self._parameters

    def __getitem__(self, layer: Node) -> Tensor:
        key = self._key(layer)
        tensor = self._buffers.get(key)
        if tensor is None:
            tensor = self._parameters[key]
        assert tensor is not None
        return tensor

    def learned(self, layer: Node) -> nn.Parameter | None:
        """The layer's parameter, or None where it has none."""
        return self._parameters.get(self._key(layer))

    def __len__(self) -> int:
        return len(self._buffers) + len(self._parameters)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if self.grows:
            for key, tensor in state_dict.items():
                own = key.removeprefix(prefix)
                if key.startswith(prefix) and own not in self._buffers:
                    self.register_buffer(own, torch.empty_like(tensor))
        super()._load_from_state_dict(state_dict, prefix, *args)
