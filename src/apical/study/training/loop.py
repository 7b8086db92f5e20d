"""Training itself: one network, one rule, one stream of tasks, and everything that a step changes.

A plain task is a stream of one.

`Training` knows no files and no clock. Its `state` holds all that the next step depends on, so that training
which continues from a restored state takes the same steps, bit for bit, as training that was never interrupted:
weights and feedback weights, the rule's and the optimizer's state, the data's order and the place in it,
PyTorch's own random state (dropout), the choices that a loss draws, and the sums of the epoch so far.
"""

import copy
import itertools
import math
from collections.abc import Callable, Mapping
from functools import cached_property
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from apical import continual, data, measure
from apical.errors import CheckpointError, ConfigError, NonFiniteError
from apical.layers.over_time import temporal_neurons
from apical.study.configuration import Config
from apical.study.runs import fingerprint, task_record
from apical.study.runs.results import Activity, Tested
from apical.study.training import schedules, testing
from apical.study.training.criteria import LOSSES, teaching
from apical.study.training.making import check_parts, explained, make_circuit, make_stream, seed_for

# Examples on which the angle to the true gradient is measured: always the same ones of the training part.
PROBED = 256


# What `Training.state` has, by its types.
STATE: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("epoch", "position", "step", "task", "first_epoch", "first_step", "best_epoch"), int),
    **dict.fromkeys(("circuit", "optimizer", "protection", "best"), dict),
    **dict.fromkeys(("order", "choices", "random", "loss_sum", "correct"), Tensor),
    **dict.fromkeys(("matrix", "before"), list),
    "gpu_random": (Tensor, type(None)),
    "best_loss": float,
}


def check_state(state: Mapping[str, Any]) -> None:
    """Make sure that a state has all parts, of their types.

    Raises:
        CheckpointError: it has not.
    """
    wrong = [key for key, kind in STATE.items() if not isinstance(state.get(key), kind)]
    if wrong:
        raise CheckpointError(
            f"the checkpoint has no {wrong[0]!r} of its type: it is of another version of apical, or another program. "
            "Train again (overwrite the run)."
        )


