"""Networks and the loop that teaches them: state, criteria, refusals, and that memory is what the task needs."""

import copy
import io
import signal

import numpy as np
import pytest
import torch

from apical.errors import ConfigError, DataError, NonFiniteError
from apical.reinforcement import Augment, Solved, evaluate, learn, network_for

gymnasium = pytest.importorskip("gymnasium")

SACCADE = "apical/SaccadeAntisaccade-v0"


class Bandit(gymnasium.Env):
    """Trials of one step: a number is shown, and the right action is told by it."""

    def __init__(self, actions=None, observations=None, broken=None):
        self.action_space = actions or gymnasium.spaces.Discrete(2, start=5)
        self.observation_space = observations or gymnasium.spaces.Discrete(2, start=-1)
        self.broken = broken

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.shown = int(self.np_random.integers(2)) - 1
        return self.shown, {}

    def step(self, action):
        assert action in self.action_space
        right = action - 5 == self.shown + 1
        reward = float("nan") if self.broken == "reward" else float(right)
        return self.shown, reward, True, False, {"right": bool(right)}


class Corridor(gymnasium.Env):
    """Ends by being cut off after three steps; what is seen can be broken."""

    action_space = gymnasium.spaces.Discrete(2)
    observation_space = gymnasium.spaces.Box(-1, 1, (2, 2))

    def __init__(self, shown=0.5):
        self.shown = np.full((2, 2), shown, dtype=np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 3
        return np.full((2, 2), 0.5, dtype=np.float32), {}

    def step(self, action):
        self.left -= 1
        return self.shown, 1.0, False, self.left == 0, {}


def weights(network: Augment) -> list[torch.Tensor]:
    return [parameter.clone() for parameter in network.parameters()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_same_seeds_give_the_same_run():
    runs = []
    for seed in (0, 0, 1):
        network = network_for(SACCADE, environments=3, population=True, seed=4)
        result = learn(SACCADE, network, trials=30, seed=seed)
        runs.append((result.returns, weights(network)))
    assert runs[0][0] == runs[1][0]
    assert same(runs[0][1], runs[1][1])
    assert not same(runs[0][1], runs[2][1])
    assert [len(returns) for returns in runs[0][0]] == [30, 30, 30]


def test_a_saved_network_goes_on_to_the_same_bits_from_the_middle_of_a_trial():
    choices = np.random.default_rng(0)
    seen, rewards = choices.uniform(size=(60, 2, 4)), choices.normal(size=(60, 2))
    ends = choices.random((60, 2)) < 0.2
    network = Augment(4, 3, environments=2, exploration=0.5, seed=1)
    saved, after = io.BytesIO(), []
    for t in range(60):
        if t == 30:
            torch.save(network.state_dict(), saved)
            copied = copy.deepcopy(network)
        action = network.step(seen[t], rewards[t], ends[t])
        if t >= 30:
            after.append(action)
    saved.seek(0)
    restored = Augment(4, 3, environments=2, exploration=0.5, seed=99)
    restored.load_state_dict(torch.load(saved, weights_only=True))
    for other in (restored, copied):
        again = [other.step(seen[t], rewards[t], ends[t]) for t in range(30, 60)]
        assert same(after, again)
        assert same(weights(network), weights(other))
    assert len({tuple(action.tolist()) for action in after}) > 1


def test_discrete_observations_and_actions_that_begin_elsewhere():
    env = Bandit()
    network = network_for(env, memory=0, regular=4, exploration=0.2, learning_rate=0.3, threshold=0.0)
    result = learn(env, network, trials=3000, until=Solved(at_least=0.9, score="right", window=50))
    assert result.solved_at[0] == result.trials[0] < 3000
    assert sum(result.scores[0][-50:]) >= 45
    assert result.share_solved == 1
    assert result.median_trials == result.solved_at[0]
    assert evaluate(env, network, trials=100, score="right").mean_score() == 1.0


def test_a_box_of_any_shape_and_trials_that_are_cut_off():
    """A trial that is cut off keeps the value of what follows: with reward 1 for ever that is 1 / (1 - discount)."""
    env = Corridor()
    network = network_for(env, memory=0, regular=4, discount=0.5, threshold=0.0, exploration=0.0)
    assert network.observations == 4
    result = learn(env, network, trials=400)
    assert result.returns == [[3.0] * 400]
    network.step(np.full((1, 4), 0.5))
    assert network.action_values.max().item() == pytest.approx(2.0, abs=0.01)


def test_a_network_learns_from_several_environments_at_once():
    network = network_for(SACCADE, environments=4)
    result = learn(SACCADE, network, trials=50)
    assert result.trials == [50]
    assert network.output_weights.shape == (1, 8, 3)


def test_vectors_of_the_users_own():
    vector = gymnasium.make_vec("CartPole-v1", num_envs=3, vectorization_mode="sync")
    network = network_for(vector)
    assert network.environments == 3
    assert learn(vector, network, trials=10).steps > 30


def test_evaluation_changes_no_weight():
    network = network_for(SACCADE, environments=2, population=True)
    before = weights(network)
    generator = network.get_extra_state()["generator"].clone()
    first, second = (evaluate(SACCADE, network, trials=20, score="correct", seed=3) for _ in range(2))
    assert first.scores == second.scores
    assert same(before, weights(network))
    assert torch.equal(generator, network.get_extra_state()["generator"])


def test_a_network_of_a_population_stops_learning_when_it_has_solved_the_task():
    """The others go on: with a mean that any trial reaches, all stop after one window."""
    network = network_for(SACCADE, environments=3, population=True)
    result = learn(SACCADE, network, trials=20, until=Solved(at_least=0.0, score="correct", window=5))
    assert result.solved_at == [5, 5, 5]
    assert result.trials == [5, 5, 5]


def test_every_kind_has_to_reach_the_mean():
    network = network_for(SACCADE)
    result = learn(SACCADE, network, trials=200, until=Solved(0.0, "correct", window=10, by="kind"))
    assert 40 <= result.solved_at[0] < 200


def test_an_interrupt_keeps_what_was_learned():
    network = network_for(SACCADE)
    before, told = weights(network), []

    def interrupt(trial: int, score: float) -> None:
        told.append((trial, score))
        signal.raise_signal(signal.SIGINT)

    result = learn(SACCADE, network, trials=400, progress=interrupt)
    assert result.interrupted
    assert result.trials == [20]
    assert told[0][0] == 20
    assert not same(before, weights(network))
    assert not any(tag.any() for tag in network.tags.values())
    assert torch.equal(network.feedback_weights, network.output_weights[:, 1:].mT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not learn(SACCADE, network, trials=5, seed=1).interrupted


def test_a_second_interrupt_does_not_wait():
    def interrupt_twice(trial: int, score: float) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        learn(SACCADE, network_for(SACCADE), trials=40, progress=interrupt_twice)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_progress_is_told(capsys):
    learn(SACCADE, network_for(SACCADE), trials=40, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 20
    assert lines[-1].startswith("trial 40 of 40: mean of the last 100 is 0.")


def test_random_feedback_grows_alike_with_kolen_and_pollack():
    """The difference with which they begin fades; where they begin equal, they stay so to the last bit."""
    distances = {}
    for feedback, decay in (("equal", 0.0), ("random", 0.0), ("random", 5e-3)):
        network = network_for(SACCADE, feedback=feedback, feedback_decay=decay)
        start = (network.feedback_weights - network.output_weights[:, 1:].mT).norm().item()
        learn(SACCADE, network, trials=40)
        end = (network.feedback_weights - network.output_weights[:, 1:].mT).norm().item()
        distances[feedback, decay] = start, end
    assert distances["equal", 0.0] == (0.0, 0.0)
    start, end = distances["random", 0.0]
    assert end == pytest.approx(start, rel=1e-4)
    start, end = distances["random", 5e-3]
    assert end < 0.3 * start


def test_memory_is_what_the_task_needs():
    """Networks without memory units learn to fixate, not where to look.

    At the go the screen is empty, whatever the cue was: without memory at most half of the targets can be met.
    """
    networks = network_for(SACCADE, environments=5, population=True, memory=0, regular=7, learning_rate=0.4)
    result = learn(SACCADE, networks, trials=200, until=Solved(0.85, "correct", 100, by="kind"))
    assert result.share_solved == 0
    fixated = [earned >= 0.2 for returns in result.returns for earned in returns[-100:]]
    assert np.mean(fixated) > 0.5
    assert result.mean_score() < 0.6


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"observations": 0}, "observations=0"),
        ({"actions": 2.5}, "actions=2.5"),
        ({"environments": True}, "environments=True"),
        ({"regular": 0, "memory": 0}, "no unit"),
        ({"memory": -1}, "memory=-1"),
        ({"learning_rate": 0}, "learning_rate=0"),
        ({"spread": float("nan")}, "spread=nan"),
        ({"discount": 1.5}, "discount=1.5"),
        ({"trace_decay": float("nan")}, "trace_decay=nan"),
        ({"exploration": -0.1}, "exploration=-0.1"),
        ({"threshold": float("inf")}, "threshold=inf"),
        ({"feedback": "tied"}, "'equal' or 'random'"),
    ],
)
def test_options_of_the_network_that_cannot_be(options, named):
    with pytest.raises(ConfigError, match=named):
        Augment(**{"observations": 4, "actions": 3, **options})


