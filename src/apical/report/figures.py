"""The figures of a comparison as Plotly specifications: plain data, two layouts each (wide page, phone).

Colours and fonts are CSS variables, which the page's script resolves, so that a figure follows the light or
dark page. Traces carry the number of their rule in `meta`, which is what a legend entry hides.
"""

import functools
import math

from apical.report.canvas import Figure, Spec
from apical.report.curve import angle_curve, carried_curve, curve, quantities
from apical.report.document import layer_title
from apical.report.dotplot import Line, bar, dots, lines
from apical.report.panels import Panel, arms_with_curves, curves, grid
from apical.report.spikes import raster
from apical.report.styles import Styles
from apical.study.comparison.schema import Comparison

TRAINING_LOSS = functools.partial(curve, quantity="train_loss")
VALIDATION_ACCURACY = functools.partial(curve, quantity="validation_accuracy")


def figures(comparison: Comparison, styles: Styles) -> list[Figure]:
    """Every figure that the comparison has numbers for."""
    makers = (learning_curves, final_accuracy, angles, carried, raster, cost)
    return [figure for make in makers if (figure := make(comparison, styles)) is not None]


def learning_curves(comparison: Comparison, styles: Styles) -> Figure | None:
    """Training loss and validation accuracy over epochs: mean, and a band of one standard deviation."""
    decimals = comparison.accuracy_decimals
    both = (_loss_panel(comparison), Panel("Validation accuracy", VALIDATION_ACCURACY, 100, " %", decimals))
    panels = [panel for panel in both if arms_with_curves(comparison, [panel])]
    if not panels:
        return None
    several = "Mean over seeds; the band is ± one standard deviation (n = {n})."
    return Figure(
        name="learning",
        heading="Learning curves",
        caption=_over_seeds(comparison, several, "One seed."),
        legend=arms_with_curves(comparison, panels),
        data=curves(comparison, styles, panels),
        wide=grid(comparison, panels, columns=len(panels), height=300),
        narrow=grid(comparison, panels, columns=1, height=220, narrow=True),
    )


def final_accuracy(comparison: Comparison, styles: Styles) -> Figure | None:
    """Test accuracy of every seed, with mean and standard deviation."""
    accuracies = [arm.accuracy() for arm in comparison.arms]
    if sum(spread.n for spread in accuracies if spread) < 2:
        return None  # a single number needs no figure
    decimals = comparison.accuracy_decimals
    rows: list[Line] = []
    data: list[Spec] = []
    for index, (arm, spread) in enumerate(zip(comparison.arms, accuracies, strict=True)):
        if spread is None:
            rows.append(Line(arm.label, "failed" if arm.failures() else "not measured"))
            continue
        style = styles[arm.label]
        mean, deviation = 100 * spread.mean, 100 * (spread.deviation or 0.0)
        seeds = {run.seed: 100 * run.test_accuracy for run in arm.finished() if run.test_accuracy is not None}
        hover = [f"{arm.label}, seed {seed}: {accuracy:.{decimals}f} %" for seed, accuracy in seeds.items()]
        data.append(dots(index, style, list(seeds.values()), hover=hover, size=7, offset=0.24) | {"opacity": 0.6})
        text = spread.text(decimals, factor=100)
        hover = [f"{arm.label}: {text} % (n = {spread.n})"]
        data.append(dots(index, style, [mean], hover=hover, size=11, offset=-0.08))
        if spread.n > 1:
            data[-1]["error_x"] = bar(style, deviation, deviation)
        rows.append(Line(arm.label, text, (*seeds.values(), mean - deviation, mean + deviation)))
    mark = _reference_accuracy(comparison)
    several = "Large marker and bar: mean ± one standard deviation over seeds (n = {n}). Small: every seed."
    caption = _over_seeds(comparison, several, "One seed.")
    return Figure(
        name="accuracy",
        heading="Final test accuracy",
        caption=caption + (" Dotted: the mean of backpropagation." if mark is not None else ""),
        legend=(),
        data=data,
        wide=lines(rows, "test accuracy (%)", mark),
        narrow=lines(rows, "test accuracy (%)", mark, narrow=True),
    )


def _reference_accuracy(comparison: Comparison) -> float | None:
    reference = comparison.reference
    accuracy = reference.accuracy() if reference else None
    return 100 * accuracy.mean if accuracy else None


