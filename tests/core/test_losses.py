"""Losses that are of one choice: how it is made, what it earns, and what is refused."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from apical import losses
from apical.errors import ConfigError, DataError, NonFiniteError

Q = torch.tensor([[0.2, 0.9, -0.3], [0.7, 0.1, 0.0], [0.0, 0.5, 0.4]])
every_loss = pytest.mark.parametrize("loss", losses.LOSSES.values(), ids=losses.LOSSES)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shares(**options: object) -> Tensor:
    """How often each action is chosen, of 20000."""
    many = torch.tensor([[0.0, 1.0, -0.5]]).expand(20000, 3)
    return torch.bincount(losses.choose(many, generator=generator(), **options), minlength=3) / 20000


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"policy": "greedy"}, [0, 1, 0]),
        ({"policy": "greedy", "exploration": 1.0}, [0, 1, 0]),
        ({"exploration": 0.0}, [0, 1, 0]),
        ({"policy": "boltzmann"}, "softmax"),
        ({"exploration": 1.0}, "softmax"),
        ({"policy": "epsilon_greedy", "exploration": 0.3}, [0.1, 0.8, 0.1]),
    ],
)
def test_choices_are_drawn_as_the_policy_says(options, expected):
    """A share's standard deviation is at most 0.0036: five of them."""
    if expected == "softmax":
        expected = torch.tensor([0.0, 1.0, -0.5]).softmax(0)
    torch.testing.assert_close(shares(**options), torch.as_tensor(expected, dtype=torch.float32), rtol=0, atol=0.018)


def test_a_share_of_the_choices_explores():
    soft = torch.tensor([0.0, 1.0, -0.5]).softmax(0)
    expected = 0.4 * soft + torch.tensor([0.0, 0.6, 0.0])
    torch.testing.assert_close(shares(exploration=0.4), expected, rtol=0, atol=0.018)


@pytest.mark.parametrize("policy", losses.POLICIES)
def test_what_is_worth_minus_infinity_is_never_chosen(policy):
    q = torch.tensor([[0.0, -math.inf, 1.0]]).expand(500, 3)
    assert 1 not in losses.choose(q, policy=policy, exploration=1.0, generator=generator())


def test_one_seed_makes_the_same_choices_and_no_generator_is_pytorchs():
    q = torch.zeros(50, 4)
    first, again = (losses.choose(q, policy="boltzmann", generator=generator(3)) for _ in range(2))
    assert torch.equal(first, again)
    before = torch.get_rng_state()
    losses.reward_prediction(q, torch.zeros(50, dtype=torch.long), exploration=0.5, generator=generator())
    assert torch.equal(torch.get_rng_state(), before)
    losses.choose(q, policy="boltzmann")
    assert not torch.equal(torch.get_rng_state(), before)


def test_a_reward_prediction_is_of_the_chosen_action():
    target = torch.tensor([1, 2, 1])
    every = losses.reward_prediction(Q, target, policy="greedy", reduction="none")
    expected = [0.5 * (1 - 0.9) ** 2, 0.5 * 0.7**2, 0.5 * 0.5**2]
    assert every.tolist() == pytest.approx(expected)
    for reduction, value in (("mean", sum(expected) / 3), ("sum", sum(expected))):
        found = losses.reward_prediction(Q, target, policy="greedy", reduction=reduction)
        assert found.item() == pytest.approx(value)


def test_a_function_says_what_the_chosen_actions_earn():
    asked = []

    def reward(actions: Tensor) -> Tensor:
        asked.append(actions.tolist())
        return 2.0 * actions

    q = Q.clone().requires_grad_()
    losses.reward_prediction(q, reward=reward, policy="greedy", reduction="sum").backward()
    assert asked == [[1, 0, 1]]
    expected = [[0, 0.9 - 2, 0], [0.7, 0, 0], [0, 0.5 - 2, 0]]
    torch.testing.assert_close(q.grad, torch.tensor(expected))


def test_choices_may_have_been_made_and_rewarded_before():
    action, reward = torch.tensor([2, 2, 0]), torch.tensor([1.0, -1.0, 0.5])
    found = losses.reward_prediction(Q, action=action, reward=reward, reduction="none")
    assert found.tolist() == pytest.approx([0.5 * 1.3**2, 0.5, 0.5 * 0.5**2])


