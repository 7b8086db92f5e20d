"""Learning a stream: the matrix is that of plain PyTorch loops, and learners of each kind end where they should."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import apical
from apical import continual
from apical.continual import NearestClassMean, RandomFeatures, StreamingLDA
from apical.data import Examples, Task
from apical.errors import ConfigError, NonFiniteError


def blobs(classes: int = 4, each: int = 40) -> Task:
    """Classes around the corners of a square, easy to tell apart."""
    y = torch.arange(classes).repeat(each)
    corners = 4 * F.one_hot(torch.arange(classes)).float()
    generator = torch.Generator().manual_seed(0)

    def part() -> Examples:
        return Examples(corners[y] + torch.randn(len(y), classes, generator=generator), y)

    return Task("blobs", part(), part(), classes)


def network(outputs: int = 4, *extra: nn.Module) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), *extra, nn.Linear(16, outputs))


def digits_network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def accuracy(model, task, own):
    return (own(model(task.test.x)).argmax(1) == task.test.y).double().mean().item()


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_the_matrix_is_that_of_a_plain_loop(scenario):
    stream = continual.split(blobs(), scenario=scenario)
    circuit = apical.Circuit(network(stream.outputs), "backprop")
    outcome = continual.run(stream, circuit, epochs=2, batch_size=16, optimizer=sgd, seed=3)
    model, generator = network(stream.outputs), torch.Generator().manual_seed(3)
    optimizer, expected = sgd(model.parameters()), []
    for task in stream:
        for _ in range(2):
            order = torch.randperm(80, generator=generator)
            for places in order.split(16):
                optimizer.zero_grad()
                F.cross_entropy(task.restrict(model(task.train.x[places])), task.train.y[places]).backward()
                optimizer.step()
        with torch.no_grad():
            expected.append([accuracy(model, other, other.restrict) for other in stream])
    assert torch.equal(outcome.matrix, torch.tensor(expected, dtype=torch.float64))
    for trained, plain in zip(circuit.model.parameters(), model.parameters(), strict=True):
        assert torch.allclose(trained, plain, atol=1e-5)
    untrained = [accuracy(network(stream.outputs), other, other.restrict) for other in stream]
    assert outcome.before.tolist() == pytest.approx(untrained)


def test_the_scenarios_forget_as_they_do():
    """Split digits: with the task given most is kept; without, only the last task's classes are ever answered."""
    options = {"epochs": 5, "batch_size": 16, "optimizer": sgd}
    streams = {scenario: continual.split("digits", scenario=scenario) for scenario in ("task", "class")}
    found = {
        scenario: continual.run(stream, digits_network(), **options).metrics for scenario, stream in streams.items()
    }
    assert found["task"].accuracy > 0.8
    assert found["class"].accuracy < 0.25
    assert found["class"].forgetting > 0.9
    assert continual.joint(streams["class"], digits_network(), **options).mean() > 0.9


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_joint_training_is_training_on_all_at_once(scenario):
    stream = continual.split(blobs(), scenario=scenario)
    model, plain = network(stream.outputs), network(stream.outputs)
    accuracies = continual.joint(stream, model, batch_size=160, optimizer=sgd)
    optimizer = sgd(plain.parameters())
    total = sum(F.cross_entropy(task.restrict(plain(task.train.x)), task.train.y, reduction="sum") for task in stream)
    (total / 160).backward()
    optimizer.step()
    for trained, expected in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(trained, expected, atol=1e-5)
    assert accuracies.shape == (2,)


@pytest.mark.parametrize("make", [NearestClassMean, StreamingLDA, lambda: RandomFeatures(StreamingLDA(), 40)])
@pytest.mark.parametrize("scenario", ["task", "class"])
def test_floors_do_not_forget(make, scenario):
    outcome = continual.run(continual.split(blobs(), scenario=scenario), make())
    assert outcome.metrics.accuracy > 0.9
    assert outcome.metrics.forgetting < 0.1
    assert outcome.before is None
    assert outcome.matrix[0, 1] == pytest.approx(0.5 if scenario == "task" else 0, abs=0.1)


def test_a_floor_chooses_among_the_labels_given():
    task = blobs()
    floor = StreamingLDA().partial_fit(task.train.x, task.train.y)
    assert set(floor.predict(task.test.x, among=(3, 1)).tolist()) == {1, 3}
    assert set(floor.predict(task.test.x, among=(7, 8)).tolist()) == {7}


def test_runs_depend_on_their_seed_alone():
    stream = continual.split(blobs())
    matrices = []
    for seed, before in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(before)
        state = torch.get_rng_state()
        model = network(4, nn.Dropout(0.5)).eval()
        matrices.append(continual.run(stream, model, seed=seed, batch_size=16, optimizer=sgd).matrix)
        assert torch.equal(torch.get_rng_state(), state)
        assert not model.training
    assert torch.equal(matrices[0], matrices[1])
    assert not torch.equal(matrices[0], matrices[2])


@pytest.mark.parametrize("rule", ["feedback_alignment", "brainprop"])
def test_rules_learn_streams(rule):
    stream = continual.split(blobs(), scenario="task")
    circuit = apical.Circuit(network(), rule)
    assert continual.run(stream, circuit, epochs=20, batch_size=16, optimizer=sgd).metrics.accuracy > 0.8


def test_an_outcome_shows_its_matrix():
    outcome = continual.run(continual.split(blobs()), NearestClassMean())
    assert "accuracy=" in repr(outcome)
    assert len(repr(outcome).splitlines()) == 3
    assert math.isclose(outcome.metrics.accuracy, outcome.matrix[-1].mean())


@pytest.mark.parametrize(
    ("learner", "options", "error", "fact"),
    [
        (network(3), {}, ConfigError, r"\(2, 3\)"),
        (nn.Identity(), {}, ConfigError, "no parameter"),
        (network(), {"epochs": 0}, ConfigError, "epochs=0"),
        (network(), {"batch_size": 0}, ConfigError, "batch_size=0"),
        (NearestClassMean(), {"epochs": 2}, ConfigError, "epochs=2"),
        (network(), {"optimizer": lambda p: torch.optim.SGD(p, lr=1e30), "epochs": 2}, NonFiniteError, "loss"),
    ],
)
def test_what_cannot_be_learned_is_refused(learner, options, error, fact):
    with pytest.raises(error, match=fact):
        continual.run(continual.split(blobs()), learner, **options)


def test_answers_that_are_nan_are_refused():
    """The loss of the only step is finite; its step leads to infinity, where differences are NaN on every machine."""
    with pytest.raises(NonFiniteError, match="NaN"):
        continual.joint(
            continual.split(blobs()), network(), batch_size=1000, optimizer=lambda p: torch.optim.SGD(p, lr=math.inf)
        )
