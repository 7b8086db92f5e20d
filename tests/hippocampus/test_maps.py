"""Rate maps, fields, lattices and codes against cases that can be computed by hand."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from apical.errors import ConfigError, DataError
from apical.hippocampus import CircularTrack, Disc, GridCells, Square, codes, fields, lattices, maps

SQUARE = Square(1.0, bins=50)


def bumps(*centres, width=0.08, arena=SQUARE):
    """A map with a Gaussian bump at each centre, (1, rows, columns)."""
    away = torch.cdist(arena.centres(), torch.tensor(centres))
    return arena.maps(torch.exp(-away.square() / (2 * width**2)).amax(1, keepdim=True))


# Rate maps


def test_a_rate_map_is_the_mean_rate_in_each_bin():
    arena = Square(1.0, bins=2)
    positions = torch.tensor([[0.1, 0.1], [0.2, 0.3], [0.9, 0.1], [0.6, 0.7]])
    rates = torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 1.0], [7.0, 2.0]])
    found = maps.rate_maps(arena, positions, rates)
    expected = torch.tensor([[[2.0, 5.0], [math.nan, 7.0]], [[0.0, 1.0], [math.nan, 2.0]]])
    torch.testing.assert_close(found, expected, equal_nan=True)
    torch.testing.assert_close(maps.occupancy(arena, positions), torch.tensor([[0.5, 0.25], [0.0, 0.25]]))


def slow_smooth(values, counts, deviation):
    """Normalised Gaussian smoothing, bin by bin."""
    rows, columns = values.shape
    result = np.full((rows, columns), math.nan)
    for r in range(rows):
        for c in range(columns):
            if counts[r, c]:
                weight = np.exp(
                    -((np.arange(rows)[:, None] - r) ** 2 + (np.arange(columns) - c) ** 2) / 2 / deviation**2
                )
                result[r, c] = (weight * values).sum() / (weight * counts).sum()
    return result


def test_smoothing_is_that_of_sums_and_of_occupancy():
    arena = Square(1.0, bins=6)
    generator = torch.Generator().manual_seed(0)
    positions, rates = torch.rand(25, 2, generator=generator), torch.rand(25, 1, generator=generator)
    places = arena.places(positions).numpy()
    sums = np.bincount(places, rates[:, 0].numpy(), 36).reshape(6, 6)
    counts = np.bincount(places, minlength=36).reshape(6, 6)
    found = maps.rate_maps(arena, positions, rates, smoothing=0.2)
    np.testing.assert_allclose(found[0].numpy(), slow_smooth(sums, counts, 1.2), rtol=1e-5)


def test_smoothing_keeps_a_constant_and_wraps_around_a_track():
    disc = Disc(1.0, bins=12)
    constant = torch.where(disc.inside, 2.0, math.nan)[None]
    torch.testing.assert_close(maps.smooth(disc, constant, 0.1), constant, equal_nan=True)
    track = CircularTrack(1.0, bins=8)
    point = torch.zeros(1, 1, 8)
    point[0, 0, 0] = 1.0
    spread = maps.smooth(track, point, 0.2)[0, 0]
    torch.testing.assert_close(spread[1:4], spread[5:].flip(0))


def test_maps_that_cannot_be_are_refused():
    positions, rates = torch.rand(5, 2), torch.rand(5, 3)
    with pytest.raises(DataError, match="rates"):
        maps.rate_maps(SQUARE, positions[:4], rates)
    with pytest.raises(DataError, match="rates"):
        maps.rate_maps(SQUARE, positions[:0], rates[:0])
    with pytest.raises(DataError, match="NaN"):
        maps.rate_maps(SQUARE, positions, rates.log() * math.nan)
    with pytest.raises(ConfigError, match="smoothing"):
        maps.rate_maps(SQUARE, positions, rates, smoothing=-1.0)
    with pytest.raises(DataError, match="no position"):
        maps.occupancy(SQUARE, positions[:0])
    partly = torch.rand(2, 4, 4)
    partly[0, 0, 0] = math.nan
    for bad in (torch.rand(4, 4), partly, torch.full((2, 4, 4), math.nan), torch.rand(0, 4, 4)):
        with pytest.raises(DataError):
            maps.visited(bad)
    with pytest.raises(DataError, match="negative"):
        fields.find(-torch.rand(1, 4, 4))
    with pytest.raises(DataError, match="negative"):
        maps.information(-torch.rand(1, 4, 4))
    with pytest.raises(DataError, match="occupancy"):
        maps.information(torch.rand(1, 4, 4), torch.zeros(4, 4))


# Fields


def test_a_gaussian_bump_is_one_field_of_known_size():
    """exp(-r²/2w²) > θ within r² < 2 w² ln(1/θ): at w = .08, θ = .3, an area of .0484."""
    found = fields.find(bumps([0.5, 0.5]))
    area = math.pi * 2 * 0.08**2 * math.log(1 / 0.3)
    assert found.count.tolist() == [1]
    assert found.size.item() == pytest.approx(area, rel=0.03)
    assert found.share.item() == pytest.approx(0.7, abs=0.01)  # the Gaussian's integral within r is 1 - θ
    assert found.single == 1.0


def test_fields_are_counted_and_ordered_by_size():
    two = torch.maximum(bumps([0.2, 0.2], width=0.05), bumps([0.7, 0.7], width=0.1))
    found = fields.find(two)
    assert found.count.tolist() == [2]
    assert found.labels[0, 35, 35] == 1
    assert found.labels[0, 10, 10] == 2
    assert found.labels[0, 10, 40] == 0
    assert found.single == 0.0


def test_fields_that_are_too_small_or_too_large_do_not_count():
    speck = torch.zeros(1, 20, 20)
    speck[0, 3, 3] = 1.0
    found = fields.find(torch.cat([speck, torch.ones(1, 20, 20), torch.zeros(1, 20, 20)]))
    assert found.count.tolist() == found.size.tolist() == found.share.tolist() == [0, 0, 0]
    assert found.active.tolist() == [True, True, False]
    assert fields.find(speck, smallest=1 / 400).count.tolist() == [1]
    with pytest.raises(ConfigError, match="smallest"):
        fields.find(speck, smallest=0.6)


def test_a_field_on_a_circular_track_reaches_over_its_end():
    track = torch.zeros(1, 1, 20)
    track[0, 0, [0, 1, 18, 19]] = 1.0
    assert fields.find(track).count.item() == 2
    found = fields.find(track, wraps=True)
    assert found.count.item() == 1
    assert found.size.item() == pytest.approx(0.2)


def test_components_are_those_of_scipy():
    """Random maps, and a spiral, whose one component is long."""
    above = torch.rand(30, 17, 23, generator=torch.Generator().manual_seed(0)) > 0.45
    spiral = torch.zeros(17, 23, dtype=torch.bool)
    for ring in range(0, 8, 2):
        spiral[ring : 17 - ring, ring] = spiral[ring : 17 - ring, 22 - ring] = True
        spiral[ring, ring : 23 - ring] = spiral[16 - ring, ring : 23 - ring] = True
        spiral[ring + 1, ring] = False
        spiral[ring + 2, ring : ring + 3] = True
    above = torch.cat([above, spiral[None]])
    found = fields._components(above, wraps=False)
    for mine, cell in zip(found, above, strict=True):
        theirs = torch.from_numpy(ndimage.label(cell.numpy())[0])
        pairs = torch.stack([mine[cell], theirs[cell].long()]).unique(dim=1)
        assert len(pairs[0].unique()) == len(pairs[1].unique()) == pairs.shape[1]
        assert not mine[~cell].any()


def test_shuffled_bins_have_no_fields_and_shifted_maps_keep_theirs():
    cells = torch.cat([bumps([0.3, 0.4]), bumps([0.6, 0.5]), bumps([0.5, 0.5])])
    assert fields.find(maps.shuffled(cells)).count.sum() == 0
    torch.testing.assert_close(*(each.flatten(1).sort(1).values for each in (maps.shuffled(cells), cells)))
    shifted = maps.shuffled(cells, "shift", seed=1)
    torch.testing.assert_close(shifted.flatten(1).sort(1).values, cells.flatten(1).sort(1).values)
    assert not torch.allclose(shifted, cells, atol=0.1)
    named = maps.shuffled(cells, "cells", seed=1)
    torch.testing.assert_close(named.sum((1, 2)).sort().values, cells.sum((1, 2)).sort().values)
    holes = torch.where(Disc(1.0).inside, cells, math.nan)
    assert (maps.shuffled(holes).isnan() == holes.isnan()).all()
    with pytest.raises(DataError, match="shift"):
        maps.shuffled(holes, "shift")


# Information


def test_information_of_hand_made_maps():
    flat, quarter = torch.ones(1, 4, 4), torch.zeros(1, 4, 4)
    quarter[0, 0] = 3.0
    found = maps.information(torch.cat([flat, quarter, torch.zeros(1, 4, 4)]))
    torch.testing.assert_close(found, torch.tensor([0.0, 2.0, 0.0]))  # log2(1 / (1/4)) bits a spike
    visits = torch.ones(4, 4)
    visits[0] = 3.0  # the first row takes half of the time
    torch.testing.assert_close(maps.information(quarter, visits), torch.tensor([1.0]))


def test_information_is_high_without_any_learning():
    """Random projections of random inputs, of which 5 % fire: near log2(1 / .05), although nothing is learned."""
    generator = torch.Generator().manual_seed(0)
    drive = torch.randn(400, 100, generator=generator)
    winners = torch.zeros_like(drive).scatter_(1, drive.topk(5, 1).indices, 1.0)
    found = maps.information(Square(1.0, bins=20).maps(winners))
    assert found.mean().item() == pytest.approx(math.log2(1 / 0.05), abs=0.1)


# Rooms


def test_correlations_between_rooms():
    generator = torch.Generator().manual_seed(0)
    room = torch.rand(20, 1, 36, generator=generator)
    turned = room.roll(9, 2)
    torch.testing.assert_close(maps.spatial_correlation(room, room * 3 + 1), torch.ones(20))
    matrix = maps.population_correlation(room, turned)
    assert matrix.shape == (36, 36)
    assert (matrix.argmax(1) == (torch.arange(36) + 9) % 36).all()  # the ridge has moved by a quarter
    expected = np.corrcoef(room[:, 0, 4].numpy(), turned[:, 0, 7].numpy())[0, 1]
    assert matrix[4, 7].item() == pytest.approx(expected, abs=1e-5)
    silent = torch.cat([room[:1] * 0, room[:1]])
    assert maps.spatial_correlation(silent, silent).isnan().tolist() == [True, False]
    halved = maps.rate_difference(room[:2], torch.cat([room[:1] / 3, room[1:2]]))
    torch.testing.assert_close(halved, torch.tensor([0.5, 0.0]))
    with pytest.raises(DataError, match="same cells"):
        maps.spatial_correlation(room, room[:5])
    left, right = (torch.full((1, 1, 4), math.nan) for _ in range(2))
    left[..., :2], right[..., 2:] = 1.0, 1.0
    with pytest.raises(DataError, match="both"):
        maps.population_correlation(left, right)


# Lattices


def test_hexagons_score_high_and_squares_do_not():
    arena = Square(2.0, bins=60)
    grid = arena.maps(GridCells.make(3, modules=3, seed=0)(arena.centres()))
    x, y = (2 * math.pi * arena.centres() / 0.45).unbind(1)
    square = arena.maps((x.cos() + y.cos())[:, None] + 2)
    scores = lattices.grid_score(torch.cat([grid, square, torch.ones(1, 60, 60)]))
    assert (scores[:3] > 1).all()
    assert scores[3] < 0
    assert scores[4].isnan()
    assert lattices.grid_spacing(square, arena.bin_size).item() > 0.45  # two of its six nearest peaks are diagonal
    assert lattices.grid_spacing(torch.ones(1, 60, 60), arena.bin_size).isnan()
    with pytest.raises(DataError, match="8 rows"):
        lattices.grid_score(torch.rand(2, 4, 30))


def test_the_autocorrelogram_is_the_correlation_of_overlapping_bins():
    generator = torch.Generator().manual_seed(0)
    room = torch.rand(1, 9, 11, generator=generator)
    room[0, 2, 3] = math.nan
    found = lattices.autocorrelogram(room)[0]
    assert found[8, 10].item() == pytest.approx(1.0)
    a, b = room[0, 2:, :-3].flatten(), room[0, :-2, 3:].flatten()
    both = ~(a.isnan() | b.isnan())
    expected = np.corrcoef(a[both].numpy(), b[both].numpy())[0, 1]
    assert found[8 + 2, 10 - 3].item() == pytest.approx(expected, abs=1e-4)
    torch.testing.assert_close(found, found.flip(0, 1), rtol=0, atol=1e-5)


# Codes


def test_equal_codes_are_neither_separated_nor_completed():
    x = torch.rand(40, 30, generator=torch.Generator().manual_seed(0))
    curve = codes.separation_curve(x, x, bins=8)
    assert curve[:, 2].sum() == 40 * 39 / 2
    filled = curve[curve[:, 2] > 0]
    torch.testing.assert_close(filled[:, 0], filled[:, 1])
    assert codes.separation_curve(x, x, pairs=100)[:, 2].sum() == 100
    halves = x.clone()
    halves[:, 15:] = 0
    levels = codes.completion_curve(x, x, [x, halves], [x, halves])
    torch.testing.assert_close(levels[0], torch.ones(2))
    torch.testing.assert_close(levels[1, 0], levels[1, 1])


def test_curves_see_separation_and_completion():
    """Codes that differ for all samples separate; codes of cues that equal those of complete inputs complete."""
    x = torch.rand(12, 30, generator=torch.Generator().manual_seed(0)) * 0.1 + torch.linspace(0, 1, 30)
    one_hot = torch.eye(12)
    curve = codes.separation_curve(x, one_hot, bins=10)
    assert curve[-1, 0] > 0.9
    assert curve[-1, 1] == pytest.approx(-1 / 11)
    noise = torch.rand(12, 30, generator=torch.Generator().manual_seed(1))
    completed = codes.completion_curve(x, one_hot, [noise], [one_hot])
    assert completed[0, 0] < 0.3
    assert completed[0, 1] == pytest.approx(1.0)
    assert codes.completion_curve(x, one_hot, [noise], [one_hot * 0])[0, 1] == 0.0  # silent codes recall nothing


def test_codes_that_cannot_be_are_refused():
    x = torch.rand(5, 3)
    with pytest.raises(DataError, match="fit"):
        codes.separation_curve(x, x[:4])
    with pytest.raises(ConfigError, match="samples"):
        codes.separation_curve(x[:1], x[:1])
    with pytest.raises(DataError, match="NaN"):
        codes.completion_curve(x, x, [x * math.nan], [x])
    with pytest.raises(DataError, match="levels"):
        codes.completion_curve(x, x, [x, x], [x])
