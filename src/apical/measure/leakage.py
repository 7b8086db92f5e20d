"""Leakage: whether a model's answer to a sample depends on the other samples of the test batch."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from apical.errors import ConfigError, DataError, NonFiniteError
from apical.layers.memory import undisturbed

LEVEL = 0.001
_FEWEST = 13  # as many changes in one direction are significant, with 4 tests at this level


@dataclass(frozen=True)
class Leakage:
    """Accuracy on the same samples, cut into batches in three ways.

    Attributes:
        pure: accuracy where each batch has one class.
        mixed: accuracy where each batch is drawn from all classes.
        single: accuracy where each batch is one sample; None where the model cannot take one sample.
        changed: the largest share of samples whose predicted class differs from that in mixed batches.
        noise: the share of samples whose predicted class differs between two passes over the same mixed batches.
        p_value: of the statistic, see `leakage`.
        samples: how many.
        reason: why the model cannot take one sample; empty where it can.
    """

    pure: float
    mixed: float
    single: float | None
    changed: float
    noise: float
    p_value: float
    samples: int
    reason: str = ""

    @property
    def leaks(self) -> bool:
        """True where the difference is beyond noise (p < 0.001), or where the model cannot take one sample."""
        return self.single is None or self.p_value < LEVEL

    def __repr__(self) -> str:
        single = f"None ({self.reason})" if self.single is None else f"{self.single:.4f}"
        return (
            f"Leakage({'leaks' if self.leaks else 'no leak found'}: accuracy pure={self.pure:.4f}, "
            f"mixed={self.mixed:.4f}, single={single}; {100 * self.changed:.1f} % of {self.samples} predictions "
            f"change, {100 * self.noise:.1f} % by noise, p={self.p_value:.2g})"
        )


def leakage(
    model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, *, batch_size: int = 256, seed: int = 0
) -> Leakage:
    """Measure whether accuracy depends on how the test set is cut into batches.

    A batch of one class gives its class away to every model that reads statistics of the batch: a gate computed from
    the mean of the inputs, a batch norm in training mode, memory that passes from sample to sample. The same samples
    are therefore tested in batches of one class, in batches from all classes and one at a time, in the mode that the
    model is in. Its mode stays; its buffers, its modules' attributes and PyTorch's random state are restored.

    The statistic: the mixed batches are passed twice, with other random draws.

    - If both outputs are the same bits, the model has no noise. Then one changed prediction is a leak (p = 0), unless
      the outputs differ by no more than rounding (the cube root of the type's epsilon times the range of the sample's
      outputs).
    - Else exact sign tests, two-sided, over samples: correct in one cut alone against correct in the other alone
      (McNemar's test), and changed between cuts against changed between the two passes; each for pure and for single
      against mixed batches. `p_value` is the smallest of the four, times four. The samples' noise has to be
      independent, as that of dropout is.

    Args:
        model: a module, such as a circuit, or any callable, from (batch, ...) to (batch, classes), or to int64 labels,
            (batch,).
        x: (n, ...), test inputs.
        y: (n,), int64, their labels, of two classes or more.
        batch_size: the largest batch, pure or mixed. All batches of a cut have nearly the same size.
        seed: of the order of the samples in mixed batches, and of the random draws.

    Raises:
        ConfigError: the batch size is below 3, so that a batch of one sample could remain.
        DataError: x and y do not fit, y has a single class, the output has another shape, a model with noise gets fewer
            than 13 samples, or a model that cannot take one sample gets a class of one.
        NonFiniteError: the output for a batch has NaN.

    Example:
        >>> import torch, apical
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
        >>> x, y = torch.randn(90, 4), torch.arange(90) % 3
        >>> apical.measure.leakage(model, x, y).leaks, apical.measure.leakage(model.eval(), x, y).leaks
        (True, False)
    """
    _check(x, y, batch_size)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(y), generator=generator).to(y.device)
    by_class = [(y == label).nonzero().squeeze(1) for label in sorted(set(y.tolist()))]
    mixed, again = (_outputs(model, x, _pieces(order, batch_size), seed + draw) for draw in (0, 1))
    single, reason = None, ""
    try:
        single = _outputs(model, x, order[:, None].unbind(), seed + 2)
    except Exception as error:  # of the model, whatever it is
        reason = f"{type(error).__name__}: {error}"
        if min(map(len, by_class)) == 1:
            raise DataError(
                f"leakage: a class has one sample, and the model cannot take one sample ({reason}). Leave the class "
                "out, or pass more samples of it."
            ) from error
    pure = _outputs(model, x, [piece for own in by_class for piece in _pieces(own, batch_size)], seed + 3)
    others = [pure] if single is None else [pure, single]
    noiseless = torch.equal(mixed, again)
    if not noiseless and len(y) < _FEWEST:
        raise DataError(
            f"leakage: the model's outputs are random, and {len(y)} samples are too few to tell a leak from noise. "
            f"Pass at least {_FEWEST}, or call model.eval()."
        )
    test = _p_without_noise if noiseless else _p_with_noise
    return Leakage(
        pure=_accuracy(pure, y),
        mixed=_accuracy(mixed, y),
        single=None if single is None else _accuracy(single, y),
        changed=max(_share(_labels(other) != _labels(mixed)) for other in others),
        noise=_share(_labels(again) != _labels(mixed)),
        p_value=min(1.0, 4 * min(test(other, mixed, again, y) for other in others)),
        samples=len(y),
        reason=reason,
    )


def _check(x: Tensor, y: Tensor, batch_size: int) -> None:
    if y.ndim != 1 or y.dtype != torch.int64 or len(x) != len(y):
        raise DataError(
            f"leakage: x is {tuple(x.shape)} and y {tuple(y.shape)} of {y.dtype}. Pass one int64 label for each sample."
        )
    if len(set(y.tolist())) < 2:
        raise DataError(
            "leakage: y has fewer than two classes, so pure and mixed batches are the same. Pass samples of more "
            "classes."
        )
    if batch_size < 3:
        raise ConfigError(f"leakage: batch_size={batch_size!r} must be at least 3.")


def _pieces(indices: Tensor, batch_size: int) -> Sequence[Tensor]:
    """Batches of nearly the same size, none of which has one sample unless it must."""
    return indices.tensor_split(math.ceil(len(indices) / batch_size))


def _outputs(model: Callable[[Tensor], Tensor], x: Tensor, pieces: Sequence[Tensor], draw: int) -> Tensor:
    """The outputs for all samples, batch by batch, in the order of x; the model is left as it was."""
    answers = []
    with undisturbed(model if isinstance(model, nn.Module) else nn.Module(), x):
        torch.default_generator.manual_seed(draw)
        if x.is_cuda:
            with torch.cuda.device(x.device):
                torch.cuda.manual_seed(draw)
        for piece in pieces:
            y = model(x[piece.to(x.device)])
            labels = y.ndim == 1 and not y.is_floating_point()
            if len(y) != len(piece) or not (labels or (y.ndim == 2 and y.is_floating_point())):
                raise DataError(
                    f"leakage: the output for {len(piece)} samples is {tuple(y.shape)} of {y.dtype}. Pass a model "
                    "whose output is (batch, classes), or (batch,) int64 labels."
                )
            if y.isnan().any():
                raise NonFiniteError(
                    f"leakage: the output for a batch of {len(piece)} has NaN. Find its cause first: "
                    "Circuit(..., check_finite=True) names the layer.",
                    layer="output",
                )
            answers.append(y.clone())
    places, answered = torch.cat(list(pieces)).to(answers[0].device), torch.cat(answers)
    return torch.empty_like(answered).index_copy_(0, places, answered)


def _labels(outputs: Tensor) -> Tensor:
    return outputs if outputs.ndim == 1 else outputs.argmax(1)


def _accuracy(outputs: Tensor, y: Tensor) -> float:
    return _share(_labels(outputs) == y.to(outputs.device))


def _share(chosen: Tensor) -> float:
    return chosen.double().mean().item()


def _p_without_noise(other: Tensor, mixed: Tensor, again: Tensor, y: Tensor) -> float:
    changed = _labels(other) != _labels(mixed)
    if other.ndim == 2:
        epsilon = torch.finfo(other.dtype).eps
        a, b = other.double(), mixed.double()
        rounding = epsilon ** (1 / 3) * (a.amax(1) - a.amin(1)) + 64 * epsilon * a.abs().amax(1)
        changed &= (a - b).abs().amax(1) > rounding
    return 0.0 if changed.any() else 1.0


def _p_with_noise(other: Tensor, mixed: Tensor, again: Tensor, y: Tensor) -> float:
    right, right_mixed = (_labels(outputs) == y.to(outputs.device) for outputs in (other, mixed))
    changed, by_noise = (_labels(outputs) != _labels(mixed) for outputs in (other, again))
    return min(_sign_test(right, right_mixed), _sign_test(changed, by_noise))


def _sign_test(a: Tensor, b: Tensor) -> float:
    """The two-sided probability of so unequal counts of "a alone" and "b alone", if each sample may be either."""
    counts = int((a & ~b).sum()), int((b & ~a).sum())
    total, term, tail = sum(counts), 1, 1
    for k in range(1, min(counts) + 1):
        term = term * (total - k + 1) // k  # the binomial coefficient
        tail += term
    return min(1.0, 2 * tail / (1 << total))
