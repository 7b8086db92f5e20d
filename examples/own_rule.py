"""A rule of your own in ten lines: errors in three levels.

A rule says what error a layer sends down; the circuit does the rest, in a chain and in a residual network.

python examples/own_rule.py
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import apical
from apical import data, measure
from apical.layers import Layer, Record
from apical.rules import Sweep


class Quantized(Sweep):
    """Backpropagation whose errors are sent down as three levels: minus, nothing, plus."""

    name = "quantized"
    title = "Quantized feedback"
    summary = "Errors travel down the forward weights, but as signs with a dead zone."
    paper = "an example of apical's documentation"

    def feedback(self, layer: Layer, record: Record, post: Tensor) -> Tensor:
        """One size for the whole layer, and a sign where the error is larger than half of it."""
        size = post.abs().mean()
        levels = post.sign() * (post.abs() > size / 2) * size
        return layer.synapses.transport(levels, layer.weight, record.pre)


def main() -> None:
    """Train the digits by it, and see how far from the gradient it is."""
    digits = data.load("digits")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 64), nn.Tanh(), nn.Linear(64, 10))
    circuit = apical.Circuit(model, Quantized())
    optimizer = torch.optim.SGD(circuit.parameters(), lr=0.1, momentum=0.9)
    order = torch.Generator().manual_seed(0)
    for _ in range(5):
        for x, y in data.batches(digits.train, 32, generator=order, drop_last=True):
            optimizer.zero_grad()
            F.cross_entropy(circuit(x), y).backward()
            optimizer.step()
    with torch.no_grad():
        accuracy = (model(digits.test.x).argmax(1) == digits.test.y).float().mean().item()
    print(f"accuracy {accuracy:.3f}; angle to the gradient per layer:")
    print(measure.alignment(circuit, digits.test.x, digits.test.y, F.cross_entropy))


if __name__ == "__main__":
    main()
