"""`apical rules` and `apical data`: what there is."""

import pytest

from apical import rules


def test_rules_lists_every_rule_with_its_line_its_paper_and_its_needs(apical):
    shown = apical("rules").stdout
    words = " ".join(shown.split())
    for name in rules.names():
        rule = rules.get(name)
        assert name in shown
        for part in (rule.summary, rule.paper, rule.needs):
            # The columns are mixed in the words of a line, and a sentence is broken over lines.
            assert all(word in words for word in part.split())
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("name", rules.names())
def test_a_rule_is_explained_with_its_options(apical, name):
    shown = apical("rules", name).stdout
    rule = rules.get(name)
    assert rule.title in shown
    assert rule.paper in shown
    rows = [line.split() for line in shown.splitlines()]
    assert all(any(row[:1] == [option] for row in rows) for option in rule.option_names())


def test_equations_keep_their_lines(apical):
    equation = "    delta_l = (B_(l+1) delta_(l+1)) * phi'(a_l),   B of the shape of W^T, fixed"
    assert equation in apical("rules", "feedback_alignment").stdout.splitlines()


def test_a_rule_that_learns_from_a_reward_says_from_which_loss(apical, answer):
    assert "loss:  reward_prediction, of a scalar reward" in apical("rules", "brainprop").stdout
    assert "loss:" not in apical("rules", "backprop").stdout
    assert [answer("rules", name)["learns_from"] for name in ("agrel", "backprop")] == ["agrel", "error"]


def test_rules_as_json(answer):
    listed = answer("rules")
    assert [each["name"] for each in listed] == rules.names()
    symmetry = answer("rules", "sign_symmetry")
    assert symmetry in listed
    assert symmetry["options"]["magnitude"] == "uniform"


def test_data_says_what_is_here_and_what_can_be_fetched(apical, answer, monkeypatch, tmp_path):
    monkeypatch.setenv("APICAL_DATA", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shown = apical("data").stdout
    lines = {line.split()[0]: line for line in shown.splitlines() if line and not line.startswith(" ")}
    assert "here," in lines["digits"]
    assert "MB to fetch" in lines["mnist"]
    listed = {each["name"]: each for each in answer("data")}
    assert listed["mnist"]["found"] is None
    assert listed["mnist"]["fetch_bytes"] > 1_000_000


def test_data_fetch_says_where_the_files_are(apical):
    assert apical("data", "fetch", "npz:clouds.npz").stdout == "npz:clouds.npz  clouds.npz\n"
    assert "sklearn" in apical("data", "fetch", "digits").stdout
