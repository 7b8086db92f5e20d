"""The trisynaptic loop: the cost of its step, the angle of its update to the gradient, and the rules that give fields.

    python benchmarks/hippocampus.py speed        # a whole step beside plain PyTorch's, alternating
    python benchmarks/hippocampus.py angles       # counter-current inhibition against its gain and its tonic rate
    python benchmarks/hippocampus.py fields       # error, and the share of cells with one field, rule by rule
    python benchmarks/hippocampus.py figures --out docs/images     # the figures of docs/hippocampus.md, as SVG

The input is that of 300 grid and 300 cue cells in a square of 2,500 places (`apical.hippocampus.World`). `--seeds` is
the number of worlds, `--out` a folder for numbers as JSON, or for figures. Angles and fields take some ten seconds for
each arm and seed on one thread, the figures about a minute: they show what `apical hippocampus` computes, seed 0.
"""

import argparse
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

import apical
from apical.hippocampus import Square, TrisynapticLoop, World
from apical.hippocampus.demonstration import Demonstration, demonstrate
from apical.hippocampus.fields import find
from apical.measure import StepCost, alignment, step_cost
from apical.report.drawing import Chart, raster
from apical.report.hippocampus import charts
from apical.report.styles import LIGHT

AREAS = ("dentate", "ca3", "ca1")
EPOCHS, BATCH, LEARNING_RATE = 10, 64, 1e-3
DENSE = {"sparsity": "none", "homeostasis": False}
INK, SOFT, FAINT, BLUE = LIGHT[0], "#5b6068", "#d9dade", LIGHT[1]
SHOWN = {
    "CA3, untrained": "CA3 before learning",
    "CA3, trained": "CA3 after learning",
    "sparse coding": "sparse coding",
}
Inhibition = apical.CountercurrentInhibition
Arm = tuple[str, dict[str, Any], Callable[[], apical.LearningRule]]


def own_target(y: Tensor, x: Tensor) -> Tensor:
    """The loss of `Circuit.learn`."""
    return 0.5 * (y - x).square().sum() / len(x)


def speed(repeats: int) -> dict[str, dict[str, float]]:
    """The ratio of a step to plain PyTorch's, for loops with and without competition."""
    rules = {"backprop": apical.Backprop, "countercurrent_inhibition": Inhibition}
    found = {}
    for sparsity in ("none", "l1", "k_winners"):
        for batch in (8, 64):
            torch.manual_seed(0)
            x = torch.rand(batch, 600)
            costs = step_cost(
                TrisynapticLoop(600, sparsity=sparsity), rules, x, x, loss=own_target, repeats=repeats, steps_per_turn=2
            )
            for name, cost in costs.items():
                found[f"{sparsity}, batch {batch}, {name}"] = figures(cost)
                print(
                    f"{sparsity:10} batch {batch:4} {name:26} {cost.ratio:.3f} ({cost.low:.3f} to {cost.high:.3f}) of "
                    f"{cost.plain_milliseconds:.2f} ms",
                    flush=True,
                )
    return found


def figures(cost: StepCost) -> dict[str, float]:
    return {"ratio": cost.ratio, "low": cost.low, "high": cost.high, "plain_milliseconds": cost.plain_milliseconds}


def angle_arms() -> Iterator[Arm]:
    for name, options in (("dense", DENSE), ("homeostasis, k-winners", {})):
        for gain, tonic in ((0.03, 1.0), (0.1, 1.0), (0.3, 1.0), (1.0, 1.0), (0.1, 0.3), (0.1, 0.1)):
            yield f"{name}, gain {gain}, tonic {tonic}", options, lambda g=gain, t=tonic: Inhibition(gain=g, tonic=t)


def field_arms() -> Iterator[Arm]:
    rules: dict[str, Callable[[], apical.LearningRule]] = {
        "backprop": apical.Backprop,
        **{
            f"countercurrent_inhibition, {pathway}": lambda p=pathway: Inhibition(feedback=p)
            for pathway in ("tied", "fixed", "sign_symmetric", "kolen_pollack")
        },
        "feedback_alignment": apical.FeedbackAlignment,
        "direct_feedback_alignment": apical.DirectFeedbackAlignment,
        "kolen_pollack": apical.KolenPollack,
        "burst_ccn": apical.BurstCCN,
    }
    for name, rule in rules.items():
        yield name, {}, rule


def inputs(seed: int) -> Tensor:
    """The rates of all entorhinal cells at all places, (places, cells)."""
    arena = Square()
    return World.make(arena, seed=seed)(arena.centres())


@torch.no_grad()
def cells(loop: TrisynapticLoop, x: Tensor) -> dict[str, float]:
    """The share of each area's cells that have one field, and the error over the input's variance."""
    loop.calibrate(x)
    loop.eval()
    areas = loop.areas(x)
    side = round(len(x) ** 0.5)
    found = {name: find(getattr(areas, name).T.reshape(-1, side, side)).single for name in AREAS}
    error = (areas.deep - x).square().sum() / (x - x.mean(0)).square().sum()
    loop.train()
    return {**found, "error": float(error)}


def angles(circuit: apical.Circuit, x: Tensor) -> dict[str, float]:
    """Degrees between update and gradient of each area."""
    found = alignment(circuit, x, x, own_target)
    return {area: found[f"{area}.0"] for area in AREAS}


