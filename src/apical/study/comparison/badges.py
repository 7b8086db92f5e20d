"""Badges: what a reader has to know of a run before its accuracy, read off the records of its training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apical.statistics import number

DIVERGED, ROSE, LOSS_AT_CHANCE, AT_CHANCE = "diverged", "loss rose", "loss at chance", "at chance"
EDGE = "rate at the edge of the grid"

FAR = 1.1
"""A training loss that ends above so many times the chance level has diverged."""
NEAR = 0.95
"""From this part of the chance level on, a training loss ended at chance."""
RISE = 0.1
"""A loss rose if it ends more than this part of the chance level above its lowest epoch."""
SIGMAS = 2.326
"""One-sided 1 % of the normal distribution."""

_REWARD = 0.125  # half the variance of a reward of 0 or 1, at most: no constant prediction has a larger loss


@dataclass(frozen=True)
class Chance:
    """What answers reach that ignore their input.

    Attributes:
        accuracy: the share of the most frequent class of the test data.
        examples: of the test data.
        loss: of the best constant answer to the training data: the entropy of the classes' shares f_k in nats
            (cross-entropy), (1 - sum f_k^2) / 2 (squared error), and for a reward 1/8, the most that a constant
            prediction has.
        reward: whether the loss is that of a reward.
    """

    accuracy: float
    examples: float
    loss: float
    reward: bool

    @classmethod
    def of(cls, loss: str, train: Sequence[float], test: Sequence[float]) -> "Chance":
        """From the name of the loss and the number of examples of each class."""
        shares = [count / sum(train) for count in train if count]
        losses = {
            "cross_entropy": -sum(share * math.log(share) for share in shares),
            "mse": (1 - sum(share**2 for share in shares)) / 2,
        }
        return cls(max(test) / sum(test), sum(test), losses.get(loss, _REWARD), reward=loss not in losses)

    @property
    def highest(self) -> float:
        """The accuracy up to which a run is at chance: p + 2.326 sqrt(p (1 - p) / n), one-sided 1 %."""
        return self.accuracy + SIGMAS * math.sqrt(self.accuracy * (1 - self.accuracy) / self.examples)


def of_run(
    chance: Chance | None, epochs: Sequence[Mapping[str, Any]], accuracy: float | None, error: str | None
) -> list[str]:
    """The badges of one run.

    Args:
        chance: on its data; None: on a stream of tasks, of which only a run that stopped at NaN or infinity has one.
        epochs: its records.
        accuracy: on the test set; None: it did not end.
        error: why it did not.
    """
    stopped = error is not None and "training stopped at step" in error
    if chance is None:
        return [DIVERGED] * stopped
    losses = [loss for record in epochs if (loss := number(record.get("train_loss"))) is not None]
    last = losses[-1] if losses else 0.0
    at_chance = accuracy is not None and accuracy <= chance.highest
    diverged = stopped or last > FAR * chance.loss
    idle = not (diverged or at_chance or chance.reward) and last >= NEAR * chance.loss
    rose = bool(losses) and last - min(losses) > RISE * chance.loss
    found = {DIVERGED: diverged, LOSS_AT_CHANCE: idle, ROSE: rose, AT_CHANCE: at_chance}
    return [badge for badge, holds in found.items() if holds]
