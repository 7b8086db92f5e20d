"""Claims and verdicts: what follows from a measurement, worked out by hand."""

import dataclasses
import math

import pytest

from apical import papers
from apical.papers import (
    Ahead,
    AtLeast,
    Behind,
    Both,
    Claim,
    Control,
    Counted,
    ErrorRate,
    Measurement,
    Paper,
    Protocol,
    Slower,
    Sooner,
    Within,
)

PAPER = Paper("p", "On Claims", "Somebody", 2020, "https://example.org")
PROTOCOL = Protocol("p-table", PAPER, "table 1", "as they say", (), ("task=digits",), epochs=100, seeds=1)


def measured(*accuracies, epochs=100, test_examples=10_000):
    return Measurement(accuracies, tuple(range(len(accuracies))), epochs, test_examples, "2026-01-01", "apical ...")


def claim(says, **more):
    return Claim("p-table-x", PROTOCOL, "x", "backprop", says, **more)


def test_mean_and_deviation_are_those_over_seeds():
    three = measured(0.97, 0.98, 0.99)
    assert math.isclose(three.mean, 0.98)
    assert math.isclose(three.deviation, 0.01)
    assert measured(0.97).deviation == 0


@pytest.mark.parametrize(
    ("accuracies", "outcome"),
    [
        # The chance in 10,000 test examples at 1.7 % is 0.13 points; with no spread over seeds, 0.26 are allowed.
        ((0.983, 0.983, 0.983), "reproduced"),
        ((0.9805, 0.9805, 0.9805), "reproduced"),
        ((0.9803, 0.9803, 0.9803), "not reproduced"),
        ((0.9857, 0.9857, 0.9857), "not reproduced"),
        # Of a spread of 0.3 points over seeds a tenth of the figure counts, which makes that 0.43: a wide spread does
        # not make a claim true. Within the 0.65 of the whole spread nothing is decided.
        ((0.976, 0.979, 0.982), "reproduced"),
        ((0.974, 0.977, 0.98), "inconclusive"),
        ((0.973, 0.976, 0.979), "not reproduced"),
    ],
)
def test_an_error_is_reproduced_within_what_one_run_can_be_expected_to_show(accuracies, outcome):
    assert claim(ErrorRate(1.70)).verdict(measured(*accuracies)).outcome == outcome


def test_fewer_test_examples_allow_more():
    assert claim(ErrorRate(1.70)).verdict(measured(0.98, 0.98, 0.98)).outcome == "not reproduced"
    few = measured(0.98, 0.98, 0.98, test_examples=1000)
    assert claim(ErrorRate(1.70)).verdict(few).outcome == "reproduced"


def test_the_reason_says_by_how_much_and_which_way():
    verdict = claim(ErrorRate(1.70)).verdict(measured(0.98, 0.98, 0.98))
    assert verdict.why == "0.30 points above the paper's error; 0.26 are within the spread"
    assert "0.45 points below" in claim(ErrorRate(1.70)).verdict(measured(0.9875, 0.9875, 0.9875)).why


@pytest.mark.parametrize(("accuracy", "level"), [(0.9701, "met"), (0.9699, "missed")])
def test_a_level_of_our_own_is_a_control_that_is_met_or_missed(accuracy, level):
    verdict = claim(AtLeast(97.0)).verdict(measured(accuracy, accuracy, accuracy))
    assert (verdict.outcome, verdict.level) == ("control", level)


NEAR = claim(Within(0.3, reference="p-table-bp", whose="backprop"))


@pytest.mark.parametrize(
    ("accuracy", "outcome"),
    [(0.9771, "reproduced"), (0.9829, "reproduced"), (0.9769, "not reproduced"), (0.9831, "not reproduced")],
)
def test_nearness_is_to_the_other_claim(accuracy, outcome):
    assert NEAR.verdict(measured(accuracy, accuracy, accuracy), measured(0.98, 0.98, 0.98)).outcome == outcome
    verdict = NEAR.verdict(measured(accuracy, accuracy), None)
    assert (verdict.outcome, verdict.why) == ("inconclusive", "backprop is not measured yet")


