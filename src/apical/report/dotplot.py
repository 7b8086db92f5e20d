"""Dot plots with a line for every rule: final accuracies, cost."""

import html
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from apical.report.canvas import Spec, axis, canvas, reference_line
from apical.report.styles import Style


@dataclass(frozen=True)
class Line:
    """One rule's line: its name, its value in words, and what its marks reach over (nothing: it has none)."""

    label: str
    value: str
    reach: tuple[float, ...] = ()


def dots(index: int, style: Style, x: Sequence[float], *, hover: Sequence[str], size: int, offset: float = 0) -> Spec:
    """Marks at `x` on row `index`, `offset` rows below its middle."""
    return {
        "type": "scatter",
        "mode": "markers",
        "x": list(x),
        "y": [index + offset] * len(x),
        "marker": {"color": style.color, "symbol": style.marker, "size": size},
        "hovertext": [html.escape(text) for text in hover],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "meta": index,
    }


def bar(style: Style, below: float, above: float) -> Spec:
    """A horizontal error bar over `below` and `above` its mark."""
    ends = {"array": [max(0.0, above)], "arrayminus": [max(0.0, below)], "symmetric": False}
    return {**ends, "color": style.color, "thickness": 2, "width": 5}


def lines(rows: Sequence[Line], title: str, mark: float | None, *, narrow: bool = False) -> Spec:
    """The layout: names at the left, values at the right where there is room, a dotted line at `mark`."""
    reach = [x for row in rows for x in row.reach] + ([] if mark is None else [mark])
    room = 0.06 * (max(reach) - min(reach)) or 0.5
    names = [textwrap.wrap(row.label, 17 if narrow else 36) for row in rows]
    left = 20 + 7 * max(len(line) for name in names for line in name)  # pixels: a letter is some 7 wide
    layout = canvas(height=len(rows) * 44, left=left, right=14 if narrow else 110, top=8, narrow=narrow)
    layout["hovermode"] = "closest"
    layout["xaxis"] = axis(narrow, title=title, range=[min(reach) - room, max(reach) + room], nticks=6)
    layout["yaxis"] = axis(narrow, range=[len(rows) - 0.4, -0.6], showgrid=False, showticklabels=False)
    if mark is not None:
        layout["shapes"].append(reference_line(x0=mark, x1=mark, y0=0, y1=1, xref="x", yref="y domain"))
    for index, (row, name) in enumerate(zip(rows, names, strict=True)):
        ink = {"font": {"color": "var(--ink)"}}
        layout["annotations"].append(_words(name, index, x=0, xshift=-left, **ink))
        if not row.reach:
            layout["annotations"].append(_words([row.value], index, x=0, xshift=8))
        elif not narrow:
            layout["annotations"].append(_words([row.value], index, x=1, xshift=12, **ink))
    return layout


def _words(lines: Sequence[str], index: int, **place: Any) -> Spec:
    text = "<br>".join(html.escape(line) for line in lines)
    fixed = {"xref": "paper", "yref": "y", "y": index, "xanchor": "left", "align": "left", "showarrow": False}
    return {**fixed, "text": text, **place}
