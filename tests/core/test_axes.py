"""The batch: where its axis is, and by what the loss divided each sample's part."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from circuits import Row, assert_same, learn, rows
from torch import Tensor, nn

import apical
from apical.errors import CircuitError, ConfigError

TIME, BATCH = 3, 4
# Noise is drawn in the shape of a rate, so that rates of another layout get other noise.
NEEDS_A_BATCH = [row for row in rows() if row.make().needs_batch and row.name != "three_factor"]
CLASSES_ALONE = {"direct_random_target_projection", "naca"}  # they read a class off the loss
ANY_OUTPUT = [row for row in NEEDS_A_BATCH if row.make().learns_from == "error" and row.name not in CLASSES_ALONE]


class Sequence(nn.Module):
    """Layers at every moment, and a read-out of the mean over time or of every moment."""

    def __init__(self, time: int, *, each: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.time, self.each = time, each
        self.stem, self.hidden, self.readout = nn.Linear(5, 6), nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.hidden(torch.sigmoid(self.stem(x))))
        return self.readout(x if self.each else x.mean(self.time))


def sequences() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(BATCH, TIME, 5, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (BATCH,), generator=generator)


@pytest.mark.parametrize("row", NEEDS_A_BATCH, ids=str)
def test_a_batch_at_the_second_axis_learns_what_one_at_the_first_does(row):
    x, y = sequences()
    first = apical.Circuit(Sequence(1, each=False).double(), row.make())
    second = apical.Circuit(Sequence(0, each=False).double(), row.make(), batch_axis=1)
    expected = learn(first, x, y)
    assert_same(learn(second, x.transpose(0, 1).contiguous(), y), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("row", ANY_OUTPUT, ids=str)
def test_an_output_at_every_moment_has_the_batch_where_the_input_has_it(row):
    x, _ = sequences()
    goal = torch.randn(BATCH, TIME, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def squares(answer: Tensor, target: Tensor) -> Tensor:
        return (answer - target).square().sum() / BATCH

    options: dict[str, Any] = {"loss": "linear"} if "loss" in row.options else {}
    first = apical.Circuit(Sequence(1, each=True).double(), row.make(**options))
    second = apical.Circuit(Sequence(0, each=True).double(), row.make(**options), batch_axis=1)
    expected = learn(first, x, goal, squares)
    found = learn(second, x.transpose(0, 1).contiguous(), goal.transpose(0, 1), squares)
    assert_same(found, expected, rtol=1e-9, atol=1e-12)


def test_a_batch_axis_is_found_wherever_a_step_puts_it():
    class Turning(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.hidden, self.readout = nn.Linear(5, 6), nn.Linear(6, 7), nn.Linear(7, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.stem(x)).transpose(0, 1)
            return self.readout(torch.relu(self.hidden(x)).mean(1))

    for batch in (BATCH, TIME, 1):
        circuit = apical.Circuit(Turning(), "oja", batch_axis=1)
        circuit(torch.randn(TIME, batch, 5))
        layers = {layer.name: circuit.wiring.batch_axes[3][layer.index + 1] for layer in circuit.layers}
        assert layers == {"stem": 0, "hidden": 0, "readout": 0}
    circuit = apical.Circuit(Sequence(0, each=False), "oja", batch_axis=1)
    circuit(torch.randn(TIME, BATCH, 5))
    assert [circuit.wiring.batch_axes[3][layer.index + 1] for layer in circuit.layers] == [1, 0, 0]


class Folded(nn.Module):
    """Moments are folded into the batch between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.hidden, self.readout = nn.Linear(5, 6), nn.Linear(6, 7), nn.Linear(7 * TIME, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.hidden(torch.tanh(self.stem(x.reshape(-1, 5)))))
        return self.readout(x.reshape(-1, 7 * TIME))


def test_a_rate_without_a_batch_axis_is_refused_where_a_rule_needs_one():
    x, _ = sequences()
    with pytest.raises(CircuitError, match=r"^stem: BurstCCN .*batch_axis="):
        apical.Circuit(Folded().double(), "burst_ccn")(x)
    with pytest.raises(CircuitError, match=r"^0: BurstCCN .*x\.unsqueeze\(0\)"):
        apical.Circuit(nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)), "burst_ccn")(torch.randn(5))
    apical.Circuit(Folded().double(), "feedback_alignment")(x).sum().backward()


