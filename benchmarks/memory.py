"""Is the hippocampus of use outside the maze? Novelty, one-shot classes, completion and replay beside short baselines.

    python benchmarks/memory.py novelty       # MNIST and Fashion-MNIST: classes 0 to 4 learned, 5 to 9 novel
    python benchmarks/memory.py omniglot      # the 20 one-shot runs, on pixels and on a bank of Gabor filters
    python benchmarks/memory.py completion    # half of the pixels lost: learned and held-out images
    python benchmarks/memory.py replay        # a class-continual stream with kept images, components or codes
    python benchmarks/memory.py regime        # where memory might win: few examples, damage, equal bytes, order

Each prints a table and appends a line of JSON for each setting and seed to benchmarks/results/memory.jsonl; the same
command resumes after a stop, and `--table` prints what is there. A line has the scores of all methods on one seed,
which sets the training sample, the damage and the networks. Nothing was chosen on test data: options are the library's
or stand below, and the Gabor bank was chosen on Omniglot's background characters. `--trial` tests on other training
images, at a tenth of the size, and writes nothing.

Hypotheses, written down before any test image was seen; each has to hold in the mean, with an interval beyond 0:

H1. Few examples (1, 3, 10 a class): `AHAMemory` classifies MNIST better than the nearest neighbour on pixels.
H2. The same where the test images have lost half of their pixels.
H3. Equal bytes, a long stream in any order, one pass: a small loop detects novel classes better than the nearest
    neighbour among as many images as fit into the loop's bytes.
H4. Changing statistics: the same where the stream comes class after class.
H5. Replay of codes by CA3 protects a class-continual stream better than raw images of equal bytes.

A cell of a table is the mean over n seeds and, from three seeds on, Student's 95 % interval of the difference to the
first method, paired by seed.
"""

import argparse
import datetime
import io
import json
import math
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rehearsal import Components, Episodes, Raw, Rehearsal
from sklearn.decomposition import IncrementalPCA
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

import apical
from apical import continual, data
from apical.data import Examples, Task
from apical.data.standard import roots
from apical.hippocampus import PCA, AHAMemory, HippocampalLoop, NearestNeighbour
from apical.hippocampus.codes import correlation
from apical.statistics import Spread, paired

RESULTS = Path(__file__).parent / "results" / "memory.jsonl"
Scores = dict[str, float]
Setting = dict[str, Any]


