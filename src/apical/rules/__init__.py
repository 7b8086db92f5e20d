"""Learning rules, by name. Other packages add theirs through the entry-point group `apical.rules`."""

from __future__ import annotations

import difflib
import warnings
from pathlib import Path
from typing import Any

from apical import sources
from apical.errors import ConfigError
from apical.feedback.weights import PerLayer as PerLayer
from apical.options import offered
from apical.rules.alignment.backprop import Backprop as Backprop
from apical.rules.alignment.direct_feedback import DirectFeedbackAlignment as DirectFeedbackAlignment
from apical.rules.alignment.direct_feedback import DirectRandomTargetProjection as DirectRandomTargetProjection
from apical.rules.alignment.feedback_alignment import FeedbackAlignment as FeedbackAlignment
from apical.rules.alignment.feedback_alignment import KolenPollack as KolenPollack
from apical.rules.alignment.feedback_alignment import SignSymmetry as SignSymmetry
from apical.rules.alignment.feedback_alignment import WeightMirror as WeightMirror
from apical.rules.bursts.burstccn import BurstCCN as BurstCCN
from apical.rules.bursts.burstprop import Burstprop as Burstprop
from apical.rules.dendrites.microcircuit import DendriticMicrocircuit as DendriticMicrocircuit
from apical.rules.dendrites.segregated import SegregatedDendrites as SegregatedDendrites
from apical.rules.eligibility.eprop import EProp as EProp
from apical.rules.energy.equilibrium import EquilibriumPropagation as EquilibriumPropagation
from apical.rules.energy.predictive_coding import PredictiveCoding as PredictiveCoding
from apical.rules.hebbian.rules import Oja as Oja
from apical.rules.hebbian.rules import SoftHebb as SoftHebb
from apical.rules.hebbian.rules import ThreeFactor as ThreeFactor
from apical.rules.inhibition.countercurrent import CountercurrentInhibition as CountercurrentInhibition
from apical.rules.neuromodulation.gate import Context as Context
from apical.rules.neuromodulation.gate import ContextGate as ContextGate
from apical.rules.neuromodulation.gate import RandomGate as RandomGate
from apical.rules.neuromodulation.naca import NACA as NACA
from apical.rules.reward.attention import AGREL as AGREL
from apical.rules.reward.attention import BrainProp as BrainProp
from apical.rules.rule import LearningRule as LearningRule
from apical.rules.rule import Sweep as Sweep

# Every rule that is exported above, backpropagation first: to export a rule is to register it.
_OWN: dict[str, type[LearningRule]] = {
    rule.name: rule
    for rule in sorted(
        (found for found in list(globals().values()) if isinstance(found, type) and issubclass(found, LearningRule)),
        key=lambda rule: rule is not Backprop,
    )
    if hasattr(rule, "name")
}

# The abbreviations of papers and talks, where a rule's own name or its class' does not have them.
_SHORT = {
    "bp": "backprop",
    "backpropagation": "backprop",
    "fa": "feedback_alignment",
    "dfa": "direct_feedback_alignment",
    "drtp": "direct_random_target_projection",
    "kp": "kolen_pollack",
    "wm": "weight_mirror",
    "usf": "sign_symmetry",
    "pc": "predictive_coding",
    "ep": "equilibrium_propagation",
    "eqprop": "equilibrium_propagation",
    "microcircuit": "dendritic_microcircuit",
}


def _all() -> dict[str, type[LearningRule]]:
    known = dict(_OWN)
    for point in offered("apical.rules"):
        try:
            rule = point.load()
        except Exception as error:  # whatever another package's import raises
            warnings.warn(f"the rule {point.name!r} of {point.value} cannot be loaded: {error}", stacklevel=3)
            continue
        if not (isinstance(rule, type) and issubclass(rule, LearningRule)):
            warnings.warn(f"{point.value}, offered as the rule {point.name!r}, is no LearningRule", stacklevel=3)
            continue
        missing = [what for what in ("name", "title", "summary", "paper") if not hasattr(rule, what)]
        if missing or rule.name != point.name:
            lack = f"does not say its {', '.join(missing)}" if missing else f"calls itself {rule.name!r}"
            warnings.warn(f"the rule {point.name!r} of {point.value} is ignored: it {lack}", stacklevel=3)
            continue
        if point.name in known:
            warnings.warn(f"the rule {point.name!r} of {point.value} is ignored: the name is taken", stacklevel=3)
            continue
        known[point.name] = rule
    return known


def names() -> list[str]:
    """The names of all rules, apical's own first."""
    return list(_all())


def get(name: str) -> type[LearningRule]:
    """The rule of this name: its own, its class', an abbreviation such as `fa`, or `file.py:Class`.

    Raises:
        ConfigError: there is none.
    """
    if own := sources.split_name(name):
        return _of_file(*own, name)
    wanted = name.strip().replace("-", "_").replace(" ", "_").lower()
    wanted = _SHORT.get(wanted, wanted)
    if wanted in _OWN:
        return _OWN[wanted]
    known = _all()
    if wanted in known:
        return known[wanted]
    by_class = {rule.__name__.lower(): rule for rule in known.values()}
    if wanted.replace("_", "") in by_class:
        return by_class[wanted.replace("_", "")]
    close = difflib.get_close_matches(wanted, known, n=1)
    meant = f" Did you mean {close[0]!r}?" if close else ""
    raise ConfigError(f"there is no rule {name!r}.{meant} Known are: {', '.join(known)}.")


def _of_file(file: Path, name: str, text: str) -> type[LearningRule]:
    """A rule's class in a file of the user's own, under the name `file.py:Class`."""
    found: Any = sources.load_once(file, name, f"rule {text!r}")
    if not (isinstance(found, type) and issubclass(found, LearningRule)):
        raise ConfigError(f"rule {text!r}: {name} is not a class derived from LearningRule. Derive it from a rule.")
    summary = (found.__doc__ or name).partition("\n")[0]
    usual = {"name": text, "title": name, "summary": summary, "paper": f"{file.name}, your own"}
    for attribute, value in usual.items():
        if attribute not in vars(found):  # those that it inherits are of another rule
            setattr(found, attribute, value)
    return found


def make(name: str, **options: Any) -> LearningRule:
    """A rule by its name, with options of its constructor.

    Raises:
        ConfigError: no such rule, or no such option.
    """
    rule = get(name)
    allowed = rule.option_names()
    for option in options:
        if option not in allowed:
            close = difflib.get_close_matches(option, allowed, n=1)
            meant = f" Did you mean {close[0]!r}?" if close else ""
            raise ConfigError(
                f"the rule {rule.name!r} has no option {option!r}.{meant} "
                + (f"It has: {', '.join(allowed)}." if allowed else "It has none.")
            )
    try:
        return rule(**options)
    except TypeError as error:
        raise ConfigError(f"the rule {rule.name!r} does not take {options}: {error}.") from error
