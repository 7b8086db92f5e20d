"""The residual networks for small images of He et al. (2016, section 4.2): ResNet-20, 32, 44, 56 and 110."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

DEPTHS = (20, 32, 44, 56, 110)


class Shortcut(nn.Module):
    """The parameter-free way past two layers that halve the image and double the channels ("option A").

    (batch, C, H, W) becomes (batch, 2C, ceil(H/2), ceil(W/2)): every second pixel, new channels zero, half of
    them before and half behind.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before = channels // 2
        self.behind = channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.behind))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and a way past them; `activation` follows the sum."""

    def __init__(self, fan_in: int, channels: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        halve = fan_in != channels
        self.conv1 = nn.Conv2d(fan_in, channels, 3, stride=2 if halve else 1, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.activation1 = activation()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut = Shortcut(fan_in) if halve else nn.Identity()
        self.activation2 = activation()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.activation1(self.norm1(self.conv1(x)))
        out: Tensor = self.activation2(self.norm2(self.conv2(inner)) + self.shortcut(x))
        return out


class ResNet(nn.Module):
    """A 3x3 convolution, three stages of (depth - 2) / 6 blocks with 16, 32, 64 channels, average, one linear layer.

    (batch, channels, H, W) is answered with (batch, classes); H and W are 8 at least. Convolutions start from
    a normal distribution of variance 2 / (fan-out) (He et al., 2015).

    Args:
        depth: 20, 32, 44, 56 or 110 weighted layers.
        channels: of the image.
        classes: how many.
        activation: makes an activation; None has parameters.
    """

    def __init__(self, depth: int, channels: int, classes: int, activation: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.activation = activation()
        blocks = []
        fan_in = 16
        for stage in (16, 32, 64):
            for _ in range((depth - 2) // 6):
                blocks.append(BasicBlock(fan_in, stage, activation))
                fan_in = stage
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        features = self.blocks(self.activation(self.norm(self.conv(x))))
        answer: Tensor = self.linear(self.flatten(self.pool(features)))
        return answer
