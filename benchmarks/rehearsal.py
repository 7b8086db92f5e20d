"""Memories of a stream's past tasks within some bytes, for replay: images, principal components, codes in CA3."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from apical import continual
from apical.hippocampus import PCA, AHAMemory


class Kept:
    """What is kept of a stream's tasks within some bytes: whole tasks enter when they end, and draws join later steps.

    It stands where `Replay` has its reservoir, and takes no single batches.
    """

    def __init__(self, budget: int, tasks: int, seed: int) -> None:
        self.budget, self.tasks, self.seed = budget, tasks, seed
        self.generator = torch.Generator().manual_seed(seed)
        self.kept = self.ended = 0

    def add(self, x: Tensor, y: Tensor) -> None:
        """A batch of the current task, which enters when the task ends."""

    def draw(self, count: int) -> list[Tensor]:
        return self.recalled(torch.randint(self.kept, (count,), generator=self.generator)) if self.ended else []

    def end(self, x: Tensor, y: Tensor) -> None:
        """A task ends: some of its examples enter."""
        quota = self.kept_of(x) // self.tasks
        chosen = torch.randperm(len(y), generator=self.generator)[:quota]
        self.enter(x[chosen], y[chosen])
        self.ended += 1

    def append(self, *own: Tensor) -> None:
        """Put examples, a row of each of some tensors, behind those that are kept."""
        self.parts = own if not self.kept else tuple(torch.cat(each) for each in zip(self.parts, own, strict=True))
        self.kept += len(own[-1])

    def kept_of(self, x: Tensor) -> int:
        raise NotImplementedError

    def enter(self, x: Tensor, y: Tensor) -> None:
        raise NotImplementedError

    def recalled(self, places: Tensor) -> list[Tensor]:
        raise NotImplementedError


class Raw(Kept):
    """Images, a byte for each pixel and for the label."""

    def kept_of(self, x: Tensor) -> int:
        return self.budget // (x.shape[1] + 1)

    def enter(self, x: Tensor, y: Tensor) -> None:
        self.append((x * 255).round().byte(), y.byte())

    def recalled(self, places: Tensor) -> list[Tensor]:
        return [self.parts[0][places] / 255, self.parts[1][places].long()]


class Components(Kept):
    """Strengths of 25 principal components of the first task, four bytes each, the components, and labels."""

    units = 25

    def kept_of(self, x: Tensor) -> int:
        return (self.budget - 4 * (self.units + 1) * x.shape[1]) // (4 * self.units + 1)

    def enter(self, x: Tensor, y: Tensor) -> None:
        if not self.kept:
            self.model = PCA(self.units).fit(x)
        self.append(self.model.transform(x), y.byte())

    def recalled(self, places: Tensor) -> list[Tensor]:
        return [self.parts[0][places] @ self.model.components + self.model.mean, self.parts[1][places].long()]


class Episodes(Kept):
    """Codes in CA3, ten cells of two bytes each, and the read-out, four bytes a weight, which gives image and label.

    When a task ends, the memory recalls all it has and studies that together with examples of the task. A draw cues CA3
    with half of the active cells of a code.
    """

    cells, active, hidden = 400, 10, 50

    def kept_of(self, x: Tensor) -> int:
        features = x.shape[1] + 10
        weights = self.cells * self.hidden + self.hidden + self.hidden * features + features
        return min((self.budget - 4 * weights) // (2 * self.active), 3 * self.cells // 4)

    def enter(self, x: Tensor, y: Tensor) -> None:
        own = torch.cat([x, F.one_hot(y, 10).to(x)], 1)
        study = torch.cat([self._decoded(self.codes), own]) if self.kept else own
        self.memory = AHAMemory(
            self.cells, self.active, hidden=2, readout=self.hidden, steps=300, random_state=self.seed
        ).fit(study)
        self.codes = (self.memory.ca3_.patterns + 1) / 2
        self.kept = len(study)

    @torch.no_grad()
    def _decoded(self, codes: Tensor) -> Tensor:
        decoded: Tensor = self.memory.readout_(codes) * self.memory.scale_
        return decoded

    def recalled(self, places: Tensor) -> list[Tensor]:
        codes = self.codes[places]
        lost = torch.rand(codes.shape, generator=self.generator) < 0.5
        decoded = self._decoded((self.memory.ca3_.recall(2 * codes.masked_fill(lost, 0) - 1) + 1) / 2)
        return [decoded[:, :-10].clamp(0, 1), decoded[:, -10:].argmax(1)]


class Rehearsal(continual.Replay):
    """Replay from one of these memories."""

    def __init__(self, make: Callable[[], Kept]) -> None:
        super().__init__()
        self.make = make

    def attach(self, circuit: nn.Module, loss: Any) -> None:
        super().attach(circuit, loss)
        self.memory: Any = self.make()

    def end_task(self, examples: Any) -> None:
        self.memory.end(examples.x, examples.y)
