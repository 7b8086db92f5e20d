"""Leaky integrate-and-fire neurons and leaky read-outs."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from apical.errors import ConfigError
from apical.neurons.moments import TemporalNeuron
from apical.neurons.surrogates import Spike, Surrogate, surrogate_of
from apical.options import check_choice, check_numbers, check_positive, check_ranges

RESETS = ("zero", "subtract", "none")


class LIF(TemporalNeuron):
    """Leaky integrate-and-fire neurons.

        v_t = decay v_(t-1) (1 - s_(t-1)) + I_t            reset="zero"
            = decay v_(t-1) - threshold s_(t-1) + I_t      reset="subtract"
            = decay v_(t-1) + I_t                          reset="none"
        s_t = 1 where v_t >= threshold, else 0,  ds/dv = surrogate(v_t - threshold)
        I_t = drive_t + recurrent(s_(t-1))

    Args:
        decay: of the membrane potential from one moment to the next, from 0 to 1.
        threshold: above 0.
        reset: what a spike does to the potential.
        detach_reset: no error passes by way of the reset.
        surrogate: the derivative of a spike: a name (triangle, fast_sigmoid, arctan, boxcar, sigmoid) or an object of
            `apical.neurons.surrogates`.
        recurrent: synapses between the neurons, nn.Linear(n, n, bias=False); the drive then has shape (..., n).

    Shapes: as for `TemporalNeuron`; potentials and thresholds have the unit of the drive.

    Raises:
        ConfigError: an option is out of range or not a number (one that learns needs a `TemporalNeuron`),
            or the recurrent synapses are not square or have a bias.

    Example:
        >>> import torch, apical
        >>> from apical import neurons
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(20, 50), neurons.LIF(), torch.nn.Linear(50, 10), neurons.LeakyReadout()
        ... )
        >>> circuit = apical.Circuit(model, apical.Backprop())
        >>> circuit(torch.rand(8, 20).expand(25, 8, 20)).shape  # 25 moments of a constant current
        torch.Size([8, 10])
    """

    adapts: ClassVar[bool] = False
    fires: ClassVar[bool] = True
    adaptation = strength = 0.0

    def __init__(
        self,
        decay: float = 0.9,
        threshold: float = 1.0,
        *,
        reset: str = "zero",
        detach_reset: bool = False,
        surrogate: str | Surrogate = "triangle",
        recurrent: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        check_choice(owner, "reset", reset, RESETS)
        check_positive(owner, threshold=threshold)
        check_numbers(owner, decay=decay)
        self.decay, self.threshold, self.reset, self.detach_reset = float(decay), float(threshold), reset, detach_reset
        check_ranges(owner, self, {"decay": (0 <= decay <= 1, "from 0 to 1")})
        self.surrogate = surrogate_of(surrogate, owner)
        if recurrent is not None and not _is_recurrent(recurrent):
            raise ConfigError(f"{owner}: recurrent={recurrent}. Pass nn.Linear(n, n, bias=False).")
        self.recurrent = recurrent

    def start(self, drive: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(drive), torch.zeros_like(drive)

    def advance(self, drive: Tensor, state: Any) -> tuple[Tensor, Any]:
        v, s = state
        v = self.integrate(drive, v, s)
        s = Spike.apply(v - self.threshold, self.surrogate)  # type: ignore[no-untyped-call]
        return s, (v, s)

    def integrate(self, drive: Tensor, v: Tensor, s: Tensor) -> Tensor:
        """The potential of the next moment."""
        if self.recurrent is not None:
            drive = drive + self.recurrent(s)
        past = s.detach() if self.detach_reset else s
        if self.reset == "zero":
            return self.decay * v * (1 - past) + drive
        return self.decay * v + drive - (self.threshold * past if self.reset == "subtract" else 0)

    def extra_repr(self) -> str:
        return f"decay={self.decay}, threshold={self.threshold}, reset={self.reset!r}, surrogate={self.surrogate}"


def _is_recurrent(module: object) -> bool:
    square = isinstance(module, nn.Linear) and module.in_features == module.out_features
    return square and module._parameters.get("bias") is None  # type: ignore[attr-defined]


class IF(LIF):
    """Integrate-and-fire neurons: `LIF` without a leak (decay 1). Arguments and errors are those of `LIF`."""

    def __init__(self, threshold: float = 1.0, **options: Any) -> None:
        super().__init__(1.0, threshold, **options)


class ALIF(LIF):
    """Leaky integrate-and-fire neurons whose threshold adapts: each spike raises it, and it falls back slowly.

        A_t = threshold + strength a_t,   a_(t+1) = adaptation a_t + s_t,   s_t = 1 where v_t >= A_t

    The potential is that of `LIF`; "subtract" takes the resting threshold off.

    Args:
        decay: as for `LIF`.
        threshold: at rest.
        adaptation: decay of a, from 0 to 1.
        strength: of the adaptation, not negative.
        options: the others of `LIF`.

    Source: Bellec et al., Nature Communications 11, 3625 (2020).
    """

    adapts = True

    def __init__(
        self,
        decay: float = 0.9,
        threshold: float = 1.0,
        *,
        adaptation: float = 0.97,
        strength: float = 0.2,
        **options: Any,
    ) -> None:
        super().__init__(decay, threshold, **options)
        check_numbers("ALIF", adaptation=adaptation, strength=strength)
        self.adaptation, self.strength = float(adaptation), float(strength)
        check_ranges(
            "ALIF",
            self,
            {
                "adaptation": (0 <= adaptation <= 1, "from 0 to 1"),
                "strength": (0 <= strength < math.inf, "finite and not negative"),
            },
        )

    def start(self, drive: Tensor) -> Any:
        return (*super().start(drive), torch.zeros_like(drive))

    def advance(self, drive: Tensor, state: Any) -> tuple[Tensor, Any]:
        v, s, a = state
        v = self.integrate(drive, v, s)
        fired: Tensor = Spike.apply(v - self.threshold - self.strength * a, self.surrogate)  # type: ignore[no-untyped-call]
        return fired, (v, fired, self.adaptation * a + fired)


class LeakyReadout(TemporalNeuron):
    """A leaky read-out, which does not fire.

        y_t = decay y_(t-1) + drive_t

    Args:
        decay: from 0 to 1.
        average: the output is the mean over time, one for the sequence: (batch, ...).

    Raises:
        ConfigError: the decay is out of range.
    """

    def __init__(self, decay: float = 0.9, *, average: bool = True) -> None:
        super().__init__()
        check_numbers("LeakyReadout", decay=decay)
        self.decay, self.average = float(decay), average
        check_ranges("LeakyReadout", self, {"decay": (0 <= decay <= 1, "from 0 to 1")})

    @property
    def ends_time(self) -> bool:  # type: ignore[override]
        return self.average

    def start(self, drive: Tensor) -> Tensor:
        return torch.zeros_like(drive)

    def advance(self, drive: Tensor, state: Any) -> tuple[Tensor, Any]:
        y = self.decay * state + drive
        return y, y

    def extra_repr(self) -> str:
        return f"decay={self.decay}, average={self.average}"
