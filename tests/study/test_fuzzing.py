"""500 cases of `benchmarks/fuzzing.py`, and that the script notices what must not be."""

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import fuzzing

from apical.errors import DataError

PATIENCE = 60.0  # seconds for a case on a machine that is busy


@pytest.mark.parametrize("seed", [1, 2])
def test_damaged_files_end_in_a_result_or_a_message(seed):
    counts, failures = fuzzing.fuzz(250, seed, PATIENCE)
    assert not failures, "\n\n".join(f"--seed {seed} --only {name}\n{text}" for name, text in failures.items())
    assert all(count["refused"] and sum(count.values()) > count["refused"] for count in counts.values())


def refuses_without_words(shop, chance):
    raise DataError(" ")


def runs_a_payload(shop, chance):
    shop.canary.mkdir()
    raise DataError("refused")


@pytest.mark.parametrize(
    ("case", "says", "seconds"),
    [
        (lambda shop, chance: 1 / 0, "ZeroDivisionError", PATIENCE),
        (lambda shop, chance: time.sleep(PATIENCE), "HangError: no end within 0.2 s", 0.2),
        (refuses_without_words, "without words", PATIENCE),
        (runs_a_payload, "was run", PATIENCE),
    ],
)
def test_a_failure_is_noticed(case, says, seconds, tmp_path, monkeypatch):
    (tmp_path / "sound").mkdir()
    monkeypatch.setitem(fuzzing.KINDS, "idx", case)
    assert says in fuzzing.attempt(fuzzing.Workshop(tmp_path), "idx", 0, 0, seconds)[1]


def test_another_result_needs_a_note(tmp_path, monkeypatch):
    shop = fuzzing.Workshop(tmp_path, {"keep": ("", [], True)})
    for found in (("", [], False), ("its data changed", [], True)):
        monkeypatch.setitem(fuzzing.ACTIONS, "keep", lambda case, found=found: found)
        if found[0]:
            assert fuzzing._use(shop, "keep") == "noted"
        else:
            with pytest.raises(fuzzing.CaseError, match="without a note"):
                fuzzing._use(shop, "keep")
