"""Arenas: places cut into bins, and random walks through them.

Positions are (n, 2) in metres. Maps are (cells, rows, columns), rows along y and columns along x, with NaN in bins that
lie outside the arena.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from apical.errors import ConfigError, DataError
from apical.hippocampus.cells import check_numbers, check_positions, generator_of

_WINDOW = 256  # steps of a walk in which the first one outside is sought


@dataclass(frozen=True)
class Arena:
    """A place to walk in, cut into square bins: `Square`, `Disc`, `LinearTrack` or `CircularTrack`.

    Args:
        size: side, diameter, length or circumference, metres.
        bins: along `size`.

    Raises:
        ConfigError: the size is not above 0, or there are fewer than two bins.
    """

    size: float = 1.0
    bins: int = 50

    def __post_init__(self) -> None:
        check_numbers(type(self).__name__, size=self.size)
        if self.bins < 2:
            raise ConfigError(f"{type(self).__name__}: bins={self.bins!r} is below 2. Pass 2 or more.")

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the bins."""
        return (self.bins, self.bins)

    @property
    def bin_size(self) -> float:
        """The side of a bin, metres."""
        return self.size / self.bins

    @property
    def centre(self) -> tuple[float, float]:
        """The point about which cues are rotated, metres."""
        return (self.size / 2, self.size / 2)

    @property
    def extent(self) -> tuple[float, float]:
        """(width, height) of the rectangle from the origin that holds the arena, metres."""
        return (self.size, self.size)

    @property
    def wraps(self) -> bool:
        """Whether the first and the last bin are neighbours."""
        return False

    @property
    def inside(self) -> Tensor:
        """Which bins have their centre in the arena: (rows, columns), bool."""
        return torch.ones(self.shape, dtype=torch.bool)

    def centres(self) -> Tensor:
        """The centres of all bins inside, row by row: (bins inside, 2)."""
        along = (torch.arange(self.bins) + 0.5) * self.bin_size
        y, x = torch.meshgrid(along, along, indexing="ij")
        return torch.stack([x, y], -1)[self.inside]

    def contains(self, positions: Tensor) -> Tensor:
        """Which positions lie in the arena: (n, 2) to (n,), bool."""
        return ((positions >= 0) & (positions <= self.size)).all(1)

    def places(self, positions: Tensor) -> Tensor:
        """The bin of each position, counted row by row over all bins: (n, 2) to (n,), int64.

        Raises:
            DataError: a position lies outside the arena, or they are not (n, 2), floating point and finite.
        """
        outside = ~self.contains(check_positions(type(self).__name__, positions))
        if outside.any():
            first = int(outside.nonzero()[0])
            raise DataError(
                f"{type(self).__name__}: position {first}, {positions[first].tolist()}, lies outside the arena "
                f"({int(outside.sum())} of {len(positions)} do). Use one unit, metres, for both, or leave them out."
            )
        return self._bins(positions)

    def _bins(self, positions: Tensor) -> Tensor:
        cells = (positions / self.bin_size).long().clamp_(0, self.bins - 1)
        return cells[:, 1] * self.bins + cells[:, 0]

    def maps(self, rates: Tensor) -> Tensor:
        """Rates at `centres()` as maps: (bins inside, cells) to (cells, rows, columns).

        Raises:
            DataError: there is not one row for each bin inside.
        """
        inside = self.inside.to(rates.device)
        if rates.ndim != 2 or len(rates) != int(inside.sum()):
            raise DataError(
                f"{type(self).__name__}: rates are {tuple(rates.shape)}, and ({int(inside.sum())}, cells) is needed. "
                "Compute them at arena.centres()."
            )
        filled = rates.new_full((rates.shape[1], *self.shape), math.nan)
        filled[:, inside] = rates.detach().T
        return filled

    def walk(
        self, steps: int, *, interval: float = 0.1, speed: float = 0.2, memory: float = 0.5, seed: int = 0
    ) -> Tensor:
        """A smooth random walk that is reflected at the walls: (steps, 2).

            v = speed · z,   z = white noise convolved with a Gaussian of standard deviation `memory`, mean |z| = 1

        The free path is the sum of the velocities; at a wall, its remainder is mirrored. Time is spent equally
        everywhere.

        Args:
            steps: how many positions.
            interval: between positions, seconds.
            speed: mean, metres a second.
            memory: seconds.
            seed: of start and velocities.

        Raises:
            ConfigError: a number is not above 0.
        """
        check_numbers(f"{type(self).__name__}.walk", steps=steps, interval=interval, speed=speed, memory=memory)
        generator = generator_of("walk", seed)
        axes = min(self.shape[0], 2)
        reach = math.ceil(4 * memory / interval)
        kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) * interval / memory).square())
        noise = torch.randn(axes, 1, steps + 2 * reach, generator=generator, dtype=torch.float64)
        velocity = F.conv1d(noise, (kernel / kernel.square().sum().sqrt())[None, None])[:, 0].T
        velocity *= speed / math.sqrt(math.pi / 2 if axes == 2 else 2 / math.pi)
        start = self.centres()[torch.randint(int(self.inside.sum()), (1,), generator=generator)].double()
        return self._reflected(start, (velocity * interval).cumsum(0)).float()

    def _reflected(self, start: Tensor, path: Tensor) -> Tensor:
        """A free path of displacements from the start, (steps, axes), with its mirror images at the walls."""
        return _fold(start + path, self.size)


