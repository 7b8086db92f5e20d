"""Leakage: models that read the batch are caught, models that do not are left alone, and none is changed."""

import math

import pytest
import torch
from torch import Tensor, nn

import apical
from apical.continual import StreamingLDA
from apical.errors import ConfigError, DataError, NonFiniteError
from apical.measure import leakage
from apical.measure.leakage import _sign_test


def samples(n: int = 200, classes: int = 4) -> tuple[Tensor, Tensor]:
    y = torch.arange(n) % classes
    return torch.eye(classes)[y].repeat(1, 2) + torch.randn(n, 2 * classes), y


def network(*extra: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), *extra, nn.ReLU(), nn.Linear(16, 4))


class BatchGate(nn.Module):
    """Answers for the class that the mean of the batch points to, as a gate of the mean input does."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.1 * x[:, :4] + x[:, :4].mean(0)


class Memory(nn.Module):
    """Keeps an average of what it saw, in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.trace = torch.zeros(4)

    def forward(self, x: Tensor) -> Tensor:
        self.trace = 0.5 * self.trace + x[:, :4].mean(0)
        return 0.1 * x[:, :4] + self.trace


class Squeezes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :4].squeeze()


class OneIsNaN(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x[:, :4] - x[:, :4].mean(0)) / x[:, :4].std(0)


def test_a_gate_of_the_batch_s_mean_is_caught():
    found = leakage(BatchGate(), *samples())
    assert found.leaks
    assert found.p_value == 0
    assert found.pure > 0.9 > found.mixed
    assert found.single == pytest.approx(found.mixed, abs=0.4)


def test_the_three_accuracies_by_hand():
    x, y = samples(12)
    found = leakage(BatchGate(), x, y, batch_size=100)
    answer = BatchGate()
    assert found.pure == torch.cat([answer(x[y == c]).argmax(1) == c for c in range(4)]).double().mean()
    assert found.mixed == (answer(x).argmax(1) == y).double().mean()
    assert found.single == (x[:, :4].argmax(1) == y).double().mean()
    assert found.samples == 12


@pytest.mark.parametrize("make", [network, lambda: network(nn.BatchNorm1d(16)), lambda: network(nn.LayerNorm(16))])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_model_in_evaluation_mode_does_not_leak(make, dtype):
    x, y = samples()
    found = leakage(make().to(dtype).eval(), x.to(dtype), y, batch_size=16)
    assert not found.leaks
    assert found.p_value == 1
    assert (found.noise, found.reason) == (0, "")


def test_a_batch_norm_in_training_mode_is_caught_even_untrained():
    """Nothing was learned, so accuracies are at chance in every cut; but predictions change."""
    found = leakage(network(nn.BatchNorm1d(16)), *samples())
    assert found.leaks
    assert found.single is None
    assert "ValueError" in found.reason
    pictures = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))
    found = leakage(pictures, torch.randn(60, 1, 8, 8), torch.arange(60) % 4)
    assert found.single is not None  # a picture has a variance of its own
    assert found.leaks
    assert not leakage(pictures.eval(), torch.randn(60, 1, 8, 8), torch.arange(60) % 4).leaks


@pytest.mark.parametrize("model", [Squeezes(), OneIsNaN()])
def test_a_model_that_cannot_take_one_sample_leaks(model):
    found = leakage(model, *samples())
    assert found.single is None
    assert found.leaks
    assert found.reason


def test_memory_between_samples_is_caught_and_restored():
    model = Memory()
    before = model.trace
    assert leakage(model, *samples()).leaks
    assert model.trace is before


@pytest.mark.parametrize("training", [True, False])
def test_the_model_and_the_random_state_stay(training):
    model = network(nn.BatchNorm1d(16), nn.Dropout(0.5)).train(training)
    model[3].eval()  # modes may be mixed
    x, y = samples()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    leakage(model, x, y)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_noise_is_no_leak():
    """Over many seeds, dropout alone is found guilty no more often than the level of the test allows."""
    model = network(nn.Dropout(0.5))
    found = [leakage(model, *samples(60), seed=seed) for seed in range(0, 200, 10)]
    assert all(each.noise > 0 for each in found)
    assert not any(each.leaks for each in found)


def test_a_leak_shows_through_noise():
    found = leakage(nn.Sequential(BatchGate(), nn.Dropout(0.2)), *samples(400))
    assert found.noise > 0
    assert 0 < found.p_value < 1e-3
    assert found.leaks


@pytest.mark.parametrize("rule", ["backprop", "feedback_alignment", "direct_feedback_alignment"])
def test_circuits(rule):
    circuit = apical.Circuit(network(nn.BatchNorm1d(16)), rule)
    assert leakage(circuit, *samples()).leaks
    assert not leakage(circuit.eval(), *samples()).leaks


def test_any_callable_that_predicts_labels():
    x, y = samples()
    floor = StreamingLDA().partial_fit(x, y)
    assert not leakage(floor.predict, x, y).leaks
    assert leakage(lambda x: BatchGate()(x).argmax(1), x, y).leaks


def test_the_sign_test_by_hand():
    def alone(a: int, b: int) -> tuple[Tensor, Tensor]:
        first = torch.tensor([True] * a + [False] * b + [True, False])
        return first, torch.tensor([False] * a + [True] * b + [True, False])

    assert _sign_test(*alone(0, 0)) == 1
    assert _sign_test(*alone(3, 3)) == 1
    assert _sign_test(*alone(5, 0)) == pytest.approx(2 / 32)
    assert _sign_test(*alone(1, 9)) == pytest.approx(2 * (1 + 10) / 1024)
    assert 0 < _sign_test(*alone(0, 1000)) < 1e-300
    assert math.isfinite(_sign_test(*alone(3000, 3100)))


def test_the_repr_is_readable():
    assert "leaks: accuracy pure=" in repr(leakage(BatchGate(), *samples()))
    assert "no leak found" in repr(leakage(network(), *samples()))
    assert "single=None (ValueError" in repr(leakage(network(nn.BatchNorm1d(16)), *samples()))


@pytest.mark.parametrize(
    ("model", "x", "y", "options", "error", "fact"),
    [
        (network(), torch.zeros(4, 8), torch.arange(3), {}, DataError, r"\(4, 8\)"),
        (network(), torch.zeros(4, 8), torch.zeros(4), {}, DataError, "float32"),
        (network(), torch.zeros(4, 8), torch.ones(4, dtype=torch.long), {}, DataError, "two classes"),
        (network(), torch.zeros(0, 8), torch.arange(0), {}, DataError, "two classes"),
        (network(), *samples(), {"batch_size": 2}, ConfigError, "batch_size=2"),
        (nn.Flatten(0), *samples(), {}, DataError, r"\(1600,\)"),
        (network(nn.Dropout()), *samples(12), {}, DataError, "12 samples"),
        (network(nn.BatchNorm1d(16)), torch.zeros(4, 8), torch.tensor([0, 0, 0, 1]), {}, DataError, "one sample"),
        (network(), torch.full((8, 8), torch.nan), torch.arange(8) % 2, {}, NonFiniteError, "batch of 8"),
        (network(), torch.zeros(4, 7), torch.arange(4), {}, RuntimeError, "shapes"),
    ],
)
def test_what_cannot_be_tested_is_refused(model, x, y, options, error, fact):
    with pytest.raises(error, match=fact):
        leakage(model, x, y, **options)
