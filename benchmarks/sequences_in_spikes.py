"""Sequences that are spikes themselves: spoken digits and recordings of an event camera, the test set once at the end.

    python benchmarks/sequences_in_spikes.py --task spoken --network recurrent --out sequences.jsonl
    python benchmarks/sequences_in_spikes.py --task camera --network feedforward --out sequences.jsonl

spoken: the Free Spoken Digits with their official split (recordings 0 to 4 of a speaker and digit are the test set).
The spectrum in 32 mel bands, its logarithm cut to 50 moments, crosses a threshold up or down: 64 trains of spikes.
camera: 1,000 and 100 recordings of N-MNIST in 30 moments, at most one event for a pixel, sign and moment.

Networks of 200 neurons: leaky, feed-forward; or with an adaptive threshold and recurrent synapses. Beside them a linear
read-out of the input's mean over time, which knows no order of events. Every arm: Adam, a learning rate falling to 0
along a cosine, chosen out of the same five by the accuracy on a fifth of the training recordings, with a seed that is
not reported; then trained on the other four fifths with the seeds that are. A line of JSON a run, in the file of --out;
a run that is there already is not repeated.
"""

import argparse
import json
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import apical
from apical import data, neurons
from apical.data import Examples
from apical.errors import CircuitError
from apical.statistics import Spread, paired
from apical.study.configuration import RuleConfig

RULES = "backprop,e_prop:feedback=symmetric,e_prop:feedback=random,e_prop:feedback=adaptive,feedback_alignment,"
RULES += "direct_feedback_alignment,kolen_pollack,naca"
MEAN = "linear read-out of the mean input"
RATES = (0.001, 0.003, 0.01, 0.03, 0.1)
TUNING_SEED = 1000
BANDS, WINDOW, HOP = 32, 256, 80


def mel(bands: int, bins: int, rate: int) -> Tensor:
    """Triangles that are equally wide on the mel scale, (bands, bins)."""
    edges = torch.linspace(0, 2595 * np.log10(1 + rate / 2 / 700), bands + 2)
    hertz = 700 * (10 ** (edges / 2595) - 1)
    at = torch.linspace(0, rate / 2, bins)
    low, middle, high = hertz[:-2, None], hertz[1:-1, None], hertz[2:, None]
    return torch.minimum((at - low) / (middle - low), (high - at) / (high - middle)).clamp(min=0)


