"""A figure of a comparison for print, drawn by matplotlib in the page's light colours, with its data as CSV."""

import io
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from apical.errors import ConfigError
from apical.report import styles
from apical.report.curve import Curve, angle_curve, curve
from apical.report.document import layer_title
from apical.study.comparison import frames
from apical.study.comparison.schema import Arm, Comparison
from apical.study.runs import files

FORMATS = (".svg", ".png", ".pdf")
PANELS = ("accuracy", "loss", "validation", "angles")
COLUMNS = 3
_MARKERS = dict(zip((name for name, _ in styles.MARKERS), "osD^PvX*", strict=True))
_DASHES = {"solid": "-", "dash": "--", "dot": ":"}

Row = dict[str, Any]


def draw(comparison: Comparison, path: Path, panels: Sequence[str] = PANELS[:3]) -> Path:
    """Draw panels of a comparison, with one legend, and write what they show as CSV beside the figure.

    Columns of the CSV: panel, arm, epoch (of a curve), seed (of a single run), value (a mean, or that of the run),
    deviation (the sample standard deviation), n (runs). Accuracies are in percent, angles in degrees.

    Args:
        comparison: what is drawn.
        path: of the figure; its suffix says the format, one of `FORMATS`.
        panels: some of "accuracy" (every seed, and mean and standard deviation), "loss" (of training), "validation"
            (accuracy) and "angles" (to the true gradient, a panel for each layer).

    Returns:
        The path of the CSV.

    Raises:
        ConfigError: another format or panel, nothing to draw, or matplotlib is not installed.
        RunError: a file cannot be written.
    """
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"{path}: the format of a figure is its suffix. Write one of {', '.join(FORMATS)}.")
    if not panels or not set(panels) <= set(PANELS):
        raise ConfigError(f"panels {', '.join(panels) or '(none)'}: write some of {', '.join(PANELS)}.")
    try:
        matplotlib, module = import_module("matplotlib"), import_module("matplotlib.figure")
    except ImportError as error:
        raise ConfigError('a figure needs the package matplotlib: pip install "apical[figures]"') from error
    drawn = [made for panel in panels for made in _panels(comparison, panel)]
    if not drawn:
        raise ConfigError(f"{comparison.title}: no run has numbers for {', '.join(panels)}. Choose other panels.")
    with matplotlib.rc_context({"font.size": 8, "svg.hashsalt": "apical", "pdf.fonttype": 42, "axes.titlesize": 9}):
        figure, table = _figure(module.Figure, comparison, drawn)
        content = io.BytesIO()
        kind = path.suffix[1:].lower()
        # Without the date the same data give the same file.
        undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": None}[kind]
        figure.savefig(content, format=kind, dpi=200, metadata=undated)
    files.make_folder(path.parent)
    files.atomic_write(path, content.getvalue())
    beside = path.with_suffix(".csv")
    frames.write_csv(table, beside)
    return beside


DrawArm = Callable[[Any, int, Arm, dict[str, Any], str], tuple[Any, list[Row]]]


