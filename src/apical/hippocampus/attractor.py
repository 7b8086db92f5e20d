"""CA3 as an attractor network that stores patterns by the projection rule and recalls them from cues."""

import math
from typing import Self

import torch
from torch import Tensor

from apical.errors import ConfigError, DataError
from apical.finiteness import finite
from apical.hippocampus.cells import generator_of


class HopfieldCA3:
    """An attractor memory: patterns stored by the projection rule, and recalled from cues that stay on.

        W = X⁺ X without its diagonal         X: (patterns, cells) of -1 and 1, X⁺ its pseudo-inverse
        y = 0, then in each step, for a random subset of the cells:   z = W y + cue,   y ← tanh(g z)

    X⁺ X projects onto the patterns, W x = (1 - d) ∘ x for a stored x and the diagonal d, so that all stored patterns
    are attractors however similar they are. That ends where the patterns span the space: the projection is then the
    identity, and nothing is left of W.

    The schedule of updates depends on the seed alone: every cue meets the same one. Cells are drawn without replacement
    until all were updated; with replacement between steps, as in the source, one cell in 700 would never be.

    Args:
        steps: of a recall.
        share: of the cells, updated in each step.
        gain: g.
        seed: of the schedule.

    Attributes:
        patterns: X, as it was stored.
        weights: W, (cells, cells).

    Raises:
        ConfigError: an option is out of range.

    Source: J. J. Hopfield (1984), Neurons with graded response; L. Personnaz, I. Guyon and G. Dreyfus (1985) for the
    projection rule; steps, share and gain of G. Kowadlo, A. Ahmed and D. Rawlinson (2019), AHA! an artificial
    hippocampal algorithm for episodic machine learning.

    Example:
        >>> import torch
        >>> from apical.hippocampus import HopfieldCA3
        >>> patterns = torch.randint(2, (5, 100)).float() * 2 - 1
        >>> cue = patterns.clone()
        >>> cue[:, :15] *= -1  # 15 of 100 cells are wrong
        >>> bool((HopfieldCA3().fit(patterns).recall(cue / 2).sign() == patterns).all())
        True
    """

    def __init__(self, *, steps: int = 70, share: float = 20 / 225, gain: float = 2.7, seed: int = 0) -> None:
        if steps < 1 or not 0 < share <= 1 or not 0 < gain < math.inf:
            raise ConfigError(
                f"HopfieldCA3: steps={steps!r}, share={share!r}, gain={gain!r}. Pass 1 or more, above 0 up to 1, and a "
                "positive number."
            )
        self.steps, self.share, self.gain, self.seed = steps, share, gain, seed
        self.patterns = self.weights = torch.zeros(0, 0)

    def fit(self, patterns: Tensor) -> Self:
        """Store patterns, (patterns, cells) of -1 and 1, in place of those stored before.

        Raises:
            DataError: other values or another shape, or patterns that span the space of all codes.
        """
        if patterns.ndim != 2 or not patterns.numel() or not patterns.is_floating_point():
            raise DataError(
                f"HopfieldCA3: patterns are {tuple(patterns.shape)} of {patterns.dtype}. Pass (patterns, cells) in "
                "floating point."
            )
        if not bool((patterns.abs() == 1).all()):
            raise DataError(
                "HopfieldCA3: patterns have values other than -1 and 1. Pass 2 * code - 1 of a binary code."
            )
        double = patterns.double()
        projection = torch.linalg.pinv(double) @ double
        cells = patterns.shape[1]
        if projection.trace() > cells - 0.5:  # the trace is the rank
            raise DataError(
                f"HopfieldCA3: {len(patterns)} patterns span all codes of {cells} cells, so that no weights are left. "
                "Store fewer patterns, or use more cells."
            )
        self.patterns = patterns
        self.weights = projection.fill_diagonal_(0.0).to(patterns.dtype)
        return self

    def recall(self, cue: Tensor) -> Tensor:
        """The rates after the last step, from -1 to 1: (n, cells) to the same shape.

        A cue stays on, and a cell that it drives wrongly by 1 or more stays wrong: weaken a cue that may be wrong.

        Raises:
            DataError: nothing is stored, or the cue has another shape, NaN or infinity.
        """
        cells = len(self.weights)
        if not cells:
            raise DataError("HopfieldCA3: it stores nothing. Call fit(patterns) first.")
        if cue.ndim != 2 or cue.shape[1] != cells:
            raise DataError(
                f"HopfieldCA3: the cue is {tuple(cue.shape)}, and there are {cells} cells. Pass (n, {cells})."
            )
        if not finite(cue):
            raise DataError("HopfieldCA3: the cue holds NaN or infinity. Pass 0 where nothing is known.")
        rates = torch.zeros_like(cue)
        for some in self._schedule(cells).to(cue.device):
            rates[:, some] = (self.gain * (rates @ self.weights[:, some] + cue[:, some])).tanh()
        return rates

    def _schedule(self, cells: int) -> Tensor:
        """The cells that each step updates, (steps, cells of a step)."""
        generator, chosen = generator_of("schedule", self.seed), max(1, round(self.share * cells))
        sweeps = [torch.randperm(cells, generator=generator) for _ in range(-(-self.steps * chosen // cells))]
        return torch.cat(sweeps)[: self.steps * chosen].view(self.steps, chosen)

    def match(self, rates: Tensor) -> Tensor:
        """The index of the stored pattern that is most similar to rates, (n, cells) to (n,)."""
        return (rates @ self.patterns.T).argmax(1)
