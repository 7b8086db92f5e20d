"""The attractor memory against a reference in NumPy, the dentate code against its definition, and the two together."""

import math

import numpy as np
import pytest
import torch

from apical.errors import CircuitError, ConfigError, DataError
from apical.hippocampus import AHAMemory, DentateCode, HopfieldCA3

GENERATOR = torch.Generator().manual_seed(0)
SMALL = {"cells": 80, "active": 5, "hidden": 60, "readout": 30}


def patterns(count: int = 12, cells: int = 150, ones: float = 0.1) -> torch.Tensor:
    return 2 * (torch.rand(count, cells, generator=GENERATOR) < ones).double() - 1


STORED = patterns()


def recalled_by_numpy(stored, cue, steps, share, gain, seed):
    """Gram-Schmidt instead of a pseudo-inverse; one cell after the other within a step."""
    from apical.hippocampus.cells import generator_of

    basis = []
    for pattern in stored:
        rest = pattern - sum((pattern @ other) * other for other in basis)
        if np.linalg.norm(rest) > 1e-9:
            basis.append(rest / np.linalg.norm(rest))
    weights = sum(np.outer(each, each) for each in basis)
    np.fill_diagonal(weights, 0)
    schedule, cells = generator_of("schedule", seed), stored.shape[1]
    y = np.zeros_like(cue)
    order = [i for _ in range(steps) for i in torch.randperm(cells, generator=schedule).tolist()]
    chosen = round(share * cells)
    for step in range(steps):
        before = y.copy()
        for i in order[step * chosen : (step + 1) * chosen]:
            for sample in range(len(cue)):
                y[sample, i] = math.tanh(gain * (weights[i] @ before[sample] + cue[sample, i]))
    return weights, y


def test_weights_and_recall_are_those_of_the_reference():
    stored = torch.cat([STORED, STORED[:2]])  # repeated patterns change nothing
    memory = HopfieldCA3(steps=9, share=0.1, gain=2.0, seed=3).fit(stored)
    cue = torch.randn(4, 150, generator=GENERATOR, dtype=torch.float64)
    weights, rates = recalled_by_numpy(stored.numpy(), cue.numpy(), 9, 0.1, 2.0, 3)
    np.testing.assert_allclose(memory.weights.numpy(), weights, atol=1e-9)
    np.testing.assert_allclose(memory.recall(cue).numpy(), rates, atol=1e-9)


def test_stored_patterns_are_fixed_points_however_similar():
    """W x = (1 - d) x, so that a stored pattern, once there, stays there."""
    similar = STORED[:1].repeat(10, 1)
    similar[torch.arange(10), torch.arange(10)] *= -1  # two differ in two of 150 cells
    for stored in (STORED, similar):
        memory = HopfieldCA3().fit(stored)
        kept = 1 - (torch.linalg.pinv(stored) @ stored).diagonal()
        torch.testing.assert_close(stored @ memory.weights, kept * stored)
        assert (kept > 0).all()
        assert torch.equal(memory.recall(stored).sign(), stored)
        assert torch.equal(memory.match(memory.recall(stored)), torch.arange(len(stored)))


def test_a_cue_with_flipped_cells_returns_the_stored_pattern():
    flipped = torch.rand(STORED.shape, generator=GENERATOR) < 0.15
    memory = HopfieldCA3().fit(STORED)
    cue = torch.where(flipped, -STORED, STORED) / 5  # weak: it stays on
    recalled = memory.recall(cue)
    assert torch.equal(recalled.sign(), STORED)
    assert not torch.equal(cue.sign(), STORED)
    assert torch.equal(memory.recall(cue), recalled)  # one schedule for every call
    torch.testing.assert_close(memory.recall(cue[3:4]), recalled[3:4])
    assert not torch.equal(HopfieldCA3(seed=1).fit(STORED).recall(cue), recalled)


