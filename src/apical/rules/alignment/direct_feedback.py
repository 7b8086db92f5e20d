"""Direct feedback: the output's error, or the target, reaches every layer over weights of its own."""

import warnings
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from apical.errors import CircuitError, ConfigError
from apical.feedback import Direct
from apical.feedback.registry import Given
from apical.layers import BackwardPlan, Credit, ForwardState, Node, NodeState
from apical.layers.passes import DefaultSignal
from apical.rules.rule import LearningRule
from apical.wiring import Wiring

_SENDS_DOWN = "it carries a signal from layer to layer, and here every layer receives the output's"


class DirectFeedback(LearningRule):
    """Base of the rules whose teaching signals reach each layer straight from the output."""

    needs = "any circuit; outputs of one size"
    propagates = False
    takes_time = True
    shared_evenly = True
    carries_costs = True
    refused_pathways: ClassVar[Mapping[str, str]] = MappingProxyType(
        dict.fromkeys(("tied", "fixed", "sign_symmetric", "kolen_pollack", "weight_mirror", "homeostatic"), _SENDS_DOWN)
    )

    def take_direct(self, given: Given, **defaults: Any) -> None:
        """Set the pathway, which must be direct.

        Raises:
            ConfigError: it is another one.
        """
        self.take_pathway(given, **defaults)
        if not isinstance(self.pathway, Direct):
            raise ConfigError(
                f"{type(self).__name__}: feedback={self.pathway.name!r} is not a subclass of Direct, whose weights "
                "lead from the output to each layer. Use 'direct', or derive the pathway from apical.feedback.Direct."
            )

    @property
    def direct(self) -> Direct:
        """The pathway."""
        assert isinstance(self.pathway, Direct)
        return self.pathway

    @property
    def has_uninitialized_state(self) -> bool:
        return self.direct.has_uninitialized_state

    def initialize_lazily(self, wiring: Wiring, state: ForwardState, y: Tensor) -> None:
        self.direct.initialize_lazily(wiring, state, y)

    def setup(self, wiring: Wiring) -> None:
        if wiring.teach_input:
            raise CircuitError(
                f"{type(self).__name__}: teach_input=True, but direct feedback has no path to the input: it leads from "
                "the output to every layer. Use FeedbackAlignment, or teach_input=False."
            )
        super().setup(wiring)

    def teach_each(self, wiring: Wiring, state: ForwardState, error: Tensor, bring: DefaultSignal) -> Iterator[Credit]:
        """Credit every layer by the signal that `bring` gives at its rate; read-outs by the error itself."""
        walk = wiring.backward(state, error, bring)
        for layer, own in walk:
            signal = walk.receive(layer)
            if signal is None:
                continue
            post = walk.somatic(layer, own, signal)
            del signal  # releases its memory
            assert own.pre is not None
            yield Credit(layer, own.pre, post)
            del own, post
        yield from walk.credits()