def test_agrels_surprise_is_expansive():
    y, target = Q.clone().requires_grad_(), torch.tensor([1, 2, 1])
    value = losses.agrel(y, target, policy="greedy", reduction="none")
    value.sum().backward()
    p = Q.softmax(1)
    first, third = p[0, 1].item(), p[2, 1].item()
    assert value.tolist() == pytest.approx([0.5 * (1 - first) ** 2, 0.5, 0.5 * (1 - third) ** 2])
    expected = torch.zeros(3, 3)
    expected[0, 1], expected[1, 0], expected[2, 1] = -(1 - first) / first, 1.0, -(1 - third) / third
    torch.testing.assert_close(y.grad, expected)


@every_loss
def test_half_precision_is_reckoned_in_single(loss):
    q = Q.bfloat16().requires_grad_()
    value = loss(q, torch.tensor([1, 2, 1]), policy="greedy")
    assert value.dtype == torch.float32
    value.backward()
    assert q.grad.dtype == torch.bfloat16


@every_loss
def test_no_examples_teach_nothing(loss):
    q = torch.zeros(0, 3, requires_grad=True)
    loss(q, torch.zeros(0, dtype=torch.long), reduction="sum").backward()
    assert q.grad.shape == (0, 3)


LABELS = torch.tensor([1, 2, 1])
REFUSED = {
    "one dimension": (lambda loss: loss(Q[0], LABELS), DataError, r"\(batch, actions\)"),
    "integers": (lambda loss: loss(Q.long(), LABELS), DataError, "floating-point"),
    "a label too large": (lambda loss: loss(Q, torch.tensor([0, 3, 1])), DataError, "target 3 does not exist.*0 to 2"),
    "a negative label": (lambda loss: loss(Q, torch.tensor([0, -100, 1])), DataError, "target -100 does not exist"),
    "one-hot labels": (lambda loss: loss(Q, F.one_hot(LABELS)), DataError, r"target must be integers \(3,\)"),
    "labels as numbers": (lambda loss: loss(Q, LABELS.float()), DataError, "target must be integers.*float32"),
    "too few labels": (lambda loss: loss(Q, LABELS[:2]), DataError, r"target must be integers \(3,\), not \(2,\)"),
    "no reward": (lambda loss: loss(Q), DataError, "either the target or the reward, and not neither"),
    "two rewards": (lambda loss: loss(Q, LABELS, reward=lambda a: a), DataError, "and not both"),
    "rewards of no choice": (lambda loss: loss(Q, reward=torch.ones(3)), DataError, "give them with action="),
    "a wrong action": (lambda loss: loss(Q, LABELS, action=LABELS + 2), DataError, "action 3 does not exist"),
    "a list of rewards": (lambda loss: loss(Q, reward=lambda a: [1, 0, 1]), DataError, "must be a tensor.*list"),
    "rewards of a shape": (lambda loss: loss(Q, reward=lambda a: torch.ones(3, 1)), DataError, r"\(3, 1\)"),
    "a lost reward": (lambda loss: loss(Q, reward=lambda a: torch.full((3,), math.nan)), NonFiniteError, "the reward"),
    "lost values": (lambda loss: loss(Q * math.nan, LABELS), NonFiniteError, "values of its actions"),
    "infinite values": (lambda loss: loss(Q / 0, LABELS), NonFiniteError, "values of its actions"),
    "a reduction": (lambda loss: loss(Q, LABELS, reduction="median"), ConfigError, "reduction='median' is unknown"),
    "a policy": (lambda loss: loss(Q, LABELS, policy="softmax"), ConfigError, "policy='softmax' is unknown"),
}


@pytest.mark.parametrize(("call", "error", "says"), REFUSED.values(), ids=REFUSED)
@every_loss
def test_what_cannot_be_is_refused_with_the_reason(loss, call, error, says):
    with pytest.raises(error, match=says):
        call(loss)


@pytest.mark.parametrize("exploration", [-0.1, 1.1, math.nan])
def test_an_exploration_is_a_probability(exploration):
    with pytest.raises(ConfigError, match="must be a probability"):
        losses.reward_prediction(Q, LABELS, exploration=exploration)


def test_agrel_knows_yes_and_no_alone():
    with pytest.raises(DataError, match="neither 0 nor 1"):
        losses.agrel(Q, reward=lambda action: 0.5 * torch.ones(3))


@every_loss
def test_values_that_were_lost_in_a_network_give_a_loss_that_is_no_number(loss):
    """So that the circuit, which knows where, says so in its backward pass."""
    q = (Q * math.nan).requires_grad_()
    value = loss(q, LABELS)
    value.backward()
    assert value.isnan()
    assert q.grad.isnan().any()
