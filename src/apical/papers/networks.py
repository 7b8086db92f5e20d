"""Networks of papers that `apical.models` does not know, for `model = "networks.py:NAME"`."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from apical.neurons import LIF, LeakyReadout, OverTime
from apical.neurons.encoders import bernoulli
from apical.neurons.surrogates import Boxcar


def lenet(*, input_shape: Sequence[int], classes: int) -> nn.Module:
    """The LeNet of BioTorch 0.0.16, its images scaled up to 32x32 and its weights as Glorot has them."""
    model = nn.Sequential(
        nn.Upsample(size=(32, 32), mode="bilinear"),
        *(nn.Conv2d(input_shape[0], 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 120, 5), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes)),
    )
    return _begun(model, nn.init.xavier_uniform_)


def he_lenet(*, input_shape: Sequence[int], classes: int) -> nn.Module:
    """LeNet-5 as Meir et al. compare with it, 400-120-84-10 behind its convolutions; weights as He et al. have them."""
    return _begun(lenet(input_shape=input_shape, classes=classes), nn.init.kaiming_normal_)


def sigmoid_mlp(*, input_shape: Sequence[int], classes: int) -> nn.Module:
    """Payeur et al.'s network for MNIST: three hidden layers of 500 sigmoid units, and sigmoid outputs."""
    return _sigmoid(math.prod(input_shape), 500, 500, 500, classes)


def microcircuit_mlp(*, input_shape: Sequence[int], classes: int) -> nn.Module:
    """Sacramento et al.'s network for MNIST: two hidden layers of 500 sigmoid units, and sigmoid outputs."""
    return _sigmoid(math.prod(input_shape), 500, 500, classes)


def no_hidden_layer(*, input_shape: Sequence[int], classes: int) -> nn.Module:
    """One layer of sigmoid units."""
    return _sigmoid(math.prod(input_shape), classes)


def relu_conv(*, input_shape: Sequence[int], classes: int) -> nn.Module:
    """Payeur et al.'s network for CIFAR-10, of ReLU units: convolutions of 64, 128 and 256 channels, 1024 units."""
    model = nn.Sequential(
        *(nn.Conv2d(input_shape[0], 64, 5, stride=2), nn.ReLU()),
        *(nn.Conv2d(64, 128, 5, stride=2), nn.ReLU()),
        *(nn.Conv2d(128, 256, 3), nn.ReLU(), nn.Flatten()),
        *(nn.LazyLinear(1024), nn.ReLU(), nn.Linear(1024, classes)),
    )
    return _begun(_sized(model, input_shape), nn.init.xavier_uniform_)


def kerjan_vgg5(*, input_shape: Sequence[int], classes: int) -> nn.Module:
    """Kerjan et al.'s VGG5 at an eighth of its width: five convolutions, all but the first with pooling."""
    return _vgg(input_shape, classes, (16, 32, 64, 64, 64), unpooled=1)


def pinchetti_vgg5(*, input_shape: Sequence[int], classes: int) -> nn.Module:
    """Pinchetti et al.'s VGG5 at an eighth of its width: four convolutions with GELU and pooling."""
    return _vgg(input_shape, classes, (16, 32, 64, 64), activation=nn.GELU)


def laborieux_conv(*, input_shape: Sequence[int], classes: int) -> nn.Module:
    """Laborieux et al.'s network for CIFAR-10 at an eighth of its width: four convolutions with pooling.

    Its activation is the one of a network that answers forward; equilibrium propagation brings its own.
    """
    return _vgg(input_shape, classes, (16, 32, 64, 64))


def modulated_mlp(*, input_shape: Sequence[int], classes: int) -> nn.Module:
    """Zhang et al.'s fully connected network for shuffled data: 1000 tanh units, and sigmoid outputs."""
    hidden = (nn.Linear(math.prod(input_shape), 1000), nn.Tanh())
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(1000, classes), nn.Sigmoid())


def frozen_mlp(*, input_shape: Sequence[int], classes: int) -> nn.Module:
    """The same with a hidden layer that never learns."""
    return _frozen(modulated_mlp(input_shape=input_shape, classes=classes))


def spiking_mlp(*, input_shape: Sequence[int], classes: int) -> nn.Module:
    """Zhang et al.'s fully connected spiking network for shuffled data: 20 moments, pixels that fire at random."""
    synapses = nn.Linear(math.prod(input_shape), 1000), nn.Linear(1000, classes)
    return _fires(nn.Flatten(), synapses[0], _leaky(), synapses[1])


def frozen_spiking_mlp(*, input_shape: Sequence[int], classes: int) -> nn.Module:
    """The same with a hidden layer that never learns."""
    return _frozen(spiking_mlp(input_shape=input_shape, classes=classes))


