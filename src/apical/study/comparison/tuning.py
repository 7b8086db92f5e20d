"""Learning rates chosen for each arm of a comparison, from one grid, on validation data, with seeds of their own."""

from collections.abc import Container, Mapping, Sequence
from itertools import count, islice
from pathlib import Path

from apical.errors import ConfigError
from apical.statistics import Spread
from apical.study.comparison.parts import Tuning
from apical.study.configuration import Config
from apical.study.executors.jobs import Job
from apical.study.runs.folder import RunFolder

RUNS = 2
"""How many seeds each rate is tried with."""
FIRST_SEED = 1_000_000


def tuning_seeds(reported: Sequence[int]) -> list[int]:
    """The seeds of tuning runs: the first `RUNS` from `FIRST_SEED` on that are not among those that are reported."""
    return list(islice((seed for seed in count(FIRST_SEED) if seed not in reported), RUNS))


def check_tunable(config: Config) -> None:
    """Refuse a grid of rates where validation data cannot choose among them.

    Raises:
        ConfigError: there are none, or they are of one task of a stream.
    """
    if len(config.optimizer.grid) < 2:
        return
    if not config.validation:
        raise ConfigError(
            "validation = 0: choosing among learning rates needs validation data, cut from the training data. Set "
            "validation above 0, such as validation=0.1, or pass one learning rate."
        )
    if not config.stream.is_single:
        raise ConfigError(
            f"optimizer.lr = {config.optimizer.lr}: on a stream each validation part is of one task, so that none can "
            "choose the rate of all. Pass one learning rate."
        )


def tuned(trials: Mapping[float, Sequence[Job]], seeds: Sequence[int], failures: Container[Path]) -> Tuning:
    """How the rate of one arm is chosen, after its tuning runs; a rate of which a run failed has no figures.

    Args:
        trials: the tuning runs of each rate, in the order of the grid.
        seeds: of the tuning runs.
        failures: the folders of runs that failed.
    """
    results = [
        [RunFolder(job.folder).result() or {} for job in jobs if job.folder not in failures] for jobs in trials.values()
    ]

    def means(key: str) -> list[float | None]:
        spreads = [Spread.of(result.get(key) for result in of_rate) for of_rate in results]
        return [spread.mean if spread is not None and spread.n == len(seeds) else None for spread in spreads]

    return Tuning(
        rates=list(trials), seeds=list(seeds), accuracies=means("validation_accuracy"), losses=means("validation_loss")
    )
