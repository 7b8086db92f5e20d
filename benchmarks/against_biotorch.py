"""The same training step with BioTorch's layers and with apical's, both beside plain PyTorch and in turns.

    pip install --no-deps biotorch          # for this benchmark alone; apical never needs it
    python benchmarks/against_biotorch.py

Both make their network from the same plain one. What apical checks for NaN and infinity it checks here, too.
"""

import argparse
import contextlib
import copy
import importlib.util
import io
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import apical
from apical.measure import benchmark
from apical.measure.cost import sgd

# BioTorch's name of a rule, and ours.
PAIRS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("fa", "feedback_alignment", {}),
    ("dfa", "direct_feedback_alignment", {}),
    ("usf", "sign_symmetry", {"magnitude": "uniform"}),
    ("brsf", "sign_symmetry", {"magnitude": "batchwise"}),
    ("frsf", "sign_symmetry", {"magnitude": "fixed"}),
)
WARMUP = 3

Forward = Callable[[Tensor, Tensor], Tensor]


def biotorch_network(model: nn.Module, mode: str, outputs: int) -> nn.Module:
    """A copy of the network with BioTorch's layers, silently."""
    from biotorch.module.biomodule import BioModule  # type: ignore[import-not-found]

    with contextlib.redirect_stdout(io.StringIO()):
        converted: nn.Module = BioModule(copy.deepcopy(model), mode=mode, output_dim=outputs)
    return converted


def stepper(network: nn.Module, loss: Forward, y: Tensor, x: Tensor) -> Callable[[], None]:
    optimizer = sgd([parameter for parameter in network.parameters() if parameter.requires_grad])

    def step() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(loss(x, y))
        optimizer.step()

    return step


def plain_loss(network: nn.Module) -> Forward:
    return lambda x, y: F.cross_entropy(network(x), y)


def direct_loss(network: nn.Module) -> Forward:
    # BioTorch's direct feedback takes the targets and the loss in its forward pass, where it keeps the loss's gradient.
    return lambda x, y: F.cross_entropy(network(x, y, F.cross_entropy), y)


def compare(name: str, batch_size: int, turns: int) -> dict[str, float]:
    """Median ratio to plain PyTorch of each library's step, by `LIBRARY RULE`."""
    network = benchmark.network(name)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch_size, *network.input_shape, generator=generator)
    y = torch.randint(0, benchmark.CLASSES, (batch_size,), generator=generator)
    model = network.build()
    plain = copy.deepcopy(model)
    arms = {"plain": stepper(plain, plain_loss(plain), y, x)}
    for theirs, ours, options in PAIRS:
        other = biotorch_network(model, theirs, benchmark.CLASSES)
        arms[f"biotorch {theirs}"] = stepper(other, (direct_loss if theirs == "dfa" else plain_loss)(other), y, x)
        circuit = apical.Circuit(copy.deepcopy(model), apical.rules.make(ours, **options))
        circuit(x)
        arms[f"apical {theirs}"] = stepper(circuit, plain_loss(circuit), y, x)
    times: dict[str, list[float]] = {arm: [] for arm in arms}
    names = list(arms)
    for turn in range(turns + WARMUP):
        first = turn % len(names)
        for arm in names[first:] + names[:first]:
            started = time.perf_counter()
            arms[arm]()
            times[arm].append(time.perf_counter() - started)
    reference = times["plain"][WARMUP:]
    return {
        arm: statistics.median(own / other for own, other in zip(times[arm][WARMUP:], reference, strict=True))
        for arm in names
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="mlp,lenet")
    parser.add_argument("--batches", default="8,128")
    parser.add_argument("--turns", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    if importlib.util.find_spec("biotorch") is None:
        print("BioTorch is not installed, so there is nothing to compare with: pip install --no-deps biotorch")
        return
    torch.set_num_threads(chosen.threads)
    warnings.filterwarnings("ignore", category=FutureWarning)  # of PyTorch, about BioTorch's hooks
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
    for name in chosen.networks.split(","):
        for size in (int(part) for part in chosen.batches.split(",")):
            ratios = compare(name, size, chosen.turns)
            print(f"{benchmark.network(name).title}, batch {size}, {chosen.threads} thread(s)")
            print("  rule      BioTorch    apical")
            for rule, _, _ in PAIRS:
                print(f"  {rule:<6} {ratios[f'biotorch {rule}']:>10.3f} {ratios[f'apical {rule}']:>9.3f}")


if __name__ == "__main__":
    main()
