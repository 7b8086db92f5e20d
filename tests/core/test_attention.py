"""Learning from a reward: what its rules must equal, and that no label gets in."""

import math

import attention_reference as slow
import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from circuits import CLASSES, NETWORKS, assert_same, gradients, plain
from torch import Tensor, nn

import apical
from apical import losses
from apical.errors import CircuitError, ConfigError
from apical.rules import AGREL, BrainProp

both = pytest.mark.parametrize("kind", [BrainProp, AGREL])
every_network = pytest.mark.parametrize("network", NETWORKS)
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def circuit_on(network: str, rule: apical.LearningRule) -> tuple[apical.Circuit, Tensor, Tensor]:
    x, y = NETWORKS[network].batch(12)
    return apical.Circuit(NETWORKS[network].build().double(), rule), x.double(), y


def taught(circuit: nn.Module, x: Tensor, loss) -> dict[str, Tensor]:
    """The gradients of a loss of the answer, dropout always the same."""
    circuit.zero_grad()
    torch.manual_seed(3)
    loss(circuit(x)).backward()
    return gradients(circuit)


# BrainProp


@every_network
def test_it_is_the_gradient_of_half_the_squared_reward_prediction_error(network):
    circuit, x, _ = circuit_on(network, BrainProp())
    generator = torch.Generator().manual_seed(1)
    action = torch.randint(0, CLASSES, (len(x),), generator=generator)
    reward = torch.randn(len(x), generator=generator, dtype=torch.float64)
    found = taught(circuit, x, lambda q: losses.reward_prediction(q, action=action, reward=reward))
    model = NETWORKS[network].build().double()
    truth = taught(model, x, lambda q: 0.5 * (reward - q[torch.arange(len(x)), action]).square().mean())
    assert_same(plain(found), truth, **CLOSE)


@both
@pytest.mark.parametrize("norm", [nn.BatchNorm1d(5), nn.BatchNorm1d(5, track_running_stats=False), nn.GroupNorm(1, 5)])
def test_the_error_times_attention_at_the_synapse_is_the_update_but_for_batch_norm(kind, norm, recwarn):
    """Attention of each sample alone, times its error, summed: batch norm departs, and a warning says so."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), norm, nn.Tanh(), nn.Linear(5, 3)).double()
    x, action = torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 3
    reward = torch.tensor([1.0, 0, 0, 1, 0, 1], dtype=torch.float64)
    circuit = apical.Circuit(model, kind())
    warned = [str(each.message) for each in recwarn if "mixes samples" in str(each.message)]
    loss = {BrainProp: losses.reward_prediction, AGREL: losses.agrel}[kind]
    output = circuit(x)
    values = output.detach().requires_grad_()
    (error,) = torch.autograd.grad(loss(values, action=action, reward=reward), values)
    loss(output, action=action, reward=reward).backward()
    drives = model[0](x).detach().requires_grad_()
    chosen = model[1:](drives).gather(1, action[:, None]).sum()
    (signal,) = torch.autograd.grad(chosen, drives)
    at_synapse = (error.sum(1, keepdim=True) * signal).T @ x
    apart = float((at_synapse - model[0].weight.grad).norm() / model[0].weight.grad.norm())
    if isinstance(norm, nn.BatchNorm1d):
        assert apart > 0.1
        assert warned
        assert warned[0].startswith("0: ")
    else:
        assert apart < 1e-12
        assert not warned


@every_network
def test_the_sum_over_all_actions_is_backprop_of_the_squared_error(network):
    circuit, x, y = circuit_on(network, BrainProp())
    total: dict[str, Tensor] = {}
    for action in range(CLASSES):
        chosen = torch.full_like(y, action)
        found = taught(circuit, x, lambda q, s=chosen: losses.reward_prediction(q, y, action=s))
        total = {name: total.get(name, 0) + gradient for name, gradient in plain(found).items()}
    target = F.one_hot(y, CLASSES).double()
    model = NETWORKS[network].build().double()
    assert_same(total, taught(model, x, lambda q: 0.5 * (target - q).square().sum(1).mean()), **CLOSE)


def test_a_value_of_exactly_zero_learns():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        model[0].bias.fill_(1.0)
        model[2].weight.zero_()
        model[2].bias.zero_()
    circuit, x = apical.Circuit(model, BrainProp()), torch.zeros(1, 3, dtype=torch.float64)
    assert circuit(x).tolist() == [[0.0, 0.0]]
    losses.reward_prediction(circuit(x), torch.tensor([0]), policy="greedy").backward()
    assert model[2].bias.grad.tolist() == [-1.0, 0.0]
    assert model[2].weight.grad.tolist() == [[-1.0] * 4, [0.0] * 4]


# AGREL


@every_network
def test_the_mean_over_agrels_winners_is_backprop_of_cross_entropy(network):
    """Exactly: each winner's update times the probability that it is drawn, sample by sample."""
    circuit, x, y = circuit_on(network, AGREL())
    if not NETWORKS[network].one_by_one:
        circuit.eval()  # a norm that sees the batch, or dropout, gives no sample a probability of its own
    expected: dict[str, Tensor] = {}
    for sample, label in zip(x.split(1), y.split(1), strict=True):
        chances = circuit(sample).detach().softmax(1)[0]
        for winner, chance in enumerate(chances):
            chosen = torch.tensor([winner])
            found = plain(taught(circuit, sample, lambda o, s=chosen, t=label: losses.agrel(o, t, action=s)))
            expected = {name: expected.get(name, 0) + chance / len(x) * found[name] for name in found}
    model = NETWORKS[network].build().double().train(circuit.training)
    assert_same(expected, taught(model, x, lambda o: F.cross_entropy(o, y)), **CLOSE)


