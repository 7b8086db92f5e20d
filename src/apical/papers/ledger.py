"""The ledger: every claim by name, and what was measured for it so far.

Measurements are kept in measured.json beside this file, so that they travel with the package.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from apical.errors import ConfigError, RunError
from apical.papers import biotorch, brainprop, bursts, meir, naca, own, sardi, settling
from apical.papers.claim import Claim, Code, Outcome, Verdict
from apical.papers.expectations import ErrorRate
from apical.papers.measurement import Measurement

CLAIMS: tuple[Claim, ...] = (
    *own.CLAIMS,
    *biotorch.CLAIMS,
    *bursts.CLAIMS,
    *settling.CLAIMS,
    *brainprop.CLAIMS,
    *sardi.CLAIMS,
    *meir.CLAIMS,
    *naca.CLAIMS,
)
MEASURED = Path(__file__).with_name("measured.json")


def select(name: str | None = None) -> list[Claim]:
    """The claim of this name, or all claims of the protocol or paper of this name; without a name, all there are.

    Raises:
        ConfigError: there is neither.
    """
    if name is None:
        return list(CLAIMS)
    found = [claim for claim in CLAIMS if name in (claim.name, claim.protocol.name, claim.protocol.paper.key)]
    if found:
        return found
    protocols = list(dict.fromkeys(claim.protocol.name for claim in CLAIMS))
    near = difflib.get_close_matches(name, [*protocols, *(claim.name for claim in CLAIMS)], n=1)
    meant = f" Did you mean {near[0]!r}?" if near else ""
    raise ConfigError(
        f"there is no claim {name!r}.{meant} There are {', '.join(protocols)}, and each of their claims: "
        "`apical papers` lists them."
    )


def measurements() -> dict[str, Measurement]:
    """What was measured so far, by the name of the claim.

    Raises:
        RunError: the file is damaged.
    """
    if not MEASURED.exists():
        return {}
    try:
        content = json.loads(MEASURED.read_bytes())
        return {name: _read(entry) for name, entry in content.items()}
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{MEASURED}: the measurements cannot be read ({error}); restore the file") from error


def _read(entry: Mapping[str, Any]) -> Measurement:
    tuples = {key: tuple(entry[key]) for key in ("accuracies", "seeds", "recipe", "task_epochs") if key in entry}
    courses = tuple(tuple(course) for course in entry.get("courses", ()))
    cuts = {cut: tuple(values) for cut, values in entry.get("cuts", {}).items()}
    return Measurement(**{**entry, **tuples, "courses": courses, "cuts": cuts})


def verdicts(
    claims: Sequence[Claim] | None = None, measured: Mapping[str, Measurement] | None = None
) -> dict[str, Verdict]:
    """What follows for each claim, by its name; by default for all of them, from what the ledger holds.

    The traces of today's code are computed for claims whose measurement has one: some seconds for the whole ledger.
    """
    known = measurements() if measured is None else measured
    found = {}
    for claim in select() if claims is None else claims:
        own, beside = known.get(claim.name), claim.says.compared_with
        reference = known.get(beside) if beside else None
        if beside and reference and reference.recipe not in ((), *(each.recipe for each in select(beside))):
            reference = None  # of other settings than it has today
        found[claim.name] = claim.verdict(own, reference, _trace(claim, own))
    return found


def _trace(claim: Claim, measured: Measurement | None) -> str | None:
    """The digest of today's code for a claim; None where its measurement has none, or is known to be stale."""
    if measured is None or not measured.trace or measured.stale:
        return None
    from apical.papers import traces  # loads PyTorch

    return traces.digest(claim)


def summary(claims: Sequence[Claim], found: Mapping[str, Verdict]) -> str:
    """How many of some claims came out in which way: published test errors, other claims, controls, stale figures.

    Args:
        claims: of the ledger.
        found: their verdicts, by name.
    """
    figures = [claim for claim in claims if isinstance(claim.says, ErrorRate)]
    others = [claim for claim in claims if not claim.control and claim not in figures]
    parts = [
        f"Of {len(of)} {what}, {_counted([found[claim.name] for claim in of])}."
        for of, what in ((figures, "published error figures"), (others, "other claims"))
        if of
    ]
    if controls := sum(claim.control for claim in claims):
        parts.append(f"{controls} controls have no verdict.")
    codes = [found[claim.name].code for claim in claims]
    remarks: Mapping[Code, str] = {
        "other": "stale, measured by other code",
        "not known": "measured by code that is not known",
    }
    for code, what in remarks.items():
        if number := codes.count(code):
            parts.append(f"{number} of {sum(map(bool, codes))} measurements are {what}.")
    return " ".join(parts)


def _counted(found: Sequence[Verdict]) -> str:
    """How often each outcome occurs, and how many of them are stale: "4 are reproduced (1 stale), 3 not reproduced".

    The first is named also where there are none.
    """
    order: tuple[Outcome, ...] = ("reproduced", "not reproduced", "inconclusive", "out of reach", "not measured")
    shown = []
    for outcome in order:
        codes = [verdict.code for verdict in found if verdict.outcome == outcome]
        if codes or outcome == "reproduced":
            stale = f" ({codes.count('other')} stale)" if "other" in codes else ""
            shown.append(f"{len(codes)} {'are ' if outcome == 'reproduced' else ''}{outcome}{stale}")
    return ", ".join(shown)


def record(measured: Mapping[str, Measurement]) -> Path:
    """Add measurements to the ledger's file, and return its path.

    Raises:
        RunError: one of them is scaled down and would replace one that is not, or the file cannot be written.
    """
    from apical.study.runs import files

    known = measurements()
    by_name = {claim.name: claim for claim in CLAIMS}
    for name, new in measured.items():
        claim, old = by_name[name], known.get(name)
        if old is not None and not _whole(claim, new) and _whole(claim, old):
            raise RunError(
                f"{name}: a measurement scaled down to {claim.scaled_down(new)} would replace a full one of "
                f"{old.date}; measure it in full, or do not record it"
            )
    entries = {name: asdict(entry) for name, entry in {**known, **measured}.items()}
    ordered = {name: entries[name] for name in by_name if name in entries}
    files.atomic_write_json(MEASURED, ordered)
    return MEASURED


def _whole(claim: Claim, measured: Measurement) -> bool:
    """Whether a measurement has all epochs and seeds of our own protocol."""
    return measured.epochs >= claim.protocol.epochs and len(measured.seeds) >= claim.protocol.seeds
