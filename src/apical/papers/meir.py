"""Meir et al. 2023: a dendritic tree of three layers, said to be ahead of LeNet-5."""

from apical.papers.claim import Paper, Protocol
from apical.papers.expectations import Ahead, AtLeast

PAPER = Paper(
    key="meir",
    title="Learning on tree architectures outperforms a convolutional feedforward network",
    authors="Meir et al.",
    year=2023,
    link="https://doi.org/10.1038/s41598-023-27986-6",
)
TREE = Protocol(
    name="tree3-cifar10",
    paper=PAPER,
    where="abstract: CIFAR-10, off-line; here K = 6 filters a colour and M = 16 branches",
    theirs=(
        "200 epochs; LeNet-5 at 0.01, 0.005 and 0.001 from epochs 0, 100 and 150, Tree-3 with a rate that falls by "
        "0.6 every 20 epochs; sigmoid units. Tree-3 is more accurate."
    ),
    departures=(
        "15 epochs on nine tenths of the training data, with a rate that falls as a cosine; batches of 100, momentum "
        "0.9, no weight decay.",
        "No crops and flips; images standardised by channel.",
        "Learning rate 0.03 for both, the best for each out of 0.003, 0.01, 0.03 and 0.1 after five epochs on nine "
        "tenths of the training data; so was ReLU chosen, 20 points ahead of the sigmoid.",
        "An accuracy counts as above another when the 95 % interval of the gain over paired seeds is above 0.",
    ),
    settings=(
        "task=cifar10",
        "batch_size=100",
        "optimizer=sgd",
        "optimizer.momentum=0.9",
        "optimizer.weight_decay=0.0",
        "schedule=cosine",
    ),
    epochs=15,
    seeds=3,
    their_epochs=200,
    smaller=("nine tenths of the training images, without crops and flips",),
)
CLAIMS = (
    TREE.claim("lenet", "backprop", AtLeast(60.0), 0.03, "model=networks.py:he_lenet"),
    TREE.claim("tree3", "backprop", Ahead(f"{TREE.name}-lenet", whose="LeNet-5"), 0.03, "model=tree3:6,16"),
)