def spiking_conv(*, input_shape: Sequence[int], classes: int) -> nn.Module:
    """Zhang et al.'s convolutional spiking network at an eighth of its width."""
    first, second = nn.Conv2d(input_shape[0], 8, 5, padding=2), nn.Conv2d(8, 16, 5, padding=2)
    synapses = nn.Linear(16 * math.prod(side // 4 for side in input_shape[1:]), 125), nn.Linear(125, classes)
    pooled = (first, _leaky(), nn.AvgPool2d(2), second, _leaky(), nn.AvgPool2d(2), nn.Flatten())
    return _fires(*pooled, synapses[0], _leaky(), synapses[1])


def frozen_spiking_conv(*, input_shape: Sequence[int], classes: int) -> nn.Module:
    """The same with hidden layers that never learn."""
    return _frozen(spiking_conv(input_shape=input_shape, classes=classes))


def _leaky() -> LIF:
    return LIF(0.2, 0.5, detach_reset=True, surrogate=Boxcar(0.5))


def _fires(*parts: nn.Module) -> nn.Module:
    """A network whose outputs are leaky neurons too, for 20 moments of pixels that fire at random."""
    return OverTime(nn.Sequential(*parts, _leaky(), LeakyReadout(0.0)), partial(fire_at_random, moments=20))


def fire_at_random(x: Tensor, moments: int) -> Tensor:
    """Spikes, (moments, batch, ...): a pixel fires with its share of the way from the darkest to the brightest."""
    low, high = x.aminmax()
    return bernoulli(((x - low) / (high - low).clamp(min=1e-12)).clamp(0, 1), moments)


def modulated_conv(*, input_shape: Sequence[int], classes: int) -> nn.Module:
    """Zhang et al.'s convolutional network, of tanh units with sigmoid outputs."""
    model = nn.Sequential(
        *(nn.Conv2d(input_shape[0], 64, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Conv2d(64, 128, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten()),
        *(nn.LazyLinear(1000), nn.Tanh(), nn.Linear(1000, classes), nn.Sigmoid()),
    )
    return _sized(model, input_shape)


class _Pixels(nn.Module):
    """MNIST's standardised pixels as they were, from 0 to 1."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.3081 * x + 0.1307


def brainprop_dense(*, input_shape: Sequence[int], classes: int) -> nn.Module:
    """Pozzi et al.'s fully connected network for MNIST with fewer units, without biases.

    Its first weights are theirs: larger ones begin with larger values, whose squared errors make steps unstable.
    """
    widths = (math.prod(input_shape), 512, 512)
    hidden = [part for shape in pairwise(widths) for part in (nn.Linear(*shape, bias=False), nn.ReLU())]
    model = nn.Sequential(_Pixels(), nn.Flatten(), *hidden, nn.Linear(512, classes, bias=False))
    return _begun(model, partial(nn.init.normal_, std=0.01))


def brainprop_conv(*, input_shape: Sequence[int], classes: int) -> nn.Module:
    """Pozzi et al.'s convolutional network for MNIST, without biases."""
    model = nn.Sequential(
        _Pixels(),
        *(nn.Conv2d(input_shape[0], 32, 3, bias=False), nn.ReLU(), nn.BatchNorm2d(32)),
        *(nn.Conv2d(32, 32, 3, stride=2, bias=False), nn.ReLU(), nn.BatchNorm2d(32), nn.Dropout(0.3), nn.Flatten()),
        *(nn.LazyLinear(500, bias=False), nn.ReLU(), nn.Dropout(0.3), nn.Linear(500, classes, bias=False)),
    )
    return _begun(_sized(model, input_shape), partial(nn.init.normal_, std=0.005))


def brainprop_deep(*, input_shape: Sequence[int], classes: int) -> nn.Module:
    """Pozzi et al.'s deep network for CIFAR-10 at a quarter of its width, without biases."""
    layers: list[nn.Module] = []
    for (below, above), pool in zip(
        pairwise((input_shape[0], 16, 16, 32, 32, 32, 32, 32)), (0, 1, 0, 1, 0, 0, 1), strict=True
    ):
        layers += [nn.Conv2d(below, above, 3, padding=1, bias=False), nn.ReLU(), nn.BatchNorm2d(above)]
        layers += [nn.MaxPool2d(2), nn.Dropout(0.3)] if pool else []
    model = nn.Sequential(
        *layers,
        nn.Flatten(),
        *(nn.LazyLinear(125, bias=False), nn.ReLU(), nn.Dropout(0.3), nn.Linear(125, classes, bias=False)),
    )
    return _begun(_sized(model, input_shape), partial(nn.init.normal_, std=0.005))


def _frozen(model: nn.Module) -> nn.Module:
    """The network, of which the last weights and biases alone learn."""
    for parameter in list(model.parameters())[:-2]:
        parameter.requires_grad_(False)
    return model


def _sized(model: nn.Sequential, input_shape: Sequence[int]) -> nn.Sequential:
    """Tell a lazy layer its inputs, and norms nothing."""
    model.eval()(torch.zeros(1, *input_shape))
    return model.train()


def _vgg(
    shape: Sequence[int],
    classes: int,
    channels: Sequence[int],
    unpooled: int = 0,
    activation: type[nn.Module] = nn.ReLU,
) -> nn.Module:
    """Convolutions, each with pooling but for the first `unpooled`, and one linear layer."""
    layers: list[nn.Module] = []
    for number, widths in enumerate(pairwise((shape[0], *channels))):
        layers += [nn.Conv2d(*widths, 3, padding=1), activation()]
        layers += [nn.MaxPool2d(2)] if number >= unpooled else []
    return _sized(nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(classes)), shape)


def _sigmoid(*widths: int) -> nn.Module:
    layers = [part for shape in pairwise(widths) for part in (nn.Linear(*shape), nn.Sigmoid())]
    return _begun(nn.Sequential(nn.Flatten(), *layers), nn.init.xavier_uniform_)


def _begun(model: nn.Module, draw: Callable[[Tensor], Tensor]) -> nn.Module:
    """The model with weights that `draw` fills, and biases of 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            draw(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model
