"""Random numbers of rules and feedback pathways: initial weights by seed and name, noise from a seeded stream."""

import hashlib
import math

import numpy as np
import torch
from torch import Tensor, nn

from apical.errors import ConfigError
from apical.options import check_choice

# The odd numbers of a byte about their mean 128 have the variance (256^2 - 4) / 12.
_BYTE_SPREAD = math.sqrt(12 / (256**2 - 4))
_STREAM = 7 * 8  # bytes of the saved state before those of the devices


def uniform(like: Tensor, standard_deviation: float, seed: int, name: str) -> Tensor:
    """Uniform numbers with mean zero that depend on the seed and the name alone.

    Neither the order of the draws nor the device matters, so that initial weights are the same in a copy, in every
    process of a group and where the circuit is compiled.

    Args:
        like: gives shape, type and device.
        standard_deviation: of the numbers.
        seed: any integer.
        name: of the layer, and of the purpose where a layer needs several draws.
    """
    digest = hashlib.blake2b(f"{seed % 2**64}/{name}".encode(), digest_size=8).digest()
    # Drawn on the CPU in double precision, so that every device and type gets the same numbers.
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little", signed=True))
    edge = math.sqrt(3) * standard_deviation
    drawn = torch.rand(like.shape, generator=generator, dtype=torch.float64)
    return drawn.mul_(2 * edge).sub_(edge).to(like)


class Randomness(nn.Module):
    """A seeded stream of noise for each device, whose state is one tensor in the `state_dict`.

    Inside `torch.compile`, which has no generators, noise comes from torch's own.

    Args:
        seed: any integer; two sources of one seed draw the same numbers.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self._generators: dict[str, torch.Generator] = {}
        # On the CPU five times as fast as torch's Mersenne twister.
        self._bytes = np.random.SFC64(seed % 2**64)

    def noise(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Uniform noise with mean zero and variance one, on the device and of the type of `like`."""
        return self.odd_bytes(like.new_empty(shape)).sub_(128).mul_(_BYTE_SPREAD)

    def coin(self) -> bool:
        """True or false with equal probability; inside `torch.compile` always true."""
        return torch.compiler.is_compiling() or bool(self._bytes.random_raw() >> 63)

    def odd_bytes(self, like: Tensor) -> Tensor:
        """Odd numbers from 1 to 255, uniform, of the shape and type of `like`: one draw gives eight."""
        if torch.compiler.is_compiling():
            return (torch.randint(0, 128, like.shape, device=like.device) * 2 + 1).to(like.dtype)
        count = (like.numel() + 7) // 8
        if like.device.type == "cpu":
            words = torch.from_numpy(self._bytes.random_raw(count).view(np.int64))
        else:
            words = torch.empty(count, dtype=torch.int64, device=like.device)
            words.random_(-(2**63), None, generator=self._on(like.device))
        words.bitwise_or_(0x0101010101010101)
        return words.view(torch.uint8)[: like.numel()].view(like.shape).to(like.dtype)

    def _on(self, device: torch.device) -> torch.Generator:
        known = self._generators.get(device.type)
        if known is None:
            known = self._generators[device.type] = torch.Generator(device).manual_seed(self.seed)
        return known

    def get_extra_state(self) -> Tensor:
        """The state of every stream as one tensor of bytes, so that a `state_dict` holds tensors alone."""
        state = self._bytes.state
        words = [*state["state"]["state"].tolist(), state["has_uint32"], state["uinteger"], self.seed % 2**64]
        content = np.array(words, dtype=np.uint64).tobytes()
        for device, generator in self._generators.items():
            own = bytes(generator.get_state().tolist())
            content += len(device).to_bytes(1, "little") + device.encode() + len(own).to_bytes(4, "little") + own
        return torch.frombuffer(bytearray(content), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the state that `get_extra_state` returned."""
        content = bytes(state.cpu().tolist())
        words = np.frombuffer(content[:_STREAM], dtype=np.uint64)
        self.seed = int(words[6])
        self._bytes.state = {
            "bit_generator": "SFC64",
            "state": {"state": words[:4].copy()},
            "has_uint32": int(words[4]),
            "uinteger": int(words[5]),
        }
        self._generators = {}
        rest = content[_STREAM:]
        while rest:
            end = 1 + rest[0]
            device, size = rest[1:end].decode(), int.from_bytes(rest[end : end + 4], "little")
            own, rest = rest[end + 4 : end + 4 + size], rest[end + 4 + size :]
            self._generators[device] = torch.Generator(device)
            self._generators[device].set_state(torch.frombuffer(bytearray(own), dtype=torch.uint8))


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


def feedback_like(weight: Tensor, init: str, scale: float, seed: int, name: str) -> Tensor:
    """Feedback weights for a layer, of the shape of its own.

    Args:
        weight: the layer's weights.
        init: "match" (uniform, with the standard deviation of the weights as they are now), "xavier"
            (uniform, with Glorot's) or "weights" (a copy of them).
        scale: multiplies the result.
        seed: of the numbers.
        name: of the layer, and of the purpose where it is not feedback of the error.
    """
    if init == "weights":
        return weight.detach().clone() * scale
    return uniform(weight.detach(), scale * spread_of(weight, init), seed, name)


def spread_of(weight: Tensor, init: str) -> float:
    """The standard deviation that "match" (that of the weights as they are now) or "xavier" (Glorot's) asks for."""
    return standard_deviation(weight) if init == "match" else glorot(weight)


def check_init(rule: str, init: str, scale: float, known: tuple[str, ...]) -> None:
    """Refuse an initialisation that the rule does not know, or a useless scale."""
    check_choice(rule, "init", init, known)
    if not (math.isfinite(scale) and scale > 0):
        raise ConfigError(f"{rule}: scale={scale!r} must be a positive number: it multiplies the feedback weights.")
