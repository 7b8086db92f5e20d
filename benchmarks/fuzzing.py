"""Damages files in many ways: each case must end in a result or a message, soon, and run nothing from the file.

    python benchmarks/fuzzing.py                     # 10,000 cases of all kinds, in turn
    python benchmarks/fuzzing.py --cases 500 --seed 1
    python benchmarks/fuzzing.py --only run:17       # one case again, with its traceback

A case fails if it raises anything but an `ApicalError`, takes longer than a limit, takes much memory, makes the file
that a hidden payload would make, or accepts a changed file of a run without a note. The exit code is 1 if one fails.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import io
import logging
import os
import pickle
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from damage import damaged, damaged_text, odd, put

from apical import data, rules
from apical.data.cifar import read_batch
from apical.data.idx import read_idx
from apical.errors import ApicalError
from apical.study import (
    Comparison,
    Config,
    Evaluation,
    Interrupted,
    Result,
    RuleConfig,
    RunFolder,
    compare,
    evaluate,
    resume,
    train,
)
from apical.study.comparison.gathering import gather
from apical.study.comparison.schema import flatten
from apical.study.configuration.parsing import write_value
from apical.study.configuration.resolution import Resolved, resolve
from apical.study.executors.jobs import Job, forget_data
from apical.study.runs import display

CASES = 10_000
SECONDS = 5.0
MEGABYTES = 400  # that one case may add to the largest memory of before


class HangError(BaseException):
    """A case took too long."""


class CaseError(Exception):
    """A case did what it must not."""


class Payload:
    """Makes a folder when a pickle of it is loaded by an unpickler that runs what it names."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


@dataclass
class Workshop:
    """Sound examples of every kind of file, and a folder for a case.

    Attributes:
        root: a temporary folder.
        sound: what a case with no damage gives, by action.
    """

    root: Path
    sound: dict[str, Any] = field(default_factory=dict)

    @property
    def canary(self) -> Path:
        return self.root / "canary"

    @property
    def case(self) -> Path:
        return self.root / "case"

    def build(self) -> None:
        """Make the sound files."""
        numbers = np.random.default_rng(0)
        y = np.arange(60) % 3
        x = numbers.normal(size=(60, 4)).astype("f4")
        x[np.arange(60), y] += 2
        self.case.mkdir()
        sound = self.root / "sound"
        sound.mkdir()
        np.savez(self.case / "d.npz", x=x, y=y)
        settings = [f"task=npz:{self.case}/d.npz", "model=mlp:3", "epochs=2", "threads=1", "batch_size=16"]
        config = Config().with_settings([*settings, "checkpoints.steps=2", "rule=feedback_alignment"])
        train(config, self.case / "finished", progress=False)
        _train_half(config, self.case / "stopped")
        compare(
            config.with_values({"epochs": 1}), ["bp"], 1, self.case / "compared", jobs=1, cost=False, progress=False
        )
        shutil.copytree(self.case, sound, dirs_exist_ok=True)
        for name, act in ACTIONS.items():
            self.renew()
            self.sound[name] = act(self.case)
        self.renew()

    def renew(self) -> None:
        """Bring back the sound files."""
        shutil.rmtree(self.case, ignore_errors=True)
        shutil.copytree(self.root / "sound", self.case)
        forget_data()


def _train_half(config: Config, folder: Path) -> None:
    """Train until the signal that comes after a few steps."""
    original = display.Bar.step

    def step(bar: display.Bar, steps: int) -> None:
        original(bar, steps)
        if steps == 2:
            signal.raise_signal(signal.SIGTERM)

    display.Bar.step = step  # type: ignore[method-assign]
    try:
        train(config, folder, progress=False)
    except Interrupted:
        pass
    finally:
        display.Bar.step = original  # type: ignore[method-assign]


