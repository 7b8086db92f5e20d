"""How fast do learned feedback weights find the forward ones? Kolen-Pollack and weight mirrors, step by step.

Writes feedback_that_learns.html, a figure to look at.

python examples/feedback_that_learns.py
"""

import plotly.graph_objects as go
import torch
from torch import nn
from torch.nn import functional as F

import apical
from apical import data, measure

ARMS = {
    "feedback alignment": (lambda: apical.FeedbackAlignment(), 0.05, 0.0),
    "Kolen-Pollack, decay 1e-3": (lambda: apical.KolenPollack(), 0.05, 1e-3),
    "Kolen-Pollack, no decay": (lambda: apical.KolenPollack(), 0.05, 0.0),
    "weight mirror": (lambda: apical.WeightMirror(), 0.0125, 0.0),
}


def main() -> None:
    """Train each arm, measuring the angle between the feedback and the forward weights of the read-out."""
    digits = data.load("digits")
    figure = go.Figure(
        layout={"title": "Angle between feedback and forward weights", "xaxis_title": "step", "yaxis_title": "degrees"}
    )
    for label, (make, learning_rate, decay) in ARMS.items():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
        circuit = apical.Circuit(model, make())
        readout = circuit.layers[-1]
        optimizer = torch.optim.SGD(circuit.parameters(), lr=learning_rate, momentum=0.9, weight_decay=decay)
        order = torch.Generator().manual_seed(0)
        angles = []
        for _ in range(8):
            for x, y in data.batches(digits.train, 32, generator=order, drop_last=True):
                optimizer.zero_grad()
                F.cross_entropy(circuit(x), y).backward()
                optimizer.step()
                feedback = circuit.rule.pathway.weights[readout]
                angles.append(measure.angle(feedback.detach(), readout.weight.detach()))
        figure.add_scatter(y=angles, name=label)
        print(f"{label:<28} {angles[0]:5.1f}° at the first step, {angles[-1]:5.1f}° after {len(angles)}")
    figure.write_html("feedback_that_learns.html", include_plotlyjs=True)


if __name__ == "__main__":
    main()
