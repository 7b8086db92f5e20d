"""What of gymnasium's spaces a network takes: observations become rows of numbers, actions count from 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from apical.errors import ConfigError

if TYPE_CHECKING:
    import gymnasium

NEEDED = 'tasks over time need the package gymnasium: pip install "apical[gymnasium]"'


def refuse_without_gymnasium() -> None:
    """Raises ConfigError, with the remedy, where gymnasium is not installed."""
    try:
        import gymnasium  # noqa: F401
    except ModuleNotFoundError as missing:
        raise ConfigError(NEEDED) from missing


def observation_size(space: gymnasium.Space[Any]) -> int:
    """How many numbers a network gets for an observation.

    Args:
        space: of one environment: `Box` of any shape, laid out in a row, or `Discrete`, one number for each value.

    Raises:
        ConfigError: any other space.
    """
    from gymnasium import spaces

    if isinstance(space, spaces.Box):
        return int(np.prod(space.shape))
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    raise ConfigError(
        f"observations of the space {space} cannot be taken in, only Box and Discrete; wrap the environment in "
        "gymnasium.wrappers.FlattenObservation, which makes a Box of most spaces."
    )


def action_count(space: gymnasium.Space[Any]) -> int:
    """How many actions there are to choose among.

    Args:
        space: of one environment, `Discrete`.

    Raises:
        ConfigError: any other space.
    """
    from gymnasium import spaces

    if isinstance(space, spaces.Discrete):
        return int(space.n)
    raise ConfigError(
        f"actions of the space {space} cannot be chosen: AuGMEnT has one unit for each action, so it must be Discrete; "
        "for continuous actions, choose among a few values with gymnasium.wrappers.TransformAction."
    )


def encoder(space: gymnasium.Space[Any]) -> Callable[[Any], NDArray[np.float64]]:
    """The function that makes rows (environments, size) of a batch of observations of this space."""
    from gymnasium import spaces

    size = observation_size(space)
    if isinstance(space, spaces.Discrete):
        values, first = np.eye(size), int(space.start)
        return lambda batch: values[np.asarray(batch) - first]
    return lambda batch: np.asarray(batch, dtype=np.float64).reshape(-1, size)


def first_action(space: gymnasium.Space[Any]) -> int:
    """The number of a discrete space's first action."""
    from gymnasium import spaces

    assert isinstance(space, spaces.Discrete)
    return int(space.start)
