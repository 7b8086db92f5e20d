"""Data of (time, batch, ...): every rule gives the update that the loss means, or refuses; samples stay apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from circuits import HEBBIAN, Row, assert_same, learn, loss_of, rows
from torch import Tensor, nn

import apical
from apical.errors import CircuitError

TIME, BATCH, CLASSES = 4, 6, 3
ROWS = rows()
# A reward or a target is read off outputs (batch, classes) alone.
ONE_CHOICE = {"direct_random_target_projection", "naca", "three_factor", "agrel", "brainprop"}
# The interneurons' own plasticity is a mean over moments and samples, whatever the loss divides by.
INTERNEURONS = ("rule.inhibition.", "rule.interneuron_weights.")
every_rule = pytest.mark.parametrize("row", ROWS, ids=str)


def moments() -> nn.Module:
    """A network of one moment."""
    torch.manual_seed(0)
    layers = (nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.Sigmoid(), nn.Linear(6, CLASSES))
    return nn.Sequential(*layers).double()


def data(time: int = TIME) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(time, BATCH, 5, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, CLASSES, (time, BATCH), generator=generator)


def taught(row: Row, x: Tensor, y: Tensor, **options: Any) -> dict[str, Tensor]:
    """The update by a loss that is a mean over moments and samples."""
    circuit = apical.Circuit(moments(), row.make(), **options)
    # The size of direct feedback is measured on inputs of the data's shape: all get that of the data without time.
    circuit.load_state_dict(apical.Circuit(moments(), row.make(), example=data()[0].flatten(0, 1)).state_dict())
    loss = loss_of(circuit)
    return learn(circuit, x, y, lambda output, target: loss(output.reshape(-1, CLASSES), target.flatten()))


@every_rule
def test_moments_of_a_batch_learn_what_as_many_samples_learn(row):
    """The loss divides by time times batch; Hebbian layers take the mean over both of their own accord."""
    x, y = data()
    reduction = "mean" if row.name in HEBBIAN else TIME * BATCH
    if row.name in ONE_CHOICE:
        with pytest.raises(CircuitError, match=rf"\({TIME}, {BATCH}, {CLASSES}\)"):
            taught(row, x, y, batch_axis=1, reduction=reduction)
        return
    expected = taught(row, x.flatten(0, 1), y)
    found = taught(row, x, y, batch_axis=1, reduction=reduction)
    assert found.keys() == expected.keys()
    compared = {name for name in expected if not name.startswith(INTERNEURONS)}
    assert len(compared) >= 6
    tolerance = {"rtol": 1e-6, "atol": 1e-12}
    assert_same({name: found[name] for name in compared}, {name: expected[name] for name in compared}, **tolerance)


UNSCALED = [row for row in ROWS if not row.make().needs_batch or row.name in HEBBIAN]


@pytest.mark.parametrize("row", [row for row in UNSCALED if row.name not in ONE_CHOICE], ids=str)
def test_rules_without_a_scale_of_their_own_need_no_reduction(row):
    x, y = data()
    assert_same(taught(row, x, y, batch_axis=1), taught(row, x.flatten(0, 1), y), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", ["direct_feedback_alignment", "segregated_dendrites", "feedback_alignment"])
def test_a_layer_sees_the_error_of_its_own_sample_at_every_moment(name):
    """Time first, and no batch axis named: then the moments are the batch, and samples stand at the axis after it."""
    x, _ = data()
    signals: dict[str, Tensor] = {}

    def keep(layer: str, quantities: dict[str, Tensor]) -> None:
        signals.update({layer: quantities["teaching_signal"]} if "teaching_signal" in quantities else {})

    for batch_axis in (0, 1):
        circuit = apical.Circuit(moments(), name, batch_axis=batch_axis)
        with circuit.observe(keep):
            circuit(x)[:, 0].sum().backward()
        assert signals.keys() == {"0", "2", "4"}
        assert all(signal[:, 0].count_nonzero() for signal in signals.values())
        assert not any(signal[:, 1:].any() for signal in signals.values())


# The mean over time within the model: the batch axis moves from 1 to 0


class Averaged(nn.Module):
    """(time, batch, features) to (batch, classes)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.hidden, self.readout = nn.Linear(5, 7), nn.Linear(7, 6), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(torch.tanh(self.hidden(torch.tanh(self.stem(x)))).mean(0))


