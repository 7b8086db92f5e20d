"""How early can a decision be made? Pixels arrive one after another, and ten units answer at every arrival.

Each unit says at every arrival whether what has come in so far, faded, looks like its digit. A decision is made as soon
as one digit leads the next by enough such outputs: easy pictures are decided early, hard ones late. The control decides
every picture at the same time. Writes early_decisions.html, a figure to look at.

python examples/early_decisions.py
"""

import plotly.graph_objects as go
import torch
from torch import Tensor
from torch.nn import functional as F

from apical import data
from apical.neurons import AsynchronousNetwork, decision_curve

EPOCHS = 15
RATE = 0.005
LEADS = [1, 2, 3, 5, 8, 12, 20, 30]


def standardised(x: Tensor) -> Tensor:
    """Flat pictures of mean 0 and standard deviation 1 each."""
    flat = x.flatten(1)
    return (flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True)


def train(x: Tensor, y: Tensor, generator: torch.Generator) -> AsynchronousNetwork:
    """Teach the unit of each digit to be on at all arrivals of its pictures, and off at all others'."""
    network = AsynchronousNetwork(x.shape[1], 10, window=100.0, decay=50.0, threshold=1.0)
    optimizer = torch.optim.SGD([network.weight], lr=RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, EPOCHS)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x), generator=generator).split(16):
            times = network.arrivals(x[batch].shape, generator)
            network.teach(x[batch], times, F.one_hot(y[batch], 10)[:, :, None, None])
            optimizer.step()
        schedule.step()
    return network


def at_one_time(bits: Tensor, times: Tensor, labels: Tensor, moment: float) -> float:
    """The accuracy when all pictures are decided at one time, for the digit with the most outputs by then."""
    arrived = (times <= moment).view(len(times), 1, *bits.shape[2:])
    evidence = (bits & arrived).flatten(2).sum(dim=2)
    return (evidence.argmax(dim=1) == labels).double().mean().item()


def main() -> None:
    """Train, decide with several leads, draw both curves."""
    task = data.load("digits")
    generator = torch.Generator().manual_seed(0)
    network = train(standardised(task.train.x), task.train.y, generator)
    x = standardised(task.test.x)
    times = network.arrivals(x.shape, generator)
    bits = network(x, times).bits
    curve = decision_curve(bits, times, task.test.y, LEADS)
    waiting = [at_one_time(bits, times, task.test.y, moment) for moment in curve.time.tolist()]
    print("lead   mean time   decided   right   right if all are decided at that time")
    for lead, time, share, right, control in zip(
        LEADS, curve.time, curve.decided, curve.accuracy, waiting, strict=True
    ):
        print(f"{lead:4d} {time:8.0f} ms {share:9.0%} {right:7.1%} {control:7.1%}")
    moments = list(range(5, 101, 5))
    figure = go.Figure()
    figure.add_scatter(x=curve.time.tolist(), y=curve.accuracy.tolist(), text=LEADS, name="as soon as one leads")
    fixed = [at_one_time(bits, times, task.test.y, moment) for moment in moments]
    figure.add_scatter(x=moments, y=fixed, name="all at one time", line={"dash": "dot"})
    figure.update_xaxes(title="mean time of decision (ms); all pixels are in after 100 ms")
    figure.update_yaxes(title="accuracy", tickformat=".0%")
    figure.write_html("early_decisions.html", include_plotlyjs=True)


if __name__ == "__main__":
    main()
