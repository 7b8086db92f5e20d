"""Rate maps: how they are made from samples, smoothed, shuffled, and compared between rooms.

Maps are (cells, rows, columns); bins that were not visited, or lie outside the arena, hold NaN in every cell. Each
function treats all cells at once. `fields` counts fields, `lattices` scores hexagons, and `codes` has curves of
separation and completion.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from apical.errors import ConfigError, DataError
from apical.finiteness import finite
from apical.hippocampus.arenas import Arena
from apical.hippocampus.cells import generator_of
from apical.hippocampus.codes import correlation, standard


def visited(maps: Tensor, what: str = "maps") -> Tensor:
    """Which bins hold a rate: (cells, rows, columns) to (rows, columns), bool.

    Raises:
        DataError: the maps have another number of axes or no cells, a rate is infinite, some cells have NaN where
            others have a rate, or no bin was visited.
    """
    if maps.ndim != 3 or not len(maps) or not maps.is_floating_point():
        raise DataError(
            f"{what}: maps are {tuple(maps.shape)} of {maps.dtype}, and (cells, rows, columns) in floating point is "
            "needed. Make them with rate_maps or arena.maps."
        )
    missing = maps.isnan()
    first = missing[0]
    if (missing != first).any() or maps.isinf().any():
        raise DataError(f"{what}: cells have NaN in different bins, or infinite rates. Check the rates for NaN.")
    if first.all():
        raise DataError(f"{what}: no bin was visited. Pass maps with rates.")
    return ~first


def occupancy(arena: Arena, positions: Tensor) -> Tensor:
    """The share of samples in each bin: (n, 2) to (rows, columns).

    Raises:
        DataError: there is no position, or one lies outside the arena.
    """
    if not len(positions):
        raise DataError("occupancy: there is no position. Pass one or more.")
    count = torch.bincount(arena.places(positions), minlength=math.prod(arena.shape)).view(arena.shape)
    return count / len(positions)


def rate_maps(arena: Arena, positions: Tensor, rates: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Mean rates in each bin, normalised by occupancy: (n, cells) to (cells, rows, columns).

        map = (K * Σ rates) / (K * samples),   K a Gaussian of standard deviation `smoothing` in metres

    Bins without a sample hold NaN; they take no part in the smoothing of others.

    Args:
        arena: its bins.
        positions: (n, 2), metres.
        rates: (n, cells) at these positions.
        smoothing: metres; 0 for none.

    Raises:
        DataError: shapes do not fit, there are no samples, a position lies outside, or rates are not finite.
        ConfigError: `smoothing` is below 0.
    """
    if rates.ndim != 2 or len(rates) != len(positions) or not rates.numel():
        raise DataError(
            f"rate_maps: {tuple(rates.shape)} rates at {tuple(positions.shape)} positions. Pass (n, cells) and (n, 2)."
        )
    if not finite(rates):
        raise DataError("rate_maps: rates hold NaN or infinity. Leave these samples out.")
    places, bins = arena.places(positions), math.prod(arena.shape)
    sums = rates.new_zeros(bins, rates.shape[1]).index_add_(0, places, rates.detach())
    samples = torch.bincount(places, minlength=bins).to(rates)
    summed = _blur(arena, sums.T.reshape(-1, *arena.shape), smoothing)
    counted = _blur(arena, samples.view(1, *arena.shape), smoothing)
    return torch.where(samples.view(arena.shape) > 0, summed / counted, math.nan)


def smooth(arena: Arena, maps: Tensor, smoothing: float) -> Tensor:
    """Maps convolved with a Gaussian over the bins that were visited, as `rate_maps` does: same shape.

    Raises:
        DataError: the maps are not valid, or are not those of the arena.
        ConfigError: `smoothing` is below 0.
    """
    seen = visited(maps, "smooth")
    if maps.shape[1:] != arena.shape:
        raise DataError(f"smooth: maps are {tuple(maps.shape)}, and the arena has {arena.shape} bins. Pass its maps.")
    blurred = _blur(arena, maps.nan_to_num(0.0), smoothing) / _blur(arena, seen.to(maps)[None], smoothing)
    return torch.where(seen, blurred, math.nan)


def _blur(arena: Arena, maps: Tensor, smoothing: float) -> Tensor:
    if smoothing < 0 or not math.isfinite(smoothing):
        raise ConfigError(f"smoothing={smoothing!r} is not a length of at least 0. Pass metres.")
    if not smoothing:
        return maps
    rows, columns = (_kernel(size, smoothing / arena.bin_size, arena.wraps).to(maps) for size in arena.shape)
    return rows @ maps @ columns.T


def _kernel(size: int, deviation: float, wraps: bool) -> Tensor:
    """The Gaussian between any two bins of an axis, (size, size)."""
    index = torch.arange(size)
    away = (index[:, None] - index).abs()
    if wraps:
        away = torch.minimum(away, size - away)
    return torch.exp(-0.5 * (away / deviation).square())


