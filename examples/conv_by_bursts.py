"""A convolutional network learns by bursts: its accuracy, and the angle of its updates to the gradient.

Takes MNIST where it is there (under APICAL_DATA), and the digits of scikit-learn where it is not.

python examples/conv_by_bursts.py
"""

import torch
from torch import nn
from torch.nn import functional as F

import apical
from apical import data, measure

ARMS = {
    "backprop": lambda: apical.Backprop(),
    "BurstCCN": lambda: apical.BurstCCN(),
    "BurstCCN, fixed feedback": lambda: apical.BurstCCN(feedback="fixed"),
    "Burstprop": lambda: apical.Burstprop(),
}
STEPS = 250


def images() -> data.Task:
    """MNIST, or what needs no file."""
    try:
        return data.load("mnist", download=False)
    except apical.errors.DataError:
        return data.load("digits")


def main() -> None:
    """Train every arm from the same weights on the same batches."""
    task = images()
    channels, size = task.train.x.shape[1], task.train.x.shape[-1]
    x_test, y_test = task.test.x[:1000], task.test.y[:1000]
    for label, make in ARMS.items():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * (size // 4) ** 2, 10),
        )
        circuit = apical.Circuit(model, make())
        learned = any(parameter.requires_grad for parameter in circuit.rule.parameters())
        decay = circuit.rule.recommended.get("weight_decay", 0.0) if learned else 0.0
        optimizer = torch.optim.SGD(circuit.parameters(), lr=0.03, momentum=0.9, weight_decay=decay)
        order = torch.Generator().manual_seed(0)
        step = 0
        while step < STEPS:
            for x, y in data.batches(task.train, 32, generator=order, drop_last=True):
                optimizer.zero_grad()
                F.cross_entropy(circuit(x), y).backward()
                optimizer.step()
                step += 1
                if step == STEPS:
                    break
        with torch.no_grad():
            accuracy = (circuit(x_test).argmax(1) == y_test).float().mean().item()
        angles = measure.alignment(circuit, x_test[:256], y_test[:256], F.cross_entropy).values()
        degrees = ", ".join(f"{angle:.0f}" for angle in angles)
        print(f"{label:<26} test accuracy {accuracy:.3f}; degrees from the gradient, layer by layer: {degrees}")


if __name__ == "__main__":
    main()
