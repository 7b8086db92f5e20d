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

    Takes the circuit, the layout of what is kept, the number of parameters, the tensors kept (or None where they
    come last, one by one), the answer, the input and the parameters.
    """

    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        # The answer is there already: this only ties it to the parameters. No view of it, since autograd forbids to
        # overwrite a view made here, and an answer may be overwritten.
        y: Tensor = inputs[4]
        return y.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.circuit, ctx.packed, ctx.count, kept, _, _, *tensors = inputs
        ctx.save_for_backward(*tensors, *(kept or ()))

    # A rule's update is no derivative: differentiating it again has no meaning, and is refused.
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor | None, ...]:
        # Looking at the saved parameters lets autograd notice one that was overwritten since the answer.
        changes, packed = ctx.packed
        ctx.circuit._refuse_another_rule(changes)
        activity = Activity.unpack(ctx.saved_tensors[ctx.count :], packed)
        if not torch.compiler.is_compiling():
            ctx.maybe_clear_saved_tensors()  # from here on the activity alone holds them, unless the graph is retained
        x, gradients = ctx.circuit._teach(activity, error, ctx.needs_input_grad[5])
        one_by_one = len(ctx.needs_input_grad) - 6 - ctx.count
        return (None, None, None, None, None, x, *gradients, *(None,) * one_by_one)


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
        parameters = [module._parameters[name] for module, name in self._slots]
        learns = tuple([parameter is not None and parameter.requires_grad for parameter in parameters])
        wanted = x.requires_grad
        if wanted and not (self.wiring.teach_input or self.rule.teaches_input):
            raise CircuitError(
                f"the input wants a gradient, and {type(self.rule).__name__} has no feedback weights that lead there. "
                "Build the circuit with teach_input=True, or give it x.detach()."
            )
        if not (wanted or any(learns)):
            return self.rule.answer(self.model, x)
        reach = self.wiring.reach(learns, wanted)
        with torch.no_grad():
            source = x.detach()
            if self.check_finite and not torch.compiler.is_compiling() and not _finite(source):
                raise NonFiniteError("the circuit's input holds NaN or infinity: look at the data.", layer="input")
            if self.training:
                self.rule.between(self.wiring)
            y, activity = self.rule.respond(self.wiring, source, reach)
            if not self.rule.ready:
                self.rule.prepare(self.wiring, activity, y)
            if self.rule.records_rates or self.rule.records_drives:
                y = y.clone()  # the answer may be overwritten, what is kept must not
        tensors, packed = activity.pack()
        packed = (self._changes, packed)
        answer: Tensor
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            y = y.view_as(y)  # it may be among the tensors, and the compiler takes none twice
            answer = _Boundary.apply(self, packed, len(parameters), None, y, x, *parameters, *tensors)  # type: ignore[no-untyped-call]
        else:
            # Function.apply works out a signature and searches every argument for functorch's wrappers at each call;
            # what it then calls is this.
            bare: Callable[..., Tensor] = super(torch.autograd.Function, _Boundary).apply
            answer = bare(self, packed, len(parameters), tensors, y, x, *parameters)
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
        learns = activity.reach.learns
        check = self.check_finite and not torch.compiler.is_compiling()
        last, apart = error, []
        reciprocals: list[tuple[nn.Parameter, int]] = []
        for layer, pre, post, reciprocal in self.rule.teach(self.wiring, activity, error):
            last = post
            if self.wiring.observers:
                self.wiring.show(layer, teaching_signal=post)
            if check and not self.rule.signals_travel:
                apart.append(post)
            weight_learns = learns[layer.weight_slot]
            bias_learns = layer.bias_slot is not None and learns[layer.bias_slot]
            if not (weight_learns or bias_learns):
                continue
            weight, bias = layer.synapses.plasticity(pre, post, weight_learns, bias_learns)
            _add(gradients, layer.weight_slot, weight)
            if layer.bias_slot is not None:
                _add(gradients, layer.bias_slot, bias)
            if reciprocal is not None and weight_learns:
                reciprocals.append((reciprocal, layer.weight_slot))
        # A signal that is no number stays none on its way down, so the last one tells of all that travelled.
        if check and not _finite(error, *(apart or (last,))):
            self._name_the_layer(activity.source, error)
        for feedback, slot in reciprocals:
            whole = gradients[slot]
            assert whole is not None
            gradients[self._slot_of(feedback)] = whole.clone()
        for slot, gradient in activity.gradients.items():
            _add(gradients, slot, gradient)
        return (activity.at_input if input_wanted else None), gradients

    def _slot_of(self, feedback: nn.Parameter) -> int:
        for slot in range(len(self.wiring.slots), len(self._slots)):
            module, name = self._slots[slot]
            if module._parameters[name] is feedback:
                return slot
        raise AssertionError("a rule gave credit to a parameter that is not its own")

    def _name_the_layer(self, x: Tensor, error: Tensor) -> NoReturn:
        """Answer again and teach again, for where the first number was lost."""
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
        lost = self.wiring.layers[0].name
        for layer, _, post, _ in self.rule.teach(self.wiring, activity, error):
            if not _finite(post):
                lost = layer.name
                break
        raise NonFiniteError(
            f"{lost}: the teaching signal that {type(self.rule).__name__} brings to it holds NaN or infinity. "
            "Lower the learning rate, clip the gradient, or make the feedback weights smaller.",
            layer=lost,
        )


def _finite(*tensors: Tensor) -> bool:
    """Whether the tensors hold finite numbers alone."""
    # A finite sum has only finite terms, and one number is one wait for the device; only a sum that overflows asks
    # for a closer look.
    sums = [tensor.sum() for tensor in tensors if tensor.is_floating_point()]
    if not sums:
        return True
    total = sums[0]
    for further in sums[1:]:
        total = total + further
    return math.isfinite(total.item()) or all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def _add(gradients: list[Tensor | None], slot: int, gradient: Tensor | None) -> None:
    if gradient is not None:
        before = gradients[slot]
        gradients[slot] = gradient if before is None else before + gradient
