"""Means, spreads, paired differences and intervals against NumPy and closed forms."""

import math

import numpy as np
import pytest

from apical.statistics import Spread, number, paired, quartiles


def test_a_spread_is_numpys():
    values = np.random.default_rng(1).normal(0.9, 0.05, 7)
    spread = Spread.of(values.tolist())
    assert spread.n == 7
    assert spread.mean == pytest.approx(values.mean(), rel=1e-12)
    assert spread.deviation == pytest.approx(values.std(ddof=1), rel=1e-12)
    assert spread.standard_error == pytest.approx(values.std(ddof=1) / math.sqrt(7), rel=1e-12)


def test_a_single_value_has_no_deviation_and_an_unbounded_error():
    assert Spread.of([0.5]).deviation is None
    assert Spread.of([0.5]).standard_error == math.inf
    assert Spread.of([0.5]).interval() == (0.5, 0.5)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "0.9", True])
def test_values_that_are_not_finite_numbers_are_left_out(value):
    assert number(value) is None
    assert Spread.of([0.5, value, 0.7]).values == (0.5, 0.7)
    assert Spread.of([value]) is None


def test_paired_differences_are_taken_pair_by_pair():
    gain = paired([0.5, 0.7, 0.9], [0.4, 0.4, 0.4])
    assert gain.values == pytest.approx((0.1, 0.3, 0.5))
    assert gain.mean == pytest.approx(0.3)
    assert gain.standard_error == pytest.approx(0.2 / math.sqrt(3))
    with pytest.raises(ValueError, match="shorter"):
        paired([0.5, 0.7], [0.4])


def test_quartiles_are_numpys():
    values = np.random.default_rng(2).normal(size=11)
    assert quartiles(values.tolist()) == pytest.approx(np.quantile(values, [0.25, 0.5, 0.75], method="weibull"))
    assert quartiles([2.0]) == (2.0, 2.0, 2.0)


def test_a_bootstrap_interval_covers_as_often_as_its_level():
    """Of 200 samples of 50 normal numbers, the 90 % interval holds the true mean about 180 times: 4.2 are one sigma."""
    generator = np.random.default_rng(3)
    intervals = [Spread(tuple(generator.normal(2.0, 1.0, 50))).interval(0.9, draws=500) for _ in range(200)]
    assert 163 <= sum(low <= 2.0 <= high for low, high in intervals) <= 197


def test_a_bootstrap_interval_narrows_with_the_level_and_repeats():
    spread = Spread(tuple(np.random.default_rng(4).normal(size=20)))
    low, high = spread.interval(0.99)
    assert low < spread.interval(0.5)[0] < spread.mean < spread.interval(0.5)[1] < high
    assert spread.interval() == spread.interval()
    assert spread.interval() != spread.interval(seed=1)
