"""Entorhinal cells against slow formulas in plain Python, and facts of their lattices and blocks."""

import math

import pytest
import torch

from apical.errors import ConfigError, DataError
from apical.hippocampus import CueCells, GridCells, ObjectCells, Rotated, Square, lattices

POSITIONS = torch.rand(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def slow_grid_rate(r, spacing, orientation, phase):
    """Blair et al. (2007), eq. 1, at one position."""
    total = 0.0
    for degrees in (-30, 30, 90):
        angle = math.radians(degrees) + orientation
        away = math.cos(angle) * (r[0] - phase[0]) + math.sin(angle) * (r[1] - phase[1])
        total += math.cos(4 * math.pi / (math.sqrt(3) * spacing) * away)
    return (math.exp(0.3 * (total + 1.5)) - 1) / (math.exp(0.3 * 4.5) - 1)


def test_grid_rates_are_those_of_the_equation():
    grid = GridCells.make(7, modules=3, seed=1)
    expected = [
        [
            slow_grid_rate(r, *values)
            for values in zip(grid.spacing.tolist(), grid.orientation.tolist(), grid.phase.tolist(), strict=True)
        ]
        for r in POSITIONS.tolist()
    ]
    torch.testing.assert_close(grid(POSITIONS), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6)


def test_a_grid_has_its_spacing_and_orientation():
    """The six neighbours of a peak, at the spacing asked for, have rate 1 too: the scale is not 2/√3 off."""
    grid = GridCells.make(4, modules=4, spacing=0.25, ratio=1.5, seed=2)
    torch.testing.assert_close(grid.spacing, 0.25 * 1.5 ** torch.arange(4.0))
    for cell in range(4):
        for turn in range(6):
            angle = float(grid.orientation[cell]) + turn * math.pi / 3
            neighbour = grid.phase[cell] + grid.spacing[cell] * torch.tensor([math.cos(angle), math.sin(angle)])
            assert grid(neighbour[None])[0, cell] == pytest.approx(1.0, abs=1e-4)


def test_the_maps_of_grid_cells_are_hexagonal_at_their_spacing():
    arena = Square(2.0, bins=80)
    grid = GridCells.make(8, modules=4, seed=3)
    maps = arena.maps(grid(arena.centres()))
    assert (lattices.grid_score(maps) > 1).all()
    torch.testing.assert_close(lattices.grid_spacing(maps, arena.bin_size), grid.spacing, rtol=0.02, atol=0)


def test_grid_modules_hold_their_share_of_cells():
    grid = GridCells.make(10, modules=4)
    assert grid.module.bincount().tolist() == [3, 2, 3, 2]
    assert len(set(grid.orientation.tolist())) == 4


def test_a_realigned_module_moves_as_a_whole():
    """Two cells of a module, in the other room, have maps that one rigid movement takes from the first room's."""
    grid = GridCells.make(6, modules=2, seed=0)
    other = grid.realigned(5)
    for module in range(2):
        a, b = (grid.module == module).nonzero()[:2, 0].tolist()
        before, after = (each.phase[a] - each.phase[b] for each in (grid, other))
        turn = float(other.orientation[a] - grid.orientation[a])
        turned = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]) @ before
        torch.testing.assert_close(after, turned, rtol=0, atol=1e-5)
    torch.testing.assert_close(grid.realigned(5, turn=False).orientation, grid.orientation)
    assert not torch.allclose(other(POSITIONS), grid(POSITIONS), atol=0.1)


def test_object_cells_fire_around_their_object():
    objects = torch.tensor([[0.2, 0.3], [0.7, 0.6]])
    cells = ObjectCells(objects, 4, width=0.1, distance=0.0)
    torch.testing.assert_close(cells(objects)[:, :2], torch.tensor([[1.0, math.exp(-17)], [math.exp(-17), 1.0]]))
    away = cells(torch.tensor([[0.3, 0.3]]))
    torch.testing.assert_close(away[0, 2], torch.tensor(math.exp(-0.5)))


def test_cue_rates_are_blocks_with_smooth_borders():
    active = torch.zeros(1, 2, 2)
    active[0, 1, 0] = 1.0  # x in the right half, y in the lower
    cells = CueCells(active, (1.0, 1.0), smoothing=0.01)
    at = torch.tensor([[0.75, 0.25], [0.25, 0.25], [0.75, 0.75], [0.5, 0.25], [0.5, 0.5], [0.51, 0.25]])
    expected = torch.tensor([1.0, 0.0, 0.0, 0.5, 0.25, 0.841345])  # the last: one standard deviation inside
    torch.testing.assert_close(cells(at)[:, 0], expected, rtol=0, atol=1e-5)


def test_every_cue_cell_has_the_same_number_of_blocks():
    cells = CueCells.make(20, (1.0, 1.0), blocks=5, active=0.2)
    assert (cells.active.sum((1, 2)) == 5).all()
    assert (cells.elsewhere(3).active.sum((1, 2)) == 5).all()
    assert not torch.equal(cells.elsewhere(3).active, cells.active)
    assert CueCells.make(3, (2.0, 1.0), blocks=(6, 1), active=0.01).active.sum((1, 2)).tolist() == [1, 1, 1]


def test_morphing_replaces_blocks_bit_by_bit():
    first, other = (CueCells.make(40, (1.0, 1.0), seed=seed) for seed in (0, 1))
    torch.testing.assert_close(first.morphed(other, 0.0).active, first.active)
    torch.testing.assert_close(first.morphed(other, 1.0).active, other.active)
    differing = (first.active != other.active).float()
    changed = [(first.morphed(other, f).active != first.active).float() for f in (0.3, 0.6)]
    assert (changed[0] <= changed[1]).all()
    assert changed[0].sum() / differing.sum() == pytest.approx(0.3, abs=0.06)
    with pytest.raises(ConfigError, match="fraction"):
        first.morphed(other, 1.5)


def test_a_rotated_population_turns_counter_clockwise():
    cells = ObjectCells(torch.tensor([[0.8, 0.5]]), 1, distance=0.0)
    turned = Rotated(cells, 90, (0.5, 0.5))
    assert turned(torch.tensor([[0.5, 0.8]])).item() == pytest.approx(1.0)
    assert turned(torch.tensor([[0.8, 0.5]])).item() < 0.05


@pytest.mark.parametrize(
    "make",
    [
        lambda: GridCells.make(2, modules=3),
        lambda: GridCells.make(5, spacing=0.0),
        lambda: ObjectCells(torch.zeros(3, 2), 2),
        lambda: CueCells.make(5, (1.0, 0.0)),
        lambda: CueCells.make(5, (1.0, 1.0), active=1.5),
    ],
)
def test_numbers_that_cannot_be_are_refused(make):
    with pytest.raises(ConfigError):
        make()


@pytest.mark.parametrize(
    "positions", [torch.rand(5), torch.rand(5, 3), torch.ones(5, 2, dtype=torch.int64), torch.full((5, 2), math.nan)]
)
def test_positions_that_cannot_be_are_refused(positions):
    for cells in (GridCells.make(4), CueCells.make(4, (1.0, 1.0)), ObjectCells(torch.zeros(1, 2), 1)):
        with pytest.raises(DataError, match="positions"):
            cells(positions)
    with pytest.raises(DataError, match="CueCells"):
        CueCells(torch.full((2, 3, 3), 2.0), (1.0, 1.0))
