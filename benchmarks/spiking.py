"""The time of a training step of spiking circuits, as a ratio to a step of the same network of rates in plain PyTorch.

    python benchmarks/spiking.py                    # 784-1000-10, 25 moments, batch 128, one thread
    python benchmarks/spiking.py --snntorch         # beside snnTorch's usual loop (pip install --no-deps snntorch)

All arms take their steps in turn, in one run; a figure is the median of the ratios of neighbours, with quartiles. The
time is the processor's, so that other work on the machine matters little. Memory is that of the tensors that a step
keeps, for so many moments and for twice as many.
"""

import argparse
import gc
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

import apical
from apical import neurons
from apical.statistics import quartiles

INPUTS, HIDDEN, CLASSES = 784, 1000, 10


def spiking(early: bool = False) -> nn.Module:
    torch.manual_seed(0)
    first = [nn.Linear(INPUTS, HIDDEN), neurons.LIF(0.9, 1.0, reset="subtract")]
    if early:
        return nn.Sequential(*first, neurons.LeakyReadout(0.0), nn.Linear(HIDDEN, CLASSES))
    return nn.Sequential(*first, nn.Linear(HIDDEN, CLASSES), neurons.LeakyReadout(0.9))


def rates() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))


def step(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

    def take() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return take


class SnnTorch(nn.Module):
    """snnTorch's usual loop over time."""

    def __init__(self) -> None:
        import snntorch

        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(INPUTS, HIDDEN), nn.Linear(HIDDEN, CLASSES)
        self.hidden = snntorch.Leaky(beta=0.9)
        self.readout = snntorch.Leaky(beta=0.9, reset_mechanism="none")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, two, found = self.hidden.init_leaky(), self.readout.init_leaky(), []
        for moment in x:
            spikes, one = self.hidden(self.first(moment), one)
            _, two = self.readout(self.last(spikes), two)
            found.append(two)
        return torch.stack(found).mean(0)


def arms(moments: int, batch: int, snntorch: bool) -> dict[str, Callable[[], None]]:
    x, y = torch.rand(batch, INPUTS), torch.arange(batch) % CLASSES
    constant, changing = x.expand(moments, *x.shape), torch.rand(moments, batch, INPUTS)
    found = {"rates, plain PyTorch": step(rates(), x, y)}
    for rule in ("backprop", "feedback_alignment", "e_prop", "direct_feedback_alignment", "burst_ccn"):
        found[f"{rule}, constant input"] = step(apical.Circuit(spiking(), rule), constant, y)
    found["backprop, averaged before the last layer"] = step(apical.Circuit(spiking(True), "backprop"), constant, y)
    found["backprop, changing input"] = step(apical.Circuit(spiking(), "backprop"), changing, y)
    if snntorch:
        found["snnTorch, constant input"] = step(SnnTorch(), constant, y)
        found["snnTorch, changing input"] = step(SnnTorch(), changing, y)
    return found


def measure(steps: dict[str, Callable[[], None]], turns: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(turns + 2):
        for name, take in steps.items():
            gc.disable()
            before = time.process_time()
            take()
            spent = time.process_time() - before
            gc.enable()
            if turn >= 2:
                times[name].append(spent)
    return times


def kept(moments: int, batch: int, constant: bool) -> int:
    """Bytes of the tensors that a forward pass keeps for the backward pass, without the weights and the input."""
    circuit = apical.Circuit(spiking(), "backprop")
    x = torch.rand(1 if constant else moments, batch, INPUTS).expand(moments, batch, INPUTS)
    given = {own.untyped_storage().data_ptr() for own in (*circuit.parameters(), x)}
    memory: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in given:
            memory[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        circuit(x)
    return sum(memory.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=25)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--snntorch", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    times = measure(arms(options.moments, options.batch, options.snntorch), options.turns)
    plain = times["rates, plain PyTorch"]
    print(
        f"784-1000-10, {options.moments} moments, batch {options.batch}, one thread; plain: {1e3 * min(plain):.1f} ms"
    )
    for name, own in times.items():
        low, middle, high = quartiles([a / b for a, b in zip(own, plain, strict=True)])
        print(f"{middle:7.2f} ({low:.2f} to {high:.2f})  {name}")
    unit = 4 * options.batch * HIDDEN
    for constant in (True, False):
        one, two = (kept(moments, options.batch, constant) / unit for moments in (options.moments, 2 * options.moments))
        print(
            f"kept for the backward pass, {'constant' if constant else 'changing'} input: {one:.1f} numbers a hidden "
            f"neuron and sample; {two:.1f} for twice as many moments"
        )


if __name__ == "__main__":
    main()
