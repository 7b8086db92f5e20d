"""Learning from a reward: one number for all synapses, and attention that says which of them were at it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import ClassVar

from torch import Tensor

from apical.feedback.randomness import check_init
from apical.feedback.registry import Given
from apical.layers import Credit, ForwardState, Layer
from apical.rules.reward.choices import reward_prediction_error
from apical.rules.rule import Sweep
from apical.wiring import Wiring


class AttentionGated(Sweep):
    """A rule whose only teacher is a scalar: what both of its kinds share.

    See `BrainProp` and `AGREL`.
    """

    needs = "outputs (batch, actions); a loss of the reward of one chosen action"
    transposed_limit = "for its own loss of one choice"
    needs_batch = True

    def __init__(self, *, feedback: Given = "tied", init: str = "match", scale: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        check_init(type(self).__name__, init, scale, ("match", "xavier", "weights"))
        self.init = init
        self.scale = scale
        self.seed = seed
        # Attention is linear in the signal that arrives, so the scalar may be multiplied in at the output.
        self.take_pathway(feedback, init=init, scale=scale, seed=seed)

    def setup(self, wiring: Wiring) -> None:
        super().setup(wiring)
        mixing = [
            node.name for node in wiring.nodes if any(s.traits.replays and not s.traits.random for s in node.steps)
        ]
        if mixing:
            warnings.warn(
                f"{', '.join(mixing)}: batch norm mixes samples, so that this {type(self).__name__} is not the "
                "reward-prediction error of a sample times its attention at the synapse: the error is multiplied in "
                "at the output, as in BrainProp's released code. Use a norm of each sample, such as nn.GroupNorm, for "
                "the local rule.",
                stacklevel=2,
            )

    def assign_credit(self, wiring: Wiring, state: ForwardState, error: Tensor) -> Iterator[Credit]:
        surprise = reward_prediction_error(self, error, state.batch_axis(wiring.output))
        if wiring.observers:
            for node in wiring.readouts():
                if isinstance(node, Layer):
                    wiring.show(node, neuromodulator=surprise * wiring.samples(state, error))
        return super().assign_credit(wiring, state, error)


class BrainProp(AttentionGated):
    """BrainProp: a choice's reward-prediction error, times the attention that the chosen action pays to each synapse.

        q = the answer;   s the action that was chosen, r its reward;   delta = r - q_s;   z one-hot at s
        fb_L = z,   fb_l = (V_(l+1) fb_(l+1)) * phi'(a_l)
        dW_l = eta delta fb_l h_(l-1)^T,   dV_l = dW_l^T where V learns

    delta is one number a sample, the same for all synapses. Nothing is said of the actions that were not chosen, so a
    label teaches by yes and no alone. With V = W^T this is the gradient of (r - q_s)^2 / 2, and the sum over all
    actions is backpropagation of the squared error. Choice, reward and delta are the loss's part:
    `apical.losses.reward_prediction`.

    Args:
        feedback: V, a pathway of `apical.feedback` by name or object: "tied" (W^T), "kolen_pollack" (weights of their
            own that take W's increments: give the optimizer `circuit.parameters()` and a weight decay), "fixed"
            (random: it learns slowly and is easily made unstable; clip the gradient, or use a smaller learning rate),
            "sign_symmetric" or "weight_mirror".
        init: as for feedback alignment, of V where it is not tied.
        scale: as for feedback alignment, of V where it is not tied.
        seed: of V's first weights. The draws of choices are the loss's.

    Needs: answers (batch, actions), an action's value with no activation function after it. Raises: CircuitError when
    it is taught by a loss whose derivative lives on more than one unit of a sample, such as cross-entropy, or by an
    answer of another shape. (Inside `torch.compile` only the shape is looked at.)

    Warns: when it is built, of batch norm.

    Departs from the paper: delta is multiplied in where attention begins and not at every synapse. That is the same,
    since attention is linear in it, **except under batch norm**, whose derivative mixes samples: there a synapse learns
    from the errors of other samples, too, as in the paper's released code, whose update is autograd's. The paper's
    networks have no biases; here they learn where a network has them.

    Source: Pozzi, Bohte and Roelfsema, NeurIPS 2020 (Q-AGREL: arXiv 1811.01768).
    """

    name = "brainprop"
    title = "BrainProp"
    summary = "One number says what a choice was worth; attention from the chosen action says who was at it."
    paper = "Pozzi, Bohte & Roelfsema 2020"
    learns_from = "reward_prediction"
    observables: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"neuromodulator": "delta, by how much the reward exceeded the chosen action's value (at read-outs)"}
    )


class AGREL(AttentionGated):
    """AGREL: BrainProp's ancestor, whose winner is drawn from a softmax and whose surprise is expansive.

        p = softmax(y);   s drawn from p;   z one-hot at s
        delta = 1 - p_s if s is rewarded, -1 if not
        f(delta) = delta / (1 - delta) if delta >= 0,   -1 if delta = -1
        dW_L = eta f(delta) z h_(L-1)^T,   dW_l = eta f(delta) fb_l h_(l-1)^T,   fb as for BrainProp

    The mean of this over the winners is backpropagation of softmax cross-entropy, exactly. At the synapse it is
    BrainProp's rule; choice, delta and f are the loss's part: `apical.losses.agrel`.

    Args:
        feedback: as for BrainProp.
        init: as for BrainProp.
        scale: as for BrainProp.
        seed: as for BrainProp.

    Needs: answers (batch, actions), before the softmax, and smaller steps than backpropagation: a rare reward comes
    with a large f, and with steps that suit backpropagation networks are lost to one (a quarter is `recommended` here).
    Raises: as BrainProp.

    Departs from the paper: any network and any activation function, where the paper has one hidden layer of sigmoids.

    Source: Roelfsema and van Ooyen, Neural Computation 17, 2176 (2005).
    """

    name = "agrel"
    title = "AGREL"
    summary = "A winner drawn from the softmax learns from a reward, the more the less it was expected."
    paper = "Roelfsema & van Ooyen 2005"
    learns_from = "agrel"
    recommended: ClassVar[Mapping[str, float]] = MappingProxyType({"learning_rate_factor": 0.25})
    observables: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"neuromodulator": "f(delta), the expansive surprise at the winner's reward (at read-outs)"}
    )
