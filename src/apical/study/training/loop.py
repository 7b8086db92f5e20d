"""Training itself: one network, one rule, one task, and everything that a step changes.

`Training` knows no files and no clock. Its `state` holds all that the next step depends on, so that training
which continues from a restored state takes the same steps, bit for bit, as training that was never interrupted:
weights and feedback weights, the rule's and the optimizer's state, the data's order and the place in it,
PyTorch's own random state (dropout), the choices that a loss draws, and the sums of the epoch so far.
"""

import copy
import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from apical import data, measure, models
from apical.circuit import Circuit
from apical.errors import CheckpointError, ConfigError, NonFiniteError
from apical.losses import Loss
from apical.study.configuration import Config
from apical.study.runs import task_record
from apical.study.training import schedules
from apical.study.training.criteria import LOSSES, teaching

# Examples that a network answers at once when it is only measured; large enough to be quick, small enough for memory.
MEASURED_AT_ONCE = 1000
# Examples on which the angle to the true gradient is measured: always the same ones of the training part.
PROBED = 256


def stream(seed: int, purpose: str) -> int:
    """A seed of its own for each purpose, so that no two draws of a run are the same numbers in disguise."""
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose}".encode()).digest()[:7])


@contextmanager
def reproducible(config: Config) -> Iterator[None]:
    """PyTorch's global switches as `config` wants them, and as they were afterwards.

    Its number of threads (which decides the order of sums), its random state (dropout draws from it), and on a
    GPU its deterministic algorithms.

    Raises:
        ConfigError: there is no such device here.
    """
    device = torch.device(config.device)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {config.device!r}: PyTorch sees {torch.cuda.device_count()} GPUs here")
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    gpus = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(stream(config.seed, "dropout"))
        torch.set_num_threads(config.threads)
        torch.use_deterministic_algorithms(deterministic or bool(gpus))
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic)


