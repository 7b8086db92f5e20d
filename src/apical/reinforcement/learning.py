"""The loop that teaches a network any gymnasium environment with discrete actions."""

from __future__ import annotations

import sys
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from apical.errors import ConfigError, DataError
from apical.interrupts import ctrl_c
from apical.options import check_choice
from apical.reinforcement.augment import Augment
from apical.reinforcement.spaces import action_count, encoder, first_action, observation_size, refuse_without_gymnasium

if TYPE_CHECKING:
    import gymnasium
    from gymnasium.vector import VectorEnv

    Environment = str | gymnasium.Env[Any, Any] | VectorEnv[Any, Any, Any]


@dataclass(frozen=True)
class Solved:
    """When a task counts as learned: by the mean of a score over the last trials.

    Attributes:
        at_least: the mean that has to be reached.
        score: "return", the sum of a trial's rewards, or the name of something that the environment's `info` holds
            when a trial ends, such as "correct".
        window: how many trials the mean is taken of.
        by: the name of something in `info` that tells kinds of trial apart: every kind has to reach the mean, each
            over its own last `window` trials.
    """

    at_least: float
    score: str = "return"
    window: int = 100
    by: str | None = None

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ConfigError(f"Solved: window={self.window!r} must be a number of trials, 1 or more.")
        if not np.isfinite(self.at_least):
            raise ConfigError(f"Solved: at_least={self.at_least!r} must be a finite number.")


@dataclass
class Learned:
    """What a run came to; one entry for each network, and one network unless it is a population.

    Attributes:
        returns: the sum of rewards of every trial, in order.
        scores: what `Solved` looked at in every trial; the returns where there was no such criterion.
        solved_at: the trial with which the criterion was met, counted from 1; None where it was not.
        steps: of the environments, in all.
        interrupted: whether Ctrl-C ended the run before its time.
    """

    returns: list[list[float]]
    scores: list[list[float]]
    solved_at: list[int | None]
    steps: int = 0
    interrupted: bool = False

    @property
    def trials(self) -> list[int]:
        """How many trials each network had."""
        return [len(returns) for returns in self.returns]

    @property
    def share_solved(self) -> float:
        """Share of the networks that met the criterion."""
        return fmean(trial is not None for trial in self.solved_at)

    @property
    def median_trials(self) -> float | None:
        """Median number of trials of those that met it; None where none did."""
        met = [trial for trial in self.solved_at if trial is not None]
        return median(met) if met else None

    def mean_score(self, last: int = 100) -> float:
        """Mean of the scores over the last trials of every network; NaN before the first trial."""
        scores = [score for scores in self.scores for score in scores[-last:]]
        return fmean(scores) if scores else float("nan")


@dataclass
class _History:
    """One network's trials so far, and whether they are enough."""

    until: Solved | None
    returns: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    solved_at: int | None = None

    def __post_init__(self) -> None:
        length = self.until.window if self.until else 1
        self._windows: dict[Any, deque[float]] = defaultdict(lambda: deque(maxlen=length))

    def add(self, earned: float, score: float, kind: Any) -> None:
        """One more trial."""
        self.returns.append(earned)
        self.scores.append(score)
        if self.until is None:
            return
        window = self._windows[kind]
        window.append(score)
        if self._reached(window) and all(map(self._reached, self._windows.values())):
            self.solved_at = len(self.returns)

    def _reached(self, window: deque[float]) -> bool:
        assert self.until is not None
        return len(window) == self.until.window and sum(window) >= self.until.at_least * self.until.window


def network_for(env: Environment, **options: Any) -> Augment:
    """An AuGMEnT network of the right size for an environment.

    Args:
        env: gymnasium's id of it, the environment or a vector of them. For an id, `environments` may be among the
            options.
        **options: of `Augment`.

    Raises:
        ConfigError: spaces that it cannot learn, or a mistyped option.
    """
    refuse_without_gymnasium()
    with _vector(env, options.get("environments")) as vector:
        sizes = observation_size(vector.single_observation_space), action_count(vector.single_action_space)
        environments = vector.num_envs
    try:
        return Augment(*sizes, **{"environments": environments, **options})
    except TypeError as error:
        raise ConfigError(f"Augment has no such option: {error}.") from error


def learn(
    env: Environment,
    network: Augment,
    *,
    trials: int,
    seed: int = 0,
    until: Solved | None = None,
    progress: bool | Callable[[int, float], None] = False,
) -> Learned:
    """Teach a network a task by reward, trial after trial.

    A network of a population stops learning when it has met the criterion; the run ends when all have, or have had
    their trials. Ctrl-C ends it too, after the step that it is at, and what was learned stays in the network: save
    `network.state_dict()`, and call `learn` again with another seed to go on. The same seeds, of the network and here,
    give the same run to the last bit.

    Args:
        env: gymnasium's id, an environment, or a vector of as many as the network has (with "next step" autoreset,
            gymnasium's own). Observations are `Box` or `Discrete`, actions `Discrete`. It is not closed.
        network: what learns; it begins with a new trial.
        trials: how many each network gets at most.
        seed: of the environments.
        until: when a network has learned enough; None for all trials.
        progress: True prints a line for every twentieth of the trials; a function is called then, with the trials
            that the network furthest on has had and the mean of the last 100 scores.

    Raises:
        ConfigError: gymnasium is missing, the spaces or numbers of environments do not fit, an option cannot be.
        DataError: the environment's `info` lacks what the criterion looks at.
        NonFiniteError: NaN or infinity in an observation or a reward, or learning that has diverged.
    """
    return _run(env, network, trials, seed, until, progress, learning=True)


