"""One way to break src, and the test files that notice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CONTRACT, ORACLES, CLOSED = "core/test_contract.py", "core/test_oracles.py", "core/test_closed_forms.py"
TRACING, AROUND, ALIGNED = "core/test_tracing.py", "core/test_surroundings.py", "core/test_alignment.py"
ATTENTION, HEBBIAN, AXES = "core/test_attention.py", "core/test_hebbian.py", "core/test_axes.py"
PREDICTIVE, EQUILIBRIUM, BURSTS = "core/test_predictive_coding.py", "core/test_equilibrium.py", "core/test_bursts.py"
PATHWAYS, WITH_PATHWAYS = "core/test_pathway_oracles.py", "core/test_pathways.py"
DENDRITES, SIZES = "core/test_dendrites.py", "core/test_direct_feedback_size.py"
ADAPTATION, PLASTICITY = "optim/test_adaptation.py", "neurons/test_burst_plasticity.py"
AUGMENT, CLAIMS = "reinforcement/test_augment_oracles.py", "papers/test_claims.py"
INHIBITION, SPARSITY, LOOP = "core/test_countercurrent.py", "core/test_sparsity.py", "hippocampus/test_loop.py"
CONFIGURATIONS, KEEPING, NPZ = "study/test_config.py", "study/test_comparing.py", "data/test_npz.py"
RESUMPTION, EVALUATION, RUNS = "study/test_resume.py", "study/test_evaluation.py", "study/test_runs.py"
TRAITS, FIGURES = "core/test_traits.py", "papers/test_published_figures.py"
IN_TIME = "core/test_in_time.py"


@dataclass(frozen=True)
class Mutation:
    """One way to break src.

    Attributes:
        name: what is broken.
        file: under src/apical.
        old: the text that is replaced.
        new: what takes its place.
        tests: the file under tests that should notice.
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
