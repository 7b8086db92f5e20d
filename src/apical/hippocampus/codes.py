"""Codes: how similar they are where inputs are, for separation and completion; functions of codes, not of networks."""

import math

import torch
from torch import Tensor

from apical.errors import ConfigError, DataError
from apical.finiteness import finite
from apical.hippocampus.cells import generator_of


def correlation(a: Tensor, b: Tensor, dim: int = -1) -> Tensor:
    """Pearson's correlation along an axis of two tensors of one shape; NaN where one of them is constant.

    Raises:
        DataError: the shapes differ.
    """
    if a.shape != b.shape:
        raise DataError(f"correlation: {tuple(a.shape)} and {tuple(b.shape)} differ. Pass tensors of one shape.")
    return (standard(a, dim) * standard(b, dim)).sum(dim)


def standard(values: Tensor, dim: int) -> Tensor:
    """Values with mean 0 and norm 1 along an axis; NaN where they are constant, up to rounding."""
    away = values - values.mean(dim, keepdim=True)
    norm = away.norm(dim=dim, keepdim=True)
    flat = norm <= 8 * torch.finfo(values.dtype).eps * values.norm(dim=dim, keepdim=True)
    return torch.where(flat, math.nan, away / norm)


def separation_curve(inputs: Tensor, codes: Tensor, bins: int = 10, pairs: int = 20_000, seed: int = 0) -> Tensor:
    """How similar codes are where inputs are similar: to (bins, 3).

    Each row: the mean correlation of inputs, that of their codes, and the number of pairs, for pairs of samples whose
    inputs correlate within one of equal intervals from -1 to 1. Codes below the diagonal are separated. Rows without a
    pair hold NaN; pairs in which an input or a code is constant are left out.

    Args:
        inputs: (n, features).
        codes: (n, units).
        bins: how many intervals.
        pairs: drawn at random where there are more.
        seed: of the draws.

    Raises:
        DataError: shapes do not fit, there are fewer than two samples, or values are not finite.
        ConfigError: `bins` or `pairs` is below 1.
    """
    _check_codes("separation_curve", inputs, codes)
    if len(inputs) < 2 or bins < 1 or pairs < 1:
        raise ConfigError(
            f"separation_curve: {len(inputs)} samples, bins={bins}, pairs={pairs}. Pass 2, 1 and 1 or more."
        )
    first, second = torch.triu_indices(len(inputs), len(inputs), 1)
    if len(first) > pairs:
        chosen = torch.randint(len(first), (pairs,), generator=generator_of("pairs", seed))
        first, second = first[chosen], second[chosen]
    x, c = (standard(each, 1) for each in (inputs, codes))
    before, after = ((each[first] * each[second]).sum(1) for each in (x, c))
    valid = ~(before.isnan() | after.isnan())
    before, after = before[valid], after[valid]
    place = ((before + 1) / 2 * bins).long().clamp_(0, bins - 1)
    columns = torch.stack([before, after, torch.ones_like(before)], 1)
    total = inputs.new_zeros(bins, 3).index_add_(0, place, columns)
    return torch.cat([total[:, :2] / total[:, 2:], total[:, 2:]], 1)


def completion_curve(
    inputs: Tensor, codes: Tensor, cues: list[Tensor] | tuple[Tensor, ...], recalled: list[Tensor] | tuple[Tensor, ...]
) -> Tensor:
    """How much of a code returns for degraded inputs: to (levels, 2).

    Each row: the mean correlation of cues with the complete inputs, and that of their codes with the codes of complete
    inputs. Codes above the diagonal are completed. A sample whose code is constant (silent) counts as 0.

    Args:
        inputs: (n, features), complete.
        codes: (n, units) of these.
        cues: for each level of degradation, (n, features).
        recalled: for each level, the codes of the cues, (n, units).

    Raises:
        DataError: shapes do not fit, or values are not finite.
    """
    _check_codes("completion_curve", inputs, codes)
    if len(cues) != len(recalled):
        raise DataError(f"completion_curve: {len(cues)} levels of cues have {len(recalled)} of codes. Pass one each.")
    rows = []
    for cue, code in zip(cues, recalled, strict=True):
        _check_codes("completion_curve", cue, code)
        rows.append([correlation(*pair, 1).nan_to_num(0.0).mean() for pair in ((inputs, cue), (codes, code))])
    return torch.tensor(rows)


def _check_codes(what: str, inputs: Tensor, codes: Tensor) -> None:
    if inputs.ndim != 2 or codes.ndim != 2 or len(inputs) != len(codes):
        raise DataError(
            f"{what}: inputs {tuple(inputs.shape)} and codes {tuple(codes.shape)} do not fit. Pass one row each."
        )
    if not finite(inputs, codes):
        raise DataError(f"{what}: inputs or codes hold NaN or infinity. Leave these samples out.")