def configurations(shop: Workshop, chance: random.Random) -> str:
    """A file of settings, and settings one by one."""
    path = shop.case / "study.toml"
    sound = (shop.case / "finished" / "config.toml").read_text()
    table = Config.load(shop.case / "finished" / "config.toml").to_dict()
    usual = {**flatten(table), "rule": "backprop", "protect": "none", "stream": "single", "stream.tasks": 2, "x.y": 1}
    if chance.random() < 0.3:
        for _ in range(chance.choice((1, 1, 1, 4))):
            key = chance.choice(list(table))
            table[key] = odd(table[key], chance)
        put(path, tomli_w.dumps(_without_none(table)).encode(), chance)
    else:
        put(path, damaged_text(sound, chance), chance)
    try:
        if chance.random() < 0.5:
            config = Config.load(path)
        else:
            keys = chance.choices(list(usual), k=chance.choice((1, 1, 2)))
            config = Config().with_settings(f"{key}={_written(odd(usual[key], chance), chance)}" for key in keys)
    finally:
        shop.renew()
    path.write_text(config.to_toml())
    _same(Config.load(path).to_dict(), config.to_dict(), "the configuration that it writes is another")
    resolved = resolve(config)
    resolved.config.rule.make()
    return "accepted"


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return value


def _written(value: object, chance: random.Random) -> str:
    return chance.choice((write_value(value), repr(value), str(value)))


def labels(shop: Workshop, chance: random.Random) -> str:
    """A rule with its options on one line."""
    name = chance.choice(rules.names())
    options = {**rules.make(name).options(), "feedback.scale": 1.0, "x": 1}
    keys = chance.sample(list(options), chance.choice((1, 1, 2)))
    label = f"{name}:{','.join(f'{key}={_written(odd(options[key], chance), chance)}' for key in keys)}"
    if chance.random() < 0.3:
        label = damaged_text(label, chance).decode(errors="replace")
    rule = RuleConfig.parse(label)
    _same(RuleConfig.parse(rule.label), rule, f"the label {rule.label!r} is read back as another rule")
    return "accepted"


def archives(shop: Workshop, chance: random.Random) -> str:
    """Arrays of a user's own."""
    path = shop.case / "own.npz"
    if chance.random() < 0.3:
        content = damaged((shop.case / "d.npz").read_bytes(), chance)
    else:
        content = _archive(shop, chance)
    put(path, content, chance)
    task = data.load(f"npz:{path}")
    for part in (task.train, task.test):
        if not torch.isfinite(part.x).all() or (len(part.y) and not 0 <= int(part.y.max()) < task.classes):
            raise CaseError("accepted with values that are not finite, or labels that are no classes")
    return "accepted"