def test_a_mistyped_option_is_named():
    with pytest.raises(ConfigError, match="learnin_rate"):
        network_for(SACCADE, learnin_rate=0.1)


@pytest.mark.parametrize("given", ["observation", "reward", "terminated"])
def test_wrong_shapes_are_refused_before_anything_changes(given):
    network = Augment(4, 3, environments=2)
    inputs = {"observation": np.ones((2, 4)), "reward": np.ones(2), "terminated": np.zeros(2, dtype=bool)}
    network.step(**inputs)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(DataError, match=f"{given} has the shape"):
        network.step(**{**inputs, given: np.ones((3, 4))})
    after = network.state_dict()
    for name, value in before.items():
        if torch.is_tensor(value):
            assert torch.equal(value, after[name])


def test_lost_numbers_are_refused_before_a_weight_changes():
    for env, named, layer in (
        (Corridor(shown=np.nan), "the observation of environment 0", "input"),
        (Bandit(broken="reward"), "the reward of environment 0", "input"),
    ):
        network = network_for(env)
        before = weights(network)
        with pytest.raises(NonFiniteError, match=named) as caught:
            learn(env, network, trials=10)
        assert caught.value.layer == layer
        assert same(before, weights(network))
    env = Corridor()
    with pytest.raises(NonFiniteError, match="learning_rate=1000"):
        learn(env, network_for(env, learning_rate=1000, threshold=0.0), trials=1000)


