"""A learner: a loop, the rule that teaches it and its optimizer, in visits to rooms."""

import copy
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from apical.circuit import Circuit
from apical.feedback import Tied
from apical.hippocampus.arenas import Square
from apical.hippocampus.cells import generator_of
from apical.hippocampus.loop import TrisynapticLoop
from apical.hippocampus.worlds import World
from apical.layers import Layer
from apical.rules import CountercurrentInhibition, LearningRule

AREAS = ("dentate", "ca3", "ca1", "deep")
HIDDEN = AREAS[:3]


@dataclass(frozen=True)
class Setup:
    """Sizes and training; all are ours, since the paper's are not known.

    Attributes:
        grid: grid cells of the input.
        cue: cue cells of the input.
        bins: of the room, along each side; all bins are the positions that are learned.
        dentate: cells.
        ca3: cells.
        ca1: cells.
        share: of the cells that fire, in each area.
        epochs: passes over the room in one visit.
        batch: positions in a step.
        rate: Adam's learning rate.
    """

    grid: int = 300
    cue: int = 300
    bins: int = 50
    dentate: int = 1000
    ca3: int = 200
    ca1: int = 300
    share: float = 0.05
    epochs: int = 12
    batch: int = 64
    rate: float = 1e-3

    @classmethod
    def small(cls) -> "Setup":
        """About a tenth of the work: half of the cells, and a third of the positions, twice as often."""
        return cls(grid=150, cue=150, bins=30, dentate=400, ca3=100, ca1=150, epochs=24, batch=32)

    def world(self, seed: int) -> World:
        """The room of a seed, 1 m x 1 m."""
        return World.make(Square(1.0, bins=self.bins), grid=self.grid, cue=self.cue, seed=seed)


class Learner:
    """A loop that learns rooms by a rule, and is read out with its homeostasis calibrated on the room learned last.

    Args:
        setup: sizes and training.
        seed: of the weights and of the order of positions.
        rule: counter-current inhibition by default.
        rate: Adam's learning rate; that of the setup by default.
        options: of `TrisynapticLoop`.
    """

    def __init__(
        self, setup: Setup, seed: int, rule: LearningRule | None = None, rate: float | None = None, **options: Any
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sizes = {area: getattr(setup, area) for area in HIDDEN}
            self.loop = TrisynapticLoop(setup.grid + setup.cue, **sizes, share=setup.share, **options)
        self.circuit = Circuit(self.loop, rule or CountercurrentInhibition())
        self.optimizer = torch.optim.Adam(self.circuit.parameters(), lr=rate or setup.rate)
        self.setup, self.order = setup, generator_of("order", seed)

    def learn(self, x: Tensor, epochs: float | None = None) -> Self:
        """Visit a room: learn its inputs, (positions, cells), for some epochs, and calibrate."""
        epochs = self.setup.epochs if epochs is None else epochs
        steps, done, batch = round(epochs * len(x) / self.setup.batch), 0, self.setup.batch
        self.loop.train()
        while done < steps:
            for rows in torch.split(torch.randperm(len(x), generator=self.order), batch)[: steps - done]:
                self.optimizer.zero_grad()
                self.circuit.learn(x[rows])
                self.optimizer.step()
                done += 1
        return self.calibrate(x)

    def calibrate(self, x: Tensor) -> Self:
        """Set homeostasis to the inputs of a room, without learning."""
        self.loop.calibrate(x)
        return self

    @torch.no_grad()
    def areas(self, x: Tensor) -> dict[str, Tensor]:
        """The rates of each area: by name, (positions, cells)."""
        self.loop.eval()
        return dict(zip(AREAS, self.loop.areas(x), strict=True))

    def area(self, area: str, x: Tensor) -> Tensor:
        """The rates of one area, (positions, cells)."""
        return self.areas(x)[area]

    def mismatch(self, x: Tensor) -> float:
        """The mean squared mismatch of input and output, over the variance of the input."""
        return relative(x, self.areas(x)["deep"])

    def copy(self) -> Self:
        """A learner that goes its own way from here; its optimizer starts afresh."""
        twin = copy.copy(self)
        twin.circuit = copy.deepcopy(self.circuit)
        twin.loop = twin.circuit.model  # type: ignore[assignment]
        twin.optimizer = torch.optim.Adam(twin.circuit.parameters(), lr=self.optimizer.param_groups[0]["lr"])
        twin.order = torch.Generator().set_state(self.order.get_state())
        return twin


class Severed(Tied):
    """Tied feedback that one area does not send: the areas that learn from its signal alone learn nothing.

    Args:
        area: which, the first part of the module path.
    """

    name = "severed"
    summary = "The forward weights, and none from one area."

    def __init__(self, *, area: str) -> None:
        super().__init__()
        self.area = area

    def send(self, layer: Layer, post: Tensor, pre: Tensor) -> Tensor:
        signal = super().send(layer, post, pre)
        return torch.zeros_like(signal) if layer.name.partition(".")[0] == self.area else signal


def relative(x: Tensor, y: Tensor) -> float:
    """The mean squared difference of outputs from inputs, over the variance of the inputs."""
    return float((x - y).square().mean() / x.var(0).mean())


def room(setup: Setup, seed: int) -> tuple[World, Tensor]:
    """A world and its inputs at all bins, (positions, cells)."""
    world = setup.world(seed)
    return world, world(world.arena.centres())
