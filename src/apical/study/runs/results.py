"""What training and evaluation return."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class StreamResult:
    """What came of a stream of tasks.

    Attributes:
        tasks: their names.
        matrix: the rows of R: R[i][j] is the accuracy on task j after task i; one row where all were learned at once.
        before: the accuracy on each task before training.
        metrics: accuracy, transfer and forgetting, by name; None where the matrix does not tell.
        assumptions: what the protection assumes and costs, by name.
        leakage: whether answers depend on how the test data are cut into batches, by name (`apical.measure.leakage`).
    """

    tasks: tuple[str, ...]
    matrix: tuple[tuple[float, ...], ...]
    before: tuple[float, ...]
    metrics: dict[str, float | None]
    assumptions: dict[str, float | bool]
    leakage: dict[str, Any] | None


@dataclass(frozen=True)
class SpikingLayer:
    """The neurons of one layer of a spiking network.

    Attributes:
        neurons: how many there are.
        rate: spikes for a neuron and moment, mean over neurons, moments and samples.
        silent: the share of neurons that fire for no sample.
        raster: the moments in which a neuron fires while the network responds to one sample, of some neurons.
    """

    neurons: int
    rate: float
    silent: float
    raster: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Activity:
    """The spikes of a network on some of the data that it learned from (`apical.measure.spikes`).

    Attributes:
        samples: how many the means are over.
        moments: of a sample.
        layers: of spiking neurons, by their path in the model.
        events: synaptic events for a sample, by the path of the synapses.
        products: that the same synapses take for a sample in a network of rates.
    """

    samples: int
    moments: int
    layers: dict[str, SpikingLayer]
    events: dict[str, float]
    products: dict[str, float]


@dataclass(frozen=True)
class Tested:
    """The test at the end of a run."""

    loss: float
    accuracy: float
    stream: StreamResult | None


@dataclass(frozen=True)
class Result:
    """A finished run. Losses are means over examples, accuracies fractions, angles degrees.

    Attributes:
        folder: of the run.
        status: "finished" after the last epoch, or "stopped early".
        epochs: run.
        steps: taken.
        tested_epoch: the epoch whose weights were tested: the last, or with early stopping the best.
        test_loss, test_accuracy: on the test set, measured once; of a stream, on all tasks at the end (the accuracy is
            the mean over tasks).
        validation_loss, validation_accuracy: of the same weights; None without a validation part.
        angles: between the rule's update and the true gradient, of the same weights, by layer; None: not asked
            for, or for a layer where either is zero.
        stream: the matrix and what follows from it, where there are several tasks.
        spikes: of the same weights, where the network has spiking neurons.
        notes: facts that readers of the numbers need, a sentence each.
    """

    folder: Path
    status: str
    epochs: int
    steps: int
    tested_epoch: int
    test_loss: float
    test_accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    angles: dict[str, float | None] | None
    stream: StreamResult | None = None
    spikes: Activity | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The content of result.json: all but the folder, which may move."""
        content = asdict(self)
        del content["folder"]
        for of_some in ("stream", "spikes"):
            if content[of_some] is None:
                del content[of_some]
        return content


@dataclass(frozen=True)
class Evaluation:
    """A run's weights, measured on some data.

    Attributes:
        folder: of the run.
        task: the name of the data.
        epoch: after which the weights were saved.
        finished: whether the run had ended then.
        examples: how many were answered.
        loss: mean over them.
        accuracy: fraction answered correctly.
        by_class: the same for each class; None where it has no example.
        leakage: whether answers depend on how the examples are cut into batches; None: they have one class.
        notes: facts that readers of the numbers need, a sentence each.
    """

    folder: Path
    task: str
    epoch: int
    finished: bool
    examples: int
    loss: float
    accuracy: float
    by_class: tuple[float | None, ...]
    leakage: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
