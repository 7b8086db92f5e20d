"""Does NACA forget less, or does its gate read the class off the test batch? One class a task, four ways to test.

A network learns the classes of a data set one after another, a class a task, by one of some teaching signals, with one
of four gates of its hidden layer. The network that results is tested four times on the same images, which are only cut
into batches in other ways: of one class (256 and 10 images), shuffled (256), and one image at a time. The floors learn
from the same stream without a gate.

The protocol is that of NACA's authors' code: one hidden layer, plain SGD at 5e-4 on batches of 256 whose updates are
summed, squared error of sigmoid units, up to 100 epochs a class. A class is finished when the network names it for more
than 95 % of its own training images; the weights that did best on these are kept.

With units="spikes" both layers fire, over `MOMENTS` moments. A pixel fires where it exceeds a number drawn between the
smallest and the largest pixel of the batch, a current is the sigmoid of the drive, the output is the share of moments
at which a unit fired, and the error reaches the last spike alone, from which it runs back through the neuron's own
potential. The gate reads the pixels, as in networks without spikes.
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
from apical.neurons import LIF
from apical.neurons.surrogates import Boxcar
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
MOMENTS = 20  # of a network that spikes


def _spiking() -> nn.Module:
    return nn.Sequential(nn.Sigmoid(), LIF(0.2, 0.5, surrogate=Boxcar(0.2)))


UNITS: Mapping[str, Callable[[], nn.Module]] = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "spikes": _spiking}
Answer = Callable[[Tensor], Tensor]  # the outputs (batch, classes) for images (batch, inputs)
CUTS = ("pure 256", "pure 10", "mixed 256", "single")
_WIDE = {"init": "outputs", "scale": (10 / 3) ** 0.5}  # U(-1, 1), whose size is near the modulation curve's
SIGNALS: Mapping[str, Callable[[int], LearningRule]] = {
    "naca": lambda seed: NACA(seed=seed, moments="all"),
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
    """One gated hidden layer, and what the gate reads. `spikes_of` gives the input of one that spikes to its gate."""
    context = Context(gate, contexts=classes if gate == "oracle" else None)
    layer = (nn.Linear(inputs, hidden), UNITS[units](), ContextGate(context, margin=margin))
    first, last = (nn.Identity(), _spiking()) if units == "spikes" else (context, nn.Sigmoid())
    return context, nn.Sequential(first, *layer, nn.Linear(hidden, classes, bias=False), last)


def spikes_of(circuit: Circuit, context: Context, generator: torch.Generator) -> Answer:
    """What a spiking network answers: the share of moments at which each output fires; errors reach its last spike.

    Args:
        circuit: of a network with units="spikes".
        context: of its gate, in mode "none", "batch" or "sample".
        generator: of the spikes that images are made of.
    """

    def answer(x: Tensor) -> Tensor:
        alone = context.mode == "sample"  # every image is a batch of its own
        context.read(x.repeat(MOMENTS, 1) if alone else x)
        low, high = x.aminmax(dim=1, keepdim=True) if alone else x.aminmax()
        drawn = torch.rand(MOMENTS, *x.shape, generator=generator, dtype=x.dtype) * (high - low) + low
        spikes: Tensor = circuit((x > drawn).to(x.dtype))
        rate = spikes.mean(0) * (1 - 1e-6)  # below 1, so that NACA can read the label off the error
        return spikes[-1] + (rate - spikes[-1]).detach()

    return answer


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
        units: "sigmoid", as the authors have them, "tanh", or "spikes" (not with an oracle).
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
    if units == "spikes":
        context.read(train.x[:1])
    circuit = Circuit(model, SIGNALS[signal](seed), reduction="sum")
    answer = spikes_of(circuit, context, generator) if units == "spikes" else circuit
    taken = [learn(circuit, context, *_of_class(train, label), epochs, generator, advance, answer) for label in order]
    if gate == "batch":
        found = {cut: accuracy(answer, context, test, cut, generator) for cut in CUTS}
    else:  # the network answers each image by itself
        found = dict.fromkeys(CUTS, accuracy(answer, context, test, "mixed 256", generator))
    return Outcome(found, fmean(taken))


def learn(
    circuit: Circuit,
    context: Context,
    x: Tensor,
    y: Tensor,
    epochs: int,
    generator: torch.Generator,
    advance: Callable[[], None] = lambda: None,
    answer: Answer | None = None,
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
        answer: of the circuit to images; the circuit itself if left out.
    """
    answer = answer or circuit
    optimizer = torch.optim.SGD([each for each in circuit.parameters() if each.requires_grad], lr=RATE)
    best, kept = -1.0, circuit.state_dict()
    for epoch in range(1, epochs + 1):
        if context.mode == "oracle":
            context.tell(y[:1])
        for batch in torch.split(torch.randperm(len(x), generator=generator), BATCH):
            output = answer(x[batch])
            optimizer.zero_grad()
            (output - F.one_hot(y[batch], output.shape[1])).square().sum().div(2).backward()
            optimizer.step()
        advance()
        reached = _right(answer, context, Examples(x, y), torch.split(torch.arange(len(x)), BATCH))
        score = reached.double().mean().item()
        if score > ENOUGH:
            return epoch
        if score > best:
            best, kept = score, copy.deepcopy(circuit.state_dict())
    circuit.load_state_dict(kept)
    return epochs


def accuracy(answer: Answer, context: Context, test: Examples, cut: str, generator: torch.Generator) -> float:
    """The share of test images that are recognised, mean over classes.

    Args:
        answer: of the network.
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
        return _mean_over_classes(_right(answer, context, test, batches), test.y)
    finally:
        context.mode = mode


def _right(answer: Answer, context: Context, examples: Examples, batches: Sequence[Tensor]) -> Tensor:
    """Whether each example is recognised, (n,)."""
    right = torch.zeros(len(examples.y), dtype=torch.bool)
    with torch.no_grad():
        for batch in batches:
            if context.mode == "oracle":
                context.tell(examples.y[batch])
            right[batch] = answer(examples.x[batch]).argmax(1) == examples.y[batch]
    return right


def _mean_over_classes(right: Tensor, y: Tensor) -> float:
    return fmean(right[y == label].double().mean().item() for label in set(y.tolist()))


def _of_class(examples: Examples, label: int) -> tuple[Tensor, Tensor]:
    chosen = (examples.y == label).nonzero().squeeze(1)
    return examples.x[chosen], examples.y[chosen]
