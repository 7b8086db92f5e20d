"""Pozzi et al. 2020: BrainProp, which learns from a reward alone and is said to be as accurate, and slower."""

from apical.papers.claim import Claim, Paper, Protocol
from apical.papers.expectations import AtLeast, Both, Slower, Within

PAPER = Paper(
    key="brainprop",
    title="Attention-Gated Brain Propagation: How the brain can implement reward-based error backpropagation",
    authors="Pozzi, Bohte & Roelfsema",
    year=2020,
    link="https://arxiv.org/abs/1811.01768",
)

THEIRS = (
    "SGD at 0.1 without momentum, batches of 128, no biases, pixels from 0 to 1, exploration 0.02, up to 500 epochs, "
    "stopped where the test set is answered best, 10 seeds. As accurate as backpropagation, after 1 to 3.5 times the "
    "epochs."
)
WATCHED = (
    "What is compared is when a tenth of the training data, held out, is first answered so well; learning rates do not "
    "fall."
)
SETTINGS = ("optimizer=sgd", "optimizer.momentum=0.0", "optimizer.weight_decay=0.0", "batch_size=128")
REWARD = "loss=reward_prediction"
DENSE = Protocol(
    name="brainprop-mnist",
    paper=PAPER,
    where="abstract and released code, MNIST, fully connected network",
    theirs="784-1500-1000-500-10, first weights from N(0, 0.01). " + THEIRS,
    departures=(
        "784-512-512-10, 40 epochs.",
        WATCHED,
        "Exploration 0.1: at 0.02 some classes stay undiscovered through the first epochs.",
        "Learning rates 0.5 for backpropagation and 1.0 for BrainProp, the best for each out of 0.1, 0.3, 0.5 and 1.0 "
        "after twelve epochs on nine tenths of the training data.",
    ),
    settings=("task=mnist", "model=networks.py:brainprop_dense", *SETTINGS, "exploration=0.1", "validation=0.1"),
    epochs=40,
    seeds=3,
    their_seeds=10,
    smaller=("hidden layers of 512 and 512 units, not 1500, 1000 and 500",),
)
CONV = Protocol(
    name="brainprop-mnist-conv",
    paper=PAPER,
    where="README of the released code, MNIST, convolutional network: 99.31 % after 63 epochs",
    theirs=(
        "Convolutions 32 and 32 with stride 2, batch norm, dropout 0.3, 500 units; first weights from N(0, 0.005). "
        + THEIRS
    ),
    departures=(
        "10 epochs.",
        WATCHED,
        "Learning rate 0.1 as theirs, for all arms: out of 0.03, 0.1 and 0.2 it is the best for both, or as good, "
        "after three epochs on nine tenths of the training data.",
    ),
    settings=("task=mnist", "model=networks.py:brainprop_conv", *SETTINGS, "exploration=0.02", "validation=0.1"),
    epochs=10,
    seeds=3,
    their_epochs=63,
    their_seeds=10,
)
DEEP = Protocol(
    name="brainprop-cifar10",
    paper=PAPER,
    where="README of the released code, CIFAR-10, deep network: 88.88 % after 105 epochs",
    theirs=(
        "Convolutions 64, 64, 128, 128, 128, 128, 128, batch norm, pooling after the 2nd, 4th and 7th, dropout of 0.3 "
        "to 0.8, 500 units; first weights from N(0, 0.005), weight decay of 5e-4. " + THEIRS
    ),
    departures=(
        "A quarter of the width, dropout 0.3 throughout, no weight decay, 20 epochs.",
        WATCHED,
        "Exploration 0.1: at 0.02 the first epochs are slower.",
        "Learning rates 0.1 for backpropagation and 0.3 for BrainProp: out of 0.1, 0.3 and 0.5 the best for each after "
        "five epochs on nine tenths of the training data.",
    ),
    settings=("task=cifar10", "model=networks.py:brainprop_deep", *SETTINGS, "exploration=0.1", "validation=0.1"),
    epochs=20,
    seeds=1,
    their_epochs=105,
    their_seeds=10,
    smaller=("a quarter of the width",),
)


def _claim(protocol: Protocol, level: float, points: float) -> Both:
    """As accurate as backpropagation, after 1 to 3.5 times the epochs."""
    beside = f"{protocol.name}-backprop"
    return Both(Within(points, beside, "backprop", floor=level - 2), Slower(level, 1.0, 3.5, beside, "backprop"))


def _arms(
    protocol: Protocol, level: float, accuracy: float, points: float, *, rate: float, reward_rate: float
) -> tuple[Claim, Claim]:
    return (
        protocol.claim("backprop", "backprop", AtLeast(accuracy), rate),
        protocol.claim("tied", "brainprop", _claim(protocol, level, points), reward_rate, REWARD),
    )


CLAIMS = (
    *_arms(DENSE, 97.0, 97.5, 0.5, rate=0.5, reward_rate=1.0),
    DENSE.claim(
        "Kolen-Pollack",
        "brainprop:feedback=kolen_pollack",
        _claim(DENSE, 97.0, 0.5),
        1.0,
        REWARD,
        "optimizer.weight_decay=1e-4",
    ),
    *_arms(CONV, 98.0, 98.5, 0.5, rate=0.1, reward_rate=0.1),
    *_arms(DEEP, 70.0, 75.0, 2.0, rate=0.1, reward_rate=0.3),
)
