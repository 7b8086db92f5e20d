"""Learning a stream, task after task, and testing on all of its tasks after each."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
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
from apical.optim.consolidation import Protection
from apical.options import check_positive

TESTED_AT_ONCE = 1000  # examples that a network answers at once: quick, and small enough for memory

MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class OnePass(Protocol):
    """A learner in scikit-learn's manner, such as the floors."""

    def partial_fit(self, x: Tensor, y: Tensor, /) -> Any: ...

    def predict(self, x: Tensor, /, *, among: Sequence[int] | None = None) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of a stream.

    Attributes:
        matrix: R, (tasks, tasks), float64: R[i, j] is the accuracy on task j after training on task i; (1, tasks) where
            all were learned at once.
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
    protection: Protection | None = None,
    seed: int = 0,
) -> Outcome:
    """Learn a stream, and test on all of its tasks after each.

    A module learns by one optimizer for the whole stream, and is tested in evaluation mode. In the scenario "task" the
    loss is that of the task's own outputs. The draws of a run depend on the seed alone. For runs that survive
    interruption see `apical.study.train` and `apical continual`.

    Args:
        stream: the tasks.
        learner: a module, such as a circuit, from (batch, ...) to (batch, stream.outputs); or a floor, which learns
            each task in one call of `partial_fit`. The learner itself is trained.
        epochs: passes over each task.
        batch_size: examples in a step.
        optimizer: makes the optimizer of the module's trainable parameters.
        loss: of the output and the labels; a rule that needs one of its own (its `learns_from`) has that.
        protection: against forgetting; None: nothing protects earlier tasks (naive fine-tuning). Where it changes the
            network, pass one that was built with `protection.prepare(model, len(stream))`.
        seed: of the order of the examples, and of PyTorch's random draws.

    Raises:
        ConfigError: the module's output does not have `stream.outputs` columns, nothing can be trained, a floor is
            asked for several epochs or for a protection, the protection needs what the stream does not tell, or a
            number is not positive.
        NonFiniteError: the loss is NaN or infinite at the end of an epoch, or an answer to the test data has NaN.

    Example:
        >>> import torch, apical
        >>> stream = apical.continual.split("digits", scenario="task")
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        >>> outcome = apical.continual.run(stream, apical.Circuit(model, "backprop"))
        >>> outcome.matrix.shape
        torch.Size([5, 5])
    """
    if not isinstance(learner, nn.Module):
        return _one_pass(stream, learner, epochs, protection)
    check_positive("run", epochs=epochs, batch_size=batch_size)
    trainable = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    if not trainable:
        raise ConfigError("run: the module has no parameter that requires a gradient. Unfreeze one.")
    check_outputs(stream, learner, trainable[0].device)
    device, generator = trainable[0].device, torch.Generator().manual_seed(seed)
    with _seeded(learner, device, seed):
        learning = Learner(stream, learner, optimizer(trainable), loss_of(learner, loss), protection)
        before, rows = learning.test(), []
        for phase in stream.phases():
            learning.begin(phase)
            learner.train()
            examples = phase.train.to(device)
            for _ in range(epochs):
                for x, y in data.batches(examples, batch_size, generator=generator):
                    _, value = learning.step(x, y)
                if not value.isfinite():  # NaN in the weights stays, so once an epoch is enough
                    raise NonFiniteError(
                        f"run: the loss of {phase.name} is {value.item()}. Lower the learning rate.", layer="loss"
                    )
            learning.end(examples)
            rows.append(learning.test())
    return Outcome(torch.tensor(rows, dtype=torch.float64), torch.tensor(before, dtype=torch.float64))


def joint(stream: Stream, model: nn.Module, **options: Any) -> Tensor:
    """Train a module on all tasks of a stream at once, and return its accuracy on each, (tasks,).

    This is the ceiling that methods against forgetting are compared with. Options and errors are those of `run`.
    """
    return run(stream.at_once(), model, **options).matrix[0]


