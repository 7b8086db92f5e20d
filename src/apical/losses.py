"""Losses that tell a network one number a sample: what the choice that it made was worth.

A loss here makes the choice, learns its reward, and has a derivative at the chosen unit alone. So it tells nothing of
the choices that were not made, a label least of all, and rules that learn from a reward (`apical.BrainProp`,
`apical.AGREL`) refuse a loss that does.

    loss = apical.losses.reward_prediction(circuit(x), labels)                       # the label only says yes or no
    loss = apical.losses.reward_prediction(circuit(x), reward=environment.step)      # no labels at all
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from apical.errors import ConfigError, DataError, NonFiniteError
from apical.options import check_choice

Loss = Callable[[Tensor, Tensor], Tensor]
"""A loss of an output and its targets, as `torch.nn.functional` has them."""

Reward = Tensor | Callable[[Tensor], Tensor]
"""What the chosen actions were worth, (batch,), or a function that says so of the actions, (batch,) of int64."""

POLICIES = ("max_boltzmann", "boltzmann", "epsilon_greedy", "greedy")
REDUCTIONS = ("mean", "sum", "none")


def reward_prediction(
    q: Tensor,
    target: Tensor | None = None,
    *,
    exploration: float = 0.02,
    policy: str = "max_boltzmann",
    reward: Reward | None = None,
    action: Tensor | None = None,
    generator: torch.Generator | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Half the squared error of the chosen action's reward prediction: (r - q_s)^2 / 2.

        s by `choose`;   r = 1 if s is the target, else 0, or what `reward` says
        delta = r - q_s,   dL/dq = -delta z,   z one-hot at s                        (over the batch size, for a mean)

    An action whose value is exactly 0 learns as any other.

    Args:
        q: (batch, actions), the answer: what each action is predicted to earn.
        target: (batch,) of integers, the rewarded actions. In its place may stand `reward`.
        exploration: as for `choose`.
        policy: as for `choose`. "greedy" is for measuring: without exploration learning stalls.
        reward: a function of the chosen actions, called once, or, with `action`, the rewards themselves.
        action: (batch,) of integers, choices that were made already (by `choose`, say); then nothing is drawn.
        generator: of the draws; None: PyTorch's own.
        reduction: "mean", "sum" or "none", over the batch.

    Raises:
        ConfigError: an unknown policy or reduction, or an exploration outside 0 to 1.
        DataError: tensors of other shapes, actions that do not exist, or not exactly one of target and reward.
        NonFiniteError: as `choose`; or a reward that is not finite.

    Source: Pozzi, Bohte and Roelfsema, NeurIPS 2020.
    """
    check_choice("reward_prediction", "reduction", reduction, REDUCTIONS)
    _check_reward("reward_prediction", target, reward, chosen=action is not None)
    if action is None:
        action = choose(q, exploration=exploration, policy=policy, generator=generator)
    else:
        _check_values(q)
        _check_actions("reward_prediction", "action", action, q)
    earned = _earned("reward_prediction", q, action, target, reward)
    value = _single(q).gather(1, action.unsqueeze(1)).squeeze(1)
    return _reduced(0.5 * (earned.to(value) - value).square(), reduction)


def agrel(
    y: Tensor,
    target: Tensor | None = None,
    *,
    policy: str = "boltzmann",
    reward: Reward | None = None,
    action: Tensor | None = None,
    generator: torch.Generator | None = None,
    reduction: str = "mean",
) -> Tensor:
    """What AGREL's winner expected and did not get: delta^2 / 2, with the derivative that its synapses make of delta.

        p = softmax(y);   s drawn from p
        delta = 1 - p_s where s is rewarded, -1 where not
        f(delta) = delta / (1 - delta) for delta >= 0,   -1 for delta = -1
        dL/dy = -f(delta) z,   z one-hot at s                                        (over the batch size, for a mean)

    f is expansive: a reward that was hardly expected teaches as much as it was rare, so that the mean over the winners
    is the derivative of softmax cross-entropy. It is part of the loss, not of the rule, so that what multiplies a loss
    (a weight, a GradScaler) multiplies the update, too. Nothing bounds f where p_s is tiny.

    Args:
        y: (batch, actions), the answer, before the softmax.
        target: (batch,) of integers, the rewarded actions. In its place may stand `reward`.
        policy: "boltzmann", the paper's draw from p, or "greedy" for measuring.
        reward: as for `reward_prediction`; each 0 or 1.
        action: as for `reward_prediction`.
        generator: as for `reward_prediction`.
        reduction: as for `reward_prediction`.

    Raises:
        as `reward_prediction`; DataError also for a reward other than 0 and 1.

    Source: Roelfsema and van Ooyen, Neural Computation 17, 2176 (2005).
    """
    check_choice("agrel", "policy", policy, ("boltzmann", "greedy"))
    check_choice("agrel", "reduction", reduction, REDUCTIONS)
    _check_reward("agrel", target, reward, chosen=action is not None)
    if action is None:
        action = choose(y, policy=policy, generator=generator)
    else:
        _check_values(y)
        _check_actions("agrel", "action", action, y)
    earned = _earned("agrel", y, action, target, reward)
    if target is None and _looks() and not ((earned == 0) | (earned == 1)).all():
        raise DataError("agrel: a reward is neither 0 nor 1; for rewards of any size use reward_prediction.")
    drive = _single(y)
    chosen = action.unsqueeze(1)
    surprise = -drive.detach().log_softmax(1).gather(1, chosen).squeeze(1)
    taught = (earned > 0) | surprise.isnan()  # NaN must stay NaN
    expansive = torch.expm1(surprise).where(taught, surprise.new_tensor(-1.0))  # (1 - p) / p
    delta = torch.expm1(-surprise).neg().where(taught, surprise.new_tensor(-1.0))  # 1 - p
    linear = -expansive * drive.gather(1, chosen).squeeze(1)
    return _reduced(0.5 * delta.square() + (linear - linear.detach()), reduction)