def _figure(
    make: Callable[..., Any], comparison: Comparison, drawn: Sequence[tuple[str, str, DrawArm]]
) -> tuple[Any, list[Row]]:
    """A matplotlib figure with panels and one legend, and the rows of what it shows."""
    columns = min(COLUMNS, len(drawn))
    lines = -(-len(drawn) // columns)
    height = max(2.6, 0.2 * len(comparison.arms)) * lines + 0.08 * len(comparison.arms) + 0.3
    figure = make(figsize=(3.4 * columns, height), layout="constrained", facecolor="white")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    looks = styles.assign((arm.rule, arm.label) for arm in comparison.arms)
    table: list[Row] = []
    handles: dict[str, Any] = {}
    for place, (name, title, of_arm) in zip(axes, drawn, strict=False):
        place.set_title(title, loc="left")
        place.spines[["top", "right"]].set_visible(False)
        for index, arm in enumerate(comparison.arms):
            look = looks[arm.label]
            ink = {"color": look.ink, "marker": _MARKERS[look.marker]}
            handle, rows = of_arm(place, index, arm, ink, _DASHES[look.dash])
            table += [{"panel": name, "arm": arm.label, **row} for row in rows]
            if handle is not None:
                handles[arm.label] = handle  # that of a curve, which shows the dashes, comes after that of a mark
    for place in axes[len(drawn) :]:
        place.set_axis_off()
    figure.legend(
        handles.values(), handles, loc="outside lower center", ncols=min(len(handles), columns + 1), frameon=False
    )
    return figure, table


def _panels(comparison: Comparison, name: str) -> list[tuple[str, str, DrawArm]]:
    """The panels of a name that the comparison has numbers for: each with a title and what draws an arm."""
    if name == "accuracy":
        some = any(arm.accuracy() for arm in comparison.arms)
        return [(name, "Test accuracy (%)", partial(_dots, len(comparison.arms)))] if some else []
    kinds: dict[str, tuple[str, Callable[[Arm], Curve | None], float]] = {
        "loss": ("Training loss", partial(curve, quantity="train_loss"), 1.0),
        "validation": ("Validation accuracy (%)", partial(curve, quantity="validation_accuracy"), 100.0),
    }
    if name == "angles":
        kinds = {
            f"angle {layer}": (
                f"Angle to the gradient (°), {layer_title(layer)}",
                partial(angle_curve, layer=layer),
                1.0,
            )
            for layer in comparison.layers
        }
    chosen = kinds if name == "angles" else {name: kinds[name]}
    return [
        (key, title, partial(_line, of_arm, factor, name))
        for key, (title, of_arm, factor) in chosen.items()
        if any(of_arm(arm) for arm in comparison.arms)
    ]


def _dots(arms: int, place: Any, index: int, arm: Arm, ink: dict[str, Any], dash: str) -> tuple[Any, list[Row]]:
    """Every seed of an arm as a small mark, and its mean with one standard deviation."""
    place.set_yticks([])
    place.set_ylim(arms - 0.4, -0.6)
    spread = arm.accuracy()
    if spread is None:
        return None, []
    seeds = {run.seed: 100 * run.test_accuracy for run in arm.finished() if run.test_accuracy is not None}
    place.scatter(list(seeds.values()), [index + 0.2] * len(seeds), s=6, alpha=0.6, linewidths=0, **ink)
    deviation = None if spread.deviation is None else 100 * spread.deviation
    handle = place.errorbar(100 * spread.mean, index - 0.1, xerr=deviation, linestyle="none", ms=5, **ink)
    rows: list[Row] = [
        {"epoch": None, "seed": seed, "value": value, "deviation": None, "n": 1} for seed, value in seeds.items()
    ]
    return handle, [*rows, _row(None, 100 * spread.mean, deviation, spread.n)]


def _line(
    of_arm: Callable[[Arm], Curve | None],
    factor: float,
    panel: str,
    place: Any,
    index: int,
    arm: Arm,
    ink: dict[str, Any],
    dash: str,
) -> tuple[Any, list[Row]]:
    """The mean of an arm through training, and a band of one standard deviation."""
    known = of_arm(arm)
    if known is None:
        return None, []
    place.set_xlabel("epoch")
    place.xaxis.get_major_locator().set_params(integer=True)
    if panel == "angles":
        place.set_ylim(-4, 96)
    means = [factor * point.mean for point in known.points]
    deviations = [factor * (point.deviation or 0.0) for point in known.points]
    (handle,) = place.plot(known.epochs, means, dash, ms=3, lw=1.2, markevery=max(1, len(means) // 8), **ink)
    below, above = ([m + sign * d for m, d in zip(means, deviations, strict=True)] for sign in (-1, 1))
    if panel == "loss" and min(means) > 0:
        place.set_yscale("log")
        below = [max(low, mean / 3) for low, mean in zip(below, means, strict=True)]
    place.fill_between(known.epochs, below, above, color=ink["color"], alpha=0.12, lw=0)
    return handle, [
        _row(epoch, mean, None if point.deviation is None else factor * point.deviation, point.n)
        for epoch, mean, point in zip(known.epochs, means, known.points, strict=True)
    ]


def _row(epoch: int | None, mean: float, deviation: float | None, n: int) -> Row:
    return {"epoch": epoch, "seed": None, "value": mean, "deviation": deviation, "n": n}
