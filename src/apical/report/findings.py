"""What a comparison found, in plain words: every sentence is computed from its numbers."""

from collections.abc import Iterable, Sequence

from apical.statistics import Spread
from apical.study.comparison import badges
from apical.study.comparison.differences import Difference
from apical.study.comparison.parts import Floor
from apical.study.comparison.schema import Arm, Comparison


def headline(comparison: Comparison) -> str:
    """One sentence that says what was found."""
    if comparison.task.stream is not None:
        return _stream_headline(comparison)
    ranked = _ranked(comparison)
    where = _where(comparison)
    if not ranked:
        return f"No run{where} came to an end: there is no accuracy to report."
    best, highest = ranked[0]
    if len(ranked) == 1:
        return f"{best.label} reaches {_percent(comparison, highest)} test accuracy{where}."
    if _reference(comparison)[1] is not None:
        return _beside_reference(comparison, ranked)
    last, lowest = ranked[-1]
    difference = comparison.difference(best, last)
    tie = difference is not None and difference.verdict in ("tie", "unclear")
    return (
        f"Of {count(len(ranked))} rules{where}, {best.label} reaches the highest test accuracy, "
        f"{_percent(comparison, highest)}, and {last.label} the lowest, {_percent(comparison, lowest)}"
        f"{', which may be by chance' if tie else ''}."
    )


def details(comparison: Comparison) -> list[str]:
    """Further sentences: same trainings, badges, rates, seeds, angles, cost, and what went wrong."""
    if comparison.task.stream is not None:
        return [*floor_sentences(comparison), *filter(None, (_seeds(comparison), _failures(comparison)))]
    makers = (_rewarded, _seeds, _angles, _costs, _failures)
    return [*training_sentences(comparison), *filter(None, (make(comparison) for make in makers))]


def training_sentences(comparison: Comparison) -> list[str]:
    """What a reader has to know of the trainings: which were the same, and how rates were chosen."""
    return [sentence for make in (_twins, _rates) if (sentence := make(comparison))]


def _beside_reference(comparison: Comparison, ranked: Sequence[tuple[Arm, Spread]]) -> str:
    """How the other rules compare with backpropagation, by paired differences."""
    reference, level = _reference(comparison)
    assert reference is not None
    assert level is not None
    others = [(arm, accuracy) for arm, accuracy in ranked if arm is not reference]
    unsound = [arm for arm in comparison.arms if arm is not reference and arm.is_unsound]
    reached = f"{_percent(comparison, level)} test accuracy{_where(comparison)}"
    itself = _why_unsound(reference) if reference.is_unsound else "backpropagation"
    if len(comparison.seeds) == 1:
        said = [f"from one seed, {itself} reaches {reached}, {_range(comparison, others)}"]
        last = ["one seed cannot show whether a difference would recur"]
    else:
        found = [(arm, comparison.difference(arm)) for arm, _ in others if arm not in unsound]
        said = _verdicts(
            comparison, [(arm, each) for arm, each in found if each is not None], f"{itself} reaches {reached}"
        )
        last = []
    said += [f"set apart: {listed(map(_why_unsound, unsound))}" for _ in unsound[:1]]
    sentence = "; ".join(said + last) + "."
    return sentence[0].upper() + sentence[1:]


def _range(comparison: Comparison, others: Sequence[tuple[Arm, Spread]]) -> str:
    """The accuracies of other rules, the highest first: that of one, or of the two ends."""
    (best, highest), (last, lowest) = others[0], others[-1]
    if best is last:
        return f"{best.label} {_percent(comparison, highest)}"
    return (
        f"{count(len(others))} other rules between {_percent(comparison, lowest)} ({last.label}) and "
        f"{_percent(comparison, highest)} ({best.label})"
    )


def _verdicts(comparison: Comparison, found: Sequence[tuple[Arm, Difference]], reached: str) -> list[str]:
    """A clause for each verdict that rules got, beside what backpropagation reached."""
    groups: dict[str, list[tuple[Arm, Difference]]] = {}
    for arm, difference in found:
        groups.setdefault(difference.verdict, []).append((arm, difference))
    said = [reached]
    if ties := groups.get("tie"):
        reach = max(abs(100 * end) for _, each in ties for end in each.interval() or ())
        who = ties[0][0].label if len(ties) == 1 else f"{len(ties)} of {len(comparison.arms) - 1} rules"
        # Their intervals end there; identical runs have none.
        within = f" to within {reach:.{comparison.accuracy_decimals}f} points" if reach else ""
        said.append(f"{who} cannot be distinguished from it{within}")
    said += [f"{_apart(comparison, groups[side])} {side} it" for side in ("below", "above") if side in groups]
    if "unclear" in groups:
        said.append(f"{_names(groups['unclear'])} varied too much to say")
    if "one seed" in groups:
        said.append(f"{_names(groups['one seed'])} shared one seed with it, which shows nothing")
    return said