LOSSES: Mapping[str, Callable[..., Tensor]] = MappingProxyType({"reward_prediction": reward_prediction, "agrel": agrel})
"""These losses by name: what a rule's `learns_from` may say."""


def loss_of(network: nn.Module, default: Loss) -> Loss:
    """The loss that teaches a network: a circuit's rule may need one of these, and else it is the default."""
    return LOSSES.get(getattr(getattr(network, "rule", None), "learns_from", ""), default)


def choose(
    q: Tensor,
    *,
    exploration: float = 0.02,
    policy: str = "max_boltzmann",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Choose one action for every sample.

        "max_boltzmann"   argmax q; with probability `exploration` a draw from softmax(q) instead
        "boltzmann"       always a draw from softmax(q)
        "epsilon_greedy"  argmax q; with probability `exploration` any action, each as probable
        "greedy"          argmax q

    Args:
        q: (batch, actions), what the actions are worth; -inf for one that cannot be chosen.
        exploration: the share of choices that are drawn, 0 to 1; "boltzmann" and "greedy" have no use for it.
        policy: as above.
        generator: of the draws; None: PyTorch's own.

    Returns:
        (batch,) of int64.

    Raises:
        ConfigError: an unknown policy, or an exploration outside 0 to 1.
        DataError: q is not (batch, actions).
        NonFiniteError: q holds NaN or infinity, and wants no gradient. Where it requires one, the
            loss is NaN, and the circuit's backward pass names the layer that lost the numbers.
    """
    check_choice("choose", "policy", policy, POLICIES)
    if not 0 <= exploration <= 1:
        raise ConfigError(f"exploration={exploration!r} must be a probability, from 0 to 1.")
    _check_values(q)
    q = _single(q.detach())
    device = q.device if generator is None else generator.device
    if policy == "boltzmann":
        return _drawn(q, generator, device)
    best = q.argmax(1)
    if policy == "greedy" or exploration == 0:
        return best
    explores = (torch.rand(len(q), generator=generator, device=device) < exploration).to(q.device)
    if policy == "epsilon_greedy":
        q = torch.where(q.isneginf(), q, 0.0)
    return torch.where(explores, _drawn(q, generator, device), best)


def _drawn(q: Tensor, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """An action a row from softmax(q): the largest of the logarithms with Gumbel's noise added."""
    noise = torch.empty(q.shape, dtype=q.dtype, device=device).exponential_(generator=generator).log_()
    return torch.sub(q, noise.to(q.device)).argmax(1)


def _looks() -> bool:
    """Whether tensors may be looked into: a compiler's have no values yet."""
    return not torch.compiler.is_compiling()


def _single(q: Tensor) -> Tensor:
    """At least single precision: rewards are predicted to more than two digits."""
    return q.to(torch.promote_types(q.dtype, torch.float32))


def _check_values(q: Tensor) -> None:
    if q.dim() != 2 or q.shape[1] == 0 or not q.is_floating_point():
        raise DataError(
            f"a choice needs values (batch, actions) of floating-point numbers, not {tuple(q.shape)} of {q.dtype}."
        )
    # The largest of a row shows NaN and infinity, and lets -inf stand for what cannot be chosen.
    if _looks() and not q.requires_grad and not torch.isfinite(q.amax(1)).all():
        raise NonFiniteError(
            "a choice cannot be made: the values of its actions hold NaN or infinity. Look at the network that "
            "answered; its weights may have grown too large for the learning rate.",
            layer="loss",
        )


def _check_reward(loss: str, target: Tensor | None, reward: Reward | None, *, chosen: bool) -> None:
    if (target is None) == (reward is None):
        raise DataError(
            f"{loss}: give either the target or the reward, and not {'both' if reward is not None else 'neither'}."
        )
    if isinstance(reward, Tensor) and not chosen:
        raise DataError(
            f"{loss}: rewards are of choices that were made: give them with action=..., or give a function of the "
            "chosen actions."
        )


def _earned(loss: str, q: Tensor, action: Tensor, target: Tensor | None, reward: Reward | None) -> Tensor:
    """The reward of every sample's action."""
    if target is not None:
        _check_actions(loss, "target", target, q)
        return action == target
    earned = reward(action) if callable(reward) else reward
    if not isinstance(earned, Tensor):
        raise DataError(f"{loss}: the reward must be a tensor ({len(q)},), not {type(earned).__name__}.")
    if earned.shape != action.shape:
        raise DataError(f"{loss}: the reward has the shape {tuple(earned.shape)}, and must have ({len(q)},).")
    if _looks() and not torch.isfinite(earned).all():
        raise NonFiniteError(f"{loss}: the reward holds NaN or infinity: look at what gives it.", layer="loss")
    return earned.detach()


def _check_actions(loss: str, name: str, action: Tensor, q: Tensor) -> None:
    if action.shape != q.shape[:1] or action.dtype in (torch.bool, torch.uint8) or action.is_floating_point():
        raise DataError(
            f"{loss}: {name} must be integers ({len(q)},), not {tuple(action.shape)} of {action.dtype}: the number of "
            "one action for every sample."
        )
    if _looks() and len(action):
        for extreme in action.aminmax():
            if not 0 <= extreme.item() < q.shape[1]:
                raise DataError(
                    f"{loss}: {name} {extreme.item()} does not exist: the actions are 0 to {q.shape[1] - 1}."
                )


def _reduced(loss: Tensor, reduction: str) -> Tensor:
    return loss if reduction == "none" else loss.mean() if reduction == "mean" else loss.sum()
