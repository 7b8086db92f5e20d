"""Feedback pathways by name. Other packages add theirs through the entry-point group `apical.feedback`."""

import difflib
import warnings
from collections.abc import Mapping
from typing import Any

from apical.errors import ConfigError
from apical.feedback.direct import Direct
from apical.feedback.fixed import Fixed, Tied
from apical.feedback.homeostatic import Homeostatic
from apical.feedback.kolen_pollack import KolenPollack
from apical.feedback.mirror import WeightMirror
from apical.feedback.pathway import Pathway
from apical.feedback.signs import SignSymmetric
from apical.options import offered

_OWN: dict[str, type[Pathway]] = {
    pathway.name: pathway for pathway in (Tied, Fixed, SignSymmetric, KolenPollack, WeightMirror, Homeostatic, Direct)
}

# The sweeps that are named after what they carry signals by.
_TWINS = {
    "backprop": "tied",
    "feedback_alignment": "fixed",
    "sign_symmetry": "sign_symmetric",
    "direct_feedback_alignment": "direct",
}

Given = str | Pathway | type[Pathway] | Mapping[str, Any]
"""What the option `feedback` of a rule accepts: a name, an object, a class, or `{"name": ..., option: value}`."""


def _all() -> dict[str, type[Pathway]]:
    known = dict(_OWN)
    for point in offered("apical.feedback"):
        try:
            pathway = point.load()
        except Exception as error:  # any error of another package's import
            warnings.warn(f"the pathway {point.name!r} of {point.value} cannot be loaded: {error}", stacklevel=3)
            continue
        if not (isinstance(pathway, type) and issubclass(pathway, Pathway)):
            warnings.warn(f"{point.value}, offered as the pathway {point.name!r}, is not a Pathway", stacklevel=3)
        elif getattr(pathway, "name", None) != point.name or not hasattr(pathway, "summary"):
            warnings.warn(
                f"the pathway {point.name!r} of {point.value} is ignored: it needs name={point.name!r} and a summary",
                stacklevel=3,
            )
        elif point.name in known:
            warnings.warn(f"the pathway {point.name!r} of {point.value} is ignored: the name is taken", stacklevel=3)
        else:
            known[point.name] = pathway
    return known


def names() -> list[str]:
    """The names of all pathways, apical's own first."""
    return list(_all())


def get(name: str) -> type[Pathway]:
    """The pathway of this name.

    Raises:
        ConfigError: it does not exist.
    """
    wanted = name.replace("-", "_").lower()
    if wanted in _OWN:
        return _OWN[wanted]
    known = _all()
    if wanted in known:
        return known[wanted]
    by_class = {pathway.__name__.lower(): pathway for pathway in known.values()}
    if wanted.replace("_", "") in by_class:
        return by_class[wanted.replace("_", "")]
    close = [_TWINS[wanted]] if wanted in _TWINS else difflib.get_close_matches(wanted, known, n=1)
    meant = f" Did you mean {close[0]!r}?" if close else ""
    raise ConfigError(f"feedback={name!r} is unknown.{meant} Known pathways are: {', '.join(known)}.")


def make(name: str, **options: Any) -> Pathway:
    """A pathway by its name, with options of its constructor.

    Raises:
        ConfigError: an unknown pathway or option.
    """
    return _build(get(name), options)


def _build(kind: type[Pathway], options: Mapping[str, Any]) -> Pathway:
    allowed = kind.option_names()
    for option in options:
        if option not in allowed:
            close = difflib.get_close_matches(option, allowed, n=1)
            meant = f" Did you mean {close[0]!r}?" if close else ""
            raise ConfigError(
                f"the feedback pathway {kind.name!r} has no option {option!r}.{meant} "
                + (f"It has: {', '.join(allowed)}." if allowed else "It has none.")
            )
    try:
        return kind(**options)
    except TypeError as error:
        raise ConfigError(f"the feedback pathway {kind.name!r} does not accept {dict(options)}: {error}.") from error


def resolve(rule: str, given: Given, refused: Mapping[str, str], **defaults: Any) -> Pathway:
    """The pathway that a rule was given, checked against those that have no meaning for it.

    Args:
        rule: the rule's name, for messages.
        given: a name, an object, a class, or a mapping with the key "name" and options.
        refused: pathways that have no meaning for the rule, each with the reason.
        defaults: options for pathways given by name, as far as they have them.

    Raises:
        ConfigError: an unknown or meaningless pathway; a learning rule in place of one; defaults beside an object.
    """
    if isinstance(given, Mapping):
        own = dict(given)
        name = own.pop("name", None)
        if not isinstance(name, str):
            raise ConfigError(f"{rule}: feedback={dict(given)!r} lacks a name. Add 'name', one of {', '.join(_OWN)}.")
        kind = _get(rule, name)
    elif isinstance(given, str):
        kind, own = _get(rule, given), {}
    elif isinstance(given, type) and issubclass(given, Pathway):
        kind, own = given, {}
    elif isinstance(given, Pathway):
        if getattr(given, "_attached", False):
            raise ConfigError(
                f"{rule}: this {type(given).__name__} is the pathway of another rule, and its weights belong to that "
                f"one. Make a new one: feedback.{type(given).__name__}(...)."
            )
        refuse(rule, type(given), refused)
        _refuse_beside_object(rule, given, defaults)
        given._attached = True  # type: ignore[assignment]
        return given
    else:
        raise ConfigError(f"{rule}: {_not_a_pathway(given)}")
    refuse(rule, kind, refused)
    options = {**{name: value for name, value in defaults.items() if name in kind.option_names()}, **own}
    pathway = _build(kind, options)
    pathway._attached = True  # type: ignore[assignment]
    return pathway


def _get(rule: str, name: str) -> type[Pathway]:
    try:
        return get(name)
    except ConfigError as error:
        raise ConfigError(f"{rule}: {error}") from None


def _refuse_beside_object(rule: str, pathway: Pathway, defaults: Mapping[str, Any]) -> None:
    """Refuse options of the rule that the object would leave unused."""
    for option, unset in (("init", "match"), ("scale", 1.0)):
        value = defaults.get(option, unset)
        if value != unset:
            kind = type(pathway).__name__
            raise ConfigError(
                f"{rule}: {option}={value!r} is an option of the pathway, and this one is an object with options of "
                f"its own. Pass feedback.{kind}({option}={value!r}) in its place."
            )


def refuse(rule: str, kind: type[Pathway], refused: Mapping[str, str]) -> None:
    """Refuse a pathway that has no meaning for a rule.

    Raises:
        ConfigError: with the reason.
    """
    reason = refused.get(kind.name)
    if reason is None:  # of another package: what it has in common with one of these
        reason = refused.get("tied" if kind.sends_down else "direct")
    if reason is not None:
        others = [name for name in _OWN if name not in refused]
        raise ConfigError(f"{rule}: feedback={kind.name!r} has no meaning here: {reason}. Use {', '.join(others)}.")


def _not_a_pathway(given: object) -> str:
    name = str(getattr(given, "name", None))
    twin = _TWINS.get(name, name)
    if hasattr(given, "assign_credit"):
        named = f"feedback={twin!r}" if twin in _OWN else f"one of {', '.join(_OWN)}"
        return f"feedback={given!r} is a learning rule, not a feedback pathway. Pass {named}."
    known = ", ".join(_OWN)
    return f"feedback={given!r} is not a feedback pathway. Pass a name ({known}) or an object of apical.feedback."
