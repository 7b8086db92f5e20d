"""How fast do students learn a teacher's bits, with several outputs for each example and with one?

    python benchmarks/asynchronous.py

prints the share of bits that students get wrong after some numbers of examples, mean and standard error of 40 pairs of
teacher and student, as Markdown. Each scenario's step size (or gain) is the best of five at 100 examples on 20 other
pairs. It takes about a minute.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn

from apical.neurons import teacher_and_student
from apical.optim import Adaptation

COUNTS = (0, 3, 10, 30, 100, 300)
CHOSEN_AT = 100
RUNS = 40
SIZES = ((60, 1), (240, 1), (60, 5))


def constant(rate: float) -> Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]:
    """Step sizes that stay."""
    return lambda parameters: torch.optim.SGD(parameters, lr=rate)


def adaptive(gain: float) -> Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]:
    """Step sizes that grow while the steps of a synapse keep one direction."""
    return lambda parameters: Adaptation(parameters, lr=1.0, gain=gain, slope=1.0, relaxation=0.1, variant="abs")


ROWS: tuple[tuple[Any, str, Any, tuple[float, ...]], ...] = (
    ("classical", "constant", constant, (0.01, 0.03, 0.1, 0.3, 1.0)),
    ("synaptic", "constant", constant, (0.003, 0.01, 0.03, 0.1, 0.3)),
    ("synaptic", "adaptive", adaptive, (0.001, 0.003, 0.01, 0.03, 0.1)),
    ("dendritic", "constant", constant, (0.001, 0.003, 0.01, 0.03, 0.1)),
    ("dendritic", "adaptive", adaptive, (1e-4, 3e-4, 1e-3, 3e-3, 0.01)),
)


def main() -> None:
    torch.set_num_threads(1)
    print("| inputs, dendrites | scenario | steps | " + " | ".join(f"{count} examples" for count in COUNTS) + " |")
    print("|---" * (3 + len(COUNTS)) + "|")
    for inputs, dendrites in SIZES:
        for scenario, name, make, sizes in ROWS:
            learn = partial(teacher_and_student, scenario, inputs=inputs, dendrites=dendrites)
            scores = {size: learn((CHOSEN_AT,), make(size), runs=20, seed=1).mean().item() for size in sizes}
            best = min(scores, key=scores.__getitem__)
            found = 100 * learn(COUNTS, make(best), runs=RUNS, seed=0)
            columns = zip(found.mean(0).tolist(), (found.std(0) / math.sqrt(RUNS)).tolist(), strict=True)
            entries = " | ".join(f"{mean:.1f} ± {error:.1f}" for mean, error in columns)
            print(f"| {inputs}, {dendrites} | {scenario} | {name} {best:g} | {entries} |", flush=True)


if __name__ == "__main__":
    main()
