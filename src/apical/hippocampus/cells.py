"""Entorhinal cells: the rates of grid, object and cue cells at any position.

A population is called with positions, (n, 2) in metres, and returns rates from 0 to 1, (n, cells).
"""

import math
import zlib
from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from apical.errors import ConfigError, DataError
from apical.finiteness import finite

_GAIN, _OFFSET = 0.3, -1.5  # a and b of the grid cells' nonlinearity


class Cells(Protocol):
    """A population of cells with spatial tuning.

    Attributes:
        cells: their number.
    """

    @property
    def cells(self) -> int:
        """The number of cells."""
        ...

    def __call__(self, positions: Tensor, /) -> Tensor:
        """Rates at positions: (n, 2) to (n, cells)."""
        ...


def check_positions(what: str, positions: Tensor) -> Tensor:
    """Return the positions if they are (n, 2), floating point and finite.

    Raises:
        DataError: they are not.
    """
    if positions.ndim != 2 or positions.shape[1] != 2 or not positions.is_floating_point():
        raise DataError(
            f"{what}: positions are {tuple(positions.shape)} of {positions.dtype}, and (n, 2) in floating point is "
            "needed. Pass x and y in metres, one position a row."
        )
    if not finite(positions):
        raise DataError(f"{what}: positions hold NaN or infinity. Leave these samples out.")
    return positions


def check_numbers(what: str, **numbers: float) -> None:
    """Refuse a number that is not above 0.

    Raises:
        ConfigError: the first such number.
    """
    for name, number in numbers.items():
        if not (number > 0 and math.isfinite(number)):
            raise ConfigError(f"{what}: {name}={number!r} is not a finite number above 0. Pass one.")


def generator_of(purpose: str, seed: int) -> torch.Generator:
    """A generator whose draws are independent of those for other purposes with the same seed."""
    return torch.Generator().manual_seed(zlib.crc32(f"{purpose} {seed}".encode()))


@dataclass(frozen=True)
class GridCells:
    """Grid cells: rates on a hexagonal lattice, in modules of one spacing and orientation.

        x_i(r) = Σ_k cos(k_ik · (r - c_i)),   k_ik = 4π / (√3 λ_i) · u(θ_i + {-30°, 30°, 90°})
        rate_i(r) = (exp(a (x_i - b)) - 1) / (exp(a (3 - b)) - 1),   a = 0.3, b = -3/2

    Neighbouring peaks are λ apart and lie in the directions θ, θ + 60°, ...; the rate is 1 at a peak and 0 between
    three peaks. `make` draws a population; the fields of this class describe each cell.

    Attributes:
        spacing: λ, (cells,), metres.
        orientation: θ, (cells,), radians.
        phase: c, (cells, 2), metres: one of the cell's peaks.
        module: (cells,), int64.

    Example:
        >>> import torch
        >>> from apical.hippocampus import GridCells
        >>> grid = GridCells.make(4, modules=1, spacing=0.3, seed=0)
        >>> bool(torch.isclose(grid(grid.phase[:1])[0, 0], torch.tensor(1.0)))
        True

    Source:
        H. T. Blair, A. C. Welday and K. Zhang (2007), Scale-invariant memory representations emerge from moiré
        interference between grid fields that produce theta oscillations, eq. 1; L. de Almeida, M. Idiart and
        J. E. Lisman (2009), The input-output transformation of the hippocampal granule cells, eq. 1. The rate is scaled
        to 1 here.
    """

    spacing: Tensor
    orientation: Tensor
    phase: Tensor
    module: Tensor

    @classmethod
    def make(
        cls, cells: int, *, modules: int = 4, spacing: float = 0.3, ratio: float = 1.42, seed: int = 0
    ) -> "GridCells":
        """Draw a population of equally large modules (the first ones have the remainder).

        Args:
            cells: how many.
            modules: how many; each has an orientation from U(0°, 60°).
            spacing: of the first module, metres.
            ratio: of the spacings of consecutive modules (Stensola et al. 2012 measure 1.42 on average).
            seed: of orientations and phases; phases are uniform over the unit cell of the lattice.

        Raises:
            ConfigError: fewer cells than modules, or a number that is not above 0.
        """
        check_numbers("GridCells", modules=modules, spacing=spacing, ratio=ratio)
        if cells < modules:
            raise ConfigError(f"GridCells: {cells} cells cannot form {modules} modules. Pass at least one a module.")
        generator = generator_of("grid cells", seed)
        module = torch.arange(cells) * modules // cells
        scale = spacing * ratio ** module.float()
        angle = (torch.rand(modules, generator=generator) * math.pi / 3)[module]
        along = torch.rand(cells, 2, generator=generator) * scale[:, None]
        axes = torch.stack([_unit(angle), _unit(angle + math.pi / 3)], 1)  # (cells, 2 axes, 2)
        return cls(scale, angle, (along[:, :, None] * axes).sum(1), module)

    @property
    def cells(self) -> int:
        """The number of cells."""
        return len(self.spacing)

    def __call__(self, positions: Tensor) -> Tensor:
        """Rates at positions: (n, 2) to (n, cells).

        Raises:
            DataError: the positions are not (n, 2), floating point and finite.
        """
        check_positions("GridCells", positions)
        spacing, orientation, phase = (each.to(positions) for each in (self.spacing, self.orientation, self.phase))
        total = positions.new_zeros(len(positions), self.cells)
        for degrees in (-30, 30, 90):
            wave = 4 * math.pi / (math.sqrt(3) * spacing[:, None]) * _unit(orientation + math.radians(degrees))
            total += torch.cos(positions @ wave.T - (wave * phase).sum(1))
        # The sum is at least -3/2; rounding may take it a little below.
        return torch.expm1(_GAIN * (total - _OFFSET)).clamp_min(0) / math.expm1(_GAIN * (3 - _OFFSET))

    def realigned(self, seed: int, *, turn: bool = True) -> Self:
        """The same cells in another room: each module is shifted, and turned if `turn`, as a whole.

        Cells of a module keep their relative phases, as recorded by Fyhn et al. (2007).
        """
        generator = generator_of("realignment", seed)
        modules = int(self.module.max()) + 1
        angle = (torch.rand(modules, generator=generator) * 2 * math.pi * turn)[self.module]
        shift = (torch.rand(modules, 2, generator=generator) * 2 - 1)[self.module] * self.spacing[:, None]
        return replace(self, orientation=self.orientation + angle, phase=_turn(self.phase, angle) + shift)