class Square(Arena):
    """A square open field, [0, size] x [0, size]."""


class Disc(Arena):
    """A circular open field of diameter `size` around (size / 2, size / 2)."""

    @property
    def inside(self) -> Tensor:
        """Which bins have their centre in the disc: (rows, columns), bool."""
        away = (torch.arange(self.bins) + 0.5) * self.bin_size - self.size / 2
        return away.square()[:, None] + away.square()[None, :] <= (self.size / 2) ** 2

    def contains(self, positions: Tensor) -> Tensor:
        """Which positions lie in the arena: (n, 2) to (n,), bool."""
        away: Tensor = torch.linalg.vector_norm(positions - self.size / 2, dim=1)
        return away <= self.size / 2 * (1 + 1e-6)

    def _reflected(self, start: Tensor, path: Tensor) -> Tensor:
        # Where the path leaves the disc, its remainder is mirrored at the tangent: one more isometry, x -> x A + b.
        radius, free = self.size / 2, (start + path - self.size / 2).numpy()
        turn, shift, at = np.eye(2), np.zeros(2), 0
        while at < len(free):
            window = free[at : at + _WINDOW] @ turn + shift
            out = np.hypot(*window.T) > radius
            end = int(out.argmax()) if out.any() else len(window)
            free[at : at + end] = window[:end]
            at += end
            if end < len(window):
                normal = window[end] / np.hypot(*window[end])
                mirror = np.eye(2) - 2 * np.outer(normal, normal)
                turn, shift = turn @ mirror, shift @ mirror + 2 * radius * normal
        return torch.from_numpy(free) + radius


class LinearTrack(Arena):
    """A straight track of length `size` along x, with y = 0."""

    @property
    def shape(self) -> tuple[int, int]:
        """(1, bins)."""
        return (1, self.bins)

    def centres(self) -> Tensor:
        """The centres of all bins, (bins, 2)."""
        along = (torch.arange(self.bins) + 0.5) * self.bin_size
        return torch.stack([along, torch.zeros_like(along)], 1)

    def _bins(self, positions: Tensor) -> Tensor:
        return (positions[:, 0] / self.bin_size).long().clamp_(0, self.bins - 1)

    def _reflected(self, start: Tensor, path: Tensor) -> Tensor:
        along = _fold(start[:, :1] + path, self.size)
        return torch.cat([along, torch.zeros_like(along)], 1)


class CircularTrack(LinearTrack):
    """A circular track of circumference `size`; bins are counted counter-clockwise from the east."""

    @property
    def radius(self) -> float:
        """The radius, metres."""
        return self.size / (2 * math.pi)

    @property
    def centre(self) -> tuple[float, float]:
        """The centre, (radius, radius)."""
        return (self.radius, self.radius)

    @property
    def extent(self) -> tuple[float, float]:
        """(2 radius, 2 radius)."""
        return (2 * self.radius, 2 * self.radius)

    @property
    def wraps(self) -> bool:
        """True: the first and the last bin are neighbours."""
        return True

    def centres(self) -> Tensor:
        """The centres of all bins, (bins, 2)."""
        return self._around((torch.arange(self.bins)[:, None] + 0.5) * self.bin_size)

    def contains(self, positions: Tensor) -> Tensor:
        """Which positions lie within half a bin of the track: (n, 2) to (n,), bool."""
        away: Tensor = torch.linalg.vector_norm(positions - self.radius, dim=1)
        return (away - self.radius).abs() <= self.bin_size / 2

    def _bins(self, positions: Tensor) -> Tensor:
        x, y = (positions - self.radius).unbind(1)
        return (torch.atan2(y, x).remainder(2 * math.pi) * self.radius / self.bin_size).long().clamp_(0, self.bins - 1)

    def _reflected(self, start: Tensor, path: Tensor) -> Tensor:
        return self._around(start[:, :1] + path)

    def _around(self, along: Tensor) -> Tensor:
        angle = along / self.radius
        return self.radius * (1 + torch.cat([angle.cos(), angle.sin()], 1))


def _fold(free: Tensor, size: float) -> Tensor:
    """Positions between mirrors at 0 and `size`."""
    return size - (free.remainder(2 * size) - size).abs()
