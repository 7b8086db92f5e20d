"""A demonstration of one loop in one world, within a minute: maps, remapping, novelty, and what codes keep."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from apical.hippocampus import codes, maps
from apical.hippocampus.baselines import NMF
from apical.hippocampus.cells import Rotated, generator_of
from apical.hippocampus.experiments import LOST, PENALTY, Found, angle_curves, describe, lose
from apical.hippocampus.learner import AREAS, Learner, Setup, room
from apical.hippocampus.worlds import World
from apical.rules import LearningRule, make

SHOWN = 24  # cells whose maps are shown
POINTS = 36  # of the circle on which population vectors are compared
VISIT = (0, 0.25, 0.5, 1, 1.5, 2, 3, 4)  # epochs at which the mismatch of a visit is measured
GAINS = (0.1, 0.3, 1.0, 3.0)
Curve = list[tuple[float, float]]


@dataclass(frozen=True)
class Demonstration:
    """What a demonstration found.

    Attributes:
        setup: sizes and training.
        seed: of the world, the weights and the order of positions.
        rule: by which it learned, as it prints itself.
        mismatch: in the room, before learning and after, relative to the variance of the input.
        cells: for each group of cells, the numbers of `experiments.describe`.
        maps: for each group, rate maps of some cells, (cells, rows, columns).
        population: for each area, correlations of population vectors on a circle, between the room and the same room
            with its cues turned by 90 degrees, (points, points).
        visits: the mismatch during visits to A, B, A and B, by epochs.
        separation: for each coder, the similarity of codes by that of inputs.
        completion: for each coder, the similarity to the complete code by the share of the input that is lost.
        angles: for each kind of loop and moment, degrees between update and gradient in CA3, by gain.
    """

    setup: Setup
    seed: int
    rule: str
    mismatch: tuple[float, float]
    cells: Mapping[str, Found]
    maps: Mapping[str, Tensor]
    population: Mapping[str, Tensor]
    visits: Mapping[str, Curve]
    separation: Mapping[str, Curve]
    completion: Mapping[str, Curve]
    angles: Mapping[str, Curve]


def demonstrate(
    setup: Setup | None = None,
    seed: int = 0,
    rule: str = "countercurrent_inhibition",
    advance: Callable[[str], None] = lambda step: None,
) -> Demonstration:
    """Teach a loop one room, look at it, and take it through A, B, A and B.

    Args:
        setup: sizes and training.
        seed: of the world, the weights and the order of positions.
        rule: by name.
        advance: called with the name of each step, before it.

    Raises:
        ConfigError: no such rule.
        CircuitError: the rule cannot teach a circuit whose target is its own input.
    """
    setup = setup or Setup()
    world, x = room(setup, seed)
    teacher: LearningRule = make(rule)
    advance("learning the room")
    untrained, trained = Learner(setup, seed).calibrate(x), Learner(setup, seed, teacher).calibrate(x)
    start = untrained.mismatch(x)
    visits = {"A": _visit(trained, x)}
    trained.learn(x, max(setup.epochs - VISIT[-1], 0))
    known = trained.copy()
    advance("sparse coding, the baseline")
    sparse = NMF(setup.ca3, sparsity=PENALTY, steps=100, seed=seed).fit(x)
    advance("rate maps and curves")
    groups = {
        "grid cells (input)": x[:, world.parts["grid"]],
        "cue cells (input)": x[:, world.parts["cue"]],
        "CA3, untrained": untrained.areas(x)["ca3"],
        "CA3, trained": known.areas(x)["ca3"],
        "dentate gyrus, trained": known.areas(x)["dentate"],
        "CA1, trained": known.areas(x)["ca1"],
        "sparse coding": sparse.transform(x),
    }
    found = {name: world.arena.maps(rates) for name, rates in groups.items()}
    coders: dict[str, Callable[[Tensor], Tensor]] = {
        "CA3, trained": lambda cue: known.areas(cue)["ca3"],
        "CA3, untrained": lambda cue: untrained.areas(cue)["ca3"],
        "dentate gyrus, trained": lambda cue: known.areas(cue)["dentate"],
        "sparse coding": sparse.transform,
    }
    advance("visits to B, A and B")
    other = world.another(seed)(world.arena.centres())
    for name, inputs in (("B", other), ("A again", x), ("B again", other)):
        visits[name] = _visit(trained, inputs)
    advance("angles to the gradient")
    return Demonstration(
        setup=setup,
        seed=seed,
        rule=repr(teacher).partition("\n")[0].rstrip("("),
        mismatch=(start, known.mismatch(x)),
        cells={name: describe(each) for name, each in found.items()},
        maps={name: each[_some(len(each), seed)] for name, each in found.items()},
        population=_turned(known, world),
        visits=visits,
        separation={name: _separation(x, code(x)) for name, code in coders.items()},
        completion={name: _completion(x, code, seed) for name, code in coders.items()},
        angles=_angles(setup, seed, x),
    )


def _visit(learner: Learner, x: Tensor) -> Curve:
    curve = [(0.0, learner.mismatch(x))]
    for before, after in pairwise(VISIT):
        curve.append((after, learner.learn(x, after - before).mismatch(x)))
    return curve


def _some(cells: int, seed: int) -> Tensor:
    """Some cells, drawn at random: the same ones in groups of one size."""
    return torch.randperm(cells, generator=generator_of("shown cells", seed))[:SHOWN]


def _turned(learner: Learner, world: World) -> dict[str, Tensor]:
    angle = torch.arange(POINTS) * 2 * math.pi / POINTS
    circle = 0.5 + 0.35 * torch.stack([angle.cos(), angle.sin()], 1)
    other = world.having(cue=Rotated(world.populations["cue"], 90, world.arena.centre))
    before, after = (learner.areas(each(circle)) for each in (world, other))
    return {area: maps.population_correlation(before[area].T[:, None], after[area].T[:, None]) for area in AREAS}


def _separation(x: Tensor, code: Tensor) -> Curve:
    curve = codes.separation_curve(x, code, bins=20)
    return [(before, after) for before, after, pairs in curve.tolist() if pairs >= 50]


def _completion(x: Tensor, code: Callable[[Tensor], Tensor], seed: int) -> Curve:
    cues = [lose(x, share, seed) for share in LOST]
    kept = codes.completion_curve(x, code(x), cues, [code(cue) for cue in cues])[:, 1]
    return list(zip(LOST, kept.tolist(), strict=True))


def _angles(setup: Setup, seed: int, x: Tensor) -> dict[str, Curve]:
    found = angle_curves(setup, seed, x, GAINS, epochs=2)
    titles = {"k_winners": "winners", "none": "all cells fire"}
    return {
        f"{title}, {moment}": list(zip(GAINS, found[f"ca3.{sparsity}.{key}"], strict=True))
        for sparsity, title in titles.items()
        for key, moment in (("start", "at the start"), ("end", "after learning"))
    }
