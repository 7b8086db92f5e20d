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
from apical.papers.claim import Claim, Verdict
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
    """What follows for each claim, by its name; by default for all of them, from what the ledger holds."""
    known = measurements() if measured is None else measured
    found = {}
    for claim in select() if claims is None else claims:
        reference = claim.says.compared_with
        found[claim.name] = claim.verdict(known.get(claim.name), known.get(reference) if reference else None)
    return found


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
        smaller = claim.scaled_down(new)
        if old is not None and smaller and not claim.scaled_down(old):
            raise RunError(
                f"{name}: a measurement scaled down to {smaller} would replace a full one of {old.date}; "
                "measure it in full, or do not record it"
            )
    entries = {name: asdict(entry) for name, entry in {**known, **measured}.items()}
    ordered = {name: entries[name] for name in by_name if name in entries}
    files.atomic_write_json(MEASURED, ordered)
    return MEASURED