def information(maps: Tensor, occupancy: Tensor | None = None) -> Tensor:
    """Skaggs information, bits a spike: (cells, rows, columns) to (cells,).

        I = Σ_i p_i (r_i / r) log2(r_i / r),   r = Σ_i p_i r_i

    It does not show learning: it measures the sparseness of a map. A competition in which a share k of cells fires
    leaves a cell that fires at k of all places near log2(1 / k), whether or not anything was learned. Silent cells
    have 0.

    Args:
        maps: non-negative rates.
        occupancy: p, (rows, columns); uniform over visited bins by default.

    Raises:
        DataError: the maps are not valid, a rate is negative, or the occupancy is of another shape, negative or 0 in
            every visited bin.

    Source:
        W. E. Skaggs, B. L. McNaughton, K. M. Gothard and E. J. Markus (1993), An information-theoretic approach to
        deciphering the hippocampal code.
    """
    seen = visited(maps, "information")
    rates = maps[:, seen]
    if (rates < 0).any():
        raise DataError("information: a rate is negative. Pass rates of at least 0.")
    weights = torch.ones_like(rates[0]) if occupancy is None else _weights(occupancy, seen).to(rates)
    relative = rates / (rates @ (weights / weights.sum()))[:, None].clamp_min(torch.finfo(rates.dtype).tiny)
    bits: Tensor = torch.special.xlogy(relative, relative) @ (weights / weights.sum()) / math.log(2)
    return bits


def _weights(occupancy: Tensor, seen: Tensor) -> Tensor:
    if occupancy.shape != seen.shape or not finite(occupancy) or (occupancy < 0).any() or not occupancy[seen].sum() > 0:
        raise DataError(
            f"information: the occupancy, {tuple(occupancy.shape)}, is not one of {tuple(seen.shape)} with values of "
            "at least 0, above 0 in a visited bin. Pass maps.occupancy(arena, positions)."
        )
    return occupancy[seen]


def spatial_correlation(a: Tensor, b: Tensor) -> Tensor:
    """The correlation of each cell's maps in two rooms, over the bins visited in both: to (cells,).

    Near 1 the map is kept; near 0 it was remapped. A cell that is silent or constant in a room has NaN.

    Raises:
        DataError: the maps are not valid, differ in shape, or share no visited bin.
    """
    first, second = _shared(a, b, "spatial_correlation")
    return correlation(first, second)


def rate_difference(a: Tensor, b: Tensor) -> Tensor:
    """The difference of each cell's mean rates in two rooms, |r_a - r_b| / (r_a + r_b): to (cells,).

    It is from 0 (equal) to 1 (silent in one room); NaN for cells that are silent in both.

    Raises:
        DataError: the maps are not valid, differ in shape, or share no visited bin.
    """
    first, second = (each.mean(1) for each in _shared(a, b, "rate_difference"))
    return (first - second).abs() / (first + second)


def population_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Correlations, over cells, of population vectors of two rooms: to (bins, bins).

    Row i, column j: the vector at the i-th visited bin of `a` and that at the j-th of `b`, where bins count if they
    were visited in both, row by row. The diagonal is 1 if codes agree; on a circular track, a rotation moves the ridge.

    Raises:
        DataError: the maps are not valid, differ in shape, or share no visited bin.
    """
    first, second = (standard(each, 0) for each in _shared(a, b, "population_correlation"))
    return first.T @ second


def _shared(a: Tensor, b: Tensor, what: str) -> tuple[Tensor, Tensor]:
    if a.shape != b.shape:
        raise DataError(f"{what}: maps are {tuple(a.shape)} and {tuple(b.shape)}. Pass the same cells and bins.")
    both = visited(a, what) & visited(b, what)
    if not both.any():
        raise DataError(f"{what}: no bin was visited in both rooms. Pass maps of one arena.")
    return a[:, both], b[:, both]


def shuffled(maps: Tensor, kind: Literal["bins", "shift", "cells"] = "bins", seed: int = 0) -> Tensor:
    """Maps without a relation that a measure is about, as a null: same shape.

    Args:
        maps: of all cells.
        kind: "bins" moves each cell's rates to random visited bins: rates stay, fields do not. "shift" shifts each
            cell's map by its own offset around the borders: fields stay, their relation to other cells and places does
            not. "cells" exchanges the cells' names.
        seed: of the draws.

    Raises:
        DataError: the maps are not valid, or have unvisited bins where `kind` is "shift".
        ConfigError: `kind` is not known.
    """
    seen, generator = visited(maps, "shuffled"), generator_of("shuffling", seed)
    cells, rows, columns = maps.shape
    if kind == "cells":
        return maps[torch.randperm(cells, generator=generator)]
    if kind == "bins":
        values, result = maps[:, seen], maps.clone()
        order = torch.rand(values.shape, generator=generator).argsort(1)
        result[:, seen] = values.gather(1, order.to(maps.device))
        return result
    if kind != "shift":
        raise ConfigError(f"shuffled: kind={kind!r} is not known. Pass 'bins', 'shift' or 'cells'.")
    if not seen.all():
        raise DataError("shuffled: kind='shift' needs rates in every bin. Use kind='bins', or smooth the maps.")
    down, right = (torch.randint(size, (cells, 1), generator=generator) for size in (rows, columns))
    row, column = (torch.arange(rows) - down) % rows, (torch.arange(columns) - right) % columns
    return maps[torch.arange(cells)[:, None, None], row[:, :, None], column[:, None, :]]