def test_patterns_that_cannot_be_stored_are_refused():
    with pytest.raises(DataError, match="span all codes"):
        HopfieldCA3().fit(patterns(40, 20, ones=0.5))
    for bad, fact in ((STORED[0], "patterns are"), (STORED[:0], "patterns are"), (STORED.long(), "patterns are"),
                      (STORED / 2, "other than -1 and 1"), (STORED * math.nan, "other than -1 and 1")):  # fmt: skip
        with pytest.raises(DataError, match=fact):
            HopfieldCA3().fit(bad)
    memory = HopfieldCA3().fit(STORED)
    for bad, fact in ((STORED[:, 1:], "150 cells"), (STORED[0], "150 cells"), (STORED * math.nan, "NaN")):
        with pytest.raises(DataError, match=fact):
            memory.recall(bad)
    with pytest.raises(DataError, match="stores nothing"):
        HopfieldCA3().recall(STORED)
    for options in ({"steps": 0}, {"share": 1.5}, {"gain": -1.0}):
        with pytest.raises(ConfigError):
            HopfieldCA3(**options)


def test_the_dentate_code_is_that_of_its_definition():
    code = DentateCode(30, cells=50, active=4, seed=2)
    torch.testing.assert_close(code.weights.sum(1), torch.ones(50))
    assert (code.weights >= 0).all()
    assert float((code.weights == 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    x = torch.rand(30, 30, generator=GENERATOR)
    found, h = code(x), np.zeros(50)
    for sample, fired in zip(x.numpy(), found.numpy(), strict=True):
        winners = np.argsort(-(code.weights.numpy() @ sample) * (1 - h), kind="stable")[:4]
        assert set(np.flatnonzero(fired)) == set(winners)
        h = 0.95 * h + fired
    alone = torch.stack([code(sample[None])[0] for sample in x[:8]])
    assert (found[:8] @ found[:8].T).sum() < (
        alone @ alone.T
    ).sum()  # refraction: cells of one sample are avoided by the next
    assert not torch.equal(code(x.flip(0)).flip(0), found)  # so a code depends on the order


def test_what_is_no_dentate_code_is_refused():
    for options in ({"active": 225}, {"active": 0}, {"knockout": 1.0}, {"decay": 1.0}, {"inputs": 0}):
        with pytest.raises(ConfigError):
            DentateCode(**{"inputs": 4, **options})
    for bad in (torch.rand(3, 5), torch.rand(4), torch.full((2, 4), math.nan)):
        with pytest.raises(DataError, match=r"\(samples, 4\)"):
            DentateCode(4)(bad)


X = np.random.default_rng(0).random((15, 40)).astype(np.float32)


@pytest.fixture(scope="module")
def studied() -> AHAMemory:
    return AHAMemory(**SMALL).fit(X)


def test_a_study_is_recalled_from_incomplete_cues(studied):
    assert np.array_equal(studied.match(X), np.arange(15))
    cue = np.where(np.random.default_rng(1).random(X.shape) < 0.3, 0, X)
    assert (studied.match(cue) == np.arange(15)).mean() > 0.8
    assert np.square(studied.recall(cue) - X).sum() < 0.5 * np.square(cue - X).sum()
    assert studied.recall(X).dtype == np.float32
    stored = 2 * studied.dentate_(torch.from_numpy(X / studied.scale_)) - 1
    np.testing.assert_array_equal(np.sign(studied.transform(X)), stored)
    assert studied.losses_["cue"][-1] < studied.losses_["cue"][0] / 5


def test_a_long_study_is_recalled_at_least_as_well(studied):
    """A perfect cue gives silent cells a negative input, too; and the read-out learns more than the mean sample."""
    longer = AHAMemory(**SMALL, steps=300).fit(X)
    stored = 2 * longer.dentate_(torch.from_numpy(X / longer.scale_)) - 1
    np.testing.assert_array_equal(np.sign(longer.transform(X)), stored)
    left = [np.square(memory.recall(X) - X).sum() for memory in (longer, studied)]
    assert left[0] < left[1]
    assert left[0] < 0.2 * np.square(X - X.mean(0)).sum()


def test_the_cue_is_conditioned_as_stated(studied):
    """`active` cells are cued on, by the middle of two neighbours; shares sum to `active` before they are shifted."""
    cues = []
    original = studied.ca3_.recall
    studied.ca3_.recall = lambda cue: cues.append(cue) or original(cue)
    try:
        studied.transform(X)
    finally:
        del studied.ca3_.recall
    (cue,) = cues
    assert ((cue > 0).sum(1) == 5).all()
    ordered = cue.sort(1, descending=True).values
    torch.testing.assert_close(ordered[:, 4], -ordered[:, 5])
    learned = studied.cue_(torch.from_numpy(X / studied.scale_)).detach().sigmoid()
    learned = 5 * learned / learned.sum(1, keepdim=True)
    torch.testing.assert_close(cue - cue[:, :1], 2 * (learned - learned[:, :1]))


def test_a_seed_and_the_unit_of_the_input(studied):
    again = AHAMemory(**SMALL).fit(1000 * X)
    np.testing.assert_allclose(again.recall(1000 * X), 1000 * studied.recall(X), rtol=1e-3, atol=1e-1)
    assert not np.array_equal(AHAMemory(**SMALL, random_state=1, steps=1).fit(X).recall(X), studied.recall(X))


@pytest.mark.parametrize("rule", ["feedback_alignment", "kolen_pollack", "countercurrent_inhibition", "burst_ccn"])
def test_any_rule_whose_error_travels_teaches_the_paths(rule):
    found = AHAMemory(**SMALL, rule=rule).fit(X)
    assert {found.cue_.rule.name, found.readout_.rule.name} == {rule}
    assert (found.match(X) == np.arange(15)).mean() > 0.9


@pytest.mark.parametrize("rule", ["brainprop", "direct_random_target_projection"])
@pytest.mark.filterwarnings("ignore:.*pushes units:UserWarning")
def test_rules_that_need_a_label_are_refused(rule):
    with pytest.raises(CircuitError):
        AHAMemory(**SMALL, rule=rule).fit(X)


def test_one_pattern_is_stored_and_cells_that_never_change_do_no_harm():
    alone = HopfieldCA3().fit(STORED[:1])
    flipped = STORED[:1].clone()
    flipped[:, :40] *= -1
    assert torch.equal(alone.recall(flipped / 5).sign(), STORED[:1])
    constant = STORED.clone()
    constant[:, :20] = 1.0
    assert torch.equal(HopfieldCA3().fit(constant).recall(constant).sign(), constant)


def test_some_features_may_be_constant_and_not_all():
    constant = np.hstack([X, np.full((15, 3), 0.7), np.zeros((15, 2))]).astype(np.float32)
    found = AHAMemory(**SMALL).fit(constant)
    assert np.array_equal(found.match(constant), np.arange(15))
    assert np.isfinite(found.recall(constant)).all()
    for same in (np.ones((4, 6)), np.zeros((4, 6)), X[[0, 0, 0]]):
        with pytest.raises(DataError, match="constant over the"):
            AHAMemory(**SMALL).fit(same)


def test_what_cannot_be_studied_or_recalled_is_refused(studied):
    for bad, fact in ((X[:1], r"1 sample\(s\)"), (X * np.nan, "NaN"), (X[0], "Reshape")):
        with pytest.raises(ValueError, match=fact):
            AHAMemory(**SMALL).fit(bad)
    with pytest.raises(DataError, match="use more cells"):
        AHAMemory(cells=12, active=5).fit(np.random.default_rng(0).random((60, 40)))
    for method in (studied.transform, studied.recall, studied.match):
        with pytest.raises(ValueError, match="40 features"):
            method(X[:, 1:])
        with pytest.raises(ValueError, match="NaN"):
            method(X * np.nan)
        with pytest.raises(ValueError, match="Call fit first"):
            getattr(AHAMemory(), method.__name__)(X)
    for options in ({"active": 80}, {"dropout": 1.0}, {"steps": 0}, {"learning_rate": 0.0}):
        with pytest.raises(ConfigError):
            AHAMemory(**{**SMALL, **options}).fit(X)
