"""A few training steps with nothing but apical and what it requires: run on the built wheel by .ci/run."""

import torch
from torch import nn
from torch.nn import functional as F

import apical


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 20, generator=generator)
    target = x[:, :3].argmax(dim=1)
    for name in apical.rules.names():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 3))
        circuit = apical.Circuit(model, apical.rules.make(name))
        loss_of = apical.losses.LOSSES.get(circuit.rule.learns_from, F.cross_entropy)
        optimizer = torch.optim.SGD(circuit.parameters(), lr=0.1)
        losses = []
        for _ in range(20):
            loss = loss_of(circuit(x), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0], f"{name} did not learn: {losses}"
    print(f"apical {apical.__version__} from {apical.__file__}: {len(apical.rules.names())} rules learn")


if __name__ == "__main__":
    main()