# The reduction


# Where a rule knows the loss, "mean" tells it more than a number does.
SCALED = [row for row in NEEDS_A_BATCH if row.make().learns_from == "error" and "loss" not in row.options]


def masked(answer: Tensor, target: Tensor) -> Tensor:
    """The mean over the samples that have a target."""
    return F.cross_entropy(answer, target, ignore_index=-1)


def taught_samples(error: Tensor) -> float:
    return float(error.abs().sum(1).count_nonzero())


@pytest.mark.parametrize(
    "row",
    [
        Row("burst_ccn", {"error_scale": 1.0}),
        Row("burstprop", {"error_scale": 1.0}),
        Row("dendritic_microcircuit", {"interneurons": "tied"}),
        Row("segregated_dendrites", {"gain": 3.0}),
        Row("predictive_coding", {"variant": "strict", "rate": 0.2, "loss": "linear"}),
        Row("equilibrium_propagation", {"beta": 0.5}),
    ],
    ids=str,
)
def test_a_reduction_says_how_many_samples_the_loss_divided_by(row):
    """These rules are nonlinear in a sample's error: a wrong number would show."""
    model = lambda: nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))  # noqa: E731

    def circuit(reduction: Any) -> apical.Circuit:
        torch.manual_seed(0)
        return apical.Circuit(model().double(), row.make(), reduction=reduction)

    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (8,), generator=generator)
    some = torch.where(torch.arange(8) % 3 == 1, -1, y)  # five of eight
    expected = learn(circuit("mean"), x[some >= 0], y[some >= 0], F.cross_entropy)
    for reduction in (taught_samples, 5, 5.0):
        assert_same(learn(circuit(reduction), x, some, masked), expected, rtol=1e-9, atol=1e-12)
    wrong = learn(circuit("mean"), x, some, masked)
    assert max(float((wrong[name] - expected[name]).abs().max()) for name in wrong) > 1e-5
    summed = learn(circuit("sum"), x, y, lambda answer, target: F.cross_entropy(answer, target, reduction="sum"))
    mean = learn(circuit("mean"), x, y, F.cross_entropy)
    assert_same({name: part / 8 for name, part in summed.items()}, mean, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("reduction", ["median", 0, -1.0, float("nan"), float("inf"), True, None])
def test_unknown_reductions_are_refused(reduction):
    with pytest.raises(ConfigError, match="reduction="):
        apical.Circuit(nn.Linear(2, 2), "backprop", reduction=reduction)


@pytest.mark.parametrize("axis", [-1, 1.0, True, "batch", None])
def test_unknown_batch_axes_are_refused(axis):
    with pytest.raises(ConfigError, match="batch_axis="):
        apical.Circuit(nn.Linear(2, 2), "backprop", batch_axis=axis)


@pytest.mark.parametrize("row", SCALED, ids=str)
def test_the_number_of_samples_stands_for_the_mean(row):
    x, y = sequences()
    numbered = apical.Circuit(Sequence(1, each=False).double(), row.make(), reduction=BATCH)
    expected = learn(apical.Circuit(Sequence(1, each=False).double(), row.make()), x, y)
    assert_same(learn(numbered, x, y), expected)


class Remembering(nn.Module):
    """A neuron whose potential lasts from one call to the next, as spiking libraries keep it."""

    def __init__(self, log: list[int]) -> None:
        super().__init__()
        self.memories = {"v": None}
        self.log = log

    def forward(self, x: Tensor) -> Tensor:
        self.log.append(len(x))
        v = self.memories["v"]
        self.memories["v"] = x if v is None else 0.5 * v + x
        return torch.tanh(self.memories["v"])


@pytest.mark.filterwarnings("ignore:.*lasts from one forward pass to the next")
def test_finding_the_batch_axis_leaves_the_modules_as_they_were():
    log: list[int] = []
    neuron = Remembering(log)
    circuit = apical.Circuit(nn.Sequential(nn.Linear(4, 3), neuron, nn.Linear(3, 2)), "burst_ccn")
    before = list(log)
    circuit.initialize(torch.randn(5, 4))
    assert neuron.memories == {"v": None}
    assert log == before
    assert neuron.log is log
