"""AuGMEnT against slow loops written from its equations, and against gradients by autograd."""

import inspect
import math

import numpy as np
import pytest
import torch

from apical.reinforcement import Augment

EXACT = {"rtol": 0, "atol": 1e-12}


def observations(steps: int, size: int, environments: int = 1, seed: int = 0) -> np.ndarray:
    """Things that come and go, so that on and off cells both have work."""
    return np.random.default_rng(seed).uniform(-1, 1, (steps, environments, size))


def reference(network: Augment, seen: np.ndarray, rewards: np.ndarray, actions: list[int], ends: list[bool]):
    """Trials of one environment, synapse by synapse, from the equations; weights and tags after every step."""
    V = network.regular_weights[0].numpy().copy()
    U = network.memory_weights[0].numpy().copy()
    W = network.output_weights[0].numpy().copy()
    F = network.feedback_weights[0].numpy().copy()  # (actions, units)
    n, R, M, A = seen.shape[1], V.shape[1], U.shape[1], W.shape[1]
    beta, gamma, kept = network.learning_rate, network.discount, network.trace_decay * network.discount

    def clean():
        return np.zeros(n), np.zeros(M), np.zeros(2 * n), np.zeros_like(V), np.zeros_like(U), np.zeros_like(W), None

    before, a_memory, trace, tag_V, tag_U, tag_W, value_before = clean()
    history = []
    for t, x in enumerate(seen):
        transient = [max(x[i] - before[i], 0) for i in range(n)] + [max(before[i] - x[i], 0) for i in range(n)]
        y = [1.0]
        for j in range(R):
            drive = V[0, j] + sum(V[1 + i, j] * x[i] for i in range(n))
            y.append(1 / (1 + math.exp(network.threshold - drive)))
        for j in range(M):
            a_memory[j] += sum(U[i, j] * transient[i] for i in range(2 * n))
            y.append(1 / (1 + math.exp(network.threshold - a_memory[j])))
        q = [sum(W[j, k] * y[j] for j in range(1 + R + M)) for k in range(A)]
        k = actions[t]
        delta = 0.0
        if value_before is not None:
            delta = rewards[t] + gamma * (0.0 if ends[t] else q[k]) - value_before
        V += beta * delta * tag_V
        U += beta * delta * tag_U
        W += beta * delta * tag_W
        F += beta * delta * tag_W[1:].T
        tag_V *= kept
        tag_U *= kept
        tag_W *= kept
        for i in range(2 * n):
            trace[i] += transient[i]
        for j in range(1 + R + M):
            tag_W[j, k] += y[j]
        for j in range(R):
            gate = y[1 + j] * (1 - y[1 + j]) * F[k, j]
            for i, pre in enumerate([1.0, *x]):
                tag_V[i, j] += pre * gate
        for j in range(M):
            gate = y[1 + R + j] * (1 - y[1 + R + j]) * F[k, R + j]
            for i in range(2 * n):
                tag_U[i, j] += trace[i] * gate
        before, value_before = x, q[k]
        if ends[t]:
            before, a_memory, trace, tag_V, tag_U, tag_W, value_before = clean()
        history.append([each.copy() for each in (V, U, W, F, tag_V, tag_U, tag_W)] + [q, delta])
    return history


@pytest.mark.parametrize("feedback", ["equal", "random"])
def test_two_trials_are_the_equations(feedback):
    network = Augment(5, 3, feedback=feedback, exploration=0.5, spread=2.0, seed=3, dtype=torch.float64)
    start = Augment(5, 3, feedback=feedback, exploration=0.5, spread=2.0, seed=3, dtype=torch.float64)
    seen, rewards = observations(14, 5)[:, 0], np.random.default_rng(1).normal(size=14)
    ends = [t in {7, 13} for t in range(14)]
    ours, actions = [], []
    for t in range(14):
        actions.append(network.step(seen[None, t], rewards[[t]], np.array([ends[t]])).item())
        weights = network.regular_weights, network.memory_weights, network.output_weights, network.feedback_weights
        state = *weights, *network.tags.values(), network.action_values, network.reward_prediction_error
        ours.append([each[0].clone() for each in state])
    assert len(set(actions)) > 1  # exploration took part
    for mine, theirs in zip(ours, reference(start, seen, rewards, actions, ends), strict=True):
        for one, other in zip(mine, theirs, strict=True):
            torch.testing.assert_close(one, torch.as_tensor(other, dtype=torch.float64), **EXACT)
    assert not torch.equal(network.memory_weights, start.memory_weights)


