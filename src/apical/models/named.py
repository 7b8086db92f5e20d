"""Networks by name, for runs that are described in text: `build("mlp:500,500", input_shape=..., classes=...)`.

| name                | network                                                                               |
|---------------------|---------------------------------------------------------------------------------------|
| `mlp:500,500`       | any input, flattened; fully connected layers of these widths, then one unit a class    |
| `conv:32,64`        | images; 3x3 convolutions of these channels, each pooled 2x2; then one linear layer     |
| `lenet`             | images up to 32x32; 5x5 convolutions of 6, 16, 120 channels, then 84 units             |
| `resnet20`          | images from 8x8 on; a residual network, see `apical.models.resnet`; 32, 44, 56, 110 too |
| `tree3:6,16`        | images 28x28 or 32x32; the tree of `apical.models.tree`, 6 filters a colour, 16 branches  |
| `file.py:function`  | `function(input_shape=..., classes=...)` of your own, returning any `nn.Module`        |

An activation may follow after another colon (`mlp:500,500:tanh`); without one it is ReLU. With `lif` or `alif` the
network spikes: its input is a constant current over 25 moments, and a leaky read-out averages over them. Weights and
biases start as PyTorch initialises its layers (uniform within 1/sqrt(fan-in)), except in a residual network and in a
tree.
"""

import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from apical import sources
from apical.errors import ConfigError
from apical.models.resnet import DEPTHS, ResNet
from apical.models.tree import BANDS, Tree3
from apical.neurons import ALIF, LIF, LeakyReadout, OverTime, encoders
from apical.options import unknown

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
    "softplus": nn.Softplus,
    "lif": partial(LIF, reset="subtract"),
    "alif": partial(ALIF, reset="subtract"),
}
SPIKING = ("lif", "alif")
MOMENTS = 25  # of a spiking network
RESNETS: Mapping[str, int] = {f"resnet{depth}": depth for depth in DEPTHS}
FORMS = ("mlp:500,500", "conv:32,64", "lenet", *RESNETS, "tree3:6,16", "file.py:function")


@dataclass(frozen=True)
class Spec:
    """A network's name, read.

    Attributes:
        text: the name as it was written.
        kind: "mlp", "conv", "lenet", "resnet20" (or deeper), "tree3" or "file".
        widths: units or channels of the hidden layers; of a tree, its filters for each colour and its branches.
        activation: the name of an activation.
        file: of a network of the user's own.
        function: its name in the file.
    """

    text: str
    kind: str
    widths: tuple[int, ...] = ()
    activation: str = "relu"
    file: Path | None = None
    function: str = ""


def parse(text: str) -> Spec:
    """Read a network's name; nothing is built or opened.

    Raises:
        ConfigError: an unknown kind or activation, or widths that are none.
    """
    if own := sources.split_name(text):
        file, function = own
        if not function.isidentifier():
            raise ConfigError(f"model {text!r}: after the colon comes the name of a function in {file}")
        return Spec(text, "file", file=file, function=function)
    kind, *rest = text.split(":")
    if kind not in {"mlp", "conv", "lenet", "tree3", *RESNETS}:
        raise ConfigError(unknown("model", kind, FORMS))
    widths: tuple[int, ...] = ()
    if kind in {"mlp", "conv", "tree3"}:
        widths = _widths(text, rest.pop(0) if rest else "")
    if kind == "tree3" and len(widths) != 2:
        raise ConfigError(f"model {text!r}: a tree has two numbers, filters for each colour and branches: tree3:6,16")
    activation = rest.pop(0) if rest else "relu"
    if rest:
        raise ConfigError(f"model {text!r}: {':'.join(rest)!r} is left over; the form is NAME:WIDTHS:ACTIVATION")
    if activation not in ACTIVATIONS:
        raise ConfigError(f"model {text!r}: {unknown('activation', activation, ACTIVATIONS)}")
    return Spec(text, kind, widths, activation)


def _widths(text: str, listed: str) -> tuple[int, ...]:
    numbers = [part.strip() for part in listed.split(",")]
    if not all(number.isdecimal() and len(number) < 19 and int(number) > 0 for number in numbers):
        raise ConfigError(f"model {text!r}: the widths are positive whole numbers, as in mlp:500,500 or conv:32,64")
    return tuple(map(int, numbers))