def evaluate(env: Environment, network: Augment, *, trials: int, seed: int = 0, score: str = "return") -> Learned:
    """Let a network do a task without learning and without exploring.

    Args:
        env: as in `learn`.
        network: begins with a new trial; its weights stay as they are.
        trials: how many each network gets.
        seed: of the environments.
        score: "return" or the name of something in `info`.

    Raises:
        ConfigError, DataError, NonFiniteError: as `learn`.
    """
    never = Solved(at_least=sys.float_info.max, score=score)
    return _run(env, network, trials, seed, never, progress=False, learning=False)


def _run(
    env: Environment,
    network: Augment,
    trials: int,
    seed: int,
    until: Solved | None,
    progress: bool | Callable[[int, float], None],
    *,
    learning: bool,
) -> Learned:
    """The loop itself."""
    refuse_without_gymnasium()
    if trials < 1:
        raise ConfigError(f"trials={trials!r} must be 1 or more.")
    histories = [_History(until) for _ in range(network.networks)]
    result = Learned([each.returns for each in histories], [each.scores for each in histories], [])
    network.reset()
    with _vector(env, network.environments) as vector, ctrl_c() as stop:
        _check_sizes(vector, network)
        encode, first = encoder(vector.single_observation_space), first_action(vector.single_action_space)
        report = _Report(progress, trials)
        busy = torch.ones(network.environments, dtype=torch.bool)
        earned = np.zeros(network.environments)
        try:
            seen, _ = vector.reset(seed=seed)
            action = network.step(encode(seen), exploring=learning, learning=learning)
            while not stop.signal and bool(busy.any()):
                seen, reward, terminated, truncated, info = vector.step(action.numpy() + first)
                action = network.step(
                    encode(seen), reward, terminated, truncated, learning=learning and busy, exploring=learning
                )
                result.steps += int(busy.sum())
                earned += reward
                for row in np.flatnonzero(terminated | truncated).tolist():
                    history = histories[row if network.population else 0]
                    if busy[row]:
                        history.add(float(earned[row]), *_judged(info, row, until, float(earned[row])))
                        if history.solved_at is not None or len(history.returns) == trials:
                            busy[row if network.population else slice(None)] = False
                    earned[row] = 0.0
                report.look(histories)
        finally:
            network.reset()
        result.interrupted = stop.signal != 0
    result.solved_at = [history.solved_at for history in histories]
    return result


def _judged(info: dict[str, Any], row: int, until: Solved | None, earned: float) -> tuple[float, Any]:
    """The score of a trial that has just ended, and its kind."""
    if until is None:
        return earned, None
    score = earned if until.score == "return" else float(_from_info(info, until.score, row))
    return score, None if until.by is None else _from_info(info, until.by, row)


def _from_info(info: dict[str, Any], name: str, row: int) -> Any:
    """What the environment says of a trial at its end."""
    if name not in info or (f"_{name}" in info and not info[f"_{name}"][row]):
        known = sorted(key for key in info if not key.startswith("_"))
        raise DataError(
            f"the environment's info holds no {name!r} at the end of a trial, which the criterion looks at; it holds "
            f'{known or "nothing"}. Use one of these, or score="return".'
        )
    return info[name][row]


@contextmanager
def _vector(env: Environment, environments: int | None) -> Iterator[VectorEnv[Any, Any, Any]]:
    """The environment as a vector of as many as are wanted (None: as there are); what is made here is closed here."""
    import gymnasium
    from gymnasium.vector import SyncVectorEnv, VectorEnv

    if isinstance(env, str):
        try:
            vector = gymnasium.make_vec(env, num_envs=environments or 1)
        except gymnasium.error.Error as error:
            raise ConfigError(f"gymnasium has no environment {env!r}: {error}") from error
        try:
            yield vector
        finally:
            vector.close()
        return
    if isinstance(env, VectorEnv):
        mode = env.metadata.get("autoreset_mode", "NextStep")
        check_choice("the vector environment", "autoreset_mode", getattr(mode, "value", mode), ("NextStep",))
        vector = env
    elif isinstance(env, gymnasium.Env):
        vector = SyncVectorEnv([lambda: env], copy=False)
    else:
        raise ConfigError(
            f"env={env!r} is not an environment: give gymnasium's id, a gymnasium.Env or a gymnasium.vector.VectorEnv."
        )
    if environments is not None and vector.num_envs != environments:
        raise ConfigError(
            f"the network runs {environments} environment(s) side by side and {vector.num_envs} are given; "
            f"make it with environments={vector.num_envs}, or gymnasium.make_vec(..., num_envs={environments})."
        )
    yield vector


def _check_sizes(vector: VectorEnv[Any, Any, Any], network: Augment) -> None:
    """Refuse a network of the wrong size before the first trial."""
    needed = observation_size(vector.single_observation_space), action_count(vector.single_action_space)
    if needed != (network.observations, network.actions):
        raise ConfigError(
            f"the network takes {network.observations} numbers and has {network.actions} actions; this environment "
            f"gives {needed[0]} and has {needed[1]}. `network_for(env)` makes a network that fits."
        )


class _Report:
    """Says now and then how far learning is."""

    def __init__(self, progress: bool | Callable[[int, float], None], trials: int) -> None:
        self._tell = self._print if progress is True else progress or None
        self._trials = trials
        self._every = self._next = max(1, trials // 20)

    def look(self, histories: list[_History]) -> None:
        if self._tell is None:
            return
        furthest = max(len(history.returns) for history in histories)
        if furthest >= self._next:
            self._next = furthest - furthest % self._every + self._every
            self._tell(furthest, fmean(score for history in histories for score in history.scores[-100:]))

    def _print(self, trial: int, score: float) -> None:
        print(f"trial {trial} of {self._trials}: mean of the last 100 is {score:.3f}", file=sys.stderr)