def angles(comparison: Comparison, styles: Styles) -> Figure | None:
    """The angle to the true gradient through training, one panel a layer."""
    layers = comparison.layers
    known = [angle for arm in comparison.arms for layer in layers if (angle := angle_curve(arm, layer))]
    if not known:
        return None
    top = max(95.0, 5 + max(point.mean + (point.deviation or 0) for angle in known for point in angle.points))
    titles = [layer_title(layer) for layer in layers]
    longest = max(len(title) for title in titles)
    columns = max(1, min(4, len(layers), 120 // longest))  # some 120 letters fit side by side, on a phone 40
    narrow = max(1, min(2, columns, 40 // longest))
    panels = [
        Panel(
            title,
            functools.partial(angle_curve, layer=layer),
            unit="°",
            range=(-4, top),
            ticks=tuple(range(0, int(top) + 1, 30)),
            line=90,
        )
        for layer, title in zip(layers, titles, strict=True)
    ]
    single = "0° is the gradient itself, 90° (dotted) no better than a random direction."
    several = single + " Mean ± one standard deviation over seeds (n = {n})."
    return Figure(
        name="angles",
        heading="Angle to the true gradient",
        caption=_over_seeds(comparison, several, single),
        legend=arms_with_curves(comparison, panels),
        data=curves(comparison, styles, panels),
        wide=grid(comparison, panels, columns=columns, height=240 if columns < 4 else 190, shared=True),
        narrow=grid(comparison, panels, columns=narrow, height=150, shared=True, narrow=True),
    )


def carried(comparison: Comparison, styles: Styles) -> Figure | None:
    """What the rules' signals are made of through training, one panel a quantity."""
    names = list(dict.fromkeys(name for arm in comparison.arms for name in quantities(arm)))
    if not names:
        return None
    panels = [
        Panel(name.replace("_", " ").capitalize(), functools.partial(carried_curve, quantity=name), decimals=3)
        for name in names
    ]
    single = "The mean over units, examples and layers, of what each rule carries while it teaches."
    several = single + " Mean ± one standard deviation over seeds (n = {n})."
    return Figure(
        name="carried",
        heading="What the signals are made of",
        caption=_over_seeds(comparison, several, single),
        legend=arms_with_curves(comparison, panels),
        data=curves(comparison, styles, panels),
        wide=grid(comparison, panels, columns=min(3, len(panels)), height=190),
        narrow=grid(comparison, panels, columns=1, height=150, narrow=True),
    )


def cost(comparison: Comparison, styles: Styles) -> Figure | None:
    """Time of a training step as a ratio to plain PyTorch."""
    if not any(arm.timing for arm in comparison.arms):
        return None
    rows: list[Line] = []
    data: list[Spec] = []
    for index, arm in enumerate(comparison.arms):
        if arm.timing is None:
            rows.append(Line(arm.label, "machine too busy" if arm.cost else "not measured"))
            continue
        style, ratio = styles[arm.label], arm.timing.ratio
        low = ratio if arm.timing.low is None else arm.timing.low
        high = ratio if arm.timing.high is None else arm.timing.high
        hover = [f"{arm.label}: {ratio:.3f} × ({low:.3f} to {high:.3f})"]
        data.append(dots(index, style, [ratio], hover=hover, size=11))
        data[-1]["error_x"] = bar(style, ratio - low, high - ratio)
        rows.append(Line(arm.label, f"{ratio:.2f} ×", (ratio, low, high)))
    return Figure(
        name="cost",
        heading="Cost of a training step",
        caption="Time of a whole step divided by that of plain PyTorch (dotted): median and quartiles.",
        legend=(),
        data=data,
        wide=lines(rows, "ratio to plain PyTorch", 1.0),
        narrow=lines(rows, "ratio to plain PyTorch", 1.0, narrow=True),
    )


def _loss_panel(comparison: Comparison) -> Panel:
    """Logarithmic, so that a rule that diverges does not flatten the others; linear where a loss is 0."""
    known = [losses for arm in comparison.arms if (losses := TRAINING_LOSS(arm))]
    points = [point for losses in known for point in losses.points]
    lowest = min((point.mean for point in points), default=0.0)
    if lowest <= 0:
        return Panel("Training loss", TRAINING_LOSS, decimals=3)
    low = min(max(point.mean - (point.deviation or 0), point.mean / 3) for point in points) / 1.1
    high = max(point.mean + (point.deviation or 0) for point in points) * 1.1
    title = "Training loss (log scale)"
    return Panel(title, TRAINING_LOSS, decimals=3, range=(low, high), ticks=_log_ticks(low, high), log=True)


def _log_ticks(low: float, high: float) -> tuple[float, ...]:
    """Some round numbers between: 1, 2, 5, 10, ... or, over more than two decades, powers of ten."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    stride = math.ceil((last - first) / 8)
    digits = (1, 2, 5) if last - first <= 3 else (1,)
    values = (digit * 10.0**power for power in range(first, last + 1, stride) for digit in digits)
    return tuple(value for value in values if low <= value <= high)


def _over_seeds(comparison: Comparison, several: str, single: str) -> str:
    seeds = len(comparison.seeds)
    return several.format(n=comparison.sample) if seeds > 1 else single
