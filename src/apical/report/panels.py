"""Grids of panels with a curve for every rule: learning curves, angles."""

import html
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from apical.report.canvas import Spec, axis, canvas, reference_line
from apical.report.curve import Curve
from apical.report.styles import Style, Styles
from apical.study.comparison.schema import Arm, Comparison


@dataclass(frozen=True)
class Panel:
    """One pair of axes with a curve for every rule.

    `factor`, `unit` and `decimals` turn a value into what is shown; `range` and `ticks` of the vertical axis
    are Plotly's own choice where None; `line` is where a dotted reference runs across; `log` makes the vertical
    axis logarithmic and needs a `range`.
    """

    title: str
    curve: Callable[[Arm], Curve | None]
    factor: float = 1.0
    unit: str = ""
    decimals: int = 1
    range: tuple[float, float] | None = None
    ticks: tuple[float, ...] | None = None
    line: float | None = None
    log: bool = False


@dataclass(frozen=True)
class Cell:
    """Where a panel is: the suffix of its axes, and the parts of the figure's width and height that it takes."""

    suffix: str
    across: list[float]
    up: list[float]
    at_left: bool
    at_bottom: bool


def cells(panels: int, *, columns: int, height: int, between: int, gap: float) -> tuple[int, list[Cell]]:
    """The height of a grid in pixels, and the places of its panels.

    Args:
        panels: how many there are.
        columns: how many stand side by side.
        height: of a panel, in pixels.
        between: pixels between two rows.
        gap: between two columns, as a part of the width.
    """
    rows = math.ceil(panels / columns)
    total = rows * height + (rows - 1) * between
    width = (1 - gap * (columns - 1)) / columns
    found = []
    for position in range(panels):
        row, column = divmod(position, columns)
        left, above = column * (width + gap), row * (height + between)
        across, up = [left, min(1.0, left + width)], [max(0.0, 1 - (above + height) / total), 1 - above / total]
        found.append(Cell(axis_suffix(position), across, up, column == 0, position + columns >= panels))
    return total, found


def arms_with_curves(comparison: Comparison, panels: Sequence[Panel]) -> tuple[int, ...]:
    """The numbers of the rules that have a curve in any of the panels."""
    return tuple(i for i, arm in enumerate(comparison.arms) if any(panel.curve(arm) for panel in panels))


def curves(comparison: Comparison, styles: Styles, panels: Sequence[Panel]) -> list[Spec]:
    """For every panel and rule the mean, and behind it the band of one standard deviation."""
    data = []
    for position, panel in enumerate(panels):
        axes = {"xaxis": f"x{axis_suffix(position)}", "yaxis": f"y{axis_suffix(position)}"}
        for index, arm in enumerate(comparison.arms):
            curve = panel.curve(arm)
            if curve is not None:
                look = styles[arm.label]
                traces = [*_band(curve, panel, look), _mean(curve, panel, arm, look)]
                data += [{**trace, **axes, "meta": index} for trace in traces]
    return data


def grid(
    comparison: Comparison,
    panels: Sequence[Panel],
    *,
    columns: int,
    height: int,
    shared: bool = False,
    narrow: bool = False,
) -> Spec:
    """The layout of the panels, `height` pixels each.

    `shared`: one vertical scale for all, written beside the left column only.
    """
    gap = (0.025 if shared else 0.075) * (2 if narrow else 1)
    total, places = cells(len(panels), columns=columns, height=height, between=52 if shared else 66, gap=gap)
    last = _last_epoch(comparison, panels)
    layout = canvas(height=total, left=44, right=8, top=30, narrow=narrow)
    layout["hovermode"] = "x unified"
    for place, panel in zip(places, panels, strict=True):
        suffix = place.suffix
        layout[f"xaxis{suffix}"] = axis(
            narrow,
            domain=place.across,
            anchor=f"y{suffix}",
            showgrid=False,
            tickmode="linear",
            tick0=0,
            unifiedhovertitle={"text": "epoch %{x}"},
            dtick=_step(last, 4 if narrow or columns > 2 else 8),
            title="epoch" if place.at_bottom else "",
            **({"matches": "x"} if suffix else {}),
        )
        layout[f"yaxis{suffix}"] = axis(
            narrow,
            domain=place.up,
            anchor=f"x{suffix}",
            ticksuffix=panel.unit,
            showticklabels=not shared or place.at_left,
            **_scale(panel),
            **({"matches": "y"} if shared and suffix else {}),
        )
        layout["annotations"].append(heading(panel.title, suffix))
        layout["shapes"] += _reference(panel, suffix)
    return layout