def _names(rules: Iterable[tuple[Arm, Difference]]) -> str:
    return listed(arm.label for arm, _ in rules)


def _why_unsound(arm: Arm) -> str:
    failed = [f"failed in {len(arm.failures())} of {len(arm.runs)} seeds"] * bool(arm.failures())
    return f"{arm.label} ({', '.join([*failed, *(text for text in arm.badge_texts() if text != badges.EDGE)])})"


NAMED = 3
"""As many rules are named in the headline, with their points; of more, the ends."""


def _apart(comparison: Comparison, rules: Sequence[tuple[Arm, Difference]]) -> str:
    """Rules on one side of backpropagation, the nearest first: their points, or those of the first and the last."""
    ordered = sorted(rules, key=lambda pair: abs(pair[1].mean))
    points = [f"{abs(100 * each.mean):.{comparison.accuracy_decimals}f}" for _, each in ordered]
    names = [arm.label for arm, _ in ordered]
    if len(ordered) > NAMED:
        return f"{len(ordered)} lie {points[0]} ({names[0]}) to {points[-1]} points ({names[-1]})"
    if len(ordered) == 1:
        return f"{names[0]} lies {points[0]} points"
    return f"{listed(names)} lie {listed(points)} points"


def _twins(comparison: Comparison) -> str:
    """Arms whose runs were the same training."""
    said: dict[tuple[str, str], list[str]] = {}
    for arm in comparison.arms:
        twin = comparison.twin(arm)
        if twin is not None:
            said.setdefault((twin[0].label, twin[1]), []).append(arm.label)
    reference = comparison.reference
    how = {
        "exactly": ("exactly backpropagation's update", "the same"),
        "to rounding": ("backpropagation's update up to rounding", "the same up to rounding"),
    }
    return " ".join(
        f"{listed(names)} {'gives' if len(names) == 1 else 'give'} {how[nearly][0]}."
        if reference is not None and other == reference.label
        else f"The training of {listed(names)} was {how[nearly][1]} as that of {other}."
        for (other, nearly), names in said.items()
    )


def _rates(comparison: Comparison) -> str:
    """How learning rates were chosen."""
    tunings = [arm.tuning for arm in comparison.arms if arm.tuning is not None]
    if not tunings:
        return ""
    rates, seeds = listed(f"{rate:g}" for rate in tunings[0].rates), listed(map(str, tunings[0].seeds))
    return (
        f"Each rule took the best of the learning rates {rates} by validation accuracy, a mean over runs from seeds "
        f"{seeds}, which are not among those reported."
    )


