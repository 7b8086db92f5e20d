"""Neurons with a memory: modules written for one moment, that run over the moments of a sequence."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from apical.errors import CircuitError
from apical.layers.moments import Clock
from apical.layers.traits import has_traits
from apical.options import check_numbers, check_ranges


@has_traits(elementwise=False, keeps_shape=False, in_time=True)
class TemporalNeuron(nn.Module, ABC):
    """Base of neurons whose state passes from one moment to the next.

    A subclass defines `start` and `advance`, in plain PyTorch. Inside an `apical.Circuit` and `OverTime` the batch axis
    holds time x batch, with time slowest: the neuron unfolds it, runs from moment to moment, and folds it again. A
    neuron of your own gets its derivative from autograd; those of this package have closed forms.

    Shapes: drive (time * batch, ...) to (time * batch, ...). A drive of (batch, ...) stays the same at all moments.
    Alone, outside of both, each call is one moment.

    Attributes:
        clock: of the sequence that passes; None: one moment.
        continues: the state is kept, detached, for the next sequence (`Circuit.continue_state`).
        ends_time: the output is one for the sequence, (batch, ...).
        fires: the output is 1 where a neuron fires and 0 elsewhere.

    Example:
        >>> import torch, apical
        >>> class Integrator(apical.neurons.TemporalNeuron):
        ...     def start(self, drive):
        ...         return torch.zeros_like(drive)
        ...     def advance(self, drive, state):
        ...         state = 0.9 * state + drive
        ...         return state.tanh(), state
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), Integrator(), torch.nn.Linear(8, 3))
        >>> apical.Circuit(model, "backprop")(torch.randn(20, 5, 4)).shape
        torch.Size([20, 5, 3])
    """

    ends_time: bool = False
    fires: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.clock: Clock | None = None
        self.continues = False
        self.kept: Any = None
        self._kept_samples = 0

    @abstractmethod
    def start(self, drive: Tensor) -> Any:
        """The state before the first moment, for a drive (batch, ...): a tensor, or a tuple of tensors."""

    @abstractmethod
    def advance(self, drive: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One moment: the output (batch, ...) and the next state."""

    def forward(self, drive: Tensor) -> Tensor:
        moments, batch = self.clock_for(drive)
        x = self.unfolded(drive, moments, batch)
        state = self.begin(x[0])
        outputs = []
        for moment in range(moments):
            output, state = self.advance(x[moment], state)
            outputs.append(output)
        self.keep(state, batch)
        stacked = torch.stack(outputs)
        return stacked.mean(0) if self.ends_time else stacked.flatten(0, 1)

    def clock_for(self, drive: Tensor) -> Clock:
        """The clock that this drive belongs to."""
        return Clock(1, len(drive)) if self.clock is None else self.clock

    def unfolded(self, drive: Tensor, moments: int, batch: int) -> Tensor:
        """The drive at each moment, (time, batch, ...).

        Raises:
            CircuitError: it has neither time * batch rows nor one for each sample.
        """
        if len(drive) == moments * batch:
            return drive.reshape(moments, batch, *drive.shape[1:])
        if len(drive) != batch:
            raise CircuitError(
                f"{type(self).__name__}: its drive has {len(drive)} rows for {moments} moments of {batch} samples. "
                "Keep the first axis as it is between the input and the neuron."
            )
        return drive.expand(moments, *drive.shape)

    def begin(self, drive: Tensor) -> Any:
        """The state before the first moment: at rest, or the one in which the last sequence ended.

        Raises:
            CircuitError: that one is of another number of samples.
        """
        if self.kept is None:
            return self.start(drive)
        if self._kept_samples != len(drive):
            raise CircuitError(
                f"{type(self).__name__}: it continues the state of {self._kept_samples} samples, and this sequence has "
                f"{len(drive)}. Keep the size of the batch, or call continue_state(False) first."
            )
        return self.kept

    def keep(self, state: Any, samples: int) -> None:
        """Keep the state after the last moment for the next sequence, if it continues."""
        if self.continues:
            self.kept, self._kept_samples = copied(state), samples

    def continue_state(self, continues: bool = True) -> None:
        """Whether the next sequence begins with the state in which the last one ended; False forgets it."""
        self.continues = continues
        if not continues:
            self.kept = None


def copied(state: Any) -> Any:
    """A copy of a state, a tensor or a tuple of states, without its graph.

    Raises:
        CircuitError: it is something else.
    """
    if isinstance(state, Tensor):
        return state.detach().clone()
    if not isinstance(state, tuple):
        raise CircuitError(f"a state that continues is a tensor or a tuple of tensors, not a {type(state).__name__}.")
    return type(state)(*map(copied, state)) if hasattr(state, "_fields") else tuple(map(copied, state))


class SequenceDropout(TemporalNeuron):
    """Dropout with one mask for a sequence; `nn.Dropout` draws one for every moment.

    Args:
        p: the probability that a unit is left out, from 0 to below 1.

    Raises:
        ConfigError: p is out of range.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        check_numbers("SequenceDropout", p=p)
        self.p = p
        check_ranges("SequenceDropout", self, {"p": (0 <= p < 1, "from 0 to below 1")})

    def start(self, drive: Tensor) -> Tensor:
        return nn.functional.dropout(torch.ones_like(drive), self.p, self.training)

    def advance(self, drive: Tensor, state: Any) -> tuple[Tensor, Any]:
        return drive * state if self.training else drive, state  # a mask may go on from training
