"""Spiking networks on the page: rasters, firing rates, synaptic events."""

import html
import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from apical.report.canvas import Figure, Spec, axis, canvas
from apical.report.document import layer_title
from apical.report.panels import axis_suffix, cells, heading
from apical.report.styles import Styles
from apical.statistics import Spread
from apical.study.comparison.schema import Arm, Comparison
from apical.study.runs.results import Activity

# Rows left free between the layers of a raster.
APART = 2


def raster(comparison: Comparison, styles: Styles) -> Figure | None:
    """When some neurons of each layer fire while the network responds to one sample, one panel a rule."""
    shown = [(index, arm, own[0]) for index, arm in enumerate(comparison.arms) if (own := arm.activities())]
    if not shown:
        return None
    data: list[Spec] = []
    for position, (index, arm, activity) in enumerate(shown):
        suffix = axis_suffix(position)
        fired = [
            (moment, row, f"{layer_title(layer)}, moment {moment}")
            for layer, neurons in _rows(activity).items()
            for row, moments in neurons
            for moment in moments
        ]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [moment for moment, _, _ in fired],
                "y": [row for _, row, _ in fired],
                "marker": {"color": styles[arm.label].color, "symbol": "line-ns-open", "size": 6},
                "hovertext": [html.escape(text) for _, _, text in fired],
                "hovertemplate": "%{hovertext}<extra></extra>",
                "xaxis": f"x{suffix}",
                "yaxis": f"y{suffix}",
                "meta": index,
            }
        )
    panels = [(arm.label, activity) for _, arm, activity in shown]
    most = max(len(layer.raster) for activity in panels for layer in activity[1].layers.values())
    return Figure(
        name="raster",
        heading="Spikes",
        caption="One training sample at the end of training: a stroke where a neuron fires, a row a neuron, up to "
        f"{most} neurons of each layer. The first seed.",
        legend=(),
        data=data,
        wide=_grid(panels, columns=min(3, len(panels)), height=200, narrow=False),
        narrow=_grid(panels, columns=1, height=180, narrow=True),
    )


def _rows(activity: Activity) -> dict[str, list[tuple[int, tuple[int, ...]]]]:
    """The row of each neuron with the moments in which it fires, by layer from the bottom."""
    rows, first = {}, 0
    for name, layer in activity.layers.items():
        rows[name] = list(enumerate(layer.raster, start=first))
        first += len(layer.raster) + APART
    return rows


def _grid(panels: list[tuple[str, Activity]], *, columns: int, height: int, narrow: bool) -> Spec:
    total, places = cells(len(panels), columns=columns, height=height, between=66, gap=0.13 if columns > 1 else 0.0)
    layout = canvas(height=total, left=70, right=8, top=30, narrow=narrow)
    layout["hovermode"] = "closest"
    for place, (title, activity) in zip(places, panels, strict=True):
        rows = _rows(activity)
        layout[f"xaxis{place.suffix}"] = axis(
            narrow,
            domain=place.across,
            anchor=f"y{place.suffix}",
            range=[-1, activity.moments],
            nticks=6,
            title="moment" if place.at_bottom else "",
        )
        middles = [neurons[len(neurons) // 2][0] for neurons in rows.values()]
        last = max(neurons[-1][0] for neurons in rows.values())
        layout[f"yaxis{place.suffix}"] = axis(
            narrow,
            domain=place.up,
            anchor=f"x{place.suffix}",
            range=[-1, last + 1],
            showgrid=False,
            tickmode="array",
            tickvals=middles,
            ticktext=[layer_title(name) for name in rows],
        )
        layout["annotations"].append(heading(title, place.suffix))
    return layout


@dataclass(frozen=True)
class Firing:
    """How the neurons of a rule fire, in words; `rates` and `silent` by layer."""

    rates: dict[str, str]
    silent: dict[str, str]
    events: str
    by_synapses: str
    share: str


def firing(arm: Arm) -> Firing | None:
    """Rates, silent neurons and synaptic events of the finished runs, means over seeds; None where nothing fires."""
    runs = arm.activities()
    if not runs:
        return None
    layers = {name: [run.layers[name] for run in runs] for name in runs[0].layers}
    events = [math.fsum(run.events.values()) for run in runs]
    by_synapses = {name: fmean(run.events[name] for run in runs) for name in runs[0].events}
    share = [100 * own / math.fsum(run.products.values()) for own, run in zip(events, runs, strict=True)]
    return Firing(
        rates={name: _text((each.rate for each in of), 3) for name, of in layers.items()},
        silent={name: _text((100 * each.silent for each in of), 0, " %") for name, of in layers.items()},
        events=f"{fmean(events):,.0f}",
        by_synapses=", ".join(f"{layer_title(name)}: {mean:,.0f}" for name, mean in by_synapses.items()),
        share=_text(share, 0, " %"),
    )


def _text(values: Iterable[float], decimals: int, unit: str = "") -> str:
    return Spread(tuple(values)).text(decimals, unit=unit)
