"""The saccade/antisaccade task: fixate, see a cue, keep it in mind, and look to it or away from it.

Gottlieb and Goldberg (1999) gave it to monkeys, Rombouts, Bohte and Roelfsema (2015, figure 2) to AuGMEnT. One trial,
a row a step::

    seen                     what the agent must do
    empty screen             anything
    fixation mark            fixate within 11 steps, or the trial ends
    fixation mark            fixate; reward 0.2
    fixation mark and cue    fixate
    fixation mark            fixate, `delay` times: the cue is gone
    empty screen             look left or right within 9 steps; reward 1.5 if it is the right one

Where the mark asks for a saccade, the target is where the cue was; where it asks for an antisaccade, the other side.
Looking away before the last row ends the trial. The times and rewards were checked against the authors' program
(JRombouts/augment), whose trial begins with the fixation mark because its network has forgotten the empty screen.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apical.errors import ConfigError, DataError
from apical.reinforcement.spaces import refuse_without_gymnasium

refuse_without_gymnasium()

import gymnasium  # noqa: E402
from gymnasium.vector import AutoresetMode  # noqa: E402
from gymnasium.vector.utils import batch_space  # noqa: E402

LEFT, FIXATE, RIGHT = range(3)
# Bit 1 is an antisaccade, bit 0 a cue on the right.
KINDS = ("saccade, cue left", "saccade, cue right", "antisaccade, cue left", "antisaccade, cue right")
EMPTY, WAIT, FIXATION, MEMORY, GO = range(5)
WAIT_STEPS, GO_STEPS = 11, 9

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]


class _Trials:
    """Trials of the task side by side, one a row.

    Args:
        count: how many.
        delay: steps with nothing but the fixation mark to see, after the cue.
        fixation_reward: for fixating twice.
        reward: for the right saccade.
    """

    def __init__(self, count: int, delay: int, fixation_reward: float, reward: float) -> None:
        if isinstance(delay, bool) or not isinstance(delay, int) or delay < 0:
            raise ConfigError(f"SaccadeAntisaccade: delay={delay!r} must be a whole number of steps, 0 or more.")
        for option, value in {"fixation_reward": fixation_reward, "reward": reward}.items():
            if not math.isfinite(value):
                raise ConfigError(f"SaccadeAntisaccade: {option}={value!r} must be a finite number.")
        self.delay, self.fixation_reward, self.reward = delay, fixation_reward, reward
        self.kind: Integers = np.zeros(count, dtype=np.int64)
        self.phase: Integers = np.zeros(count, dtype=np.int64)
        self.ticks: Integers = np.zeros(count, dtype=np.int64)
        self.cue: Flags = np.zeros(count, dtype=bool)

    def begin(self, rows: Flags, kinds: Integers) -> None:
        """An empty screen in these rows, with these kinds of trial to come."""
        self.kind[rows] = kinds
        self.phase[rows] = EMPTY
        self.ticks[rows] = 0
        self.cue[rows] = False

    def seen(self) -> NDArray[np.float32]:
        """Mark for a saccade, mark for an antisaccade, cue left, cue right: (rows, 4), each 0 or 1."""
        mark = (self.phase >= WAIT) & (self.phase <= MEMORY)
        anti, right = self.kind >= 2, self.kind % 2 == 1
        seen = np.stack([mark & ~anti, mark & anti, self.cue & ~right, self.cue & right], axis=1)
        return seen.astype(np.float32)

    def advance(self, actions: Integers) -> tuple[NDArray[np.float64], Flags, Flags]:
        """One step: the rewards, where trials ended, and where they ended with the right saccade."""
        if not ((actions >= LEFT) & (actions <= RIGHT)).all():
            raise DataError(f"SaccadeAntisaccade: actions {actions.tolist()}: use 0 (left), 1 (fixate) or 2 (right).")
        phase, ticks = self.phase, self.ticks
        fixating = actions == FIXATE
        empty, wait, fixation, memory, go = (phase == each for each in range(5))
        targets = np.where((self.kind >= 2) ^ (self.kind % 2 == 1), RIGHT, LEFT)
        in_time = ticks < np.where(go, GO_STEPS, WAIT_STEPS)

        correct = go & in_time & (actions == targets)
        rewarded = fixation & fixating
        ended = (wait | go) & ~in_time | (fixation | memory) & ~fixating | go & ~fixating
        delayed = memory & fixating & (ticks == self.delay)
        moved = empty | wait & in_time & fixating | rewarded | delayed

        self.cue = rewarded
        self.phase = np.where(ended, EMPTY, phase + moved)
        self.ticks = np.where(ended | moved, 0, ticks + 1)
        return self.fixation_reward * rewarded + self.reward * correct, ended, correct


def _spaces() -> tuple[gymnasium.Space[NDArray[np.float32]], gymnasium.Space[np.int64]]:
    seen: gymnasium.Space[Any] = gymnasium.spaces.Box(0.0, 1.0, (4,), np.float32)
    return seen, gymnasium.spaces.Discrete(3)


def _chosen_kind(options: dict[str, Any] | None) -> int | None:
    """The kind of trial that `reset(options={"kind": ...})` asks for."""
    kind = (options or {}).get("kind")
    if kind is not None and kind not in range(len(KINDS)):
        raise ConfigError(f'SaccadeAntisaccade: options["kind"]={kind!r} is unknown; use 0 to 3: {", ".join(KINDS)}.')
    return kind


class SaccadeAntisaccade(gymnasium.Env[NDArray[np.float32], np.int64]):
    """The saccade/antisaccade task, an episode a trial; see the module for its steps.

    Actions: 0 left, 1 fixate, 2 right. Observations: (4,), 0 or 1: the mark that asks for a saccade, the mark that
    asks for an antisaccade, the cue on the left, the cue on the right. The kind of a trial is drawn when it begins;
    `reset(options={"kind": 2})` sets it, as an index into `KINDS`. At the end of a trial, `info` holds "correct" and
    "kind".

    Args:
        delay: steps over which the cue has to be remembered.
        fixation_reward: 0.2 in the paper; it teaches to fixate first (shaping).
        reward: of the right saccade, 1.5 in the paper.

    Raises:
        ConfigError: an option that cannot be.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, delay: int = 2, fixation_reward: float = 0.2, reward: float = 1.5) -> None:
        self._trials = _Trials(1, delay, fixation_reward, reward)
        self.observation_space, self.action_space = _spaces()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        kind = _chosen_kind(options)
        drawn = self.np_random.integers(len(KINDS), size=1) if kind is None else np.array([kind])
        self._trials.begin(np.ones(1, dtype=bool), drawn)
        return self._trials.seen()[0], {"kind": int(drawn[0])}

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        rewards, ended, correct = self._trials.advance(np.array([action]))
        over = bool(ended[0])
        info = {"correct": bool(correct[0]), "kind": int(self._trials.kind[0])} if over else {}
        return self._trials.seen()[0], float(rewards[0]), over, False, info