def _archive(shop: Workshop, chance: random.Random) -> bytes:
    """An archive of odd arrays: of other types, shapes, names and values, compressed, with a lying header, pickled."""
    buffer, count = io.BytesIO(), chance.choice((1, 3, 12, 12, 12, 30))
    with zipfile.ZipFile(buffer, "w", chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for key in chance.choice(
            (("x", "y"), ("x", "y"), ("x_train", "y_train", "x_test", "y_test"), ("x", "y", "x_train"), ("x",))
        ):
            part = io.BytesIO()
            array = _odd_array(key, count if chance.random() < 0.95 else 3, chance)
            if chance.random() < 0.04:
                array = np.array([Payload(shop.canary)], dtype=object)
            np.save(part, array, allow_pickle=True)
            content = part.getvalue()
            if chance.random() < 0.06:
                content = re.sub(rb"'shape': \([^)]*\)", b"'shape': " + str(_odd_shape(chance)).encode(), content)
            if chance.random() < 0.05:
                content = damaged(content, chance)
            archive.writestr(f"{key}.npy", content)
    content = buffer.getvalue()
    return damaged(content, chance) if chance.random() < 0.1 else content


def _odd_shape(chance: random.Random) -> tuple[int, ...]:
    return tuple(chance.choice((0, 1, 2, 12, 2**31, 2**62)) for _ in range(chance.choice((0, 1, 2, 4, 40))))


def _odd_array(key: str, count: int, chance: random.Random) -> Any:
    numbers = np.random.default_rng(chance.randrange(10**6))
    if key.startswith("y"):
        values: Any = numbers.integers(0, 3, count)
        match chance.randrange(8):
            case 0:
                values = values.astype(chance.choice(("f4", "u1", "i1", "?", "S1", "U2", "O", "c8", "M8[s]")))
            case 1:
                values[0] = chance.choice((-1, 5, 2**31, 2**62))
            case 2:
                values = chance.choice((values[:, None], np.eye(3)[values], values[0], values[:-1], values * 0))
    else:
        values = numbers.normal(
            size=(count, *chance.choice((*[(4,)] * 5, (1, 4, 4), (4, 4), (), (3, 8, 8), (0,), (1,) * 20)))
        )
        match chance.randrange(8):
            case 0:
                kinds = ("f2", "f8", "u1", "?", "S4", "U2", "O", "c8", "M8[s]", "g", ">f4")
                values = values.astype(chance.choice(kinds))
            case 1:
                values.reshape(-1)[:1] = chance.choice((np.nan, np.inf, 1e300, -1e300, 1e38))
            case 2:
                values = chance.choice((values[:0], values[0], values * 0, values * 1e-300, values[:, None]))
    return values


def pictures(shop: Workshop, chance: random.Random) -> str:
    """A file in the idx format, as MNIST's."""
    path = shop.case / "train-images-idx3-ubyte"
    shape = chance.choice(((3, 4, 4), (12,), (1,), (0,), (2, 2)))
    array = np.random.default_rng(0).integers(0, 255, shape).astype("u1")
    content = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape) + array.tobytes()
    if chance.random() < 0.8:
        content = damaged(content, chance)
    if chance.random() < 0.4:
        content = gzip.compress(content + bytes(chance.choice((0, 0, 10**8 if chance.random() < 0.1 else 5))), 1)
        content = damaged(content, chance) if chance.random() < 0.5 else content
    put(path, content, chance)
    if not isinstance(read_idx(path), np.ndarray):
        raise CaseError("accepted, and is not an array")
    return "accepted"


def batches(shop: Workshop, chance: random.Random) -> str:
    """A pickled batch, as CIFAR-10's."""
    path = shop.case / "data_batch_1"
    pixels = np.zeros((2, 3072), np.uint8)
    odd = [
        pixels[:1],
        pixels.astype("f4"),
        pixels[:, :5],
        [],
        "x",
        None,
        Payload(shop.canary),
        {b"a": 1},
        [[1], [2, 3]],
    ]
    content = {b"data": pixels, b"labels": [3, 5]}
    if chance.random() < 0.5:
        content[chance.choice((b"data", b"labels", b"batch_label"))] = chance.choice(odd)
    written: Any = content if chance.random() < 0.9 else chance.choice(odd)
    pickled = pickle.dumps(written, protocol=chance.randrange(6))
    put(path, damaged(pickled, chance) if chance.random() < 0.7 else pickled, chance)
    x, y = read_batch(path)
    if x.shape != (len(y), 3, 32, 32) or x.dtype != np.uint8:
        raise CaseError("accepted, and has no pictures")
    return "accepted"


FILES = {
    "finished": ("config.toml", "run.json", "environment.json", "result.json", "metrics.jsonl", "timing.jsonl"),
    "stopped": ("config.toml", "run.json", "environment.json", "metrics.jsonl", "timing.jsonl"),
    "compared": ("comparison.json",),
}