@pytest.mark.parametrize(
    ("own", "other", "why"),
    [
        # Differences -0.2, 0, 0.2: the mean is 0, and its 95 % interval 0.5 points wide on either side.
        ((0.978, 0.98, 0.982), (0.98, 0.98, 0.98), "95 %: -0.50 to +0.50"),
        ((0.97, 0.98, 0.99), (0.98, 0.98, 0.98), "the spread of the difference, 1.00, is as wide"),
        ((0.11, 0.11, 0.11), (0.11, 0.11, 0.11), "not both are above 20 %"),
        ((0.98,), (0.98,), "one seed"),
        ((0.98, 0.98), (0.98, 0.98, 0.98), "backprop is measured with seeds 0, 1, 2, not 0, 1"),
    ],
)
def test_nearness_within_noise_or_at_chance_or_beside_another_measurement_proves_nothing(own, other, why):
    verdict = NEAR.verdict(measured(*own), measured(*other))
    assert verdict.outcome == "inconclusive"
    assert why in verdict.why


@pytest.mark.parametrize("changed", [{"epochs": 40}, {"test_examples": 1000}, {"recipe": ("task=digits",)}])
def test_a_reference_that_was_measured_in_another_way_decides_nothing(changed):
    own = dataclasses.replace(measured(0.98, 0.98), recipe=claim(Control()).recipe)
    same = dataclasses.replace(own, recipe=(*own.recipe, "optimizer.lr=0.1"))
    assert NEAR.verdict(own, same).outcome == "reproduced"
    if "recipe" in changed:
        changed = {"recipe": ("task=mnist",)}
    verdict = NEAR.verdict(own, dataclasses.replace(same, **changed))
    assert verdict.outcome == "inconclusive"
    assert "backprop is measured with" in verdict.why


@pytest.mark.parametrize(
    ("accuracy", "outcome"), [(0.10, "reproduced"), (0.36, "not reproduced"), (0.35, "inconclusive")]
)
def test_what_fails_is_far_behind_the_other_claim(accuracy, outcome):
    own = measured(accuracy - 0.01, accuracy + 0.01) if accuracy == 0.35 else measured(accuracy, accuracy)
    verdict = claim(Behind(20.0, "p-table-good", "the good way")).verdict(own, measured(0.55, 0.55))
    assert verdict.outcome == outcome
    assert f"{100 * (0.55 - accuracy):.2f} points below the good way" in verdict.why


@pytest.mark.parametrize(
    ("accuracies", "outcome", "why"),
    [
        # Differences 2, 3, 1: mean 2, standard error 0.577, Student's interval of three values +-4.303 of those.
        ((0.62, 0.53, 0.71), "inconclusive", "+2.00 points beside adam, seed by seed (95 %: -0.48 to +4.48)"),
        ((0.62, 0.525, 0.715), "reproduced", "+2.00 points beside adam, seed by seed (95 %: +0.76 to +3.24)"),
        ((0.63, 0.49, 0.71), "inconclusive", "+1.00 points beside adam"),
        ((0.55, 0.45, 0.65), "not reproduced", "-5.00 points beside adam"),
        ((0.60, 0.50, 0.70), "not reproduced", "+0.00 points beside adam"),
        ((0.9, 0.9), "inconclusive", "adam is measured with seeds 0, 1, 2, not 0, 1"),
    ],
)
def test_ahead_is_judged_seed_by_seed(accuracies, outcome, why):
    verdict = claim(Ahead("p-table-adam", "adam")).verdict(measured(*accuracies), measured(0.60, 0.50, 0.70))
    assert verdict.outcome == outcome
    assert why in verdict.why


def course(*courses):
    return dataclasses.replace(measured(*(one[-1] for one in courses)), courses=courses)


SLOWER = Slower(97.0, 1.0, 3.5, "p-table-bp", "backprop")


@pytest.mark.parametrize(
    ("courses", "outcome", "why"),
    [
        # The other claim takes 2 epochs to 97 % with both seeds.
        (((0.9, 0.96, 0.97, 0.98), (0.9, 0.96, 0.98, 0.99)), "reproduced", "3 epochs, 1.5 times the 2 of backprop"),
        (((0.9, 0.97), (0.9, 0.97)), "reproduced", "2 epochs, 1 times the 2 of backprop"),
        (((0.9, 0.97), (0.9, 0.9, 0.9, 0.97)), "inconclusive", "3 epochs, 1.5 times the 2 of backprop"),
        (((0.98, 0.97), (0.98, 0.97)), "not reproduced", "1 epochs, 0.5 times"),
        (((0.9, 0.96, 0.97), (0.9, 0.96, 0.96)), "not reproduced", "it does not get there with every seed"),
    ],
)
def test_slower_counts_epochs_until_a_level_is_first_reached(courses, outcome, why):
    reference = course((0.9, 0.971, 0.96), (0.96, 0.97, 0.98))
    verdict = claim(SLOWER).verdict(course(*courses), reference)
    assert verdict.outcome == outcome
    assert why in verdict.why


