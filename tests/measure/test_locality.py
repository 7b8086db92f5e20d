"""The table of locality: what moves each rule's update, with the reason, and rules that must be found out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import apical
from apical import measure
from apical.cli.locality import measured, show
from apical.errors import CircuitError
from apical.layers import BackwardPass, Credit, Layer, NodeState
from apical.measure.locality import IN_TIME, INPUTS, TOLERANCE, Locality, future_moments
from apical.rules import Sweep
from apical.rules.energy.inference import Inference

COLUMNS = ("weights_above", "other_samples", "other_units")
CARRYING = ["tied", "fixed", "sign_symmetric", "kolen_pollack", "weight_mirror"]
# The pathways of each rule's rows, where these are not the five that carry a signal down.
ACCEPTED = {
    "backprop": ["tied"],
    "feedback_alignment": ["fixed"],
    "sign_symmetry": ["sign_symmetric"],
    "kolen_pollack": ["kolen_pollack"],
    "weight_mirror": ["weight_mirror"],
    "direct_feedback_alignment": ["direct"],
    "direct_random_target_projection": ["direct"],
    "naca": ["modulatory"],
    "e_prop": ["direct"],
    "e_prop:feedback=symmetric": ["direct"],
    "e_prop:feedback=adaptive": ["adaptive"],
    "segregated_dendrites": ["direct"],
    "segregated_dendrites:feedback=direct,feedback.symmetric=true": ["direct"],
    "burst_ccn:events=learned": [*CARRYING, "homeostatic"],
    "dendritic_microcircuit:feedback=inverse,cancellation_rate=1.0": ["inverse"],
    "equilibrium_propagation:network=hopfield": CARRYING[:-1],
    **{rule: ["-"] for rule in ("oja", "oja:units=sanger", "oja:units=independent", "soft_hebb", "three_factor")},
}


@dataclass(frozen=True)
class Except:
    """Rows in which an update moves, and why it does."""

    column: str
    why: str
    rules: str = ""
    feedback: str = ""
    neurons: str = ""

    def covers(self, row: Locality) -> bool:
        asked = ((self.rules, row.rule), (self.feedback, row.feedback), (self.neurons, row.neurons))
        return all(re.fullmatch(pattern or ".*", value) for pattern, value in asked)


SETTLES = (
    r"equilibrium_propagation.*|predictive_coding:variant=(strict|error_optimised|incremental).*"
    r"|dendritic_microcircuit:dynamics=steady_state"
)
EXCEPTIONS = [
    Except("weights_above", "signals travel down the forward weights, or their signs", feedback="tied|sign_symmetric"),
    Except("weights_above", "the layers above are evaluated again while the network settles", rules=SETTLES),
    Except(
        "weights_above",
        "Y is the product of the forward weights",
        rules=r".*feedback\.symmetric=true|e_prop:feedback=symmetric",
    ),
    Except("weights_above", "the gains of the norms above multiply a signal", neurons="layer_norm|batch_norm"),
    Except("other_samples", "statistics of the batch", neurons="batch_norm"),
    Except("other_samples", "homeostasis divides by a mean square over the batch", rules="burst_ccn:events=learned"),
    Except("other_samples", "weights move during inference", rules="predictive_coding:variant=incremental"),
    Except("other_samples", "the batch stops as a whole", rules=".*(tolerance=.*|dynamics=steady_state)"),
    Except("other_units", "units share a sum", neurons="softmax|layer_norm"),
    Except("other_units", "units compete for the input", rules="soft_hebb"),
    Except("other_units", "a unit learns from what the others leave", rules="oja(:units=sanger)?"),
    Except("other_units", "Z brings the bursts of the layer's other units", rules="burstprop:recurrent=true"),
    Except("other_units", "the layer stops as a whole", rules=".*tolerance=.*"),
]


@pytest.fixture(scope="module")
def table() -> list[Locality]:
    """The rows of `apical locality`."""
    return measured(None, None, "tanh")


def moved(row: Locality, column: str) -> bool:
    change = getattr(row, column)
    assert change is not None
    # Nothing is near the limit: a change is an effect, or it is rounding.
    assert change < 1e-12 or change > 1e-8, f"{row.rule}, {row.feedback}: {column} {change:.1e}"
    return change > TOLERANCE


def test_each_update_moves_where_an_exception_says_so_and_nowhere_else(table):
    circuits = [row for row in table if row.rule not in IN_TIME]
    found = {
        (row.rule, row.feedback, row.neurons, column): moved(row, column) for row in circuits for column in COLUMNS
    }
    expected = {
        (row.rule, row.feedback, row.neurons, column): any(
            known.column == column and known.covers(row) for known in EXCEPTIONS
        )
        for row in circuits
        for column in COLUMNS
    }
    assert {cell: value for cell, value in found.items() if expected[cell] is not value} == {}
    for known in EXCEPTIONS:
        assert any(known.covers(row) for row in circuits), f"no row for the exception: {known.why}"


def test_every_rule_is_in_the_table_with_every_pathway_that_it_accepts(table):
    pathways: dict[str, list[str]] = {}
    for row in table:
        if row.neurons == "tanh":
            pathways.setdefault(row.rule, []).append(row.feedback)
    assert {rule.partition(":")[0] for rule in pathways} == set(apical.rules.names())
    assert pathways == {rule: ACCEPTED.get(rule, CARRYING) for rule in pathways}


def test_rules_in_time_learn_nothing_from_the_future(table):
    rows = {row.rule: row for row in table if row.future_moments is not None}
    assert set(rows) == set(IN_TIME)
    assert all(row.future_moments == 0 for row in rows.values())
    spikes = torch.rand(40, INPUTS, generator=torch.Generator().manual_seed(1)) < 0.3
    assert all(learned(spikes, 20).any() for learned in IN_TIME.values())
    # The same inputs do matter once they are part of what is learned.
    assert all(
        future_moments(lambda s, _, f=learned: f(s, 40), spikes, ~spikes, 20) > 0 for learned in IN_TIME.values()
    )


def test_the_documented_table_is_the_one_that_the_command_prints(table, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    show(table)
    printed = [line.rstrip() for line in capsys.readouterr().out.strip().splitlines()]
    page = (Path(__file__).parents[2] / "docs" / "locality.md").read_text(encoding="utf-8")
    documented = page.partition("$ apical locality\n```\n")[2].partition("```text\n")[2].partition("\n```")[0]
    assert documented.splitlines() == printed


# Rules that break locality in one way each


class Plain(Sweep):
    """One pass down over fixed weights: nothing moves its update."""

    name = "plain"
    saves_drives = True

    def __init__(self) -> None:
        super().__init__()
        self.take_pathway("fixed")


class ReadsWeightsAbove(Plain):
    def send_down(self, layer: Layer, own: NodeState, post: Tensor) -> Tensor:
        return super().send_down(layer, own, post) * layer.weight.norm()


class MixesSamples(Plain):
    def somatic(self, walk: BackwardPass, layer: Layer, own: NodeState) -> Tensor | None:
        post = super().somatic(walk, layer, own)
        return None if post is None else post - post.mean(0)


class DividesByTheBatch(Plain):
    def visit(self, walk: BackwardPass, layer: Layer, own: NodeState) -> Iterator[Credit]:
        for credit in super().visit(walk, layer, own):
            assert credit.pre is not None
            yield credit._replace(pre=credit.pre / credit.pre.square().mean().sqrt())


class MixesUnits(Plain):
    def somatic(self, walk: BackwardPass, layer: Layer, own: NodeState) -> Tensor | None:
        post = super().somatic(walk, layer, own)
        return None if post is None else post - post.mean(1, keepdim=True)


class HearsOtherDrives(Plain):
    def somatic(self, walk: BackwardPass, layer: Layer, own: NodeState) -> Tensor | None:
        post = super().somatic(walk, layer, own)
        assert own.drive is not None
        return None if post is None else post * own.drive.softmax(1)


class ReadsWeightsOfOthers(Plain):
    def somatic(self, walk: BackwardPass, layer: Layer, own: NodeState) -> Tensor | None:
        post = super().somatic(walk, layer, own)
        return None if post is None else post / layer.weight.norm()


def chain(neurons: Callable[[], nn.Module] = nn.Tanh) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), neurons(), nn.Linear(7, 6), neurons(), nn.Linear(6, 4))


def moving(rule: Any, model: nn.Module | None = None) -> set[str]:
    """The interventions that move the updates of a rule."""
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(2))
    row = measure.locality(rule, chain() if model is None else model, x, torch.arange(4))
    return {column for column in COLUMNS if moved(row, column)}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Plain, set()),
        (ReadsWeightsAbove, {"weights_above"}),
        (MixesSamples, {"other_samples"}),
        (DividesByTheBatch, {"other_samples"}),
        (MixesUnits, {"other_units"}),
        (HearsOtherDrives, {"other_units"}),
        (ReadsWeightsOfOthers, {"weights_above", "other_units"}),
    ],
)
def test_a_rule_that_is_not_local_is_found_out(rule, expected):
    assert moving(rule()) == expected


@pytest.mark.parametrize(("axis", "column"), [(0, "other_samples"), (1, "other_units")])
def test_a_network_that_mixes_while_it_settles_is_found_out(monkeypatch, axis, column):
    """The signals at a layer are kept in every step, and no more than these."""
    assert moving(apical.PredictiveCoding(variant="error_optimised")) == {"weights_above"}
    nearer = Inference.nearer

    def mixing(self: Any, index: int, signal: Tensor, *, in_place: bool) -> Tensor:
        return nearer(self, index, signal - signal.mean(axis, keepdim=True) / 2, in_place=in_place)

    monkeypatch.setattr(Inference, "nearer", mixing)
    assert moving(apical.PredictiveCoding(variant="error_optimised")) == {"weights_above", column}


def test_a_rule_that_learns_from_the_future_is_found_out():
    spikes = torch.rand(40, INPUTS, generator=torch.Generator().manual_seed(1)) < 0.3
    assert future_moments(lambda s, moment: s.double().mean(0) * s[:moment].sum(0), spikes, ~spikes, 20) > TOLERANCE


class KWinners(nn.Module):
    """The three units of largest drive fire."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (x >= x.topk(3, 1).values[:, -1:]).to(x.dtype)


def test_winners_depend_on_the_units_that_lose():
    assert moving(Plain(), chain(KWinners)) == {"other_units"}


def test_a_network_without_hidden_layers_has_nothing_above_and_no_signal_to_keep():
    row = measure.locality(apical.FeedbackAlignment(), nn.Linear(5, 4), torch.randn(3, 5), torch.arange(3))
    assert (row.weights_above, row.other_units) == (None, None)
    assert not moved(row, "other_samples")


def test_model_and_random_state_stay_as_they_were():
    model, x = chain(), torch.randn(4, 5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    measure.locality(apical.BurstCCN(events="learned"), model, x, torch.arange(4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_networks_in_time_are_refused():
    """Neurons whose drives are replaced would forget their moments."""
    model = apical.models.build("mlp:6:lif", input_shape=(INPUTS,), classes=4, seed=0)
    with pytest.raises(CircuitError, match="locality: LIF has a memory"):
        measure.locality("feedback_alignment", model, torch.rand(3, INPUTS), torch.tensor([0, 1, 2]))