@dataclass(frozen=True)
class ObjectCells:
    """Object cells: each fires at, or at a vector from, one object.

        rate_i(r) = exp(-|r - o_j(i) - v_i|² / (2 w²)),   j(i) = i mod objects,   v_i ~ N(0, distance²)

    Cells with `distance` 0 fire at the object itself (Deshmukh and Knierim 2011).

    Args:
        objects: o, (objects, 2), metres.
        cells: how many.
        width: w, metres.
        distance: standard deviation of each component of v, metres.
        seed: of v.

    Raises:
        ConfigError: there are fewer cells than objects, or `width` is not above 0.
        DataError: the objects are not (objects, 2), floating point and finite.
    """

    objects: Tensor
    cells: int
    width: float = 0.1
    distance: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check_positions("ObjectCells", self.objects)
        check_numbers("ObjectCells", width=self.width)
        if not self.cells >= len(self.objects) > 0 or self.distance < 0:
            raise ConfigError(
                f"ObjectCells: {self.cells} cells, {len(self.objects)} objects and distance={self.distance!r} do not "
                "fit. Pass one object or more, a cell for each at least, and a distance of at least 0."
            )

    @property
    def centres(self) -> Tensor:
        """Where each cell fires most, (cells, 2)."""
        vectors = torch.randn(self.cells, 2, generator=generator_of("object cells", self.seed)) * self.distance
        return self.objects[torch.arange(self.cells) % len(self.objects)] + vectors.to(self.objects)

    def __call__(self, positions: Tensor) -> Tensor:
        """Rates at positions: (n, 2) to (n, cells).

        Raises:
            DataError: the positions are not (n, 2), floating point and finite.
        """
        away = torch.cdist(check_positions("ObjectCells", positions), self.centres.to(positions))
        rates: Tensor = (away.square() / (-2 * self.width**2)).exp()
        return rates


