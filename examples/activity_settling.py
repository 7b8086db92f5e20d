"""Activity settles: how prediction errors spread from the nudged output down a network, step by step of inference.

Trains a deep network on digits for a moment, then lets one batch settle by descent on the values (strict) and by
descent on the errors (error_optimised). Beside them stand backpropagation's signals, which are where errors settle if
the predictions stay those of the free pass. Writes activity_settling.html: a slider over the steps, a bar for each
layer.

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
STEPS = 60
WAYS = {
    "strict, rate 0.2": {"variant": "strict", "rate": 0.2, "steps": STEPS, "loss": "cross_entropy"},
    "error-optimised, rate 0.2": {"variant": "error_optimised", "rate": 0.2, "steps": STEPS, "loss": "cross_entropy"},
    "backpropagation's signals": {"variant": "fixed_prediction"},
}


def network() -> nn.Module:
    """The same network every time."""
    torch.manual_seed(0)
    hidden = [layer for _ in range(DEPTH - 1) for layer in (nn.Linear(64, 64), nn.Tanh())]
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), *hidden, nn.Linear(64, 10))


def settle(model: nn.Module, x: Tensor, y: Tensor, options: dict[str, object]) -> list[list[float]]:
    """The size of the prediction errors after each step, layer by layer from the input up."""
    circuit = apical.Circuit(model, apical.PredictiveCoding(**options))
    sizes = [dict.fromkeys((layer.name for layer in circuit.layers[:-1]), 0.0) for _ in range(STEPS)]

    def watch(layer: str, carried: dict[str, Tensor]) -> None:
        if "energy" in carried:
            # What came in one wave is there from the first step on.
            first = 0 if options["variant"] == "fixed_prediction" else int(carried["step"]) - 1
            for later in sizes[first:]:
                later[layer] = float((2 * carried["energy"]).mean().sqrt())

    with circuit.observe(watch):
        F.cross_entropy(circuit(x), y).backward()
    return [list(size.values()) for size in sizes]


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

    settled = {way: settle(model, x, y, options) for way, options in WAYS.items()}
    for way, sizes in settled.items():
        reached = next(step for step, size in enumerate(sizes, 1) if size[0] >= sizes[-1][0] / 2)
        share = 100 * sizes[-1][0] / sizes[-1][-1]
        print(
            f"{way:<26} lowest layer at half of its error after {reached:2d} steps; it is {share:.0f} % of the highest"
        )

    names = [f"layer {number}" for number in range(1, DEPTH + 1)]

    def bars(step: int) -> list[go.Bar]:
        return [go.Bar(name=way, x=names, y=sizes[step - 1]) for way, sizes in settled.items()]

    top = 1.05 * max(size for way in settled.values() for step in way for size in step)
    slider = [
        {"label": str(n), "method": "animate", "args": [[str(n)], {"mode": "immediate", "frame": {"duration": 0}}]}
        for n in range(1, STEPS + 1)
    ]
    figure = go.Figure(
        data=bars(1),
        frames=[go.Frame(name=str(n), data=bars(n)) for n in range(1, STEPS + 1)],
        layout={
            "title": "Prediction errors while a network settles (root of the mean square over samples)",
            "yaxis": {"title": "prediction error", "range": [0, top]},
            "sliders": [{"steps": slider, "currentvalue": {"prefix": "step "}}],
        },
    )
    figure.write_html("activity_settling.html", include_plotlyjs=True)


if __name__ == "__main__":
    main()