class Learner:
    """A network on its way through a stream: a training step, what happens between tasks, and the tests.

    Args:
        stream: the tasks.
        network: a module from (batch, ...) to (batch, stream.outputs), with its rule if it has one.
        optimizer: of the network's parameters.
        loss: of the output and the labels.
        protection: against forgetting.
        clip: the largest norm of the whole gradient; 0: no limit.

    Raises:
        ConfigError: the protection needs what the stream does not tell.
    """

    def __init__(
        self,
        stream: Stream,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        protection: Protection | None = None,
        clip: float = 0.0,
    ) -> None:
        self.stream, self.network, self.optimizer, self.clip = stream, network, optimizer, clip
        self.protection = Protection() if protection is None else protection
        asks = None if stream.joint else stream.scenario
        check_protection(type(self.protection), asks, boundaries=stream.boundaries and not stream.joint)
        self.parameters = list(network.parameters())
        self._in_task = -1
        self.protection.attach(network, stream.loss(loss))

    def begin(self, phase: StreamTask) -> None:
        """A task begins."""
        self.select(phase.index)
        if self.stream.boundaries:
            self.protection.begin_task(phase.outputs)

    def select(self, index: int) -> None:
        """Tell the protection the task of the examples that come, where the scenario tells it."""
        self._in_task = index
        if self.stream.scenario == "task" and not self.stream.joint:
            self.protection.select(index)

    def step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """A training step on a batch; its answer and loss."""
        self.optimizer.zero_grad()
        answer, loss = self.protection.loss(x, y)
        loss.backward()  # type: ignore[no-untyped-call]
        self.protection.correct()
        if self.clip:
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.protection.step(self.optimizer)
        return answer, loss

    def end(self, examples: Examples) -> None:
        """A task ends; `examples` are its training data, on the network's device."""
        if self.stream.boundaries:
            self.protection.end_task(examples)

    @cached_property
    def tests(self) -> list[tuple[StreamTask, Examples]]:
        """Every task with its test data."""
        return [(task, task.test) for task in self.stream]

    def test(self) -> list[float]:
        """The accuracy on each task's test data, in evaluation mode.

        Raises:
            NonFiniteError: an answer has NaN.
        """
        during, mode = self._in_task, self.network.training
        self.network.eval()
        accuracies = []
        for task, examples in self.tests:
            self.select(task.index)
            answers = self.answers(examples)
            if answers.isnan().any():
                raise NonFiniteError(
                    f"{task.name}: an answer to the test data has NaN. Lower the learning rate.", layer="output"
                )
            accuracies.append(_right(answers, examples.y, task))
        self.network.train(mode)
        self.select(max(during, 0))
        return accuracies

    def answers(self, examples: Examples) -> Tensor:
        """The network's answers to examples, (n, outputs), on the CPU."""
        device = self.parameters[0].device
        with torch.no_grad():
            return torch.cat([self.network(x.to(device)).cpu() for x, _ in data.batches(examples, TESTED_AT_ONCE)])


def check_protection(kind: type[Protection], scenario: str | None, *, boundaries: bool) -> None:
    """Refuse a protection that needs what a stream does not tell.

    Args:
        kind: of the protection.
        scenario: of the stream; None where all tasks are learned at once.
        boundaries: whether a learner knows where a task begins and ends.

    Raises:
        ConfigError: it needs task boundaries, or the task's identity in testing, and does not get it.
    """
    if kind.needs_boundaries and not boundaries:
        raise ConfigError(
            f"{kind.name} needs to know where a task ends, and this stream does not tell. Use a stream with "
            "boundaries, or a protection without this need, such as replay."
        )
    if kind.needs_identity and scenario != "task":
        what = f"the scenario {scenario!r}" if scenario else "learning all tasks at once"
        raise ConfigError(
            f"{kind.name} needs the task's identity, which {what} does not give. Use the scenario 'task', one task "
            "after another, or another protection."
        )


def check_outputs(stream: Stream, network: nn.Module, device: torch.device) -> None:
    """Refuse a network that does not have the outputs of a stream.

    Raises:
        ConfigError: the answer to two examples has another shape than (2, stream.outputs).
    """
    example = stream[0].test.x[:2].to(device)
    with undisturbed(network, example):
        shape = tuple(network(example).shape)
    if shape != (len(example), stream.outputs):
        raise ConfigError(
            f"run: the output for {len(example)} examples is {shape}, and {stream} needs {stream.outputs} outputs. "
            f"Give the last layer {stream.outputs} units."
        )


@contextmanager
def _seeded(network: nn.Module, device: torch.device, seed: int) -> Iterator[None]:
    """PyTorch's draws from the seed; its random state and the module's mode are restored."""
    devices = [device.index or 0] if device.type == "cuda" else []
    mode = network.training
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        try:
            yield
        finally:
            network.train(mode)


def _one_pass(stream: Stream, learner: OnePass, epochs: int, protection: Protection | None) -> Outcome:
    if epochs != 1 or protection is not None:
        raise ConfigError(
            f"run: epochs={epochs}, protection={protection}, and {learner} learns in one pass without one. Leave both "
            "out."
        )
    tests, rows = [(task, task.test) for task in stream], []
    for phase in stream.phases():
        learner.partial_fit(phase.train.x, phase.train.y)
        rows.append(
            [(_predicted(stream, learner, own, test.x) == test.y).double().mean().item() for own, test in tests]
        )
    return Outcome(torch.tensor(rows, dtype=torch.float64), None)


def _right(answers: Tensor, y: Tensor, task: StreamTask) -> float:
    return (task.restrict(answers).argmax(1) == y.to(answers.device)).double().mean().item()


def _predicted(stream: Stream, learner: OnePass, task: StreamTask, x: Tensor) -> Tensor:
    among = task.outputs if stream.scenario == "task" else None
    return learner.predict(x, among=among).to(x.device)
