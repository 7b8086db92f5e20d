"""How far does reward alone get a pole? CartPole-v1 of gymnasium, learned by AuGMEnT beside a random policy.

Four numbers are seen as they are, each divided by what it seldom exceeds: where the cart is, how fast it goes, the
pole's angle and how fast that changes. The reward is -1 when the pole falls and 0 before, as Barto, Sutton and Anderson
had it in 1983: gymnasium's own, 1 for every step, makes whatever was tried first look good. Nothing needs remembering,
so there are no memory units. Several networks learn at once, each with a pole of its own.

python examples/cartpole.py

takes some ten seconds and gets a part of the way; the figures in the documentation take minutes:

python examples/cartpole.py --networks 20 --trials 600
"""

import argparse
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorWrapper

from apical.reinforcement import Solved, evaluate, learn, network_for

LIMITS = np.array([2.4, 2.5, 0.21, 2.5], dtype=np.float32)  # of position, speed, angle and angular speed
GAIN = 5.0  # so that units with the paper's small weights tell places apart


class Poles(VectorWrapper):
    """Poles side by side as they are seen and rewarded here; `info["balanced"]` tells how many steps a trial lasted."""

    def __init__(self, count: int) -> None:
        super().__init__(gymnasium.make_vec("CartPole-v1", num_envs=count))
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,))
        self.steps = np.zeros(count, dtype=int)
        self.ended = np.zeros(count, dtype=bool)

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        self.steps[:], self.ended[:] = 0, False
        seen, info = self.env.reset(**options)
        return GAIN * seen / LIMITS, info

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        seen, _, fallen, cut, info = self.env.step(actions)
        self.steps = np.where(self.ended, 0, self.steps + 1)  # after its end, a trial's next step begins the next one
        self.ended = fallen | cut
        info = {**info, "balanced": self.steps, "_balanced": self.ended}
        return GAIN * seen / LIMITS, -fallen.astype(float), fallen, cut, info


def main() -> None:
    """A random policy, learning, and what was learned without exploration."""
    options = argparse.ArgumentParser(description="AuGMEnT learns to balance a pole.")
    options.add_argument("--networks", type=int, default=4)
    options.add_argument("--trials", type=int, default=120, help="at most, for each network")
    options.add_argument("--learning-rate", type=float, default=0.03)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--progress", action="store_true")
    chosen = options.parse_args()
    seed, trials = chosen.seed, chosen.trials
    poles = Poles(chosen.networks)

    # To explore at every step, with weights next to nothing, is a random policy: softmax of equal values.
    random = network_for(poles, population=True, exploration=1.0, spread=1e-9, learning_rate=1e-12, seed=seed)
    by_chance = learn(poles, random, trials=50, seed=seed, until=Solved(500, "balanced"))
    print(f"random policy: {by_chance.mean_score():.0f} steps")

    networks = network_for(
        poles,
        population=True,
        regular=50,
        memory=0,
        learning_rate=chosen.learning_rate,
        discount=0.98,
        trace_decay=0.8,
        seed=seed,
    )
    mark = Solved(at_least=475, score="balanced")  # gymnasium's own for CartPole-v1
    learned = learn(poles, networks, trials=trials, seed=seed, until=mark, progress=chosen.progress)
    if learned.interrupted:
        print(f"stopped by Ctrl-C, after {min(learned.trials)} to {max(learned.trials)} trials")
    for start in range(0, trials, max(1, trials // 5)):
        block = [scores[start : start + max(1, trials // 5)] for scores in learned.scores]
        steps = np.mean([np.mean(scores) for scores in block if scores] or [np.nan])
        print(f"trials from {start + 1}: {steps:.0f} steps, mean of the networks that still learn")
    solved = sorted(trial for trial in learned.solved_at if trial is not None)
    print(f"{len(solved)} of {chosen.networks} networks reach a mean of 475 steps in 100 trials, after {solved} trials")
    tested = evaluate(poles, networks, trials=20, seed=seed + 1, score="balanced")
    each = [float(np.mean(scores)) for scores in tested.scores]
    print(f"without exploration: {np.median(each):.0f} steps (median network), {min(each):.0f} to {max(each):.0f}")


if __name__ == "__main__":
    main()