def spoken(folder: Path) -> tuple[Examples, Examples, Examples]:
    """Training, validation and test recordings, (recordings, moments, trains of spikes)."""
    with np.load(folder / "fsdd" / "fsdd_audio.npz") as file:
        audio, offsets = file["audio"].astype(np.float32) / 2**15, file["offsets"]
        index, label, rate = file["index"], torch.from_numpy(file["label"].astype(np.int64)), int(file["sample_rate"])
    filters = mel(BANDS, WINDOW // 2 + 1, rate)
    window = torch.hann_window(WINDOW)
    found = []
    for start, end in pairwise(offsets):
        one = torch.from_numpy(audio[start:end])
        power = torch.stft(F.pad(one, (0, WINDOW)), WINDOW, HOP, window=window, return_complex=True).abs() ** 2
        level = torch.log(filters @ power + 1e-4)
        found.append(F.adaptive_avg_pool1d(level[None], 50)[0].T)
    crossed = neurons.encoders.threshold_crossing(torch.stack(found, 1), 1.0).flatten(2).transpose(0, 1)
    index = torch.from_numpy(index.astype(np.int64))
    parts = (index >= 5) & (index < 41), index >= 41, index < 5
    return tuple(Examples(crossed[part].contiguous(), label[part]) for part in parts)


def camera(folder: Path) -> tuple[Examples, Examples, Examples]:
    """Training, validation and test recordings, (recordings, moments, signs x rows x columns)."""
    with np.load(folder / "nmnist" / "nmnist_small.npz") as file:
        at, offsets = (
            {name: file[name].astype(np.int64) for name in ("ev_x", "ev_y", "ev_p", "ev_t_us")},
            file["offsets"],
        )
        label, trains = torch.from_numpy(file["label"].astype(np.int64)), file["is_train"]
    places = torch.from_numpy((at["ev_p"] * 34 + at["ev_y"]) * 34 + at["ev_x"])
    times = torch.from_numpy(at["ev_t_us"])
    found = torch.stack(
        [
            neurons.encoders.frames(times[start:end], places[start:end], 30, shape=(2 * 34 * 34,), duration=300_000)
            for start, end in pairwise(offsets)
        ]
    ).clamp(max=1)
    train, test = np.flatnonzero(trains), np.flatnonzero(~trains)
    cut = len(train) * 4 // 5
    return tuple(Examples(found[part], label[part]) for part in (train[:cut], train[cut:], test))


TASKS: dict[str, Callable[[Path], tuple[Examples, Examples, Examples]]] = {"spoken": spoken, "camera": camera}


class Mean(nn.Module):
    """A linear read-out of the mean over time."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.readout = nn.Linear(inputs, 10)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.readout(x.mean(0))
        return answer


def network(label: str, kind: str, example: Tensor) -> nn.Module:
    inputs = example.shape[-1]
    if label == MEAN:
        return Mean(inputs)
    hidden = (
        neurons.ALIF(0.9, 1.0, reset="subtract", recurrent=nn.Linear(200, 200, bias=False))
        if kind == "recurrent"
        else neurons.LIF(0.9, 1.0, reset="subtract")
    )
    model = nn.Sequential(nn.Linear(inputs, 200), hidden, nn.Linear(200, 10), neurons.LeakyReadout(0.9))
    return apical.Circuit(model, RuleConfig.parse(label).make(), example=example)


def accuracy(model: nn.Module, examples: Examples) -> float:
    model.eval()
    with torch.no_grad():
        right = sum(
            (model(x.transpose(0, 1).contiguous()).argmax(1) == y).sum().item() for x, y in data.batches(examples, 500)
        )
    return right / len(examples)


def run(label: str, kind: str, seed: int, rate: float, epochs: int, parts: tuple[Examples, Examples, Examples]) -> dict:
    train, validation, test = parts
    torch.manual_seed(seed)
    model = network(label, kind, train.x[:2].transpose(0, 1).contiguous())
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(train) // 64))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        model.train()
        for x, y in data.batches(train, 64, generator=generator):
            optimizer.zero_grad()
            F.cross_entropy(model(x.transpose(0, 1).contiguous()), y).backward()
            optimizer.step()
            scheduler.step()
    record = {"validation": accuracy(model, validation)}
    return record if seed == TUNING_SEED else record | {"test": accuracy(model, test)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, default="spoken")
    parser.add_argument("--network", choices=("feedforward", "recurrent"), default="feedforward")
    parser.add_argument("--rules", default=RULES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--data", type=Path, default=os.environ.get("APICAL_DATA"), help="default: $APICAL_DATA")
    parser.add_argument("--out", type=Path, default=Path("sequences.jsonl"))
    options = parser.parse_args()
    if options.data is None:
        parser.error("no folder of data: set APICAL_DATA or give --data")
    torch.set_num_threads(1)
    parts = TASKS[options.task](Path(options.data))
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    done = {json.dumps(one["run"]): one for one in map(json.loads, lines)}
    arms = {}
    for label in [MEAN, *options.rules.split(",")]:
        kind = "none" if label == MEAN else options.network

        def measured(seed: int, rate: float, label: str = label, kind: str = kind) -> dict:
            key = {"task": options.task, "network": kind, "rule": label, "epochs": options.epochs}
            key |= {"seed": seed, "rate": rate}
            if json.dumps(key) not in done:
                found = {"run": key, **run(label, kind, seed, rate, options.epochs, parts)}
                done[json.dumps(key)] = found
                with options.out.open("a") as file:
                    file.write(json.dumps(found) + "\n")
            return done[json.dumps(key)]

        try:
            rate = max(RATES, key=lambda rate: measured(TUNING_SEED, rate)["validation"])
        except CircuitError as error:
            print(f"{label:40s} refused: {error}", flush=True)
            continue
        arms[label] = [measured(seed, rate)["test"] for seed in range(options.seeds)]
        print(f"{label:40s} {rate:6g} {Spread.of(arms[label]).text(1, unit=' %', factor=100)}", flush=True)
    for label, found in arms.items():
        if label != "backprop" and "backprop" in arms and len(found) > 1:
            low, high = paired(found, arms["backprop"]).confidence()
            print(f"{label:40s} beside backprop: {100 * low:+.1f} to {100 * high:+.1f} points")


if __name__ == "__main__":
    main()
