"""How a rule looks, the same in every figure and table of a page.

Backpropagation, the reference, is drawn in ink. The other rules take seven hues that stay apart under
protanopia, deuteranopia and tritanopia on the light and on the dark page (a test simulates all
three), and each has a marker of its own, so that colour is never the only cue.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

LIGHT = ("#1d1f24", "#27508f", "#a8330a", "#1f8a5b", "#e0559b", "#b08b1e", "#149bd8", "#8347c6")
DARK = ("#eceae4", "#3f7ef0", "#de4a14", "#34b67a", "#bf5f99", "#f2c230", "#86d0fc", "#ab92e8")

# Plotly's name of a marker, and the same shape as an SVG path in a box from -6 to 6 for legends and tables.
MARKERS = (
    ("circle", "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0Z"),
    ("square", "M-4 -4H4V4H-4Z"),
    ("diamond", "M0 -5.5L5.5 0L0 5.5L-5.5 0Z"),
    ("triangle-up", "M0 -5L5 4H-5Z"),
    ("cross", "M-1.7 -5H1.7V-1.7H5V1.7H1.7V5H-1.7V1.7H-5V-1.7H-1.7Z"),
    ("triangle-down", "M0 5L5 -4H-5Z"),
    ("x", "M-4.6 -2.3L-2.3 -4.6L0 -2.3L2.3 -4.6L4.6 -2.3L2.3 0L4.6 2.3L2.3 4.6L0 2.3L-2.3 4.6L-4.6 2.3L-2.3 0Z"),
    ("star", "M0 -5.6L1.5 -1.9L5.4 -1.7L2.4 0.8L3.4 4.6L0 2.5L-3.4 4.6L-2.4 0.8L-5.4 -1.7L-1.5 -1.9Z"),
)
DASHES = ("solid", "dash", "dot")  # a further round of hues gets another dash


@dataclass(frozen=True)
class Style:
    """The look of one rule: CSS variables for the colours, so that it follows the page's light or dark.

    `ink` is the colour on paper, that of the light page.
    """

    color: str
    ink: str
    band: str
    marker: str
    path: str
    dash: str


Styles = Mapping[str, Style]


def assign(arms: Iterable[tuple[str, str]]) -> dict[str, Style]:
    """A style for each label of the (rule, label) pairs, in order of first appearance."""
    styles: dict[str, Style] = {}
    turn = 0
    for rule, label in arms:
        if label in styles:
            continue
        if rule == "backprop" and not any(style.color == "var(--rule-0)" for style in styles.values()):
            styles[label] = _style(0, 0, 0)
            continue
        hues = len(LIGHT) - 1
        styles[label] = _style(1 + turn % hues, (1 + turn) % len(MARKERS), turn // hues)
        turn += 1
    return styles


def _style(hue: int, marker: int, lap: int) -> Style:
    name, path = MARKERS[marker]
    return Style(f"var(--rule-{hue})", LIGHT[hue], f"var(--band-{hue})", name, path, DASHES[lap % len(DASHES)])