class SaccadeAntisaccadeVector(gymnasium.vector.VectorEnv[NDArray[np.float32], Integers, NDArray[Any]]):
    """Many trials of the task side by side, in one NumPy step; `gymnasium.make_vec` makes it.

    A trial that has ended starts again at the next step, whose action counts for nothing (gymnasium's "next step"
    autoreset).

    Args:
        num_envs: how many.
        delay: as in `SaccadeAntisaccade`, like the others.
        fixation_reward: see there.
        reward: see there.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}  # noqa: RUF012

    def __init__(self, num_envs: int = 1, delay: int = 2, fixation_reward: float = 0.2, reward: float = 1.5) -> None:
        self.num_envs = num_envs
        self._trials = _Trials(num_envs, delay, fixation_reward, reward)
        self._ended: Flags = np.ones(num_envs, dtype=bool)
        self.single_observation_space, self.single_action_space = _spaces()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        if isinstance(seed, list):
            raise ConfigError("SaccadeAntisaccadeVector: seed must be one number; all trials draw from one generator.")
        super().reset(seed=seed)
        self._ended = np.ones(self.num_envs, dtype=bool)
        self._begin(_chosen_kind(options))
        self._ended = np.zeros(self.num_envs, dtype=bool)
        return self._trials.seen(), {"kind": self._trials.kind.copy()}

    def step(self, actions: Integers) -> tuple[NDArray[np.float32], NDArray[np.float64], Flags, Flags, dict[str, Any]]:
        again = self._ended
        rewards, ended, correct = self._trials.advance(np.asarray(actions))
        if again.any():
            rewards, ended, correct = (np.where(again, 0, each) for each in (rewards, ended, correct))
            self._begin(None)
        self._ended = ended.astype(bool)
        info: dict[str, Any] = {}
        if self._ended.any():
            info = {"correct": correct, "_correct": self._ended, "kind": self._trials.kind.copy(), "_kind": self._ended}
        return self._trials.seen(), rewards, self._ended, np.zeros(self.num_envs, dtype=bool), info

    def _begin(self, kind: int | None) -> None:
        """New trials where the last ones ended."""
        count = int(self._ended.sum())
        drawn = self.np_random.integers(len(KINDS), size=count) if kind is None else np.full(count, kind)
        self._trials.begin(self._ended, drawn)
