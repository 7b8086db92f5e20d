"""Any rule with any feedback pathway is, in its limit, the plain sweep with the very same feedback weights."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from circuits import NETWORKS, learn
from torch import Tensor, nn

import apical
from apical import feedback, losses
from apical.errors import ConfigError
from apical.feedback.randomness import Randomness

Named = dict[str, Tensor]

# Of each rule the options of its limit, how far from the sweep it may be there, and the loss that teaches it.
LIMITS: dict[str, tuple[str, dict[str, Any], float]] = {
    "burst_ccn": ("burst_ccn", {"error_scale": 1e-6}, 1e-9),
    "burstprop": ("burstprop", {"error_scale": 1e-6, "slope": 1e-6}, 1e-6),
    "microcircuit": ("dendritic_microcircuit", {"teaching": 1e-7}, 1e-5),
    "microcircuit, tied interneurons": ("dendritic_microcircuit", {"teaching": 1e-7, "interneurons": "tied"}, 1e-5),
    "fixed prediction": ("predictive_coding", {}, 1e-13),
    "zero divergence": ("predictive_coding", {"variant": "zero_divergence"}, 1e-13),
    "error optimised": (
        "predictive_coding",
        {"variant": "error_optimised", "nudging": 1e-6, "steps": 60},
        1e-4,
    ),
    "equilibrium": ("equilibrium_propagation", {"beta": 1e-6}, 1e-8),
    "equilibrium, one nudge": (
        "equilibrium_propagation",
        {"nudging": "positive", "beta": 1e-8, "schedule": "synchronous"},
        1e-5,
    ),
    "brainprop": ("brainprop", {}, 1e-13),
    "agrel": ("agrel", {}, 1e-13),
}
# Of each pathway what makes it, and the sweep that is the same.
PATHWAYS: dict[str, tuple[Callable[[], feedback.Pathway], Callable[[], apical.LearningRule]]] = {
    "tied": (feedback.Tied, apical.Backprop),
    "fixed": (
        lambda: feedback.Fixed(init="xavier", scale=0.7, seed=3),
        lambda: apical.FeedbackAlignment(init="xavier", scale=0.7, seed=3),
    ),
    "sign_symmetric": (
        lambda: feedback.SignSymmetric(init="xavier", scale=0.8),
        lambda: apical.SignSymmetry(init="xavier", scale=0.8),
    ),
    "sign_symmetric, fixed": (
        lambda: feedback.SignSymmetric(magnitude="fixed", seed=2),
        lambda: apical.SignSymmetry(magnitude="fixed", seed=2),
    ),
    "sign_symmetric, batchwise": (
        lambda: feedback.SignSymmetric(magnitude="batchwise", seed=2),
        lambda: apical.SignSymmetry(magnitude="batchwise", seed=2),
    ),
    "kolen_pollack": (
        lambda: feedback.KolenPollack(scale=0.6, seed=4),
        lambda: apical.KolenPollack(scale=0.6, seed=4),
    ),
    "weight_mirror": (
        lambda: feedback.WeightMirror(rate=0.3, samples=8, every=1, seed=5),
        lambda: apical.WeightMirror(rate=0.3, samples=8, every=1, seed=5),
    ),
}
every_rule = pytest.mark.parametrize("rule", LIMITS)
every_pathway = pytest.mark.parametrize("pathway", PATHWAYS)


class Parting(nn.Module):
    """Convolutions, a batch norm, pooling, and rates that part and meet; no two layers of one shape."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.inner = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.side = nn.Conv2d(4, 2, 1)
        self.wide = nn.Linear(24, 7)
        self.slope = nn.PReLU()
        self.readout = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.norm(self.stem(x)))
        x = torch.cat([x + torch.sigmoid(self.inner(x)), self.side(x)], 1)
        x = torch.flatten(F.max_pool2d(x, 2), 1)
        return self.readout(self.slope(self.wide(x)))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "parting": (Parting, (2, 4, 4)),
    "mlp": (NETWORKS["mlp"].make, NETWORKS["mlp"].shape),
}


