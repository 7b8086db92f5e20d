"""The accuracy matrix of a stream of tasks, and the figures that follow from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from apical.errors import ConfigError


@dataclass(frozen=True)
class Metrics:
    """What a stream of T tasks left: accuracy, transfer and forgetting, from the accuracy matrix R.

    R[i, j] is the accuracy on the test data of task j after training on task i; b[j] is the accuracy on task j before
    any training. All figures have the unit of R (shares or percent). With tasks numbered from 1:

    | name | equation | tasks averaged |
    |---|---|---|
    | `accuracy` (ACC) | 1/T Σ_j R[T, j] | T |
    | `average_incremental_accuracy` | 1/T Σ_i 1/i Σ_{j≤i} R[i, j] | T |
    | `backward_transfer` (BWT) | 1/(T-1) Σ_{j<T} (R[T, j] - R[j, j]) | T-1 |
    | `forward_transfer` (FWT) | 1/(T-1) Σ_{j>1} (R[j-1, j] - b[j]) | T-1 |
    | `forgetting_max` | 1/(T-1) Σ_{j<T} (max_{l<T} R[l, j] - R[T, j]) | T-1 |
    | `forgetting_initial` | 1/(T-1) Σ_{j<T} (R[j, j] - R[T, j]) = -BWT | T-1 |

    `forgetting` is `forgetting_max`. It is below zero where the last task made an earlier one better than it ever was.

    Attributes:
        tasks: T.
        accuracy: on all tasks, at the end.
        average_incremental_accuracy: on the tasks seen so far, averaged over the stream.
        backward_transfer: what later tasks added to earlier ones; None for a single task.
        forward_transfer: what earlier tasks added to later ones; None without the accuracies before training, and for
            a single task.
        forgetting_max: the definition of Chaudhry et al. (2018), from the best accuracy before the last task; None for
            a single task.
        forgetting_initial: the definition that Avalanche reports as forgetting, from the accuracy right after a task
            was learned; None for a single task.

    Source:
        D. Lopez-Paz and M. Ranzato (2017), Gradient Episodic Memory for Continual Learning (ACC, BWT, FWT); A. Chaudhry
        et al. (2018), Riemannian Walk for Incremental Learning (forgetting).
    """

    tasks: int
    accuracy: float
    average_incremental_accuracy: float
    backward_transfer: float | None
    forward_transfer: float | None
    forgetting_max: float | None
    forgetting_initial: float | None

    @property
    def forgetting(self) -> float | None:
        """`forgetting_max`."""
        return self.forgetting_max

    def __repr__(self) -> str:
        names = ("accuracy", "backward_transfer", "forward_transfer", "forgetting_max", "forgetting_initial")
        shown = ((name, getattr(self, name)) for name in names)
        figures = (f"{name}={'None' if value is None else f'{value:.4g}'}" for name, value in shown)
        return f"Metrics({self.tasks} tasks: {', '.join(figures)})"


def metrics(R: Tensor | Sequence[Sequence[float]] | Any, *, before: Any = None) -> Metrics:
    """Accuracy, transfer and forgetting from an accuracy matrix.

    Args:
        R: (tasks, tasks), a tensor, an array or nested lists; R[i, j] is the accuracy on task j after training on task
            i, as shares or in percent. Entries above the diagonal may be NaN where future tasks were not tested:
            `forgetting_max` then takes the best of the accuracies that were measured.
        before: (tasks,), the accuracies before any training, in the same unit. `forward_transfer` needs them.

    Raises:
        ConfigError: R is not a square matrix of accuracies, `before` has another length, or an entry that a figure
            needs is NaN.

    Example:
        >>> import apical
        >>> apical.continual.metrics([[0.9, 0.1], [0.6, 0.8]]).forgetting
        0.3
    """
    matrix = _accuracies("R", R)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise ConfigError(
            f"R: the shape is {tuple(matrix.shape)}, and one row and one column for each task are needed. Pass the "
            "accuracy on task j after training on task i as R[i][j]."
        )
    tasks = len(matrix)
    if missing := [(i, j) for i in range(tasks) for j in range(i + 1) if matrix[i, j].isnan()]:
        raise ConfigError(
            f"R: the entry {missing[0]} is NaN, and every task up to the diagonal has an accuracy. Test after each "
            "task on all tasks so far."
        )
    final, learned, earlier = matrix[-1], matrix.diagonal(), slice(tasks - 1)
    forward = None if before is None else _forward(matrix, _accuracies("before", before))
    best = matrix[:-1].nan_to_num(nan=-1.0).amax(0)[earlier] if tasks > 1 else final[:0]
    incremental = torch.stack([row[: i + 1].mean() for i, row in enumerate(matrix)])
    return Metrics(
        tasks=tasks,
        accuracy=_mean(final),
        average_incremental_accuracy=_mean(incremental),
        backward_transfer=_mean((final - learned)[earlier]) if tasks > 1 else None,
        forward_transfer=forward,
        forgetting_max=_mean(best - final[earlier]) if tasks > 1 else None,
        forgetting_initial=_mean((learned - final)[earlier]) if tasks > 1 else None,
    )


def _mean(values: Tensor) -> float:
    return round(values.mean().item(), 12)  # 0.3, not 0.30000000000000004


def _forward(matrix: Tensor, before: Tensor) -> float | None:
    tasks = len(matrix)
    if before.shape != (tasks,):
        raise ConfigError(
            f"before: the shape is {tuple(before.shape)}, and R has {tasks} tasks. Pass one accuracy a task."
        )
    if tasks == 1:
        return None
    gained = matrix.diagonal(1) - before[1:]
    if gained.isnan().any():
        task = int(gained.isnan().nonzero()[0]) + 1
        raise ConfigError(
            f"before: forward transfer needs R[{task - 1}, {task}] and before[{task}], and one of them is NaN. Test "
            "every task before it is learned, or leave `before` out."
        )
    return _mean(gained)


def _accuracies(name: str, given: Any) -> Tensor:
    try:
        values = torch.as_tensor(given, dtype=torch.float64, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{name}: it cannot be read as numbers ({error}). Pass rows of equal length.") from None
    outside = (values < 0) | (values > 100)
    if outside.any():
        raise ConfigError(f"{name}: {float(values[outside][0])} is not an accuracy. Pass shares (0 to 1) or percent.")
    return values