def train(options: dict[str, Any], rule: apical.LearningRule, x: Tensor, seed: int) -> dict[str, dict[str, float]]:
    """Angles and cells before and after training."""
    torch.manual_seed(seed)
    loop = TrisynapticLoop(x.shape[1], **options)
    circuit = apical.Circuit(loop, rule)
    optimizer = torch.optim.AdamW(
        circuit.parameters(), LEARNING_RATE, weight_decay=rule.recommends().get("weight_decay", 0.0)
    )
    generator = torch.Generator().manual_seed(seed)
    probe = x[torch.randperm(len(x), generator=generator)[:BATCH]]
    before = {"angles before": angles(circuit, probe), "untrained": cells(loop, x)}
    for _ in range(EPOCHS):
        for places in torch.randperm(len(x), generator=generator).split(BATCH):
            optimizer.zero_grad()
            circuit.learn(x[places])
            optimizer.step()
    return {**before, "angles after": angles(circuit, probe), "trained": cells(loop, x)}


def average(runs: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    return {part: {name: mean(run[part][name] for run in runs) for name in runs[0][part]} for part in runs[0]}


def trained(arms: Iterator[Arm], seeds: int, parts: tuple[str, ...]) -> dict[str, list[dict[str, dict[str, float]]]]:
    """Every arm on every seed, and a line for each arm with the means."""
    found = {}
    print(
        f"{'':44}" + "   ".join(f"{part} ({', '.join((*AREAS, *['error'] * ('trained' in part)))})" for part in parts)
    )
    for name, options, make in arms:
        found[name] = [train(options, make(), inputs(seed), seed) for seed in range(seeds)]
        means = average(found[name])
        figures = ["  ".join(f"{means[part][key]:6.2f}" for key in means[part]) for part in parts]
        print(f"{name:44}" + "   |   ".join(figures), flush=True)
    return found


def text(x: float, y: float, words: str, more: str = 'text-anchor="middle"') -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{SOFT}" {more}>{words}</text>'


def plot(each: Chart, x: float) -> str:
    """A chart with its legend below, moved to the right by x."""
    middle = (each.left + each.right) / 2, (each.top + each.bottom) / 2
    parts = [f'<g transform="translate({x} 0)" fill="none">']
    for place, label in each.x_ticks:
        parts.append(f'<path stroke="{FAINT}" d="M{place} {each.top}V{each.bottom}"/>')
        parts.append(text(place, each.bottom + 16, label))
    for place, label in each.y_ticks:
        parts.append(f'<path stroke="{FAINT}" d="M{each.left} {place}H{each.right}"/>')
        parts.append(text(each.left - 7, place + 4, label, 'text-anchor="end"'))
    parts.append(text(middle[0], each.height - 6, each.x_label))
    turned = f'text-anchor="middle" transform="translate(13 {middle[1]}) rotate(-90)"'
    parts.append(text(0, 0, each.y_label, turned))
    parts.append(f'<path stroke="{SOFT}" stroke-dasharray="4 4" d="{each.diagonal}"/>' if each.diagonal else "")
    for number, line in enumerate(each.lines):
        color, below = LIGHT[1 + number % (len(LIGHT) - 1)], each.height + 16 + 18 * number
        parts.append(f'<path stroke="{color}" stroke-width="1.8" d="{line.path}"/>')
        parts += [
            f'<path fill="{color}" transform="translate({across} {down}) scale(.7)" d="{line.marker}"/>'
            for across, down in [*line.points, (each.left + 6, below - 4)]
        ]
        parts.append(text(each.left + 18, below, line.title, 'text-anchor="start"'))
    return "".join([*parts, "</g>"])


def sheet(shown: Demonstration, side: int = 66, gap: int = 6, count: int = 9) -> str:
    """Rate maps of some cells before and after learning, and of sparse coding, a row each."""
    parts = []
    for row, (group, title) in enumerate(SHOWN.items()):
        top = row * (side + 30)
        parts.append(text(0, top + 14, f"{title}: {shown.cells[group]['single']:.0%} of cells with one field", ""))
        for column, values in enumerate(shown.maps[group][:count]):
            each = raster(values)
            corner = f"translate({column * (side + gap)} {top + 20}) scale({side / each.columns:.4f})"
            parts.append(
                f'<g transform="{corner}"><path fill="#f4f3ef" d="M0 0h{each.columns}v{each.rows}h-{each.columns}z"/>'
            )
            parts += [f'<path fill="{BLUE}" fill-opacity="{shade}" d="{path}"/>' for shade, path in each.shades]
            parts.append("</g>")
    return document(count * (side + gap) - gap, len(SHOWN) * (side + 30), "".join(parts))


def document(width: float, height: float, content: str) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-8 -4 {width + 16} {height + 8}"'
    ground = f'<rect x="-8" y="-4" width="{width + 16}" height="{height + 8}" fill="#ffffff"/>'
    return f'{head} font-family="sans-serif" font-size="12">{ground}{content}</svg>\n'


def figures_of(shown: Demonstration) -> dict[str, str]:
    """The figures as SVG by file name."""
    found = charts(shown)

    def beside(*names: str) -> str:
        some: Sequence[Chart] = [found[name] for name in names]
        height = max(each.height + 18 * len(each.lines) + 6 for each in some)
        parts = [plot(each, number * (each.width + 16)) for number, each in enumerate(some)]
        return document(len(some) * (some[0].width + 16) - 16, height, "".join(parts))

    return {
        "hippocampus-maps.svg": sheet(shown),
        "hippocampus-rooms.svg": beside("mismatch"),
        "hippocampus-codes.svg": beside("separation", "completion"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "angles", "fields", "figures"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")
    if given.what == "figures":
        for name, drawn in figures_of(demonstrate()).items():
            ((given.out or Path()) / name).write_text(drawn, encoding="utf-8")
        return
    if given.what == "speed":
        found: Any = speed(given.repeats)
    elif given.what == "angles":
        found = trained(angle_arms(), given.seeds, ("angles before", "angles after"))
    else:
        found = trained(field_arms(), given.seeds, ("untrained", "trained"))
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        path = given.out / f"hippocampus_{given.what}.json"
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