class Training:
    """A training run in memory. Use it inside `reproducible(config)`.

    Args:
        config: resolved.
        task: what to learn; a stream is taken as it is, and a task is cut as the configuration says.

    Attributes:
        stream: what is learned.
        circuit: the network and its rule.
        fingerprint: of what the run is made of.
        phase: the task that is being learned.
        train, validation: the two parts of its training data.
        epoch: epochs completed, of all tasks.
        position: steps taken in the present epoch.
        step: steps taken in all.
        best_epoch: the epoch of this task with the lowest validation loss, when early stopping watches it; else 0.
        before: the accuracy on every task before the first step; empty for a single task.
        matrix: the rows of the accuracy matrix so far; none for a single task, which is tested at the end.

    Raises:
        ApicalError: the network cannot be built, cannot take the data, or cannot learn by this rule.
    """

    def __init__(self, config: Config, task: data.Task | continual.Stream) -> None:
        self.config = config
        self.task = task
        check_parts(task)
        self.stream = make_stream(config, task)
        self._choices = torch.Generator().manual_seed(seed_for(config.seed, "choices"))
        self._loss = teaching(config.loss, exploration=config.exploration, generator=self._choices)
        protection = config.protect.make()
        if len(self.stream) == 1 and config.protect.name != "none":
            raise ConfigError(
                f"protect: {config.protect.name} has nothing to protect, since the task is learned alone. Set stream, "
                "such as stream=split."
            )
        self.circuit = make_circuit(config, self.stream, protection)
        self.fingerprint = fingerprint.describe(
            config, task, self.circuit.model, self.circuit.encode, self.circuit.rule
        )
        optimizer = config.optimizer.make(list(self.circuit.parameters()))
        self.learner = continual.Learner(self.stream, self.circuit, optimizer, self._loss, protection, clip=config.clip)
        self._rate = optimizer.param_groups[0]["lr"]
        self._order = torch.Generator().manual_seed(seed_for(config.seed, "order"))
        self._epoch_order = self._order.get_state()
        self.epoch = self.position = self.step = 0
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=config.device)
        self._correct = torch.zeros((), dtype=torch.int64, device=config.device)
        self.matrix: list[list[float]] = []
        self.before: list[float] = []
        self._enter(0)
        self.learner.begin(self.phase)

    def _enter(self, index: int) -> None:
        """Take the data of a task, and count its epochs from 0."""
        self.phase = self.stream.phase(index)
        self.train = self.phase.train.to(self.config.device)
        self.validation = (self.phase.validation or self.train.take([])).to(self.config.device)
        # What does not fill a batch is left for the next order: a mean over two or three examples would take as long a
        # step as one over a whole batch, in a direction of its own.
        self.steps_per_epoch = max(1, len(self.train) // self.config.batch_size)
        self._seen = min(len(self.train), self.steps_per_epoch * self.config.batch_size)
        self._first_epoch, self._first_step = self.epoch, self.step
        self.best_epoch = 0
        self._best_loss = math.inf
        self._best: dict[str, Any] = {}
        self.__dict__.pop("_probe", None)

    def task_record(self) -> dict[str, Any]:
        """The record that a run folder keeps of the data."""
        if isinstance(self.task, continual.Stream):
            parts = [(task.train, task.validation or ()) for task in self.task]
            train, validation = (sum(map(len, column)) for column in zip(*parts, strict=True))
        else:
            train, validation = map(len, data.stratified_indices(self.task.train.y, self.config.validation, seed=0))
        return task_record.describe(self.task, self.stream, train=train, validation=validation)

    @property
    def phases(self) -> int:
        """How many times learning begins: once for each task, or once for all."""
        return 1 if self.stream.joint else len(self.stream)

    @property
    def expected_steps(self) -> int:
        """Of the whole run, if every task is as large as this one and none stops early."""
        return self._first_step + self.config.epochs * self.steps_per_epoch * (self.phases - self.phase.index)

    @property
    def ended(self) -> bool:
        """Whether no epoch of any task is left: all were run, or early stopping has had enough."""
        return self._phase_ended and (self.phase.index == self.phases - 1)

    @property
    def _phase_ended(self) -> bool:
        return self._epochs_left == 0 or self.stalled

    @property
    def _epochs_left(self) -> int:
        return self.config.epochs - (self.epoch - self._first_epoch)

    @property
    def stalled(self) -> bool:
        """Whether the validation loss of this task has not fallen for `patience` epochs."""
        return 0 < self.config.patience <= self.epoch - (self.best_epoch or self._first_epoch)

    def run_epoch(self, after_step: Callable[[], None]) -> None:
        """Take the steps that are left of this epoch.

        Args:
            after_step: called after each step, when `state` may be taken; what it raises ends the epoch there.

        Raises:
            NonFiniteError: an activity, an error or the loss is NaN or infinite.
        """
        if len(self.stream) > 1 and not self.before:
            self.before = self.learner.test()
        self._order.set_state(self._epoch_order)
        batches = data.batches(
            self.train,
            self.config.batch_size,
            generator=self._order,
            drop_last=len(self.train) >= self.config.batch_size,
        )
        scheduled = not schedules.is_constant(self.config.schedule)
        self.circuit.train()
        for x, y in itertools.islice(batches, self.position, None):
            if scheduled:
                self._set_rate()
            answer, loss = self.learner.step(x, y)
            self._count(answer.detach(), loss.detach(), y)
            self.position += 1
            self.step += 1
            after_step()

    def _set_rate(self) -> None:
        factor = schedules.factor_at(
            self.config.schedule,
            self.step - self._first_step,
            steps_per_epoch=self.steps_per_epoch,
            epochs=self.config.epochs,
        )
        for group in self.learner.optimizer.param_groups:
            group["lr"] = self._rate * factor

    def _count(self, answer: Tensor, loss: Tensor, y: Tensor) -> None:
        # Sums stay on the device: reading a number at every step would make each wait for the last.
        self._loss_sum.add_(loss, alpha=len(y))
        self._correct.add_((self.stream.restrict(answer, y).argmax(1) == y).sum())

    def end_epoch(self) -> dict[str, Any]:
        """Close the epoch: measure it, and return its record for metrics.jsonl.

        Raises:
            NonFiniteError: the loss of the epoch, or on the validation part, is NaN or infinite.
        """
        self.epoch += 1
        self.position = 0
        self._epoch_order = self._order.get_state()
        record: dict[str, Any] = {
            "task": self.phase.index,
            "epoch": self.epoch,
            "step": self.step,
            "learning_rate": self.learner.optimizer.param_groups[0]["lr"],
            "train_loss": testing.finite_loss(self._loss_sum.item() / self._seen, "the training loss of the epoch"),
            "train_accuracy": self._correct.item() / self._seen,
            "validation_loss": None,
            "validation_accuracy": None,
            "angles": None,
            "carried": None,
            "tested": None,
        }
        self._loss_sum.zero_()
        self._correct.zero_()
        if len(self.validation):
            record["validation_loss"], record["validation_accuracy"] = self.measure(self.validation)
        every = self.config.alignment
        if every and (self.epoch % every == 0 or self._epochs_left == 0):
            record["angles"] = self.angles()
            record["carried"] = self.carried()
        if self.config.patience and record["validation_loss"] < self._best_loss:
            self.best_epoch = self.epoch
            self._best_loss = record["validation_loss"]
            self._best = copy.deepcopy(self.circuit.state_dict())
        if self.phases > 1 and self._phase_ended:
            record["tested"] = self._end_task()
        return record

    def _end_task(self) -> list[float]:
        """Close the task: consolidate, test on every task, and begin the next; the accuracies."""
        self.take_best()
        self.learner.end(self.train)
        self.matrix.append(self.learner.test())
        if not self.ended:
            self._enter(self.phase.index + 1)
            self.learner.begin(self.phase)
        return self.matrix[-1]

    def measure(self, examples: data.Examples) -> tuple[float, float]:
        """Mean loss, and the fraction answered correctly, as the circuit answers in `eval()`.

        Raises:
            NonFiniteError: the loss is NaN or infinite.
        """
        loss, correct = testing.answer_all(
            self.circuit, examples.to(self.config.device), LOSSES[self.config.loss], self.stream
        )
        return loss, correct.sum().item() / len(examples)

    def test(self) -> Tested:
        """Measure the test data of every task, after the last step.

        Raises:
            NonFiniteError: the loss is NaN or infinite.
        """
        tests = testing.every_task(self.learner, LOSSES[self.config.loss])
        loss, correct = testing.together(tests)
        if len(self.stream) == 1:
            return Tested(loss, correct.sum().item() / len(correct), None)
        if self.stream.joint:
            self.matrix = [self.learner.test()]
        return Tested(loss, fmean(self.matrix[-1]), testing.stream_result(self.learner, self.matrix, self.before))

    def angles(self) -> dict[str, float | None]:
        """Degrees between the rule's update and the true gradient, for each layer, on a fixed part of the data.

        None for a layer where either is zero.
        """
        angles = measure.alignment(self.circuit.train(), self._probe.x, self._probe.y, self._probing)
        return {layer: None if math.isnan(angle) else angle for layer, angle in angles.items()}

    def carried(self) -> dict[str, dict[str, float | None]]:
        """The mean of what the rule carries, for each layer, on the same part of the data."""
        found = measure.carried(self.circuit.train(), self._probe.x, self._probe.y, self._probing)
        return {
            layer: {name: mean if math.isfinite(mean) else None for name, mean in quantities.items()}
            for layer, quantities in found.items()
        }

    def spikes(self) -> Activity | None:
        """How the neurons fire on the same part of the data; None: none of them are of the kind that fires."""
        if not any(neuron.fires for neuron in temporal_neurons(self.circuit.model)):
            return None
        return testing.activity(measure.spikes(self.circuit, self._probe.x))

    def _probing(self, answer: Tensor, y: Tensor) -> Tensor:
        """The loss as it teaches, with the same draws each time, so that two updates are of the same choices."""
        generator = torch.Generator().manual_seed(seed_for(self.config.seed, "probed choices"))
        loss = teaching(self.config.loss, exploration=self.config.exploration, generator=generator)
        return self.stream.loss(loss)(answer, y)

    @cached_property
    def _probe(self) -> data.Examples:
        generator = torch.Generator().manual_seed(seed_for(self.config.seed, "probe"))
        return self.train.take(torch.randperm(len(self.train), generator=generator)[:PROBED])

    def check_weights(self) -> None:
        """Make sure that what is about to be saved is worth it.

        Raises:
            NonFiniteError: a parameter holds NaN or infinity.
        """
        for name, parameter in self.circuit.named_parameters():
            if not torch.isfinite(parameter).all():
                layer = name.removeprefix("model.").rpartition(".")[0]
                raise NonFiniteError(f"{name} holds NaN or infinity", layer=layer)

    def take_best(self) -> None:
        """Go back to the weights with the lowest validation loss, when early stopping watched it."""
        if self._best:
            self.circuit.load_state_dict(self._best)

    def state(self) -> dict[str, Any]:
        """All that the next step depends on, ready for `torch.save`. It shares memory with training."""
        gpu = torch.cuda.get_rng_state(self.config.device) if self._on_gpu else None
        return {
            "epoch": self.epoch,
            "position": self.position,
            "step": self.step,
            "task": self.phase.index,
            "first_epoch": self._first_epoch,
            "first_step": self._first_step,
            "matrix": self.matrix,
            "before": self.before,
            "circuit": self.circuit.state_dict(),
            "optimizer": self.learner.optimizer.state_dict(),
            "protection": self.learner.protection.state_dict(),
            "order": self._epoch_order,
            "choices": self._choices.get_state(),
            "random": torch.get_rng_state(),
            "gpu_random": gpu,
            "loss_sum": self._loss_sum,
            "correct": self._correct,
            "best_epoch": self.best_epoch,
            "best_loss": self._best_loss,
            "best": self._best,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that `state` returned.

        Raises:
            CheckpointError: it belongs to another network, rule, optimizer or version of apical.
        """
        check_state(state)
        most = {"task": len(self.stream) - 1, "epoch": self.config.epochs * self.phases}
        most |= dict.fromkeys(("first_epoch", "best_epoch"), state["epoch"])
        most |= dict.fromkeys(("first_step", "position"), state["step"])
        if not all(0 <= state[key] <= largest for key, largest in most.items()):
            raise CheckpointError("the checkpoint is at a place that this run does not have: train again")
        with explained():
            self.circuit.load_state_dict(state["circuit"])
            self.learner.optimizer.load_state_dict(state["optimizer"])
            self.learner.protection.load_state_dict(state["protection"])
        self._enter(state["task"])
        self.learner.select(self.phase.index)
        self._first_epoch, self._first_step = state["first_epoch"], state["first_step"]
        self.matrix, self.before = state["matrix"], state["before"]
        self.epoch, self.position, self.step = state["epoch"], state["position"], state["step"]
        self._order.set_state(state["order"])
        self._epoch_order = state["order"]
        self._choices.set_state(state["choices"])
        self._loss_sum.copy_(state["loss_sum"])
        self._correct.copy_(state["correct"])
        self.best_epoch, self._best_loss, self._best = state["best_epoch"], state["best_loss"], state["best"]
        torch.set_rng_state(state["random"])
        if self._on_gpu and state["gpu_random"] is not None:
            torch.cuda.set_rng_state(state["gpu_random"], self.config.device)

    @property
    def _on_gpu(self) -> bool:
        return torch.device(self.config.device).type == "cuda"
