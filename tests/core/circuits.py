"""The two tables that the core's tests run over: small networks, and learning rules with their options."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import apical

CLASSES = 5


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, CLASSES))


def deep_tanh() -> nn.Module:
    hidden = [layer for _ in range(4) for layer in (nn.Linear(9, 9), nn.Tanh())]
    return nn.Sequential(nn.Linear(7, 9), nn.Tanh(), *hidden, nn.Linear(9, CLASSES))


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Dropout2d(0.2),
        nn.Conv2d(6, 8, 3, stride=2, padding="valid", groups=2),
        nn.BatchNorm2d(8, affine=False),
        nn.LeakyReLU(0.1),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(8, CLASSES),
    )


class Line(nn.Module):
    """Convolutions over a line, with functional calls, and nothing that depends on the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(3, 8, 5, padding=2, padding_mode="circular")
        self.norm = nn.GroupNorm(2, 8)
        self.second = nn.Conv1d(8, 6, 3, stride=2, dilation=2)
        self.pool = nn.AvgPool1d(2)
        self.readout = nn.Linear(18, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.gelu(self.norm(self.first(x))))
        x = F.softplus(self.second(x))
        return self.readout(x.view(x.size(0), -1))


class BasicBlock(nn.Module):
    """The block of He et al. 2015, with a projection where the shapes differ."""

    def __init__(self, inputs: int, units: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, units, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(units)
        self.conv2 = nn.Conv2d(units, units, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(units)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != units:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, units, 1, stride, bias=False), nn.BatchNorm2d(units))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.blocks = nn.ModuleList([BasicBlock(4, 4, 1), BasicBlock(4, 6, 2)])
        self.readout = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.readout(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class PreActivation(nn.Module):
    """Batch norm and activation after the sum: a junction with parameters of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(7, 9)
        self.norms = nn.ModuleList(nn.BatchNorm1d(9) for _ in range(3))
        self.hidden = nn.ModuleList(nn.Linear(9, 9) for _ in range(2))
        self.drop = nn.Dropout(0.2)
        self.readout = nn.Linear(9, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, layer in zip(self.norms[:2], self.hidden, strict=True):
            x = x + layer(self.drop(F.elu(norm(x))))
        return self.readout(F.elu(self.norms[2](x)))


class Branching(nn.Module):
    """Rates that part and are concatenated, summed and gated, with norms that see one sample at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(7, 8)
        self.left = nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4), nn.SiLU())
        self.right = nn.Sequential(nn.Linear(8, 6), nn.Sigmoid())
        self.merge = nn.Linear(18, 8)
        self.norm = nn.LayerNorm(8)
        self.gate = nn.Linear(8, 8)
        self.readout = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        both = torch.cat([self.left(x), self.right(x), x], dim=1)
        x = self.norm(x + self.merge(both))
        return self.readout(F.relu(x) * torch.sigmoid(self.gate(x)))


def nested() -> nn.Module:
    inner = nn.Sequential(nn.Linear(8, 6), nn.Sequential(nn.Hardtanh(), nn.Identity()), nn.Linear(6, 6))
    return nn.Sequential(
        nn.Sequential(nn.Linear(7, 8), nn.ReLU()), inner, nn.PReLU(), nn.Sequential(nn.Linear(6, CLASSES))
    )


