"""Every number on the page against NumPy, straight from the document."""

import html
import math
import re

import numpy as np
import pytest

from apical.report.curve import Curve
from apical.report.document import read
from apical.report.figures import angles, cost, final_accuracy, learning_curves
from apical.report.findings import details, headline, points_beside_reference
from apical.report.page import render
from apical.report.styles import assign
from apical.statistics import Spread


def drawn(make, document):
    comparison = read(document)
    return make(comparison, assign((arm.rule, arm.label) for arm in comparison.arms))


def protocol(document):
    """How each kind of number was made, by its heading on the page."""
    entries = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", render(document), re.DOTALL)
    return {term: " ".join(html.unescape(text).split()) for term, text in entries}


def of_arm(figure, index, axis="x"):
    """The traces of one rule in one panel: (band, mean)."""
    traces = [t for t in figure.data if t["meta"] == index and t["xaxis"] == axis]
    return (traces[0], traces[1]) if len(traces) == 2 else (None, traces[0])


def test_mean_and_deviation_are_numpys():
    values = np.random.default_rng(1).normal(0.9, 0.05, 7)
    spread = Spread.of(values.tolist())
    assert spread.mean == pytest.approx(values.mean(), rel=1e-12)
    assert spread.deviation == pytest.approx(values.std(ddof=1), rel=1e-12)
    assert spread.text(1, unit=" %", factor=100) == f"{100 * values.mean():.1f} ± {100 * values.std(ddof=1):.1f} %"


def test_what_is_no_number_enters_no_mean():
    spread = Spread.of([0.5, None, math.nan, math.inf, "0.9", True, 0.7])
    assert spread.values == (0.5, 0.7)
    assert Spread.of([None, math.nan]) is None
    assert Spread.of([0.5]).deviation is None
    assert Spread.of([0.5]).text(2) == "0.50"


def test_curve_counts_the_runs_that_reached_an_epoch():
    curve = Curve.of([(1, 1.0), (2, 2.0), (1, 3.0), (2, math.nan), (3, None)])
    assert curve.epochs == (1, 2)
    assert [point.values for point in curve.points] == [(1.0, 3.0), (2.0,)]


@pytest.mark.parametrize(("axis", "quantity", "factor"), [("x", "train_loss", 1), ("x2", "validation_accuracy", 100)])
def test_learning_curves_show_mean_and_band(document, axis, quantity, factor):
    figure = drawn(learning_curves, document)
    for index, arm in enumerate(document["arms"]):
        values = factor * np.array([[record[quantity] for record in run["epochs"]] for run in arm["runs"]])
        mean, deviation = values.mean(0), values.std(0, ddof=1)
        band, line = of_arm(figure, index, axis)
        np.testing.assert_allclose(line["y"], mean, rtol=1e-12)
        np.testing.assert_allclose(band["y"], [*(mean + deviation), *(mean - deviation)[::-1]], rtol=1e-12)
        assert band["x"] == [*line["x"], *reversed(line["x"])]


def test_a_rule_that_diverges_leaves_the_others_readable(document):
    for run, factor in zip(document["arms"][6]["runs"], (1, 1, 10_000), strict=True):
        for record in run["epochs"]:
            record["train_loss"] *= factor
    figure = drawn(learning_curves, document)
    axis = figure.wide["yaxis"]
    assert axis["type"] == "log"
    low, high = 10 ** np.array(axis["range"])
    losses = np.array(
        [[[record["train_loss"] for record in run["epochs"]] for run in arm["runs"]] for arm in document["arms"]]
    )
    mean, deviation = losses.mean(1), losses.std(1, ddof=1)
    assert low < mean.min()
    assert high > (mean + deviation).max()
    band, _ = of_arm(figure, 6)
    assert (mean[6] < deviation[6]).all()
    assert 0 < min(band["y"]) < low  # what would reach below zero leaves the panel at its lower edge
    assert 4 <= len(axis["tickvals"]) <= 8
    assert all(low <= tick <= high for tick in axis["tickvals"])


def test_a_loss_of_zero_is_drawn_on_a_linear_scale(document):
    for run in document["arms"][0]["runs"]:
        run["epochs"][-1]["train_loss"] = 0.0
    assert "type" not in drawn(learning_curves, document).wide["yaxis"]


def test_angles_are_drawn_where_they_were_measured(document):
    figure = drawn(angles, document)
    _, line = of_arm(figure, 1, "x2")
    runs = document["arms"][1]["runs"]
    measured = [[r["angles"]["3"] for r in run["epochs"] if r["angles"]] for run in runs]
    assert line["x"] == list(range(2, 21, 2))
    np.testing.assert_allclose(line["y"], np.mean(measured, axis=0), rtol=1e-12)