@pytest.mark.parametrize(
    ("accuracy", "epochs", "outcome"),
    [(0.97, 3, "reproduced"), (0.97, 9, "not reproduced"), (0.93, 3, "not reproduced"), (0.93, 9, "not reproduced")],
)
def test_a_claim_of_two_halves_takes_both(accuracy, epochs, outcome):
    """As accurate as backpropagation, after 1 to 3.5 times the epochs: slower alone was once enough."""
    both = claim(Both(Within(1.0, "p-table-bp", "backprop"), SLOWER))
    own = dataclasses.replace(measured(accuracy, accuracy), courses=((0.9,) * (epochs - 1) + (0.97,),) * 2)
    verdict = both.verdict(own, course((0.9, 0.97), (0.9, 0.97)))
    assert verdict.outcome == outcome
    assert "points" in verdict.why
    assert f"{epochs} epochs, {epochs / 2:g} times the 2 of backprop" in verdict.why
    assert both.says.compared_with == "p-table-bp"


def test_one_half_that_is_not_decided_leaves_both_undecided():
    both = claim(Both(Within(1.0, "p-table-bp", "backprop"), SLOWER))
    own = dataclasses.replace(measured(0.966, 0.974), courses=((0.9, 0.97),) * 2)
    assert both.verdict(own, course((0.9, 0.97), (0.9, 0.97))).outcome == "inconclusive"


@pytest.mark.parametrize(
    ("courses", "outcome", "why"),
    [
        # The other claim stays below 10 % from epoch 2 on and below 4 % from 4 on.
        (((0.91, 0.93, 0.97, 0.97),) * 2, "reproduced", "10 % 1 against 2, 4 % 3 against 4"),
        (((0.91, 0.97, 0.9, 0.97),) * 2, "not reproduced", "10 % 4 against 2, 4 % 4 against 4"),
        (((0.85, 0.93, 0.97, 0.97),) * 2, "not reproduced", "10 % 2 against 2"),
        (((0.91, 0.93, 0.97, 0.95),) * 2, "not reproduced", "4 % never against 4"),
        # 1 and 2 against 2 and 2 are within the noise of two seeds.
        (((0.91, 0.93, 0.97, 0.97), (0.8, 0.93, 0.97, 0.97)), "inconclusive", "10 % 1.5 against 2, 4 % 3 against 4"),
    ],
)
def test_sooner_counts_epochs_from_which_an_error_stays_below_a_level(courses, outcome, why):
    reference = course(*((0.88, 0.93, 0.95, 0.97),) * 2)
    verdict = claim(Sooner((10.0, 4.0), "p-table-bp", "backprop")).verdict(course(*courses), reference)
    assert verdict.outcome == outcome
    assert why in verdict.why


def test_a_level_that_neither_stays_below_counts_for_nothing():
    says = claim(Sooner((10.0, 4.0), "p-table-bp", "backprop"))
    for own, other, outcome in (
        ((0.95, 0.95), (0.85, 0.95), "reproduced"),
        ((0.85, 0.85), (0.85, 0.85), "not reproduced"),
        ((0.95, 0.95), (0.85, 0.85), "reproduced"),
    ):
        assert says.verdict(course(own, own), course(other, other)).outcome == outcome


def test_no_course_reaches_no_level():
    assert measured(0.98).epochs_to(0.9) == measured(0.98).epochs_below(0.1) == ()
    assert claim(SLOWER).verdict(measured(0.98, 0.98), course((0.98,), (0.98,))).outcome == "not reproduced"


def test_a_control_is_no_claim():
    whole = dataclasses.replace(claim(Control()), protocol=dataclasses.replace(PROTOCOL, seeds=3))
    assert whole.verdict(measured(0.1)).outcome == "control"
    assert whole.verdict(None).outcome == "not measured"


