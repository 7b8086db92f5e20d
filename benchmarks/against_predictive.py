"""The same step of predictive coding with apical, with Torch2PC's method and with the JAX libraries, in turns.

    python benchmarks/against_predictive.py
    python benchmarks/against_predictive.py --jax-python PATH/bin/python --jax-python OTHER/bin/python

pcx and fabricpc want different versions of JAX, so each sits in a virtual environment of its own (pip install pcx;
pip install fabricpc), and this program asks a worker there, `against_predictive_jax.py`, for its turns. apical never
needs either. Everything runs on one core.

Every arm does the same: a tanh or ReLU network with values at the somas, half the squared error, as many steps of
inference at the same rate, and one step of SGD. What it takes off the weights is compared with what apical's does.
"""

import argparse
import copy
import itertools
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import apical
from apical.statistics import quartiles

WORKER = Path(__file__).with_name("against_predictive_jax.py")
WARMUP = 3
SIZES = (784, 512, 512, 10)

Blocks = Sequence[nn.Module]


def network(activation: str) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for index, (below, above) in enumerate(itertools.pairwise(SIZES)):
        layers += [{"tanh": nn.Tanh, "relu": nn.ReLU}[activation]()] * bool(index) + [nn.Linear(below, above)]
    return nn.Sequential(*layers)


def squares(y: Tensor, target: Tensor) -> Tensor:
    return (y - target).square().sum() / (2 * len(y))


# Torch2PC's method, written anew: modules in a Python loop, and at every step of inference every layer's forward pass
# and its product with the error above once more, both by autograd.


