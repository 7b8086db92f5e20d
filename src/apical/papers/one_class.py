"""Does NACA forget less, or does its gate read the class off the test batch? One class a task, four ways to test.

A network learns the classes of a data set one after another, a class a task, by one of some teaching signals, with one
of four gates of its hidden layer. The network that results is tested four times on the same images, which are only cut
into batches in other ways: of one class (256 and 10 images), shuffled (256), and one image at a time. The floors learn
from the same stream without a gate.

The protocol is that of NACA's authors' code: one hidden layer, plain SGD at 5e-4 on batches of 256 whose updates are
summed, squared error of sigmoid units, up to 100 epochs a class. A class is finished when the network names it for more
than 95 % of its own training images; the weights that did best on these are kept.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from apical.circuit import Circuit
from apical.continual import NearestClassMean, RandomFeatures, StreamingLDA
from apical.data import Examples, Task
from apical.rules import (
    NACA,
    Backprop,
    DirectFeedbackAlignment,
    DirectRandomTargetProjection,
    FeedbackAlignment,
    LearningRule,
)
from apical.rules.neuromodulation.gate import Context, ContextGate

BATCH, RATE, ENOUGH = 256, 5e-4, 0.95
UNITS: Mapping[str, Callable[[], nn.Module]] = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh}
CUTS = ("pure 256", "pure 10", "mixed 256", "single")
_WIDE = {"init": "outputs", "scale": (10 / 3) ** 0.5}  # U(-1, 1), whose size is near the modulation curve's
SIGNALS: Mapping[str, Callable[[int], LearningRule]] = {
    "naca": lambda seed: NACA(seed=seed),
    "drtp": lambda seed: DirectRandomTargetProjection(**_WIDE, seed=seed),
    "dfa": lambda seed: DirectFeedbackAlignment(**_WIDE, seed=seed),
    "fa": lambda seed: FeedbackAlignment(seed=seed),
    "backprop": lambda seed: Backprop(),
    "frozen": lambda seed: Backprop(),  # of the output layer alone
}
FLOORS: Mapping[str, Callable[[int, int], NearestClassMean | RandomFeatures]] = {
    "nearest_class_mean": lambda units, seed: NearestClassMean(),
    "streaming_lda": lambda units, seed: StreamingLDA(),
    "random_features": lambda units, seed: RandomFeatures(StreamingLDA(), features=units, seed=seed),
}


@dataclass(frozen=True)
class Outcome:
    """What one network, or floor, has learned in the end.

    Attributes:
        accuracies: mean over classes, for each of `CUTS`.
        task_epochs: mean over tasks.
    """

    accuracies: Mapping[str, float]
    task_epochs: float


def network(
    inputs: int, hidden: int, classes: int, *, gate: str, margin: float, units: str = "sigmoid"
) -> tuple[Context, nn.Sequential]:
    """One gated hidden layer, and what the gate reads."""
    context = Context(gate, contexts=classes if gate == "oracle" else None)
    layer = (nn.Linear(inputs, hidden), UNITS[units](), ContextGate(context, margin=margin))
    return context, nn.Sequential(context, *layer, nn.Linear(hidden, classes, bias=False), nn.Sigmoid())


def run(
    task: Task,
    signal: str,
    gate: str,
    seed: int,
    *,
    hidden: int,
    margin: float,
    units: str = "sigmoid",
    epochs: int = 100,
    advance: Callable[[], None] = lambda: None,
) -> Outcome:
    """Teach all classes, one after another, and test in every way.

    Args:
        task: of images; their values are standardised over all pixels.
        signal: of `SIGNALS` or `FLOORS`.
        gate: "none", "batch", "sample" or "oracle"; "none" for a floor.
        seed: of weights, feedback, the order of classes and of images.
        hidden: units of the hidden layer.
        margin: of the gate.
        units: "sigmoid", as the authors have them, or "tanh".
        epochs: of a class, at most.
        advance: called after every epoch.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    mean, deviation = task.train.x.mean(), task.train.x.std()
    train, test = (Examples((part.x.flatten(1) - mean) / deviation, part.y) for part in (task.train, task.test))
    order = torch.randperm(task.classes, generator=generator).tolist()
    if signal in FLOORS:
        floor = FLOORS[signal](hidden, seed)
        for label in order:
            floor.partial_fit(*_of_class(train, label))
            advance()
        return Outcome(dict.fromkeys(CUTS, _mean_over_classes(floor.predict(test.x) == test.y, test.y)), 1.0)
    context, model = network(train.x.shape[1], hidden, task.classes, gate=gate, margin=margin, units=units)
    if signal == "frozen":
        model[1].requires_grad_(False)
    circuit = Circuit(model, SIGNALS[signal](seed), reduction="sum")
    taken = [learn(circuit, context, *_of_class(train, label), epochs, generator, advance) for label in order]
    if gate == "batch":
        found = {cut: accuracy(model, context, test, cut, generator) for cut in CUTS}
    else:  # the network answers each image by itself
        found = dict.fromkeys(CUTS, accuracy(model, context, test, "mixed 256", generator))
    return Outcome(found, fmean(taken))


