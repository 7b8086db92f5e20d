"""Experiments in miniature: facts that hold at any size, the file of runs, and verdicts."""

import json
import math

import pytest
import torch

from apical.errors import ConfigError, DataError
from apical.hippocampus import claims, experiments
from apical.hippocampus.learner import AREAS, Learner, Setup, Severed
from apical.rules import CountercurrentInhibition

SMALL = Setup(grid=30, cue=30, bins=12, dentate=40, ca3=20, ca1=30, share=0.2, epochs=3, batch=24)


def test_a_visit_lowers_the_mismatch_and_a_copy_goes_its_own_way():
    _, x = experiments.room(SMALL, 0)
    learner = Learner(SMALL, 0).calibrate(x)
    before = learner.mismatch(x)
    after = learner.learn(x).mismatch(x)
    assert after < 0.8 * before
    twin = learner.copy()
    twin.learn(x, 1)
    assert learner.mismatch(x) == after
    assert twin.mismatch(x) != after


def test_parts_of_a_visit_are_as_many_steps_as_the_whole():
    _, x = experiments.room(SMALL, 0)
    learner = Learner(SMALL, 0)
    learner.learn(x, 0.5)
    assert learner.optimizer.state[learner.loop.deep[0].weight]["step"] == 3  # of 6 steps an epoch
    learner.learn(x, 2)
    assert learner.optimizer.state[learner.loop.deep[0].weight]["step"] == 15


@pytest.mark.parametrize("cut", AREAS[1:])
def test_without_feedback_of_an_area_nothing_upstream_learns(cut):
    _, x = experiments.room(SMALL, 0)
    learner = Learner(SMALL, 0, CountercurrentInhibition(feedback=Severed(area=cut)))
    start = experiments.weights(learner.loop)
    learner.learn(x, 1)
    moved = {area: experiments.moved(start[area], each) for area, each in experiments.weights(learner.loop).items()}
    upstream = AREAS[: AREAS.index(cut)]
    assert all((moved[area] == 0) == (area in upstream) for area in AREAS)


def test_cues_lose_their_share_at_random():
    x = torch.ones(200, 50)
    cue = experiments.lose(x, 0.25, seed=1)
    assert (cue == 0).double().mean() == pytest.approx(0.25, abs=0.02)
    assert len(cue.unique(dim=0)) == 200


def test_the_first_moment_below_a_level():
    assert experiments.first_below(0.5, [0, 1, 2], [0.9, 0.5, 0.1]) == 1
    assert experiments.first_below(0.05, [0, 1, 2], [0.9, 0.5, 0.1]) == math.inf


@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_an_experiment_measures_all_that_its_claims_are_about(name):
    found = experiments.EXPERIMENTS[name](SMALL, 1)
    json.dumps(found)
    for claim in claims.CLAIMS:
        if claim.experiment == name:
            verdict, pairs = claim.judge([found])
            assert verdict in ("holds", "does not hold")
            assert len(pairs) == 1


def test_runs_are_kept_line_by_line_and_resumed(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setitem(claims.EXPERIMENTS, "cells", lambda setup, seed: calls.append(seed) or {"single": seed / 10})
    path = tmp_path / "runs.jsonl"
    runs = claims.run(["cells"], [3, 4], path, SMALL)
    assert [each["found"]["single"] for each in runs] == [0.3, 0.4]
    with path.open("a") as file:
        file.write('{"experiment": "ce')  # a run that was stopped while writing
    assert claims.run(["cells"], [4], path, SMALL)[0]["seed"] == 4
    assert calls == [3, 4]
    claims.run(["cells"], [4], path, Setup())  # another setup is another run
    assert calls == [3, 4, 4]
    with pytest.raises(ConfigError, match="sells"):
        claims.run(["sells"], [0], path)
    path.write_text("nonsense\n{}\n")
    with pytest.raises(DataError, match="line 1"):
        claims.read(path)


def test_a_claim_holds_if_it_does_on_every_seed():
    claim = claims.Claim("a is twice b", "cells", "a", "b", 2)
    assert claim.judge([]) == ("not measured", [])
    assert claim.judge([{"a": 3, "b": 1}, {"a": 9, "b": 4}])[0] == "holds"
    assert claim.judge([{"a": 3, "b": 1}, {"a": 8, "b": 4}])[0] == "does not hold"
    assert claim.judge([{"a": math.nan, "b": 1}])[0] == "does not hold"
    assert claims.Claim("", "cells", "a", 2.5).judge([{"a": 3}])[0] == "holds"
