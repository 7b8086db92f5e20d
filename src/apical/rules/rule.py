"""Learning rules: how a circuit computes its output, and how credit is assigned."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor, nn

from apical.errors import CircuitError
from apical.feedback import Pathway
from apical.feedback.registry import Given, resolve
from apical.feedback.weights import PerLayer
from apical.layers import BackwardPass, BackwardPlan, Credit, ForwardState, Layer, NodeState
from apical.wiring import Wiring

NO_HOMEOSTASIS = "it learns from burst rates to cancel the feedback of events, which only BurstCCN has"
NO_DIRECT = "it leads from the output straight to each layer, which is DirectFeedbackAlignment"


class LearningRule(nn.Module, ABC):
    """A learning rule: a teaching signal times a feedback pathway times plasticity.

    A rule computes the circuit's output, and turns the loss' derivative and the state of the forward pass into credit:
    for each layer the signals before and after its synapses. The synapses' own plasticity makes the update
    (see `apical.layers.Synapses.plasticity`). What the two signals depend on is the rule's own matter, and
    `apical.measure.locality` measures it.

    Options are keyword arguments of the constructor, kept as attributes of the same names.

    Attributes:
        name: the name in the registry.
        title: the name that people use.
        summary: one line.
        paper: its source.
        needs: the circuits that it can teach.
        recommended: settings that the rule needs, where they differ from backpropagation's: "learning_rate_factor",
            "weight_decay", and "rectified_rate_factor", a further factor where a network rectifies.
        learns_from: "error" (the derivative of any loss), or the name of the loss in `apical.losses` that it needs.
        observables: the quantities that observers of the circuit receive for every layer beside its teaching signal, by
            name, each with its unit.
        saves_drives: save every layer's drive for `assign_credit`.
        saves_rates: save every node's rate for `assign_credit`.
        bounds: the observables that saturate, each with its lowest and its highest value.
        propagates: whether each layer's teaching signal is computed from the layer above it.
        transposed_limit: where its update is backpropagation's if its feedback is the transpose of the forward weights:
            "" everywhere, a limit in words, or None for nowhere.
        has_absolute_scale: whether its errors live on an absolute scale (bursts that saturate, nudging, targets), so
            that a multiplied loss changes more than the size of its updates; see `Circuit.loss_scale`.
        takes_time: whether it teaches circuits whose neurons have a memory, moment by moment.
        through_time: the weights by which errors travel back in time over recurrent synapses: "tied" for their own,
            None for none, so that credit in time passes through the neurons' own memory alone; "refused" where
            recurrent synapses have no meaning.
        by_moment: whether it needs every layer's rate and the signal there at every moment, since its teaching signal
            is not linear in them: a mean of spikes over time is then taken behind the synapses.
        shared_evenly: whether a signal for a whole sequence reaches each moment as the same part, and not as the part
            that the moment has in the output.
        needs_batch: whether it needs to know the samples of a batch; rates without a batch axis are then refused.
        carries_costs: whether signals at rates are derivatives of the loss, to which a unit's own cost of firing adds
            (`apical.layers.FiringCost`).
        refused_pathways: the feedback pathways that have no meaning for the rule, each with the reason.
        pathway: the feedback pathway, where the rule has one.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str]
    needs: ClassVar[str] = "any circuit"
    recommended: ClassVar[Mapping[str, float]] = MappingProxyType({})
    learns_from: ClassVar[str] = "error"
    observables: ClassVar[Mapping[str, str]] = MappingProxyType({})
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = MappingProxyType({})
    saves_drives: ClassVar[bool] = False
    saves_rates: ClassVar[bool] = False
    propagates: ClassVar[bool] = True
    transposed_limit: str | None = None
    has_absolute_scale: ClassVar[bool] = False
    needs_batch: ClassVar[bool] = True
    takes_time: ClassVar[bool] = False
    through_time: ClassVar[str | None] = None
    by_moment: bool = False
    shared_evenly: ClassVar[bool] = False
    carries_costs: ClassVar[bool] = False
    refused_pathways: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"homeostatic": NO_HOMEOSTASIS, "direct": NO_DIRECT}
    )
    pathway: Pathway

    def take_pathway(self, given: Given, **defaults: Any) -> None:
        """Set the feedback pathway from the option `feedback`.

        Args:
            given: a name, an object of `apical.feedback`, or a mapping with "name" and options.
            defaults: options for a pathway given by name.

        Raises:
            ConfigError: an unknown pathway, or one that has no meaning for the rule.
        """
        if isinstance(given, Mapping) and "name" not in given:
            default = inspect.signature(type(self).__init__).parameters["feedback"].default
            given = {"name": default, **given}
        self._given_feedback: str | dict[str, Any] | None = None
        if isinstance(given, (str, Mapping)):
            self._given_feedback = given if isinstance(given, str) else dict(given)
        self.pathway = resolve(type(self).__name__, given, self.refused_pathways, **defaults)

    @property
    def feedback(self) -> str | dict[str, Any] | Pathway:
        """The feedback pathway as it was given: a name, a mapping with "name" and options, or the object."""
        return self.pathway if self._given_feedback is None else self._given_feedback

    @property
    def has_uninitialized_state(self) -> bool:
        """Whether `initialize_lazily` still has to make state whose shape only a forward pass shows."""
        return False

    @property
    def teaches_input(self) -> bool:
        """Whether the rule can send a signal to the circuit's input without feedback weights made for it."""
        pathway = self._modules.get("pathway")
        return isinstance(pathway, Pathway) and pathway.teaches_input

    @property
    def equals_backprop(self) -> str | None:
        """Where its update is backpropagation's: "by construction", in a limit, or None for nowhere."""
        pathway = self._modules.get("pathway")
        fed = pathway.limit if isinstance(pathway, Pathway) else ""
        if self.transposed_limit is None or fed is None:
            return None
        return ", and ".join(filter(None, (self.transposed_limit, fed))) or "by construction"

    def recommends(self) -> Mapping[str, float]:
        """The part of `recommended` that applies with the options that the rule was made with."""
        pathway = self._modules.get("pathway")
        return {**(pathway.recommended if isinstance(pathway, Pathway) else {}), **self.recommended}

    def setup(self, wiring: Wiring) -> None:
        """Check what the rule needs of a circuit, and make the rule's own state.

        Raises:
            CircuitError: the rule cannot teach this circuit.
        """
        costly = [node.name for node in wiring.nodes if any(step.traits.costs for step in node.steps)]
        if costly and not self.carries_costs:
            raise CircuitError(
                f"{costly[0]}: it has a cost of firing (FiringCost), and under {type(self).__name__} no derivative of "
                "the loss arrives at rates. Use a rule whose errors travel, such as FeedbackAlignment, or KWinners."
            )
        pathway = self._modules.get("pathway")
        if isinstance(pathway, Pathway):
            pathway.setup(wiring)

    def refuse_a_second_circuit(self) -> None:
        """Refuse to become the rule of another circuit.

        Raises:
            CircuitError: it is the rule of one.
        """
        if getattr(self, "_attached", False):
            raise CircuitError(
                f"this {type(self).__name__} is the rule of another circuit, and its feedback weights belong to that "
                f"one. Make a new one: {type(self).__name__}(...)."
            )

    def index_parameters(self, places: Mapping[str, int]) -> None:
        """Give the rule's own synapses the indices of their parameters in the circuit, by the names in the rule."""
        for path, module in self.named_modules():
            if isinstance(module, PerLayer):
                prefix = f"{path}." if path else ""
                module.index_parameters(
                    {name.removeprefix(prefix): index for name, index in places.items() if name.startswith(prefix)}
                )

    def initialize_lazily(self, wiring: Wiring, state: ForwardState, y: Tensor) -> None:
        """Make the state whose shape only a forward pass shows."""

    def acts_between_passes(self) -> bool:
        """Whether `before_forward` does anything, for this rule or its pathway."""
        pathway = type(self._modules.get("pathway"))
        return type(self).before_forward is not LearningRule.before_forward or (
            issubclass(pathway, Pathway) and pathway.before_forward is not Pathway.before_forward
        )

    def before_forward(self, wiring: Wiring) -> None:
        """Act between forward passes while the circuit trains."""
        pathway = self._modules.get("pathway")
        if isinstance(pathway, Pathway):
            pathway.before_forward(wiring)

    def evaluate(self, model: nn.Module, x: Tensor) -> Tensor:
        """Compute the output where nothing is learned from it."""
        result: Tensor = model(x)
        return result

    def forward(self, wiring: Wiring, x: Tensor, plan: BackwardPlan) -> tuple[Tensor, ForwardState]:
        """Compute the output, and save what `assign_credit` needs.

        Args:
            wiring: of the circuit.
            x: (batch, ...).
            plan: what can learn.
        """
        return wiring.forward(x, plan, save_drives=self.saves_drives, save_rates=self.saves_rates)

    @abstractmethod
    def assign_credit(self, wiring: Wiring, state: ForwardState, error: Tensor) -> Iterator[Credit]:
        """Turn the loss' derivative into credit for every layer.

        Args:
            wiring: of the circuit.
            state: of the forward pass.
            error: dL/dy, of the shape of the output.

        Yields:
            for each layer the signals before and after its synapses, and the derivatives of its neurons' parameters.
        """

    @property
    def follows_loss(self) -> bool:
        """Whether the option `loss` is of use, so that a trainer that knows its loss passes it."""
        return False

    @classmethod
    def option_names(cls) -> list[str]:
        """The names of the options that the constructor takes."""
        parameters = inspect.signature(cls.__init__).parameters.values()
        return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]

    def options(self) -> dict[str, Any]:
        """The options with which the rule was made; a pathway given as an object is a new one with its options."""
        given = {name: getattr(self, name) for name in self.option_names()}
        return {
            name: type(value)(**value.options()) if isinstance(value, Pathway) else value
            for name, value in given.items()
        }

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options().items())


