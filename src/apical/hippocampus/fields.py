"""Place fields: connected bins in which a cell fires, found in all maps at once."""

from dataclasses import dataclass

import torch
from torch import Tensor

from apical.errors import ConfigError, DataError
from apical.hippocampus.maps import visited


@dataclass(frozen=True)
class Fields:
    """The fields of each cell.

    Attributes:
        count: how many, (cells,), int64.
        size: of the largest, as a share of the visited bins, (cells,); 0 without a field.
        share: of the cell's firing that lies in the largest, (cells,); 0 without a field.
        labels: the field of each bin, from 1 in the order of size, 0 outside fields, (cells, rows, columns), int64.
        active: whether the cell fires anywhere, (cells,), bool.
    """

    count: Tensor
    size: Tensor
    share: Tensor
    labels: Tensor
    active: Tensor

    @property
    def single(self) -> float:
        """The share of all cells that have one field."""
        return float((self.count == 1).double().mean())

    @property
    def median_size(self) -> float:
        """The median size of the largest field, over cells with a field; NaN if there is none."""
        return float(self.size[self.count > 0].median()) if (self.count > 0).any() else float("nan")

    @property
    def mean_share(self) -> float:
        """The mean share of firing in the largest field, over cells that fire; NaN if none does."""
        return float(self.share[self.active].mean()) if self.active.any() else float("nan")


def find(
    maps: Tensor, *, threshold: float = 0.3, smallest: float = 0.005, largest: float = 0.5, wraps: bool = False
) -> Fields:
    """Find the place fields of all cells.

    A field is a set of bins above `threshold` times the cell's highest rate that are connected by their sides, and that
    covers from `smallest` to `largest` of the visited bins.

    Args:
        maps: (cells, rows, columns), rates of at least 0.
        threshold: share of the cell's peak.
        smallest: share of the visited bins.
        largest: share of the visited bins.
        wraps: whether the first and the last column are neighbours: `arena.wraps`.

    Raises:
        DataError: the maps are not valid, or a rate is negative.
        ConfigError: a share is not from 0 to 1, or `smallest` is above `largest`.

    Example:
        >>> import torch
        >>> from apical.hippocampus import fields
        >>> maps = torch.zeros(1, 10, 10)
        >>> maps[0, 2:4, 2:5] = 1.0
        >>> found = fields.find(maps)
        >>> found.count.tolist(), round(found.size.item(), 2)
        ([1], 0.06)
    """
    seen = visited(maps, "fields")
    if not (0 <= threshold <= 1 and 0 <= smallest <= largest <= 1):
        raise ConfigError(
            f"fields: threshold={threshold!r}, smallest={smallest!r} and largest={largest!r} are shares. Pass values "
            "from 0 to 1, the smallest first."
        )
    if (maps[:, seen] < 0).any():
        raise DataError("fields: a rate is negative. Pass rates of at least 0.")
    rates = maps.nan_to_num(0.0)
    peak = rates.flatten(1).amax(1)
    above = (rates > threshold * peak[:, None, None]) & (rates > 0)
    component = _components(above, wraps).flatten(1)
    bins, total = component.shape[1], int(seen.sum())
    area = torch.zeros(len(maps), bins + 1, dtype=torch.int64, device=maps.device)
    area.scatter_add_(1, component, torch.ones_like(component))
    firing = rates.new_zeros(len(maps), bins + 1).scatter_add_(1, component, rates.flatten(1))
    area[:, 0] = 0
    area[(area < smallest * total) | (area > largest * total)] = 0
    order = area.argsort(dim=1, descending=True, stable=True)
    rank = torch.zeros_like(area).scatter_(1, order, torch.arange(1, bins + 2, device=maps.device).expand_as(area))
    rank[area == 0] = 0
    best, place = area.max(1)
    share = firing.gather(1, place[:, None])[:, 0] / rates.flatten(1).sum(1)
    return Fields(
        count=(area > 0).sum(1),
        size=best / total,
        share=torch.where(best > 0, share, 0.0),
        labels=rank.gather(1, component).view(maps.shape),
        active=peak > 0,
    )


def _components(above: Tensor, wraps: bool) -> Tensor:
    """Connected bins share a number above 0, other bins have 0: (cells, rows, columns), int64.

    The number is that of a bin of the cell's map, counted from 1. Bins above the threshold are the nodes of a graph
    whose trees are joined, the root of the lower number to that of the higher, until no edge joins two trees.
    """
    bins = above[0].numel()
    index = torch.arange(above.numel(), device=above.device).view(above.shape)
    pairs = [(index[:, 1:], index[:, :-1]), (index[:, :, 1:], index[:, :, :-1])]
    if wraps:
        pairs.append((index[:, :, :1], index[:, :, -1:]))
    edges = torch.cat([torch.stack([a.flatten(), b.flatten()]) for a, b in pairs], 1)
    edges = edges[:, above.flatten()[edges].all(0)]
    root = index.flatten()
    while edges.shape[1]:
        ends = root[edges]
        root = root.scatter_reduce(0, ends.amin(0), ends.amax(0), "amax")
        while not torch.equal(further := root[root], root):
            root = further
        ends = root[edges]
        edges = edges[:, ends[0] != ends[1]]
    return (root % bins + 1).view(above.shape) * above
