"""What a run is made of: seeds, PyTorch's switches, the stream, the circuit."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from apical import continual, data, models
from apical.circuit import Circuit
from apical.errors import CheckpointError, ConfigError, DataError
from apical.optim.consolidation import Protection
from apical.study.configuration import Config
from apical.study.configuration.tables import StreamConfig


def seed_for(seed: int, purpose: str) -> int:
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
        torch.manual_seed(seed_for(config.seed, "dropout"))
        torch.set_num_threads(config.threads or threads)
        torch.use_deterministic_algorithms(deterministic or bool(gpus))
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic)


def make_stream(config: Config, task: data.Task | continual.Stream) -> continual.Stream:
    """What a run learns: a task as its configuration cuts it, or a stream of the user's own.

    Raises:
        ConfigError: the configuration asks of a stream of the user's own what only the stream can have.
    """
    if isinstance(task, continual.Stream):
        if config.stream.model_dump() != StreamConfig().model_dump():
            raise ConfigError(
                f"stream: the task is a stream already ({task.name}). Leave the setting out, and pass a stream that is "
                "cut, joined (at_once) or without boundaries as you want it."
            )
        if config.patience and any(own.validation is None for own in task):
            raise ConfigError(
                f"patience: {task.name} has no validation part to watch. Make the stream with validation=0.1."
            )
        return task
    return config.stream.make(task, validation=config.validation, seed=seed_for(config.seed, "validation"))


def check_parts(task: data.Task | continual.Stream) -> None:
    """Refuse data from which nothing can be learned or tested; of a stream its first task, since others may be costly.

    Raises:
        DataError: a part is empty, or its inputs are not of the networks' type.
    """
    first = task if isinstance(task, data.Task) else next(iter(task))
    for part, examples in (("training", first.train), ("test", first.test)):
        if not len(examples):
            raise DataError(f"{task.name}: the {part} part is empty. Pass a task with examples in both parts.")
        if examples.x.dtype != torch.float32:
            raise DataError(
                f"{task.name}: the {part} inputs are {examples.x.dtype}, and a study's networks are float32. "
                "Pass x.float()."
            )


def make_model(config: Config, stream: continual.Stream, protection: Protection) -> nn.Module:
    """The network of a run, as it is before the first step."""
    seed = seed_for(config.seed, "weights")
    model = models.build(config.model, input_shape=stream.input_shape, classes=stream.outputs, seed=seed)
    return protection.prepare(model, len(stream))


def make_circuit(config: Config, stream: continual.Stream, protection: Protection) -> Circuit:
    """That network with its rule, on its device."""
    model = make_model(config, stream, protection)
    circuit = Circuit(model.to(config.device), config.rule.make(), check_finite=config.check_finite)
    circuit.to(config.device)
    return circuit


def load_circuit(circuit: Circuit, state: Mapping[str, Any]) -> None:
    """Load the circuit of a checkpoint: the network and the rule's own state.

    Raises:
        CheckpointError: it belongs to another network, rule or version of apical.
    """
    with explained():
        circuit.load_state_dict(state)


@contextmanager
def explained() -> Iterator[None]:
    """Say of a state that does not fit what it is."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise CheckpointError(
            f"the checkpoint is of another network, rule, optimizer or version of apical: {error}"
        ) from error