class Training:
    """A training run in memory. Use it inside `reproducible(config)`.

    Args:
        config: resolved.
        task: what to learn.

    Attributes:
        circuit: the network and its rule.
        train, validation: the two parts of the task's training data.
        epoch: epochs completed.
        position: steps taken in the present epoch.
        step: steps taken in all.
        best_epoch: the epoch with the lowest validation loss, when early stopping watches it; else 0.

    Raises:
        ApicalError: the network cannot be built, cannot take the data, or cannot learn by this rule.
    """

    def __init__(self, config: Config, task: data.Task) -> None:
        self.config = config
        self.task = task
        train, validation = data.split(task.train, config.validation, seed=stream(config.seed, "validation"))
        self.train = train.to(config.device)
        self.validation = validation.to(config.device)
        # What does not fill a batch is left for the next order: a mean over two or three examples would take as long a
        # step as one over a whole batch, in a direction of its own.
        self.steps_per_epoch = max(1, len(self.train) // config.batch_size)
        self._seen = min(len(self.train), self.steps_per_epoch * config.batch_size)
        self._choices = torch.Generator().manual_seed(stream(config.seed, "choices"))
        self._loss = teaching(config.loss, exploration=config.exploration, generator=self._choices)
        self.circuit = make_circuit(config, task.input_shape, task.classes)
        self.parameters = list(self.circuit.parameters())
        self.optimizer = config.optimizer.make(self.parameters)
        self._rate = self.optimizer.param_groups[0]["lr"]
        self._order = torch.Generator().manual_seed(stream(config.seed, "order"))
        self._epoch_order = self._order.get_state()
        self.epoch = self.position = self.step = 0
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=config.device)
        self._correct = torch.zeros((), dtype=torch.int64, device=config.device)
        self.best_epoch = 0
        self._best_loss = math.inf
        self._best: dict[str, Any] = {}

    def task_record(self) -> dict[str, Any]:
        """The record that a run folder keeps of the data."""
        return task_record.describe(self.task, train=len(self.train), validation=len(self.validation))

    @property
    def ended(self) -> bool:
        """Whether no epoch is left: all were run, or early stopping has had enough."""
        return self.epoch >= self.config.epochs or self.stalled

    @property
    def stalled(self) -> bool:
        """Whether the validation loss has not fallen for `patience` epochs."""
        return 0 < self.config.patience <= self.epoch - self.best_epoch

    def run_epoch(self, after_step: Callable[[], None]) -> None:
        """Take the steps that are left of this epoch.

        Args:
            after_step: called after each step, when `state` may be taken; what it raises ends the epoch there.

        Raises:
            NonFiniteError: an activity, an error or the loss is NaN or infinite.
        """
        self._order.set_state(self._epoch_order)
        batches = data.batches(
            self.train,
            self.config.batch_size,
            generator=self._order,
            drop_last=len(self.train) >= self.config.batch_size,
        )
        scheduled = not schedules.is_constant(self.config.schedule)
        circuit, optimizer, loss_function, clip = self.circuit, self.optimizer, self._loss, self.config.clip
        circuit.train()
        for x, y in itertools.islice(batches, self.position, None):
            if scheduled:
                self._set_rate()
            optimizer.zero_grad()
            answer = circuit(x)
            loss = loss_function(answer, y)
            loss.backward()  # type: ignore[no-untyped-call]
            if clip:
                torch.nn.utils.clip_grad_norm_(self.parameters, clip)
            optimizer.step()
            self._count(answer.detach(), loss.detach(), y)
            self.position += 1
            self.step += 1
            after_step()

    def _set_rate(self) -> None:
        factor = schedules.factor_at(
            self.config.schedule, self.step, steps_per_epoch=self.steps_per_epoch, epochs=self.config.epochs
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate * factor

    def _count(self, answer: Tensor, loss: Tensor, y: Tensor) -> None:
        # Sums stay on the device: reading a number at every step would make each wait for the last.
        self._loss_sum.add_(loss, alpha=len(y))
        self._correct.add_((answer.argmax(1) == y).sum())

    def end_epoch(self) -> dict[str, Any]:
        """Close the epoch: measure it, and return its record for metrics.jsonl.

        Raises:
            NonFiniteError: the loss of the epoch, or on the validation part, is NaN or infinite.
        """
        self.epoch += 1
        self.position = 0
        self._epoch_order = self._order.get_state()
        record: dict[str, Any] = {
            "epoch": self.epoch,
            "step": self.step,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "train_loss": _finite(self._loss_sum.item() / self._seen, "the training loss of the epoch"),
            "train_accuracy": self._correct.item() / self._seen,
            "validation_loss": None,
            "validation_accuracy": None,
            "angles": None,
            "carried": None,
        }
        self._loss_sum.zero_()
        self._correct.zero_()
        if len(self.validation):
            record["validation_loss"], record["validation_accuracy"] = self.measure(self.validation)
        every = self.config.alignment
        if every and (self.epoch % every == 0 or self.epoch == self.config.epochs):
            record["angles"] = self.angles()
            record["carried"] = self.carried()
        if self.config.patience and record["validation_loss"] < self._best_loss:
            self.best_epoch = self.epoch
            self._best_loss = record["validation_loss"]
            self._best = copy.deepcopy(self.circuit.state_dict())
        return record

    def measure(self, examples: data.Examples) -> tuple[float, float]:
        """Mean loss, and the fraction answered correctly, as the circuit answers in `eval()`.

        Raises:
            NonFiniteError: the loss is NaN or infinite.
        """
        loss, correct = answer_all(self.circuit, examples.to(self.config.device), LOSSES[self.config.loss])
        return loss, correct.sum().item() / len(examples)

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

    def _probing(self, answer: Tensor, y: Tensor) -> Tensor:
        """The loss as it teaches, with the same draws each time, so that two updates are of the same choices."""
        generator = torch.Generator().manual_seed(stream(self.config.seed, "probed choices"))
        return teaching(self.config.loss, exploration=self.config.exploration, generator=generator)(answer, y)

    @cached_property
    def _probe(self) -> data.Examples:
        generator = torch.Generator().manual_seed(stream(self.config.seed, "probe"))
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
            "circuit": self.circuit.state_dict(),
            "optimizer": self.optimizer.state_dict(),
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
        with _explained():
            self.circuit.load_state_dict(state["circuit"])
            self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.position, self.step = state["epoch"], state["position"], state["step"]
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


def make_circuit(config: Config, input_shape: Sequence[int], classes: int) -> Circuit:
    """The network of a run, as it is before the first step, with its rule and on its device."""
    seed = stream(config.seed, "weights")
    model = models.build(config.model, input_shape=input_shape, classes=classes, seed=seed)
    circuit = Circuit(model.to(config.device), config.rule.make(), check_finite=config.check_finite)
    circuit.to(config.device)
    return circuit


def load_circuit(circuit: Circuit, state: Mapping[str, Any]) -> None:
    """Load the circuit of a checkpoint: the network and the rule's own state.

    Raises:
        CheckpointError: it belongs to another network, rule or version of apical.
    """
    with _explained():
        circuit.load_state_dict(state)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"the checkpoint is of another network, rule, optimizer or version of apical: {error}"
        ) from error


def answer_all(circuit: Circuit, examples: data.Examples, loss_function: Loss) -> tuple[float, Tensor]:
    """Mean loss, and which examples, (n,) bool, are answered correctly, by a circuit in `eval()`, on its device.

    Raises:
        NonFiniteError: the loss is NaN or infinite.
    """
    circuit.eval()
    loss_sum, correct = 0.0, []
    with torch.no_grad():
        for x, y in data.batches(examples, MEASURED_AT_ONCE):
            answer = circuit(x)
            loss_sum += loss_function(answer, y).item() * len(y)
            correct.append(answer.argmax(1) == y)
    return _finite(loss_sum / len(examples), "the loss on held-out data"), torch.cat(correct)


def _finite(loss: float, what: str) -> float:
    if not math.isfinite(loss):
        raise NonFiniteError(f"{what} is {loss}", layer="loss")
    return loss
