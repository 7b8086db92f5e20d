"""What `equals_backprop` says of a rule is so: by construction, in the limit that it names, or nowhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from circuits import NETWORKS, loss_of
from torch import Tensor, nn

import apical

NAMES = apical.rules.names()
WEAK = {"nudging": 1e-5, "steps": 60}
LIMITS: list[tuple[str, dict[str, Any]]] = [
    ("burst_ccn", {"feedback": "tied", "error_scale": 1e-4}),
    ("burstprop", {"feedback": "tied", "error_scale": 1e-4, "slope": 1e-4}),
    ("dendritic_microcircuit", {"feedback": "tied", "interneurons": "tied", "teaching": 1e-5}),
    ("predictive_coding", {"variant": "strict", "rate": 0.5, **WEAK}),
    ("predictive_coding", {"variant": "error_optimised", **WEAK}),
    ("predictive_coding", {"rate": 0.5, "steps": 60}),
    ("equilibrium_propagation", {}),
    ("kolen_pollack", {"init": "weights"}),
    ("countercurrent_inhibition", {"gain": 1e-4, "tonic": 1e4}),
    ("brainprop", {}),
    ("agrel", {}),
]
EXACT: list[tuple[str, dict[str, Any]]] = [
    ("backprop", {}),
    ("predictive_coding", {}),
    ("predictive_coding", {"variant": "zero_divergence"}),
]
NEVER: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in NAMES if apical.rules.make(name).equals_backprop is None),
    ("predictive_coding", {"variant": "incremental", "loss": "cross_entropy"}),
    ("predictive_coding", {"clamped": True, "variant": "strict"}),
    ("predictive_coding", {"feedback": "fixed"}),
    ("equilibrium_propagation", {"nudging": "clamped", "tolerance": 1.0}),
    ("equilibrium_propagation", {"feedback": "sign_symmetric"}),
    ("burst_ccn", {"feedback": "tied", "events": "fixed"}),
    ("kolen_pollack", {}),
    ("burstprop", {"feedback": "tied", "normalised": False}),
]


def distance(rule: apical.LearningRule) -> float:
    """Between the updates of the rule and of backpropagation of the same loss, over all hidden layers."""

    def hidden(model: nn.Module, circuit: nn.Module) -> Tensor:
        x, y = NETWORKS["deep_tanh"].batch(16)
        model.zero_grad()
        torch.manual_seed(0)
        loss(circuit(x.double()), y).backward()
        return torch.cat([parameter.grad.flatten() for parameter in list(model.parameters())[:-2]])

    model = NETWORKS["deep_tanh"].build().double()
    circuit = apical.Circuit(model, rule)
    loss = loss_of(circuit)
    found, truth = hidden(model, circuit), hidden(model, model)
    return float((found - truth).norm() / truth.norm())


@pytest.mark.parametrize(("name", "options"), EXACT, ids=str)
def test_by_construction(name, options):
    rule = apical.rules.make(name, **options)
    assert rule.equals_backprop == "by construction"
    assert distance(rule) < 1e-12


@pytest.mark.parametrize(("name", "options"), LIMITS, ids=str)
def test_in_a_limit(name, options):
    rule = apical.rules.make(name, **options)
    assert rule.equals_backprop not in (None, "by construction")
    assert distance(rule) < 2e-3


@pytest.mark.parametrize(("name", "options"), NEVER, ids=str)
def test_nowhere(name, options):
    rule = apical.rules.make(name, **options)
    if name != "kolen_pollack":  # which becomes it
        assert rule.equals_backprop is None
    assert distance(rule) > 0.02


def test_a_pathway_of_ones_own_promises_nothing():
    class Own(apical.feedback.Tied):
        def weight(self, layer):
            return 2 * super().weight(layer)

    assert apical.PredictiveCoding(feedback=Own()).equals_backprop is None


def test_the_documentation_has_the_same_table():
    text = (Path(__file__).parents[2] / "docs" / "rules.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", text, flags=re.MULTILINE))
    assert rows == {name: apical.rules.make(name).equals_backprop or "no" for name in NAMES}
