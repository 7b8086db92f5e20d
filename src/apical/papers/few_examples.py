"""Which optimizer learns most from a few examples that are each seen once? The claim of Sardi et al. (2020), tested.

Digits come one after another, a step for each, and none comes twice. Every method is tuned with the same number of
trials on training images that are held out, and compared with the others on the same networks, examples and orders:

1. Tuning: trials of a method's options, spread evenly on a logarithmic scale (a scrambled Sobol sequence), each over
   the same few seeds. One run of the longest length is looked at after each number of examples, so that each has
   options of its own, those with the highest mean accuracy on the held-out images.
2. Testing: these options on other seeds, which no trial has seen, tested once.

`cell` does both. The networks of a cell train side by side, see `apical.models.perceptrons`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from apical.data import Task
from apical.errors import DataError
from apical.models.perceptrons import Perceptrons, balanced_order, once
from apical.optim import Adaptation

INPUTS = ("standardised", "raw")
COUNTS = (15, 30, 60, 90)
# Networks that train together: their weights, gradients and state fit a processor's third cache.
TOGETHER = 16
_FIRST_TUNING_SEED = 1_000_000  # the seeds that are tested count from 0

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Method:
    """An optimizer and the ranges that its options are tuned in.

    Attributes:
        kind: the class.
        ranges: lowest and highest value of each number that a trial draws.
        options: the optimizer's options, from those numbers by name.
    """

    kind: type[Optimizer]
    ranges: Mapping[str, tuple[float, float]]
    options: Callable[..., Options]


def _adaptation(variant: str, **ranges: tuple[float, float]) -> Method:
    # Without a base step size, lr and gain are one number.
    fixed = {"variant": variant, **({} if "lr" in ranges else {"lr": 1.0})}
    return Method(Adaptation, ranges, lambda **numbers: {**fixed, **numbers})


METHODS: Mapping[str, Method] = {
    "sgd": Method(torch.optim.SGD, {"lr": (0.01, 1.0)}, lambda lr: {"lr": lr}),
    "momentum": Method(
        torch.optim.SGD,
        {"lr": (0.003, 0.3), "forgetting": (0.1, 1.0)},
        lambda lr, forgetting: {"lr": lr, "momentum": 1 - forgetting},
    ),
    "adam": Method(
        torch.optim.Adam,
        {"lr": (3e-4, 3e-2), "first": (0.03, 1.0), "second": (1e-3, 0.3)},
        lambda lr, first, second: {"lr": lr, "betas": (1 - first, 1 - second), "fused": True},
    ),
    "rmsprop": Method(
        torch.optim.RMSprop,
        {"lr": (1e-4, 3e-2), "forgetting": (1e-3, 0.3)},
        lambda lr, forgetting: {"lr": lr, "alpha": 1 - forgetting},
    ),
    # From example to example signs often turn, and steps that may shrink to PyTorch's 1e-6 soon do: the first
    # step is the least one, too.
    "rprop": Method(
        torch.optim.Rprop,
        {"lr": (1e-5, 1e-2), "growth": (0.01, 0.5), "range": (1.0, 100.0)},
        lambda lr, growth, range: {"lr": lr, "etas": (0.5, 1 + growth), "step_sizes": (lr, range * lr)},
    ),
    "adaptation:base": _adaptation(
        "base", lr=(0.01, 1.0), gain=(0.01, 1.0), slope=(1.0, 100.0), relaxation=(0.01, 1.0)
    ),
    "adaptation:abs": _adaptation("abs", gain=(0.003, 0.3), slope=(0.3, 100.0), relaxation=(0.003, 0.3)),
    "adaptation:step": _adaptation("step", gain=(0.001, 0.3), slope=(0.1, 30.0), relaxation=(0.03, 3.0)),
    "adaptation:sign": _adaptation("sign", gain=(0.003, 0.3), slope=(0.3, 100.0), relaxation=(0.003, 0.3)),
}


@dataclass(frozen=True)
class Budget:
    """How much is spent on tuning and on testing, the same for every method.

    Attributes:
        counts: examples of each class that are learned from, in rising order.
        trials: of a method's options.
        tuning_seeds: networks, examples and orders that each trial is tried on.
        seeds: networks, examples and orders that the chosen options are tested on.
        held_out: training images that choose the options, and that nothing is trained on.
        test: images of the test part that are tested on, from its beginning; None: all.
    """

    counts: tuple[int, ...] = COUNTS
    trials: int = 32
    tuning_seeds: int = 6
    seeds: int = 60
    held_out: int = 1000
    test: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What a method reaches after one number of examples.

    Attributes:
        options: the tuned ones.
        validation: mean accuracy on held-out training images, by which they were chosen.
        accuracies: on test images, one for each seed. Not a number that decided anything.
    """

    options: Options
    validation: float
    accuracies: tuple[float, ...]