@dataclass(frozen=True)
class CueCells:
    """Lateral entorhinal cells: each fires in some blocks of the arena, with smooth borders.

        rate_i(x, y) = Σ_kl A_ikl X_k(x) Y_l(y),   X_k(x) = Φ((x_k+1 - x) / s) - Φ((x_k - x) / s)

    A_i marks the active blocks of a grid over [0, width] x [0, height], and X_k Y_l is block kl convolved with a
    Gaussian of standard deviation s (Φ is the normal distribution function). The sum over blocks is at most 1. `make`
    draws A.

    Attributes:
        active: A, (cells, blocks in x, blocks in y), from 0 to 1.
        extent: (width, height), metres.
        smoothing: s, metres.

    Source:
        C. Renno-Costa, J. E. Lisman and P. F. M. J. Verschure (2010), The mechanism of rate remapping in the dentate
        gyrus. Ours is the closed form of blocks that are smoothed; sizes are ours.
    """

    active: Tensor
    extent: tuple[float, float]
    smoothing: float = 0.05

    def __post_init__(self) -> None:
        check_numbers("CueCells", width=self.extent[0], height=self.extent[1], smoothing=self.smoothing)
        if self.active.ndim != 3 or not finite(self.active) or self.active.min() < 0 or self.active.max() > 1:
            raise DataError(
                f"CueCells: active is {tuple(self.active.shape)}. Pass (cells, blocks in x, blocks in y), from 0 to 1."
            )

    @classmethod
    def make(
        cls,
        cells: int,
        extent: tuple[float, float],
        *,
        blocks: int | tuple[int, int] = 5,
        active: float = 0.2,
        smoothing: float = 0.05,
        seed: int = 0,
    ) -> "CueCells":
        """Draw a population in which each cell has the same number of active blocks.

        Args:
            cells: how many.
            extent: (width, height) of the arena, metres.
            blocks: along each side, or in x and in y.
            active: share of blocks in which a cell fires; at least one block.
            smoothing: s, metres.
            seed: of the active blocks.

        Raises:
            ConfigError: a number is out of range.
        """
        columns, rows = (blocks, blocks) if isinstance(blocks, int) else blocks
        check_numbers("CueCells", cells=cells, columns=columns, rows=rows, active=active)
        if active > 1:
            raise ConfigError(f"CueCells: active={active!r} is a share. Pass a number above 0 and at most 1.")
        scores = torch.rand(cells, columns * rows, generator=generator_of("cue cells", seed))
        chosen = scores.topk(max(1, round(active * columns * rows)), dim=1).indices
        marks = torch.zeros_like(scores).scatter_(1, chosen, 1.0)
        return cls(marks.view(cells, columns, rows), extent, smoothing)

    @property
    def cells(self) -> int:
        """The number of cells."""
        return len(self.active)

    def __call__(self, positions: Tensor) -> Tensor:
        """Rates at positions: (n, 2) to (n, cells).

        Raises:
            DataError: the positions are not (n, 2), floating point and finite.
        """
        check_positions("CueCells", positions)
        columns, rows = (self._profile(positions[:, axis], axis) for axis in (0, 1))
        blocks = (columns[:, :, None] * rows[:, None, :]).flatten(1)
        rates: Tensor = blocks @ self.active.flatten(1).T.to(positions)
        return rates

    def _profile(self, along: Tensor, axis: int) -> Tensor:
        edges = torch.linspace(0, self.extent[axis], self.active.shape[axis + 1] + 1).to(along)
        below = torch.special.ndtr((edges - along[:, None]) / self.smoothing)
        inside: Tensor = below[:, 1:] - below[:, :-1]
        return inside

    def elsewhere(self, seed: int) -> Self:
        """The same cells in another room: each has as many active blocks, in other places."""
        flat = self.active.flatten(1)
        order = torch.rand(flat.shape, generator=generator_of("other cues", seed)).argsort(1)
        return replace(self, active=flat.gather(1, order).view_as(self.active))

    def morphed(self, other: "CueCells", fraction: float, seed: int = 0) -> Self:
        """The population with a share of its blocks replaced by those of another room.

        Blocks that are replaced at one fraction are also replaced at every larger one; at 1 the result is `other`.

        Raises:
            ConfigError: the fraction is not from 0 to 1, or the populations differ in shape.
        """
        if not 0 <= fraction <= 1 or other.active.shape != self.active.shape:
            raise ConfigError(
                f"CueCells: fraction={fraction!r} of {tuple(other.active.shape)} cannot replace "
                f"{tuple(self.active.shape)}. Pass a fraction from 0 to 1 and populations of one shape."
            )
        draws = torch.rand(self.active.shape, generator=generator_of("morphing", seed))
        return replace(self, active=torch.where(draws < fraction, other.active, self.active))


@dataclass(frozen=True)
class Rotated:
    """A population whose maps are rotated about a point, counter-clockwise.

    Args:
        population: of any kind.
        degrees: by how much.
        centre: of the rotation, metres; `arena.centre` for a cue rotation.
    """

    population: Cells
    degrees: float
    centre: tuple[float, float]

    @property
    def cells(self) -> int:
        """The number of cells."""
        return self.population.cells

    def __call__(self, positions: Tensor) -> Tensor:
        """Rates at positions: (n, 2) to (n, cells).

        Raises:
            DataError: the positions are not (n, 2), floating point and finite.
        """
        centre = positions.new_tensor(self.centre)
        angle = positions.new_tensor(-math.radians(self.degrees))
        return self.population(_turn(check_positions("Rotated", positions) - centre, angle) + centre)


def _unit(angle: Tensor) -> Tensor:
    return torch.stack([angle.cos(), angle.sin()], -1)


def _turn(vectors: Tensor, angle: Tensor) -> Tensor:
    """Vectors (n, 2), turned counter-clockwise by one angle or by n."""
    cosine, sine = angle.cos(), angle.sin()
    x, y = vectors.unbind(-1)
    return torch.stack([cosine * x - sine * y, sine * x + cosine * y], -1)
