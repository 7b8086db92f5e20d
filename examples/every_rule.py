"""One network, every rule: accuracy on handwritten digits, and the angle to the true gradient.

python examples/every_rule.py
"""

import torch
from torch import nn
from torch.nn import functional as F

import apical
from apical import data, measure

EPOCHS, BATCH, LEARNING_RATE = 5, 32, 0.1


def main() -> None:
    """Train the same network from the same start by each rule in turn."""
    digits = data.load("digits")
    train, validation = data.split(digits.train, 0.2, seed=0)
    print(f"{'rule':<34}{'accuracy':>9}   angle to the gradient, layer by layer")
    for name in apical.rules.names():
        if apical.rules.get(name).learns_from != "error" or name == "oja":
            continue  # what learns from a reward takes longer; Oja's units all find one and the same component
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 64), nn.Tanh(), nn.Linear(64, 10)
        )
        circuit = apical.Circuit(model, name)
        # Where a rule is known to want another step or a decay, its class says so.
        advice = type(circuit.rule).recommended
        optimizer = torch.optim.SGD(
            circuit.parameters(),
            lr=LEARNING_RATE * advice.get("learning_rate_factor", 1.0),
            momentum=0.9,
            weight_decay=advice.get("weight_decay", 0.0),
        )
        order = torch.Generator().manual_seed(0)
        for _ in range(EPOCHS):
            for x, y in data.batches(train, BATCH, generator=order, drop_last=True):
                optimizer.zero_grad()
                F.cross_entropy(circuit(x), y).backward()
                optimizer.step()
        with torch.no_grad():
            accuracy = (model(validation.x).argmax(1) == validation.y).float().mean().item()
        angles = measure.alignment(circuit, validation.x, validation.y, F.cross_entropy)
        print(f"{circuit.rule.title:<34}{accuracy:>9.3f}   {'  '.join(f'{angle:5.1f}°' for angle in angles.values())}")


if __name__ == "__main__":
    main()
