"""The loop as an estimator: scikit-learn's own checks, recall, novelty, and what is refused."""

from __future__ import annotations

import copy
import inspect
import pickle
import sys

import numpy as np
import pytest

import apical
from apical.errors import CircuitError, ConfigError
from apical.hippocampus import AHAMemory, HippocampalLoop

SMALL = {"dentate": 60, "ca3": 30, "ca1": 40, "share": 0.1, "epochs": 30, "batch_size": 20, "learning_rate": 5e-3}
ABSENT = ("sklearn", "sklearn.utils", "sklearn.utils.validation", "sklearn.exceptions")


def places(count: int = 120, cells: int = 40, seed: int = 0) -> np.ndarray:
    """Cells with bumps along a ring: (positions, cells)."""
    centres = np.random.default_rng(seed).random(cells)
    apart = np.abs(np.linspace(0, 1, count, endpoint=False)[:, None] - centres)
    return np.exp(-0.5 * (np.minimum(apart, 1 - apart) / 0.06) ** 2)


X = places()


def loop(**options) -> HippocampalLoop:
    return HippocampalLoop(**{**SMALL, **options})


@pytest.fixture(scope="module")
def fitted() -> HippocampalLoop:
    return loop().fit(X)


@pytest.fixture
def without_sklearn(monkeypatch):
    for name in ABSENT:
        monkeypatch.setitem(sys.modules, name, None)


ESTIMATORS = [
    HippocampalLoop(dentate=12, ca3=6, ca1=6, epochs=1, share=0.3),
    AHAMemory(cells=120, active=3, hidden=10, readout=10, steps=2),
]


@pytest.mark.filterwarnings("ignore:Estimator .* does not inherit:UserWarning")
@pytest.mark.parametrize("small", ESTIMATORS, ids=lambda each: type(each).__name__)
def test_scikit_learns_own_checks(small):
    checks = pytest.importorskip("sklearn.utils.estimator_checks", reason="scikit-learn is not installed")
    if "on_skip" not in inspect.signature(checks.check_estimator).parameters:
        pytest.skip("scikit-learn is older than 1.6")
    done = checks.check_estimator(small, on_skip=None)
    assert sum(check["status"] == "passed" for check in done) > 40


@pytest.mark.parametrize("absent", [False, True])
def test_it_is_the_same_without_scikit_learn(absent, fitted, request):
    if absent:
        request.getfixturevalue("without_sklearn")
    other = loop().fit(X)
    assert np.array_equal(other.transform(X), fitted.transform(X))
    assert other.loss_curve_ == fitted.loss_curve_


def test_it_learns_and_another_seed_is_another_loop(fitted):
    assert fitted.loss_curve_[-1] < fitted.loss_curve_[0] / 3
    assert fitted.transform(X).shape == (120, 30)
    assert not np.array_equal(loop(random_state=1).fit(X).transform(X), fitted.transform(X))
    again = loop(random_state=None, epochs=1)
    assert not np.array_equal(again.fit(X).transform(X), again.fit(X).transform(X))


def test_the_random_state_of_torch_is_left_alone():
    import torch

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    loop(epochs=1).fit(X)
    assert torch.equal(torch.rand(3), expected)


def test_recall_completes_a_cue(fitted):
    """With half of the cells lost, recall is nearer to the whole than the cue is, and than chance."""
    lost = np.random.default_rng(1).random(X.shape) < 0.5
    recalled = fitted.recall(np.where(lost, 0, X))
    error = np.square(recalled - X).sum()
    assert error < 0.75 * np.square(np.where(lost, X, 0)).sum()
    assert error < 0.6 * np.square(recalled[::-1] - X).sum()


def test_novelty_is_one_for_known_samples_and_large_for_others(fitted):
    assert fitted.novelty(X).mean() == pytest.approx(1)
    assert fitted.novelty(places(seed=7)).mean() > 10
    score = fitted.score_samples(X)
    np.testing.assert_allclose(score, -0.5 * np.square(X - fitted.recall(X)).sum(1), rtol=1e-9)
    np.testing.assert_allclose(fitted.novelty(X), -2 * score / fitted.mismatch_)