def test_agrels_draws_are_those_whose_mean_is_backprop():
    """The mean over many draws, each coordinate in units of its own standard error.

    300 coordinates at most; under the null hypothesis the chance that any of them lies beyond 5 is below 2e-4.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 3)).double()
    x, y = torch.randn(1, 3, dtype=torch.float64), torch.tensor([1])
    truth = taught(model, x, lambda o: F.cross_entropy(o, y))
    circuit, generator = apical.Circuit(model, AGREL()), torch.Generator().manual_seed(5)
    draws = [
        torch.cat([g.flatten() for g in taught(circuit, x, lambda o: losses.agrel(o, y, generator=generator)).values()])
        for _ in range(600)
    ]
    every = torch.stack(draws)
    error = every.std(0) / math.sqrt(len(every))
    assert (error > 0).any()
    distance = every.mean(0) - torch.cat([g.flatten() for g in truth.values()])
    assert (distance.abs() <= 5 * error + 1e-12).all()


# The equations in loops


def perceptron(function: str) -> nn.Sequential:
    torch.manual_seed(0)
    neurons = {"tanh": nn.Tanh, "relu": nn.ReLU}[function]
    return nn.Sequential(nn.Linear(5, 6), neurons(), nn.Linear(6, 4), neurons(), nn.Linear(4, 3)).double()


@pytest.mark.parametrize("function", ["tanh", "relu"])
@pytest.mark.parametrize("feedback", ["tied", "kolen_pollack", "fixed"])
@both
def test_the_equations_in_loops(kind, feedback, function):
    circuit = apical.Circuit(perceptron(function), kind(feedback=feedback))
    generator = torch.Generator().manual_seed(4)
    x = torch.randn((7, 5), generator=generator, dtype=torch.float64)
    target, action = (torch.randint(0, 3, (7,), generator=generator) for _ in range(2))
    loss = losses.LOSSES[kind.learns_from]
    found = taught(circuit, x, lambda q: loss(q, target, action=action))

    paths = ("0", "2", "4")
    layers = [circuit.model.get_submodule(path) for path in paths]
    weights, biases = ([getattr(layer, name).detach().numpy() for layer in layers] for name in ("weight", "bias"))
    own = circuit.rule.state_dict()
    backwards = [
        own.get(f"pathway.weights.{path}", torch.from_numpy(W)).numpy().T
        for path, W in zip(paths, weights, strict=True)
    ]
    outputs = [
        reference.answer(weights, biases, sample, reference.FUNCTIONS[function][0])[0][-1] for sample in x.numpy()
    ]
    rewards = (action == target).numpy().astype(float)
    numbers = (slow.reward_prediction_errors if kind is BrainProp else slow.expansive_errors)(
        outputs, action.numpy(), rewards
    )
    expected = slow.gated(weights, biases, backwards, x.numpy(), action.numpy(), numbers, function)
    for name, parts in zip(("weight", "bias"), expected, strict=True):
        for path, part in zip(paths, parts, strict=True):
            np.testing.assert_allclose(found[f"model.{path}.{name}"].numpy(), part, rtol=1e-11, atol=1e-13)
    if feedback == "kolen_pollack":  # the reciprocal synapse makes the same change
        for path in paths[1:]:
            assert torch.equal(found[f"rule.pathway.weights.{path}"], found[f"model.{path}.weight"])


@both
def test_learned_feedback_becomes_the_forward_weights(kind):
    circuit = apical.Circuit(perceptron("tanh"), kind(feedback="kolen_pollack"))
    optimizer = torch.optim.SGD(circuit.parameters(), lr=0.1, weight_decay=0.5)
    weight, feedback = circuit.model[2].weight, circuit.rule.pathway.weights[circuit.layers[1]]
    apart = (weight - feedback).detach().clone()
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        x = torch.randn((8, 5), generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        losses.LOSSES[kind.learns_from](circuit(x), x[:, :3].argmax(1), generator=generator).backward()
        optimizer.step()
    torch.testing.assert_close((weight - feedback).detach(), apart * 0.95**100, rtol=1e-6, atol=1e-12)


def test_fixed_feedback_learns_in_small_steps():
    """As its docstring says; with three seeds, on a task that chance does at a third."""
    for seed in range(3):
        assert trained(BrainProp(feedback="fixed", seed=seed), seed=seed, exploration=0.1, lr=0.05) > 0.7


# No label gets in


@both
def test_nothing_is_told_of_what_was_not_chosen(kind):
    """Labels of samples whose choice was wrong are shuffled: with the same choices and rewards, not a bit changes."""
    circuit, x, y = circuit_on("conv", kind())
    x, y = torch.cat([x] * 4), torch.cat([y] * 4)
    loss = losses.LOSSES[kind.learns_from]
    seen = []

    def told(labels: Tensor) -> dict[str, Tensor]:
        torch.manual_seed(3)
        circuit.zero_grad()
        loss(circuit(x), labels, generator=torch.Generator().manual_seed(2)).backward()
        return gradients(circuit)

    torch.manual_seed(3)
    loss(circuit(x), reward=lambda s: seen.append(s) or (s == y).float(), generator=torch.Generator().manual_seed(2))
    (chosen,) = seen
    wrong = chosen != y
    assert 0 < wrong.sum() < len(y)
    other = torch.where(wrong, (chosen + 1 + torch.arange(len(y)) % (CLASSES - 1)) % CLASSES, y)
    assert (other != y).any()
    assert torch.equal(other == chosen, y == chosen)
    assert_same(told(other), told(y))


@pytest.mark.parametrize(
    "loss",
    [
        F.cross_entropy,
        lambda q, y: 0.5 * (q - F.one_hot(y, q.shape[1])).square().sum(1).mean(),
        lambda q, y: losses.reward_prediction(q, y) + 1e-3 * q.square().sum(),
        F.multi_margin_loss,
    ],
)
@both
def test_a_loss_that_tells_more_is_refused(kind, loss):
    circuit, x, y = circuit_on("mlp", kind())
    with pytest.raises(CircuitError, match=rf"5 outputs of one sample.*the label.*apical\.losses\.{kind.learns_from}"):
        loss(circuit(x), y).backward()
    assert not gradients(circuit)


@both
def test_an_answer_that_is_no_choice_is_refused(kind):
    circuit = apical.Circuit(nn.Sequential(nn.Conv1d(2, 3, 1), nn.ReLU(), nn.Conv1d(3, 4, 1)), kind())
    with pytest.raises(CircuitError, match=r"\(5, 4, 6\).*\(batch, actions\)"):
        circuit(torch.randn(5, 2, 6))[0, 0, 0].backward()


@both
def test_what_multiplies_a_loss_multiplies_the_update(kind):
    circuit, x, y = circuit_on("residual", kind())
    loss = losses.LOSSES[kind.learns_from]
    one = taught(circuit, x, lambda q: loss(q, y, policy="greedy"))
    other = taught(circuit, x, lambda q: 1024 * loss(q, y, policy="greedy"))
    assert_same({name: gradient / 1024 for name, gradient in other.items()}, one)


@both
def test_alignment_is_of_the_same_choices(kind):
    """Drawn from PyTorch's own generator, which both updates start alike."""
    circuit, x, y = circuit_on("mlp", kind())
    angles = apical.measure.alignment(circuit, x, y, losses.LOSSES[kind.learns_from])
    assert set(angles.values()) == {0.0}


