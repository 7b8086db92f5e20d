"""Claims about the loop, the runs that test them, and what follows: one line of JSON for each run.

A claim compares two numbers of one run, or a number with a level; it holds if it does on every seed. Measures and
claims were written before any seed of 100 or above was drawn.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from apical.errors import ConfigError, DataError
from apical.hippocampus.experiments import EXPERIMENTS, Found
from apical.hippocampus.learner import Setup

Verdict = Literal["holds", "does not hold", "not measured"]


@dataclass(frozen=True)
class Claim:
    """One number exceeds another by a factor, on every seed.

    Attributes:
        says: the claim.
        experiment: that measures it.
        number: the larger one.
        than: the smaller one, or a level.
        factor: by which it is exceeded.
    """

    says: str
    experiment: str
    number: str | float
    than: str | float
    factor: float = 1.0

    def judge(self, found: Sequence[Found]) -> tuple[Verdict, list[tuple[float, float]]]:
        """The verdict, and the two numbers on each seed."""
        pairs = [(self._of(each, self.number), self._of(each, self.than)) for each in found]
        if not pairs:
            return "not measured", pairs
        return ("holds" if self.holding(pairs) == len(pairs) else "does not hold"), pairs

    def holding(self, pairs: Sequence[tuple[float, float]]) -> int:
        """On how many seeds it holds, from the two numbers on each."""
        return sum(a > self.factor * b for a, b in pairs)

    @staticmethod
    def _of(found: Found, number: str | float) -> float:
        return float(found[number]) if isinstance(number, str) else number


Judged = tuple[Claim, Verdict, list[tuple[float, float]]]
CLAIMS = (
    Claim(
        "More CA3 cells have one field than in the untrained network",
        "cells",
        "ca3.trained.single",
        "ca3.untrained.single",
    ),
    Claim("and more of their firing lies in the largest", "cells", "ca3.trained.share", "ca3.untrained.share"),
    Claim("Sparse coding of the same size has still more", "cells", "sparse.single", "ca3.trained.single"),
    Claim("So has NMF", "cells", "nmf.single", "ca3.trained.single"),
    Claim("CA3 has more fields than its shuffled maps", "cells", "ca3.trained.single", "ca3.shuffled.single"),
    Claim(
        "Half of the input lost: CA3 returns more of its code than untrained",
        "completion",
        "half.ca3.trained",
        "half.ca3.untrained",
    ),
    Claim("CA3 returns more of its code than of the input is left", "completion", "half.ca3.trained", "half.input"),
    Claim(
        "The price: codes of similar inputs are more similar than untrained",
        "completion",
        "near.ca3.trained",
        "near.ca3.untrained",
    ),
    Claim("and less similar than the inputs (separation remains)", "completion", "near.input", "near.ca3.trained"),
    Claim("The nearest neighbour completes better", "completion", "half.neighbour", "half.deep.trained"),
    Claim("Mismatch in a new room is 10 times the known", "novelty", "new", "known", 10),
    Claim("Without learning it is at most twice the known", "novelty", 2.0, "new_over_known.untrained"),
    Claim("Re-entry saves half of the epochs", "novelty", "savings", 0.5),
    Claim("Interference: back in A, mismatch is 5 times the known", "novelty", "back", "known", 5),
    Claim("and above that of the first entry to B", "novelty", "back", "new"),
    Claim(
        "Cues turned: CA3 maps stay more than untrained",
        "remapping",
        "stays.ca3.trained.frozen",
        "stays.ca3.untrained.frozen",
    ),
    Claim(
        "Cues turned: CA3 maps follow the cues rather than the grid",
        "remapping",
        "follows.ca3.trained.frozen",
        "stays.ca3.trained.frozen",
    ),
    Claim(
        "Cues exchanged: the CA3 code changes less than untrained",
        "remapping",
        "morphed.ca3.trained.frozen",
        "morphed.ca3.untrained.frozen",
    ),
    Claim(
        "Another room: CA3 maps are unrelated", "remapping", "stays.ca3.trained.frozen", "another.ca3.trained.frozen", 4
    ),
    Claim(
        "Plasticity changes the CA3 maps further", "remapping", "stays.ca3.trained.frozen", "stays.ca3.trained.plastic"
    ),
    Claim("Fields need the grid", "lesions", "single.intact", "single.no grid"),
    Claim("Fields need the cues", "lesions", "single.intact", "single.no cue"),
    Claim("Without direct paths, mismatch is larger", "lesions", "mismatch.no direct paths", "mismatch.intact"),
    Claim(
        "Without feedback of the deep layers, mismatch is larger",
        "lesions",
        "mismatch.no feedback of deep",
        "mismatch.intact",
    ),
    Claim(
        "Without feedback of CA1, fewer CA3 cells have one field",
        "lesions",
        "single.intact",
        "single.no feedback of ca1",
    ),
    Claim(
        "Learning upstream of CA1 lowers the mismatch",
        "lesions",
        "mismatch.no feedback of ca1",
        "mismatch.intact",
    ),
    Claim(
        "It does so without direct paths",
        "lesions",
        "mismatch.neither direct paths nor feedback of ca1",
        "mismatch.no direct paths",
    ),
    Claim("Backpropagation gives fields", "rules", "single.backprop", "single.untrained", 2),
    Claim("Tied inhibition gives fields", "rules", "single.inhibition, tied", "single.untrained", 2),
    Claim("Fixed inhibition gives fields", "rules", "single.inhibition, fixed", "single.untrained", 2),
    Claim("Feedback alignment gives fields", "rules", "single.feedback alignment", "single.untrained", 2),
    Claim("Kolen-Pollack gives none", "rules", "single.untrained", "single.Kolen-Pollack", 0.5),
    Claim("Kolen-Pollack gives fields", "rules", "single.Kolen-Pollack", "single.untrained", 2),
    Claim("BurstCCN gives fields", "rules", "single.BurstCCN", "single.untrained", 2),
    Claim("BurstCCN gives none", "rules", "single.untrained", "single.BurstCCN", 0.5),
)


def run(
    names: Iterable[str],
    seeds: Iterable[int],
    path: Path,
    setup: Setup | None = None,
    advance: Callable[[str, int, float], None] = lambda name, seed, seconds: None,
) -> list[dict[str, Any]]:
    """Run experiments on seeds, append a line of JSON for each to a file, and return the lines that were asked for.

    A run whose line is in the file, of the same setup, is not repeated; the same call resumes one that was stopped.

    Args:
        names: of `EXPERIMENTS`.
        seeds: which.
        path: of the file.
        setup: sizes and training.
        advance: called after every run, with its name, seed and seconds.

    Raises:
        ConfigError: a name is not that of an experiment.
        DataError: the file holds a line that is not such a run.
    """
    setup, names, seeds = setup or Setup(), list(names), list(seeds)
    for name in names:
        if name not in EXPERIMENTS:
            raise ConfigError(f"experiment {name!r} does not exist. Choose from {', '.join(EXPERIMENTS)}.")
    settings = dataclasses.asdict(setup)
    known = {(line["experiment"], line["seed"]): line for line in read(path) if line["setup"] == settings}
    path.parent.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        for name in names:
            if (name, seed) in known:
                continue
            start = time.perf_counter()
            found = EXPERIMENTS[name](setup, seed)
            seconds = time.perf_counter() - start
            line = {"experiment": name, "seed": seed, "setup": settings, "found": found}
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line | {"seconds": round(seconds, 1)}) + "\n")
            known[name, seed] = line
            advance(name, seed, seconds)
    return [known[name, seed] for seed in seeds for name in names]


def read(path: Path) -> list[dict[str, Any]]:
    """The runs of a file; none if it does not exist. A last line that was cut off is left out.

    Raises:
        DataError: a line is not a run.
    """
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    runs = []
    for number, text in enumerate(lines, start=1):
        try:
            line = json.loads(text)
            runs.append({key: line[key] for key in ("experiment", "seed", "setup", "found")})
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines) and not text.endswith("\n"):
                break
            raise DataError(f"{path}, line {number}: it is not a run of an experiment. Delete it.") from error
    return runs


def judged(runs: Sequence[Mapping[str, Any]]) -> list[Judged]:
    """Every claim with its verdict and its numbers on each seed."""
    return [
        (claim, *claim.judge([each["found"] for each in runs if each["experiment"] == claim.experiment]))
        for claim in CLAIMS
    ]
