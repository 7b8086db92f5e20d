"""A network of your own: residual, convolutional, with a neuron that PyTorch does not have.

The circuit reads layers and junctions off the model; a neuron module without a closed form gets a local autograd
graph of its own, and its parameter learns by its local derivative.

python examples/own_network.py
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import apical
from apical import data


class Swish(nn.Module):
    """x times the logistic of beta x, with a beta for each channel that learns."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.beta.view(-1, 1, 1) * x)


class Network(nn.Module):
    """A stem, a residual block and a read-out, for 8x8 digits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.swish = Swish(16)
        self.inner = nn.Conv2d(16, 16, 3, padding=1)
        self.readout = nn.Linear(16 * 4 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.swish(self.norm(self.stem(x)))
        h = F.relu(h + self.inner(h))
        return self.readout(F.max_pool2d(h, 2).flatten(1))


def main() -> None:
    """Train it by sign symmetry, then go on by backpropagation with the same weights."""
    digits = data.load("digits")
    torch.manual_seed(0)
    model = Network()
    circuit = apical.Circuit(model, apical.SignSymmetry(magnitude="batchwise"))
    print("\n".join(map(repr, circuit.wiring.nodes)))
    optimizer = torch.optim.Adam(circuit.parameters(), lr=2e-3)
    order = torch.Generator().manual_seed(0)
    for epoch in range(4):
        if epoch == 2:
            circuit.set_rule("backprop")
        circuit.train()
        for x, y in data.batches(digits.train, 32, generator=order, drop_last=True):
            optimizer.zero_grad()
            F.cross_entropy(circuit(x), y).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            accuracy = (model(digits.test.x).argmax(1) == digits.test.y).float().mean().item()
        print(f"epoch {epoch + 1} by {circuit.rule.title}: accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
