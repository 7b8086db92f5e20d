"""The trisynaptic loop: a circuit like any other, whose target is its own input."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import apical
from apical.errors import CircuitError, ConfigError
from apical.hippocampus import TrisynapticLoop

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))
from circuits import Row, rows

INPUTS = 12
X = torch.rand(16, INPUTS, generator=torch.Generator().manual_seed(0)).double()
SENT_DOWN = ("tied", "fixed", "sign_symmetric", "kolen_pollack", "weight_mirror")
OPTIONS = [
    {},
    {"sparsity": "none"},
    {"sparsity": "l1", "cost": 0.1},
    {"homeostasis": False, "direct": False, "readout": "sigmoid"},
    {"activation": "tanh", "share": {"ca3": 0.5}},
    {"activation": "softplus", "sparsity": "none", "readout": "softplus"},
]


def loop(**options) -> TrisynapticLoop:
    torch.manual_seed(0)
    return TrisynapticLoop(INPUTS, 20, 8, 10, **{"share": 0.3, **options}).double()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_backprop_is_autograd_on_the_plain_loop(options):
    circuit, plain = apical.Circuit(loop(**options), "backprop"), loop(**options)
    loss = circuit.learn(X)
    expected = 0.5 * (plain(X) - X).square().sum() / len(X)
    expected.backward()
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=1e-14)
    for (name, own), other in zip(circuit.model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-10, atol=1e-12, msg=name)


def _arms() -> list[Row]:
    """Every rule with its defaults, and every rule that sends signals down with every pathway that can."""
    kinds = {name: apical.rules.get(name) for name in apical.rules.names()}
    sending = [
        name
        for name, kind in kinds.items()
        if "feedback" in kind.option_names() and "tied" not in apical.rules.make(name).refused_pathways
    ]
    return [*map(Row, kinds), *(Row(name, {"feedback": pathway}) for name in sending for pathway in SENT_DOWN)]


NEED_A_LABEL = {"direct_random_target_projection", "naca", "three_factor", "agrel", "brainprop"}


@pytest.mark.parametrize("row", _arms(), ids=str)
def test_the_mismatch_reaches_every_area_or_the_rule_refuses(row):
    try:
        circuit = apical.Circuit(loop(), row.make())
        circuit.learn(X)
    except CircuitError:
        assert row.name in NEED_A_LABEL
        return
    assert row.name not in NEED_A_LABEL
    for name, parameter in circuit.model.named_parameters():
        assert float(parameter.grad.abs().max()) > 1e-9, name


@pytest.mark.parametrize("rule", ["backprop", "countercurrent_inhibition", "kolen_pollack", "burst_ccn"])
def test_the_loop_learns_to_return_its_input(rule):
    circuit = apical.Circuit(loop(), rule)
    optimizer = torch.optim.AdamW(circuit.parameters(), lr=1e-2, weight_decay=1e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        losses.append(float(circuit.learn(X)))
        optimizer.step()
    assert losses[-1] < losses[0] / 3


def test_areas_are_what_the_circuit_computes():
    model = loop()
    circuit = apical.Circuit(model, "backprop")
    areas = model.areas(X)
    assert [rate.shape[1] for rate in areas] == [20, 8, 10, INPUTS]
    torch.testing.assert_close(areas.deep, circuit(X), rtol=1e-12, atol=1e-14)
    assert [int((rate > 0).sum(1).max()) for rate in areas[:3]] == [6, 2, 3]
    assert not any((rate < 0).any() for rate in areas[:3])


def test_without_homeostasis_fewer_cells_ever_win():
    x = torch.rand(200, INPUTS).double()
    alive = [
        float((loop(share=0.05, homeostasis=homeostasis).areas(x).dentate > 0).any(0).double().mean())
        for homeostasis in (True, False)
    ]
    assert alive[0] > alive[1] + 0.2


def test_calibration_makes_evaluation_answer_as_training_does():
    model, x = loop(sparsity="none"), torch.rand(400, INPUTS).double()
    expected = model(x)
    assert (model.eval()(x) - expected).abs().max() > 0.1
    model.calibrate(x)
    assert not model.training
    assert (model(x) - expected).abs().max() < 0.01  # the variance of evaluation is the unbiased one
    assert all(module.momentum == 0.1 for module in model.modules() if isinstance(module, nn.BatchNorm1d))
    with pytest.raises(ValueError, match="two or more"):
        model.calibrate(X[:1])


@pytest.mark.parametrize(
    "options",
    [{"activation": "step"}, {"sparsity": "few"}, {"readout": "step"}, {"share": 2.0}, {"share": {"ca2": 0.1}},
     {"sparsity": "l1", "cost": 0.0}],
)  # fmt: skip
def test_unknown_options_are_refused(options):
    with pytest.raises(ConfigError):
        loop(**options)


@pytest.mark.parametrize("cells", [0, -1, 2.5, True])
def test_sizes_that_are_none_are_refused(cells):
    with pytest.raises(ConfigError, match="ca3"):
        TrisynapticLoop(4, ca3=cells)


# circuit.learn


def test_learn_refuses_what_is_not_its_own_target():
    with pytest.raises(CircuitError, match=r"\(16, 12\).*\(16, 5\)"):
        apical.Circuit(nn.Linear(INPUTS, 5).double(), "backprop").learn(X)
    with pytest.raises(CircuitError, match="batch axis"):
        apical.Circuit(nn.Linear(INPUTS, INPUTS).double(), "backprop").learn(X[0])
    for loss in ("mse", "cross_entropy"):
        rule = apical.PredictiveCoding(variant="error_optimised", loss=loss)
        with pytest.raises(CircuitError, match="squared_error"):
            apical.Circuit(nn.Linear(INPUTS, INPUTS).double(), rule).learn(X)


@pytest.mark.parametrize("rule", [None, *rows()[:1], Row("burst_ccn"), Row("countercurrent_inhibition")], ids=str)
def test_learn_keeps_to_the_reduction_and_the_loss_scale(rule):
    def gradients(reduction, scale):
        circuit = apical.Circuit(
            loop(), "backprop" if rule is None else rule.make(), reduction=reduction, loss_scale=scale
        )
        loss = circuit.learn(X)
        return loss, [parameter.grad for parameter in circuit.model.parameters()]

    loss, mean = gradients("mean", 1.0)
    for reduction, scale, factor in (("sum", 1.0, 16), (4, 1.0, 4), (lambda error: 2, 1.0, 8), ("mean", 3.0, 3)):
        own, found = gradients(reduction, scale)
        torch.testing.assert_close(own, loss * factor / scale)
        for a, b in zip(mean, found, strict=True):
            torch.testing.assert_close(a * factor, b, rtol=1e-9, atol=1e-12)


def test_learn_adds_to_the_gradients_and_leaves_the_input_alone():
    circuit = apical.Circuit(loop(), "backprop")
    x = X.clone().requires_grad_()
    circuit.learn(x)
    once = copy.deepcopy([parameter.grad for parameter in circuit.parameters()])
    circuit.learn(x)
    assert x.grad is None
    assert torch.equal(x, X)
    for parameter, before in zip(circuit.parameters(), once, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * before)


def test_learn_takes_any_shape_with_a_batch():
    model = nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv1d(4, 2, 3, padding=1))
    assert apical.Circuit(model, "countercurrent_inhibition").learn(torch.rand(5, 2, 9)) > 0