def test_an_observer_hears_the_number():
    circuit, x, y = circuit_on("mlp", BrainProp())
    heard = {}
    with circuit.observe(lambda layer, shown: heard.update({layer: shown.get("neuromodulator", heard.get(layer))})):
        q = circuit(x)
        losses.reward_prediction(q, y, policy="greedy").backward()
    value, choice = q.detach().max(1)
    assert heard.pop("5").tolist() == pytest.approx(((choice == y).double() - value).tolist())
    assert set(heard.values()) == {None}


@pytest.mark.parametrize("option", [{"feedback": "random"}, {"init": "zeros"}, {"scale": 0.0}])
@both
def test_options_are_checked(kind, option):
    with pytest.raises(ConfigError, match=rf"{kind.__name__}: {next(iter(option))}="):
        kind(**option)


def test_what_a_rule_wants_of_the_optimizer_depends_on_its_feedback():
    assert BrainProp().recommends() == {}
    assert BrainProp(feedback="kolen_pollack").recommends() == apical.KolenPollack.recommended
    assert set(AGREL(feedback="kolen_pollack").recommends()) == {"learning_rate_factor", "weight_decay"}


# It learns, and only by trying


def trained(rule: apical.LearningRule, *, seed: int, exploration: float, lr: float = 0.2, steps: int = 400) -> float:
    """The accuracy of a small network that learns three classes of noisy points from rewards, a batch of 32 a step."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 3))
    circuit, generator = apical.Circuit(model, rule), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(circuit.parameters(), lr=lr)
    x = torch.randn((600, 10), generator=generator)
    y = (x[:, :3] + 0.1 * torch.randn((600, 3), generator=generator)).argmax(1)
    for _ in range(steps):
        batch = torch.randint(0, 600, (32,), generator=generator)
        optimizer.zero_grad()
        losses.reward_prediction(circuit(x[batch]), y[batch], exploration=exploration, generator=generator).backward()
        optimizer.step()
    with torch.no_grad():
        return (circuit(x).argmax(1) == y).float().mean().item()


def test_without_exploration_learning_stalls():
    """Handwritten digits, four seeds each: with exploration all do better than any without it.

    Were the two alike, they would part so with a chance of 1 in 70. Without exploration a class that is not chosen is
    never rewarded, so that its examples stay wrong for good.
    """
    stalled, explored = ([digits(seed, exploration) for seed in range(4)] for exploration in (0.0, 0.1))
    assert max(accuracy for accuracy, _ in stalled) < 0.93 < min(accuracy for accuracy, _ in explored)
    assert all(recall.min() == 0 for _, recall in stalled)
    assert all(recall.min() > 0.5 for _, recall in explored)


def digits(seed: int, exploration: float) -> tuple[float, Tensor]:
    """The accuracy after eight epochs of learning from rewards, and that of each class."""
    train = apical.data.load("digits", progress=False).train
    x, y = train.x.flatten(1), train.y
    torch.manual_seed(seed)
    circuit = apical.Circuit(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), "brainprop")
    optimizer, generator = torch.optim.SGD(circuit.parameters(), lr=0.2), torch.Generator().manual_seed(seed)
    for _ in range(8):
        for batch in torch.randperm(len(x), generator=generator).split(32)[:-1]:
            optimizer.zero_grad()
            answer = circuit(x[batch])
            losses.reward_prediction(answer, y[batch], exploration=exploration, generator=generator).backward()
            optimizer.step()
    with torch.no_grad():
        right = circuit(x).argmax(1) == y
    return right.float().mean().item(), torch.stack([right[y == label].float().mean() for label in range(10)])