def _last_epoch(comparison: Comparison, panels: Sequence[Panel]) -> int:
    known = [curve for arm in comparison.arms for panel in panels if (curve := panel.curve(arm))]
    return max((curve.epochs[-1] for curve in known), default=1)


def _reference(panel: Panel, suffix: str) -> list[Spec]:
    if panel.line is None:
        return []
    across = {"x0": 0, "x1": 1, "xref": f"x{suffix} domain", "yref": f"y{suffix}"}
    return [reference_line(y0=panel.line, y1=panel.line, **across)]


def _band(curve: Curve, panel: Panel, style: Style) -> list[Spec]:
    if all(point.n == 1 for point in curve.points):
        return []
    deviation = [point.deviation or 0.0 for point in curve.points]
    upper = [panel.factor * (p.mean + d) for p, d in zip(curve.points, deviation, strict=True)]
    lower = [panel.factor * (p.mean - d) for p, d in zip(curve.points, deviation, strict=True)]
    if panel.log and panel.range:  # zero and below are nowhere on a logarithmic axis: run out of the panel instead
        lower = [max(y, panel.range[0] / 2) for y in lower]
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [*curve.epochs, *reversed(curve.epochs)],
            "y": [*upper, *reversed(lower)],
            "fill": "toself",
            "fillcolor": style.band,
            "line": {"width": 0, "color": style.band},
            "hoverinfo": "skip",
        }
    ]


def _mean(curve: Curve, panel: Panel, arm: Arm, style: Style) -> Spec:
    name = html.escape(arm.label)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": list(curve.epochs),
        "y": [panel.factor * point.mean for point in curve.points],
        "name": name,
        "line": {"color": style.color, "width": 2, "dash": style.dash},
        "marker": {"color": style.color, "symbol": style.marker, "size": 7, "maxdisplayed": 12},
        "hovertext": [
            point.text(panel.decimals, unit=panel.unit, factor=panel.factor)
            + (f" (n = {point.n})" if point.n != len(arm.runs) else "")
            for point in curve.points
        ],
        "hovertemplate": "%{hovertext}<extra>%{fullData.name}</extra>",
    }


def heading(title: str, suffix: str) -> Spec:
    """The title above the panel whose axes have the suffix."""
    return {
        "text": f"<b>{html.escape(title)}</b>",
        "xref": f"x{suffix} domain",
        "yref": f"y{suffix} domain",
        "x": 0,
        "y": 1,
        "xanchor": "left",
        "yanchor": "bottom",
        "yshift": 6,
        "showarrow": False,
    }


def _scale(panel: Panel) -> Spec:
    scale: Spec = {}
    if panel.range is not None:
        scale["range"] = [math.log10(y) if panel.log else y for y in panel.range]
    if panel.log:
        scale["type"] = "log"
    if panel.ticks is None:
        return scale | {"nticks": 6}
    values = list(panel.ticks)
    return scale | {"tickmode": "array", "tickvals": values, "ticktext": [f"{value:g}{panel.unit}" for value in values]}


def _step(last: int, most: int) -> int:
    """The least of 1, 2, 5, 10, 20, ... that makes at most `most` steps up to `last`."""
    step = 1
    for factor in itertools.cycle((2, 2.5, 2)):
        if last <= step * most:
            break
        step = round(step * factor)
    return step


def axis_suffix(position: int) -> str:
    """Plotly calls the first axis "x", the second "x2"."""
    return "" if position == 0 else str(position + 1)
