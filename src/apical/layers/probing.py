"""A probe: finds the traits of a module or function that computes the same as a built-in activation.

The probe compares values, and derivatives away from kinks, in double precision on a grid with zero, small and large
numbers, in several shapes and orders, with and without the large numbers (so that a function of the whole batch does
not pass for one of each unit), in training and in evaluation mode. It runs on a copy and leaves every random state as
it was. A function that raises an error, or equals no built-in activation, has unknown traits.
"""

import copy
import itertools
import math
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from apical.layers.activations import ELU, Hardtanh, LeakyReLU
from apical.layers.steps import closed_form_of
from apical.layers.traits import UNKNOWN, Traits, stated

Function = Callable[[Tensor], Any]

_RELATIVE, _ABSOLUTE = 1e-7, 1e-10  # agreement; PyTorch's Hardsigmoid has a slope of 1/6 in single precision
_LARGE, _FAR = 1e8, 80.0
# Few of these are where a piecewise linear function has a kink.
_GRID = (
    *(0.0, 1e-6, -1e-6, 1e-3, -1e-3, 0.5, -0.5, 1.0, -1.0, 3.0, -3.0, 6.0, -6.0, 20.0),
    *(x * 0.37 + 0.013 for x in range(-22, 20)),
    *(17.3, -31.7, 1e4, -1e4, _LARGE, -_LARGE),
)
_FEW = tuple(range(3, 51, 4))  # places in the grid, none of them of a large number


@dataclass(frozen=True)
class _Known:
    """A built-in activation on the grid."""

    module: nn.Module
    traits: Traits
    values: Tensor
    slopes: Tensor
    smooth: Tensor

    def matches(self, values: Tensor, slopes: Tensor, places: Tensor) -> bool:
        """Whether a function has these values, and these slopes away from kinks, at these places of the grid."""
        # A formula may overflow at large numbers, and a rate that is not finite stops every rule.
        far = _grid()[places].abs() > _FAR
        finite = ~far | values.isfinite()
        smooth = self.smooth[places] & (~far | slopes.isfinite())
        return _equal(values[finite], self.values[places][finite]) and _equal(
            slopes[smooth], self.slopes[places][smooth]
        )


def traits_of(module: nn.Module) -> Traits:
    """The traits of a module that has no closed form: stated by its class, or found by the probe.

    Modules with parameters, buffers or hooks are not probed.
    """
    known = stated(module)
    if known is not None:
        return known
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    keeps = any(True for _ in module.parameters()) or any(True for _ in module.buffers())
    if keeps or any(getattr(part, kind) for part in module.modules() for kind in hooks):
        return UNKNOWN
    return _probed(lambda: copy.deepcopy(module))


def traits_of_function(function: Function) -> Traits:
    """The traits of a function of one tensor, found by the probe."""
    return _probed(lambda: function)


def _probed(make: Callable[[], Function]) -> Traits:
    with _nothing_touched():
        try:
            function = make()
            found = None
            for mode in (True, False) if isinstance(function, nn.Module) else (True,):
                if isinstance(function, nn.Module):
                    function.train(mode)
                unsteady = _unsteady(function)
                if unsteady is not None:
                    return unsteady
                found = _matching(function, found)
                if found is None:
                    return UNKNOWN
        except Exception:  # of the user's code, whatever it is
            return UNKNOWN
        assert found is not None
        if found.traits.holomorphic and not _complex_as(function, found.module):
            return replace(found.traits, holomorphic=False)
        return found.traits


