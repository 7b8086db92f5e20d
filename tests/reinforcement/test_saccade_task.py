"""The saccade/antisaccade task keeps the paper's times, rewards and targets, alone and side by side."""

import subprocess
import sys

import numpy as np
import pytest

from apical.errors import ConfigError, DataError

gymnasium = pytest.importorskip("gymnasium")

from gymnasium.utils.env_checker import check_env  # noqa: E402

import apical.reinforcement  # noqa: E402, F401 (registers the task)

ID = "apical/SaccadeAntisaccade-v0"
LEFT, FIXATE, RIGHT = range(3)
# Mark for a saccade, mark for an antisaccade, cue left, cue right; and where to look at the end.
KINDS = {0: (0, 2, LEFT), 1: (0, 3, RIGHT), 2: (1, 2, RIGHT), 3: (1, 3, LEFT)}


def screen(*things: int) -> list[int]:
    return [int(each in things) for each in range(4)]


def play(env, kind: int, actions: list[int]) -> list[tuple[list[float], float, bool]]:
    """What is seen after each action, from the empty screen on."""
    seen, info = env.reset(options={"kind": kind})
    assert seen.tolist() == screen()
    assert info["kind"] == kind
    shown = []
    for action in actions:
        seen, reward, over, cut, info = env.step(action)
        assert not cut
        assert set(info) == ({"correct", "kind"} if over else set())
        shown.append((seen.tolist(), reward, over))
        if over:
            assert info["kind"] == kind
            break
    return shown


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("delay", [0, 2, 5])
def test_a_trial_done_right(kind, delay):
    mark, cue, target = KINDS[kind]
    env = gymnasium.make(ID, delay=delay).unwrapped
    expected = [
        (screen(mark), 0.0, False),
        (screen(mark), 0.0, False),
        (screen(mark, cue), 0.2, False),
        *[(screen(mark), 0.0, False)] * delay,
        (screen(), 0.0, False),
        (screen(), 1.5, True),
    ]
    assert play(env, kind, [*[FIXATE] * (4 + delay), target]) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_the_wrong_side_earns_nothing(kind):
    wrong = LEFT + RIGHT - KINDS[kind][2]
    shown = play(gymnasium.make(ID).unwrapped, kind, [*[FIXATE] * 6, wrong])
    assert [reward for _, reward, _ in shown] == [0, 0, 0.2, 0, 0, 0, 0]
    assert shown[-1][2]


def test_looking_away_ends_the_trial_but_not_while_the_eye_is_awaited():
    env = gymnasium.make(ID).unwrapped
    for looked_away_at in range(2, 6):
        shown = play(env, 0, [*[FIXATE] * looked_away_at, LEFT])
        assert len(shown) == looked_away_at + 1
        assert shown[-1] == (screen(), 0.0, True)
    waited = play(env, 0, [RIGHT, LEFT, RIGHT, LEFT, FIXATE, FIXATE])
    assert waited[-1] == (screen(0, 2), 0.2, False)


def test_patience_ends():
    env = gymnasium.make(ID).unwrapped
    never_fixated = play(env, 1, [LEFT] * 40)
    assert len(never_fixated) == 1 + 11 + 1
    at_the_last_moment = play(env, 1, [LEFT] * 11 + [FIXATE] * 2)
    assert at_the_last_moment[-1] == (screen(0, 3), 0.2, False)
    assert play(env, 1, [LEFT] * 12 + [FIXATE])[-1] == (screen(), 0.0, True)
    never_looked = play(env, 1, [FIXATE] * 40)
    assert len(never_looked) == 6 + 9 + 1
    assert never_looked[-1] == (screen(), 0.0, True)
    in_time = play(env, 1, [FIXATE] * (6 + 8) + [RIGHT])
    assert in_time[-1] == (screen(), 1.5, True)


def test_gymnasium_finds_no_fault():
    check_env(gymnasium.make(ID).unwrapped, skip_render_check=True)


def test_trials_side_by_side_are_the_same_task():
    """The vector answers as single environments do that get its kinds of trial and its actions."""
    vector = gymnasium.make_vec(ID, num_envs=6, delay=1)
    assert type(vector.unwrapped).__name__ == "SaccadeAntisaccadeVector"
    singles = [gymnasium.make(ID, delay=1).unwrapped for _ in range(6)]
    seen, info = vector.reset(seed=0)
    kinds, over = info["kind"], np.zeros(6, dtype=bool)
    for env, kind in zip(singles, kinds, strict=True):
        env.reset(options={"kind": int(kind)})
    choices = np.random.default_rng(0)
    ended = earned = 0
    for _ in range(600):
        actions = np.where(choices.random(6) < 0.8, FIXATE, choices.integers(3, size=6))
        seen, rewards, terminated, truncated, info = vector.step(actions)
        assert seen.dtype == np.float32
        assert not truncated.any()
        for row, env in enumerate(singles):
            if over[row]:
                env.reset(options={"kind": int(vector.unwrapped._trials.kind[row])})
                expected = screen(), 0.0, False
            else:
                single, reward, single_over, _, single_info = env.step(actions[row])
                expected = single.tolist(), reward, single_over
                if single_over:
                    assert info["correct"][row] == single_info["correct"]
                    assert info["kind"][row] == single_info["kind"]
            assert (seen[row].tolist(), rewards[row], terminated[row]) == expected
        over = terminated
        ended += terminated.sum()
        earned += (rewards == 1.5).sum()
    assert ended > 100
    assert earned > 5


def test_the_same_seed_gives_the_same_kinds():
    first, second = ([gymnasium.make_vec(ID, num_envs=50).reset(seed=seed)[1]["kind"] for seed in (1, 2)] for _ in "ab")
    assert np.array_equal(first, second)
    assert not np.array_equal(first[0], first[1])
    assert set(first[0].tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("options", [{"delay": -1}, {"delay": 1.5}, {"reward": float("nan")}])
def test_options_that_cannot_be(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        gymnasium.make(ID, **options)


def test_a_kind_and_an_action_that_are_not():
    env = gymnasium.make(ID).unwrapped
    with pytest.raises(ConfigError, match="antisaccade, cue right"):
        env.reset(options={"kind": 4})
    env.reset(seed=0)
    with pytest.raises(DataError, match="2 \\(right\\)"):
        env.step(3)


def test_without_gymnasium_the_network_works_and_the_rest_names_the_remedy():
    """In a process of its own, where gymnasium cannot be found."""
    code = """
import sys
sys.modules["gymnasium"] = None
from apical import reinforcement
from apical.errors import ConfigError
network = reinforcement.Augment(4, 3)
print(network.step([[0.0, 1.0, 0.0, 1.0]]).tolist())
for use in (
    lambda: reinforcement.learn("CartPole-v1", network, trials=1),
    lambda: reinforcement.network_for("CartPole-v1"),
    lambda: reinforcement.SaccadeAntisaccade(),
):
    try:
        use()
    except ConfigError as error:
        print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count('pip install "apical[gymnasium]"') == 3
