"""What all spiking neurons share: a state of explicit tensors, one step in place, and a run over time."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from apical.errors import ConfigError, DataError, NonFiniteError
from apical.options import check_positive

State = TypeVar("State", bound=tuple[Tensor, ...])
Advance = Callable[[tuple[Tensor, ...], Tensor], None]


class Run(NamedTuple, Generic[State]):
    """The outcome of a run over time.

    Attributes:
        spikes: a raster, boolean (time, ..., units).
        state: at the end; hand it to the next run to go on from there.
        traces: what was asked for by `record`, by name, each (time, ..., units).
    """

    spikes: Tensor
    state: State
    traces: dict[str, Tensor]


class SpikingNeuron(nn.Module, ABC, Generic[State]):
    """A population of neurons that are driven by currents and answer with spikes.

    A subclass names its currents and its variables, and says what one time step does. Neurons have no parameters to
    train and build no autograd graph: their spikes are for the plasticity of `apical.neurons`, and for measurements.

    Args:
        time_step: dt in ms.

    Attributes:
        currents: what flows in, in the order in which it is given.
        variables: what `record` can name.
    """

    currents: ClassVar[tuple[str, ...]]
    variables: ClassVar[tuple[str, ...]]

    def __init__(self, *, time_step: float) -> None:
        super().__init__()
        check_positive(type(self).__name__, time_step=time_step)
        self.time_step = time_step

    def start(self, *shape: int, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None) -> State:
        """The state at rest of neurons (..., units)."""
        if not dtype.is_floating_point:
            raise ConfigError(f"{type(self).__name__}: potentials need a floating-point type, not {dtype}.")
        return self._at_rest(torch.zeros(shape, dtype=dtype, device=device))

    def stepper(self, state: State) -> Callable[..., Tensor]:
        """A function that makes one time step, for loops of your own (networks): room to work in is made once.

        Returns:
            A function of the currents during the step, in pA, each (..., units). It updates `state` in place and
            returns which neurons fire at the step's end, boolean (..., units): the same tensor each time.
        """
        advance, shape = self._stepper(state), self._shape(state)
        spikes = torch.empty(shape, dtype=torch.bool, device=state[0].device)

        @torch.no_grad()
        def step(*currents: Tensor) -> Tensor:
            self._check_count(currents)
            for name, current in zip(self.currents, currents, strict=True):
                if current.shape != shape:
                    raise DataError(
                        f"{type(self).__name__}: the current into the {name} is {tuple(current.shape)}, the neurons "
                        f"are {tuple(shape)}."
                    )
            advance(currents, spikes)
            return spikes

        return step

    def step(self, state: State, *currents: Tensor) -> Tensor:
        """One time step; `state` is updated in place. In loops `stepper` is quicker.

        Args:
            state: of the neurons.
            currents: what flows in during the step, in pA, each (..., units).

        Returns:
            Which neurons fire at its end, boolean (..., units).
        """
        spikes: Tensor = self.stepper(state)(*currents)
        return spikes

    @torch.no_grad()
    def forward(self, *currents: Tensor, state: State | None = None, record: Iterable[str] = ()) -> Run[State]:
        """Run over time.

        Args:
            currents: in pA, each (time, ..., units) or of a shape that expands to it.
            state: where to start, left as it is; at rest, if None.
            record: the names of variables to keep for every time step.

        Raises:
            DataError: currents that do not fit each other or the state.
            NonFiniteError: a current holds NaN or infinity.
            ConfigError: `record` names no variable.
        """
        currents = self._checked(currents)
        time, *shape = currents[0].shape
        if state is None:
            now = self.start(*shape, dtype=currents[0].dtype, device=currents[0].device)
        elif list(self._shape(state)) != shape:
            raise DataError(
                f"{type(self).__name__}: the state is of neurons {tuple(self._shape(state))}, the currents are of "
                f"neurons {tuple(shape)}."
            )
        else:
            kind: type[Any] = type(state)
            now = kind(*(tensor.clone() for tensor in state))
        traces = self._room_for(record, now, time)
        kept = [(getattr(now, name), trace) for name, trace in traces.items()]
        spikes = torch.empty((time, *shape), dtype=torch.bool, device=currents[0].device)
        advance = self._stepper(now)
        moments = zip(spikes.unbind(), *(current.unbind() for current in currents), strict=True)
        for moment, (fired, *inputs) in enumerate(moments):
            advance(tuple(inputs), fired)
            for variable, trace in kept:
                trace[moment] = variable
        return Run(spikes, now, traces)

    def _check_count(self, currents: tuple[Tensor, ...]) -> None:
        if len(currents) != len(self.currents):
            raise DataError(
                f"{type(self).__name__} takes {len(self.currents)} currents (into the {', the '.join(self.currents)}), "
                f"not {len(currents)}."
            )

    def _checked(self, currents: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The currents of a run, expanded to one shape."""
        self._check_count(currents)
        try:
            shape = torch.broadcast_shapes(*(current.shape for current in currents))  # type: ignore[no-untyped-call]
        except RuntimeError:
            shapes = " and ".join(str(tuple(current.shape)) for current in currents)
            raise DataError(f"{type(self).__name__}: currents of shape {shapes} do not fit each other.") from None
        if len(shape) < 2:
            raise DataError(f"{type(self).__name__}: currents have axes (time, ..., units), not {tuple(shape)}.")
        for name, current in zip(self.currents, currents, strict=True):
            if not current.is_floating_point():
                raise DataError(f"the current into the {name} must be floating-point (pA), not {current.dtype}.")
            # a sum is finite only if its terms are; it may overflow where none of them does
            if not (math.isfinite(current.sum()) or bool(current.isfinite().all())):
                raise NonFiniteError(f"the current into the {name} holds NaN or infinity.", layer="input")
        return tuple(current.expand(shape) for current in currents)

    def _room_for(self, record: Iterable[str], state: State, time: int) -> dict[str, Tensor]:
        """An empty trace for each variable that is to be recorded."""
        traces = {}
        for name in record:
            if name not in self.variables:
                raise ConfigError(
                    f"{type(self).__name__} has no variable {name!r} to record; it has {', '.join(self.variables)}."
                )
            variable = getattr(state, name)
            traces[name] = variable.new_empty((time, *variable.shape))
        return traces

    def _steps(self, time: float) -> int:
        """A time in ms as a number of time steps."""
        return round(time / self.time_step)

    def _shape(self, state: State) -> torch.Size:
        """The shape (..., units) of the population."""
        shape: torch.Size = getattr(state, self.variables[0]).shape
        return shape

    @abstractmethod
    def _at_rest(self, zeros: Tensor) -> State:
        """The state at rest; `zeros` gives the shape, type and device."""

    @abstractmethod
    def _stepper(self, state: State) -> Advance:
        """A function that updates `state` in place by one step under the currents, and fills in who fires."""