def test_final_accuracies_show_every_seed_and_one_deviation(document):
    figure = drawn(final_accuracy, document)
    for index, arm in enumerate(document["arms"]):
        values = 100 * np.array([run["test_accuracy"] for run in arm["runs"]])
        seeds, mean = (trace for trace in figure.data if trace["meta"] == index)
        np.testing.assert_allclose(seeds["x"], values)
        np.testing.assert_allclose(mean["x"], [values.mean()])
        np.testing.assert_allclose(mean["error_x"]["array"], [values.std(ddof=1)])
        np.testing.assert_allclose(mean["error_x"]["arrayminus"], [values.std(ddof=1)])
    assert "n = 3" in figure.caption
    assert "standard deviation" in figure.caption


def test_cost_shows_ratio_and_quartiles(document):
    figure = drawn(cost, document)
    mirror = next(trace for trace in figure.data if trace["meta"] == 4)
    assert mirror["x"] == [1.31]
    assert mirror["error_x"]["array"] == [pytest.approx(0.02)]
    assert mirror["error_x"]["arrayminus"] == [pytest.approx(0.015)]
    assert all(trace["meta"] != 6 for trace in figure.data)
    assert any(words["text"] == "not measured" for words in figure.wide["annotations"])


def test_failed_runs_enter_no_number(failing):
    comparison = read(failing)
    mirror = failing["arms"][4]["runs"][:2]
    assert comparison.arms[4].accuracy().mean == pytest.approx(np.mean([run["test_accuracy"] for run in mirror]))
    _, line = of_arm(drawn(learning_curves, failing), 4)
    np.testing.assert_allclose(
        line["y"], np.mean([[record["train_loss"] for record in run["epochs"]] for run in mirror], axis=0)
    )
    assert comparison.arms[6].accuracy() is None
    assert any(words["text"] == "failed" for words in drawn(final_accuracy, failing).wide["annotations"])
    assert "4 of 21 runs failed and enter no mean." in details(comparison)
    assert "All are means over the finished runs of three seeds." in details(comparison)
    assert protocol(failing)["Failed runs"]
    assert "(n = 2 to 3)" in drawn(learning_curves, failing).caption
    assert "over n = 2 to 3 seeds" in render(failing)


def test_the_table_holds_the_numbers(document):
    page = render(document)
    for arm in document["arms"]:
        accuracy = 100 * np.array([run["test_accuracy"] for run in arm["runs"]])
        assert f"{accuracy.mean():.1f} ± {accuracy.std(ddof=1):.1f} %" in page
        for layer in ("1", "3", "5"):
            angle = np.array([run["angles"][layer] for run in arm["runs"]])
            assert f"{angle.mean():.1f} ± {angle.std(ddof=1):.1f}°" in page
        if arm["cost"]:
            assert f"{arm['cost']['ratio']:.2f} ×" in page
            assert f"{arm['cost']['low']:.2f} to {arm['cost']['high']:.2f}" in page


def set_accuracies(document, *accuracies):
    """Keep as many arms as there are tuples, each with these test accuracies."""
    document["arms"] = document["arms"][: len(accuracies)]
    for arm, values in zip(document["arms"], accuracies, strict=True):
        arm["runs"] = arm["runs"][: len(values)]
        for run, value in zip(arm["runs"], values, strict=True):
            run["test_accuracy"] = value
    return read(document)


def test_the_headline_follows_the_paired_differences(document):
    comparison = set_accuracies(document, (0.95, 0.97), (0.951, 0.97), (0.93, 0.95))
    assert headline(comparison) == (  # 360 test examples alone leave an error of 1.5 points
        "Backpropagation reaches 96.0\u00a0% test accuracy on digits; Feedback alignment cannot be distinguished from "
        "it to within 3.0 points; Sign symmetry varied too much to say."
    )
    document["task"]["test"] = 100_000
    comparison = set_accuracies(document, (0.95, 0.97), (0.951, 0.97), (0.93, 0.95))
    assert headline(comparison) == (
        "Backpropagation reaches 96.00\u00a0% test accuracy on digits; Feedback alignment cannot be distinguished from "
        "it to within 0.71 points; Sign symmetry lies 2.00 points below it."
    )
    assert points_beside_reference(comparison, comparison.arms[0]) == ("", "")
    assert points_beside_reference(comparison, comparison.arms[2]) == ("−2.00", "−2.19 to −1.81")


def test_the_headline_names_the_ends_of_many_and_sets_apart_what_is_unsound(document):
    document["task"]["test"] = 100_000
    steps = [(level - 0.01, level + 0.01) for level in (0.96, 0.95, 0.94, 0.93, 0.92)]
    comparison = set_accuracies(document, *steps, (0.101, 0.10), (0.99, 0.90))
    assert headline(comparison) == (
        "Backpropagation reaches 96.00\u00a0% test accuracy on digits; 4 lie 1.00 (Feedback alignment) to 4.00 points "
        "(Weight mirror) below it; Direct random target projection varied too much to say; "
        "set apart: Direct feedback alignment (at chance)."
    )


