"""Protections at equal compute and at equal memory."""

from collections.abc import Sequence

from apical import continual
from apical.continual import protections
from apical.errors import ConfigError
from apical.optim.consolidation import Assumptions
from apical.study.configuration import Config


def at_equal_compute(settings: Sequence[Config], stream: continual.Stream) -> list[Config]:
    """Give every arm as many forward and backward passes as the dearest one takes, in whole epochs.

        epochs' = (max over arms of (epochs * passes + own epochs) - own epochs) / passes, rounded

    Args:
        settings: of each arm; all have the same number of epochs.
        stream: what is learned.
    """
    costs = [_cost(own, stream) for own in settings]
    most = max(own.epochs * cost.passes + cost.epochs for own, cost in zip(settings, costs, strict=True))
    return [
        own.with_values({"epochs": max(1, round((most - cost.epochs) / cost.passes))})
        for own, cost in zip(settings, costs, strict=True)
    ]


def _cost(config: Config, stream: continual.Stream) -> Assumptions:
    """What a protection will have cost, by the size of batches and the outputs that compete."""
    protection = config.protect.make()
    protection.begin_task(stream.phase(0).outputs)
    if isinstance(protection, continual.Remembering):
        protection.expect(min(config.batch_size, len(stream.phase(0).train)))
    return protection.assumptions()


def at_equal_memory(settings: Sequence[Config], memory: int, stream: continual.Stream) -> list[Config]:
    """Let every protection that keeps examples keep as many as fit into a number of bytes.

    Args:
        settings: of each arm.
        memory: bytes for examples, labels and stored outputs.
        stream: what is learned.

    Raises:
        ConfigError: not one example fits, or a size was given, too.
    """
    example = stream[0].test.x[0]
    found = []
    for own in settings:
        kind = protections.get(own.protect.name)
        if not issubclass(kind, continual.Remembering):
            found.append(own)
            continue
        if "size" in own.protect.options:
            raise ConfigError(f"{own.protect.label}: its size is given, and so is the memory. Leave one out.")
        size = memory // kind.bytes_of_example(example, stream.outputs)
        if not size:
            raise ConfigError(f"{kind.name}: one example does not fit into {memory} bytes. Allow more memory.")
        found.append(own.with_values({"protect.size": size}))
    return found


def features_within(memory: int, most: int, classes: int) -> int:
    """How many random features a streaming LDA can have: counts, means and covariance in float64 within the memory."""
    features = most
    while features > 1 and 8 * (features * (features + classes) + classes) > memory:
        features -= 1
    return features
