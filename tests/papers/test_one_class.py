"""One class a task: what is learned, when a class is finished, and what each way to cut the test set shows."""

import copy
import itertools

import pytest
import torch
from torch.nn import functional as F

import apical
from apical import data
from apical.data import Examples
from apical.papers import naca, one_class, one_class_jobs
from apical.papers.measurement import settings_of
from apical.papers.operations import operations

SMALL = {"hidden": 64, "margin": 0.5, "epochs": 2}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def built(gate, units="sigmoid"):
    torch.manual_seed(0)
    context, model = one_class.network(6, 12, 3, gate=gate, margin=0.3, units=units)
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    return context, model, Examples(x, torch.arange(40) % 3)


def test_an_image_alone_is_the_batch_that_a_gate_reads():
    """The cut "single" has the gate read each image, in batches of many: the answers are those of batches of one."""
    context, model, test = built("batch")
    right = [bool((model(x[None]).argmax() == y).all()) for x, y in zip(test.x, test.y, strict=True)]
    share = [sum(right[label::3]) / len(right[label::3]) for label in range(3)]
    found = one_class.accuracy(model, context, test, "single", torch.Generator().manual_seed(0))
    assert found == pytest.approx(sum(share) / 3)
    assert context.mode == "batch"


@pytest.mark.parametrize("gate", ["none", "sample", "oracle"])
def test_a_gate_that_does_not_read_the_batch_answers_alike_in_every_cut(gate, digits):
    """So `run` tests such networks in one cut."""
    context, model, test = built(gate)
    assert len({one_class.accuracy(model, context, test, cut, torch.Generator()) for cut in one_class.CUTS}) == 1
    assert list(one_class.run(digits, "frozen", gate, 0, **SMALL).accuracies) == list(one_class.CUTS)


def test_a_gate_that_reads_the_batch_does_well_on_batches_of_one_class_alone(digits):
    found = one_class.run(digits, "frozen", "batch", 0, **SMALL).accuracies
    assert found["pure 256"] > found["mixed 256"] + 0.1


@pytest.mark.parametrize("units", ["sigmoid", "tanh"])
def test_backprop_is_plain_descent_on_the_summed_squared_error(units):
    context, model, test = built("sample", units)
    plain = copy.deepcopy(model)
    circuit = apical.Circuit(model, apical.Backprop(), reduction="sum")
    x, y = test.x[:30], torch.full((30,), 2)
    one_class.learn(circuit, context, x, y, 1, torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(plain.parameters(), lr=5e-4)
    ((plain(x) - F.one_hot(y, 3)) ** 2 / 2).sum().backward()
    optimizer.step()
    for own, expected in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-8)


def test_a_class_is_finished_when_it_is_named_right_and_else_the_best_weights_are_kept(monkeypatch):
    context, model, test = built("none")
    circuit = apical.Circuit(model, apical.Backprop(), reduction="sum")
    shares = iter([0.5, 0.8, 0.6, 0.5, 0.96])
    seen = []

    def right(*_):
        seen.append(copy.deepcopy(model.state_dict()))
        return torch.arange(100) < 100 * next(shares)

    monkeypatch.setattr(one_class, "_right", right)
    y = torch.zeros(40, dtype=torch.int64)
    arguments = (circuit, context, test.x, y)
    assert one_class.learn(*arguments, 3, torch.Generator()) == 3
    assert all(torch.equal(value, seen[1][name]) for name, value in model.state_dict().items())
    assert one_class.learn(*arguments, 9, torch.Generator()) == 2
    assert all(torch.equal(value, seen[-1][name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("signal", one_class.SIGNALS)
def test_only_a_frozen_hidden_layer_stays(digits, signal, monkeypatch):
    kept = {}

    def network(*arguments, **options):
        kept["model"] = made(*arguments, **options)[1]
        kept["before"] = kept["model"][1].weight.detach().clone()
        return kept["model"][0], kept["model"]

    made = one_class.network
    monkeypatch.setattr(one_class, "network", network)
    one_class.run(digits, signal, "none", 0, **{**SMALL, "epochs": 1})
    assert torch.equal(kept["model"][1].weight, kept["before"]) == (signal == "frozen")


def test_a_floor_is_the_floor_of_all_classes_at_once(digits):
    found = one_class.run(digits, "streaming_lda", "none", 0, **SMALL)
    x = [(part.x.flatten(1) - digits.train.x.mean()) / digits.train.x.std() for part in (digits.train, digits.test)]
    floor = apical.continual.StreamingLDA().partial_fit(x[0], digits.train.y)
    right = floor.predict(x[1]) == digits.test.y
    share = sum(right[digits.test.y == label].double().mean().item() for label in range(10)) / 10
    assert found.accuracies["mixed 256"] == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("claim", [each for each in naca.CLAIMS if each.protocol.one_class], ids=lambda each: each.name)
def test_a_claim_names_networks_that_exist(claim, tmp_path):
    jobs = one_class_jobs.jobs_of(claim, tmp_path, None, None)
    assert [job.seed for job in jobs] == list(range(claim.protocol.seeds))
    assert claim.rule in {**one_class.SIGNALS, **one_class.FLOORS}
    assert settings_of(claim.recipe)["test"] in one_class.CUTS
    assert jobs[0].units in one_class.UNITS
    apical.Context(jobs[0].gate, contexts=10 if jobs[0].gate == "oracle" else None)


@pytest.mark.parametrize("sizes", [(784, 1000, 10), (5, 4, 3, 2), (7, 3)])
def test_operations_are_those_of_every_layer_of_every_pass(sizes):
    layers = list(itertools.pairwise(sizes))
    forward = update = sum(below * above for below, above in layers)
    down = sum(below * above for below, above in layers[1:])
    assert operations(sizes, "backprop") == forward + update + down
    assert operations(sizes, "direct") == forward + update + sum(size * sizes[-1] for size in sizes[1:-1])
    assert operations(sizes, "label") == forward + update


def test_a_label_saves_little_of_the_operations_of_backprop():
    assert operations((784, 1000, 10), "backprop") == 1_598_000
    assert operations((784, 1000, 10), "label") == 1_588_000