@pytest.mark.parametrize(("counted", "outcome"), [(0.5, "reproduced"), (0.503, "reproduced"), (0.99, "not reproduced")])
def test_operations_are_counted_and_take_no_measurement(counted, outcome):
    verdict = claim(Counted(0.5, counted, "backprop")).verdict(None)
    assert verdict.outcome == outcome
    assert f"{counted:.3f}" in verdict.why


def test_a_verdict_has_the_accuracy_of_every_cut_of_the_test_set():
    cut = dataclasses.replace(
        measured(0.9, 0.8), cuts={"pure": (0.9, 0.8), "mixed": (0.1, 0.1)}, task_epochs=(1.0, 2.0)
    )
    assert "pure 85.0 ± 7.1 %, mixed 10.0 ± 0.0 %; 1.5 epochs a class" in claim(AtLeast(50.0)).verdict(cut).why
    alike = dataclasses.replace(cut, cuts=dict.fromkeys(cut.cuts, (0.9, 0.8)))
    assert "7.1 %" not in claim(AtLeast(50.0)).verdict(alike).why


def test_what_was_not_measured_has_a_verdict_too():
    assert claim(AtLeast(97.0)).verdict(None).outcome == "not measured"
    far = claim(AtLeast(97.0), out_of_reach="1.2 million pictures").verdict(None)
    assert (far.outcome, far.why) == ("out of reach", "1.2 million pictures")


FIGURE = claim(ErrorRate(3.0))


@pytest.mark.parametrize(("accuracy", "outcome"), [(0.97, "reproduced"), (0.9, "not reproduced")])
def test_a_scaled_down_measurement_is_inconclusive(accuracy, outcome):
    whole = dataclasses.replace(FIGURE, protocol=dataclasses.replace(PROTOCOL, seeds=3))
    verdict = whole.verdict(measured(accuracy, accuracy, epochs=2))
    assert verdict.outcome == "inconclusive"
    assert verdict.why.endswith("scaled down to 2 of 100 epochs, 2 of 3 seeds")
    verdict = whole.verdict(measured(accuracy, accuracy, accuracy))
    assert verdict.outcome == outcome
    assert "scaled down" not in verdict.why


@pytest.mark.parametrize(
    ("theirs", "why"),
    [
        ({"their_epochs": 500}, "100 of 500 epochs"),
        ({"their_seeds": 5}, "3 of 5 seeds"),
        ({"smaller": ("a tenth of the examples",)}, "a tenth of the examples"),
        ({"their_epochs": 50, "their_seeds": 1}, ""),
    ],
)
@pytest.mark.parametrize("accuracy", [0.97, 0.9])
def test_a_protocol_that_is_smaller_than_the_papers_is_inconclusive_whatever_came_out(theirs, why, accuracy):
    """A measurement with all epochs of our own protocol once counted as whole, for the claim or against it."""
    verdict = dataclasses.replace(FIGURE, protocol=dataclasses.replace(PROTOCOL, **theirs)).verdict(
        measured(accuracy, accuracy, accuracy)
    )
    assert (verdict.outcome == "inconclusive") == bool(why)
    assert verdict.why.endswith(f"scaled down to {why}" if why else "are within the spread")


@pytest.mark.parametrize("accuracy", [0.97, 0.9])
def test_one_seed_decides_nothing(accuracy):
    verdict = FIGURE.verdict(measured(accuracy))
    assert verdict.outcome == "inconclusive"
    assert "one seed decides nothing" in verdict.why


def test_the_levels_of_our_own_have_no_verdict():
    ours = dataclasses.replace(PROTOCOL, paper=dataclasses.replace(PAPER, own=True))
    near = dataclasses.replace(NEAR, protocol=ours)
    verdict = near.verdict(measured(0.98, 0.98), measured(0.98, 0.98))
    assert near.control
    assert (verdict.outcome, verdict.level) == ("control", "met")
    assert not NEAR.control
    asked = dataclasses.replace(NEAR, own=True)  # of the paper's protocol, but a question of ours
    assert asked.verdict(measured(0.98, 0.98), measured(0.98, 0.98)).outcome == "control"
    assert NEAR.verdict(measured(0.98, 0.98), measured(0.98, 0.98)).level == ""


def test_a_measurement_of_an_older_recipe_is_none():
    old = dataclasses.replace(measured(0.97, 0.97, 0.97), recipe=("rule=backprop", "task=mnist"))
    new = dataclasses.replace(old, recipe=FIGURE.recipe)
    verdict = FIGURE.verdict(old)
    assert verdict.outcome == "not measured"
    assert "its settings have changed since it was measured (2026-01-01)" in verdict.why
    assert FIGURE.verdict(new).outcome == "reproduced"