class Digits:
    """A task's images, in the form that one setting wants, cut into what trains, chooses and tests.

    Args:
        task: of images, such as `data.load("mnist")`.
        inputs: "standardised" gives each image mean 0 and standard deviation 1; "raw" is 8-bit pixels over 255.
        budget: how many images choose and test.

    Raises:
        DataError: raw pixels are wanted of a task that does not say how it was scaled, or there are too few examples.
    """

    def __init__(self, task: Task, inputs: str, budget: Budget) -> None:
        train, test = (_prepared(part.x, task, inputs) for part in (task.train, task.test))
        shuffled = torch.randperm(len(train), generator=torch.Generator().manual_seed(_FIRST_TUNING_SEED - 1))
        self.held_out = (train[shuffled[: budget.held_out]], task.train.y[shuffled[: budget.held_out]])
        self.train = (train[shuffled[budget.held_out :]], task.train.y[shuffled[budget.held_out :]])
        self.test = (test[: budget.test], task.test.y[: budget.test])
        self.classes = task.classes
        self._counts = budget.counts

    def order(self, seed: int) -> Tensor:
        """The training examples that a seed sees, as indices; fewer examples are its beginning, balanced too."""
        return balanced_order(self.train[1], self._counts, seed)


def _prepared(x: Tensor, task: Task, inputs: str) -> Tensor:
    if inputs == "standardised":
        flat = x.flatten(1)
        return (flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True, correction=0).clamp_min(1e-12)
    if task.scaling is None:
        raise DataError(f"{task.name}: raw pixels are wanted, and the task does not say how they were scaled")
    pixels = x.double() * torch.from_numpy(task.scaling.std) + torch.from_numpy(task.scaling.mean)
    return (pixels / 255).flatten(1).to(x.dtype)


def draw_trials(method: Method, trials: int) -> list[Options]:
    """So many options of a method, the same at every call: a scrambled Sobol sequence, logarithmic in each range."""
    sequence: Any = torch.quasirandom.SobolEngine
    points = sequence(len(method.ranges), scramble=True, seed=0).draw(trials, dtype=torch.float64)
    low, high = torch.tensor(list(method.ranges.values()), dtype=torch.float64).log().T
    drawn = (low + (high - low) * points).exp()
    return [method.options(**dict(zip(method.ranges, row, strict=True))) for row in drawn.tolist()]


def train(
    digits: Digits,
    hidden: int,
    method: Method,
    options: Sequence[Options],
    seeds: Sequence[int],
    counts: Sequence[int],
    exam: tuple[Tensor, Tensor],
    advance: Callable[[int], None] = lambda steps: None,
) -> Tensor:
    """Train every option on every seed, once through the examples.

    Args:
        digits: what there is to learn.
        hidden: units of the networks.
        method: the optimizer.
        options: of the optimizer, one after another.
        seeds: of initial weights, examples and their order.
        counts: examples of each class after which accuracy is taken, in rising order.
        exam: images (n, inputs) and labels (n,) that it is taken on.
        advance: receives steps taken, times networks.

    Returns:
        Accuracy, (options, seeds, counts), float64.
    """
    x, y = digits.train
    steps = [digits.classes * count for count in counts]
    at_once = max(1, TOGETHER // len(seeds))
    table = []
    for start in range(0, len(options), at_once):
        chosen = options[start : start + at_once]
        columns = []
        for some in _shares(seeds, TOGETHER):
            networks = Perceptrons(x.shape[1], hidden, digits.classes, [*some] * len(chosen), x.dtype)
            optimizer = networks.optimizer(method.kind, chosen)
            order = torch.stack([digits.order(seed) for seed in some]).repeat(len(chosen), 1)
            scores = []
            for taken, before in zip(once(networks, optimizer, x, y, order, steps), [0, *steps[:-1]], strict=True):
                scores.append(networks.accuracy(*exam).view(len(chosen), len(some)))
                advance((taken - before) * len(order))
            columns.append(torch.stack(scores, dim=2))
        table.append(torch.cat(columns, dim=1))
    return torch.cat(table)


def _shares(seeds: Sequence[int], most: int) -> list[Sequence[int]]:
    """Shares of about one size, none above `most`."""
    number = math.ceil(len(seeds) / most)
    size = math.ceil(len(seeds) / number)
    return [seeds[start : start + size] for start in range(0, len(seeds), size)]


def steps_of(budget: Budget, classes: int) -> int:
    """Steps of a cell, times networks."""
    tuning = budget.trials * budget.tuning_seeds * budget.counts[-1]
    return classes * (tuning + budget.seeds * sum(budget.counts))


def cell(
    task: Task,
    inputs: str,
    hidden: int,
    name: str,
    budget: Budget,
    advance: Callable[[int], None] = lambda steps: None,
) -> dict[int, Outcome]:
    """Tune one method for one network and kind of inputs, and test it: an outcome for each number of examples.

    Args:
        task: of images.
        inputs: "standardised" or "raw", see `Digits`.
        hidden: units of the network.
        name: of a method in `METHODS`.
        budget: how much is spent.
        advance: receives steps taken, times networks; there are `steps_of` in all.

    Raises:
        DataError: the task has too few examples, or its raw pixels are not known.
    """
    method = METHODS[name]
    digits = Digits(task, inputs, budget)
    trials = draw_trials(method, budget.trials)
    tuning_seeds = range(_FIRST_TUNING_SEED, _FIRST_TUNING_SEED + budget.tuning_seeds)
    scores = train(digits, hidden, method, trials, tuning_seeds, budget.counts, digits.held_out, advance).mean(dim=1)
    outcomes = {}
    for column, count in enumerate(budget.counts):
        best = int(scores[:, column].argmax())
        tested = train(digits, hidden, method, [trials[best]], range(budget.seeds), [count], digits.test, advance)
        outcomes[count] = Outcome(trials[best], float(scores[best, column]), tuple(tested[0, :, 0].tolist()))
    return outcomes