def test_spaces_that_cannot_be():
    spaces = gymnasium.spaces
    box = spaces.Box(-1, 1, (2,))
    for env, named in (
        (Bandit(actions=box), "must be Discrete"),
        (Bandit(observations=spaces.Dict({"a": box})), "FlattenObservation"),
    ):
        with pytest.raises(ConfigError, match=named):
            network_for(env)
        with pytest.raises(ConfigError, match=named):
            learn(env, Augment(2, 2), trials=1)


def test_runs_that_cannot_be():
    network = Augment(4, 3)
    with pytest.raises(ConfigError, match="NoSuchTask"):
        learn("NoSuchTask-v0", network, trials=1)
    with pytest.raises(ConfigError, match="is not an environment"):
        learn(3, network, trials=1)
    with pytest.raises(ConfigError, match="trials=0"):
        learn(SACCADE, network, trials=0)
    with pytest.raises(ConfigError, match="has 2"):
        learn("CartPole-v1", network, trials=1)
    with pytest.raises(ConfigError, match="environments=2"):
        learn(gymnasium.make_vec(SACCADE, num_envs=2), network, trials=1)
    same_step = gymnasium.make_vec(
        "CartPole-v1",
        num_envs=2,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP},
    )
    with pytest.raises(ConfigError, match="autoreset_mode='SameStep'"):
        learn(same_step, Augment(4, 2, environments=2), trials=1)
    with pytest.raises(DataError, match="'kind'"):
        learn(SACCADE, network, trials=5, until=Solved(0.9, "corect"))
    with pytest.raises(ConfigError, match="window=0"):
        Solved(0.9, window=0)
    with pytest.raises(ConfigError, match="at_least=nan"):
        Solved(float("nan"))
