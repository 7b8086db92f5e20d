"""Worlds: the entorhinal input at each position of an arena, and trajectories of RatInABox."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from apical.errors import ConfigError
from apical.hippocampus.arenas import Arena, Disc, LinearTrack
from apical.hippocampus.cells import Cells, CueCells, GridCells


def rat_in_a_box(arena: Arena, steps: int, *, interval: float = 0.1, seed: int = 0, **motion: Any) -> Tensor:
    """A trajectory of RatInABox's agent, whose motion is fitted to that of rats: (steps, 2).

    Args:
        arena: a `Square` or a `Disc`.
        steps: how many positions.
        interval: between positions, seconds.
        seed: of NumPy's global generator, which RatInABox uses; its state is restored afterwards.
        motion: parameters of `ratinabox.Agent`, such as `speed_mean=0.2`.

    Raises:
        ConfigError: the arena is a track, or ratinabox is not installed.

    Source:
        T. George et al. (2024), RatInABox, a toolkit for modelling locomotion and neuronal activity in continuous
        environments. Its grid cells are scaled by about 2/√3; use `GridCells`.
    """
    if isinstance(arena, LinearTrack):
        raise ConfigError(f"rat_in_a_box: {type(arena).__name__} is not an open field. Use arena.walk(...).")
    try:
        from ratinabox import Agent, Environment
    except ImportError as error:
        raise ConfigError(
            "rat_in_a_box: ratinabox is not installed. Install apical[hippocampus], or use arena.walk(...)."
        ) from error
    size = arena.size
    boundary = [[0, 0], [size, 0], [size, size], [0, size]]
    if isinstance(arena, Disc):
        turns = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        boundary = (size / 2 * (1 + np.stack([np.cos(turns), np.sin(turns)], 1))).tolist()
    state = np.random.get_state()  # ratinabox draws from the global generator
    try:
        np.random.seed(seed)
        agent = Agent(Environment({"boundary": boundary}), {"dt": interval, **motion})
        for _ in range(steps):
            agent.update()
        return torch.tensor(np.array(agent.history["pos"]), dtype=torch.float32)
    finally:
        np.random.set_state(state)


class World:
    """The entorhinal input of an arena: populations of cells side by side, at equal variance.

    A population is scaled down until its mean variance over the arena is that of the weakest one, since otherwise the
    mismatch is that of the strongest alone. A world made by `having` keeps the scales of the first world.

    Args:
        arena: where.
        populations: cells by name.

    Raises:
        ConfigError: no population is given, or a population is constant over the arena.

    Example:
        >>> from apical.hippocampus import Square, World
        >>> world = World.make(Square(1.0, bins=20), grid=30, cue=30, seed=0)
        >>> world(world.arena.centres()).shape
        torch.Size([400, 60])
    """

    def __init__(self, arena: Arena, populations: Mapping[str, Cells]) -> None:
        if not populations:
            raise ConfigError('World: no population is given. Pass one or more, such as {"grid": GridCells.make(100)}.')
        self.arena, self.populations = arena, dict(populations)
        deviations = {name: _deviation(each(arena.centres())) for name, each in populations.items()}
        for name, deviation in deviations.items():
            if not deviation > 0:
                raise ConfigError(f"World: population {name} has one rate everywhere in the arena. Leave it out.")
        weakest = min(deviations.values())
        self.scales = {name: weakest / deviation for name, deviation in deviations.items()}

    @classmethod
    def make(cls, arena: Arena, *, grid: int = 300, cue: int = 300, seed: int = 0) -> "World":
        """Draw a world of grid and cue cells, with the defaults of `GridCells.make` and `CueCells.make`.

        On a `LinearTrack`, the cues are 25 blocks along the track.
        """
        blocks = (25, 1) if type(arena) is LinearTrack else 5
        cues = CueCells.make(cue, arena.extent, blocks=blocks, seed=seed)
        return cls(arena, {"grid": GridCells.make(grid, seed=seed), "cue": cues})

    @property
    def cells(self) -> int:
        """The number of cells of all populations."""
        return sum(each.cells for each in self.populations.values())

    @property
    def parts(self) -> dict[str, slice]:
        """The columns of the input that each population has."""
        ends = np.cumsum([0, *(each.cells for each in self.populations.values())]).tolist()
        return {name: slice(*pair) for name, *pair in zip(self.populations, ends[:-1], ends[1:], strict=True)}

    def __call__(self, positions: Tensor) -> Tensor:
        """The input at positions: (n, 2) to (n, cells), from 0 to 1.

        Raises:
            DataError: the positions are not (n, 2), floating point and finite.
        """
        return torch.cat([self.scales[name] * each(positions) for name, each in self.populations.items()], 1)

    def having(self, **populations: Cells) -> "World":
        """The world with some populations replaced, for rotated, morphed or exchanged cues.

        Raises:
            ConfigError: a name is not that of a population, or the number of cells changes.
        """
        for name, each in populations.items():
            known = self.populations.get(name)
            if known is None or known.cells != each.cells:
                raise ConfigError(
                    f"World: {name} with {each.cells} cells replaces no population. The world has "
                    f"{ ({key: one.cells for key, one in self.populations.items()}) }."
                )
        changed = World(self.arena, self.populations | populations)
        changed.scales = dict(self.scales)
        return changed

    def another(self, seed: int) -> "World":
        """Another room for the same cells: grid modules are realigned, and cue cells have other blocks.

        Raises:
            ConfigError: the world has populations other than `GridCells` and `CueCells`.
        """
        new: dict[str, Cells] = {}
        for name, each in self.populations.items():
            if isinstance(each, GridCells):
                new[name] = each.realigned(seed)
            elif isinstance(each, CueCells):
                new[name] = each.elsewhere(seed)
            else:
                raise ConfigError(
                    f"World: {name} has no maps for another room. Replace it with world.having({name}=...)."
                )
        return self.having(**new)


def _deviation(rates: Tensor) -> float:
    return float(rates.var(0).mean().sqrt())
