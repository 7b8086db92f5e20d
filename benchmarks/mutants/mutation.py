"""One way to break the core, and the test files that notice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CONTRACT, ORACLES, CLOSED = "test_contract.py", "test_oracles.py", "test_closed_forms.py"
TRACING, AROUND, ALIGNED = "test_tracing.py", "test_surroundings.py", "test_alignment.py"
ATTENTION, HEBBIAN, AXES, PATHWAYS = "test_attention.py", "test_hebbian.py", "test_axes.py", "test_pathway_oracles.py"
PREDICTIVE, EQUILIBRIUM, BURSTS = "test_predictive_coding.py", "test_equilibrium.py", "test_bursts.py"
DENDRITES = "test_dendrites.py"


@dataclass(frozen=True)
class Mutation:
    """One way to break the core.

    Attributes:
        name: what is broken.
        file: under src/apical.
        old: the text that is replaced.
        new: what takes its place.
        tests: the file under tests/core that should notice.
        only: which of its tests, as pytest's -k takes it.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str
    only: str = ""

    def apply(self, source: Path) -> None:
        """Break a copy of src.

        Raises:
            ValueError: the text is not there, or more than once.
        """
        path = source / "apical" / self.file
        text = path.read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.file} holds {text.count(self.old)} times, and not once: {self.old!r}")
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


TRAITS = "test_traits.py"
