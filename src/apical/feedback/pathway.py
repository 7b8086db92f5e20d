"""Feedback pathways: how a signal is carried down through a layer."""

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor, nn

from apical.layers import Layer, Synapses
from apical.wiring import Wiring

SMALLER_STEPS: Mapping[str, float] = MappingProxyType({"rectified_rate_factor": 0.2})
"""What random weights that stay as they are recommend: with backpropagation's steps, rates of rectified networks grow
without bound. docs/comparing.md has the figures."""


class Pathway(nn.Module):
    """How a signal is carried down through a layer: the feedback weights, and what they learn from.

    A pathway makes its weights when the circuit is built (`setup`), gives them (`weight`, `send`), names the increments
    from which they learn (`reciprocal`), and may act between forward passes (`before_forward`). Options are keyword
    arguments of the constructor, kept as attributes of the same names.

    Attributes:
        name: the name in the registry; by default that of the class.
        summary: one line.
        sends_down: whether it carries a signal from a layer to the one below; False where it leads from the output
            straight to each layer.
        learned: whether its weights are parameters that an optimizer moves.
        teaches_input: whether it can carry a signal to the circuit's input without weights made for it.
        descends: whether it carries signals by the transpose of the forward weights, so that a network that settles
            descends on an energy.
        limit: where its weights are the transpose of the forward ones: "" everywhere, a limit in words, None nowhere.
        recommended: settings that the pathway needs, where they differ from backpropagation's: "learning_rate_factor",
            "weight_decay", and "rectified_rate_factor", which multiplies the learning rate in networks that rectify.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    sends_down: ClassVar[bool] = True
    learned: ClassVar[bool] = False
    teaches_input: bool = False
    descends: ClassVar[bool] = False
    limit: ClassVar[str | None] = None
    recommended: ClassVar[Mapping[str, float]] = MappingProxyType({})

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if not hasattr(cls, "name"):
            cls.name = cls.__name__
        if cls.__dict__.keys() & {"weight", "send"}:  # weights of its own, whatever its base has
            cls.descends = cls.__dict__.get("descends", False)
            cls.limit = cls.__dict__.get("limit")

    def setup(self, wiring: Wiring) -> None:
        """Make the weights for a circuit."""

    def before_forward(self, wiring: Wiring) -> None:
        """Act between forward passes while the circuit trains."""

    def weight(self, layer: Layer) -> Tensor:
        """The feedback weights of a layer for one backward pass, of the shape of its own weight."""
        raise NotImplementedError(f"{type(self).__name__} is abstract: it has no weight of a layer.")

    def send(self, layer: Layer, post: Tensor, pre: Tensor) -> Tensor:
        """Carry a signal down through a layer, by the transpose of `weight`.

        Rules whose networks settle call `weight` alone, so an override may be faster but gives the same result.

        Args:
            layer: through which it is carried.
            post: (batch, units ...), at its soma.
            pre: (batch, fan-in ...), for its shape and type alone.

        Returns:
            (batch, fan-in ...)
        """
        return layer.synapses.transpose_product(post, self.weight(layer), pre)

    def reciprocal(self, layer: Layer) -> Synapses | None:
        """The feedback synapses that take the increment of the layer's own, or None."""
        return None

    @classmethod
    def option_names(cls) -> list[str]:
        """The names of the options that the constructor takes."""
        parameters = inspect.signature(cls.__init__).parameters.values()
        return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]

    def options(self) -> dict[str, Any]:
        """The options with which the pathway was made."""
        return {name: getattr(self, name) for name in self.option_names()}

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options().items())
        return f"{type(self).__name__}({options})"