def build(model: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[model][0]().double()


def batch(model: str, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((6, *MODELS[model][1]), generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 5, (6,), generator=generator)


def loss_of(rule: apical.LearningRule) -> Callable[[Tensor, Tensor], Tensor]:
    name = rule.learns_from
    return F.cross_entropy if name == "error" else partial(losses.LOSSES[name], policy="greedy")


def plain(found: Named) -> Named:
    return {name: part for name, part in found.items() if not name.startswith("rule.")}


def distance(found: Named, truth: Named) -> float:
    """Of all gradients together, as a part of the truth's length."""
    assert found.keys() == truth.keys()
    apart = sum(float((found[name] - truth[name]).square().sum()) for name in truth)
    return math.sqrt(apart / sum(float(part.square().sum()) for part in truth.values()))


def limit(rule: str, pathway: Any) -> tuple[apical.LearningRule, float]:
    name, options, near = LIMITS[rule]
    return apical.rules.make(name, feedback=pathway, **options), near


class ByShape(Randomness):
    """Draws that depend on the shape alone, so that the order in which a rule asks for them does not matter."""

    def odd_bytes(self, like: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(hash(tuple(like.shape)) % 2**31)
        return (2 * torch.randint(0, 128, like.shape, generator=generator) + 1).to(like)


def circuit_of(model: str, rule: apical.LearningRule, **options: Any) -> apical.Circuit:
    circuit = apical.Circuit(build(model), rule, **options)
    if getattr(rule.pathway, "magnitude", "") == "batchwise":
        rule.pathway.randomness = ByShape(0)
    return circuit


def taught(circuit: apical.Circuit, x: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Named:
    """All gradients of one pass, and the input's."""
    x = x.clone().requires_grad_(circuit.wiring.teach_input)
    found = learn(circuit, x, y, loss)
    return found if x.grad is None else {**found, "x": x.grad}


@pytest.mark.parametrize("model", MODELS)
@every_pathway
@every_rule
def test_a_rule_in_its_limit_is_the_sweep_with_the_same_feedback(rule, pathway, model):
    """Over three passes, between which mirrors work, and for the input as for the parameters."""
    make, sweep = PATHWAYS[pathway]
    learned, near = limit(rule, make())
    loss = loss_of(learned)
    circuit, plainer = circuit_of(model, learned, teach_input=True), circuit_of(model, sweep(), teach_input=True)
    for seed in range(3):
        x, y = batch(model, seed)
        found, truth = plain(taught(circuit, x, y, loss)), plain(taught(plainer, x, y, loss))
        assert "x" in truth
        assert distance(found, truth) < near
    own, expected = circuit.rule.pathway.state_dict(), plainer.rule.pathway.state_dict()
    assert own.keys() == expected.keys()
    kept = [name for name in own if name.startswith(("weights.", "sizes."))]
    assert len(kept) == 0 if pathway == "tied" else len(kept) >= 3
    assert all(torch.equal(own[name], expected[name]) for name in kept)


@every_rule
def test_pathways_differ_from_each_other(rule):
    """Otherwise the test above would pass with a pathway that is ignored."""
    found = {}
    for pathway, (make, _) in PATHWAYS.items():
        learned, _ = limit(rule, make())
        found[pathway] = plain(taught(circuit_of("mlp", learned), *batch("mlp"), loss_of(learned)))
    names = list(found)
    assert all(distance(found[a], found[b]) > 0.01 for number, a in enumerate(names) for b in names[:number])


@every_rule
def test_learned_feedback_takes_the_increments_of_the_forward_weights(rule):
    learned, _ = limit(rule, feedback.KolenPollack(seed=4))
    found = taught(circuit_of("parting", learned), *batch("parting"), loss_of(learned))
    for name in ("inner", "side", "wide", "readout"):
        assert torch.equal(found[f"rule.pathway.weights.{name}"], found[f"model.{name}.weight"])
    assert "rule.pathway.weights.stem" not in found, "nothing below it learns"


@every_rule
def test_learned_feedback_that_is_frozen_takes_nothing(rule):
    learned, _ = limit(rule, "kolen_pollack")
    circuit = circuit_of("mlp", learned)
    circuit.rule.pathway.weights.requires_grad_(False)
    found = taught(circuit, *batch("mlp"), loss_of(learned))
    assert not any(name.startswith("rule.pathway") for name in found)
    assert "model.5.weight" in found


class Counted(Randomness):
    """Counts the draws of every shape."""

    def __init__(self) -> None:
        super().__init__(0)
        self.drawn: dict[tuple[int, ...], int] = {}

    def odd_bytes(self, like: Tensor) -> Tensor:
        self.drawn[tuple(like.shape)] = self.drawn.get(tuple(like.shape), 0) + 1
        return super().odd_bytes(like)


@every_rule
def test_batchwise_weights_are_drawn_once_in_a_pass(rule):
    """Every stream, and every step of a network that settles, meets the same weights."""
    learned, _ = limit(rule, feedback.SignSymmetric(magnitude="batchwise"))
    circuit = circuit_of("mlp", learned)
    counted = circuit.rule.pathway.randomness = Counted()
    taught(circuit, *batch("mlp"), loss_of(learned))
    assert counted.drawn == {(8, 10): 1, (5, 8): 1}
    taught(circuit, *batch("mlp"), loss_of(learned))
    assert counted.drawn == {(8, 10): 2, (5, 8): 2}


# How a pathway is given


@every_rule
def test_a_name_a_class_an_object_and_a_mapping_are_one_pathway(rule):
    found = []
    for given in ("fixed", feedback.Fixed, feedback.Fixed(), {"name": "fixed"}):
        learned, _ = limit(rule, given)
        found.append(taught(circuit_of("mlp", learned), *batch("mlp"), loss_of(learned)))
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        assert all(torch.equal(other[name], found[0][name]) for name in other)


@every_rule
def test_an_objects_options_are_its_own(rule):
    for given in (feedback.Fixed(scale=0.3, seed=7), {"name": "fixed", "scale": 0.3, "seed": 7}):
        learned, _ = limit(rule, given)
        circuit = circuit_of("mlp", learned)
        kept = circuit.rule.pathway.weights
        aligned = apical.Circuit(build("mlp"), apical.FeedbackAlignment(scale=0.3, seed=7)).rule.pathway.weights
        assert len(kept) == len(aligned) == 2
        assert all(torch.equal(kept[layer], aligned[layer]) for layer in circuit.layers[1:])


@pytest.mark.parametrize("init", ["match", "xavier", "weights"])
@pytest.mark.parametrize("name", ["burst_ccn", "burstprop", "dendritic_microcircuit", "equilibrium_propagation",
                                  "brainprop", "agrel"])  # fmt: skip
def test_options_of_a_rule_reach_a_pathway_given_by_name(name, init):
    options: dict[str, Any] = {"init": init, "scale": 0.7, "seed": 4}
    circuit = circuit_of("mlp", apical.rules.make(name, feedback="fixed", **options))
    aligned = apical.Circuit(build("mlp"), apical.FeedbackAlignment(**options)).rule.pathway.weights
    kept = circuit.rule.pathway.weights
    assert all(torch.equal(kept[layer], aligned[layer]) for layer in circuit.layers[1:])


@pytest.mark.parametrize("given", ["homeostatic", "direct", feedback.Direct, feedback.Homeostatic])
@pytest.mark.parametrize("rule", [rule for rule in LIMITS if rule != "burst_ccn"])
def test_pathways_without_a_meaning_are_refused_with_the_others(rule, given):
    with pytest.raises(ConfigError, match=r"feedback='(homeostatic|direct)'.*tied") as refused:
        limit(rule, given)
    assert apical.rules.get(LIMITS[rule][0]).__name__ in str(refused.value)


def test_a_pathway_belongs_to_one_rule():
    pathway = feedback.Fixed()
    apical.BurstCCN(feedback=pathway)
    with pytest.raises(ConfigError, match=r"BrainProp: .*Fixed"):
        apical.BrainProp(feedback=pathway)


def test_feedback_weights_depend_on_the_layers_name_and_not_on_its_place():
    def weights(layers: list[tuple[str, nn.Module]]) -> Named:
        circuit = apical.Circuit(nn.Sequential(OrderedDict(layers)), apical.BurstCCN(feedback="fixed", init="xavier"))
        return {layer.name: circuit.rule.pathway.weights[layer] for layer in circuit.layers[1:]}

    first = [("in", nn.Linear(4, 4)), ("one", nn.Linear(4, 4)), ("two", nn.Linear(4, 4))]
    found = weights(first)
    assert not torch.equal(found["one"], found["two"])
    turned = weights([("in", nn.Linear(4, 4)), ("two", nn.Linear(4, 4)), ("three", nn.Linear(4, 4)),
                      ("one", nn.Linear(4, 4))])  # fmt: skip
    assert torch.equal(found["one"], turned["one"])
    assert torch.equal(found["two"], turned["two"])


# Direct feedback


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("density", [1.0, 0.4])
def test_plateaus_that_do_not_saturate_are_direct_feedback_of_the_same_density(density, model):
    truth, found = (
        taught(circuit_of(model, rule), *batch(model), F.cross_entropy)
        for rule in (
            apical.DirectFeedbackAlignment(feedback=feedback.Direct(density=density, scale=0.5, seed=3)),
            apical.SegregatedDendrites(gain=1e-6, feedback=feedback.Direct(density=density, scale=0.5, seed=3)),
        )
    )
    assert distance(found, truth) < 1e-5
