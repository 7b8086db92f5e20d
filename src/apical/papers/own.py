"""What apical holds itself to: levels on MNIST that a sound implementation of these rules reaches."""

from apical.papers.claim import Paper, Protocol
from apical.papers.expectations import AtLeast, Within

PAPER = Paper(
    key="apical",
    title="Levels that apical holds itself to",
    authors="The apical developers",
    year=2026,
    link="",
    own=True,
)
MNIST_MLP = Protocol(
    name="mnist-mlp",
    paper=PAPER,
    where="MNIST, a fully connected network 784-500-500-10 of ReLU units",
    theirs=(
        "10 epochs, batches of 64, cross-entropy, SGD with momentum 0.9 and weight decay 1e-4, the learning rate "
        "falling along half a cosine. Learning rates were chosen out of 0.01, 0.03 and 0.1 for each rule on a tenth of "
        "the training data; the runs here train on all of it."
    ),
    departures=(),
    settings=(
        "task=mnist",
        "model=mlp:500,500",
        "optimizer=sgd",
        "optimizer.momentum=0.9",
        "optimizer.weight_decay=1e-4",
        "batch_size=64",
        "schedule=cosine",
        "validation=0.0",
    ),
    epochs=10,
    seeds=3,
)
BACKPROP = "mnist-mlp-backprop"


NEAR = Within(0.3, reference=BACKPROP, whose="backprop")

CLAIMS = (
    MNIST_MLP.claim("backprop", "backprop", AtLeast(98.0), 0.03),
    MNIST_MLP.claim("uniform", "sign_symmetry:magnitude=uniform", NEAR, 0.1),
    MNIST_MLP.claim("batchwise", "sign_symmetry:magnitude=batchwise", NEAR, 0.1),
    MNIST_MLP.claim("fixed", "sign_symmetry:magnitude=fixed", NEAR, 0.1),
    MNIST_MLP.claim("kolen-pollack", "kolen_pollack", NEAR, 0.03),
    MNIST_MLP.claim("fa", "feedback_alignment", AtLeast(97.0), 0.03),
    MNIST_MLP.claim("dfa", "direct_feedback_alignment", AtLeast(97.0), 0.03),
)
