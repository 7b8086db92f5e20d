"""Networks of papers that `apical.study.models` does not know, for `model = "networks.py:NAME"`."""

from collections.abc import Sequence

from torch import nn


def lenet(*, input_shape: Sequence[int], classes: int) -> nn.Module:
    """The LeNet of BioTorch 0.0.16, its images scaled up to 32x32 and its weights as Glorot has them."""
    model = nn.Sequential(
        nn.Upsample(size=(32, 32), mode="bilinear"),
        *(nn.Conv2d(input_shape[0], 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 120, 5), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes)),
    )
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    return model
