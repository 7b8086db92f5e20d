"""A circuit: a model and a learning rule, and the boundary where autograd ends and the rule begins."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.hooks import RemovableHandle

from apical import rules
from apical.errors import CircuitError, ConfigError, NonFiniteError
from apical.layers import Layer
from apical.rules.rule import LearningRule
from apical.tracing import trace
from apical.wiring import Activity, Observer, Wiring


class _Boundary(torch.autograd.Function):
    """Above it autograd; below it the circuit's rule.

    Takes the circuit, what it kept of the answer, the answer, the input and the parameters.
    """

    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        # The answer is there already: this only ties it to the parameters. No view of it, since autograd forbids to
        # overwrite a view made here, and an answer may be overwritten.
        y: Tensor = inputs[2]
        return y.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.circuit, ctx.kept = inputs[:2]

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor | None, ...]:
        # A rule's update is no derivative: differentiating it again has no meaning, and is refused.
        return (_refuse_another_derivative if torch.is_grad_enabled() else _teach)(ctx, error)


def _teach(ctx: Any, error: Tensor) -> tuple[Tensor | None, ...]:
    kept: _Kept | None = ctx.kept
    if kept is None:
        raise RuntimeError(
            "Trying to backward through a circuit's graph a second time, and what it kept of its answer is gone after "
            "the first. Say loss.backward(retain_graph=True) the first time."
        )
    if torch._C._autograd._get_current_graph_task_keep_graph():
        activity = kept.activity.again()
    else:
        activity, ctx.kept = kept.activity, None
    circuit: Circuit = ctx.circuit
    circuit._refuse_another_rule(kept.changes)
    kept.refuse_overwritten(activity)
    del kept  # and with it the answer
    x, gradients = circuit._teach(activity, error, ctx.needs_input_grad[3])
    return (None, None, None, x, *gradients)


_refuse_another_derivative = once_differentiable(_teach)


class _Kept:
    """What a circuit keeps of an answer until its rule teaches, and what tells if any of it was overwritten since.

    As autograd does, it compares version numbers; but autograd's own keeping of tensors costs a small network a
    twentieth of its step.
    """

    __slots__ = ("activity", "changes", "parameters", "source_version", "versions", "y", "y_version")

    def __init__(self, activity: Activity, changes: int, parameters: list[nn.Parameter | None], y: Tensor) -> None:
        self.activity = activity
        self.changes = changes
        self.parameters = parameters
        try:
            self.versions = [parameter._version for parameter in parameters if parameter is not None]
            self.source_version = activity.source._version
        except RuntimeError as error:
            raise CircuitError(
                "the circuit's input or a weight was made under torch.inference_mode(), whose tensors cannot be "
                "learned from. Give it x.clone(), or make them under torch.no_grad()."
            ) from error
        self.y = y
        self.y_version = y._version

    def refuse_overwritten(self, activity: Activity) -> None:
        """Refuse to teach if what was kept is not what was there when the circuit answered."""
        if [parameter._version for parameter in self.parameters if parameter is not None] != self.versions:
            self._refuse("a weight of the circuit")
        if activity.source._version != self.source_version:
            self._refuse("the circuit's input")
        if self.y._version != self.y_version:  # the answer may be overwritten, unless the rule has to see it
            memory = self.y.untyped_storage().data_ptr()
            if any(tensor.untyped_storage().data_ptr() == memory for tensor in activity.tensors()):
                self._refuse("the circuit's answer")

    def _refuse(self, what: str) -> NoReturn:
        raise RuntimeError(
            f"{what} has been modified by an inplace operation between its answer and loss.backward(), and the rule "
            "has to see it as it was. Answer again, or modify a copy."
        )


class _SavingBoundary(_Boundary):
    """The same, where autograd has to keep the tensors: for compilers, and for hooks that take them elsewhere.

    Takes the circuit, the layout of what is kept, the answer, the input, the number of parameters, the parameters
    and, one by one, the tensors.
    """

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.circuit, ctx.packed, _, _, ctx.count, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor | None, ...]:
        # Looking at the saved parameters lets autograd notice one that was overwritten since the answer.
        changes, packed = ctx.packed
        ctx.circuit._refuse_another_rule(changes)
        saved = ctx.saved_tensors
        activity = Activity.unpack(saved[ctx.count :], packed)
        x, gradients = ctx.circuit._teach(activity, error, ctx.needs_input_grad[3])
        return (None, None, None, x, None, *gradients, *(None,) * (len(saved) - ctx.count))


# Function.apply works out a signature and searches every argument for functorch's wrappers at each call; what it then
# calls is this.
_apply: Callable[..., Tensor] = super(torch.autograd.Function, _Boundary).apply


class Circuit(nn.Module):
    """A PyTorch model that learns by a rule.

    `circuit(x)` answers as the model does. `loss.backward()` leaves in the `.grad` of the model's parameters
    the rule's update with its sign turned, so any optimizer descends by it. Model and circuit share the very
    same parameters, and the model stays usable alone.

    Example:
        >>> import torch, apical
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> circuit = apical.Circuit(model, apical.FeedbackAlignment())
        >>> circuit(torch.randn(5, 4)).sum().backward()
        >>> model[0].weight.grad.shape
        torch.Size([8, 4])

    Args:
        model: any module that `torch.fx` can trace, one tensor in, one out.
        rule: a learning rule, or the name of one.
        check_finite: stop with the layer's name where NaN or infinity appears.
        reduction: how the loss adds up a batch: "mean" (PyTorch's default) or "sum". Rules whose equations
            speak of one sample undo it.
        teach_input: send teaching signals to the input, too, so that what made the input can learn. Rules
            with feedback weights of their own then have some for the first layer.

    Attributes:
        model: the plain model.
        rule: the rule that it learns by; assigning another rule is `learn_by`.
        wiring: the layers and junctions, and the verbs that rules use.

    Raises:
        CircuitError: the model cannot become a circuit, or the rule cannot teach it.
    """

    model: nn.Module
    rule: LearningRule

    def __init__(
        self,
        model: nn.Module,
        rule: LearningRule | str,
        *,
        check_finite: bool = True,
        reduction: str = "mean",
        teach_input: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise CircuitError(f"a circuit is made of an nn.Module, not of {type(model).__name__}.")
        inner = [path or "the model" for path, module in model.named_modules() if isinstance(module, Circuit)]
        if inner:
            raise CircuitError(
                f"{inner[0]}: a circuit within a circuit; by which of two rules would it learn? Build one circuit of "
                "the plain models, or let two circuits answer one after the other."
            )
        if reduction not in ("mean", "sum"):
            raise ConfigError(f"reduction={reduction!r} is unknown: say 'mean' or 'sum', as your loss does.")
        self.check_finite = check_finite
        self.model = model
        self.wiring = Wiring(trace(model, teach_input=teach_input), reduction, teach_input)
        self.training = model.training
        self._changes = 0
        self.learn_by(rule)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, in the order in which they answer."""
        return tuple(self.wiring.layers)

    def learn_by(self, rule: LearningRule | str) -> Circuit:
        """Learn by this rule from now on; the model's weights stay.

        Raises:
            CircuitError: the rule cannot teach this circuit (the old rule then stays), or is part of another.
        """
        if isinstance(rule, str):
            rule = rules.make(rule)
        if not isinstance(rule, LearningRule):
            raise CircuitError(f"a circuit learns by a LearningRule or the name of one, not by {rule!r}.")
        if getattr(rule, "_bound", False) and rule is not self._modules.get("rule"):
            raise CircuitError(
                f"this {type(rule).__name__} is the rule of another circuit, and its feedback weights are that one's. "
                f"Make a new one: {type(rule).__name__}(...)."
            )
        rule.bind(self.wiring)
        rule._bound = True  # type: ignore[assignment]
        rule.train(self.training)
        before = self._modules.get("rule")
        if before is not None and before is not rule:
            before._bound = False  # type: ignore[assignment]
        self._modules["rule"] = rule
        self._changes += 1
        self._slots = [
            *self.wiring.slots,
            *(
                (rule.get_submodule(owner), own)
                for owner, _, own in (n.rpartition(".") for n, _ in rule.named_parameters())
            ),
        ]
        return self

    def observe(self, observer: Observer) -> RemovableHandle:
        """Let `observer(layer, quantities)` see what the rule carries in every layer while it teaches.

        Each rule says in its `carries` what there is to see: event rates, burst rates, apical potentials and their
        like, each a tensor of the observer's own. The handle's `remove()`, or the end of a `with` block, stops it.

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
            self.learn_by(value)
        else:
            super().__setattr__(name, value)

    def forward(self, x: Tensor) -> Tensor:
        """Answer an input: (batch, ...) to whatever the model answers.

        Raises:
            NonFiniteError: NaN or infinity in the input or in a layer's rate.
            CircuitError: the input wants a gradient that the rule cannot send.
        """
        if not torch.is_grad_enabled():
            return self.rule.answer(self.model, x)
        rule: LearningRule = self._modules["rule"]  # type: ignore[assignment]
        parameters = [module._parameters[name] for module, name in self._slots]
        learns = tuple([parameter is not None and parameter.requires_grad for parameter in parameters])
        wanted = x.requires_grad
        if wanted and not (self.wiring.teach_input or rule.teaches_input):
            raise CircuitError(
                f"the input wants a gradient, and {type(rule).__name__} has no feedback weights that lead there. "
                "Build the circuit with teach_input=True, or give it x.detach()."
            )
        if not (wanted or any(learns)):
            return rule.answer(self.model, x)
        compiling = torch.compiler.is_compiling()
        if not rule.ready:
            self._initialize(x)
        torch._C._set_grad_enabled(False)  # torch.no_grad() alone takes a hundredth of a small network's step
        try:
            source = x.detach() if wanted or compiling else x  # the compiler takes no tensor twice
            if self.check_finite and not compiling and not _finite(source):
                raise NonFiniteError("the circuit's input holds NaN or infinity: look at the data.", layer="input")
            if self.training:
                rule.between(self.wiring)
            y, activity = rule.respond(self.wiring, source, self.wiring.reach(learns, wanted))
            if rule.records_rates or rule.records_drives:
                y = y.clone()  # the answer may be overwritten, what is kept must not
        finally:
            torch._C._set_grad_enabled(True)
        if (
            compiling
            or torch._C._are_functorch_transforms_active()
            or torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
        ):
            return self._saving(activity, y, x, parameters)
        return _apply(self, _Kept(activity, self._changes, parameters, y), y, x, *parameters)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def _initialize(self, x: Tensor) -> None:
        """Make the state of the rule whose shapes only a forward pass shows; buffers and random states stay."""
        if not x.shape[0]:
            return  # an empty batch teaches nothing, and a later one shows the shapes
        buffers = {buffer: buffer.clone() for buffer in self.model.buffers()}
        with torch.random.fork_rng(devices=[x.device.index or 0] if x.device.type == "cuda" else []):
            everything = self.wiring.reach((True,) * len(self._slots), False)
            y, activity = self.wiring.respond(x.detach(), everything)
        for buffer, before in buffers.items():
            buffer.copy_(before)
        self.rule.prepare(self.wiring, activity, y)

    def _saving(self, activity: Activity, y: Tensor, x: Tensor, parameters: list[nn.Parameter | None]) -> Tensor:
        """The answer, tied to the parameters, where autograd has to keep the tensors."""
        tensors, packed = activity.pack()
        y = y.view_as(y)  # it may be among the tensors, and the compiler takes none twice
        arguments = ((self._changes, packed), y, x, len(parameters), *parameters, *tensors)
        answer: Tensor = _SavingBoundary.apply(self, *arguments)  # type: ignore[no-untyped-call]
        return answer

    def _refuse_another_rule(self, changes: int) -> None:
        if changes != self._changes:
            raise CircuitError(
                "the circuit's rule was changed (learn_by) between this answer and its loss.backward(), and the new "
                "one cannot teach it. Answer again."
            )

    def _teach(
        self, activity: Activity, error: Tensor, input_wanted: bool
    ) -> tuple[Tensor | None, list[Tensor | None]]:
        """Let the rule turn the loss's derivative into the gradients of all parameters, and of the input."""
        gradients: list[Tensor | None] = [None] * len(self._slots)
        rule: LearningRule = self._modules["rule"]  # type: ignore[assignment]
        learns = activity.reach.learns
        if not error.numel():
            return self._taught_nothing(activity, input_wanted)
        check = self.check_finite and not torch.compiler.is_compiling()
        every = check and not rule.signals_travel
        wanted = activity.reach.values
        observers = self.wiring.observers
        reciprocals: list[tuple[nn.Parameter, int]] = []
        signals = [error]
        for layer, pre, post, reciprocal, learner, learner_bias, decay in rule.teach(self.wiring, activity, error):
            if learner is not None or learner_bias is not None:
                own = [None if one is None else self._slot_of(one) for one in (learner, learner_bias)]
                own = [slot if slot is not None and learns[slot] else None for slot in own]
                changes = layer.synapses.plasticity(pre, post, own[0] is not None, own[1] is not None)
                for slot, change in zip(own, changes, strict=True):
                    if slot is not None and change is not None:
                        _add(gradients, slot, change if decay is None else self._decayed(layer, slot, change, decay))
                continue
            if observers:
                self.wiring.show(layer, teaching_signal=post)
            weight_slot, bias_slot = layer.weight_slot, layer.bias_slot
            weight_learns = learns[weight_slot]
            bias_learns = bias_slot is not None and learns[bias_slot]
            bias = None
            if weight_learns or bias_learns:
                weight, bias = layer.synapses.plasticity(pre, post, weight_learns, bias_learns)
                if decay is not None:
                    weight = None if weight is None else self._decayed(layer, weight_slot, weight, decay)
                    if bias is not None and bias_slot is not None:
                        bias = self._decayed(layer, bias_slot, bias, decay)
                if weight is not None:
                    _add(gradients, weight_slot, weight)
                    if reciprocal is not None:
                        reciprocals.append((reciprocal, weight_slot))
                if bias is not None and bias_slot is not None:
                    _add(gradients, bias_slot, bias)
            # A signal that is no number stays none on its way down: the lowest tells of all above it. What a bias
            # learns is the signal's sum, which has only finite terms if it is finite.
            if every or (check and not wanted[layer.sources[0]]):
                signals.append(post.sum() if bias is None else bias)
                if decay is not None:
                    signals.append(decay)
            del pre, post  # their memory is free for what comes
        if check:
            if input_wanted and activity.at_input is not None:
                signals.append(activity.at_input)
            if not _finite(*signals):
                self._name_the_layer(activity.source, error)
        for feedback, slot in reciprocals:
            whole = gradients[slot]
            assert whole is not None
            gradients[self._slot_of(feedback)] = whole.clone()
        for slot, gradient in activity.gradients.items():
            _add(gradients, slot, gradient)
        return (activity.at_input if input_wanted else None), gradients

    def _taught_nothing(self, activity: Activity, input_wanted: bool) -> tuple[Tensor | None, list[Tensor | None]]:
        """What an empty batch teaches: the equations of rules are about samples, of which there is none."""
        parameters = [module._parameters[name] for module, name in self._slots]
        return torch.zeros_like(activity.source) if input_wanted else None, [
            torch.zeros_like(parameter) if wanted and parameter is not None else None
            for parameter, wanted in zip(parameters, activity.reach.learns, strict=True)
        ]

    def _decayed(self, layer: Layer, slot: int, change: Tensor, decay: Tensor) -> Tensor:
        module, name = self._slots[slot]
        own = module._parameters[name]
        assert own is not None
        return layer.synapses.decayed(change, own, decay)

    def _slot_of(self, feedback: nn.Parameter) -> int:
        for slot in range(len(self.wiring.slots), len(self._slots)):
            module, name = self._slots[slot]
            if module._parameters[name] is feedback:
                return slot
        raise AssertionError("a rule gave credit to a parameter that is not its own")

    def _name_the_layer(self, x: Tensor, error: Tensor) -> None:
        """Answer again and teach again, for where the first number was lost, if one was."""
        everything = self.wiring.reach((True,) * len(self._slots), False)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            _, activity = self.rule.respond(self.wiring, x, everything)
        for node in self.wiring.nodes:
            record = activity.records[node.index]
            if record is None:
                continue
            for module, name in (self._slots[slot] for slot in node.own_slots):
                parameter = module._parameters[name]
                if parameter is not None and not _finite(parameter.detach()):
                    raise NonFiniteError(
                        f"{node.name}: the {name} of its {type(module).__name__} holds NaN or infinity: an earlier "
                        "update destroyed it. Go back to an earlier state, and lower the learning rate or clip the "
                        "gradient.",
                        layer=node.name,
                    )
            if not isinstance(node, Layer) or record.pre is None:
                continue
            if not (_finite(record.pre) and _finite(node.synapses.drive(record.pre.to(node.weight.dtype)))):
                raise NonFiniteError(
                    f"{node.name}: its drive holds NaN or infinity: the weights have grown too large. Lower the "
                    "learning rate or clip the gradient.",
                    layer=node.name,
                )
        if not _finite(error):
            raise NonFiniteError(
                "the derivative of the loss by the circuit's answer holds NaN or infinity, and the answer does not: "
                "look at the loss and the targets.",
                layer="loss",
            )
        for layer, _, post, *_, decay in self.rule.teach(self.wiring, activity, error):
            if not _finite(post) or (decay is not None and not _finite(decay)):
                raise NonFiniteError(
                    f"{layer.name}: the teaching signal that {type(self.rule).__name__} brings to it holds NaN or "
                    "infinity. Lower the learning rate, clip the gradient, or make the feedback weights smaller.",
                    layer=layer.name,
                )


def _finite(*tensors: Tensor) -> bool:
    """Whether the tensors hold finite numbers alone."""
    # A finite sum has only finite terms; only one that overflows asks for a closer look.
    return all(math.isfinite(tensor.sum().item()) or bool(torch.isfinite(tensor).all()) for tensor in tensors)


def _add(gradients: list[Tensor | None], slot: int, gradient: Tensor) -> None:
    before = gradients[slot]
    gradients[slot] = gradient if before is None else before + gradient
