"""What all figures share: an empty layout in the page's own colours and type."""

from dataclasses import dataclass
from typing import Any

Spec = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """A figure and the words around it; `legend` numbers the rules that its legend lists."""

    name: str
    heading: str
    caption: str
    legend: tuple[int, ...]
    data: list[Spec]
    wide: Spec
    narrow: Spec

    @property
    def spec(self) -> Spec:
        """What the page's script draws."""
        return {"data": self.data, "wide": self.wide, "narrow": self.narrow}


def canvas(*, height: int, left: int, right: int, top: int, narrow: bool) -> Spec:
    """A layout without axes: `height` pixels between margins of `left`, `right` and `top` pixels."""
    bottom = 46
    return {
        "height": height + top + bottom,
        "margin": {"l": left, "r": right, "t": top, "b": bottom},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "var(--soft)", "activecolor": "var(--ink)"},
        "showlegend": False,  # the page has a legend that wraps and that a keyboard reaches
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "var(--sans)", "size": 12 if narrow else 13, "color": "var(--soft)"},
        "hoverlabel": {
            "bgcolor": "var(--raised)",
            "bordercolor": "var(--line)",
            "font": {"family": "var(--sans)", "size": 12, "color": "var(--ink)"},
            "align": "left",
        },
        "dragmode": False if narrow else "zoom",  # a finger on a figure scrolls the page
        "uirevision": "keep",  # zoom survives a redraw in the other theme
        "annotations": [],
        "shapes": [],
    }


def axis(narrow: bool, *, title: str = "", **settings: Any) -> Spec:
    """An axis with a faint grid, which only the wide layout lets a reader zoom."""
    words = {"text": title, "standoff": 8, "font": {"size": 12 if narrow else 13}}
    lines = {"gridcolor": "var(--line)", "linecolor": "var(--line)", "zeroline": False}
    return {**lines, "title": words, "fixedrange": narrow, **settings}


def reference_line(**ends: Any) -> Spec:
    """A dotted line from (x0, y0) to (x1, y1)."""
    line = {"color": "var(--soft)", "width": 1, "dash": "dot"}
    return {"type": "line", "line": line, **ends}