# Hebbian layers, and populations that hear unmatched events, learn from samples without an error, too.
ERROR_ALONE = [row for row in ROWS if row.name not in HEBBIAN and row.options.get("events", "matched") == "matched"]


@pytest.mark.parametrize("time", [TIME, BATCH])
@pytest.mark.parametrize("row", ERROR_ALONE, ids=str)
def test_the_update_of_one_samples_error_depends_on_no_other_sample(row, time):
    x, y = data(time)
    others = torch.arange(BATCH) != 2
    moved = x.clone()
    moved[:, others] += 1.0

    def update(x: Tensor) -> dict[str, Tensor]:
        circuit = apical.Circuit(Averaged().double(), row.make(), batch_axis=1, reduction=1)
        loss = loss_of(circuit)
        found = learn(circuit, x, y[0], lambda output, target: loss(output[2:3], target[2:3]))
        return {name: part for name, part in found.items() if name.startswith("model.")}

    before = update(x)
    assert all(part.count_nonzero() for part in before.values())
    assert_same(update(moved), before, rtol=1e-9, atol=1e-13)


def test_time_may_have_another_length_at_every_pass():
    for name in ("feedback_alignment", "burst_ccn", "predictive_coding"):
        circuit = apical.Circuit(Averaged().double(), name, batch_axis=1)
        for time in (5, BATCH, 1, 3):
            x, y = data(time)
            found = learn(circuit, x, y[0])
            assert all(part.isfinite().all() for part in found.values())
        assert_same(learn(apical.Circuit(Averaged().double(), name, batch_axis=1), x, y[0]), found)
    direct = apical.Circuit(Averaged().double(), "direct_feedback_alignment", batch_axis=1, example=data(5)[0])
    x, y = data(3)
    with pytest.raises(CircuitError, match=r"^stem: .*\(5, 7\).*\(3, 7\)"):  # a weight for every moment
        learn(direct, x, y[0])


