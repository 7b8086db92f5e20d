"""Arenas, walks and worlds: bins against hand-made cases, and walks that stay inside and go everywhere."""

import math

import pytest
import torch

from apical.errors import ConfigError, DataError
from apical.hippocampus import CircularTrack, Disc, LinearTrack, ObjectCells, Rotated, Square, World, rat_in_a_box

ARENAS = [Square(1.0, bins=8), Disc(1.5, bins=12), LinearTrack(2.0, bins=10), CircularTrack(3.0, bins=10)]


@pytest.mark.parametrize("arena", ARENAS, ids=lambda arena: type(arena).__name__)
def test_the_centre_of_a_bin_lies_in_the_bin(arena):
    centres = arena.centres()
    assert arena.contains(centres).all()
    torch.testing.assert_close(arena.places(centres), arena.inside.flatten().nonzero()[:, 0])


@pytest.mark.parametrize("arena", ARENAS, ids=lambda arena: type(arena).__name__)
def test_a_walk_stays_inside_and_is_smooth_and_seeded(arena):
    walk = arena.walk(20_000, speed=0.3, seed=1)
    assert walk.shape == (20_000, 2)
    assert arena.contains(walk).all()
    steps = torch.linalg.vector_norm(walk.diff(dim=0), dim=1)
    assert steps.mean() / 0.1 == pytest.approx(0.3, rel=0.1)
    assert steps.max() / 0.1 < 0.3 * 5  # no jump: five mean speeds are beyond the fastest step
    torch.testing.assert_close(arena.walk(20_000, speed=0.3, seed=1), walk)
    assert not torch.equal(arena.walk(20_000, speed=0.3, seed=2), walk)


@pytest.mark.parametrize("arena", [Square(1.0, bins=4), LinearTrack(1.0, bins=8)], ids=["square", "line"])
def test_a_walk_spends_its_time_equally(arena):
    count = torch.bincount(arena.places(arena.walk(100_000, seed=3)), minlength=int(arena.inside.sum()))
    expected = 100_000 / int(arena.inside.sum())
    assert (count - expected).abs().max() / expected < 0.25


def test_a_walk_in_a_disc_spends_as_much_time_near_the_wall_as_within():
    walk = Disc(1.0).walk(100_000, seed=0)
    outer = torch.linalg.vector_norm(walk - 0.5, dim=1) > 0.5 / math.sqrt(2)  # half of the area
    assert outer.double().mean() == pytest.approx(0.5, abs=0.05)


def test_a_disc_mirrors_a_path_at_the_tangent():
    """From the centre of a disc of radius 1 to the east, by steps of .4: past the wall, the path comes back."""
    path = torch.stack([0.4 * torch.arange(1, 6), torch.zeros(5)], 1).double()
    found = Disc(2.0)._reflected(torch.tensor([[1.0, 1.0]]).double(), path)
    torch.testing.assert_close(found[:, 0] - 1, torch.tensor([0.4, 0.8, 0.8, 0.4, 0.0]).double())


def test_bins_are_counted_along_rows_and_around_a_track():
    square = Square(1.0, bins=4)
    assert square.places(torch.tensor([[0.1, 0.1], [0.9, 0.1], [0.1, 0.3], [1.0, 1.0]])).tolist() == [0, 3, 4, 15]
    track = CircularTrack(2 * math.pi, bins=4)
    assert track.radius == pytest.approx(1.0)
    around = torch.tensor([[1.7, 1.7], [0.3, 1.7], [0.3, 0.3], [1.7, 0.3]])
    assert track.places(around).tolist() == [0, 1, 2, 3]


def test_maps_put_rates_in_their_bins():
    disc = Disc(1.0, bins=10)
    maps = disc.maps(disc.centres())
    assert maps.shape == (2, 10, 10)
    assert (maps.isnan() == ~disc.inside).all()
    assert maps[0, 5, 7] == pytest.approx(0.75)  # x grows along columns
    assert maps[1, 5, 7] == pytest.approx(0.55)
    with pytest.raises(DataError, match=r"arena\.centres"):
        disc.maps(torch.rand(100, 3))


@pytest.mark.parametrize("arena", ARENAS, ids=lambda arena: type(arena).__name__)
def test_positions_outside_are_refused(arena):
    with pytest.raises(DataError, match="position 1"):
        arena.places(torch.cat([arena.centres()[:1], torch.tensor([[5.0, 5.0]])]))


def test_numbers_that_cannot_be_are_refused():
    for make in (lambda: Square(0.0), lambda: Disc(1.0, bins=1), lambda: Square().walk(10, speed=-1.0)):
        with pytest.raises(ConfigError):
            make()


def test_the_populations_of_a_world_have_equal_variance():
    world = World.make(Square(1.0, bins=20), grid=40, cue=30, seed=0)
    rates = world(world.arena.centres())
    assert rates.shape == (400, world.cells) == (400, 70)
    assert rates.min() >= 0
    assert rates.max() <= 1
    grid, cue = (rates[:, part].var(0).mean() for part in world.parts.values())
    torch.testing.assert_close(grid, cue)


def test_another_room_keeps_the_scales_and_changes_the_maps():
    world = World.make(Square(1.0, bins=20), grid=40, cue=30, seed=0)
    other, centres = world.another(3), world.arena.centres()
    assert other.scales == world.scales
    for part in world.parts.values():
        similarity = torch.corrcoef(torch.stack([each(centres)[:, part].flatten() for each in (world, other)]))
        assert abs(similarity[0, 1]) < 0.15
    turned = world.having(cue=Rotated(world.populations["cue"], 90, world.arena.centre))
    rates = turned(centres)
    torch.testing.assert_close(rates[:, :40], world(centres)[:, :40])
    maps, before = (world.arena.maps(each[:, 40:]) for each in (rates, world(centres)))
    torch.testing.assert_close(maps, torch.rot90(before, -1, (1, 2)), rtol=0, atol=1e-5)


def test_worlds_that_cannot_be_are_refused():
    world = World.make(Square(1.0, bins=10), grid=8, cue=8)
    objects = ObjectCells(torch.tensor([[0.5, 0.5]]), 8)
    with pytest.raises(ConfigError, match="smell"):
        world.having(smell=objects)
    with pytest.raises(ConfigError, match="population"):
        World(world.arena, {})
    with pytest.raises(ConfigError, match="far"):
        World(world.arena, {"far": ObjectCells(torch.tensor([[90.0, 0.0]]), 1, distance=0.0)})
    with pytest.raises(ConfigError, match="object"):
        World(world.arena, {"object": objects}).another(1)
    assert World.make(LinearTrack(2.0), grid=8, cue=8).cells == 16


def test_trajectories_of_ratinabox_are_an_extra():
    with pytest.raises(ConfigError, match="LinearTrack"):
        rat_in_a_box(LinearTrack(), 10)
    try:
        import ratinabox  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match=r"apical\[hippocampus\]"):
            rat_in_a_box(Square(), 10)
        return
    for arena in (Square(1.0), Disc(1.0)):
        path = rat_in_a_box(arena, 200, seed=1)
        assert path.shape == (200, 2)
        assert arena.contains(path).all()
        torch.testing.assert_close(path, rat_in_a_box(arena, 200, seed=1))