class DirectFeedbackAlignment(DirectFeedback):
    """Direct feedback alignment: fixed random weights carry the output's error straight to every layer.

        delta_l = (B_l e) * phi'(a_l),   e = dL/dy,   B_l (units of layer l, outputs), fixed
        dW_l    = -eta delta_l h_(l-1)^T

    The layers that the output is read from use the error itself. A convolution gets a dense map from the outputs to its
    whole feature map, as in the paper; layers of `nn.Linear` that share all axes but the last with the output (tokens,
    moments) get the same weights at every position. Nothing travels over skip connections, so a residual network gets
    direct feedback at every layer and from nowhere else.

    Args:
        feedback: "direct", or an object `apical.feedback.Direct(density=, symmetric=, init=, scale=, seed=)`.
        init: standard deviation of B (uniform): "match" (the root mean square of dy/dh_l at the start, so that errors
            arrive in backpropagation's size; see `apical.feedback.Direct`) or "outputs" (1 / sqrt(outputs)).
        scale: multiplies the feedback weights.
        seed: of the feedback weights.

    Shapes: B_l is kept as (outputs, units of layer l ...). It is made with the circuit if it has an example, and
    otherwise at the first forward pass, since only that shows the size of a feature map.

    Needs: any circuit whose outputs have one size. Raises: CircuitError where the input is to be taught (no direct path
    leads there), where a later output has another size, or where a rate has no batch axis.

    Source: Nokland, NeurIPS 2016, eq. 4.

    Example:
        >>> import torch, apical
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        >>> circuit = apical.Circuit(model, apical.DirectFeedbackAlignment(), example=torch.randn(5, 4))
    """

    name = "direct_feedback_alignment"
    title = "Direct feedback alignment"
    summary = "Fixed random weights carry the output's error straight to every layer."
    paper = "Nøkland 2016"

    def __init__(self, *, feedback: Given = "direct", init: str = "match", scale: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        self.init = init
        self.scale = scale
        self.seed = seed
        self.take_direct(feedback, init=init, scale=scale, seed=seed)

    def signal(self, wiring: Wiring, state: ForwardState, error: Tensor) -> Tensor:
        """The signal that is sent to every layer, of the shape of the output."""
        return error

    def assign_credit(self, wiring: Wiring, state: ForwardState, error: Tensor) -> Iterator[Credit]:
        sent, direct = self.signal(wiring, state, error), self.direct
        products = direct.products(wiring)

        def bring(node: Node, own: NodeState) -> Tensor | None:
            brought = direct.bring(node, own, state, sent, wiring.output, products)
            return None if brought is None else brought.to(own.dtype)

        return self.teach_each(wiring, state, error, bring)


class DirectRandomTargetProjection(DirectFeedbackAlignment):
    """Direct random target projection: the target, not the error, goes to every layer.

        delta_l = -(B_l y*) * phi'(a_l),   y* the one-hot target;   the output layer uses its own error

    y* stands in for minus the error's sign, so no layer has to wait for the output. It is read off the loss'
    derivative: under cross-entropy the true class is the one place where that is negative; where the derivative is that
    of a squared error c/2 |y - y*|^2, with any c for each sample, y* = y - e/c. A sample whose error has vanished
    teaches the hidden layers nothing. The target does not show the loss' size: a factor of the loss (a weight, a
    GradScaler) multiplies the read-out's update alone.

    Args:
        feedback: as for direct feedback alignment.
        init: as for direct feedback alignment.
        scale: as for direct feedback alignment.
        seed: of the feedback weights.

    Needs: a loss over classes whose derivative is negative at the true class alone, or the squared error to one-hot
    targets, and neurons that saturate, such as tanh: the target never vanishes as an error does, so every unit is
    pushed without end, and ReLU units die or grow without bound. Raises: CircuitError for a loss whose target cannot be
    read. Warns: when it is built, of hidden layers without neurons that saturate.

    Source: Frenkel, Lefebvre and Bol, Frontiers in Neuroscience 15, 629892 (2021).

    Example:
        >>> import torch, apical
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        >>> circuit = apical.Circuit(model, apical.DirectRandomTargetProjection())
    """

    name = "direct_random_target_projection"
    title = "Direct random target projection"
    summary = "Fixed random weights carry the target, not the error, to every layer."
    paper = "Frenkel et al. 2021"
    needs = "neurons that saturate (tanh); cross-entropy, or squared error to one-hot targets"
    recommended: ClassVar[Mapping[str, float]] = MappingProxyType({"learning_rate_factor": 0.5})

    def setup(self, wiring: Wiring) -> None:
        super().setup(wiring)
        readouts = wiring.readouts()
        hidden = [layer for layer in wiring.layers if layer not in readouts]
        unbounded = [each.name for each in hidden if not any(step.traits.saturating for step in each.steps)]
        if unbounded:
            warnings.warn(
                f"{', '.join(unbounded)}: {type(self).__name__} pushes units towards a target that never vanishes, and "
                "these neurons do not saturate. Use bounded ones, such as nn.Tanh, or small learning rates.",
                stacklevel=2,
            )

    def forward(self, wiring: Wiring, x: Tensor, plan: BackwardPlan) -> tuple[Tensor, ForwardState]:
        y, state = super().forward(wiring, x, plan)
        state[wiring.nodes[wiring.output - 1]].rate = y.clone()  # users may modify the output in place
        return y, state

    def signal(self, wiring: Wiring, state: ForwardState, error: Tensor) -> Tensor:
        if error.dim() != 2 or error.shape[1] < 2 or state.batch_axis(wiring.output) != 0:
            raise CircuitError(
                f"{type(self).__name__}: the target cannot be read off this loss: its derivative has the shape "
                f"{tuple(error.shape)}, and it must be (batch, classes). Use DirectFeedbackAlignment, which needs no "
                "target."
            )
        output = state.rate(wiring.output)
        assert output is not None
        target = _target(output.to(error.dtype), error).to(error.dtype)
        if not torch.compiler.is_compiling() and len(error):
            most = int(target.sum(1).max())
            if most > 1:
                raise CircuitError(
                    f"{type(self).__name__}: the target cannot be read off this loss: its derivative is negative "
                    f"at {most} outputs of one sample, and must be negative at the true class alone. Use cross-entropy "
                    "without label smoothing, or squared error to one-hot targets, or DirectFeedbackAlignment, which "
                    "needs no target."
                )
        return target.mul_(-1 / wiring.samples(state, error))


def _target(y: Tensor, error: Tensor) -> Tensor:
    """Where the loss' derivative places the true class: (batch, classes), bool.

    A derivative e = c (y - y*) adds up to c (sum y - 1), which gives c. That of a cross-entropy adds up to zero.
    """
    negative = error < 0
    sums, coarse = error.sum(1), 50 * torch.finfo(error.dtype).eps
    if not torch.compiler.is_compiling() and len(error) and not _size(sums) > coarse * _size(error):
        return negative
    norm = torch.linalg.vector_norm
    sums = sums[:, None]
    factor = sums / (y.sum(1, keepdim=True) - 1)
    one_hot = (y - error / factor).round()
    largest = norm(error, torch.inf, 1, keepdim=True)
    squared = (one_hot.abs().sum(1, keepdim=True) == 1) & (one_hot.sum(1, keepdim=True) == 1)
    squared &= norm(factor * (y - one_hot) - error, torch.inf, 1, keepdim=True) < 0.02 * largest
    squared &= sums.abs() > coarse * largest
    return torch.where(squared, one_hot > 0, negative)


def _size(x: Tensor) -> float:
    """The largest number, whatever its sign; NaN where one is."""
    low, high = x.aminmax()
    return max(-low.item(), high.item())
