"""The floors of a comparison on a stream: learners of one pass without a network, on the stream of every seed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

from apical import continual, data
from apical.optim.consolidation import Assumptions
from apical.study.comparison.equality import features_within
from apical.study.comparison.parts import Floor, StreamRun
from apical.study.configuration import Config
from apical.study.runs import display
from apical.study.training.making import make_stream

FEATURES = 1000

AnyFloor = continual.NearestClassMean | continual.RandomFeatures


def floors_within(memory: int | None, classes: int) -> Mapping[str, tuple[str, Callable[[int], AnyFloor]]]:
    """What makes each floor, with a sentence, by its title; random features are as many as the memory allows."""
    features = FEATURES if memory is None else features_within(memory, FEATURES, classes)
    return {
        "Nearest class mean": ("Answers the class whose mean is nearest.", lambda seed: continual.NearestClassMean()),
        "Streaming LDA": (
            "Linear discriminant analysis with one covariance, kept up to date example by example.",
            lambda seed: continual.StreamingLDA(),
        ),
        f"Streaming LDA on {features:,} random features": (
            "The same behind a hidden layer of rectifiers that never learns.",
            lambda seed: continual.RandomFeatures(continual.StreamingLDA(), features, seed=seed),
        ),
    }


def measure_floors(
    config: Config, task: data.Task, seeds: Sequence[int], *, memory: int | None, progress: bool | None
) -> list[Floor]:
    """Every floor on the stream of every seed; those that keep more than the memory are left out.

    Args:
        config: what all arms share.
        task: that the streams are made of.
        seeds: of the streams and of the random features.
        memory: bytes that a floor may keep; None: any number.
        progress: as for `compare`.
    """
    kinds = floors_within(memory, make_stream(config, task).outputs)
    floors: list[Floor] = []
    with display.Bar("floors", len(kinds) * len(seeds), shown=progress) as bar:
        for title, (summary, make) in kinds.items():
            runs: list[StreamRun] = []
            for seed in seeds:
                runs.append(_run(config.with_values({"seed": seed}), task, make(seed)))
                bar.show(len(floors) * len(seeds) + len(runs), title)
            if memory is None or runs[0].assumptions["bytes"] <= memory:
                floors.append(Floor(title=title, summary=summary, runs=runs))
    return floors


def _run(config: Config, task: data.Task, floor: AnyFloor) -> StreamRun:
    outcome = continual.run(make_stream(config, task), floor)
    metrics = asdict(outcome.metrics)
    del metrics["tasks"]
    keeps = Assumptions(boundaries=False, identity=False, samples=0, epochs=0, bytes=floor.kept_bytes, passes=0)
    return StreamRun(matrix=outcome.matrix.tolist(), metrics=metrics, assumptions=asdict(keeps))