def build(spec: str, *, input_shape: Sequence[int], classes: int, seed: int) -> nn.Module:
    """Build the network that `spec` names, its initial weights drawn from `seed`.

    PyTorch's own random state is left as it was. The network answers (batch, *input_shape) with (batch, classes).

    Args:
        spec: a name, see the module.
        input_shape: of one example, such as (1, 28, 28) or (64,).
        classes: how many output units.
        seed: of the initial weights.

    Raises:
        ConfigError: a name that does not exist, an input that the network cannot take, or a function of the
            user's own that is missing, fails, or returns something else than such a network.
    """
    parsed = parse(spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = _build(parsed, tuple(input_shape), classes)
        except (RuntimeError, TypeError, OverflowError, MemoryError) as error:
            reason = str(error).partition("\n")[0]
            raise ConfigError(f"model {spec!r}: PyTorch cannot allocate it ({reason}). Take fewer units.") from error
    if parsed.activation not in SPIKING:
        return model
    return OverTime(nn.Sequential(model, LeakyReadout()), partial(encoders.constant, moments=MOMENTS))


def _build(spec: Spec, shape: tuple[int, ...], classes: int) -> nn.Module:
    if spec.kind == "mlp":
        return _mlp(spec, shape, classes)
    if spec.kind == "file":
        return _own(spec, shape, classes)
    channels, height, width = _image(spec, shape)
    if spec.kind == "conv":
        return _conv(spec, channels, height, width, classes)
    if spec.kind == "lenet":
        return _lenet(spec, channels, height, width, classes)
    if spec.kind == "tree3":
        return _tree(spec, channels, height, width, classes)
    if min(height, width) < 8:
        raise ConfigError(f"model {spec.text!r} halves an image twice and needs 8x8 at least, not {height}x{width}")
    return ResNet(RESNETS[spec.kind], channels, classes, ACTIVATIONS[spec.activation])


def _image(spec: Spec, shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise ConfigError(
            f"model {spec.text!r} takes images (channels, height, width), and an example of this task has the shape "
            f"{shape}; take an mlp, or give the arrays that shape"
        )
    channels, height, width = shape
    return channels, height, width


def _mlp(spec: Spec, shape: tuple[int, ...], classes: int) -> nn.Module:
    sizes = (math.prod(shape), *spec.widths)
    hidden: list[nn.Module] = []
    for fan_in, units in pairwise(sizes):
        hidden += [nn.Linear(fan_in, units), ACTIVATIONS[spec.activation]()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(sizes[-1], classes))


def _conv(spec: Spec, channels: int, height: int, width: int, classes: int) -> nn.Module:
    halvings = len(spec.widths)
    if min(height, width) >> halvings == 0:
        raise ConfigError(
            f"model {spec.text!r} halves the image {halvings} times and needs {2**halvings}x{2**halvings} at least, "
            f"not {height}x{width}; take fewer layers"
        )
    hidden: list[nn.Module] = []
    for fan_in, maps in pairwise((channels, *spec.widths)):
        hidden += [nn.Conv2d(fan_in, maps, 3, padding=1), ACTIVATIONS[spec.activation](), nn.MaxPool2d(2)]
    left = spec.widths[-1] * (height >> halvings) * (width >> halvings)
    return nn.Sequential(*hidden, nn.Flatten(), nn.Linear(left, classes))


def _lenet(spec: Spec, channels: int, height: int, width: int, classes: int) -> nn.Module:
    """LeNet-5 as in BioTorch's benchmark: max pooling, and 120 and 84 units behind the convolutions.

    A smaller image is padded to 32x32 by repeating its border, half of the missing rows and columns on either
    side: the background continues, at the value that standardisation gave it.
    """
    if max(height, width) > 32:
        raise ConfigError(
            f"model {spec.text!r} takes images of at most 32x32, not {height}x{width}; take conv:32,64 or resnet20"
        )
    activation = ACTIVATIONS[spec.activation]
    top, left = (32 - height) // 2, (32 - width) // 2
    border = (left, 32 - width - left, top, 32 - height - top)
    padding = [nn.ReplicationPad2d(border)] if any(border) else []
    return nn.Sequential(
        *padding,
        *(nn.Conv2d(channels, 6, 5), activation(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), activation(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 120, 5), activation(), nn.Flatten()),
        *(nn.Linear(120, 84), activation(), nn.Linear(84, classes)),
    )


def _tree(spec: Spec, channels: int, height: int, width: int, classes: int) -> nn.Module:
    if height != width or height not in BANDS:
        raise ConfigError(
            f"model {spec.text!r} takes images of 28x28 or 32x32, whose feature maps its tree divides evenly, not "
            f"{height}x{width}; take conv:32,64"
        )
    filters, branches = spec.widths
    return Tree3(channels, height, classes, filters, branches, ACTIVATIONS[spec.activation])


def _own(spec: Spec, shape: tuple[int, ...], classes: int) -> nn.Module:
    assert spec.file is not None
    function = sources.load(spec.file, spec.function, f"model {spec.text!r}")
    try:
        model = function(input_shape=shape, classes=classes)
    except Exception as error:
        line = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"model {spec.text!r}: {spec.function}(input_shape={shape}, classes={classes}) failed at "
            f"{line.filename}:{line.lineno}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model {spec.text!r}: {spec.function} returned {type(model).__name__}, not an nn.Module")
    _answers(spec, model, shape, classes)
    return model


def _answers(spec: Spec, model: nn.Module, shape: tuple[int, ...], classes: int) -> None:
    training = model.training
    try:
        with torch.no_grad():
            answer = model.eval()(torch.zeros(2, *shape))
    except Exception as error:
        raise ConfigError(
            f"model {spec.text!r}: the network cannot take a batch of shape {(2, *shape)}: {error}"
        ) from error
    finally:
        model.train(training)
    if not isinstance(answer, torch.Tensor) or answer.shape != (2, classes):
        got = tuple(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
        raise ConfigError(
            f"model {spec.text!r}: the network answers a batch of 2 with {got}; this task needs (2, {classes})"
        )