def values_by_autograd(network: Augment, seen: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The action values of each step of one trial, differentiable in copies of the three kinds of weight."""
    V, U, W = (
        each[0].clone().requires_grad_()
        for each in (network.regular_weights, network.memory_weights, network.output_weights)
    )
    before, memory, values = torch.zeros(seen.shape[1]).double(), torch.zeros(U.shape[1]).double(), []
    for x in seen:
        memory = memory + torch.cat([torch.relu(x - before), torch.relu(before - x)]) @ U
        regular = torch.cat([torch.ones(1).double(), x]) @ V
        y = torch.sigmoid(torch.cat([regular, memory]) - network.threshold)
        values.append(torch.cat([torch.ones(1).double(), y]) @ W)
        before = x
    return values, [V, U, W]


def tags_after(network: Augment, seen: np.ndarray) -> tuple[list[torch.Tensor], list[int]]:
    """The tags after each step without learning, and the actions."""
    actions = [network.step(row, learning=False).item() for row in seen]
    return [tag[0] for tag in network.tags.values()], actions


def test_without_memory_and_trace_the_tag_is_the_gradient_of_the_chosen_value():
    """And with trials of one step, learning_rate * delta * tag is then BrainProp's change."""
    network = Augment(6, 4, regular=5, memory=0, trace_decay=0.0, exploration=0.3, spread=1.5, dtype=torch.float64)
    seen = observations(9, 6)
    for t in range(len(seen)):
        network.reset()
        tags, (action,) = tags_after(network, seen[[t]])
        values, (V, _, W) = values_by_autograd(network, torch.tensor(seen[t]))
        gradients = torch.autograd.grad(values[0][action], [V, W])
        torch.testing.assert_close(tags[0], gradients[0], **EXACT)
        torch.testing.assert_close(tags[2], gradients[1], **EXACT)


def test_a_trial_of_one_step_descends_half_the_squared_reward_prediction_error():
    """BrainProp: the change is minus the learning rate times the gradient of (r - q)^2 / 2."""
    network = Augment(6, 4, regular=5, memory=0, exploration=0.0, spread=1.5, dtype=torch.float64)
    (x,) = observations(1, 6)
    values, weights = values_by_autograd(network, torch.tensor(x))
    V, _, W = weights
    before = network.regular_weights[0].clone(), network.output_weights[0].clone()
    action = network.step(x).item()
    network.step(np.zeros((1, 6)), np.array([1.0]), np.array([True]))
    loss = (1.0 - values[0][action]).square() / 2
    gradients = torch.autograd.grad(loss, [V, W])
    changed = network.regular_weights[0] - before[0], network.output_weights[0] - before[1]
    for change, gradient in zip(changed, gradients, strict=True):
        torch.testing.assert_close(change, -network.learning_rate * gradient, **EXACT)
        assert change.abs().max() > 1e-4


def test_tags_are_the_faded_gradients_through_all_time():
    """With memory: the trace makes a memory unit's tag the gradient through the whole trial, without unrolling it."""
    network = Augment(4, 3, trace_decay=0.7, discount=0.9, exploration=0.4, spread=1.5, seed=2, dtype=torch.float64)
    seen = observations(8, 4)
    tags, actions = tags_after(network, seen)
    values, weights = values_by_autograd(network, torch.tensor(seen[:, 0]))
    chosen = torch.stack([row[action] for row, action in zip(values, actions, strict=True)])
    fading = (0.7 * 0.9) ** torch.arange(7, -1, -1).double()
    expected = torch.autograd.grad((fading * chosen).sum(), weights)
    for tag, gradient in zip(tags, expected, strict=True):
        torch.testing.assert_close(tag, gradient, **EXACT)
        assert gradient.abs().max() > 1e-3


def test_the_reward_prediction_error_is_sarsas():
    network = Augment(4, 3, exploration=0.0, spread=1.0, dtype=torch.float64)
    seen = observations(4, 4)
    values = []
    errors = []
    for t, (reward, terminated, truncated) in enumerate([(9.0, 0, 0), (0.5, 0, 0), (-1.0, 0, 1), (7.0, 0, 0)]):
        flags = np.array([bool(terminated)]), np.array([bool(truncated)])
        action = network.step(seen[t], np.array([reward]), *flags, learning=False)
        values.append(network.action_values[0, action.item()].item())
        errors.append(network.reward_prediction_error.item())
    # The first step of a trial has nothing to compare with; a trial cut off keeps the value of its last observation.
    expected = [0.0, 0.5 + 0.9 * values[1] - values[0], -1.0 + 0.9 * values[2] - values[1], 0.0]
    assert errors == pytest.approx(expected, abs=1e-14)
    network.reset()
    network.step(seen[0])
    network.step(seen[1], np.array([2.0]), np.array([True]), learning=False)
    assert network.reward_prediction_error.item() == pytest.approx(2.0 - values[0], abs=1e-14)  # nothing after the end


def test_feedback_from_the_chosen_action_alone():
    """The synapses onto units that speak to another action only are not tagged."""
    network = Augment(4, 3, exploration=0.0, dtype=torch.float64)
    chosen = network.step(observations(1, 4)[0]).item()
    network.reset()
    network.feedback_weights[:, chosen] = 0.0
    network.step(observations(1, 4)[0])
    assert not network.tags["regular"].any()
    assert not network.tags["memory"].any()
    assert network.tags["output"][0, :, chosen].all()
    others = [k for k in range(3) if k != chosen]
    assert not network.tags["output"][0, :, others].any()


def test_a_network_that_learns_from_several_environments_takes_the_mean_of_their_changes():
    seen = observations(5, 4, environments=3)
    rewards = np.random.default_rng(5).normal(size=(5, 3))
    shared = Augment(4, 3, environments=3, exploration=0.0, dtype=torch.float64)
    start = shared.output_weights.clone()
    for x in seen[:-1]:
        shared.step(x, np.zeros(3), learning=False)
    shared.step(seen[-1], rewards[-1])
    changes = []
    for row in range(3):
        alone = Augment(4, 3, exploration=0.0, dtype=torch.float64)
        for x in seen[:-1, [row]]:
            alone.step(x, np.zeros(1), learning=False)
        alone.step(seen[-1, [row]], rewards[-1, [row]])
        changes.append(alone.output_weights - start)
    torch.testing.assert_close(shared.output_weights - start, torch.stack(changes).mean(0), **EXACT)


def test_the_networks_of_a_population_learn_apart():
    seen = observations(6, 4, environments=3)
    rewards = np.random.default_rng(5).normal(size=(6, 3))
    many = Augment(4, 3, environments=3, population=True, exploration=0.0, dtype=torch.float64)
    names = "regular_weights", "memory_weights", "output_weights", "feedback_weights"
    one = Augment(4, 3, exploration=0.0, dtype=torch.float64)
    for name in names:
        getattr(one, name).copy_(getattr(many, name)[[1]])
    for x, reward in zip(seen, rewards, strict=True):
        many.step(x, reward)
        one.step(x[[1]], reward[[1]])
    for name in names:
        torch.testing.assert_close(getattr(one, name), getattr(many, name)[[1]], **EXACT)
    assert not torch.equal(many.output_weights[0], many.output_weights[1])


def test_exploration_draws_from_softmax_and_else_takes_the_best():
    """Max-Boltzmann: with 40000 choices, a share is known to about 0.0025 (one standard error), held to 5 of them."""
    network = Augment(2, 3, environments=40000, regular=4, exploration=0.3, spread=3.0, seed=5, dtype=torch.float64)
    actions = network.step(np.ones((40000, 2)))
    values = network.action_values[0]
    expected = 0.3 * values.softmax(0) + 0.7 * torch.nn.functional.one_hot(values.argmax(), 3)
    shares = torch.bincount(actions, minlength=3) / 40000
    assert shares.tolist() == pytest.approx(expected.tolist(), abs=0.0125)
    assert expected.min() > 0.02
    network.reset()
    assert (network.step(np.ones((40000, 2)), exploring=False) == values.argmax()).all()


def test_only_those_change_that_are_to_learn():
    network = Augment(4, 3, environments=3, population=True, feedback_decay=0.01)
    before = [weights.clone() for weights in network.parameters()]
    taught = torch.tensor([True, False, True])
    for x in observations(4, 4, environments=3):
        network.step(x, np.ones(3), learning=taught)
    for old, new in zip(before, network.parameters(), strict=True):
        changed = (old != new).flatten(1).any(1)
        assert changed.tolist() == taught.tolist()


def test_the_defaults_are_the_published_ones():
    """Of the paper's table of parameters, and of the program that its authors published with it."""
    published = {
        **{"regular": 3, "memory": 4, "threshold": 2.5, "spread": 0.25},
        **{"learning_rate": 0.15, "discount": 0.9, "trace_decay": 0.2, "exploration": 0.025},
        **{"environments": 1, "population": False, "feedback": "equal", "feedback_decay": 0.0},
    }
    parameters = inspect.signature(Augment).parameters
    assert {name: parameters[name].default for name in published} == published
    network = Augment(4, 3)
    assert {name: getattr(network, name) for name in published} == published
    assert (network.regular_weights.shape[-1], network.memory_weights.shape[-1]) == (3, 4)
    most = max(float(weights.abs().max()) for weights in (network.regular_weights, network.memory_weights))
    assert 0.2 < most <= 0.25