@dataclass(frozen=True)
class Network:
    """One row of the table.

    Attributes:
        make: the model, from torch's generator.
        shape: of one input.
        one_by_one: whether the answer to a sample depends on this sample alone, and on no draw.
        synapses: module paths of the layers, in the order in which they answer.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    one_by_one: bool
    synapses: tuple[str, ...]

    def build(self, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        return self.make()

    def batch(self, samples: int = 8, seed: int = 1) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn((samples, *self.shape), generator=generator)
        return x, torch.randint(0, CLASSES, (samples,), generator=generator)


NETWORKS: dict[str, Network] = {
    "mlp": Network(mlp, (3, 4), True, ("1", "3", "5")),
    "deep_tanh": Network(deep_tanh, (7,), True, ("0", "2", "4", "6", "8", "10")),
    "conv": Network(conv, (2, 6, 6), False, ("0", "5", "10")),
    "line": Network(Line, (3, 18), True, ("first", "second", "readout")),
    "residual": Network(
        Residual,
        (2, 5, 5),
        False,
        (
            "stem",
            *("blocks.0.conv1", "blocks.0.conv2", "blocks.1.conv1", "blocks.1.conv2", "blocks.1.shortcut.0"),
            "readout",
        ),
    ),
    "pre_activation": Network(PreActivation, (7,), False, ("stem", "hidden.0", "hidden.1", "readout")),
    "branching": Network(Branching, (7,), True, ("stem", "left.0", "right.0", "merge", "gate", "readout")),
    "nested": Network(nested, (7,), True, ("0.0", "1.0", "1.2", "3.0")),
}


@dataclass(frozen=True)
class Row:
    """A rule with options.

    Attributes:
        name: in the registry.
        options: of the constructor.
        redraws: whether two passes over the same weights and the same batch may differ, since the rule draws
            anew, or changes its own state, in between.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    redraws: bool = False

    def make(self, **more: Any) -> apical.LearningRule:
        return apical.rules.make(self.name, **{**self.options, **more})

    @property
    def seeded(self) -> bool:
        return "seed" in apical.rules.get(self.name).option_names()

    def __str__(self) -> str:
        options = ",".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.name}[{options}]" if options else self.name


# Every registered rule is in the table with its defaults; here are the options that deserve a row of their own.
_REDRAWS = {"weight_mirror", "three_factor"}
# Hidden layers learn from their own state: no derivative of a neuron enters, and its own parameters rest.
HEBBIAN = frozenset({"oja", "soft_hebb", "three_factor"})
# While they train, units answer with noise, and so with other choices and rewards than the model alone.
EXPLORES = frozenset({"three_factor"})
# What a rule cannot teach; it must refuse it, with the reason (whose words a test of its own looks at).
_REFUSES: dict[str, tuple[str, ...]] = {}
_VARIANTS = [
    Row("feedback_alignment", {"init": "weights"}),
    Row("feedback_alignment", {"init": "xavier", "scale": 0.5}),
    Row("sign_symmetry", {"magnitude": "batchwise"}, redraws=True),
    Row("sign_symmetry", {"magnitude": "fixed", "init": "xavier"}),
    Row("kolen_pollack", {"init": "weights"}),
    Row("weight_mirror", {"every": 1, "rate": 0.1}, redraws=True),
    Row("direct_feedback_alignment", {"init": "outputs"}),
    Row("brainprop", {"feedback": "fixed", "init": "xavier", "scale": 0.5}),
    Row("agrel", {"feedback": "kolen_pollack"}),
    Row("soft_hebb", {"temperature": 0.2, "anti_hebbian": False, "norm_power": 0.0}),
    Row("dendritic_microcircuit", {"feedback": "tied", "interneurons": "tied", "teaching": 0.1}),
    Row(
        "dendritic_microcircuit",
        {"interneurons": "reciprocal", "init": "weights", "cancellation_rate": 0.1, "prediction_rate": 0.5},
    ),
    Row("predictive_coding", {"rate": 0.2, "steps": 9, "momentum": 0.3}),
    Row("predictive_coding", {"variant": "zero_divergence", "feedback": "kolen_pollack"}),
    Row("predictive_coding", {"variant": "strict", "loss": "cross_entropy"}),
    Row(
        "predictive_coding", {"variant": "strict", "rate": 0.02, "momentum": 0.3, "feedback": "fixed", "loss": "linear"}
    ),
    Row("predictive_coding", {"variant": "error_optimised", "loss": "cross_entropy"}),
    Row(
        "predictive_coding",
        {"variant": "error_optimised", "nudging": 0.1, "feedback": "kolen_pollack", "loss": "linear"},
    ),
    # Where weights move during inference, what one sample or layer learns depends on what all others do.
    Row("predictive_coding", {"variant": "incremental", "learning_rate": 0.0, "loss": "cross_entropy"}),
    Row("segregated_dendrites", {"feedback": {"name": "direct", "density": 0.2}}),
    Row("burst_ccn", {"feedback": "fixed", "events": "fixed"}),
    Row("burst_ccn", {"feedback": "tied", "events": "learned", "baseline": 0.2}),
    Row("burst_ccn", {"feedback": "homeostatic", "events": "learned", "error_scale": 0.5}),
    Row("countercurrent_inhibition", {"feedback": "fixed", "gain": 2.0, "tonic": 0.02}),
    Row("burstprop", {"feedback": "fixed", "recurrent": True}),
    Row("burstprop", {"feedback": "fixed", "normalised": False, "scale": 0.5}),
    Row("equilibrium_propagation", {"nudging": "positive", "loss": "cross_entropy", "beta": 1e-7}),
    Row("equilibrium_propagation", {"schedule": "synchronous", "feedback": "kolen_pollack", "sweeps": 9}),
    Row("equilibrium_propagation", {"nudging": "random", "beta": 1e-7, "step": 0.9, "sweeps": 9}, redraws=True),
]


