"""The demo comparison, whole, with failures, and cut down to one run; a fresh copy for each test."""

import copy

import pytest
from report_demo import DEMO, only_run, with_failures


@pytest.fixture
def document():
    """Seven rules, three seeds, everything finished."""
    return copy.deepcopy(DEMO)


@pytest.fixture
def failing():
    """Four of the 21 runs failed."""
    return with_failures(copy.deepcopy(DEMO))


@pytest.fixture
def single():
    """One run."""
    return only_run(copy.deepcopy(DEMO))
