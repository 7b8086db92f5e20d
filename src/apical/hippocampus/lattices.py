"""Lattices: autocorrelograms, and the score that tells hexagonal maps of grid cells from others."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from apical.errors import DataError
from apical.hippocampus.maps import visited

_TURNS = (30, 60, 90, 120, 150)


def autocorrelogram(maps: Tensor) -> Tensor:
    """The correlation of each map with itself, shifted: to (cells, 2 rows - 1, 2 columns - 1).

    Each shift's value is Pearson's correlation over the bins that overlap (Hafting et al. 2005); the middle is 1.
    Shifts with fewer than 20 overlapping bins, and cells with one rate everywhere, have 0.

    Raises:
        DataError: the maps are not valid.
    """
    seen = visited(maps, "autocorrelogram").to(torch.float64)
    values = maps.nan_to_num(0.0).double()
    values = (values - (values.sum((1, 2)) / seen.sum())[:, None, None]) * seen  # keeps the sums below small
    size = [2 * length - 1 for length in maps.shape[1:]]
    rates, squares, bins = (torch.fft.rfft2(each, s=size) for each in (values, values.square(), seen[None]))

    def products(a: Tensor, b: Tensor) -> Tensor:
        shifted: Tensor = torch.fft.fftshift(torch.fft.irfft2(a * b.conj(), s=size), dim=(1, 2))
        return shifted

    n = products(bins, bins).round().clamp_min(1)
    one, other = products(rates, bins), products(bins, rates)
    covariance = products(rates, rates) - one * other / n
    spread = (products(squares, bins) - one.square() / n) * (products(bins, squares) - other.square() / n)
    scale = values.square().sum((1, 2))[:, None, None].square()
    valid = (n >= 20) & (spread > 1e-12 * scale) & (scale > 1e-24)
    found = torch.where(valid, covariance / spread.clamp_min(1e-300).sqrt(), 0.0)
    return found.clamp(-1, 1).to(maps.dtype)


def grid_score(maps: Tensor) -> Tensor:
    """The hexagonal score of each map: to (cells,).

        score = max over rings of min(c_60, c_120) - max(c_30, c_90, c_150)

    c_a is the correlation of the autocorrelogram with itself, rotated by a degrees, over a ring around its centre. The
    inner radius is where the correlation first falls below 0 on average; outer radii are tried in steps of a bin. A
    perfect hexagonal lattice scores above 1 and a square one below 0. Cells with one rate everywhere have NaN.

    Raises:
        DataError: the maps are not valid, or have fewer than 8 rows or columns.

    Source:
        R. F. Langston et al. (2010), Development of the spatial representation system in the rat, supplement.
    """
    if maps.ndim == 3 and min(maps.shape[1:]) < 8:
        raise DataError(f"grid_score: maps are {tuple(maps.shape)}. Pass 8 rows and columns or more.")
    correlogram = autocorrelogram(maps)
    rings = _radii(correlogram).ceil().long().flatten()
    own = _ring_sums(rings, torch.ones_like(correlogram), correlogram, correlogram.square())
    inner = _first_dip(own)
    scores = [_ring_correlation(rings, inner, own, correlogram, _rotated(correlogram, turn)) for turn in _TURNS]
    c30, c60, c90, c120, c150 = scores
    score = torch.minimum(c60, c120) - torch.maximum(torch.maximum(c30, c90), c150)
    outer = torch.arange(score.shape[1], device=maps.device)
    tried = (outer >= inner[:, None] + 2) & (outer < min(maps.shape[1:])) & ~score.isnan()
    best = torch.where(tried, score, -math.inf).amax(1)
    return torch.where(best.isinf(), math.nan, best).to(maps.dtype)


def grid_spacing(maps: Tensor, bin_size: float) -> Tensor:
    """The mean distance of the six peaks nearest to the centre of the autocorrelogram: to (cells,), metres.

    A peak's place is that of the parabola through its neighbours. Cells with fewer than six peaks have NaN.

    Raises:
        DataError: the maps are not valid.
    """
    correlogram = autocorrelogram(maps)
    peaks = F.max_pool2d(correlogram, 3, 1, 1)
    centre = F.pad(correlogram, (1, 1, 1, 1))
    row, column = (torch.arange(n, device=maps.device).to(maps) - n // 2 for n in correlogram.shape[1:])
    y = row[:, None] + _vertex(centre[:, :-2, 1:-1], correlogram, centre[:, 2:, 1:-1])
    x = column[None, :] + _vertex(centre[:, 1:-1, :-2], correlogram, centre[:, 1:-1, 2:])
    away = torch.hypot(x, y)
    is_peak = (correlogram == peaks) & (correlogram > 0.1) & (_radii(correlogram) > 1.5)
    nearest = torch.where(is_peak, away, math.inf).flatten(1).topk(6, 1, largest=False).values.mean(1)
    return torch.where(nearest.isinf(), math.nan, nearest * bin_size)


def _vertex(before: Tensor, at: Tensor, after: Tensor) -> Tensor:
    """How far, in bins, the vertex of the parabola through three neighbours lies from the middle one."""
    bend = before - 2 * at + after
    return torch.where(bend < 0, (before - after) / (2 * bend), 0.0).clamp_(-0.5, 0.5)


def _radii(correlogram: Tensor) -> Tensor:
    row, column = (torch.arange(n, device=correlogram.device).to(correlogram) - n // 2 for n in correlogram.shape[1:])
    return torch.hypot(row[:, None], column[None, :])


def _ring_sums(rings: Tensor, *values: Tensor) -> Tensor:
    """Sums over rings of one bin's width around the centre: each (cells, ...) to (values, cells, rings), float64."""
    flat = torch.stack([each.flatten(1) for each in values]).double()
    return flat.new_zeros(*flat.shape[:2], int(rings.max()) + 1).index_add_(2, rings, flat)


def _first_dip(own: Tensor) -> Tensor:
    """The radius, in bins, at which the mean correlation over angles first falls below 0: (cells,)."""
    return (own[1] < 0).int().argmax(1)


def _ring_correlation(rings: Tensor, inner: Tensor, own: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation of a and b from the inner radius to each outer one: to (cells, rings)."""
    other = _ring_sums(rings, b, b.square(), a * b)
    sums = torch.cat([own, other]).cumsum(2)
    sums = sums - sums.gather(2, inner[None, :, None].expand(len(sums), -1, 1))
    n, a1, a2, b1, b2, ab = sums
    n = n.clamp_min(1)
    variances = (a2 - a1.square() / n) * (b2 - b1.square() / n)
    return torch.where(variances > 1e-12, (ab - a1 * b1 / n) / variances.clamp_min(1e-12).sqrt(), math.nan)


def _rotated(correlogram: Tensor, degrees: float) -> Tensor:
    """Correlograms, rotated about their centre by bilinear interpolation."""
    rows, columns = correlogram.shape[1:]
    angle, ratio = math.radians(degrees), (rows - 1) / (columns - 1)
    turn = correlogram.new_tensor(
        [[math.cos(angle), -math.sin(angle) * ratio, 0.0], [math.sin(angle) / ratio, math.cos(angle), 0.0]]
    )
    grid = F.affine_grid(turn[None], [1, 1, rows, columns], align_corners=True)
    return F.grid_sample(correlogram[None], grid, align_corners=True)[0]