def test_direct_weights_at_each_position_follow_the_batch_axis():
    """Time and batch of one size, and exchanged between the layer and the output."""

    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.stem, self.readout = nn.Linear(5, 7), nn.Linear(7, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.readout(torch.tanh(self.stem(x)).transpose(0, 1))

    x, _ = data(BATCH)
    circuit = apical.Circuit(Turned().double(), "direct_feedback_alignment", batch_axis=1)
    seen: dict[str, Tensor] = {}
    with circuit.observe(lambda layer, quantities: seen.update({layer: quantities["teaching_signal"]})):
        circuit(x)[2].square().sum().backward()  # sample 2, which is at axis 0 of the output
    assert seen["stem"][:, 2].count_nonzero()
    assert not torch.cat([seen["stem"][:, :2], seen["stem"][:, 3:]], 1).any()


# Models whose batch cannot be varied


class Fixed(nn.Module):
    """A model written for one size of the batch."""

    def __init__(self, batch: int, *, hidden: int = 7) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.batch, self.hidden = batch, hidden
        self.stem, self.readout = nn.Linear(5, hidden), nn.Linear(hidden, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(torch.tanh(self.stem(x)).view(TIME, self.batch, self.hidden).mean(0))


def test_the_batch_axis_of_a_model_of_one_batch_size_is_that_size_at_the_same_place_or_refused():
    x, _ = data()
    chain = nn.Sequential(nn.Linear(5, 7), nn.Unflatten(0, (2, 3)), nn.Flatten(0, 1), nn.Tanh(), nn.Linear(7, CLASSES))
    circuit = apical.Circuit(chain.double(), "burst_ccn")
    circuit(x[0]).sum().backward()
    assert {axis for axes in circuit.wiring.batch_axes.values() for axis in axes if axis is not None} == {0}
    # In the second, the averaged rate has the batch's size at the place of the batch, and is not that axis.
    for model in (Fixed(BATCH), Fixed(BATCH, hidden=BATCH)):
        circuit = apical.Circuit(model.double(), "burst_ccn", batch_axis=1)
        with pytest.raises(CircuitError, match=r"^stem: BurstCCN .*batch_axis="):
            circuit(x)


# Outputs without a batch, and inputs without one


class Summed(nn.Module):
    """(batch, features) to one number, or to one for each sample."""

    def __init__(self, *, reduces: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.reduces = reduces
        self.stem, self.readout = nn.Linear(5, 7), nn.Linear(7, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.readout(torch.relu(self.stem(x)))
        return y.mean() if self.reduces else y


@every_rule
def test_an_output_without_axes_is_taught_right_or_refused(row):
    x = data()[0][0]
    circuit = apical.Circuit(Summed(reduces=True).double(), row.make())
    if circuit.rule.needs_batch:
        with pytest.raises(CircuitError, match=rf"^readout: {type(circuit.rule).__name__} .*batch"):
            circuit(x)
        return
    found = learn(circuit, x, x, lambda output, _: output.square())
    outside = apical.Circuit(Summed(reduces=False).double(), row.make())
    expected = learn(outside, x, x, lambda output, _: output.mean().square())
    assert found["model.stem.weight"].count_nonzero()
    assert_same(found, expected, rtol=1e-9, atol=1e-13)


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.ReLU(), nn.Conv2d(5, 5, 2), nn.Tanh(), nn.Flatten(-3), nn.Unflatten(-1, (5, 3, 3)), nn.Conv2d(5, CLASSES, 3)
    ).double()


UNBATCHED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "linear": (moments, (5,), "0"),
    "convolutions below which something else is": (convolutions, (5, 4, 4), "1"),
}


@pytest.mark.parametrize("kind", UNBATCHED)
@every_rule
def test_one_sample_without_a_batch_axis_is_a_batch_of_one_or_refused(row, kind):
    make, shape, lowest = UNBATCHED[kind]
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    circuit = apical.Circuit(make(), row.make())
    if circuit.rule.needs_batch:
        with pytest.raises(CircuitError, match=rf"^{lowest}: {type(circuit.rule).__name__} .*x\.unsqueeze\(0\)"):
            circuit(x[0])
        return
    squares: Callable[[Tensor, Tensor], Tensor] = lambda output, _: (output - 1).square().sum()  # noqa: E731
    expected = learn(apical.Circuit(make(), row.make()), x, x, squares)
    assert_same(learn(circuit, x[0], x, squares), expected, rtol=1e-9, atol=1e-13)


# The reduction


@pytest.mark.parametrize("row", [row for row in ROWS if "loss" not in row.options], ids=str)
def test_a_number_and_a_function_of_the_error_stand_for_the_mean(row):
    x = data()[0][0]
    y = torch.arange(BATCH) % CLASSES
    expected = taught(row, x, y)
    for reduction in (BATCH, float(BATCH), lambda error: error.shape[0]):
        assert_same(taught(row, x, y, reduction=reduction), expected)


# PyTorch's own: its compiler makes an instance of every autograd function that it reads.
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*should not be instantiated:DeprecationWarning")
def test_a_compiler_that_saw_no_forward_pass_takes_the_first_axis_or_refuses():
    def read(*layers: nn.Module, **options: Any) -> Any:
        circuit = apical.Circuit(nn.Sequential(moments(), *layers), "burst_ccn", **options)
        return torch.compile(circuit, backend="aot_eager", fullgraph=True)

    x, y = data()
    torch._dynamo.reset()
    try:
        with pytest.raises(Exception, match=r"0\.0: .*example="):
            read(batch_axis=1)(x)
        with pytest.raises(Exception, match=r"0\.4: .*example="):
            read(nn.Flatten(0))(x[0])
        found = [learn(read(), x[0], y[0]), learn(read(batch_axis=1, example=x), x, x, lambda y, _: y.square().sum())]
    finally:
        torch._dynamo.reset()
    expected = [
        learn(apical.Circuit(nn.Sequential(moments()), "burst_ccn"), x[0], y[0]),
        learn(apical.Circuit(nn.Sequential(moments()), "burst_ccn", batch_axis=1), x, x, lambda y, _: y.square().sum()),
    ]
    for compiled, eager in zip(found, expected, strict=True):
        own = {name.removeprefix("_orig_mod."): part for name, part in compiled.items()}
        assert_same(own, eager, rtol=1e-9, atol=1e-13)
