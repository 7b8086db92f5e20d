"""Tree-3, the three-layer dendritic tree of Meir et al. (2023): every hidden weight has one way to the output."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

# For each side of an image, into how many bands of rows its pooled feature maps are cut.
BANDS = {28: 3, 32: 7}


class Bands(nn.Module):
    """Feature maps cut into bands of rows, what belongs together side by side.

    (batch, colours * filters, side, side) becomes (batch, colours * bands * units, 1, 1), where the units of one colour
    and band are those of all its filters.
    """

    def __init__(self, colours: int, bands: int) -> None:
        super().__init__()
        self.colours = colours
        self.bands = bands

    def forward(self, maps: Tensor) -> Tensor:
        by_colour = torch.unflatten(maps, 1, (self.colours, -1))
        by_band = torch.unflatten(by_colour, 3, (self.bands, -1)).transpose(2, 3)
        return by_band.flatten(1)[:, :, None, None]


class Tree3(nn.Module):
    """Convolution by colour, a tree of unshared rectangles, and one linear layer.

    1. Each colour is convolved with `filters` 5x5 filters of its own, without padding, and pooled 2x2.
    2. The tree: each of `branches` has a unit for every colour and band of rows of the pooled maps, with weights of
       its own to all that lies in this band, summed over the filters. For 32x32 a band is two rows of 14 (7 bands),
       for 28x28 four rows of 12 (3 bands). These are branches * colours * bands * (units of a band * filters)
       weights, for CIFAR-10 M * 3 * 7 * (28 * K).
    3. All units of the tree meet in one linear layer.

    A weight of the tree reaches the classes through one unit, and a pooled rate through one unit of each branch. The
    tree is a grouped 1x1 convolution of the rearranged maps, a group for each colour and band.

    Weights start from N(0, 2 / fan-in) (He et al., 2015), biases as 0. (batch, colours, side, side) is answered with
    (batch, classes).

    Args:
        colours: channels of the image.
        side: of the image, 28 or 32.
        classes: how many.
        filters: K, for each colour; in the paper 6 or 15.
        branches: M; in the paper 16 or 80.
        activation: makes an activation; None has parameters.

    Source: Meir et al., "Learning on tree architectures outperforms a convolutional feedforward network" (Scientific
    Reports 13, 962, 2023), from its captions and its methods. Departs from it: biases are not mentioned there; the
    activation is an option, in the paper ReLU on-line and a sigmoid off-line (ReLU for K = 15, M = 80).
    """

    def __init__(
        self,
        colours: int,
        side: int,
        classes: int,
        filters: int = 6,
        branches: int = 16,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        bands = BANDS[side]
        pooled = (side - 4) // 2
        units = pooled * pooled // bands * filters
        groups = colours * bands
        self.conv = nn.Conv2d(colours, colours * filters, 5, groups=colours)
        self.activation1 = activation()
        self.pool = nn.MaxPool2d(2)
        self.cut = Bands(colours, bands)
        self.tree = nn.Conv2d(groups * units, groups * branches, 1, groups=groups)
        self.activation2 = activation()
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(groups * branches, classes)
        for module in (self.conv, self.tree, self.linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(self.activation1(self.conv(x)))
        hidden = self.flatten(self.activation2(self.tree(self.cut(pooled))))
        answer: Tensor = self.linear(hidden)
        return answer
