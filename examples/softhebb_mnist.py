"""Features without a teacher: SoftHebb looks at every image once, then a linear read-out learns the labels.

Beside it stands the control that such a figure needs: the same network with the weights that it was drawn with, and the
same read-out. Takes the digits of scikit-learn, which need no file, unless --task names another set.

python examples/softhebb_mnist.py
"""

import argparse
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import apical
from apical import data


class Triangle(nn.Module):
    """Rectifies what exceeds the mean of all channels."""

    def __init__(self, power: float) -> None:
        super().__init__()
        self.power = power

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x - x.mean(1, keepdim=True)).pow(self.power)


def features_of(channels: int, widths: Sequence[int], length: float) -> nn.Sequential:
    """Convolutions, each behind a norm without parameters, as in the paper, but narrower.

    Weights start longer than 1, as the paper's do: then who wins gets shorter, and next time another one wins.
    """
    parts: list[nn.Module] = []
    for depth, width in enumerate(widths):
        kernel = 3 if depth else 5
        conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2, padding_mode="reflect", bias=False)
        nn.init.normal_(conv.weight, std=length / math.sqrt(conv.weight[0].numel()))
        last = depth == len(widths) - 1
        pool = nn.AvgPool2d(2) if last else nn.MaxPool2d(4, stride=2, padding=1)
        parts += [nn.BatchNorm2d(channels, affine=False), conv, Triangle(1.4 if depth else 0.7), pool]
        channels = width
    return nn.Sequential(*parts, nn.Flatten())


def look(features: nn.Sequential, x: Tensor, options: argparse.Namespace, *, learn: bool) -> None:
    """See every image once, in batches of ten; without learning, the norms still take the images' measure."""
    published = options.step == "published"
    rule = apical.SoftHebb(temperature=options.temperature, norm_power=0.0 if published else 0.5, readout=False)
    circuit = apical.Circuit(features, rule)
    weights = [layer.weight for layer in circuit.layers]
    # By the rule alone a step is the larger the longer its inputs.
    shares = [1 / 16**depth if published else 1 / weight[0].numel() for depth, weight in enumerate(weights)]
    optimizer = torch.optim.SGD(
        [{"params": [weight], "lr": options.lr * share} for weight, share in zip(weights, shares, strict=True)]
    )
    circuit.requires_grad_(learn)
    for batch in x.split(10):
        answer = circuit(batch)
        if learn:
            optimizer.zero_grad()
            answer.sum().backward()  # any loss: SoftHebb takes nothing from it
            if published:
                for weight in weights:
                    as_published(weight)
            optimizer.step()
    features.eval()


@torch.no_grad()
def as_published(weight: Tensor) -> None:
    """The step of the published code: by the largest entry of the update, and by each unit's distance from length 1.

    No synapse could know that largest entry; the rule by itself does without, at other learning rates.
    """
    assert weight.grad is not None
    rate = (weight.flatten(1).norm(dim=1) - 1).abs().sqrt()
    weight.grad.mul_(rate.view(-1, 1, 1, 1) / weight.grad.abs().max())


def read_out(seen: Tensor, y: Tensor, epochs: int, order: torch.Generator) -> nn.Module:
    """A linear read-out of features that no longer change; so they are worked out once, and this is the delta rule."""
    head = nn.Sequential(nn.Dropout(0.5), nn.Linear(seen.shape[1], int(y.max()) + 1))
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * math.ceil(len(y) / 64))
    for _ in range(epochs):
        for rows in torch.randperm(len(y), generator=order).split(64):
            optimizer.zero_grad()
            F.cross_entropy(head(seen[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
    return head.eval()


@torch.no_grad()
def answers(module: nn.Module, x: Tensor) -> Tensor:
    """What a module makes of many examples."""
    return torch.cat([module(part) for part in x.split(200)])


def accuracy(
    train: data.Examples, test: data.Examples, options: argparse.Namespace, seed: int, *, learn: bool
) -> float:
    """Of one network, from its first weights on."""
    torch.manual_seed(seed)
    order = torch.Generator().manual_seed(seed)
    features = features_of(train.x.shape[1], options.widths, options.length)
    train = train.take(torch.randperm(len(train), generator=order)[: options.train])
    look(features, train.x[: options.look], options, learn=learn)
    seen = answers(features, train.x)
    scale = seen.std()  # the two kinds of features differ in size, and Adam's rate should suit both
    head = read_out(seen / scale, train.y, options.epochs, order)
    return (answers(head, answers(features, test.x) / scale).argmax(1) == test.y).float().mean().item()


def main() -> None:
    """Both networks, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--train", type=int, default=None, help="images for the read-out; all, if not given")
    parser.add_argument("--look", type=int, default=None, help="of these, images that SoftHebb sees; all, if not given")
    parser.add_argument("--epochs", type=int, default=10, help="of the read-out")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--step", choices=["published", "rule"], default="published", help="the code's, or the rule's")
    parser.add_argument("--lr", type=float, default=0.08, help="of the first layer; a 16th of it for each further one")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--length", type=float, default=25.0, help="of a unit's weights at the start")
    parser.add_argument("--arms", nargs="+", choices=["soft_hebb", "random"], default=["soft_hebb", "random"])
    parser.add_argument("--validate", action="store_true", help="measure on a sixth of the training data")
    options = parser.parse_args()
    task = data.load(options.task, download=False)
    train, test = data.split(task.train, 1 / 6, seed=0) if options.validate else (task.train, task.test)
    for seed in options.seeds:
        for arm in options.arms:
            found = accuracy(train, test, options, seed, learn=arm == "soft_hebb")
            right = round(found * len(test))
            print(f"seed {seed}, {arm:<9} features: accuracy {found:.3f} ({right} of {len(test)})", flush=True)


if __name__ == "__main__":
    main()