@contextmanager
def _nothing_touched() -> Iterator[None]:
    """Run the user's code on the processor, with all random states restored at the end."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    states = random.getstate(), np.random.get_state()
    with (
        warnings.catch_warnings(),
        torch.random.fork_rng(devices),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False),
        nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu"),
    ):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def _unsteady(function: Function) -> Traits | None:
    """The traits of a function whose answers to one input differ: by what is drawn, or else by a memory."""
    x = _grid()[_layouts()[0]]
    answers = []
    for seed in (0, 0, 1):
        torch.default_generator.manual_seed(seed)
        before = torch.random.get_rng_state()
        answers.append(function(x.clone()))
    # On the grid a draw need not show, as that of a Gumbel softmax beside large numbers.
    draws = not torch.equal(before, torch.random.get_rng_state())
    if not all(isinstance(answer, Tensor) for answer in answers):
        return UNKNOWN
    if not _same(answers[0], answers[1]):
        return Traits(memory=True)
    return Traits(random=True) if draws or not _same(answers[0], answers[2]) else None


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.detach().nan_to_num(), b.detach().nan_to_num())


def _matching(function: Function, found: _Known | None) -> _Known | None:
    """The built-in activation, `found` if it is given, that the function equals on all layouts."""
    for places in _layouts():
        answered = _evaluate(function, _grid()[places])
        if answered is None:
            return None
        values, slopes = answered
        if found is None:
            known = itertools.chain(_built_in(), _with_options_of(values[0], places[0]))
            found = next((one for one in known if one.matches(values, slopes, places)), None)
        elif not found.matches(values, slopes, places):
            return None
        if found is None:
            return None
        lowest = found.traits.lowest_rate
        if lowest is not None and float(values.min()) < lowest - 4 * torch.finfo(values.dtype).eps * abs(lowest):
            return None
    return found


def _evaluate(function: Function, x: Tensor) -> tuple[Tensor, Tensor] | None:
    """A function's values and slopes, or None where it is no function of each unit."""
    x = x.requires_grad_()
    values = function(x.clone())
    if not isinstance(values, Tensor) or values.shape != x.shape or values.dtype != x.dtype:
        return None
    weights = torch.linspace(1, 2, x.numel(), dtype=torch.float64).view(x.shape)  # or permuted units would pass
    (slopes,) = torch.autograd.grad((values * weights).real.sum(), x)
    return values.detach(), slopes / weights


def _complex_as(function: Function, known: nn.Module) -> bool:
    """Whether a function answers to complex numbers as a built-in activation does."""
    grid = torch.linspace(-2, 2, 12, dtype=torch.float64)
    z = torch.complex(grid, grid.flip(0) * 0.37 + 0.1).view(3, 4)
    try:
        answered, expected = _evaluate(function, z.clone()), _evaluate(known, z.clone())
    except Exception:  # it does not take complex numbers
        return False
    return (
        answered is not None
        and expected is not None
        and all(_equal(a, b) for a, b in zip(answered, expected, strict=True))
    )


def _equal(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=_RELATIVE, atol=_ABSOLUTE)


@cache
def _grid() -> Tensor:
    return torch.tensor(_GRID, dtype=torch.float64)


@cache
def _layouts() -> Sequence[Tensor]:
    """Places in the grid, (batch, units ...): all of it in order first."""
    generator = torch.Generator().manual_seed(0)
    count = len(_GRID)

    def shuffled(places: Tensor) -> Tensor:
        return places[torch.randperm(len(places), generator=generator)]

    every, few = torch.arange(count), torch.tensor(_FEW)
    return (
        every.view(1, count),
        shuffled(every).view(count // 2, 2),
        shuffled(every).view(2, 1, count // 2, 1),
        shuffled(few).view(3, 4),
        shuffled(few).view(2, 3, 2),
        few[:1].view(1, 1),
    )


def _known(step: Any) -> _Known:
    module, grid = step.module, _grid()
    step_size = 1e-7 * grid.abs().clamp(min=1)
    found = [_evaluate(module, (grid + shift).view(1, -1)) for shift in (torch.zeros(()), step_size, -step_size)]
    (values, slopes), (_, right), (_, left) = [(a[0], b[0]) for a, b in found if a is not None]  # type: ignore[misc]
    return _Known(module, step.traits, values, slopes, (right - left).abs() < 1e-3)


@cache
def _built_in() -> Sequence[_Known]:
    modules = (
        *(nn.ReLU(), nn.Sigmoid(), nn.Tanh(), nn.Identity(), nn.Softplus(), nn.SELU(), nn.GELU(), nn.GELU("tanh")),
        *(nn.SiLU(), nn.Mish(), nn.Hardsigmoid(), nn.Hardswish(), nn.LogSigmoid()),
    )
    return [_known(closed_form_of(module)) for module in modules]


def _with_options_of(values: Tensor, places: Tensor) -> Iterator[_Known]:
    """The built-in activations with options that would explain the values at large numbers."""
    high, low = (float(values[places == place]) for place in (len(_GRID) - 2, len(_GRID) - 1))
    if not (math.isfinite(high) and math.isfinite(low)):
        return
    bounds = (-math.inf if low == -_LARGE else low, math.inf if high == _LARGE else high)
    if bounds[0] < bounds[1]:
        yield _known(Hardtanh(nn.Hardtanh(*bounds)))
    if low < 0:
        yield _known(LeakyReLU(nn.LeakyReLU(-low / _LARGE)))
        yield _known(ELU(nn.ELU(-low)))
