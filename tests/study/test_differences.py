"""Differences of two arms: intervals against simulations and SciPy, errors of test sets against counts."""

import math

import numpy as np
import pytest
from scipy import stats

from apical.statistics import Spread, paired
from apical.study.comparison.answers import error_of_difference, read
from apical.study.comparison.differences import Difference, sameness


def test_an_interval_with_one_error_is_students_or_the_normal_one():
    values = np.array([0.03, 0.05, 0.01, 0.04])
    seeds = Difference(Spread(tuple(values)), 0.0, kept=True)
    assert seeds.interval(0.9) == pytest.approx(stats.t.interval(0.9, 3, values.mean(), values.std(ddof=1) / 2))
    test = Difference(Spread((0.02,) * 3), 0.1, kept=True)
    assert test.interval() == pytest.approx(stats.norm.interval(0.95, 0.02, 0.1))
    assert Difference(Spread((0.02,) * 3), 0.0, kept=True).interval() == (0.02, 0.02)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("error", [0.0, 0.005, 0.02])
def test_an_interval_holds_the_truth_at_least_as_often_as_it_says(seeds, error):
    generator = np.random.default_rng(0)
    runs = generator.normal(0, 0.01, (2000, seeds)) + generator.normal(0, error, (2000, 1))
    found = [Difference(Spread(tuple(run)), error, kept=True).interval() for run in runs.tolist()]
    assert np.mean([low <= 0 <= high for low, high in found]) > 0.94


def test_a_bootstrap_of_three_seeds_would_not():
    runs = np.random.default_rng(0).normal(0, 0.01, (400, 3)).tolist()
    found = [Spread(tuple(run)).interval(draws=200) for run in runs]
    assert np.mean([low <= 0 <= high for low, high in found]) < 0.85


@pytest.mark.parametrize(
    ("gains", "error", "verdict"),
    [
        ([0.01], 0.0, "one seed"),
        ([0.001, -0.001, 0.0], 0.002, "tie"),
        ([0.03, 0.031, 0.029], 0.002, "above"),
        ([-0.03, -0.031, -0.029], 0.002, "below"),
        ([0.3, -0.3, 0.1], 0.002, "unclear"),
        ([-0.03, -0.031, -0.029], 0.02, "unclear"),
    ],
)
def test_verdicts(gains, error, verdict):
    difference = Difference(Spread(tuple(gains)), error, kept=False)
    assert difference.verdict == verdict
    found = difference.to_dict()
    assert (found["verdict"], found["test_error_from"], found["seeds"]) == (verdict, "accuracies", len(gains))
    assert (found["low"] is None) == (found["bootstrap"] is None) == (len(gains) == 1)


def test_the_error_of_one_seed_is_mcnemars():
    own, other = (np.array([int(bit) for bit in text], bool) for text in ("1111100000", "1110010100"))
    b, c, n = 2, 2, 10
    assert error_of_difference([own], [other]) == pytest.approx(math.sqrt(((b + c) / n - ((b - c) / n) ** 2) / n))
    assert error_of_difference([own, other], [own, other]) == 0.0


def test_the_error_of_several_seeds_is_that_of_a_resampled_test_set():
    generator = np.random.default_rng(0)
    hard = generator.random(500)
    own, other = ([generator.random(500) < hard**power for _ in range(3)] for power in (1, 1.5))
    gain = np.mean(own, axis=0) - np.mean(other, axis=0)
    resampled = gain[generator.integers(500, size=(4000, 500))].mean(axis=1)
    assert error_of_difference(own, other) == pytest.approx(resampled.std(), rel=0.05)


def test_answers_that_are_not_those_of_the_result_are_not_read(tmp_path):
    path, right = tmp_path / "a.npy", np.array([True, False, True, True])
    np.save(path, right)
    assert read(path, {"test_accuracy": 0.75}).tolist() == right.tolist()
    assert read(path, {"test_accuracy": 0.5}) is None
    assert read(path, None) is None
    assert read(tmp_path / "none.npy", {"test_accuracy": 0.75}) is None
    path.write_bytes(path.read_bytes()[:40])
    assert read(path, {"test_accuracy": 0.75}) is None


def losses(*runs):
    return [[{"train_loss": loss} for loss in run] for run in runs]


@pytest.mark.parametrize(
    ("own", "nearly"),
    [
        (losses((1.0, 0.5), (0.9, 0.4)), "exactly"),
        (losses((1.0 + 1e-9, 0.5001), (0.9, 0.4)), "to rounding"),
        (losses((1.0001, 0.5), (0.9, 0.4)), None),
        (losses((1.0, 0.52), (0.9, 0.4)), None),
        (losses((1.0,), (0.9,)), None),
        ([], None),
    ],
)
def test_which_trainings_are_the_same(own, nearly):
    other = losses((1.0, 0.5), (0.9, 0.4))[: len(own)]
    assert sameness(own, other) == nearly


def test_pairs_are_of_the_same_seed():
    assert paired([0.5, 0.7], [0.4, 0.9]).values == pytest.approx((0.1, -0.2))
