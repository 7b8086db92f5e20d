"""Direct feedback: the output speaks to every layer at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from apical.errors import CircuitError
from apical.layers import Layer, Node, Record
from apical.rules.randomness import Randomness, check_init, standard_deviation
from apical.rules.rule import LearningRule, PerLayer
from apical.wiring import Activity, Credit, Wiring


class DirectFeedbackAlignment(LearningRule):
    """Direct feedback alignment: fixed random weights carry the output's error straight to every layer.

        delta_l = (B_l e) * phi'(a_l),   e = dL/dy,   B_l (units of layer l, outputs), fixed
        dW_l    = -eta delta_l h_(l-1)^T

    The layers that the output reads use the error itself. A convolution gets a dense map from the outputs to its
    whole feature map, as in the paper; nothing travels over skip connections, so a residual network gets direct
    feedback at every layer and from nowhere else.

    Args:
        init: standard deviation of B (uniform): "match" (errors arrive at each layer in the size that the weights
            would give them under backpropagation at the start) or "outputs" (1 / sqrt(outputs)).
        scale: multiplies the feedback weights.
        seed: of the feedback weights.

    Shapes: B_l is kept as (outputs, units of layer l ...). It is made at the circuit's first response, since only
    an answer shows the size of a feature map.

    Needs: any circuit whose answers have one size. Raises: CircuitError where the input is to be taught (no direct
    path leads there) or where a later answer has another size.

    Source: Nokland, NeurIPS 2016, eq. 4.
    """

    name = "direct_feedback_alignment"
    title = "Direct feedback alignment"
    summary = "Fixed random weights carry the output's error straight to every layer."
    paper = "Nokland 2016"
    connection: ClassVar[str] = "direct feedback"
    needs = "any circuit; answers of one size"
    signals_travel = False

    def __init__(self, *, init: str = "match", scale: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        check_init(type(self).__name__, init, scale, ("match", "outputs"))
        self.init = init
        self.scale = scale
        self.seed = seed
        self.randomness = Randomness(seed)
        self.weights = PerLayer(grows=True)

    def bind(self, wiring: Wiring) -> None:
        if wiring.teach_input:
            raise CircuitError(
                f"{type(self).__name__}: teach_input=True, but direct feedback has no path to the input: "
                "it goes from the output to every layer. Use FeedbackAlignment, or leave the input untaught."
            )
        self.randomness = Randomness(self.seed)
        self.weights = PerLayer(grows=True)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # The state of a circuit before its first answer: the weights are to be drawn again.
        if f"{prefix}randomness._extra_state" in state_dict and not any(
            key.startswith(f"{prefix}weights.") for key in state_dict
        ):
            self.weights = PerLayer(grows=True)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def ready(self) -> bool:
        return len(self.weights) > 0

    def prepare(self, wiring: Wiring, activity: Activity, y: Tensor) -> None:
        outputs = y[0].numel()
        readouts = wiring.readouts()
        spreads = _as_backprop_at_first(wiring, outputs)
        for node in wiring.nodes:
            record = activity.records[node.index]
            if record is None or node in readouts or not node.own_slots:
                continue
            like = y.new_empty((outputs, *record.shape[1:]), dtype=wiring.layers[0].weight.dtype)
            spread = spreads[node.index] if self.init == "match" else outputs**-0.5
            self.weights.hold(node, self.randomness.uniform(like, self.scale * spread, node.name))
        if not len(self.weights):  # one layer: nothing to send, and no need to ask again
            self.weights.register_buffer("none", y.new_zeros(0))

    def signal(self, wiring: Wiring, error: Tensor) -> Tensor:
        """What is sent to every layer: (batch, outputs)."""
        return error.reshape(error.shape[0], -1)

    def teach(self, wiring: Wiring, activity: Activity, error: Tensor) -> Iterator[Credit]:
        sent = self.signal(wiring, error)

        def project(node: Node, record: Record) -> Tensor | None:
            if node not in self.weights:
                return None
            weights = self._checked(node, self.weights[node], record, sent.shape[1])
            return sent.mm(weights.flatten(1).to(sent.dtype)).view(record.shape).to(record.dtype)

        return self._teach_each(wiring, activity, error, project)

    def _checked(self, node: Node, weights: Tensor, record: Record, outputs: int) -> Tensor:
        """The weights that lead to a node, if they still fit what it fires."""
        if weights.shape[1:] != record.shape[1:] or weights.shape[0] != outputs:
            raise CircuitError(
                f"{node.name}: {self.connection} was made for rates {tuple(weights.shape[1:])} and {weights.shape[0]} "
                f"outputs, and now there are {tuple(record.shape[1:])} and {outputs}. Keep the size of the input "
                "fixed, or use FeedbackAlignment, which has no dense maps."
            )
        return weights

    def _teach_each(
        self, wiring: Wiring, activity: Activity, error: Tensor, project: Callable[[Node, Record], Tensor | None]
    ) -> Iterator[Credit]:
        """Let every layer learn from what `project` brings to its rate; read-outs from the error itself."""
        for layer, record, arrived in (descent := wiring.descend(activity, error, project, once=True)):
            if arrived is None:
                continue
            post = descent.somatic(layer, record, arrived)
            del arrived  # its memory is free for what comes
            assert record.pre is not None
            yield Credit(layer, record.pre, post)
            del record, post


def _as_backprop_at_first(wiring: Wiring, outputs: int) -> list[float]:
    """For every node the spread of direct weights that brings errors of the size that backpropagation would.

    Read off the weights alone, so that all processes that share a training agree: each layer sends a signal down
    times its weights' spread and the root of how many synapses an input feeds, and neurons pass half its power.
    """
    power = [0.0] * (len(wiring.nodes) + 1)
    power[wiring.output] = 1 / outputs
    for node in reversed(wiring.nodes):
        sent = power[node.index + 1]
        if isinstance(node, Layer):
            passed = sent / 2 if node.steps else sent
            sent = passed * standard_deviation(node.weight) ** 2 * node.synapses.fan_out
        for source in node.sources:
            power[source] += sent
    return [math.sqrt(arriving) for arriving in power[1:]]


class DirectRandomTargetProjection(DirectFeedbackAlignment):
    """Direct random target projection: the target, not the error, goes to every layer.

        delta_l = -(B_l y*) * phi'(a_l),   y* the one-hot target;   the output layer uses its own error

    y* stands in for minus the error's sign, so no layer has to wait for the output. It is read off the error
    itself: under cross-entropy, or squared error with one-hot targets and outputs in [0, 1], the true class is
    the one place where the error is negative. A sample whose error has vanished teaches the hidden layers
    nothing. The sign says nothing of the loss's size: what multiplies a loss (a weight, a GradScaler) multiplies the
    read-out's update alone.

    Args:
        init: as for direct feedback alignment.
        scale: as for direct feedback alignment.
        seed: of the feedback weights.

    Needs: a loss over classes whose derivative is negative at the true class alone, and neurons that saturate, such
    as tanh: the target never vanishes as an error does, so every unit is pushed for ever, and ReLU units die or grow
    without bound. Raises: CircuitError for any other loss.

    Source: Frenkel, Lefebvre and Bol, Frontiers in Neuroscience 15, 629892 (2021).
    """

    name = "direct_random_target_projection"
    title = "Direct random target projection"
    summary = "Fixed random weights carry the target, not the error, to every layer."
    paper = "Frenkel et al. 2021"
    needs = "neurons that saturate (tanh); a loss whose derivative is negative at the true class alone"
    recommended: ClassVar[Mapping[str, float]] = MappingProxyType({"learning_rate_factor": 0.5})

    def signal(self, wiring: Wiring, error: Tensor) -> Tensor:
        negative = error.reshape(error.shape[0], -1) < 0
        if not torch.compiler.is_compiling():
            most = int(negative.sum(1).max())
            if error.dim() != 2 or most > 1:
                raise CircuitError(
                    "DirectRandomTargetProjection: the target cannot be read off this loss: its derivative "
                    + (
                        f"has shape {tuple(error.shape)}"
                        if error.dim() != 2
                        else f"is negative at {most} outputs of one sample"
                    )
                    + ", and it must be (batch, classes) and negative at the true class alone. "
                    "Use cross-entropy without label smoothing, or squared error to one-hot targets with outputs "
                    "in [0, 1], or DirectFeedbackAlignment, which needs no target."
                )
        samples = wiring.samples(error)
        return negative.to(error.dtype) * (-1.0 / samples)
