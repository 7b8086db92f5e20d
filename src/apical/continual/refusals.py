"""What a protection refuses: options out of range, and rules that it cannot work with."""

import math

from torch import nn

from apical.errors import ConfigError
from apical.rules import DirectRandomTargetProjection, LearningRule
from apical.rules.hebbian.rules import Hebbian


def check_strengths(name: str, **strengths: float) -> None:
    """Refuse strengths that are negative or not finite."""
    for option, value in strengths.items():
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"{name}: {option}={value!r} must be a finite number of at least 0.")


def require_mean(name: str, circuit: nn.Module) -> None:
    """Refuse a circuit that takes each loss to be divided by one number, whatever the size of its batch.

    Raises:
        ConfigError: its `reduction` is a number.
    """
    reduction = getattr(getattr(circuit, "wiring", None), "reduction", "mean")
    if isinstance(reduction, int | float):
        raise ConfigError(
            f"{name}: reduction={reduction} is the size of one batch, and drawn examples make batches of other sizes. "
            "Build the circuit with reduction='mean'."
        )


def require_loss(name: str, circuit: nn.Module, reason: str) -> None:
    """Refuse a rule whose updates follow no loss.

    Args:
        name: of the protection.
        circuit: a network, with its rule if it has one.
        reason: what follows for the protection.

    Raises:
        ConfigError: the rule is Hebbian, without a third factor.
    """
    rule = getattr(circuit, "rule", None)
    if isinstance(rule, Hebbian) and rule.learns_from == "error":
        raise ConfigError(
            f"{name}: {type(rule).__name__} teaches hidden layers without an error, so that {reason}. Use replay, xdg "
            "or freeze, or a rule that learns from an error."
        )


def require_free_error(name: str, circuit: nn.Module, term: str) -> None:
    """Refuse a rule to which the error of another term in the loss has no meaning.

    Args:
        name: of the protection.
        circuit: a network, with its rule if it has one.
        term: what the protection adds to the loss.

    Raises:
        ConfigError: the rule learns from a reward or without an error, or it reads the label off the error.
    """
    require_loss(name, circuit, f"{term} would reach the read-out alone")
    rule = getattr(circuit, "rule", None)
    if not isinstance(rule, LearningRule):
        return
    reason = None
    known = getattr(rule, "loss", None) if rule.follows_loss else None
    if rule.learns_from != "error":
        reason = f"learns from the reward of one choice, and {term} has a derivative at every output"
    elif isinstance(rule, DirectRandomTargetProjection):
        reason = f"reads the label off the loss' derivative, which {term} changes"
    elif known not in (None, "linear"):
        reason = f"has loss={known!r}, and {term} is another. Pass the rule loss='linear'"
    if reason is not None:
        others = "" if known else " Use replay or agem, or a rule that learns from any error, such as FeedbackAlignment"
        raise ConfigError(f"{name}: {type(rule).__name__} {reason}.{others and others + '.'}")