def runs(shop: Workshop, chance: random.Random) -> str:
    """One file of a run or of a comparison, or the data that it was trained on."""
    folder = chance.choice(("finished", "finished", "stopped", "stopped", "compared"))
    path = shop.case / folder / chance.choice(FILES[folder])
    if chance.random() < 0.1:
        folder, path = chance.choice(("finished", "stopped")), shop.case / "d.npz"
        with np.load(path) as stored:
            x, y = stored["x"], stored["y"]
        part = chance.choice((x.reshape(-1), y))
        place = chance.randrange(len(part))
        part[place] = part[place - 1] if part is y else part[place] + chance.choice((1e-6, 1.0, 100.0))
        if part is not y:
            x = part.reshape(x.shape)
        np.savez(path, x=x, y=y)
    else:
        put(path, damaged_text(path.read_text(), chance), chance)
    if path.name == "config.toml" and _long(path):
        return "long"
    gone = path.name == "result.json" and not path.exists()  # the run has then not finished
    return _use(shop, chance.choice(USES[folder]), forged=gone)


def _long(path: Path) -> bool:
    """Whether a run would train for a long time, as it is then told to."""
    try:
        config = Config.load(path)
        return config.epochs > 100 or len(config.model) > len("mlp:30")
    except ApicalError:
        return False


def checkpoints(shop: Workshop, chance: random.Random) -> str:
    """A checkpoint that was damaged; or another one under a name that fits it, as any program can write."""
    folder = chance.choice(("finished", "stopped"))
    path = RunFolder(shop.case / folder).checkpoints.paths()[-1]
    content = path.read_bytes()
    forged = chance.random() < 0.6
    if forged and chance.random() < 0.7:
        table = torch.load(io.BytesIO(content), weights_only=True)
        key = chance.choice(list(table))
        other = [None, -1, 10**9, 2**70, 0.5, float("nan"), "x", [], {}, torch.zeros(0), torch.zeros(7, 7), {"a": {}}]
        table[key] = chance.choice([*other, Payload(shop.canary), table[chance.choice(list(table))]])
        if chance.random() < 0.2:
            del table[key]
        elif isinstance(table[key], dict) and table[key] and chance.random() < 0.5:
            table[key] = {**table[key], chance.choice(list(table[key])): chance.choice(other)}
        buffer = io.BytesIO()
        torch.save(table, buffer)
        content = buffer.getvalue()
    else:
        content = damaged(content, chance)
    if forged:
        path.unlink()
        path = path.with_name(f"{path.name.split('.')[0]}.{hashlib.sha256(content).hexdigest()[:16]}.pt")
    put(path, content, chance)
    return _use(shop, chance.choice(USES[folder]), forged=forged)


def _evaluated(case: Path, changed: bool = False) -> Evaluation:
    return evaluate(case / "finished", changed=changed)


def _resumed(case: Path, changed: bool = False) -> tuple[Result, str]:
    result = resume(case / "stopped", changed=changed, progress=False)
    weights = torch.load(case / "stopped" / "model.pt", weights_only=True)
    return result, repr({key: value.tolist() for key, value in weights.items()})


def _gathered(case: Path) -> Any:
    return [{**each.to_dict(), "created": ""} for each in gather([case / "finished"])]


def _kept(case: Path) -> Any:
    config = Config.load(case / "finished" / "config.toml")
    job = Job("", Resolved(config, ()), case / "finished")
    return job.changes(), job.differences(), job.finished()


def _compared(case: Path) -> Any:
    return Comparison.load(case / "compared").to_dict()


ACTIONS: dict[str, Callable[[Path], Any]] = {
    "evaluate": _evaluated,
    "evaluate --changed": lambda case: _evaluated(case, changed=True),
    "gather": _gathered,
    "keep": _kept,
    "resume": _resumed,
    "resume --changed": lambda case: _resumed(case, changed=True),
    "load": _compared,
}
USES = {
    "finished": ("evaluate", "evaluate", "evaluate --changed", "gather", "keep"),
    "stopped": ("resume", "resume", "resume --changed"),
    "compared": ("load",),
}


