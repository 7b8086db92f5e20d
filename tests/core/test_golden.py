"""Training gives today what it gave when it was recorded: losses and update sizes over 20 steps, to 1e-9."""

import json
import math

import pytest
from golden import CIRCUITS, FILE, TOLERANCE, differences, distance, table, traces

KNOWN = json.loads(FILE.read_text())


@pytest.mark.parametrize("network", CIRCUITS)
def test_golden_traces_are_reproduced(network):
    apart = differences(traces(network), KNOWN[network])
    assert not apart, "see tests/core/golden.py: record a trace again only where it is meant to change"


@pytest.mark.parametrize("network", CIRCUITS)
def test_every_rule_has_traces(network):
    assert KNOWN[network].keys() == {str(row) for row in table()}
    assert sum(trace is not None for trace in KNOWN[network].values()) > 30


def test_a_trace_that_differs_is_noticed():
    known = {"losses": [1.0, 2.0], "updates": {"0": 3.0}}
    assert distance({"losses": [1.0, 2.0], "updates": {"0": 3.0}}, known) == 0
    assert distance({"losses": [1.0, 2.0 + 1e-8], "updates": {"0": 3.0}}, known) > TOLERANCE
    assert distance({"losses": [1.0, 2.0], "updates": {"0": 3.0 - 1e-8}}, known) > TOLERANCE
    assert distance({"losses": [1.0, 2.0], "updates": {"1": 3.0}}, known) == math.inf
    assert distance(None, known) == math.inf
