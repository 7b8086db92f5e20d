"""Where a rule's random numbers come from: one seeded source, saved and restored with the rule."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from apical.errors import ConfigError
from apical.options import check_choice

# The odd numbers of a byte about their mean 128 have the variance (256^2 - 4) / 12.
_BYTE_SPREAD = math.sqrt(12 / (256**2 - 4))


class Randomness(nn.Module):
    """A seeded source of random numbers for every device, part of the rule's state.

    Inside `torch.compile`, which knows no generators, draws come from torch's own.

    Args:
        seed: any integer; two sources of one seed draw the same.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self._generators: dict[str, torch.Generator] = {}
        # For bytes on the CPU: five times as fast as torch's Mersenne twister.
        self._bytes = np.random.SFC64(seed % 2**64)

    def on(self, device: torch.device) -> torch.Generator | None:
        """The generator of a device."""
        if torch.compiler.is_compiling():
            return None
        known = self._generators.get(device.type)
        if known is None:
            known = self._generators[device.type] = torch.Generator(device).manual_seed(self.seed)
        return known

    def uniform(self, like: Tensor, standard_deviation: float) -> Tensor:
        """Numbers with mean zero, of the shape of `like`; drawn on the CPU, so that every device gets the same."""
        edge = math.sqrt(3) * standard_deviation
        drawn = torch.rand(like.shape, generator=self.on(torch.device("cpu")), dtype=torch.float64)
        return drawn.mul_(2 * edge).sub_(edge).to(like)

    def noise(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Numbers with mean zero and variance one (uniform), on the device and of the type of `like`."""
        return self.odd_bytes(like.new_empty(shape)).sub_(128).mul_(_BYTE_SPREAD)

    def odd_bytes(self, like: Tensor) -> Tensor:
        """Odd numbers from 1 to 255, uniform, of the shape and type of `like`: eight of them cost one draw."""
        if torch.compiler.is_compiling():
            return (torch.randint(0, 128, like.shape, device=like.device) * 2 + 1).to(like.dtype)
        count = (like.numel() + 7) // 8
        if like.device.type == "cpu":
            words = torch.from_numpy(self._bytes.random_raw(count).view(np.int64))
        else:
            words = torch.empty(count, dtype=torch.int64, device=like.device)
            words.random_(-(2**63), None, generator=self.on(like.device))
        words.bitwise_or_(0x0101010101010101)
        return words.view(torch.uint8)[: like.numel()].view(like.shape).to(like.dtype)

    def get_extra_state(self) -> dict[str, Any]:
        """The state of every generator, as tensors."""
        state = self._bytes.state
        bits = {
            "words": torch.from_numpy(state["state"]["state"].view(np.int64).copy()),
            "has_uint32": int(state["has_uint32"]),
            "uinteger": int(state["uinteger"]),
        }
        generators = {device: generator.get_state() for device, generator in self._generators.items()}
        return {"seed": self.seed, "bytes": bits, "generators": generators}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` gave."""
        self.seed = state["seed"]
        bits = state["bytes"]
        self._bytes.state = {
            "bit_generator": "SFC64",
            "state": {"state": bits["words"].cpu().numpy().view(np.uint64).copy()},
            "has_uint32": bits["has_uint32"],
            "uinteger": bits["uinteger"],
        }
        self._generators = {}
        for device, known in state["generators"].items():
            self._generators[device] = torch.Generator(device)
            self._generators[device].set_state(known.cpu())


def standard_deviation(weight: Tensor) -> float:
    """The spread of a layer's weights about zero; where all are zero, Glorot's for its shape."""
    spread = float(weight.detach().double().square().mean().sqrt())
    if spread > 0 and math.isfinite(spread):
        return spread
    return glorot(weight)


def glorot(weight: Tensor) -> float:
    """Glorot's standard deviation, sqrt(2 / (fan-in + fan-out)), for a weight (units, inputs, kernel ...)."""
    field = weight[0, 0].numel()
    return math.sqrt(2 / ((weight.shape[0] + weight.shape[1]) * field))


def feedback_like(weight: Tensor, init: str, scale: float, randomness: Randomness) -> Tensor:
    """Feedback weights for a layer, of the shape of its own.

    Args:
        weight: the layer's weights.
        init: "match" (uniform, with the standard deviation of the weights as they are now), "xavier"
            (uniform, with Glorot's) or "weights" (a copy of them).
        scale: multiplies the result.
        randomness: where the numbers come from.
    """
    if init == "weights":
        return weight.detach().clone() * scale
    return randomness.uniform(weight.detach(), scale * spread_of(weight, init))


def spread_of(weight: Tensor, init: str) -> float:
    """The standard deviation that "match" (that of the weights as they are now) or "xavier" (Glorot's) asks for."""
    return standard_deviation(weight) if init == "match" else glorot(weight)


def check_init(rule: str, init: str, scale: float, known: tuple[str, ...]) -> None:
    """Refuse an initialisation that the rule does not know, or a useless scale."""
    check_choice(rule, "init", init, known)
    if not (math.isfinite(scale) and scale > 0):
        raise ConfigError(f"{rule}: scale={scale!r} must be a positive number: it multiplies the feedback weights.")
