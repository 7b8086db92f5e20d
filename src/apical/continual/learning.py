"""Learning a stream, task after task, and testing on all of its tasks after each."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from apical import data
from apical.continual.matrix import Metrics, metrics
from apical.continual.stream import Stream, StreamTask
from apical.data import Examples
from apical.errors import ConfigError, NonFiniteError
from apical.layers.memory import undisturbed
from apical.losses import Loss, loss_of
from apical.options import check_positive

MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class OnePass(Protocol):
    """A learner in scikit-learn's manner, such as the floors."""

    def partial_fit(self, x: Tensor, y: Tensor, /) -> Any: ...

    def predict(self, x: Tensor, /, *, among: Sequence[int] | None = None) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of a stream.

    Attributes:
        matrix: R, (tasks, tasks), float64: R[i, j] is the accuracy on task j after training on task i.
        before: (tasks,), the accuracies before training; None for a floor, which predicts nothing before it learned.
    """

    matrix: Tensor
    before: Tensor | None

    @property
    def metrics(self) -> Metrics:
        """Accuracy, transfer and forgetting."""
        return metrics(self.matrix, before=self.before)

    def __repr__(self) -> str:
        rows = "\n".join("  " + " ".join(f"{100 * value:6.2f}" for value in row) for row in self.matrix.tolist())
        return f"Outcome({self.metrics}, matrix in %:\n{rows})"


def adam(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Adam with its defaults."""
    return torch.optim.Adam(parameters)


def run(
    stream: Stream,
    learner: nn.Module | OnePass,
    *,
    epochs: int = 1,
    batch_size: int = 128,
    optimizer: MakeOptimizer = adam,
    loss: Loss = nn.functional.cross_entropy,
    seed: int = 0,
) -> Outcome:
    """Train a learner on each task of a stream in turn; nothing protects earlier tasks (naive fine-tuning).

    A module learns by one optimizer for the whole stream, and is tested in evaluation mode. In the scenario "task" the
    loss is that of the task's own outputs. The draws of a run depend on the seed alone.

    Args:
        stream: the tasks.
        learner: a module, such as a circuit, from (batch, ...) to (batch, stream.outputs); or a floor, which learns
            each task in one call of `partial_fit`. The learner itself is trained.
        epochs: passes over each task.
        batch_size: examples in a step.
        optimizer: makes the optimizer of the module's trainable parameters.
        loss: of the output and the labels; a rule that needs one of its own (its `learns_from`) has that.
        seed: of the order of the examples, and of PyTorch's random draws.

    Raises:
        ConfigError: the module's output does not have `stream.outputs` columns, nothing can be trained, a floor is
            asked for several epochs, or a number is not positive.
        NonFiniteError: the loss is NaN or infinite at the end of an epoch.

    Example:
        >>> import torch, apical
        >>> stream = apical.continual.split("digits", scenario="task")
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        >>> outcome = apical.continual.run(stream, apical.Circuit(model, "backprop"))
        >>> outcome.matrix.shape
        torch.Size([5, 5])
    """
    tests = [(task, task.test) for task in stream]
    if not isinstance(learner, nn.Module):
        if epochs != 1:
            raise ConfigError(f"run: epochs={epochs}, and {learner} learns in one pass. Pass epochs=1.")
        rows = []
        for task in stream:
            learner.partial_fit(task.train.x, task.train.y)
            rows.append([_right(_predicted(stream, learner, own, test.x), test.y) for own, test in tests])
        return Outcome(torch.tensor(rows, dtype=torch.float64), None)
    trainer = _Trainer(stream, learner, epochs, batch_size, optimizer, loss, seed)
    with trainer.seeded():
        before, rows = trainer.test(tests), []
        for task in stream:
            trainer.train([task])
            rows.append(trainer.test(tests))
    return Outcome(torch.tensor(rows, dtype=torch.float64), torch.tensor(before, dtype=torch.float64))