def test_the_unit_of_the_input_does_not_matter(fitted):
    other = loop().fit(1000 * X)
    np.testing.assert_allclose(other.transform(1000 * X), fitted.transform(X), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(other.recall(1000 * X), 1000 * fitted.recall(X), rtol=1e-6, atol=1e-5)
    assert other.loss_curve_ == pytest.approx([1e6 * loss for loss in fitted.loss_curve_])


def test_partial_fit_goes_on_and_the_first_call_begins():
    pieces, whole = loop(epochs=3), loop(epochs=3).fit(X)
    for _ in range(3):
        pieces.partial_fit(X)
    assert np.array_equal(pieces.transform(X), whole.transform(X))
    known = pieces.novelty(X).mean()
    pieces.partial_fit(places(seed=7))
    assert pieces.novelty(X).mean() != known


@pytest.mark.parametrize("rule", ["backprop", "feedback_alignment", "kolen_pollack", "burst_ccn", "predictive_coding",
                                  "direct_feedback_alignment", "equilibrium_propagation", "soft_hebb"])  # fmt: skip
def test_any_rule_whose_error_travels(rule):
    found = loop(rule=rule, epochs=20).fit(X)
    assert found.circuit_.rule.name == rule
    assert found.loss_curve_[-1] < 0.8 * found.loss_curve_[0]


def test_a_rule_with_options_is_made_again_by_every_fit():
    rule = apical.CountercurrentInhibition(feedback="fixed", gain=0.3)
    estimator = loop(rule=rule, epochs=1)
    first, second = estimator.fit(X).circuit_.rule, estimator.fit(X).circuit_.rule
    assert rule is not first is not second
    assert first.options() == rule.options()
    assert estimator.get_params()["rule"] is rule


def test_copies_and_pickles_answer_the_same(fitted):
    for other in (copy.deepcopy(fitted), pickle.loads(pickle.dumps(fitted))):
        assert np.array_equal(other.transform(X), fitted.transform(X))
        assert np.array_equal(other.partial_fit(X).transform(X), copy.deepcopy(fitted).partial_fit(X).transform(X))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_types(dtype):
    rates = loop(epochs=1).fit((10 * X).astype(dtype)).transform((10 * X).astype(dtype))
    assert rates.dtype == (np.float32 if dtype == np.float32 else np.float64)


def test_constant_features_and_a_silent_input_are_learned():
    constant = np.hstack([X, np.full((len(X), 3), 0.7), np.zeros((len(X), 2))])
    found = loop().fit(constant)
    assert np.isfinite(found.transform(constant)).all()
    np.testing.assert_allclose(found.recall(constant)[:, -5:-2].mean(0), 0.7, atol=0.05)
    silent = loop(epochs=2).fit(np.zeros((8, 4)))
    assert not silent.transform(np.zeros((8, 4))).any()
    assert np.isfinite(silent.novelty(np.ones((3, 4)))).all()


def _with(value: float) -> np.ndarray:
    broken = X.copy()
    broken[3, 2] = value
    return broken


BAD = {
    "nan": (lambda: _with(np.nan), "NaN"),
    "infinite": (lambda: _with(np.inf), "inf"),
    "one axis": (lambda: X[0], "Reshape your data"),
    "three axes": (lambda: X[None], "(3 axes|dim 3)"),
    "one sample": (lambda: X[:1], r"1 sample\(s\)"),
    "no sample": (lambda: X[:0], r"0 sample\(s\)"),
    "no feature": (lambda: X[:, :0], r"0 feature\(s\)"),
    "complex": (lambda: X * 1j, "[Cc]omplex"),
}


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("bad", BAD)
def test_bad_input_is_refused(bad, absent, request):
    if absent:
        request.getfixturevalue("without_sklearn")
    make, says = BAD[bad]
    with pytest.raises(ValueError, match=says):
        loop(epochs=1).fit(make())


@pytest.mark.parametrize("absent", [False, True])
def test_what_comes_after_learning_is_checked_too(absent, fitted, request):
    if absent:
        request.getfixturevalue("without_sklearn")
    for method in (fitted.transform, fitted.recall, fitted.novelty, fitted.score_samples):
        assert len(method(X[:1])) == 1
        with pytest.raises(ValueError, match="40 features"):
            method(X[:, :-1])
        with pytest.raises(ValueError, match=r"NaN"):
            method(_with(np.nan))
        with pytest.raises(ValueError, match="fit"):
            getattr(loop(), method.__name__)(X)


OUT_OF_RANGE = [
    ({"rule": "no_rule"}, "no_rule"),
    ({"area": "ca2"}, "area"),
    ({"epochs": 0}, "epochs"),
    ({"batch_size": 1}, "batch_size"),
    ({"learning_rate": -1.0}, "learning_rate"),
    ({"share": 3.0}, "share"),
    ({"ca3": 0}, "ca3"),
]


@pytest.mark.parametrize(("options", "what"), OUT_OF_RANGE, ids=str)
def test_options_out_of_range_are_refused(options, what):
    with pytest.raises(ConfigError, match=what):
        loop(**options).fit(X)


@pytest.mark.parametrize("rule", ["brainprop", "agrel", "three_factor", "direct_random_target_projection", "naca"])
@pytest.mark.filterwarnings("ignore:.*pushes units:UserWarning")
def test_rules_that_need_a_label_are_refused(rule):
    with pytest.raises(CircuitError):
        loop(rule=rule, epochs=1).fit(X)


def test_a_read_out_that_is_never_negative_refuses_negative_input():
    with pytest.raises(ValueError, match="readout"):
        loop(readout="sigmoid").fit(X - 0.5)
    assert loop(readout="sigmoid", epochs=1).fit(X).recall(X).min() >= 0


def test_parameters_and_words():
    estimator = loop(ca3=31)
    assert estimator.set_params(ca3=32).get_params()["ca3"] == 32
    assert "ca3=32" in repr(estimator)
    assert "ca1" not in repr(HippocampalLoop())
    with pytest.raises(ValueError, match="epochs"):
        estimator.set_params(epoch=3)
