"""Claims of papers: what each says, how it is measured again, what came out here, and the verdict.

    from apical import papers

    for claim in papers.select("biotorch-mnist"):
        print(claim.name, claim.says.text, papers.verdicts([claim])[claim.name].outcome)

A claim is data. To add a paper, write its claims into a file of its own here and name it in `ledger.CLAIMS`.
"""

from typing import TYPE_CHECKING, Any

from apical.papers.claim import Claim, Online, Paper, Protocol, Verdict
from apical.papers.expectations import (
    Ahead,
    AtLeast,
    Behind,
    Both,
    Control,
    Counted,
    ErrorRate,
    Expectation,
    Slower,
    Sooner,
    Within,
)
from apical.papers.ledger import CLAIMS, measurements, record, select, summary, verdicts
from apical.papers.measurement import Measurement

if TYPE_CHECKING:
    from apical.papers.measuring import measure

__all__ = [
    "CLAIMS",
    "Ahead",
    "AtLeast",
    "Behind",
    "Both",
    "Claim",
    "Control",
    "Counted",
    "ErrorRate",
    "Expectation",
    "Measurement",
    "Online",
    "Paper",
    "Protocol",
    "Slower",
    "Sooner",
    "Verdict",
    "Within",
    "measure",
    "measurements",
    "record",
    "select",
    "summary",
    "verdicts",
]


def __getattr__(name: str) -> Any:
    if name != "measure":  # the only one that needs PyTorch
        raise AttributeError(f"module 'apical.papers' has no attribute {name!r}")
    from apical.papers.measuring import measure

    globals()[name] = measure
    return measure
