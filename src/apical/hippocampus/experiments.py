"""Experiments on the loop: what it is claimed to show, each beside the controls that it has to exceed.

Every experiment takes a `Setup` and a seed, from which world, weights and the order of positions are drawn, and returns
numbers by name. The measures and `apical.hippocampus.claims` were fixed on seeds below 100; evidence is from seeds of
100 and above.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from apical.hippocampus import codes, fields, maps
from apical.hippocampus.baselines import NMF, PCA, NearestNeighbour
from apical.hippocampus.cells import CueCells, GridCells, Rotated, generator_of
from apical.hippocampus.learner import AREAS, HIDDEN, Learner, Setup, Severed, relative, room
from apical.measure import alignment
from apical.rules import CountercurrentInhibition, make

Found = dict[str, Any]
LOST = (0.0, 0.25, 0.5, 0.75)
MORPHS = tuple(step / 6 for step in range(7))
MOMENTS = (0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 7, 8, 9, 10, 11)  # epochs
GAINS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
PENALTY = 1.0  # of sparse coding
RULES: Mapping[str, tuple[str, Mapping[str, Any], float]] = {  # by title: the rule, its options, the learning rate
    "backprop": ("backprop", {}, 1e-3),
    "inhibition, tied": ("countercurrent_inhibition", {}, 1e-3),
    "inhibition, fixed": ("countercurrent_inhibition", {"feedback": "fixed"}, 3e-4),
    "feedback alignment": ("feedback_alignment", {}, 3e-4),
    "direct feedback alignment": ("direct_feedback_alignment", {}, 3e-4),
    "sign symmetry": ("sign_symmetry", {}, 1e-3),
    "Kolen-Pollack": ("kolen_pollack", {}, 1e-3),
    "BurstCCN": ("burst_ccn", {}, 1e-3),
}


@lru_cache(maxsize=1)
def pair(setup: Setup, seed: int) -> dict[str, Learner]:
    """A network that learned the room, and the same one untrained, calibrated to it; a copy may learn more."""
    _, x = room(setup, seed)
    return {"trained": Learner(setup, seed).learn(x), "untrained": Learner(setup, seed).calibrate(x)}


@lru_cache(maxsize=1)
def factors(setup: Setup, seed: int) -> dict[str, NMF]:
    """NMF and non-negative sparse coding of the size of CA3, of the room."""
    _, x = room(setup, seed)
    kinds = {"nmf": 0.0, "sparse": PENALTY}
    return {name: NMF(setup.ca3, sparsity=sparsity, steps=100, seed=seed).fit(x) for name, sparsity in kinds.items()}


def describe(found: Tensor) -> Found:
    """Counts, sizes and shares of fields, and the mean information, of maps (cells, rows, columns)."""
    all_fields = fields.find(found)
    return {
        "single": all_fields.single,
        "size": all_fields.median_size,
        "share": all_fields.mean_share,
        "active": float(all_fields.active.double().mean()),
        "information": float(maps.information(found).mean()),
    }


def cells(setup: Setup, seed: int) -> Found:
    """Fields in each area, trained and untrained, in shuffled maps and in factors of the same size."""
    world, x = room(setup, seed)
    arena, learners = world.arena, pair(setup, seed)
    rates = {f"{area}.{kind}": each.areas(x)[area] for kind, each in learners.items() for area in HIDDEN}
    rates |= {name: model.transform(x) for name, model in factors(setup, seed).items()}
    rates |= {name: x[:, part] for name, part in world.parts.items()}
    found = {name: arena.maps(each) for name, each in rates.items()}
    found["ca3.shuffled"] = maps.shuffled(found["ca3.trained"], seed=seed)
    numbers = {f"{name}.{key}": value for name, each in found.items() for key, value in describe(each).items()}
    return numbers | {f"mismatch.{kind}": each.mismatch(x) for kind, each in learners.items()}


def lose(x: Tensor, share: float, seed: int) -> Tensor:
    """Cues: inputs of which a random share, another at each position, is 0."""
    return x * (torch.rand(x.shape, generator=generator_of("cue", seed)) >= share)


def completion(setup: Setup, seed: int) -> Found:
    """How much of the code returns when inputs are lost, and how similar the codes of similar inputs are."""
    _, x = room(setup, seed)
    cues = [lose(x, share, seed) for share in LOST]
    coders: dict[str, Callable[[Tensor], Tensor]] = {}
    for kind, each in pair(setup, seed).items():
        coders |= {f"{area}.{kind}": partial(each.area, area) for area in AREAS}
    for name, model in factors(setup, seed).items():
        coders |= {name: model.transform, f"{name}.recalled": model.recall}
    numbers: Found = {"near.input": float(codes.separation_curve(x, x)[-1, 1])}
    numbers |= {"half.input": float(codes.correlation(x, cues[2], 1).mean())}
    for name, code in coders.items():
        whole = code(x)
        curve = codes.completion_curve(x, whole, cues, [code(cue) for cue in cues])
        numbers |= {f"lost.{name}": curve[:, 1].tolist(), "lost.input": curve[:, 0].tolist()}
        numbers |= {f"half.{name}": float(curve[2, 1])}
        numbers |= {f"near.{name}": float(codes.separation_curve(x, whole)[-1, 1])}
    neighbour = NearestNeighbour().fit(x)
    recalled = codes.completion_curve(x, x, cues, [neighbour.recall(cue) for cue in cues])
    return numbers | {"half.neighbour": float(recalled[2, 1])}


def novelty(setup: Setup, seed: int) -> Found:
    """The mismatch through visits to A, B, A and B, at `MOMENTS` of each."""
    world, first = room(setup, seed)
    rooms = {"A": first, "B": world.another(seed)(world.arena.centres())}
    learner = Learner(setup, seed).calibrate(first)
    moments = [*(each for each in MOMENTS if each < setup.epochs), setup.epochs]
    visits = []
    for name in "ABAB":
        x = rooms[name]
        visits.append([learner.mismatch(x)])  # before learning there, with homeostasis of the room before
        visits[-1] += [learner.learn(x, after - before).mismatch(x) for before, after in pairwise(moments)]
    known, new, back = visits[0][-1], visits[1][0], visits[2][0]
    criterion = 2 * known
    taken = [first_below(criterion, moments, visit) for visit in visits]
    numbers: Found = {"moments": moments, "visits": visits, "known": known, "new": new, "back": back}
    numbers |= {"new_over_known": new / known, "halved": first_below(new / 2, moments, visits[1])}
    numbers |= {"back_over_known": back / known, "back_over_new": back / new}
    numbers |= {
        "first_epochs": taken[0],
        "again_epochs": taken[2],
        "savings": 1 - taken[2] / taken[0] if taken[0] else math.nan,
    }
    baselines: dict[str, PCA | NMF] = {"pca": PCA(setup.ca3).fit(first), "sparse": factors(setup, seed)["sparse"]}
    for name, model in baselines.items():
        scores = {key: relative(x, model.recall(x)) for key, x in rooms.items()}
        numbers |= {f"new.{name}": scores["B"], f"new_over_known.{name}": scores["B"] / scores["A"]}
    untrained = Learner(setup, seed).calibrate(first)
    return numbers | {"new_over_known.untrained": untrained.mismatch(rooms["B"]) / untrained.mismatch(rooms["A"])}


def first_below(level: float, moments: Sequence[float], values: Sequence[float]) -> float:
    """The first moment at which a value is at most a level; infinite if there is none."""
    return next((at for at, value in zip(moments, values, strict=True) if value <= level), math.inf)


def remapping(setup: Setup, seed: int) -> Found:
    """Correlations with the room that was learned: cues turned by 90 degrees, morphed, and another room.

    Plasticity is frozen, or runs for two epochs in each changed room (in the morphs, one after another).
    """
    world, x = room(setup, seed)
    arena, cue, grid = world.arena, world.populations["cue"], world.populations["grid"]
    assert isinstance(cue, CueCells)
    assert isinstance(grid, GridCells)
    turned = world.having(cue=Rotated(cue, 90, arena.centre))(arena.centres())
    others = [world.having(cue=cue.morphed(cue.elsewhere(seed), share, seed))(arena.centres()) for share in MORPHS]
    another = world.another(seed)(arena.centres())
    numbers: Found = {}
    for kind, learner in pair(setup, seed).items():
        before = learner.areas(x)
        for mode in ("frozen", "plastic") if kind == "trained" else ("frozen",):

            def after(inputs: Tensor, twin: Learner, mode: str = mode) -> dict[str, Tensor]:
                return (twin.learn(inputs, 2) if mode == "plastic" else twin).areas(inputs)

            rotated, elsewhere, walker = after(turned, learner.copy()), after(another, learner.copy()), learner.copy()
            morphs = [after(inputs, walker) for inputs in others]
            for area in AREAS:
                key, old = f"{area}.{kind}.{mode}", arena.maps(before[area])
                now = arena.maps(rotated[area])
                numbers[f"stays.{key}"] = float(maps.spatial_correlation(old, now).nanmean())
                follow = maps.spatial_correlation(torch.rot90(old, -1, (1, 2)), now)
                numbers[f"follows.{key}"] = float(follow.nanmean())
                curve = [float(codes.correlation(before[area], each[area], 1).nanmean()) for each in morphs]
                numbers |= {f"morph.{key}": curve, f"morphed.{key}": curve[-1]}
                numbers[f"another.{key}"] = float(maps.spatial_correlation(old, arena.maps(elsewhere[area])).nanmean())
                if area != "deep":
                    change = maps.rate_difference(old, arena.maps(morphs[-1][area]))
                    numbers[f"rates.{key}"] = float(change.nanmean())
    return numbers


def lesions(setup: Setup, seed: int) -> Found:
    """Learning without a stream of the input, without direct paths, or without the feedback of one area."""
    world, x = room(setup, seed)
    parts = world.parts

    def without(name: str) -> Tensor:
        silenced = x.clone()
        silenced[:, parts[name]] = 0
        return silenced

    numbers: Found = {}
    for title, inputs, feedback, options in (
        ("intact", x, None, {}),
        ("no grid", without("grid"), None, {}),
        ("no cue", without("cue"), None, {}),
        ("no direct paths", x, None, {"direct": False}),
        ("neither direct paths nor feedback of ca1", x, Severed(area="ca1"), {"direct": False}),
        *((f"no feedback of {area}", x, Severed(area=area), {}) for area in AREAS[1:]),
    ):
        rule = CountercurrentInhibition(feedback=feedback or "tied")
        learner = Learner(setup, seed, rule, **options)
        start = weights(learner.loop)
        learner.learn(inputs)
        numbers |= {f"moved.{area}.{title}": moved(start[area], each) for area, each in weights(learner.loop).items()}
        numbers |= {f"mismatch.{title}": learner.mismatch(inputs)}
        found = describe(world.arena.maps(learner.areas(inputs)["ca3"]))
        numbers |= {f"{key}.{title}": found[key] for key in ("single", "size", "share")}
        if title == "intact":
            whole = learner.areas(x)
            for name in parts:  # silenced after learning
                after = learner.areas(without(name))
                kept = {area: codes.correlation(whole[area], after[area], 1).nan_to_num(0).mean() for area in AREAS}
                numbers |= {f"kept.{area}.no {name} after": float(value) for area, value in kept.items()}
    return numbers


def weights(loop: nn.Module) -> dict[str, Tensor]:
    """A copy of the first weight of each area."""
    parameters = dict(loop.named_parameters())
    return {area: parameters[f"{area}.0.weight"].detach().clone() for area in AREAS}


def moved(before: Tensor, after: Tensor) -> float:
    """The norm of a change, over that of the weights before."""
    return float((after - before).norm() / before.norm())


def rules(setup: Setup, seed: int) -> Found:
    """Which rules give fields in CA3, and how well they reconstruct."""
    world, x = room(setup, seed)
    numbers: Found = {}
    for title, (name, options, rate) in RULES.items():
        learner = Learner(setup, seed, make(name, **options), rate).learn(x)
        numbers[f"mismatch.{title}"] = learner.mismatch(x)
        found = describe(world.arena.maps(learner.areas(x)["ca3"]))
        numbers |= {f"{key}.{title}": found[key] for key in ("single", "size", "share", "active")}
    untrained = describe(world.arena.maps(Learner(setup, seed).calibrate(x).areas(x)["ca3"]))
    return numbers | {f"{key}.untrained": untrained[key] for key in ("single", "size", "share", "active")}


def angles(setup: Setup, seed: int) -> Found:
    """The angle between counter-current inhibition and the gradient, by gain: at the start and after four epochs.

    With competition, and without it, where most cells fire and the bounds act on all of them.
    """
    _, x = room(setup, seed)
    return angle_curves(setup, seed, x, GAINS, epochs=4)


def angle_curves(setup: Setup, seed: int, x: Tensor, gains: Sequence[float], epochs: float) -> Found:
    """Angles by gain in a room, as `angles` has them."""
    sample = x[torch.randperm(len(x), generator=generator_of("sample", seed))[:256]]
    numbers: Found = {"gains": list(gains)}
    for sparsity in ("k_winners", "none"):
        for gain in gains:
            rule = CountercurrentInhibition(gain=gain, tonic=math.inf)
            learner = Learner(setup, seed, rule, sparsity=sparsity)
            for moment, length in (("start", 0), ("end", epochs)):
                learner.learn(x, length).loop.train()
                found = alignment(learner.circuit, sample, sample, half_squares)
                for layer, degrees in found.items():
                    numbers.setdefault(f"{layer.partition('.')[0]}.{sparsity}.{moment}", []).append(degrees)
            numbers.setdefault(f"mismatch.{sparsity}", []).append(learner.mismatch(x))
    return numbers


def half_squares(y: Tensor, x: Tensor) -> Tensor:
    """The loss of the loop, as `Circuit.learn` has it: half the squared mismatch of a sample, mean over samples."""
    return (y - x).square().sum() / (2 * len(x))


EXPERIMENTS: Mapping[str, Callable[[Setup, int], Found]] = {
    each.__name__: each for each in (cells, completion, novelty, remapping, lesions, rules, angles)
}
