"""Drawings: the bins that a raster covers, and the places of a chart's points."""

import math
import re

import pytest
import torch

from apical.report.drawing import LEVELS, chart, raster


def covered(path):
    """The bins of a path, as (row, column) from above."""
    found = re.findall(r"M(\d+) (\d+)h(\d+)v1h-(\d+)z", path)
    assert "".join(f"M{x} {y}h{w}v1h-{b}z" for x, y, w, b in found) == path
    return {(int(y), int(x) + step) for x, y, width, back in found for step in range(int(width)) if width == back}


def test_a_raster_covers_each_bin_once_at_its_shade():
    values = torch.tensor([[0.0, 1.0, 1.0], [-1.0, 0.5, math.nan]])
    found = raster(values)
    shades = {opacity: covered(path) for opacity, path in found.shades}
    assert shades == {1.0: {(1, 1), (1, 2)}, 0.5: {(0, 1)}}  # the first row is the lowest
    assert covered(found.grey) == {(0, 2)}
    assert (found.rows, found.columns) == (2, 3)
    assert not raster(torch.zeros(3, 3)).shades
    assert raster(torch.full((1, 1), 0.5), highest=1.0).shades[0][0] == 0.5
    assert raster(torch.full((1, 1), 9.0), highest=1.0).shades[0][0] == LEVELS / LEVELS


def test_points_lie_where_the_axes_say():
    found = chart(
        {"a": [(1.0, 0.0), (10.0, 5.0), (100.0, math.nan)]}, "x", "y", x_ticks=[1, 100], y_ticks=[0, 10], log_x=True
    )
    (line,) = found.lines
    assert len(line.points) == 2
    assert line.points[0] == (found.left, found.bottom)
    assert line.points[1] == pytest.approx(((found.left + found.right) / 2, (found.top + found.bottom) / 2))
    assert [label for _, label in found.x_ticks] == ["1", "100"]
    assert chart({"empty": []}, "x", "y", x_ticks=[0, 1], y_ticks=[0, 1]).lines[0].path == ""
    diagonal = chart({}, "x", "y", x_ticks=[0, 1], y_ticks=[0, 1], diagonal=True)
    assert diagonal.diagonal == f"M{diagonal.left}.0 {diagonal.bottom}.0L{diagonal.right}.0 {diagonal.top}.0"