def rows() -> list[Row]:
    """Every registered rule, and the variants."""
    return [*(Row(name, redraws=name in _REDRAWS) for name in apical.rules.names()), *_VARIANTS]


def circuit_of(network: str, row: Row | str, *, seed: int = 0, **options: Any) -> apical.Circuit:
    """A circuit of the tables."""
    rule = row if isinstance(row, str) else row.make()
    if not isinstance(row, str) and network in _REFUSES.get(row.name, ()):
        with pytest.raises(apical.CircuitError):
            apical.Circuit(NETWORKS[network].build(seed), rule, **options)
        pytest.skip(f"{row.name} refuses this network, and says why")
    return apical.Circuit(NETWORKS[network].build(seed), rule, **options)


def loss_of(network: nn.Module) -> Callable[..., Tensor]:
    """The loss that teaches a circuit: cross-entropy, unless its rule learns from a reward.

    Rewards are of the choices that the circuit likes best, so that no draw tells two passes apart.
    """
    inner = [module.rule for module in network.modules() if isinstance(module, apical.Circuit)]
    name = inner[0].learns_from if inner else "error"
    return F.cross_entropy if name == "error" else partial(apical.losses.LOSSES[name], policy="greedy")


def loss_on(network: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Tensor:
    """The loss that teaches a circuit, on a batch."""
    return loss_of(network)(network(x), y, **options)


def gradients(circuit: nn.Module) -> dict[str, Tensor]:
    """A copy of every gradient that is there."""
    return {name: p.grad.clone() for name, p in circuit.named_parameters() if p.grad is not None}


def learn(
    network: nn.Module, x: Tensor, y: Tensor, loss: Callable[..., Tensor] | None = None, *, seed: int = 3
) -> dict[str, Tensor]:
    """The gradients of one pass, dropout drawn from `seed`; of the network's own loss, if none is given."""
    network.zero_grad()
    torch.manual_seed(seed)
    (loss or loss_of(network))(network(x), y).backward()
    return gradients(network)


def plain(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """The model's part of a circuit's gradients, by the model's names."""
    return {name.removeprefix("model."): tensor for name, tensor in named.items() if name.startswith("model.")}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor], **tolerance: float) -> None:
    """Equal to the last bit, or within a tolerance where one is given."""
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(
            a[name], b[name], **(tolerance or {"rtol": 0, "atol": 0}), msg=lambda m, n=name: f"{n}: {m}"
        )


def steps(circuit: nn.Module, network: Network, count: int, *, lr: float = 0.05) -> Iterator[float]:
    """Some steps of training, each on a batch of its own."""
    optimizer = torch.optim.SGD(circuit.parameters(), lr=lr)
    for step in range(count):
        x, y = network.batch(seed=100 + step)
        optimizer.zero_grad()
        loss = loss_on(circuit, x, y)
        loss.backward()
        optimizer.step()
        yield loss.item()
