"""Baselines: factors that are known, components against scikit-learn, neighbours by hand."""

import math

import pytest
import torch
from sklearn import decomposition

from apical.errors import ConfigError, DataError
from apical.hippocampus import NMF, PCA, NearestNeighbour

GENERATOR = torch.Generator().manual_seed(0)
PARTS = torch.block_diag(*torch.ones(3, 1, 4))  # three factors of four features each
X = torch.rand(60, 3, generator=GENERATOR) @ PARTS


def test_nmf_finds_the_parts_that_samples_are_made_of():
    model = NMF(3, steps=500).fit(X)
    assert (model.components >= 0).all()
    found = model.components @ PARTS.T / 2  # cosines: both have known norms
    assert (found.amax(1) > 0.99).all()
    assert sorted(found.argmax(1).tolist()) == [0, 1, 2]
    assert -model.score_samples(X).mean() < 1e-3 * X.var()
    torch.testing.assert_close(model.components, NMF(3, steps=500).fit(X).components)


def test_every_step_of_nmf_lowers_its_objective():
    """Also with a penalty and unit rows, for which the updates of the plain problem do not."""
    x = torch.rand(30, 12, generator=GENERATOR)
    for sparsity in (0.0, 0.5):

        def objective(steps, sparsity=sparsity):
            model = NMF(5, sparsity=sparsity, steps=steps)
            h = model.fit(x).transform(x)
            return float(((x - h @ model.components) ** 2).sum() / 2 + model.penalty * h.sum())

        values = [objective(steps) for steps in (5, 20, 80, 320)]
        assert values == sorted(values, reverse=True)


def test_a_penalty_makes_codes_sparse():
    x = torch.rand(80, 20, generator=GENERATOR)
    silent = [(NMF(10, sparsity=s).fit(x).transform(x) < 1e-3).double().mean() for s in (0.0, 1.0)]
    assert silent[1] > silent[0] + 0.2


def test_components_are_those_of_scikit_learn():
    x = torch.randn(50, 8, generator=GENERATOR)
    model, reference = PCA(3).fit(x), decomposition.PCA(3).fit(x.numpy())
    projected = reference.inverse_transform(reference.transform(x.numpy()))
    torch.testing.assert_close(model.recall(x), torch.from_numpy(projected).float(), rtol=0, atol=1e-4)
    torch.testing.assert_close(model.score_samples(x), -(x - model.recall(x)).square().mean(1))
    assert model.transform(x).shape == (50, 3)


def test_the_nearest_neighbour_is_that_of_the_known_entries():
    stored = torch.tensor([[1.0, 1.0, 5.0], [2.0, 3.0, 0.5], [9.0, 9.0, 9.0]])
    model = NearestNeighbour().fit(stored)
    cue = torch.tensor([[1.9, 2.9, 0.0], [0.0, 0.0, 4.8]])  # of the second, only the last entry is known
    torch.testing.assert_close(model.recall(cue), stored[[1, 0]])
    torch.testing.assert_close(model.transform(cue), torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))
    torch.testing.assert_close(model.score_samples(torch.tensor([[9.0, 9.0, 6.0]])), torch.tensor([-3.0]))


@pytest.mark.parametrize("model", [NMF(3), PCA(3), NearestNeighbour()], ids=lambda model: type(model).__name__)
def test_data_that_cannot_be_is_refused(model):
    with pytest.raises(DataError, match="fit"):
        model.transform(X)
    for bad in (X[0], X[:0], X.long(), X * math.nan):
        with pytest.raises(DataError, match=type(model).__name__):
            model.fit(bad)
    model.fit(X)
    with pytest.raises(DataError, match="features"):
        model.transform(X[:, :5])


def test_numbers_that_cannot_be_are_refused():
    for make in (lambda: NMF(0), lambda: NMF(3, sparsity=-1.0), lambda: PCA(0)):
        with pytest.raises(ConfigError):
            make()
    with pytest.raises(DataError, match="below 0"):
        NMF(3).fit(-X)
    with pytest.raises(DataError, match="components"):
        PCA(20).fit(X)