def test_a_remark_is_part_of_the_verdict():
    assert claim(AtLeast(97.0), remark="We think so.").verdict(measured(0.9)).why.endswith(". We think so.")


@pytest.mark.parametrize(
    ("kept", "today", "code", "flag"),
    [
        ("a1", "a1", "today's", ""),
        ("a1", "b2", "other", "stale: measured by other code"),
        ("", "a1", "not known", "not known whether today's code gives the same"),
    ],
)
def test_a_figure_remembers_the_code_that_made_it(kept, today, code, flag):
    verdict = FIGURE.verdict(dataclasses.replace(measured(0.97, 0.97), trace=kept), trace=today)
    assert (verdict.outcome, verdict.code, verdict.flag) == ("reproduced", code, flag)
    known = dataclasses.replace(measured(0.97, 0.97), trace=kept, stale="other draws")
    assert FIGURE.verdict(known, trace=kept).code == "other"


def test_the_summary_counts_figures_claims_controls_and_stale_measurements():
    claims = [
        dataclasses.replace(claim(says), name=f"c{number}")
        for number, says in enumerate((ErrorRate(3.0), ErrorRate(9.0), Ahead("c0", "it"), Control(), AtLeast(90.0)))
    ]
    found = {each.name: each.verdict(measured(0.97, 0.97), measured(0.97, 0.97)) for each in claims}
    found["c0"] = claims[0].verdict(dataclasses.replace(measured(0.97, 0.97), stale="other draws"))
    assert papers.summary(claims, found) == (
        "Of 2 published error figures, 1 are reproduced (1 stale), 1 not reproduced. "
        "Of 1 other claims, 0 are reproduced, 1 not reproduced. 2 controls have no verdict. "
        "1 of 5 measurements are stale, measured by other code. "
        "4 of 5 measurements are measured by code that is not known."
    )


def test_adaptation_is_claimed_for_few_examples_and_backprop_alone():
    claims = [each for each in papers.CLAIMS if each.protocol.tuned and not each.control]
    assert [each.name for each in claims] == ["adaptation-few-bp-over-momentum", "adaptation-few-bp-over-adam"]


def test_names_are_unique_and_references_exist():
    names = [each.name for each in papers.CLAIMS]
    assert len(set(names)) == len(names)
    assert {each.says.compared_with for each in papers.CLAIMS} <= {*names, None}
    protocols = {each.protocol.name: each.protocol for each in papers.CLAIMS}
    assert not {each.protocol.paper.key for each in papers.CLAIMS} & {*names, *protocols}
    assert not set(protocols) & set(names)
    assert all(each.protocol == protocols[each.protocol.name] for each in papers.CLAIMS)


def test_select_takes_a_claim_or_all_of_a_protocol_or_paper():
    assert {each.protocol.name for each in papers.select("naca")} > {"naca-mnist", "naca-cifar10", "naca-iid"}
    assert [each.name for each in papers.select("biotorch-mnist-fa")] == ["biotorch-mnist-fa"]
    assert [each.row for each in papers.select("biotorch-mnist")] == ["BP", "FA", "DFA", "uSF", "brSF", "frSF"]


@pytest.mark.parametrize("protocol", ["biotorch-mnist", "biotorch-fashion-mnist"])
def test_the_table_of_biotorch_keeps_its_order_of_rules(protocol):
    """In the paper backprop leads, sign symmetry follows closely, and both feedback alignments are far behind."""
    error = {each.row: each.says.percent for each in papers.select(protocol)}
    assert error["BP"] <= min(error["uSF"], error["brSF"], error["frSF"])
    assert max(error["uSF"], error["brSF"], error["frSF"]) < min(error["FA"], error["DFA"]) < 1.5 * error["FA"]


def test_a_measurement_of_other_draws_is_called_stale():
    own = claim(AtLeast(0.5))
    stale = dataclasses.replace(measured(0.9, 0.9, 0.9), stale="other draws")
    assert "stale: other draws" in own.verdict(stale).why
    assert f"{own.command} --record" in own.verdict(stale).why
    assert "stale" not in own.verdict(measured(0.9, 0.9, 0.9)).why
