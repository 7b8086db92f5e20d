"""Draws the two figures of docs/bursts.md, beside itself: python docs/images/draw_bursts.py."""

import math
import random
from pathlib import Path

INK, EVENT, BURST = "#5b6770", "#2f6f9f", "#d1495b"
HEAD = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" font-family="sans-serif" font-size="13">'


def line(x1: float, y1: float, x2: float, y2: float, colour: str = INK, more: str = "") -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" {more}/>'


def text(x: float, y: float, words: str, colour: str = INK, anchor: str = "start") -> str:
    """Some words."""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}">{words}</text>'


def curve(points: list[tuple[float, float]], colour: str) -> str:
    """A line through points."""
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"/>'


def spike_trains() -> str:
    """Two signals in one spike train: events follow the soma's input, their bursts the apical dendrite's."""
    draw = random.Random(1)
    width, left, right = 720, 150, 700

    def soma(t: float) -> float:
        return 0.5 + 0.4 * math.sin(2 * math.pi * 1.5 * t)

    def apical(t: float) -> float:
        return 0.5 + 0.45 * math.sin(2 * math.pi * 2.6 * t + 1)

    parts = [HEAD.format(w=width, h=300)]
    times = [step / 200 for step in range(201)]
    for top, words, colour, signal in ((20, "input to the soma", EVENT, soma), (90, "input to the", BURST, apical)):
        parts.append(text(left - 12, top + 30, words, colour, "end"))
        parts.append(curve([(left + (right - left) * t, top + 55 - 45 * signal(t)) for t in times], colour))
    parts.append(text(left - 12, 136, "apical dendrite", BURST, "end"))
    for cell in range(5):
        top, t = 165 + 22 * cell, 0.0
        while (t := t + draw.expovariate(30)) < 1:
            if draw.random() > soma(t):
                continue
            x = left + (right - left) * t
            if draw.random() < apical(t):
                parts += [line(x + 4 * n, top, x + 4 * n, top + 16, BURST, 'stroke-width="2"') for n in range(2)]
            else:
                parts.append(line(x, top, x, top + 16, EVENT, 'stroke-width="2"'))
    parts.append(text(left - 12, 222, "five neurons' spikes", INK, "end"))
    parts.append(text(left, 294, "an event alone", EVENT))
    parts.append(text(left + 120, 294, "an event that becomes a burst", BURST))
    return "\n".join([*parts, "</svg>\n"])


def two_ways_down() -> str:
    """One step of the chain rule, by autograd and by bursts."""
    parts = [
        HEAD.format(w=720, h=300),
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0,0 L8,4 L0,8 z" fill="{INK}"/></marker></defs>',
    ]

    def arrow(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
        return line(x1, y1, x2, y2, colour, 'stroke-width="2" marker-end="url(#tip)"')

    for x, title in ((20, "autograd"), (380, "bursts")):
        parts.append(text(x, 22, title))
    for y, name in ((60, "layer l + 1"), (215, "layer l")):
        parts.append(f'<rect x="110" y="{y}" width="140" height="42" rx="6" fill="none" stroke="{INK}"/>')
        parts.append(text(180, y + 26, name, INK, "middle"))
        parts.append(f'<polygon points="560,{y + 42} 535,{y + 42} 547.5,{y}" fill="none" stroke="{INK}"/>')
        parts.append(line(547.5, y, 547.5, y - 16, BURST, 'stroke-width="3"'))
        parts.append(text(640, y + 26, f"neurons of {name}", INK, "middle"))
    parts += [
        arrow(150, 213, 150, 106, EVENT),
        text(140, 165, "h = W x", EVENT, "end"),
        arrow(210, 106, 210, 213, BURST),
        text(220, 150, "Wᵀ δ, then", BURST),
        text(220, 167, "times φ'", BURST),
        arrow(540, 213, 540, 106, EVENT),
        text(530, 150, "event rate e", EVENT, "end"),
        text(530, 167, "through W", EVENT, "end"),
        '<path d="M562,85 C610,120 600,190 553,199" fill="none" stroke="#d1495b" stroke-width="2" '
        'marker-end="url(#tip)"/>',
        text(604, 150, "burst rate b through Y,", BURST),
        text(604, 167, "to the apical dendrite", BURST),
        text(20, 288, "a second graph, signed errors, a copy of W"),
        text(380, 288, "the same neurons, rates above zero, weights of their own"),
    ]
    return "\n".join([*parts, "</svg>\n"]).replace('viewBox="0 0 720 300"', 'viewBox="0 0 760 300"')


def main() -> None:
    """Write both figures."""
    here = Path(__file__).parent
    (here / "burst-trains.svg").write_text(spike_trains(), encoding="utf-8")
    (here / "burst-graph.svg").write_text(two_ways_down(), encoding="utf-8")


if __name__ == "__main__":
    main()
