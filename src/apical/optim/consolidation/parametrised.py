"""Weights that a protection computes from others: which layers of a model have some, and how they get them."""

import copy
from collections.abc import Callable, Iterator
from typing import TypeVar

from torch import Tensor, nn
from torch.nn.utils import parametrize

from apical.errors import ConfigError
from apical.layers import kind_of
from apical.layers.effective import is_plain

_Kind = TypeVar("_Kind", bound=nn.Module)


def with_parametrisation(
    model: nn.Module, make: Callable[[nn.Parameter], nn.Module], who: str, *, biases: bool
) -> nn.Module:
    """A copy of a model in which the weights of all linear and convolutional layers that learn are parametrised.

    Args:
        model: it stays as it is.
        make: the parametrisation of a weight.
        who: asks for it.
        biases: parametrise biases, too.

    Raises:
        ConfigError: no weight of a layer learns, or one is computed from others already.
    """
    model = copy.deepcopy(model)
    found = False
    for path, module in list(model.named_modules()):
        if kind_of(module) is None:
            continue
        if not is_plain(module):
            raise ConfigError(
                f"{path or type(module).__name__}: its weight is computed from others already, and {who} computes it, "
                "too. Remove the parametrisation."
            )
        for name in ("weight", "bias")[: 1 + biases]:
            own = module._parameters[name]
            if own is not None and own.requires_grad:
                parametrize.register_parametrization(module, name, make(own), unsafe=True)
                found = True
    if not found:
        raise ConfigError(
            f"{type(model).__name__}: {who} works on weights of nn.Linear and convolutions, and none learns."
        )
    return model


def parametrised(model: nn.Module, kind: type[_Kind]) -> Iterator[tuple[Tensor, _Kind]]:
    """The hidden parameters behind parametrisations of a kind, each once, with the parametrisation."""
    lists = [module for module in model.modules() if isinstance(module, parametrize.ParametrizationList)]
    found = {id(own.original): (own.original, own[0]) for own in lists if isinstance(own[0], kind)}
    yield from found.values()
