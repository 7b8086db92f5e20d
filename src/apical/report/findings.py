"""What a comparison found, in plain words: every sentence is computed from its numbers."""

from apical.statistics import Spread
from apical.study.comparison.schema import Arm, Comparison, Floor


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
    reference, level = _reference(comparison)
    if level is None:
        last, lowest = ranked[-1]
        return (
            f"Of {count(len(ranked))} rules{where}, {best.label} reaches the highest test accuracy, "
            f"{_percent(comparison, highest)}, and {last.label} the lowest, {_percent(comparison, lowest)}"
            f"{_within_spread(highest, lowest)}."
        )
    others = [pair for pair in ranked if pair[0] is not reference]
    best, highest = others[0]
    rank = f", the best of {count(len(others))} other rules," if len(others) > 1 else ""
    return (
        f"{best.label}{rank} reaches {_percent(comparison, highest)} test accuracy{where}; backpropagation "
        f"reaches {_percent(comparison, level)}{_within_spread(highest, level)}."
    )


def details(comparison: Comparison) -> list[str]:
    """Further sentences: the other end of the ranking, seeds, angles, cost, and what went wrong."""
    if comparison.task.stream is not None:
        return [*floor_sentences(comparison), *filter(None, (_seeds(comparison), _failures(comparison)))]
    makers = (_rewarded, _last, _seeds, _angles, _costs, _failures)
    return [sentence for make in makers if (sentence := make(comparison))]


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
            (above if ahead.n > 1 and ahead.interval()[0] > 0 else unclear).append(arm.label)
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
        low, high = ahead.interval()
        points += f" ({100 * low:+.1f} to {100 * high:+.1f})"
    return points.replace("-", "\u2212")


def points_beside_reference(comparison: Comparison, arm: Arm) -> str:
    """Percentage points of mean accuracy above or below backpropagation; "" where that says nothing."""
    reference, level = _reference(comparison)
    own = arm.accuracy()
    if level is None or own is None or arm is reference:
        return ""
    points = 100 * (own.mean - level.mean)
    return f"{points:+.{comparison.accuracy_decimals}f}".replace("-", "−")


def _rewarded(comparison: Comparison) -> str:
    """What a comparison of learning from rewards and learning from labels is not: one of like with like."""
    names = [arm.label for arm in comparison.arms if arm.settings.loss]
    if not names:
        return ""
    *others, last = names
    rules = f"{', '.join(others)} and {last}" if others else last
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


def _last(comparison: Comparison) -> str:
    reference, level = _reference(comparison)
    others = [pair for pair in _ranked(comparison) if pair[0] is not reference]
    if level is None or len(others) < 2:
        return ""
    last, lowest = others[-1]
    points = round(100 * (lowest.mean - level.mean), comparison.accuracy_decimals)
    side = "above" if points > 0 else "below"
    away = f"{abs(points):.{comparison.accuracy_decimals}f} points {side}" if points else "level with"
    return f"{last.label} comes last with {_percent(comparison, lowest)}, {away} backpropagation."


def _within_spread(one: Spread, other: Spread) -> str:
    deviations = [d for d in (one.deviation, other.deviation) if d is not None]
    if not deviations or one.mean == other.mean or abs(one.mean - other.mean) > max(deviations):
        return ""
    return ", a difference within the spread over seeds"


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
    return f"All are means over {kept}{count(seeds)} seeds."


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
    known = sorted(((arm, arm.cost) for arm in comparison.arms if arm.cost is not None), key=lambda pair: pair[1].ratio)
    if not known:
        return ""
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
