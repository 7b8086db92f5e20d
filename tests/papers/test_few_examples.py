"""Networks side by side are the networks one by one, and a cell of the few-examples study keeps to its budget."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from apical import data
from apical.errors import DataError
from apical.models.perceptrons import Perceptrons, balanced_order, once
from apical.papers import few_examples
from apical.papers.few_examples import METHODS, Budget, Digits, cell, draw_trials, steps_of, train

SMALL = Budget(counts=(2, 5), trials=4, tuning_seeds=2, seeds=3, held_out=100, test=150)


@pytest.fixture(scope="module")
def digits_task():
    return data.load("digits")


def alone(weights, inputs, hidden, outputs):
    """One network of a batch as an ordinary module."""
    model = nn.Sequential(nn.Linear(inputs, hidden), nn.Sigmoid(), nn.Linear(hidden, outputs)).to(weights.dtype)
    sizes = [hidden * inputs, outputs * hidden, hidden, outputs]
    values = weights.clone().split(sizes)
    with torch.no_grad():
        for parameter, value in zip(
            (model[0].weight, model[2].weight, model[0].bias, model[2].bias), values, strict=True
        ):
            parameter.copy_(value.view_as(parameter))
    return model


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", METHODS)
def test_one_of_many_is_one_alone(name, dtype, tolerance):
    """Every network, with options of its own, ends where autograd and the optimizer take it alone."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 12, generator=generator).to(dtype)
    y = torch.arange(40) % 5
    options = draw_trials(METHODS[name], 2)
    seeds = [3, 4, 5] * 2
    networks = Perceptrons(12, 7, 5, seeds, dtype)
    models = [alone(weights, 12, 7, 5) for weights in networks.weights]
    order = torch.stack([torch.randperm(40, generator=generator) for _ in seeds])
    assert list(once(networks, networks.optimizer(METHODS[name].kind, options), x, y, order, [10, 40])) == [10, 40]
    for index, model in enumerate(models):
        own = {key: value for key, value in options[index // 3].items() if key != "fused"}
        optimizer = METHODS[name].kind(model.parameters(), **own)
        for example in order[index]:
            optimizer.zero_grad()
            target = F.one_hot(y[example], 5).to(dtype)
            F.binary_cross_entropy_with_logits(model(x[example]), target, reduction="sum").backward()
            optimizer.step()
        parameters = (model[0].weight, model[2].weight, model[0].bias, model[2].bias)
        expected = torch.cat([parameter.detach().flatten() for parameter in parameters])
        torch.testing.assert_close(networks.weights[index], expected, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(networks.answer(x)[index], model(x).sigmoid().detach(), rtol=1e-4, atol=1e-4)


def test_networks_begin_by_their_seed_with_the_spread_of_their_fan_in():
    networks = Perceptrons(400, 50, 10, [1, 2, 1])
    first, second, biases = networks.weights.split([50 * 400, 10 * 50, 60], dim=1)
    assert torch.equal(first[0], first[2])
    assert not torch.equal(first[0], first[1])
    assert first.std().item() == pytest.approx(400**-0.5, rel=0.02)
    assert second.std().item() == pytest.approx(50**-0.5, rel=0.1)
    assert not biases.any()


def test_accuracy_is_the_share_of_right_answers():
    networks = Perceptrons(6, 4, 3, [0, 1])
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    y = networks.answer(x)[0].argmax(dim=1)
    assert networks.accuracy(x, y)[0] == 1.0
    assert networks.accuracy(x, (y + 1) % 3)[0] == 0.0


def test_an_order_is_balanced_at_every_count_and_repeats_nothing():
    labels = torch.arange(400) % 4
    order = balanced_order(labels, (3, 5, 20), seed=0)
    assert len(order) == len(set(order.tolist())) == 80
    for count in (3, 5, 20):
        assert labels[order[: 4 * count]].bincount().tolist() == [count] * 4
    assert torch.equal(order, balanced_order(labels, (3, 5, 20), seed=0))
    assert not torch.equal(order, balanced_order(labels, (3, 5, 20), seed=1))
    assert order[:12].tolist() != order[:12].sort().values.tolist()
    with pytest.raises(DataError, match="take fewer"):
        balanced_order(labels, (101,), seed=0)


@pytest.mark.parametrize("name", METHODS)
def test_trials_lie_in_their_ranges_and_are_the_same_every_time(name):
    trials = draw_trials(METHODS[name], 32)
    assert trials == draw_trials(METHODS[name], 32)
    assert len({str(trial) for trial in trials}) == 32
    numbers = [number for number in METHODS[name].ranges if number in trials[0]]
    assert "lr" in trials[0]
    for number in numbers:
        low, high = METHODS[name].ranges[number]
        drawn = [trial[number] for trial in trials]
        assert low <= min(drawn) < low * (high / low) ** 0.1
        assert high >= max(drawn) > high / (high / low) ** 0.1


def test_what_chooses_is_apart_from_what_trains(digits_task):
    digits = Digits(digits_task, "standardised", SMALL)
    rows = torch.cat([digits.train[0], digits.held_out[0]])
    assert len(digits.held_out[0]) == 100
    assert len(rows) == len(digits_task.train)
    assert len(digits.test[0]) == 150
    assert rows.mean(1).abs().max() < 1e-5
    torch.testing.assert_close(rows.std(1, correction=0), torch.ones(len(rows)))
    held = {tuple(row) for row in digits.held_out[0].tolist()}
    assert not held & {tuple(row) for row in digits.train[0].tolist()}


def test_raw_pixels_are_the_task_s_own(digits_task):
    """digits has pixels of whole numbers from 0 to 16."""
    digits = Digits(digits_task, "raw", SMALL)
    pixels = 255 * digits.train[0]
    torch.testing.assert_close(pixels, pixels.round(), atol=1e-4, rtol=0)
    assert pixels.min().abs() < 1e-4
    assert pixels.max().item() == pytest.approx(16, abs=1e-3)
    unknown = data.Task("own", digits_task.train, digits_task.test, 10)
    with pytest.raises(DataError, match="how they were scaled"):
        Digits(unknown, "raw", SMALL)


def test_shares_of_a_table_are_the_whole_table(digits_task, monkeypatch):
    """However many networks train together, each option and seed ends with the same accuracy."""
    digits = Digits(digits_task, "standardised", SMALL)
    trials = draw_trials(METHODS["momentum"], 3)
    arguments = (digits, 6, METHODS["momentum"], trials, range(4), (2, 5), digits.held_out)
    whole = train(*arguments)
    assert whole.shape == (3, 4, 2)
    for together in (1, 3, 8):
        monkeypatch.setattr(few_examples, "TOGETHER", together)
        assert torch.equal(train(*arguments), whole)


def test_a_cell_is_tuned_on_held_out_images_and_tested_on_others(digits_task):
    steps = []
    outcomes = cell(digits_task, "standardised", 8, "sgd", SMALL, steps.append)
    assert sum(steps) == steps_of(SMALL, 10) == 10 * (4 * 2 * 5 + 3 * (2 + 5))
    digits = Digits(digits_task, "standardised", SMALL)
    trials = draw_trials(METHODS["sgd"], 4)
    seeds = [few_examples._FIRST_TUNING_SEED + index for index in range(2)]
    scores = train(digits, 8, METHODS["sgd"], trials, seeds, SMALL.counts, digits.held_out).mean(1)
    for column, count in enumerate(SMALL.counts):
        best = int(scores[:, column].argmax())
        assert outcomes[count].options == trials[best]
        assert outcomes[count].validation == pytest.approx(scores[best, column].item())
        tested = train(digits, 8, METHODS["sgd"], [trials[best]], range(3), [count], digits.test)
        assert outcomes[count].accuracies == tuple(tested[0, :, 0].tolist())


def test_more_examples_teach_more(digits_task):
    budget = Budget(counts=(3, 60), trials=8, tuning_seeds=2, seeds=4, held_out=150)
    outcomes = cell(digits_task, "standardised", 20, "adam", budget)
    few, many = (sum(outcomes[count].accuracies) / 4 for count in budget.counts)
    assert many > max(0.75, few + 0.1)