def listed(names: Iterable[str]) -> str:
    """Names as a sentence has them: "A, B and C"."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _stream_headline(comparison: Comparison) -> str:
    stream = comparison.task.stream
    assert stream is not None
    ranked = [pair for pair in _ranked(comparison) if not pair[0].settings.joint]
    if not ranked:
        return f"No run on {stream.name} came to an end: there is no accuracy to report."
    best, highest = ranked[0]
    where = f"after {count(len(stream.tasks))} tasks, one after another ({stream.scenario}-incremental)"
    return f"{best.label} keeps the highest accuracy on all tasks {where}: {_percent(comparison, highest)}."


def floor_sentences(comparison: Comparison) -> list[str]:
    """What learners of one pass reach, what exceeds the best of them, and what leaks."""
    said = []
    floor = comparison.best_floor
    if floor is not None:
        level = floor.metric("accuracy")
        assert level is not None
        above: list[str] = []
        unclear: list[str] = []
        for arm in comparison.arms:
            ahead = comparison.above_floor(arm)
            if arm.settings.joint or ahead is None or ahead.mean <= 0:
                continue
            (above if ahead.confidence()[0] > 0 else unclear).append(arm.label)
        reached = f"{floor.title}, which learns in one pass without a network, reaches {_percent(comparison, level)}"
        if level.n > 1:
            reached += f"; {', '.join(above) or 'nothing'} exceeds it beyond chance (95 % interval over paired seeds)"
        said.append(f"{reached}.")
        if unclear:
            said.append(f"Ahead of it, but not beyond chance{' (one seed)' * (level.n == 1)}: {', '.join(unclear)}.")
    leaking = [arm.label for arm in comparison.arms if arm.leaks]
    if leaking:
        said.append(
            f"{', '.join(leaking)}: accuracy depends on how the test data are cut into batches, which is a leak; these "
            "figures say nothing about single examples."
        )
    return said


def ahead_of_floor(comparison: Comparison, learner: Arm | Floor) -> str:
    """Percentage points above or below the best floor, with the 95 % interval over paired seeds; "" for a floor."""
    ahead = comparison.above_floor(learner) if isinstance(learner, Arm) else None
    if ahead is None:
        return ""
    points = f"{100 * ahead.mean:+.1f}"
    if ahead.n > 1:
        low, high = ahead.confidence()
        points += f" ({100 * low:+.1f} to {100 * high:+.1f})"
    return points.replace("-", "\u2212")


def points_beside_reference(comparison: Comparison, arm: Arm) -> tuple[str, str]:
    """Percentage points above or below backpropagation and their 95 % interval; both "" where they say nothing."""
    difference = comparison.difference(arm)
    interval = None if difference is None else difference.interval()
    if difference is None or interval is None:
        return "", ""
    points, low, high = (
        f"{100 * each:+.{comparison.accuracy_decimals}f}".replace("-", "−") for each in (difference.mean, *interval)
    )
    return points, f"{low} to {high}"


def _rewarded(comparison: Comparison) -> str:
    """What a comparison of learning from rewards and learning from labels is not: one of like with like."""
    names = [arm.label for arm in comparison.arms if arm.settings.loss]
    if not names:
        return ""
    rules = listed(names)
    others_saw = " The other rules saw the labels." if len(names) < len(comparison.arms) else ""
    return f"{rules} learned from a scalar reward: whether the one class that was tried was right.{others_saw}"


def _ranked(comparison: Comparison) -> list[tuple[Arm, Spread]]:
    """The rules with a test accuracy, the highest mean first."""
    measured = [(arm, accuracy) for arm in comparison.arms if (accuracy := arm.accuracy()) is not None]
    return sorted(measured, key=lambda pair: -pair[1].mean)


def _reference(comparison: Comparison) -> tuple[Arm | None, Spread | None]:
    """Backpropagation and its accuracy, where they are known."""
    reference = comparison.reference
    return reference, None if reference is None else reference.accuracy()


def _percent(comparison: Comparison, value: Spread) -> str:
    return f"{100 * value.mean:.{comparison.accuracy_decimals}f}\u00a0%"


def count(number: int) -> str:
    """A small number as a word."""
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    return words[number] if number < len(words) else str(number)


def _where(comparison: Comparison) -> str:
    task = comparison.task.name
    return f" on {task}" if task else ""


def _seeds(comparison: Comparison) -> str:
    seeds = len(comparison.seeds)
    if seeds == 0 or not any(arm.accuracy() for arm in comparison.arms):
        return ""
    if seeds == 1:
        each = " each" if len(comparison.arms) > 1 else ""
        return f"One seed{each}: nothing here says how far another seed would land."
    kept = "the finished runs of " if comparison.failures else ""
    fewest = min(len(arm.runs) for arm in comparison.arms)
    least = "" if fewest == seeds else f"{count(fewest)} to "
    return f"All are means over {kept}{least}{count(seeds)} seeds."


def _angles(comparison: Comparison) -> str:
    if not comparison.layers:
        return ""
    first = comparison.layers[0]
    known = [(arm, spread) for arm in comparison.arms if arm.rule != "backprop" and (spread := arm.angle(first))]
    if not known:
        return ""
    known.sort(key=lambda pair: pair[1].mean)
    (nearest, low), (furthest, high) = known[0], known[-1]
    opening = "At the end of training, the update of the first layer points"
    if nearest is furthest:
        return f"{opening} {low.mean:.0f}° away from the true gradient."
    return (
        f"{opening} between {low.mean:.0f}° ({nearest.label}) and {high.mean:.0f}° ({furthest.label}) "
        "away from the true gradient."
    )


def _costs(comparison: Comparison) -> str:
    known = [(arm, arm.timing) for arm in comparison.arms if arm.timing is not None]
    known.sort(key=lambda pair: pair[1].ratio)
    if not known:
        return "The machine was too busy to time training steps." if any(arm.cost for arm in comparison.arms) else ""
    (cheapest, low), (dearest, high) = known[0], known[-1]
    if cheapest is dearest:
        return f"A training step takes {low.ratio:.2f} times as long as in plain PyTorch."
    return (
        f"A training step takes {low.ratio:.2f} ({cheapest.label}) to {high.ratio:.2f} ({dearest.label}) "
        "times as long as in plain PyTorch."
    )


def _failures(comparison: Comparison) -> str:
    failed, runs = len(comparison.failures), sum(len(arm.runs) for arm in comparison.arms)
    if not failed:
        return ""
    return f"{failed} of {runs} runs failed and {'enters' if failed == 1 else 'enter'} no mean."
