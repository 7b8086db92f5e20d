"""The page as text: whole, safe, and honest about what is missing."""

import copy
import json
import math
import re
from html.parser import HTMLParser

import plotly.graph_objects as go
import pytest

from apical.errors import DataError
from apical.report import render, write
from apical.report.curve import curve
from apical.report.document import read

HOSTILE = "</script><script>alert('x')</script> & \"<b>bold</b>\" {{ 7 * 7 }} %{y}"


class Page(HTMLParser):
    """Elements, text, and the embedded specifications of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.scripts = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data
        else:
            self.text += data

    @property
    def specs(self):
        return json.loads(self.scripts[0])

    def count(self, tag):
        return sum(name == tag for name, _ in self.tags)


def test_the_page_refers_to_nothing_outside(document):
    page = Page(render(document))
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data"):
            assert not attributes.get(name) or attributes[name].startswith(("#", "data:")), attributes
    assert page.count("script") == 3
    assert sum("plotly.js v" in script for script in page.scripts) == 1


def test_several_comparisons_are_sections_of_one_page(document, single):
    page = render([document, single])
    assert page.count("plotly.js v") == 1
    parsed = Page(page)
    assert [a["id"] for tag, a in parsed.tags if tag == "section"] == ["section-1", "section-2"]
    assert "Two comparisons" in parsed.text
    assert set(parsed.specs) == {
        *(f"section-1-{name}" for name in ("learning", "accuracy", "angles", "cost")),
        *(f"section-2-{name}" for name in ("learning", "angles")),
    }
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_a_rule_looks_the_same_in_every_figure_and_section(document, single):
    specs = Page(render([document, single])).specs

    def look(figure, index):
        marker = next(t["marker"] for t in specs[figure]["data"] if t["meta"] == index and "marker" in t)
        return marker["color"], marker["symbol"]

    for index in range(6):
        assert len({look(f"section-1-{name}", index) for name in ("learning", "accuracy", "angles", "cost")}) == 1
    assert look("section-2-learning", 0) == look("section-1-learning", 1)
    assert len({look("section-1-learning", index) for index in range(7)}) == 7


@pytest.mark.parametrize("kind", ["document", "failing", "single"])
def test_every_figure_is_valid_plotly(request, kind):
    for spec in Page(render(request.getfixturevalue(kind))).specs.values():
        for layout in (spec["wide"], spec["narrow"]):
            go.Figure({"data": spec["data"], "layout": layout})  # raises on an unknown attribute or value


def test_what_users_wrote_is_shown_and_never_run(document):
    document["title"] = document["command"] = document["task"]["name"] = HOSTILE
    document["config"][HOSTILE] = HOSTILE
    document["environment"]["cpu"] = HOSTILE
    arm = document["arms"][1]
    arm |= {"title": HOSTILE, "summary": HOSTILE, "paper": HOSTILE, "notes": [HOSTILE]}
    arm["runs"][0] |= {"status": "failed", "error": HOSTILE, "folder": HOSTILE, "test_accuracy": None}
    arm["runs"][1]["angles"] = {HOSTILE: 12.0}
    arm["runs"][1]["epochs"][0]["angles"] = {HOSTILE: 12.0}
    page = render(document)
    parsed = Page(page)
    assert parsed.count("script") == 3
    assert parsed.count("b") == render(document | {"title": "x"}).count("<b>")
    assert parsed.text.count(HOSTILE) >= 10
    names = {trace["name"] for trace in parsed.specs["section-1-learning"]["data"] if "name" in trace}
    assert not any("<" in name for name in names)  # Plotly reads some HTML in its texts


def test_failed_runs_are_listed_with_their_errors(failing):
    page = Page(render(failing))
    assert "The loss became NaN at step 212, first seen in layer 3. Try a lower learning rate." in page.text
    assert page.text.count("its process died; memory may have run out") == 3
    assert "Weight mirror, seed 2" in page.text
    assert "1 of 3 failed" in page.text
    assert "3 of 3 failed" in page.text
    assert "Failed runs" in page.text


def test_a_page_without_failures_speaks_of_none(document):
    assert "failed" not in Page(render(document)).text.lower()


def test_what_was_not_measured_is_left_out(document):
    for arm in document["arms"]:
        arm["cost"] = None
        for run in arm["runs"]:
            run["angles"] = None
            for record in run["epochs"]:
                record |= {"angles": None, "validation_loss": None, "validation_accuracy": None}
    document["task"]["validation"] = 0
    page = Page(render(document))
    assert set(page.specs) == {"section-1-learning", "section-1-accuracy"}
    assert "yaxis2" not in page.specs["section-1-learning"]["wide"]
    assert page.text.count("Not measured in these runs.") == 2
    assert "Angle to the gradient at the end" not in page.text


def test_nan_becomes_a_gap_not_broken_json(document):
    run = document["arms"][1]["runs"][0]
    run |= {"test_accuracy": math.nan, "angles": {"1": None, "3": math.nan, "5": 0.0}}
    run["epochs"][3] |= {"train_loss": math.nan, "validation_accuracy": math.inf}
    document["arms"][2]["cost"] |= {"low": math.nan, "high": None}
    specs = Page(render(json.loads(json.dumps(document)))).specs  # json.loads refuses nothing, the browser would
    assert not re.search(r"\b(NaN|Infinity)\b", json.dumps(specs))
    comparison = read(document)
    assert comparison.arms[1].accuracy().n == 2
    assert curve(comparison.arms[1], "train_loss").points[3].n == 2


def test_a_rule_that_stands_twice_is_told_apart_by_its_settings(document):
    first, second = document["arms"][2], json.loads(json.dumps(document["arms"][2]))
    second["settings"]["options"]["magnitude"] = "fixed"
    labels = [arm.label for arm in read(document | {"arms": [document["arms"][0], first, second]}).arms]
    assert labels == ["Backpropagation", "Sign symmetry (magnitude=uniform)", "Sign symmetry (magnitude=fixed)"]


def test_layers_are_called_by_their_paths(document):
    document["arms"] = document["arms"][:2]
    for arm in document["arms"]:
        for run in arm["runs"]:
            run["angles"] = {"0": 1.0, "features.conv1": 2.0, "3.1": 3.0}
    text = Page(render(document)).text
    for title in ("layer 0", "features.conv1", "layer 3.1"):
        assert title in text
    assert "layer features" not in text


def test_configuration_environment_and_command_are_there(document):
    text = Page(render(document)).text
    for words in ("optimizer.momentum", "0.9", "batch_size", "2.13.0+cpu", "AMD EPYC", "CC BY 4.0", "14 March 2026"):
        assert words in text
    assert document["command"] in text
    assert "uses 0.1 times the shared learning rate" in text


def test_write_makes_the_folder_and_returns_the_path(document, tmp_path):
    path = write(document, tmp_path / "new" / "report.html")
    assert path == tmp_path / "new" / "report.html"
    assert path.read_text(encoding="utf-8") == render(document)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "no 'arms'"),
        ({"format": 2, "arms": [{"rule": "backprop"}]}, "format 2; this apical reads format 1"),
        ([], "nothing to report"),
        (["comparison.json"], "no 'arms'"),
    ],
)
def test_what_is_no_comparison_is_refused(wrong, message):
    with pytest.raises(DataError, match=message):
        render(wrong)


def test_what_rules_carry_has_a_panel_a_quantity(document):
    document = copy.deepcopy(document)
    for run in document["arms"][1]["runs"]:
        for record in run["epochs"]:
            record["carried"] = {
                "0": {"event_rate": 0.2, "burst_rate": 0.1 + 0.001 * record["epoch"]},
                "2": {"event_rate": 0.4, "burst_rate": None},
            }
    figure = Page(render([document])).specs["section-1-carried"]
    means = [trace for trace in figure["data"] if trace["mode"] == "lines+markers"]
    assert [trace["meta"] for trace in means] == [1, 1]
    assert means[0]["y"] == pytest.approx([0.3] * len(means[0]["x"]))  # over both layers
    assert means[1]["y"] == pytest.approx([0.1 + 0.001 * epoch for epoch in means[1]["x"]])  # over the one that has it
    titles = [note["text"] for note in figure["wide"]["annotations"]]
    assert "<b>Event rate</b>" in titles
    assert "<b>Burst rate</b>" in titles


def firing(rate):
    """Three neurons of two layers over four moments."""
    raster = [[0, 2], [], [3]]
    layers = {name: {"neurons": 3, "rate": rate, "silent": 0.25, "raster": raster} for name in ("1", "3")}
    synapses = {"0": 1000.0, "2": 500.0}
    return {"samples": 8, "moments": 4, "layers": layers, "events": {"0": 900.0, "2": 300.0}, "products": synapses}


def test_spikes_have_a_raster_and_their_cost(document):
    document = copy.deepcopy(document)
    for seed, run in enumerate(document["arms"][1]["runs"]):
        run["spikes"] = firing(0.1 * (seed + 1))
    page = Page(render([document]))
    figure = page.specs["section-1-raster"]
    (trace,) = figure["data"]
    assert list(zip(trace["x"], trace["y"], strict=True)) == [(0, 0), (2, 0), (3, 2), (0, 5), (2, 5), (3, 7)]
    assert trace["meta"] == 1
    for layout in (figure["wide"], figure["narrow"]):
        go.Figure({"data": figure["data"], "layout": layout})
        assert layout["yaxis"]["ticktext"] == ["layer 1", "layer 3"]
    words = " ".join(page.text.split())
    assert "Firing rates and synaptic events" in words
    assert "0.200 ± 0.1000.200 ± 0.10025 ± 0 %25 ± 0 % 1,200 layer 0: 900, layer 2: 300 80 ± 0 %" in words


def test_layers_that_a_protection_renames_are_shown_in_their_place(document):
    document = copy.deepcopy(document)
    for arm in (0, 1):
        for run in document["arms"][arm]["runs"]:
            run["spikes"] = found = firing(0.1 * (arm + 1))
            if arm:
                found["layers"] = {f"{name}.0": layer for name, layer in found["layers"].items()}
    words = " ".join(Page(render([document])).text.split())
    assert "0.100 ± 0.0000.100 ± 0.000" in words
    assert "0.200 ± 0.0000.200 ± 0.000" in words


def test_networks_without_spikes_have_no_raster(document):
    page = Page(render([document]))
    assert "section-1-raster" not in page.specs
    assert "synaptic events" not in page.text
