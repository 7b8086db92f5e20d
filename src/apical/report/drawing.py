"""Figures drawn as SVG without a script: rasters of maps and matrices, and line charts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from apical.report.styles import LIGHT, MARKERS

LEVELS = 8  # of a raster's shade
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 440, 260, 52, 44, 12, 16


@dataclass(frozen=True)
class Raster:
    """A map or matrix in shades: for each level from 1 to `LEVELS`, the outline of its bins; the first row is lowest.

    Attributes:
        columns: their number.
        rows: their number.
        shades: pairs of an opacity and an SVG path in units of bins.
        grey: the path of bins without a value.
    """

    columns: int
    rows: int
    shades: list[tuple[float, str]]
    grey: str


def raster(values: Tensor, highest: float | None = None) -> Raster:
    """Shades of values from 0 to the highest; what rounds to 0, and values below, stay blank.

    Args:
        values: (rows, columns).
        highest: what is darkest; the highest value by default.
    """
    rows, columns = values.shape
    top = values.nan_to_num(0.0).max().item() if highest is None else highest
    levels = (values / (top or 1.0) * LEVELS).round().clamp(0, LEVELS).nan_to_num(-1.0).int()
    paths = _runs(levels.tolist())
    shades = [(level / LEVELS, paths[level]) for level in range(1, LEVELS + 1) if level in paths]
    return Raster(columns, rows, shades, paths.get(-1, ""))


def _runs(levels: list[list[int]]) -> dict[int, str]:
    """For each level but 0, the path of its bins; neighbours in a row become one rectangle."""
    paths: dict[int, list[str]] = {}
    for row, line in enumerate(reversed(levels)):
        start = 0
        for column in range(1, len(line) + 1):
            if column == len(line) or line[column] != line[start]:
                if line[start]:
                    paths.setdefault(line[start], []).append(f"M{start} {row}h{column - start}v1h{start - column}z")
                start = column
    return {level: "".join(parts) for level, parts in paths.items()}


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        title: of the legend.
        color: a CSS variable.
        marker: an SVG path around 0.
        path: an SVG path.
        points: of the markers, in the chart's coordinates.
        values: of the points, as they are.
    """

    title: str
    color: str
    marker: str
    path: str
    points: list[tuple[float, float]]
    values: list[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """A line chart in a box of `width` x `height`, with ticks as pairs of a place and a label.

    Attributes:
        lines: what is drawn.
        x_ticks: along x.
        y_ticks: along y.
        x_label: of the axis.
        y_label: of the axis.
        diagonal: the path where x equals y, or nothing.
    """

    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    x_label: str
    y_label: str
    diagonal: str = ""
    width: int = _WIDTH
    height: int = _HEIGHT
    left: int = _LEFT
    right: int = _WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = _HEIGHT - _BOTTOM


def chart(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    x_label: str,
    y_label: str,
    *,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    log_x: bool = False,
    log_y: bool = False,
    diagonal: bool = False,
) -> Chart:
    """Lines by title; the axes reach from the first tick to the last. Values that are not finite are left out."""

    def place(value: float, ticks: Sequence[float], log: bool, low: float, high: float) -> float:
        scale = math.log10 if log else float
        first, last = scale(ticks[0]), scale(ticks[-1])
        value = min(max(value, min(ticks)), max(ticks))
        return round(low + (scale(value) - first) / (last - first) * (high - low), 1)

    def across(x: float) -> float:
        return place(x, x_ticks, log_x, _LEFT, _WIDTH - _RIGHT)

    def up(y: float) -> float:
        return place(y, y_ticks, log_y, _HEIGHT - _BOTTOM, _TOP)

    lines = []
    for number, (title, curve) in enumerate(curves.items()):
        values = [(x, y) for x, y in curve if math.isfinite(x) and math.isfinite(y)]
        points = [(across(x), up(y)) for x, y in values]
        path = "M" + "L".join(f"{x} {y}" for x, y in points) if points else ""
        color = f"var(--rule-{1 + number % (len(LIGHT) - 1)})"
        lines.append(Line(title, color, MARKERS[number % len(MARKERS)][1], path, points, values))
    low, high = max(x_ticks[0], y_ticks[0]), min(x_ticks[-1], y_ticks[-1])
    return Chart(
        lines,
        [(across(each), f"{each:g}") for each in x_ticks],
        [(up(each), f"{each:g}") for each in y_ticks],
        x_label,
        y_label,
        f"M{across(low)} {up(low)}L{across(high)} {up(high)}" if diagonal else "",
    )