def pulled(block: nn.Module, value: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    """A block's answer to a value, and an error there carried down to the value."""
    value = value.detach().requires_grad_()
    answer = block(value)
    (below,) = torch.autograd.grad(answer, value, error)
    return answer.detach(), below


def learn(blocks: Blocks, values: Sequence[Tensor], errors: Sequence[Tensor]) -> None:
    for block, value, error in zip(blocks, values, errors, strict=True):
        torch.autograd.backward(block(value.detach()), error)


def autograd_fixed(blocks: Blocks, x: Tensor, target: Tensor, steps: int, rate: float) -> None:
    values = [x]
    with torch.no_grad():
        for block in blocks:
            values.append(block(values[-1]))
    free = values[-1].detach().requires_grad_()
    (top,) = torch.autograd.grad(squares(free, target), free)
    errors = [torch.zeros_like(value) for value in values[1:-1]] + [top]
    for _ in range(steps):
        arrived = [
            pulled(block, value, error)[1]
            for block, value, error in zip(blocks[1:], values[1:-1], errors[1:], strict=True)
        ]
        errors[:-1] = [error + rate * (below - error) for error, below in zip(errors[:-1], arrived, strict=True)]
    learn(blocks, values[:-1], errors)


def autograd_strict(blocks: Blocks, x: Tensor, target: Tensor, steps: int, rate: float) -> None:
    values = [x]
    with torch.no_grad():
        for block in blocks:
            values.append(block(values[-1]))
    predictions = values[1:]

    def errors() -> list[Tensor]:
        hidden = [a - v for a, v in zip(predictions[:-1], values[1:-1], strict=True)]
        return [*hidden, predictions[-1] - target]

    found = errors()
    for _ in range(steps):
        moved = []
        for place in range(len(found) - 1):
            _, below = pulled(blocks[place + 1], values[place + 1], found[place + 1])
            moved.append(values[place + 1] + rate * (found[place] - below))
        values[1:-1] = moved
        with torch.no_grad():
            predictions = [block(value) for block, value in zip(blocks, values[:-1], strict=True)]
        found = errors()
    learn(blocks, values[:-1], [error / len(x) for error in found])


# The arms


class Torch:
    """Arms of this Python."""

    def __init__(self, model: nn.Sequential, x: Tensor, target: Tensor, steps: int, rate: float) -> None:
        self.x, self.target = x, target
        how = {"steps": steps, "rate": rate}
        rules = {
            "apical fixed_prediction": apical.PredictiveCoding(**how),  # type: ignore[arg-type]
            "apical strict": apical.PredictiveCoding(variant="strict", loss="squared_error", **how),  # type: ignore
            "apical error_optimised": apical.PredictiveCoding(
                variant="error_optimised",
                loss="squared_error",
                **how,  # type: ignore[arg-type]
            ),
        }
        self.networks: dict[str, nn.Module] = {"PyTorch backprop": copy.deepcopy(model)}
        self.teach: dict[str, Callable[[nn.Module], None]] = {"PyTorch backprop": self._by_loss}
        for name, rule in rules.items():
            self.networks[name] = apical.Circuit(copy.deepcopy(model), rule)
            self.teach[name] = self._by_loss
        for name, method in (("autograd fixed", autograd_fixed), ("autograd strict", autograd_strict)):
            own = copy.deepcopy(model)
            blocks = [nn.Sequential(*own[max(0, place - 1) : place + 1]) for place in range(0, len(own), 2)]
            self.networks[f"Torch2PC's method, {name.split()[1]}"] = own
            self.teach[f"Torch2PC's method, {name.split()[1]}"] = (
                lambda _, method=method, blocks=blocks: method(blocks, x, target, steps, rate)  # type: ignore[misc]
            )
        self.optimizers = {
            name: torch.optim.SGD(list(net.parameters()), lr=1e-4) for name, net in self.networks.items()
        }

    def _by_loss(self, net: nn.Module) -> None:
        torch.autograd.backward(squares(net(self.x), self.target))

    def update(self, name: str) -> np.ndarray:
        net = self.networks[name]
        net.zero_grad()
        self.teach[name](net)
        found = [parameter.grad.flatten() for parameter in net.parameters() if parameter.grad is not None]
        return torch.cat(found).numpy()

    def seconds(self, name: str, count: int) -> float:
        net, optimizer = self.networks[name], self.optimizers[name]
        started = time.perf_counter()
        for _ in range(count):
            optimizer.zero_grad()
            self.teach[name](net)
            optimizer.step()
        return (time.perf_counter() - started) / count


class Worker:
    """Arms of another Python."""

    def __init__(self, python: str, data: Path, steps: int, rate: float, activation: str) -> None:
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
        self.folder = data.parent
        self.process = subprocess.Popen(
            [
                *(python, str(WORKER), str(data)),
                *("--steps", str(steps), "--rate", str(rate), "--activation", activation),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            bufsize=1,
        )
        self.arms: dict[str, dict[str, str | None]] = self.ask(do="arms")

    def ask(self, **request: object) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the worker ended at {request}; what it said is above")
        return json.loads(line)

    def update(self, name: str) -> np.ndarray:
        with np.load(self.ask(do="update", arm=name, to=str(self.folder / "update.npz"))) as found:
            return np.concatenate([found[key].ravel() for key in found])

    def seconds(self, name: str, count: int) -> float:
        return float(self.ask(do="time", arm=name, count=count))

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def batch(size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, SIZES[0], generator=generator)
    return x, torch.eye(SIZES[-1])[torch.randint(0, SIZES[-1], (size,), generator=generator)]


def write(model: nn.Sequential, x: Tensor, target: Tensor, path: Path) -> None:
    kept = {"x": x.numpy(), "y": target.numpy()}
    for index, layer in enumerate(model[::2]):
        kept[f"weight{index}"] = layer.weight.detach().numpy()
        kept[f"bias{index}"] = layer.bias.detach().numpy()
    np.savez(path, **kept)  # type: ignore[arg-type]


REFERENCES = {"fixed": "apical fixed_prediction", "strict": "apical strict", "backprop": "PyTorch backprop"}
"""What an arm's update is compared with: the first of these words in its name says which."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jax-python", action="append", default=[], help="of an environment with pcx or fabricpc")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--activation", choices=("tanh", "relu"), default="tanh")
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--count", type=int, default=3, help="steps in a turn of an arm")
    parser.add_argument("--core", type=int, help="to run on; the last one allowed, if not given")
    chosen = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0)) if chosen.core is None else chosen.core})
    torch.set_num_threads(1)
    model, (x, target) = network(chosen.activation), batch(chosen.batch)
    here = Torch(model, x, target, chosen.steps, chosen.rate)
    places: dict[str, tuple[Torch | Worker, str]] = {name: (here, name) for name in here.networks}
    missing = {"pcx", "fabricpc"}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.npz"
        write(model, x, target, data)
        workers = [Worker(python, data, chosen.steps, chosen.rate, chosen.activation) for python in chosen.jax_python]
        for worker in workers:
            for name, about in worker.arms.items():
                if about["version"] is not None:
                    label = (
                        f"JAX {about['jax']} {name}" if about["package"] == "jax" else f"{name} ({about['version']})"
                    )
                    places[label] = (worker, name)
                    missing -= {str(about["package"])}
        updates = {label: place.update(name) for label, (place, name) in places.items()}
        times: dict[str, list[float]] = {label: [] for label in places}
        labels = list(places)
        for turn in range(chosen.turns + WARMUP):
            first = turn % len(labels)
            for label in labels[first:] + labels[:first]:
                place, name = places[label]
                times[label].append(place.seconds(name, chosen.count))
        for worker in workers:
            worker.close()
    report(times, updates)
    for package in sorted(missing):
        print(f"{package}: not installed in any environment named by --jax-python, so not measured")


def report(times: dict[str, list[float]], updates: dict[str, np.ndarray]) -> None:
    plain = times["PyTorch backprop"][WARMUP:]
    print(f"{'':52} {'ms':>7} {'ratio':>6} {'quartiles':>13}   difference from")
    for label, taken in times.items():
        ratios = [own / other for own, other in zip(taken[WARMUP:], plain, strict=True)]
        low, middle, high = quartiles(ratios)
        reference = next((of for word, of in REFERENCES.items() if word in label), None)
        said = ""
        if reference is not None and reference != label:
            away = np.linalg.norm(updates[label] - updates[reference]) / np.linalg.norm(updates[reference])
            said = f"{away:.1e} {reference}"
        milliseconds = 1e3 * statistics.median(taken[WARMUP:])
        print(f"{label:52} {milliseconds:7.2f} {middle:6.2f} {f'{low:.2f}-{high:.2f}':>13}   {said}")


if __name__ == "__main__":
    main()
