"""A trainer that calls a protection's hooks in their order, and a stream for it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import apical
from apical import continual
from apical.data import Examples, Task

CLASSES = 6


def stream(scenario: str = "class", each: int = 24):
    """Three tasks of two classes."""
    y = torch.arange(CLASSES).repeat(each)
    corners = 3 * F.one_hot(torch.arange(CLASSES)).float()
    generator = torch.Generator().manual_seed(0)

    def part() -> Examples:
        return Examples(corners[y] + torch.randn(len(y), CLASSES, generator=generator), y)

    return continual.split(Task("blobs", part(), part(), CLASSES), scenario=scenario)


def network(outputs: int = CLASSES, *extra: nn.Module) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hidden = nn.Linear(CLASSES, 20), nn.Tanh(), *extra, nn.Linear(20, 12), nn.Tanh()
        return nn.Sequential(*hidden, nn.Linear(12, outputs))


def loss_on(tasks):
    """The mean loss of an answer and labels, each example on the outputs of the task that has its label."""
    competing = torch.zeros(tasks.outputs, tasks.outputs, dtype=torch.bool)
    for task in tasks:
        for label in task.labels:
            competing[label, list(task.outputs)] = True
    if competing.all():
        return F.cross_entropy
    return lambda answer, y: F.cross_entropy(answer.masked_fill(~competing[y], -torch.inf), y)


class Trainer:
    """Learns a stream in steps, so that it can stop anywhere and go on from its state."""

    def __init__(self, protection, tasks, model=None, rule="backprop", *, epochs=2, batch_size=16, lr=0.1, loss=None):
        self.protection, self.tasks, self.batch_size = protection, tasks, batch_size
        model = protection.prepare(network(tasks.outputs) if model is None else model, len(tasks))
        self.circuit = model if rule is None else apical.Circuit(model, rule, example=tasks[0].train.x[:2])
        loss = loss_on(tasks) if loss is None else loss
        learning = [own for own in self.circuit.parameters() if own.requires_grad]
        self.optimizer = torch.optim.SGD(learning, lr=lr, momentum=0.9)
        protection.attach(self.circuit, loss)
        self.plan = []
        generator = torch.Generator().manual_seed(7)
        for i, task in enumerate(tasks):
            self.plan.append(("begin", i))
            for _ in range(epochs):
                order = torch.randperm(len(task.train), generator=generator)
                self.plan += [("step", i, places) for places in order.split(batch_size)]
            self.plan.append(("end", i))
        self.done = 0

    def run(self, actions: int | None = None):
        for action, i, *places in self.plan[self.done :][:actions]:
            task = self.tasks[i]
            if action == "begin":
                self.protection.begin_task(task.outputs)
                if self.protection.needs_identity:
                    self.protection.select(i)
            elif action == "end":
                self.protection.end_task(task.train)
            else:
                self.step(task.train.x[places[0]], task.train.y[places[0]])
            self.done += 1
        return self

    def step(self, x: Tensor, y: Tensor) -> None:
        self.optimizer.zero_grad()
        answer, loss = self.protection.loss(x, y)
        assert answer.shape == (len(y), self.tasks.outputs)
        loss.backward()
        self.protection.correct()
        self.protection.step(self.optimizer)

    def weights(self) -> Tensor:
        return torch.cat([own.detach().flatten() for own in self.circuit.parameters()])

    def state(self):
        return {
            "circuit": self.circuit.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "protection": self.protection.state_dict(),
            "done": self.done,
        }

    def load(self, state):
        self.circuit.load_state_dict(state["circuit"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.protection.load_state_dict(state["protection"])
        self.done = state["done"]
        return self

    @torch.no_grad()
    def accuracy(self) -> float:
        found = []
        self.circuit.eval()
        for i, task in enumerate(self.tasks):
            if self.protection.needs_identity:
                self.protection.select(i)
            predicted = task.restrict(self.circuit(task.test.x)).argmax(1)
            found.append((predicted == task.test.y).double().mean())
        self.circuit.train()
        return float(torch.stack(found).mean())