def joint(
    stream: Stream,
    model: nn.Module,
    *,
    epochs: int = 1,
    batch_size: int = 128,
    optimizer: MakeOptimizer = adam,
    loss: Loss = nn.functional.cross_entropy,
    seed: int = 0,
) -> Tensor:
    """Train a module on all tasks of a stream at once, and return its accuracy on each, (tasks,).

    This is the ceiling that methods against forgetting are compared with. Arguments and errors are those of `run`.
    """
    trainer = _Trainer(stream, model, epochs, batch_size, optimizer, loss, seed)
    with trainer.seeded():
        trainer.train(list(stream))
        accuracies = trainer.test([(task, task.test) for task in stream])
    return torch.tensor(accuracies, dtype=torch.float64)


class _Trainer:
    """A module with its optimizer and its draws, through a whole stream."""

    def __init__(
        self,
        stream: Stream,
        model: nn.Module,
        epochs: int,
        batch_size: int,
        optimizer: MakeOptimizer,
        loss: Loss,
        seed: int,
    ) -> None:
        check_positive("run", epochs=epochs, batch_size=batch_size)
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not trainable:
            raise ConfigError("run: the module has no parameter that requires a gradient. Unfreeze one.")
        self.model, self.epochs, self.batch_size, self.seed = model, epochs, batch_size, seed
        self.device = trainable[0].device
        self.loss = loss_of(model, loss)
        self.generator = torch.Generator().manual_seed(seed)
        example = stream[0].test.x[:2].to(self.device)
        with undisturbed(model, example):
            shape = tuple(model(example).shape)
        if shape != (len(example), stream.outputs):
            raise ConfigError(
                f"run: the output for {len(example)} examples is {shape}, and {stream} needs {stream.outputs} outputs. "
                f"Give the last layer {stream.outputs} units."
            )
        self.optimizer = optimizer(trainable)

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """PyTorch's draws from the seed; its random state and the module's mode are restored."""
        devices = [self.device.index or 0] if self.device.type == "cuda" else []
        mode = self.model.training
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.seed)
            try:
                yield
            finally:
                self.model.train(mode)

    def train(self, tasks: Sequence[StreamTask]) -> None:
        """Learn the tasks together."""
        self.model.train()
        parts = [task.train for task in tasks]
        owner = torch.cat([torch.full((len(part),), place) for place, part in enumerate(parts)])
        x, y = torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts])
        everything = Examples(x, torch.arange(len(y))).to(self.device)
        y, owner = y.to(self.device), owner.to(self.device)
        for _ in range(self.epochs):
            for batch, places in data.batches(everything, self.batch_size, generator=self.generator):
                self.optimizer.zero_grad()
                loss = self._loss(self.model(batch), y[places], owner[places], tasks)
                torch.autograd.backward(loss)
                self.optimizer.step()
            if not loss.isfinite():  # NaN in the weights stays, so once an epoch is enough
                raise NonFiniteError(
                    f"run: the loss of {tasks[-1].name} is {loss.item()}. Lower the learning rate.", layer="loss"
                )

    def _loss(self, output: Tensor, y: Tensor, owner: Tensor, tasks: Sequence[StreamTask]) -> Tensor:
        """The mean loss of a batch, each example on the outputs that compete for it."""
        if len(tasks[0].outputs) == output.shape[1]:
            return self.loss(output, y)
        parts = []
        for place, task in enumerate(tasks):
            mine = owner == place
            if mine.any():
                among = torch.tensor(task.outputs, device=y.device)
                own = (y[mine][:, None] == among).long().argmax(1)
                parts.append(self.loss(output[mine][:, among], own) * (int(mine.sum()) / len(y)))
        return torch.stack(parts).sum()

    def test(self, tests: Sequence[tuple[StreamTask, Examples]]) -> list[float]:
        """The accuracy on each task's test data, in evaluation mode."""
        self.model.eval()
        with torch.no_grad():
            return [
                sum(
                    _right(task.restrict(self.model(x.to(self.device))).argmax(1), y) * len(y)
                    for x, y in data.batches(test, 1000)
                )
                / len(test)
                for task, test in tests
            ]


def _predicted(stream: Stream, learner: OnePass, task: StreamTask, x: Tensor) -> Tensor:
    return learner.predict(x, among=task.outputs) if stream.scenario == "task" else learner.predict(x)


def _right(predicted: Tensor, y: Tensor) -> float:
    return (predicted.to(y.device) == y).double().mean().item()
