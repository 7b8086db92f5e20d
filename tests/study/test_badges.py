"""Badges of runs: what training records say of divergence and chance, against counts and closed forms."""

import math

import pytest

from apical.study.comparison import badges
from apical.study.comparison.badges import AT_CHANCE, DIVERGED, LOSS_AT_CHANCE, ROSE, Chance

EVEN = Chance.of("cross_entropy", [50] * 10, [10] * 10)
LN10 = math.log(10)


def found(losses, accuracy, chance=EVEN, error=None):
    return badges.of_run(chance, [{"train_loss": loss} for loss in losses], accuracy, error)


@pytest.mark.parametrize(
    ("losses", "accuracy", "expected"),
    [
        ([2.0, 0.5, 0.1], 0.95, []),
        ([2.0, 0.5, 0.6], 0.95, []),
        ([2.0, 0.5, 0.8], 0.9, [ROSE]),
        ([2.0, 0.5, 2.2], 0.4, [LOSS_AT_CHANCE, ROSE]),
        ([2.0, 1.0, 40.0], 0.6, [DIVERGED, ROSE]),
        ([2.3, 2.3, 2.3], 0.1, [AT_CHANCE]),
        ([2.3, 2.3, 2.3], 0.6, [LOSS_AT_CHANCE]),
        ([None, math.nan], 0.5, []),
        ([], None, []),
    ],
)
def test_what_training_records_say(losses, accuracy, expected):
    assert found(losses, accuracy) == expected


def test_a_run_that_stopped_at_nan_has_diverged():
    stopped = "training stopped at step 12: the loss is NaN"
    assert found([2.0], None, error=stopped) == [DIVERGED]
    assert found([2.0], None, error="no memory") == []
    assert badges.of_run(None, [], None, stopped) == [DIVERGED]


def test_chance_is_that_of_the_best_answer_that_ignores_the_input():
    chance = Chance.of("cross_entropy", [90, 10, 0], [80, 20, 0])
    assert chance.accuracy == 0.8
    assert chance.loss == pytest.approx(-(0.9 * math.log(0.9) + 0.1 * math.log(0.1)))
    squared = Chance.of("mse", [90, 10], [80, 20])
    # (1 - f_0)^2 + (0 - f_1)^2 halved, over both classes: f_k are the best constant outputs.
    assert squared.loss == pytest.approx(0.9 * (0.1**2 + 0.1**2) / 2 + 0.1 * (0.9**2 + 0.9**2) / 2)
    assert EVEN.loss == pytest.approx(LN10)
    assert Chance.of("reward_prediction", [1, 1], [1, 1]).reward


def test_at_chance_is_one_sided_at_one_percent():
    """Of guesses by 10 even classes one in a hundred lies above the limit."""
    numpy = pytest.importorskip("numpy")
    accuracies = numpy.random.default_rng(0).binomial(1000, 0.1, size=20_000) / 1000
    limit = Chance.of("cross_entropy", [1] * 10, [100] * 10).highest
    assert 0.005 < (accuracies > limit).mean() < 0.015


def test_a_reward_has_no_badge_for_a_loss_at_chance():
    reward = Chance.of("reward_prediction", [1, 1], [50, 50])
    assert found([0.12, 0.124], 0.9, chance=reward) == []