class Sweep(LearningRule):
    """One pass down: a signal arrives at a layer, passes its neurons, teaches its synapses, and is sent on.

    Subclasses set a pathway (`take_pathway`), or override `send_down` (what a layer sends to the one below), `somatic`
    (another teaching signal at the soma) or `visit` (all that happens at a layer).
    """

    needs_batch = False
    takes_time = True
    carries_costs = True

    def assign_credit(self, wiring: Wiring, state: ForwardState, error: Tensor) -> Iterator[Credit]:
        walk = wiring.backward(state, error)
        for layer, own in walk:
            yield from self.visit(walk, layer, own)
            del own
        if walk.derivatives:
            yield from walk.credits()

    def visit(self, walk: BackwardPass, layer: Layer, own: NodeState) -> Iterable[Credit]:
        """Assign credit to a layer, and send its signal down."""
        post = self.somatic(walk, layer, own)
        return () if post is None else self.teach(walk, layer, own, post)

    def teach(self, walk: BackwardPass, layer: Layer, own: NodeState, post: Tensor) -> Iterable[Credit]:
        """Send a layer's teaching signal down, and give it to the layer's synapses."""
        assert own.pre is not None
        # First down, then the credit: no update takes memory while a signal is on its way.
        if walk.needs_input_grad(layer):
            walk.send(layer, self.send_down(layer, own, post))
        pathway: Any = self._modules.get("pathway")  # by attribute, nn.Module searches longer than this method takes
        return (Credit(layer, own.pre, post, None, None if pathway is None else pathway.reciprocal(layer)),)

    def send_down(self, layer: Layer, own: NodeState, post: Tensor) -> Tensor:
        """The signal that a layer sends down, by the pathway.

        Args:
            layer: that sends.
            own: its state.
            post: (batch, units ...), the teaching signal at its soma.

        Returns:
            (batch, fan-in ...), of the shape of `own.pre`.
        """
        pathway: Any = self._modules["pathway"]
        sent: Tensor = pathway.send(layer, post, own.pre)
        return sent

    def somatic(self, walk: BackwardPass, layer: Layer, own: NodeState) -> Tensor | None:
        """The teaching signal at a layer's soma; None where no signal arrived."""
        signal = walk.receive(layer)
        return None if signal is None else walk.somatic(layer, own, signal)
