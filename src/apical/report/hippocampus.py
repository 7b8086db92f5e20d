"""The page of the hippocampus: what one loop shows in one world, and what holds over seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apical.hippocampus.claims import judged
from apical.hippocampus.demonstration import Demonstration
from apical.report import styles
from apical.report.drawing import Chart, Raster, chart, raster
from apical.report.page import environment, write_text

_TITLES = {"dentate": "Dentate gyrus", "ca3": "CA3", "ca1": "CA1", "deep": "Deep entorhinal layers"}
_TENTHS = [tick / 5 for tick in range(6)]


def render(shown: Demonstration, runs: Sequence[Mapping[str, Any]] = ()) -> str:
    """The page as HTML text, which needs nothing beside itself.

    Args:
        shown: a demonstration.
        runs: of `apical.hippocampus.claims`, for the table of claims.
    """
    claims = [(claim, verdict, pairs) for claim, verdict, pairs in judged(runs) if pairs]
    return (
        environment()
        .get_template("hippocampus.html.j2")
        .render(
            shown=shown,
            maps={name: [raster(each) for each in maps] for name, maps in shown.maps.items()},
            matrices=_matrices(shown),
            charts=charts(shown),
            claims=claims,
            seeds=sorted({each["seed"] for each in runs}),
            palette={"light": styles.LIGHT, "dark": styles.DARK},
        )
    )


def write(shown: Demonstration, path: str | Path, runs: Sequence[Mapping[str, Any]] = ()) -> Path:
    """Write the page to `path`, whole or not at all, making its folder where needed, and return the path.

    Raises:
        RunError: it cannot be written.
    """
    return write_text(render(shown, runs), path)


def _matrices(shown: Demonstration) -> dict[str, Raster]:
    return {_TITLES[area]: raster(each, highest=1.0) for area, each in shown.population.items()}


def charts(shown: Demonstration) -> dict[str, Chart]:
    """The line charts of a demonstration: "mismatch", "separation", "completion" and "angles"."""
    mismatch = chart(
        shown.visits,
        "Epochs since the visit began",
        "Mismatch / variance of the input",
        x_ticks=range(5),
        y_ticks=[0.01, 0.1, 1, 10],
        log_y=True,
    )
    separation = chart(
        shown.separation,
        "Correlation of two inputs",
        "Correlation of their codes",
        x_ticks=[-0.4, -0.2, *_TENTHS],
        y_ticks=[-0.2, *_TENTHS],
        diagonal=True,
    )
    completion = chart(
        shown.completion,
        "Share of the input that is lost",
        "Correlation with the complete code",
        x_ticks=[0, 0.25, 0.5, 0.75],
        y_ticks=_TENTHS,
    )
    angles = chart(
        shown.angles,
        "Gain of inhibition",
        "Degrees from the gradient, in CA3",
        x_ticks=[0.1, 0.3, 1, 3],
        y_ticks=[0, 15, 30, 45, 60],
        log_x=True,
    )
    return {"mismatch": mismatch, "separation": separation, "completion": completion, "angles": angles}