def test_the_headline_of_one_seed_says_what_one_seed_cannot_show(document):
    for arm in document["arms"]:
        arm["runs"] = arm["runs"][:1]
    comparison = set_accuracies(document, (0.95,), (0.90,), (0.93,))
    assert headline(comparison) == (
        "From one seed, backpropagation reaches 95.0\u00a0% test accuracy on digits, two other rules between "
        "90.0\u00a0% (Feedback alignment) and 93.0\u00a0% (Sign symmetry); "
        "one seed cannot show whether a difference would recur."
    )
    assert points_beside_reference(comparison, comparison.arms[1]) == ("", "")


def test_trainings_that_were_the_same_are_named(document):
    document["arms"] = document["arms"][:4]
    backprop, *others = document["arms"]
    for arm, near in zip(others, (0.0, 1e-9, 0.1), strict=True):
        for run, model in zip(arm["runs"], backprop["runs"], strict=True):
            run["epochs"] = [{**record, "train_loss": record["train_loss"] * (1 + near)} for record in model["epochs"]]
    assert details(read(document))[0] == (
        "Feedback alignment gives exactly backpropagation's update. "
        "Sign symmetry gives backpropagation's update up to rounding."
    )
    document["arms"] = document["arms"][1:]
    assert details(read(document))[0] == (
        "The training of Sign symmetry was the same up to rounding as that of Feedback alignment."
    )


def test_headline_without_backprop(document):
    document["arms"] = document["arms"][1:]
    comparison = set_accuracies(document, (0.90, 0.92), (0.94, 0.96))
    assert headline(comparison) == (
        "Of two rules on digits, Sign symmetry reaches the highest test accuracy, 95.0\u00a0%, "
        "and Feedback alignment the lowest, 91.0\u00a0%."
    )


def test_headline_of_one_run_claims_no_spread(single):
    comparison = read(single)
    accuracy = single["arms"][0]["runs"][0]["test_accuracy"]
    assert headline(comparison) == f"Feedback alignment reaches {accuracy:.1%}".replace("%", "\u00a0%") + (
        " test accuracy on digits."
    )
    assert details(comparison)[0].startswith("One seed:")
    assert "±" not in render(single).split("<main>")[1].split('id="specs"')[0].replace("± and bars", "")


def test_headline_when_nothing_finished(document):
    for arm in document["arms"]:
        for run in arm["runs"]:
            run |= {"status": "failed", "error": "no memory", "test_accuracy": None, "epochs": [], "angles": None}
    assert headline(read(document)) == "No run on digits came to an end: there is no accuracy to report."
    assert render(document).count("no memory") == 21


def test_decimals_follow_the_size_of_the_test_set(document):
    assert read(document).accuracy_decimals == 1
    document["task"]["test"] = 10_000
    assert read(document).accuracy_decimals == 2


def test_protocol_says_what_validation_was_for(document):
    assert "neither when to stop nor which weights" in protocol(document)["Validation accuracy"]
    document["config"]["patience"] = 3
    assert "3 epochs without a lower validation loss" in protocol(document)["Validation accuracy"]
    document["task"]["validation"] = 0
    assert "No part" in protocol(document)["Validation accuracy"]


def test_protocol_of_a_stream_is_of_its_tasks(document):
    sizes = [f"{document['task'][part]:,}" for part in ("train", "validation", "test")]
    plain = protocol(document)
    document["task"]["stream"] = {
        "name": "split",
        "scenario": "class",
        "tasks": ["a", "b"],
        "labels": [[0], [1]],
        "boundaries": True,
    }
    streamed = protocol(document)
    for term, size in zip(("Training loss", "Validation accuracy", "Test accuracy"), sizes, strict=True):
        assert size in plain[term]
        assert size not in streamed[term]
        assert "task" in streamed[term]
    assert "measured it once" not in streamed["Test accuracy"]


def test_who_learned_from_a_reward_is_told_from_who_saw_labels(document):
    assert not any("reward" in sentence for sentence in details(read(document)))
    document["arms"][2]["settings"]["loss"] = "reward_prediction"
    comparison = read(document)
    label = comparison.arms[2].label
    said = f"{label} learned from a scalar reward: whether the one class that was tried was right."
    assert f"{said} The other rules saw the labels." in details(comparison)
    numbers = protocol(document)
    assert f"of {label}: half the squared error of the reward" in numbers["Training loss"]
    assert "its own loss's gradient" in numbers["Angle to the gradient"]
