"""What every protection against forgetting is: hooks into a training step, and what it assumes, as data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from apical.errors import CheckpointError, ConfigError

LossOfLabels = Callable[[Tensor, Tensor], Tensor]
"""The mean loss of an answer (batch, outputs) and labels (batch,); each example on the outputs that compete for it."""


class Data(Protocol):
    """Examples: inputs x, (n, ...), and labels y, (n,)."""

    @property
    def x(self) -> Tensor: ...

    @property
    def y(self) -> Tensor: ...


@dataclass(frozen=True)
class Assumptions:
    """What a protection assumes and costs.

    Attributes:
        boundaries: it needs to know where a task begins and ends.
        identity: it needs the task of an example in testing.
        samples: examples of earlier tasks that it keeps, at most.
        epochs: passes over each task's data besides those of training; a forward pass counts as a third, a backward
            pass as two thirds.
        bytes: of what it keeps, now.
        passes: forward and backward passes of a step, in those of plain training: 2 means twice the compute.
    """

    boundaries: bool
    identity: bool
    samples: int
    epochs: float
    bytes: int
    passes: float


class Protection:
    """A protection against forgetting: what a learner of a stream does besides learning. This one does nothing.

    A trainer calls, in this order:

        model = protection.prepare(model, tasks)        before the circuit is built
        protection.attach(circuit, loss)
        for each task:
            protection.begin_task(outputs)
            for each batch:
                answer, loss = protection.loss(x, y)    the forward pass
                loss.backward()
                protection.correct()                    changes `.grad`
                protection.step(optimizer)
            protection.end_task(examples)
        protection.select(task)                         before a task is tested, and when it begins

    A stream without boundaries is one task without end: `begin_task` and `end_task` are not called.

    Attributes:
        name: in the registry, on the command line.
        title: for people.
        summary: a sentence.
        paper: author and year.
        needs_boundaries: it cannot work without `begin_task` or `end_task`.
        needs_identity: it needs the task in testing, which the scenario "task" alone gives.
        circuit: the network with its rule.
    """

    name: ClassVar[str] = "none"
    title: ClassVar[str] = "No protection"
    summary: ClassVar[str] = "Each task overwrites the ones before (naive fine-tuning)."
    paper: ClassVar[str] = ""
    needs_boundaries: ClassVar[bool] = False
    needs_identity: ClassVar[bool] = False

    circuit: nn.Module
    _loss: LossOfLabels

    def prepare(self, model: nn.Module, tasks: int) -> nn.Module:
        """The network to learn with, made of the one that was given.

        Args:
            model: as the user has it.
            tasks: how many the stream has.

        Raises:
            ConfigError: the network has nothing that this protection could work on.
        """
        return model

    def attach(self, circuit: nn.Module, loss: LossOfLabels) -> None:
        """Work on this network from now on, and forget what an earlier one left.

        Args:
            circuit: the network, with its rule if it has one, on its device.
            loss: of an answer and labels.

        Raises:
            ConfigError: the rule has no error that this protection could change, or the network does not fit.
        """
        self.circuit = circuit
        self._loss = loss

    def begin_task(self, outputs: Sequence[int]) -> None:
        """A task begins; `outputs` are those that compete in it."""

    def end_task(self, examples: Data) -> None:
        """A task ends; `examples` are its training data, on the circuit's device."""

    def select(self, task: int) -> None:
        """The task of the examples that come, by its index; called only where the scenario tells it."""

    def loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The forward pass: the answer for the batch, (batch, outputs), and the loss to send back."""
        answer: Tensor = self.circuit(x)
        return answer, self._loss(answer, y)

    def correct(self) -> None:
        """Change `.grad` after the backward pass."""

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Take the optimizer's step."""
        optimizer.step()

    def assumptions(self) -> Assumptions:
        """What this protection assumes, and what it keeps now."""
        return Assumptions(
            boundaries=self.needs_boundaries,
            identity=self.needs_identity,
            samples=0,
            epochs=0,
            bytes=bytes_of(self.state_dict()),
            passes=1,
        )

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on: tensors, numbers, and dicts and lists of them."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that `state_dict` returned; the circuit is attached before.

        Raises:
            CheckpointError: it is the state of another protection or network.
        """
        if state:
            raise CheckpointError(f"{self.name}: the state has {sorted(state)}, and this protection keeps nothing.")


def refuse_loss_scale(circuit: nn.Module, name: str) -> None:
    """Refuse a circuit whose loss is scaled.

    Raises:
        ConfigError: `.grad` is a multiple of the update, and the protection needs the update.
    """
    scale = getattr(circuit, "loss_scale", 1.0)
    if scale != 1:
        raise ConfigError(
            f"{name}: the circuit's loss_scale is {scale!r}, and the protection needs unscaled gradients. Build the "
            "circuit without loss_scale."
        )


def bytes_of(state: Any) -> int:
    """The bytes of all tensors in nested dicts and lists."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    inner = state.values() if isinstance(state, Mapping) else state if isinstance(state, list | tuple) else ()
    return sum(map(bytes_of, inner))
