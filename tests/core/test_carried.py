"""What a rule carries, as numbers: means of what an observer sees, and nothing is moved by looking."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from circuits import NETWORKS, Row, loss_of, rows
from torch import Tensor

import apical
from apical import measure
from apical.errors import DataError


def _named(row: Row) -> str:
    return str(row)


@pytest.mark.parametrize("row", [row for row in rows() if not row.options], ids=_named)
def test_a_rule_carries_what_it_says_and_looking_changes_nothing(row):
    circuit = apical.Circuit(NETWORKS["mlp"].build(), row.make())
    x, y = NETWORKS["mlp"].batch()
    circuit(x)
    before = {name: value.clone() for name, value in circuit.state_dict().items() if isinstance(value, Tensor)}
    found = measure.carried(circuit, x, y, loss_of(circuit))
    shown = {name for quantities in found.values() for name in quantities}
    assert shown <= set(circuit.rule.observables)  # some of it only with some options
    assert bool(shown) == bool(circuit.rule.observables)
    after = circuit.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(parameter.grad is None for parameter in circuit.parameters())


def test_the_numbers_are_the_means_of_what_an_observer_sees():
    circuit = apical.Circuit(NETWORKS["mlp"].build(), "burst_ccn")
    x, y = NETWORKS["mlp"].batch()
    seen: dict[str, Tensor] = {}
    with circuit.observe(
        lambda layer, quantities: seen.update({layer: quantities["burst_rate"]} if "burst_rate" in quantities else {})
    ):
        F.cross_entropy(circuit(x), y).backward()
    found = measure.carried(circuit, x, y, F.cross_entropy)
    assert seen.keys() == found.keys()
    for layer, rates in seen.items():
        assert found[layer]["burst_rate"] == pytest.approx(rates.double().mean().item())


def test_no_examples_no_numbers():
    circuit = apical.Circuit(NETWORKS["mlp"].build(), "burst_ccn")
    with pytest.raises(DataError, match="the batch is empty"):
        measure.carried(circuit, torch.zeros(0, 3, 4), torch.zeros(0, dtype=torch.long), F.cross_entropy)