def _use(shop: Workshop, action: str, *, forged: bool = False) -> str:
    """Use a run or a comparison again: what comes is what came before, or there is a note."""
    with _quiet():
        found = ACTIONS[action](shop.case)
    sound = shop.sound[action]
    if repr(found) == repr(sound) or forged:
        return "as before"
    said: Any = found[0] if isinstance(found, tuple) else found
    if action == "keep" and said:
        return "noted"
    if getattr(said, "notes", ()):
        return "noted"
    if action == "gather" and (said[0]["arms"][0]["notes"] or said[0]["arms"][0]["runs"][0]["status"] == "failed"):
        return "noted"
    _same(found, sound, f"{action}: accepted without a note, and with another result")
    return "as before"


def _same(found: object, wanted: object, message: str) -> None:
    first, second = repr(found), repr(wanted)
    if first != second:
        differ = (place for place, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1])
        at = max(0, next(differ, min(len(first), len(second))) - 60)
        raise CaseError(f"{message}:\n... {first[at : at + 160]}\n... {second[at : at + 160]}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stderr(io.StringIO()):
        yield


KINDS: dict[str, Callable[[Workshop, random.Random], str]] = {
    "configuration": configurations,
    "label": labels,
    "npz": archives,
    "idx": pictures,
    "cifar": batches,
    "run": runs,
    "checkpoint": checkpoints,
}


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise HangError after so many seconds."""

    def stop(number: int, frame: object) -> None:
        raise HangError(f"no end within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def attempt(shop: Workshop, kind: str, number: int, seed: int, seconds: float) -> tuple[str, str]:
    """One case: what came of it, and how it failed ("" where it did not)."""
    shop.renew()
    chance, memory = random.Random(f"{seed} {kind} {number}"), _megabytes()
    outcome, failure = "refused", ""
    try:
        with warnings.catch_warnings(), limited(seconds):
            warnings.simplefilter("ignore")
            outcome = KINDS[kind](shop, chance)
    except ApicalError as error:
        if not str(error).strip():
            failure = "a refusal without words"
    except (Exception, HangError):
        outcome, failure = "failed", traceback.format_exc()
    if shop.canary.exists():
        shop.canary.rmdir()
        failure += "something in the file was run"
    if _megabytes() - memory > MEGABYTES:
        failure += f"it took {_megabytes() - memory:.0f} MB"
    return outcome, failure


def fuzz(
    cases: int, seed: int = 0, seconds: float = SECONDS, only: str = ""
) -> tuple[dict[str, Counter[str]], dict[str, str]]:
    """Try cases of all kinds in turn.

    Args:
        cases: how many.
        seed: of the random numbers.
        seconds: that one may take.
        only: `KIND:NUMBER` of a single one.

    Returns:
        How often each outcome came, by kind; and the failures, by `KIND:NUMBER`.
    """
    threads, level = torch.get_num_threads(), logging.getLogger("apical").level
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    failures: dict[str, str] = {}
    plan = [(kind, number) for number in range(-(-cases // len(KINDS))) for kind in KINDS][:cases]
    if only:
        kind, _, text = only.partition(":")
        plan = [(kind, int(text))]
    torch.set_num_threads(1)
    logging.getLogger("apical").setLevel("CRITICAL")
    with tempfile.TemporaryDirectory() as folder:
        shop = Workshop(Path(folder))
        shop.build()
        for kind, number in plan:
            outcome, failure = attempt(shop, kind, number, seed, seconds)
            counts[kind][outcome] += 1
            if failure:
                failures[f"{kind}:{number}"] = failure
    torch.set_num_threads(threads)
    logging.getLogger("apical").setLevel(level)
    return counts, failures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=CASES, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="that one case may take")
    parser.add_argument("--only", default="", metavar="KIND:NUMBER", help="one case again")
    given = parser.parse_args()
    started = time.monotonic()
    counts, failures = fuzz(given.cases, given.seed, given.seconds, given.only)
    for kind, found in counts.items():
        print(f"{kind:14} {', '.join(f'{count} {outcome}' for outcome, count in sorted(found.items()))}")
    for name, failure in failures.items():
        print(f"\n{name}\n{failure}")
    print(f"{len(failures)} failures in {time.monotonic() - started:.0f} s")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