def learn(
    circuit: Circuit,
    context: Context,
    x: Tensor,
    y: Tensor,
    epochs: int,
    generator: torch.Generator,
    advance: Callable[[], None] = lambda: None,
) -> int:
    """Learn one class, and return the epochs that it took.

    Args:
        circuit: with its `context`; the outputs are (batch, classes).
        context: of the gate.
        x: (n, inputs), all of one class.
        y: (n,), that class.
        epochs: at most.
        generator: of the order of the images.
        advance: called after every epoch.
    """
    optimizer = torch.optim.SGD([each for each in circuit.parameters() if each.requires_grad], lr=RATE)
    best, kept = -1.0, circuit.state_dict()
    for epoch in range(1, epochs + 1):
        if context.mode == "oracle":
            context.tell(y[:1])
        for batch in torch.split(torch.randperm(len(x), generator=generator), BATCH):
            output = circuit(x[batch])
            optimizer.zero_grad()
            (output - F.one_hot(y[batch], output.shape[1])).square().sum().div(2).backward()
            optimizer.step()
        advance()
        reached = _right(circuit.model, context, Examples(x, y), torch.split(torch.arange(len(x)), BATCH))
        score = reached.double().mean().item()
        if score > ENOUGH:
            return epoch
        if score > best:
            best, kept = score, copy.deepcopy(circuit.state_dict())
    circuit.load_state_dict(kept)
    return epochs


def accuracy(model: nn.Module, context: Context, test: Examples, cut: str, generator: torch.Generator) -> float:
    """The share of test images that are recognised, mean over classes.

    Args:
        model: the network.
        context: of its gate.
        test: the images.
        cut: of `CUTS`. To a gate that reads the batch, an image alone is the batch: "single" has it read each image.
        generator: of the order of the images.
    """
    kind, _, size = cut.partition(" ")
    shuffled = torch.randperm(len(test.y), generator=generator)
    labels = sorted(set(test.y.tolist()))
    groups = [shuffled[test.y[shuffled] == label] for label in labels] if kind == "pure" else [shuffled]
    batches = [batch for group in groups for batch in torch.split(group, int(size or BATCH))]
    mode = context.mode
    if kind == "single" and mode == "batch":
        context.mode = "sample"
    try:
        return _mean_over_classes(_right(model, context, test, batches), test.y)
    finally:
        context.mode = mode


def _right(model: nn.Module, context: Context, examples: Examples, batches: Sequence[Tensor]) -> Tensor:
    """Whether each example is recognised, (n,)."""
    right = torch.zeros(len(examples.y), dtype=torch.bool)
    with torch.no_grad():
        for batch in batches:
            if context.mode == "oracle":
                context.tell(examples.y[batch])
            right[batch] = model(examples.x[batch]).argmax(1) == examples.y[batch]
    return right


def _mean_over_classes(right: Tensor, y: Tensor) -> float:
    return fmean(right[y == label].double().mean().item() for label in set(y.tolist()))


def _of_class(examples: Examples, label: int) -> tuple[Tensor, Tensor]:
    chosen = (examples.y == label).nonzero().squeeze(1)
    return examples.x[chosen], examples.y[chosen]