class Images:
    """Images of one task as (n, pixels) from 0 to 1, their labels, and draws without repetition."""

    def __init__(self, task: str, trial: bool) -> None:
        source = data.load(task)
        low, high = float(source.train.x.min()), float(source.train.x.max())
        x, self.y = ((source.train.x - low) / (high - low)).flatten(1), source.train.y
        self.test_x, self.test_y = ((source.test.x - low) / (high - low)).flatten(1), source.test.y
        self.x = x
        if trial:  # the test images stay unseen
            self.x, self.y, self.test_x, self.test_y = x[:-2000], self.y[:-2000], x[-2000:], self.y[-2000:]

    def draw(self, count: int, seed: int, classes: range = range(10)) -> tuple[Tensor, Tensor]:
        """So many training images of some classes."""
        places = (self.y < classes.stop).nonzero().squeeze(1) if classes.stop < 10 else torch.arange(len(self.y))
        chosen = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))[:count]]
        return self.x[chosen], self.y[chosen]

    def of_each(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """So many training images of each class."""
        generator = torch.Generator().manual_seed(seed)
        places = [(self.y == each).nonzero().squeeze(1) for each in range(10)]
        chosen = torch.cat([own[torch.randperm(len(own), generator=generator)[:count]] for own in places])
        return self.x[chosen], self.y[chosen]


def half_lost(x: Tensor, seed: int) -> Tensor:
    """True for the half of the pixels that are kept."""
    return torch.rand(x.shape, generator=torch.Generator().manual_seed(1000 + seed)) >= 0.5


def nearest(query: Tensor, stored: Tensor, kept: Tensor | None = None) -> Tensor:
    """The place of the nearest stored image; over the pixels that are kept, where that is given."""
    mask = torch.ones_like(query) if kept is None else kept.to(query)
    return (mask @ stored.square().T - 2 * (query * mask) @ stored.T).argmin(1)


def auroc(score: Any, novel: Tensor) -> float:
    return float(roc_auc_score(novel.numpy(), np.asarray(score)))


# Novelty


def novelty(setting: Setting, seed: int, trial: bool) -> Scores:
    images = Images(setting["task"], trial)
    x, _ = images.draw(500 if trial else 5000, seed, range(5))
    novel, test = images.test_y >= 5, images.test_x
    scores: dict[str, Any] = {
        "loop": HippocampalLoop(random_state=seed).fit(x).novelty(test),
        "loop, untrained": HippocampalLoop(random_state=seed, epochs=1, learning_rate=1e-12).fit(x).novelty(test),
        "1-NN distance": -NearestNeighbour().fit(x).score_samples(test),
        "isolation forest": -IsolationForest(random_state=seed).fit(x.numpy()).score_samples(test.numpy()),
    }
    for units in (10, 25, 50, 100):
        scores[f"PCA, {units} components"] = -PCA(units).fit(x).score_samples(test)
    return {name: auroc(score, novel) for name, score in scores.items()}


# Omniglot


def centred(ink: Tensor) -> Tensor:
    """Drawings (n, side, side) with their centre of mass in the middle."""
    side = ink.shape[-1]
    places, mass = torch.arange(side).float(), ink.sum((1, 2)).clamp_min(1)
    centres = [(ink.sum(axis) * places).sum(1) / mass for axis in (2, 1)]
    moved = [
        torch.roll(each, (round(side // 2 - float(row)), round(side // 2 - float(column))), (0, 1))
        for each, row, column in zip(ink, *centres, strict=True)
    ]
    return torch.stack(moved)


def features_of(ink: Tensor, kind: str) -> Tensor:
    """Features of norm 1: pixels at 28 x 28, or the maxima of eight rectified Gabor filters in 6 x 6 fields."""
    ink = centred(ink)[:, None]
    if kind == "pixels":
        return F.normalize(F.interpolate(ink, 28, mode="area").flatten(1), dim=1)
    angle, radius = torch.arange(8) * math.pi / 8, torch.arange(11.0) - 5
    row, column = torch.meshgrid(radius, radius, indexing="ij")
    along = column * angle.cos()[:, None, None] + row * angle.sin()[:, None, None]
    bank = torch.exp(-(row**2 + column**2) / 18) * torch.cos(2 * math.pi * along / 6)
    bank = bank - bank.mean((1, 2), keepdim=True)
    found = F.conv2d(F.interpolate(ink, 52, mode="area"), bank[:, None], padding=5).relu()
    return F.normalize(F.adaptive_max_pool2d(found, 6).flatten(1), dim=1)


def omniglot_folder() -> Path:
    for root in roots(None):
        if (root / "omniglot" / "all_runs.zip").exists():
            return root / "omniglot"
    raise SystemExit("omniglot/all_runs.zip: not found. Put it and omniglot_small.npz under APICAL_DATA.")


def background() -> Tensor:
    """The drawings of the small background set, (2720, 105, 105) of ink."""
    found = np.load(omniglot_folder() / "omniglot_small.npz")
    shape = found["small1_shape"]
    return torch.from_numpy(np.unpackbits(found["small1_bits"])[: shape.prod()].reshape(shape)).float()


def one_shot_runs() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For each of 20 runs: drawings of 20 characters, 20 others, and the place of each one's class among the first."""
    with zipfile.ZipFile(omniglot_folder() / "all_runs.zip") as archive:

        def ink(name: str) -> Tensor:
            with Image.open(io.BytesIO(archive.read(name))) as picture:
                return torch.from_numpy(~np.array(picture)).float()

        for run in range(1, 21):
            lines = archive.read(f"run{run:02}/class_labels.txt").decode().split()
            tests, classes = lines[::2], lines[1::2]
            studied = sorted(set(classes))
            right = torch.tensor([studied.index(each) for each in classes])
            yield torch.stack([ink(name) for name in studied]), torch.stack([ink(name) for name in tests]), right


def omniglot(setting: Setting, seed: int, trial: bool) -> Scores:
    kind = setting["features"]
    learned = features_of(background()[: 272 if trial else None], kind)
    slow = HippocampalLoop(random_state=seed).fit(learned)
    hits: dict[str, list[Tensor]] = {}
    for study, test, right in runs_of(trial):
        a, b = features_of(study, kind), features_of(test, kind)

        def count(name: str, found: Any, right: Tensor = right) -> None:
            hits.setdefault(name, []).append(torch.as_tensor(found) == right)

        count("1-NN", (b @ a.T).argmax(1))
        for area in ("ca3", "deep"):
            codes = [F.normalize(torch.from_numpy(getattr(slow.areas(each.numpy()), area)), dim=1) for each in (a, b)]
            count(f"loop of background drawings, {area}", (codes[1] @ codes[0].T).argmax(1))
        own = HippocampalLoop(random_state=seed, epochs=100, batch_size=20).fit(a)
        count("loop of the study, recall", nearest(torch.from_numpy(own.recall(b.numpy())), a))
        memory = AHAMemory(random_state=seed).fit(a)
        count("AHAMemory", memory.match(b))
        with torch.no_grad():
            count("AHAMemory without CA3", memory.ca3_.match(memory.cue_(b / memory.scale_).sigmoid()))
    return {name: 1 - float(torch.cat(found).float().mean()) for name, found in hits.items()}


def runs_of(trial: bool) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The runs, or in a trial two runs of background drawings."""
    if not trial:
        yield from one_shot_runs()
        return
    drawings = background().view(136, 20, 105, 105)
    for run in range(2):
        yield drawings[run * 20 : run * 20 + 20, 0], drawings[run * 20 : run * 20 + 20, 1], torch.arange(20)


# Completion


def completion(setting: Setting, seed: int, trial: bool) -> Scores:
    images, count = Images(setting["task"], trial), setting["learned"]
    x, _ = images.draw(count, seed)
    queries = {"learned": x[:1000], "held out": images.test_x[:1000]}
    loop = HippocampalLoop(random_state=seed, epochs=64 * 600 // count).fit(x)  # about 600 steps
    components = PCA(50).fit(x)
    recalls: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "loop": lambda cue, kept: torch.from_numpy(loop.recall(cue)),
        "cue itself": lambda cue, kept: cue,
        "mean image": lambda cue, kept: x.mean(0).expand_as(cue),
        "1-NN": lambda cue, kept: x[nearest(cue, x)],
        "1-NN over kept pixels": lambda cue, kept: x[nearest(cue, x, kept)],
        "PCA": lambda cue, kept: components.recall(cue),
        "PCA, fitted to kept pixels": lambda cue, kept: fitted(components, cue, kept),
    }
    if count < 1000:
        memory = AHAMemory(1000, steps=200, random_state=seed).fit(x)
        recalls["AHAMemory"] = lambda cue, kept: torch.from_numpy(memory.recall(cue))
    found = {}
    for part, whole in queries.items():
        kept = half_lost(whole, seed)
        for name, recall in recalls.items():
            found[f"{name}, {part}"] = float(correlation(recall(whole * kept, kept), whole, 1).nan_to_num(0).mean())
    return found


def fitted(components: PCA, cue: Tensor, kept: Tensor) -> Tensor:
    """Components whose strengths fit the kept pixels, by ridge regression."""
    basis, mask = components.components, kept.to(cue)
    gram = torch.einsum("kp,np,lp->nkl", basis, mask, basis) + 1e-2 * torch.eye(len(basis))
    drive = ((cue - components.mean) * mask) @ basis.T
    return torch.linalg.solve(gram, drive) @ basis + components.mean


# Replay


def replay(setting: Setting, seed: int, trial: bool) -> Scores:
    images = Images(setting["task"], trial)
    x, y = images.draw(2000 if trial else 5000, seed)
    task = Task("images", Examples(x, y), Examples(images.test_x, images.test_y), 10)
    stream = continual.split(task, scenario="class")
    budget, tasks = 1000 * setting["kilobytes"], len(stream)
    arms: dict[str, continual.Replay | None] = {
        "CA3": Rehearsal(lambda: Episodes(budget, tasks, seed)),
        "raw images": Rehearsal(lambda: Raw(budget, tasks, seed)),
        "principal components": Rehearsal(lambda: Components(budget, tasks, seed)),
        "nothing": None,
    }
    found = {}
    for name, protection in arms.items():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
        circuit = apical.Circuit(model, "backprop")
        outcome = continual.run(stream, circuit, epochs=3, batch_size=32, protection=protection, seed=seed)
        found[name] = float(outcome.matrix[-1].mean())
        if protection is not None:
            found[f"{name}: kept"] = protection.memory.kept
    return found


# Where memory might win


def few(setting: Setting, seed: int, trial: bool) -> Scores:
    """H1 and H2: classes from a few examples each, from whole or damaged images."""
    images = Images(setting["task"], trial)
    x, y = images.of_each(setting["examples"], seed)
    test, right = images.test_x[:2000], images.test_y[:2000]
    kept = half_lost(test, seed) if setting["lost"] else None
    cue = test if kept is None else test * kept
    loop = HippocampalLoop(random_state=seed, epochs=200, batch_size=len(x)).fit(x)
    ca3 = [F.normalize(torch.from_numpy(loop.transform(each)), dim=1) for each in (x, cue)]
    labels = {
        "AHAMemory": y[torch.from_numpy(AHAMemory(500, random_state=seed).fit(x).match(cue))],
        "loop, CA3": y[(ca3[1] @ ca3[0].T).argmax(1)],
        "1-NN": y[nearest(cue, x)],
        "logistic regression": torch.from_numpy(LogisticRegression(max_iter=1000).fit(x, y).predict(cue)),
    }
    if kept is not None:
        labels["1-NN over kept pixels"] = y[nearest(cue, x, kept)]
    return {name: float((found == right).float().mean()) for name, found in labels.items()}


def equal_bytes(setting: Setting, seed: int, trial: bool) -> Scores:
    """H3 and H4: novelty after one pass over a long stream, in any order or class after class, at equal bytes."""
    images = Images(setting["task"], trial)
    x, y = images.draw(3000 if trial else 25_000, seed, range(5))
    if setting["order"] == "classes":
        x = x[y.argsort(stable=True)]
    loop = HippocampalLoop(100, 20, 50, share=0.1, random_state=seed)
    components = IncrementalPCA(50)
    for part in x.split(500):
        loop.partial_fit(part)
        components.partial_fit(part.numpy())
    size = sum(4 * each.numel() for each in loop.circuit_.parameters())
    stored = (255 * images.draw(size // x.shape[1], seed, range(5))[0]).round() / 255  # a uniform sample of the stream
    novel, test = images.test_y >= 5, images.test_x
    rest = test.numpy() - components.inverse_transform(components.transform(test.numpy()))
    scores = {
        "loop": loop.novelty(test),
        "1-NN distance": -NearestNeighbour().fit(stored).score_samples(test),
        "PCA, 50 components": np.square(rest).mean(1),
        "1-NN distance, ten times the bytes": -NearestNeighbour()
        .fit(x[:: max(1, len(x) // (10 * len(stored)))])
        .score_samples(test)
        .numpy(),
    }
    found = {name: auroc(score, novel) for name, score in scores.items()}
    return {**found, "1-NN distance: kept": len(stored), "loop: bytes": size}


BOTH = ("mnist", "fashion-mnist")
REGIMES = [
    *({"task": "mnist", "examples": count, "lost": lost} for lost in (False, True) for count in (1, 3, 10)),
    *({"task": task, "order": order} for task in BOTH for order in ("any", "classes")),
]
Measure = Callable[[Setting, int, bool], Scores]
COMMANDS: dict[str, tuple[list[Setting], Measure]] = {
    "novelty": ([{"task": task} for task in BOTH], novelty),
    "omniglot": ([{"features": kind} for kind in ("pixels", "gabor")], omniglot),
    "completion": ([{"task": task, "learned": count} for task in BOTH for count in (200, 2000)], completion),
    "replay": ([{"task": task, "kilobytes": 250} for task in BOTH], replay),
    "regime": (REGIMES, lambda setting, *others: (few if "examples" in setting else equal_bytes)(setting, *others)),
}


def read(path: Path, what: str) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [line for line in map(json.loads, lines) if line["what"] == what]


def tables(lines: list[dict[str, Any]], settings: list[Setting]) -> None:
    """Markdown: a table for each group of settings that measured the same methods."""
    groups: dict[Any, list[tuple[Setting, list[Scores]]]] = {}
    for setting in settings:
        own = sorted((each for each in lines if each["setting"] == setting), key=lambda each: each["seed"])
        if own:
            groups.setdefault(tuple(own[0]["scores"]), []).append((setting, [each["scores"] for each in own]))
    for names, columns in groups.items():
        heads = [f"{', '.join(map(str, setting.values()))} (n = {len(own)})" for setting, own in columns]
        print(f"\n| {' | '.join([', '.join(columns[0][0]), *heads])} |\n|{'---|' * (len(heads) + 1)}")
        for name in names:
            print(f"| {name} | {' | '.join(cell(own, name) for _, own in columns)} |")


def cell(own: list[Scores], name: str) -> str:
    """The mean, and the interval of the difference to the first method from three seeds on."""
    first, values = next(iter(own[0])), [each[name] for each in own]
    mean = Spread(tuple(values)).mean
    if ":" in name:  # a size, not a score
        return f"{mean:,.0f}"
    if name == first or len(own) < 3:
        return f"{mean:.3f}"
    low, high = paired(values, [each[first] for each in own]).confidence()
    return f"{mean:.3f} ({low:+.3f} to {high:+.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=COMMANDS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print what is there, and measure nothing")
    parser.add_argument("--trial", action="store_true", help="a tenth of the size, and no test data")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    settings, measure = COMMANDS[given.what]
    if given.trial:
        for setting in settings:
            start = time.perf_counter()
            found = measure(setting, 0, True)
            print(setting, {name: round(score, 3) for name, score in found.items()}, round(time.perf_counter() - start))
        return
    for seed in [] if given.table else range(given.seeds):
        for setting in settings:
            if any((line["setting"], line["seed"]) == (setting, seed) for line in read(given.out, given.what)):
                continue
            start = time.perf_counter()
            scores = measure(setting, seed, False)
            line = {
                "what": given.what,
                "setting": setting,
                "seed": seed,
                "scores": {name: round(score, 5) for name, score in scores.items()},
                "seconds": round(time.perf_counter() - start, 1),
                "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            }
            given.out.parent.mkdir(parents=True, exist_ok=True)
            with given.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
    tables(read(given.out, given.what), settings)


if __name__ == "__main__":
    main()
