"""Digits learned from yes and no: the network never sees which digit it was, only whether its guess was right.

python examples/learning_from_reward.py

Three circuits with the same first weights see the same digits in the same order. The first learns from labels by
backpropagation. The others make one guess for each digit and hear one number: BrainProp with the forward weights as its
feedback, and with feedback weights of its own, which learn.
"""

import copy
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional as F

import apical

EPOCHS = 30
SHOWN = (1, 2, 3, 5, 10, 20, 30)


def main() -> None:
    task = apical.data.load("digits", progress=False)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    by_reward = apical.losses.reward_prediction
    arms = {
        "backprop, labels": (apical.Backprop(), F.cross_entropy),
        "BrainProp, yes or no": (apical.BrainProp(), by_reward),
        "BrainProp, learned feedback": (apical.BrainProp(feedback="kolen_pollack"), by_reward),
    }
    table = Table("epoch", *map(str, SHOWN), title=f"Digits answered correctly, of {len(task.test)} not learned")
    for name, (rule, loss) in arms.items():
        accuracies = learn(apical.Circuit(copy.deepcopy(model), rule), task, loss)
        table.add_row(name, *(f"{accuracies[epoch - 1]:.2f}" for epoch in SHOWN))
        print(f"{name}: {accuracies[-1]:.3f} after {EPOCHS} epochs")
    Console().print(table)


def learn(circuit: apical.Circuit, task: apical.data.Task, loss: Callable[..., torch.Tensor]) -> list[float]:
    """The test accuracy after each epoch."""
    torch.manual_seed(1)  # of the guesses
    optimizer = torch.optim.SGD(circuit.parameters(), lr=0.1, weight_decay=1e-4)
    order = torch.Generator().manual_seed(0)
    accuracies = []
    for _ in range(EPOCHS):
        for x, labels in apical.data.batches(task.train, 32, generator=order):
            optimizer.zero_grad()
            loss(circuit(x), labels).backward()
            optimizer.step()
        with torch.no_grad():
            right = circuit(task.test.x).argmax(dim=1) == task.test.y
        accuracies.append(right.float().mean().item())
    return accuracies


if __name__ == "__main__":
    main()
