"""The core gives the same updates without torch's private calls and without closed forms."""

import pytest
import torch
from circuits import NETWORKS, Row, assert_same, circuit_of, learn, rows

from apical import compat
from apical.layers import steps

STEADY = [row for row in rows() if not row.redraws]
# Without closed forms neither the place where cells fire nor their lowest rate is known: here without the bounds.
UNBOUNDED = [Row("countercurrent_inhibition", {"gain": 0.0, "tonic": 1e9})]
TRAITLESS = [row for row in STEADY if row.name != "countercurrent_inhibition"] + UNBOUNDED


@pytest.fixture
def public(monkeypatch):
    monkeypatch.setattr(compat, "PRIVATE", False)


@pytest.mark.parametrize("row", STEADY, ids=str)
def test_without_private_calls_of_torch(row, monkeypatch):
    expected = learn(circuit_of("mlp", row), *NETWORKS["mlp"].batch())
    monkeypatch.setattr(compat, "PRIVATE", False)
    assert_same(learn(circuit_of("mlp", row), *NETWORKS["mlp"].batch()), expected)


@pytest.mark.parametrize("network", ["mlp", "line", "branching"])
@pytest.mark.parametrize("row", TRAITLESS, ids=str)
def test_without_closed_forms(row, network, monkeypatch):
    """Every step by a local autograd graph, as a torch whose kernels have moved would need."""
    expected = learn(circuit_of(network, row), *NETWORKS[network].batch())
    monkeypatch.setattr(steps, "_CLOSED_FORMS", {})
    found = learn(circuit_of(network, row), *NETWORKS[network].batch())
    assert_same(found, expected, rtol=2e-3, atol=1e-6)


def test_a_backward_pass_may_be_repeated_without_private_calls(public):
    circuit = circuit_of("conv", Row("feedback_alignment"))
    x, y = NETWORKS["conv"].batch()
    first, second = learn(circuit, x, y), learn(circuit, x, y)
    assert_same(first, second)


def test_private_calls_stand_in_one_file():
    source = compat.__file__
    from pathlib import Path

    for path in Path(source).parent.rglob("*.py"):
        if path != Path(source):
            assert "torch._C" not in path.read_text(encoding="utf-8"), path


def test_set_grad_enabled_is_torchs_own(public):
    compat.set_grad_enabled(False)
    try:
        assert not torch.is_grad_enabled()
    finally:
        compat.set_grad_enabled(True)
    assert torch.is_grad_enabled()
