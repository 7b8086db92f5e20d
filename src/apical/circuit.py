"""A circuit: a model and a learning rule that gives its parameters their `.grad`."""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from apical import compat, rules
from apical.autograd import Parameters, connect, empty_gradients, standing_in
from apical.errors import CircuitError
from apical.finiteness import check_input, finite, name_the_layer, to_check
from apical.layers import BackwardPlan, Credit, ForwardState, Layer
from apical.layers.axes import Reduction, check_reduction, divisor, find_batch_axes
from apical.layers.effective import EffectiveWeights
from apical.layers.memory import undisturbed, warn_of_lasting_state
from apical.layers.over_time import folded_axis, written_for_one_moment
from apical.rules.rule import LearningRule
from apical.tracing import trace
from apical.vigilance import FeedbackWatch, ModelWatch, ScaleWatch, mismatch_of, refuse_own_input
from apical.wiring import Observer, Wiring


class Circuit(nn.Module):
    """A PyTorch model that learns by a rule.

    `circuit(x)` computes what the model computes. `loss.backward()` leaves in the `.grad` of the model's parameters the
    rule's update with its sign turned, so that any optimizer descends by it. Model and circuit share the same
    parameters, and the model stays usable alone.

    Example:
        >>> import torch, apical
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> circuit = apical.Circuit(model, apical.FeedbackAlignment())
        >>> circuit(torch.randn(5, 4)).sum().backward()
        >>> model[0].weight.grad.shape
        torch.Size([8, 4])

    Args:
        model: any module that `torch.fx` can trace, one tensor in, one out. Of an `apical.neurons.OverTime` it is the
            model inside, whose input is encoded as there.
        rule: a learning rule, or the name of one.
        example: an input, from which state is made whose shape only a forward pass shows (direct feedback). Without it,
            the first forward pass makes that state, outside of compilers.
        batch_axis: the axis of the input that holds the batch: 0, or 1 for data of (time, batch, ...). The axis of
            every rate that follows it is found, and rules that need the samples of a batch refuse rates without one.
        reduction: how the loss reduces a batch: "mean" (PyTorch's default), "sum", the number by which it divides each
            sample's part, or a function of dL/dy that returns this number. Rules whose equations are about one sample
            undo it. "mean" divides by the samples, and by the moments, too, where neurons have a memory.
        loss_scale: the factor by which the loss is multiplied before `backward` (GradScaler, accumulation): a number,
            or a function such as `scaler.get_scale`. The error is divided by it before the rule and the updates are
            multiplied by it after, so that rules whose errors have an absolute scale see the loss itself.
        check_finite: raise an error with the layer's name where NaN or infinity appears.
        teach_input: send teaching signals to the input, too, so that the module that computed the input can learn.
            Rules with feedback weights of their own then have some for the first layer.

    Attributes:
        model: the plain model.
        rule: the rule that it learns by; assigning another rule is `set_rule`.
        wiring: the layers and junctions, and the operations that rules use.

    Raises:
        CircuitError: the model cannot become a circuit, or the rule cannot teach it.
        ConfigError: an unknown reduction, or a batch axis that is not a number from 0 on.
    """

    model: nn.Module
    rule: LearningRule

    def __init__(
        self,
        model: nn.Module,
        rule: LearningRule | str,
        *,
        example: Tensor | None = None,
        batch_axis: int = 0,
        reduction: Reduction = "mean",
        loss_scale: float | Callable[[], float] = 1.0,
        check_finite: bool = True,
        teach_input: bool = False,
    ) -> None:
        super().__init__()
        model, self.encode = written_for_one_moment(model)
        if not isinstance(model, nn.Module):
            raise CircuitError(f"a circuit is made of an nn.Module, not of {type(model).__name__}.")
        inner = [path or "the model" for path, module in model.named_modules() if isinstance(module, Circuit)]
        if inner:
            raise CircuitError(
                f"{inner[0]}: circuits cannot be nested, because a layer can follow one rule only. Build one circuit "
                "of the plain models, or apply two circuits one after the other."
            )
        check_reduction(reduction, batch_axis)
        self.check_finite = check_finite
        self.loss_scale = loss_scale
        self.model = model
        batch_axis, graph = folded_axis(model, batch_axis), trace(model, teach_input=teach_input)
        self.wiring = Wiring(graph, batch_axis=batch_axis, reduction=reduction, teach_input=teach_input)
        self.training, self._rule_version = model.training, 0
        self._model_watch = ModelWatch(model)
        self._may_remember = any(node.may_remember for node in self.wiring.nodes)
        self.set_rule(rule)
        if example is not None:
            self.initialize(self.wiring.sequences.fold(self.encode(example))[0])

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, in the order of the forward pass."""
        return tuple(self.wiring.layers)

    def set_rule(self, rule: LearningRule | str) -> Circuit:
        """Learn by this rule from now on; the model's weights stay.

        Raises:
            CircuitError: the rule cannot teach this circuit (the old rule then stays), or is part of another.
        """
        if isinstance(rule, str):
            rule = rules.make(rule)
        if not isinstance(rule, LearningRule):
            raise CircuitError(f"a circuit learns by a LearningRule or the name of one, not by {rule!r}.")
        if rule is not self._modules.get("rule"):
            rule.refuse_a_second_circuit()
        own = (rule.takes_time, rule.through_time, rule.by_moment, rule.shared_evenly)
        with self.wiring.sequences.learning_by(type(rule).__name__, *own):
            rule.setup(self.wiring)
        rule._attached = True  # type: ignore[assignment]
        rule.train(self.training)
        before = self._modules.get("rule")
        if before is not None and before is not rule:
            before._attached = False  # type: ignore[assignment]
        self._modules["rule"] = rule
        places = self._place_parameters()
        self._acts_between_passes = rule.acts_between_passes()
        self._feedback_watch = FeedbackWatch(type(rule).__name__) if places else None
        self._scale_watch = ScaleWatch(type(rule).__name__, rule.bounds) if rule.has_absolute_scale else None
        return self

    def _place_parameters(self) -> dict[str, int]:
        """Find all parameters, those of the rule last; the indices of the rule's by their names."""
        rule = self.rule
        self._rule_version += 1
        self._parameters_at = list(self.wiring.parameters)
        places = {}
        for name, _ in rule.named_parameters():
            owner, _, own = name.rpartition(".")
            places[name] = len(self._parameters_at)
            self._parameters_at.append((rule.get_submodule(owner), own))
        rule.index_parameters(places)
        return places

    def _read_again(self) -> None:
        """Read where the parameters are now: weights were parametrised or pruned, or plain attributes are others."""
        try:
            same = self.wiring.adopt_parameters(trace(self.model, teach_input=self.wiring.teach_input))
        except CircuitError:
            same = False
        if not same:
            self._model_watch.refuse()
        self._model_watch = self._model_watch.renewed()
        self._place_parameters()

    def rule_version(self) -> int:
        """A number that changes with the rule and the places of parameters."""
        return self._rule_version

    def observe(self, observer: Observer) -> RemovableHandle:
        """Call `observer(layer, quantities)` with the quantities that the rule carries in every layer.

        A rule's `observables` lists them: event rates, burst rates, apical potentials and others, each a tensor of the
        observer's own; every rule has `teaching_signal`. The handle's `remove()`, or the end of a `with` block, ends
        it.

        Example:
            >>> import torch, apical
            >>> circuit = apical.Circuit(torch.nn.Linear(4, 3), apical.Backprop())
            >>> with circuit.observe(lambda layer, quantities: print(layer, list(quantities))):
            ...     circuit(torch.randn(5, 4)).sum().backward()
            Linear ['teaching_signal']
        """
        return self.wiring.observe(observer)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "rule":
            self.set_rule(value)
        else:
            super().__setattr__(name, value)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def initialize(self, x: Tensor) -> None:
        """Find the batch axes for inputs like this one, and make the state whose shape only a forward pass shows.

        Buffers and random states stay as they were. The first forward pass calls this.

        Raises:
            CircuitError: a rate without a batch axis, and a rule that needs the samples of a batch.
        """
        self._warn_of_lasting_state(x)
        with self.wiring.sequences.at_rest():  # one moment shows all shapes
            self._initialize(x)

    def _initialize(self, x: Tensor) -> None:
        wiring, everything = self.wiring, self.wiring.plan((True,) * len(self._parameters_at), False)
        axes = find_batch_axes(self.model, wiring.nodes, wiring.last_use, wiring.output, x, wiring.batch_axis)
        wiring.batch_axes[x.dim()] = axes
        if not self.rule.has_uninitialized_state or not x.numel():
            return  # an empty batch teaches nothing, and a later one shows the shapes
        with undisturbed(self.model, x):
            y, state = wiring.forward(x.detach(), everything)
            state.batch_axes = axes
            wiring.require_batch(x, y, state, type(self.rule).__name__)
            self.rule.initialize_lazily(wiring, state, y)

    def _warn_of_lasting_state(self, x: Tensor, compiling: bool = False) -> None:
        if self._may_remember and x.numel() and not compiling:  # an empty batch shows nothing
            self._may_remember = False
            with self.wiring.sequences.at_rest():  # what continue_state() keeps was asked for
                warn_of_lasting_state(self.model, x)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output for an input: (batch, ...) to the shape of the model's output.

        With neurons that have a memory: (time, batch, ...) to (time, batch, ...), or to (batch, ...) where a read-out
        averages over time. `x.expand(time, *x.shape)`, which stays the same, passes the first synapses once.

        Raises:
            NonFiniteError: NaN or infinity in the input or in a layer's rate.
            CircuitError: the input requires a gradient that the rule cannot send, or has no time.
        """
        sequences = self.wiring.sequences
        return sequences.run(self.encode(x), self._respond) if sequences.neurons else self._respond(x, 1)

    def continue_state(self, continues: bool = True) -> None:
        """Begin each sequence with the state in which the last one ended; credit ends there. False forgets it."""
        self.wiring.sequences.continue_state(continues)

    def _respond(self, x: Tensor, moments: int) -> Tensor:
        """The output for an input whose first axis holds time x batch, if there is time."""
        if not torch.compiler.is_compiling():
            learns = torch.is_grad_enabled() or type(self.rule).evaluate is not LearningRule.evaluate
            if self._model_watch.check(attributes=learns):
                self._read_again()
            compat.refuse_batched_transforms()
        if not torch.is_grad_enabled():
            return self.rule.evaluate(self.model, x)
        self.wiring.compute_weights()
        parameters = [module._parameters[name] for module, name in self._parameters_at]
        requires_grad = tuple([parameter is not None and parameter.requires_grad for parameter in parameters])
        input_wanted = x.requires_grad and self._input_wanted()
        if not (input_wanted or any(requires_grad)):
            return self.rule.evaluate(self.model, x)
        compat.set_grad_enabled(False)
        try:
            y, state = self._forward(x, self.wiring.plan(requires_grad, input_wanted), moments)
        finally:
            compat.set_grad_enabled(True)
        return connect(self, state, y, x, parameters)

    def learn(self, x: Tensor) -> Tensor:
        """Run the forward and the backward pass of a circuit whose target is its own input, and return the loss.

        The loss is half the sum over units of (y - x)^2, reduced over the samples, and moments, as by `reduction`.
        The gradients are added to `.grad`.

        Raises:
            CircuitError: the output has another shape than the input, or the rule learns from a label or a reward.
        """
        x = x.detach()
        refuse_own_input(self.rule, x)
        y = self(x)
        mismatch = mismatch_of(y, x)
        samples = divisor(self.wiring.reduction, self.wiring.sequences.rows(mismatch), self.wiring.batch_axis) or 1
        scale = self.loss_scale() if callable(self.loss_scale) else self.loss_scale
        torch.autograd.backward(y, mismatch * (scale / samples))
        return mismatch.square_().sum() / (2 * samples)

    def _input_wanted(self) -> bool:
        """True where the rule can send a gradient to the input that requires one; refused otherwise."""
        if not (self.wiring.teach_input or self.rule.teaches_input):
            raise CircuitError(
                f"the input requires a gradient, but {type(self.rule).__name__} has no feedback weights for the input. "
                "Build the circuit with teach_input=True, or pass x.detach()."
            )
        return True

    def _forward(self, x: Tensor, plan: BackwardPlan, moments: int) -> tuple[Tensor, ForwardState]:
        """The output and the state of the nodes, without a graph."""
        rule: LearningRule = self._modules["rule"]  # type: ignore[assignment]
        # Asked here, and not passed on: a compiler may begin to read after a module that it cannot read.
        wiring, compiling = self.wiring, torch.compiler.is_compiling()
        if rule.has_uninitialized_state or (rule.needs_batch and not compiling and x.dim() not in wiring.batch_axes):
            self.initialize(x)
        self._warn_of_lasting_state(x, compiling)
        source = x.detach() if x.requires_grad or compiling else x  # a compiler accepts no tensor twice
        if self.check_finite and not compiling:
            check_input(source)
        if self.training and self._acts_between_passes:
            rule.before_forward(wiring)
        y, state = rule.forward(wiring, source, plan)
        state.moments = moments
        if rule.needs_batch:
            state.batch_axes = wiring.batch_axes_of(x, state)
            wiring.require_batch(x, y, state, type(rule).__name__)
        if rule.saves_rates or rule.saves_drives:
            y = y.clone()  # users may modify the output in place, and the saved one must stay
        return y, state

    def assign_gradients(
        self, state: ForwardState, error: Tensor, input_wanted: bool, parameters: Parameters
    ) -> tuple[Tensor | None, list[Tensor | None]]:
        """Turn the loss' derivative into the gradients of all parameters, and of the input, by the rule.

        Args:
            state: of the forward pass.
            error: dL/dy.
            input_wanted: whether the input requires a gradient.
            parameters: of the forward pass, which need not be the module's own (`torch.func.functional_call`).

        Raises:
            NonFiniteError: NaN or infinity in a teaching signal.
        """
        if torch.compiler.is_compiling():
            return self._scaled(state, error, input_wanted)
        if self._feedback_watch is not None:
            count = len(self.wiring.parameters)
            if self._feedback_watch.check(parameters[:count], parameters[count:]):
                self._feedback_watch = None
        own = [module._parameters[name] for module, name in self._parameters_at]
        if all(map(operator.is_, own, parameters)):
            return self._scaled(state, error, input_wanted)
        with standing_in(self._parameters_at, parameters):
            return self._scaled(state, error, input_wanted)

    def _scaled(
        self, state: ForwardState, error: Tensor, input_wanted: bool
    ) -> tuple[Tensor | None, list[Tensor | None]]:
        """The gradients, with the loss' scale divided out before the rule and multiplied in after it."""
        if not error.numel():
            own = [module._parameters[name] for module, name in self._parameters_at]
            return empty_gradients(state, own, input_wanted)
        scale = self.loss_scale() if callable(self.loss_scale) else self.loss_scale
        if scale != 1:
            error = error / scale
        watch = self._scale_watch
        if watch is not None and not torch.compiler.is_compiling() and watch.looks():
            watch.check(error, self.wiring.samples(state, error))
            with self.wiring.observe(watch.observe) if watch.observes() else nullcontext():
                to_input, gradients = self._assign(state, error, input_wanted)
        else:
            to_input, gradients = self._assign(state, error, input_wanted)
        if scale == 1:
            return to_input, gradients
        return _times(to_input, scale), [_times(gradient, scale) for gradient in gradients]

    def _assign(
        self, state: ForwardState, error: Tensor, input_wanted: bool
    ) -> tuple[Tensor | None, list[Tensor | None]]:
        gradients: list[Tensor | None] = [None] * len(self._parameters_at)
        increments: dict[int, int] = {}
        rule: LearningRule = self._modules["rule"]  # type: ignore[assignment]
        wiring, requires_grad, signals = self.wiring, state.plan.requires_grad, [error]
        check = self.check_finite and not torch.compiler.is_compiling()
        propagates, needs_signal, observers = rule.propagates, state.plan.needs_signal, wiring.observers
        for credit in wiring.modulated(rule.assign_credit(wiring, state, error)):
            if observers:
                self._show(credit)
            updates = credit.updates(requires_grad)
            for index, update in updates:
                before = gradients[index]
                gradients[index] = update if before is None else before + update
            if credit.reciprocal is not None:
                increments.update(credit.shared_increment(requires_grad))
            if check and not (propagates and needs_signal[credit.layer.sources[0]]):  # NaN propagates down to there
                signals += to_check(credit, updates)
            del credit, updates  # releases their memory
        for feedback, index in increments.items():
            gradients[feedback] = self._increment(index, gradients[index])
        to_input = state.input_signal if input_wanted else None
        signals += [] if to_input is None else [to_input]
        if check and not finite(*signals):
            name_the_layer(self.wiring, rule, self._parameters_at, state.source, error)
        return to_input, gradients

    def _increment(self, index: int, update: Tensor | None) -> Tensor | None:
        """The update of reciprocal feedback: that of the weight at this index, as far as the weight can follow it."""
        holder = self._parameters_at[index][0]
        if update is None:
            return None
        return holder.realised(update) if isinstance(holder, EffectiveWeights) else update.clone()

    def _show(self, credit: Credit) -> None:
        if credit.post is not None and credit.synapses is None:
            self.wiring.show(credit.layer, teaching_signal=credit.post)


def _times(tensor: Tensor | None, factor: float) -> Tensor | None:
    return None if tensor is None else tensor * factor
