"""Activity settles: how prediction errors spread from the nudged output down a network, step by step of inference.

Trains a deep network on digits for a moment, then lets one batch settle in three ways: by descent on the values
(strict), by descent on the errors (error_optimised), and with the predictions of the free pass (fixed_prediction). The
errors of the last end as backpropagation's signals. Writes activity_settling.html: a slider over the steps, a bar for each layer.

python examples/activity_settling.py

DEPTH is the number of hidden layers, STEPS how long the network settles.
"""

import plotly.graph_objects as go
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import apical
from apical import data

DEPTH = 6
STEPS = 50
WAYS = {
    "strict, rate 0.2": {"variant": "strict", "rate": 0.2, "loss": "cross_entropy"},
    "error-optimised, rate 0.2": {"variant": "error_optimised", "rate": 0.2, "loss": "cross_entropy"},
    "fixed predictions, rate 0.2": {"variant": "fixed_prediction", "rate": 0.2},
}


def network() -> nn.Module:
    """The same network every time."""
    torch.manual_seed(0)
    hidden = [layer for _ in range(DEPTH - 1) for layer in (nn.Linear(64, 64), nn.Tanh())]
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), *hidden, nn.Linear(64, 10))


def settle(model: nn.Module, x: Tensor, y: Tensor, steps: int, options: dict[str, object]) -> list[float]:
    """The size of the prediction errors after some steps, layer by layer from the input up."""
    circuit = apical.Circuit(model, apical.PredictiveCoding(steps=steps, **options))
    sizes = {layer.name: 0.0 for layer in circuit.layers[:-1]}

    def watch(layer: str, carried: dict[str, Tensor]) -> None:
        if "energy" in carried:
            sizes[layer] = float((2 * carried["energy"]).mean().sqrt())

    with circuit.observe(watch):
        F.cross_entropy(circuit(x), y).backward()
    return list(sizes.values())


def main() -> None:
    """Train, let settle, draw."""
    digits = data.load("digits")
    model = network()
    circuit = apical.Circuit(model, apical.PredictiveCoding())
    optimizer = torch.optim.SGD(circuit.parameters(), lr=0.05, momentum=0.9)
    order = torch.Generator().manual_seed(0)
    for _ in range(3):
        for x, y in data.batches(digits.train, 32, generator=order, drop_last=True):
            optimizer.zero_grad()
            F.cross_entropy(circuit(x), y).backward()
            optimizer.step()
    x, y = next(iter(data.batches(digits.train, 128, generator=order, drop_last=True)))

    # of every number of steps, every way and every layer
    frames = [[settle(model, x, y, steps, way) for way in WAYS.values()] for steps in range(1, STEPS + 1)]
    for way, sizes in zip(WAYS, frames[-1], strict=True):
        reached = next(
            (n for n, frame in enumerate(frames, 1) if frame[list(WAYS).index(way)][0] > sizes[0] / 2), STEPS
        )
        share = 100 * sizes[0] / sizes[-1]
        print(
            f"{way:<28} lowest layer at half of its error after {reached:2d} steps; it is {share:.0f} % of the highest"
        )

    names = [f"layer {number}" for number in range(1, DEPTH + 1)]

    def bars(frame: list[list[float]]) -> list[go.Bar]:
        return [go.Bar(name=way, x=names, y=sizes) for way, sizes in zip(WAYS, frame, strict=True)]

    top = 1.05 * max(size for frame in frames for way in frame for size in way)
    slider = [
        {"label": str(n), "method": "animate", "args": [[str(n)], {"mode": "immediate", "frame": {"duration": 0}}]}
        for n in range(1, STEPS + 1)
    ]
    figure = go.Figure(
        data=bars(frames[0]),
        frames=[go.Frame(name=str(n), data=bars(frame)) for n, frame in enumerate(frames, 1)],
        layout={
            "title": "Prediction errors while a network settles (root of the mean square over samples)",
            "yaxis": {"title": "prediction error", "range": [0, top]},
            "sliders": [{"steps": slider, "currentvalue": {"prefix": "step "}}],
        },
    )
    figure.write_html("activity_settling.html", include_plotlyjs=True)


if __name__ == "__main__":
    main()
