"""Predictive coding with fixed predictions: where levels are clear, one wave gives what relaxation would come to."""

import itertools
from collections.abc import Iterator, Sequence
from typing import ClassVar

from torch import Tensor

from apical.layers import Credit, Layer
from apical.rules.energy.inference import Inference, Requirement
from apical.rules.energy.relax import Outcome, relax

_ERROR_IS_CONSTANT = Requirement(
    {"loss": (None,), "clamped": (False,), "nudging": (1,)},
    "its predictions stay those of the free pass, so the output's error never changes",
    "Leave out loss, nudging and clamped, or pass variant='strict'.",
)
_RATE_IS_ONE = Requirement(
    {"steps": (None,), "rate": (None, 1), "tolerance": (None,), "momentum": (None, 0)},
    "its rate is exactly 1, and its steps are as many as the network is deep",
    "Leave out steps, rate, tolerance and momentum, or pass variant='fixed_prediction'.",
)


class Shares:
    """How much of backpropagation's signal each level has: a relaxation with fixed predictions, in one number a level.

    With fixed predictions the errors follow a linear equation. Where every way from the output to a layer has the same
    number of errors on it, the error of level k is a multiple c_k of backpropagation's signal, from c_0 = 1 on:

        c_k <- c_k + rate (c_(k-1) - c_k)   =>   c_k(T) = P(a binomial of T draws with chance `rate` is at least k)

    Args:
        depth: the highest level.
        rate: of the state.
        momentum: of the state.

    Attributes:
        parts: c_0 to c_depth.
    """

    def __init__(self, depth: int, rate: float, momentum: float) -> None:
        self.rate = rate
        self.momentum = momentum
        self.parts = [1.0] + [0.0] * depth
        self._velocity = [0.0] * depth
        self._residual = 0.0

    def step(self, *, measured: bool) -> None:
        parts = self.parts
        moves = [above - own for above, own in itertools.pairwise(parts)]
        if measured:
            scales = [max(abs(above), abs(own)) for above, own in itertools.pairwise(parts)]
            # A level that no signal has reached has not settled.
            ratios = [abs(move) / scale if scale else 1.0 for move, scale in zip(moves, scales, strict=True)]
            self._residual = max([0.0, *ratios])
        self._velocity = [self.momentum * before + move for before, move in zip(self._velocity, moves, strict=True)]
        self.parts = [1.0] + [part + self.rate * speed for part, speed in zip(parts[1:], self._velocity, strict=True)]

    def residual(self) -> float:
        """The largest move, as a part of the signal."""
        return self._residual


class FixedPrediction(Inference):
    """The errors move alone: post <- post + rate (signal - post). The error as it was travels down.

    Predictions and derivatives stay those of the free pass.
    """

    variant = "fixed_prediction"
    requirements: ClassVar[tuple[Requirement, ...]] = (_ERROR_IS_CONSTANT,)
    moves_rates = False

    def assign_credit(self) -> Iterator[Credit]:
        if not self.hierarchy.levelled:
            yield from super().assign_credit()
            return
        shares = Shares(self.hierarchy.depth, self.rate, self.momentum)
        outcome = relax(shares, self.steps, tolerance=self.rule.tolerance)
        self.rule.monitor.check(outcome)
        yield from self.wave(shares.parts, outcome)

    def move(self, layer: Layer, signal: Tensor | None) -> Tensor | None:
        index = layer.index
        post = self.posts.get(index)
        if signal is None:
            return post
        if index not in self.levels:
            return signal
        self.posts[index] = self.nearer(index, signal, in_place=False)
        return post

    def update(self) -> None:
        """Nothing: predictions are fixed."""

    def wave(self, parts: Sequence[float] | None, outcome: Outcome | None = None) -> Iterator[Credit]:
        """One wave of errors from the output down, each layer's scaled to the share of its level.

        Args:
            parts: the share of each level; None: 1 everywhere.
            outcome: of the relaxation that the wave stands for; None: level t has its errors at step t.
        """
        levels, pathway = self.levels, self.rule.pathway
        walk = self.wiring.backward(self.free, self.error)
        for layer, own in walk:
            signal = walk.receive(layer)
            if signal is None:
                continue
            post = walk.somatic(layer, own, signal)
            del signal  # releases its memory
            level = levels.get(layer.index, 0)
            if parts is not None and level:
                # The signal has the share of the level above already.
                ratio = parts[level] / parts[level - 1] if parts[level - 1] else 0.0
                if ratio != 1.0:
                    post = post * ratio
            assert own.pre is not None
            if walk.needs_input_grad(layer):
                walk.send(layer, pathway.send(layer, post, own.pre))
            if self.wiring.observers and layer.index in levels:
                taken, residual = (level, None) if outcome is None else (outcome.steps, outcome.residual)
                self.show_error(layer, post * self.samples, taken, residual)
            yield Credit(layer, own.pre, post, reciprocal=pathway.reciprocal(layer))
            del own, post
        yield from walk.credits()


class ZeroDivergence(FixedPrediction):
    """Rate exactly 1, and a layer t synapses below the output learns at step t alone: backpropagation's signals."""

    variant = "zero_divergence"
    requirements: ClassVar[tuple[Requirement, ...]] = (_RATE_IS_ONE, _ERROR_IS_CONSTANT)

    def assign_credit(self) -> Iterator[Credit]:
        yield from self.wave(None)
