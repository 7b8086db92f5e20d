"""The floors against slow references in NumPy, limits in which they equal something known, and figures on MNIST."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from apical import continual, data
from apical.continual import NearestClassMean, RandomFeatures, StreamingLDA
from apical.errors import ConfigError, DataError


def examples(n: int = 60, features: int = 5, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.randint(0, classes, (n,))
    centres = torch.randn(classes, features, dtype=torch.float64)
    return centres[y] + torch.randn(n, features, dtype=torch.float64), y


def slow_lda(x: np.ndarray, y: np.ndarray, z: np.ndarray, shrinkage: float) -> tuple[np.ndarray, np.ndarray]:
    """Hayes & Kanan (2020), sample by sample: the covariance and the predictions."""
    means: dict[int, np.ndarray] = {}
    counts: dict[int, int] = {}
    covariance = np.zeros((x.shape[1], x.shape[1]))
    for t, (sample, label) in enumerate(zip(x, y.tolist(), strict=True)):
        mean, count = means.get(label, sample), counts.get(label, 0)
        delta = t * np.outer(sample - mean, sample - mean) / (t + 1)
        covariance = (t * covariance + delta) / (t + 1)
        means[label], counts[label] = (count * mean + sample) / (count + 1), count + 1
    inverse = np.linalg.inv((1 - shrinkage) * covariance + shrinkage * np.eye(x.shape[1]))
    labels = list(means)
    weights = [inverse @ means[label] for label in labels]
    scores = [[w @ one - means[label] @ w / 2 for label, w in zip(labels, weights, strict=True)] for one in z]
    return covariance, np.array(labels)[np.argmax(scores, axis=1)]


@pytest.mark.parametrize("shrinkage", [1e-4, 0.3])
@pytest.mark.parametrize("cuts", [[60], [1, 59], [7, 0, 20, 33], [1] * 60])
def test_streaming_lda_equals_the_slow_one_however_it_is_cut(shrinkage, cuts, monkeypatch):
    monkeypatch.setattr("apical.continual.floors._ROWS", 16)
    x, y = examples()
    tests = torch.randn(200, 5, dtype=torch.float64)
    floor = StreamingLDA(shrinkage)
    for part_x, part_y in zip(x.split(cuts), y.split(cuts), strict=True):
        floor.partial_fit(part_x, part_y)
    covariance, predicted = slow_lda(x.numpy(), y.numpy(), tests.numpy(), shrinkage)
    np.testing.assert_allclose(floor.covariance.numpy(), covariance, rtol=1e-10, atol=1e-12)
    assert floor.predict(tests).tolist() == predicted.tolist()


def test_a_prediction_between_two_calls_does_not_go_stale():
    x, y = examples()
    floor = StreamingLDA().partial_fit(x[:20], y[:20])
    floor.predict(x)
    floor.partial_fit(x[20:], y[20:])
    assert floor.predict(x).tolist() == StreamingLDA().partial_fit(x, y).predict(x).tolist()


def test_many_samples_give_the_within_class_covariance():
    x, y = examples(n=4000)
    deviations = torch.cat([x[y == c] - x[y == c].mean(0) for c in range(3)])
    found = StreamingLDA().partial_fit(x, y).covariance
    assert torch.allclose(found, deviations.T @ deviations / len(x), atol=0.02)


def test_nearest_class_mean_by_distances():
    x, y = examples()
    order = torch.cat([(y == c).nonzero().squeeze(1) for c in (2, 0, 1)])  # classes arrive out of order
    floor = NearestClassMean()
    for part in order.split(11):
        floor.partial_fit(x[part], y[part])
    assert floor.classes == [2, 0, 1]
    means = torch.stack([x[y == c].mean(0) for c in range(3)])
    tests = torch.randn(200, 5, dtype=torch.float64)
    assert torch.equal(floor.predict(tests), torch.cdist(tests, means).argmin(1))
    assert torch.allclose(floor.means, means[[2, 0, 1]])


def test_full_shrinkage_is_nearest_class_mean():
    x, y = examples()
    floors = [floor.partial_fit(x, y) for floor in (StreamingLDA(1.0), NearestClassMean())]
    assert torch.equal(*(floor.predict(torch.randn(0, 5).double()) for floor in floors))
    tests = torch.randn(200, 5, dtype=torch.float64)
    assert torch.equal(*(floor.predict(tests) for floor in floors))


def test_random_features_are_drawn_from_the_seed():
    x, y = examples()
    made = [RandomFeatures(StreamingLDA(), 20, seed).partial_fit(x, y) for seed in (0, 0, 1)]
    first, second, third = (each.transform(x) for each in made)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert first.shape == (60, 20)
    assert first.min() == 0
    assert made[0].predict(x).tolist() == StreamingLDA().partial_fit(first, y).predict(first).tolist()


def test_pictures_are_flattened_and_labels_are_kept():
    digits = data.load("digits")
    floor = StreamingLDA()
    for task in continual.one_class(digits, shuffle=True, seed=1):
        floor.partial_fit(task.train.x, task.train.y)
    assert (floor.predict(digits.test.x) == digits.test.y).double().mean() > 0.9
    assert "10 classes, 64 features" in repr(floor)


def test_nearest_class_mean_on_mnist():
    if not os.environ.get("APICAL_DATA") or not (Path(os.environ["APICAL_DATA"]) / "MNIST").is_dir():
        pytest.skip("APICAL_DATA does not name a folder with MNIST")
    mnist = data.load("mnist", download=False)
    floor = NearestClassMean()
    for task in continual.one_class(mnist):
        floor.partial_fit(task.train.x, task.train.y)
    assert (floor.predict(mnist.test.x) == mnist.test.y).sum() == 8203


@pytest.mark.parametrize("make", [NearestClassMean, StreamingLDA, lambda: RandomFeatures(StreamingLDA(), 4)])
@pytest.mark.parametrize(
    ("x", "fact"),
    [
        (torch.zeros(2, 4), "4 features"),
        (torch.full((2, 5), torch.nan), "NaN"),
        (torch.zeros(2, 5, dtype=torch.long), "int64"),
        (torch.zeros(5), r"\(5,\)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(make, x, fact):
    floor = make().partial_fit(*examples())
    for call in (lambda: floor.predict(x), lambda: floor.partial_fit(x, torch.zeros(len(x), dtype=torch.long))):
        with pytest.raises(DataError, match=fact):
            call()
    assert floor.predict(torch.zeros(1, 5)).shape == (1,)


def test_what_cannot_be_is_refused():
    with pytest.raises(DataError, match="partial_fit"):
        StreamingLDA().predict(torch.zeros(1, 5))
    with pytest.raises(DataError, match="y is"):
        StreamingLDA().partial_fit(torch.zeros(2, 5), torch.zeros(2))
    with pytest.raises(ConfigError, match="shrinkage=0"):
        StreamingLDA(0)
    with pytest.raises(ConfigError, match="features=0"):
        RandomFeatures(StreamingLDA(), 0)
