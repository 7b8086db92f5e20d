"""Networks that settle: Kerjan et al. 2026, Laborieux et al. 2021, Pinchetti et al. 2025."""

from dataclasses import dataclass

from apical.papers.claim import Claim, Paper, Protocol
from apical.papers.expectations import AtLeast, Behind, Within
from apical.papers.own import PAPER

KERJAN = Paper(
    key="kerjan",
    title="Predictive coding networks trained by equilibrium propagation",
    authors="Kerjan, Høier & Scellier",
    year=2026,
    link="https://arxiv.org/abs/2606.03584",
)
LABORIEUX = Paper(
    key="laborieux",
    title="Scaling equilibrium propagation to deep ConvNets by drastically reducing its gradient estimator bias",
    authors="Laborieux et al.",
    year=2021,
    link="https://doi.org/10.3389/fnins.2021.633674",
)
PINCHETTI = Paper(
    key="pinchetti",
    title="Benchmarking predictive coding networks - made simple",
    authors="Pinchetti et al.",
    year=2025,
    link="https://arxiv.org/abs/2407.01163",
)

NARROW = "The network is an eighth as wide as theirs."
EIGHTH = ("an eighth of the width",)
PLAIN = "No crops and flips; images standardised by channel."
EP_SETTINGS = (
    "model=networks.py:kerjan_vgg5",
    "loss=mse",
    "optimizer=sgd",
    "optimizer.momentum=0.9",
    "optimizer.nesterov=true",
    "optimizer.weight_decay=3e-4",
    "batch_size=64",
    "schedule=cosine",
    "validation=0.0",
)
EP_THEIRS = (
    "VGG5, squared error, 100 epochs, batches of 16, Nesterov momentum 0.9, weight decay 3e-4, the learning rate "
    "falling along half a cosine, beta 0.02, 5 sweeps. Test errors: {errors}."
)
EP_TUNED = (
    "The learning rate was chosen for backpropagation out of 0.01, 0.03 and 0.1 after one epoch on nine tenths of "
    "training data, and serves all arms."
)
EP_DEFAULTS = (
    "Equilibrium propagation has its defaults: beta 0.001, and as many sweeps as reach the input, and one more."
)
EP_MNIST = Protocol(
    name="ep-mnist",
    paper=KERJAN,
    where="table 2, MNIST, squared error",
    theirs=EP_THEIRS.format(errors="equilibrium propagation 0.32 %, backpropagation 0.33 %"),
    departures=(NARROW, "2 epochs, batches of 64.", EP_DEFAULTS, EP_TUNED),
    settings=("task=mnist", *EP_SETTINGS),
    epochs=2,
    seeds=1,
    their_epochs=100,
    smaller=EIGHTH,
)
EP_CIFAR10 = Protocol(
    name="ep-cifar10",
    paper=KERJAN,
    where="table 2, CIFAR-10, squared error",
    theirs=EP_THEIRS.format(errors="equilibrium propagation 7.8 %, backpropagation 8.0 %"),
    departures=(NARROW, "3 epochs, batches of 64.", PLAIN, EP_DEFAULTS, EP_TUNED),
    settings=("task=cifar10", *EP_SETTINGS),
    epochs=3,
    seeds=2,
    their_epochs=100,
    smaller=EIGHTH,
)

HOPFIELD_MNIST = Protocol(
    name="hopfield-mnist",
    paper=LABORIEUX,
    where="released code, MNIST, 784-512-10",
    theirs="30 free and 10 nudged steps, beta 0.1, Adam at 5e-4, batches of 50, shifted sigmoid, squared error.",
    departures=(
        "The output is a linear read-out and no state, so with one hidden layer nothing comes back to it in the free "
        "phase; 784-512-512-10, where the hidden layers do settle together, is measured beside it.",
        "5 epochs, batches of 64, the learning rate falling along half a cosine.",
        "Backpropagation trains the same sizes with ReLU, by the same optimizer and rate.",
    ),
    settings=(
        "task=mnist",
        "loss=mse",
        "optimizer=adam",
        "optimizer.weight_decay=0.0",
        "batch_size=64",
        "schedule=cosine",
        "validation=0.0",
    ),
    epochs=5,
    seeds=1,
)
SETTLES = (
    "equilibrium_propagation:network=hopfield,activation={activation},loss=squared_error,free_steps=30,nudged_steps=10"
)
SHIFTED = SETTLES.format(activation="shifted_sigmoid")

HOPFIELD_CIFAR10 = Protocol(
    name="hopfield-cifar10",
    paper=LABORIEUX,
    where="abstract, CIFAR-10",
    theirs=(
        "Convolutions of 128, 256, 512 and 512 channels, each with max pooling, 250 free and 30 nudged steps, 120 "
        "epochs, crops and flips. One-sided nudging ends at 86 % test error, nudging with both signs at 11.7 %."
    ),
    departures=(
        NARROW,
        "One epoch, 30 free and 10 nudged steps in which even and odd layers take turns, beta 0.25, hard sigmoid, "
        "squared error.",
        "One learning rate for all layers, chosen for centred nudging out of 0.01, 0.02 and 0.04 on an eighth of the "
        "training data, where one-sided nudging failed at it with beta 0.25 and 0.5.",
        PLAIN,
    ),
    settings=(
        "task=cifar10",
        "model=networks.py:laborieux_conv",
        "loss=mse",
        "optimizer=sgd",
        "optimizer.momentum=0.9",
        "optimizer.weight_decay=3e-4",
        "batch_size=64",
        "schedule=cosine",
        "validation=0.0",
    ),
    epochs=1,
    seeds=1,
    their_epochs=120,
    smaller=EIGHTH,
)
CONVOLUTIONAL = SETTLES.format(activation="hard_sigmoid") + ",beta=0.25"
FAR_BEHIND = Behind(15.0, reference="hopfield-cifar10-centered", whose="centred nudging")

PC_SETTINGS = ("optimizer=adamw", "batch_size=128", "schedule=cosine", "schedule.final=0.1", "validation=0.0")
PC_THEIRS = (
    "{network}, {epochs} epochs, AdamW with a warm-up and half a cosine, inference by momentum from the forward pass "
    "for 5 to 8 steps. They report the best epoch on the test set; here it is the last."
)
INFERENCE = "Steps, rates and momentum of inference and weight decay are those of their released recipes."
PC_TUNED = (
    "The learning rate was chosen for backpropagation out of 0.0003, 0.001 and 0.003 after one epoch on nine tenths of "
    "the training data, the same for both losses, and serves all arms."
)

PC_SETTLED = Protocol(
    name="pc-settled",
    paper=PAPER,
    where="scikit-learn's digits, 64-128-64-10 of tanh units, inference that has settled",
    theirs=(
        "20 epochs, batches of 32, cross-entropy, SGD at 0.05, with momentum 0.9 but for incremental predictive coding "
        "(and backpropagation beside it), nudging 1. The cosine of each layer's update to the gradient is taken at the "
        "end of training, of the same weights and examples."
    ),
    departures=(),
    settings=(
        *("task=digits", "model=mlp:128,64:tanh", "batch_size=32", "alignment=20"),
        *("optimizer=sgd", "optimizer.weight_decay=0.0"),
    ),
    epochs=20,
    seeds=3,
)
PLAIN_SGD = "optimizer.momentum=0.0"


@dataclass(frozen=True)
class Recipe:
    """Of predictive coding with one loss.

    Attributes:
        steps: of inference.
        rate: of inference.
        momentum: of inference.
        learning_rate: of the weights.
        weight_decay: of the weights.
    """

    steps: int
    rate: float
    momentum: float
    learning_rate: float
    weight_decay: float


MLP_RECIPES = (Recipe(8, 0.0105, 0.65, 2.97e-4, 6.7e-3), Recipe(5, 0.0183, 0.05, 2.97e-4, 1.2e-5))
VGG5_RECIPES = (Recipe(7, 0.0235, 0.3, 3e-3, 6.7e-3), Recipe(8, 0.0147, 0.05, 3e-3, 1.2e-5))


def _pc_mlp(task: str, title: str) -> Protocol:
    return Protocol(
        name=f"pc-{task}",
        paper=PINCHETTI,
        where=f"{title}, fully connected network",
        theirs=PC_THEIRS.format(network="A fully connected network", epochs=25),
        departures=(
            "784-512-512-10 of tanh units; we do not know their widths.",
            "5 epochs.",
            INFERENCE + " Weight decay, and momentum where the loss is cross-entropy, are those of their VGG5.",
            "All arms have predictive coding's learning rate.",
        ),
        settings=(f"task={task}", "model=mlp:512,512:tanh", "schedule.warmup=0.5", *PC_SETTINGS),
        epochs=5,
        seeds=2,
        their_epochs=25,
    )


PC_MNIST = _pc_mlp("mnist", "MNIST")
PC_FASHION = _pc_mlp("fashion-mnist", "Fashion-MNIST")
PC_CIFAR10 = Protocol(
    name="pc-cifar10",
    paper=PINCHETTI,
    where="CIFAR-10, VGG5",
    theirs=PC_THEIRS.format(network="VGG5 with GELU", epochs=50)
    + " Best of predictive coding 88.4 %, backpropagation 89.4 %.",
    departures=(NARROW, "4 epochs.", PLAIN, INFERENCE, PC_TUNED),
    settings=(
        "task=cifar10",
        "model=networks.py:pinchetti_vgg5",
        "schedule.warmup=0.4",
        *PC_SETTINGS,
    ),
    epochs=4,
    seeds=1,
    their_epochs=50,
    smaller=EIGHTH,
)


def _near(points: float, reference: str, floor: float) -> Within:
    return Within(points, reference=reference, whose="backprop", floor=floor)


def _equilibrium(protocol: Protocol, level: float, rate: float) -> tuple[Claim, ...]:
    near = _near(0.5, f"{protocol.name}-backprop", level)
    return (
        protocol.claim("backprop", "backprop", AtLeast(level), rate),
        protocol.claim("centered", "equilibrium_propagation", near, rate),
        protocol.claim("random", "equilibrium_propagation:nudging=random", near, rate),
    )


def _predictive(protocol: Protocol, level: float, points: float, squared: Recipe, entropy: Recipe) -> tuple[Claim, ...]:
    arms = []
    for loss, name, short, recipe in (
        ("mse", "squared_error", "MSE", squared),
        ("cross_entropy", "cross_entropy", "CE", entropy),
    ):
        reference = f"{protocol.name}-backprop-{short.lower()}"
        own = (f"loss={loss}", f"optimizer.weight_decay={recipe.weight_decay}")
        rule = (
            f"predictive_coding:variant=strict,loss={name},steps={recipe.steps},rate={recipe.rate},"
            f"momentum={recipe.momentum}"
        )
        arms += [
            protocol.claim(f"backprop {short}", "backprop", AtLeast(level), recipe.learning_rate, *own),
            protocol.claim(f"PC {short}", rule, _near(points, reference, level), recipe.learning_rate, *own),
        ]
    return tuple(arms)


CLAIMS = (
    *_equilibrium(EP_MNIST, 98.0, 0.1),
    *_equilibrium(EP_CIFAR10, 60.0, 0.1),
    *(
        claim
        for row, model in (("784-512-10", "mlp:512"), ("784-512-512-10", "mlp:512,512"))
        for claim in (
            HOPFIELD_MNIST.claim(f"backprop {row}", "backprop", AtLeast(97.0), 5e-4, f"model={model}"),
            HOPFIELD_MNIST.claim(
                row, SHIFTED, _near(0.5, f"hopfield-mnist-backprop-{row}", 97.0), 5e-4, f"model={model}"
            ),
        )
    ),
    HOPFIELD_CIFAR10.claim("centered", CONVOLUTIONAL, AtLeast(35.0), 0.02),
    HOPFIELD_CIFAR10.claim("positive", f"{CONVOLUTIONAL},nudging=positive", FAR_BEHIND, 0.02),
    *_predictive(PC_MNIST, 97.0, 0.5, *MLP_RECIPES),
    *_predictive(PC_FASHION, 86.0, 0.5, *MLP_RECIPES),
    *_predictive(PC_CIFAR10, 60.0, 1.5, *VGG5_RECIPES),
    PC_SETTLED.claim("backprop", "backprop", AtLeast(95.0), 0.05),
    PC_SETTLED.claim("backprop plain SGD", "backprop", AtLeast(90.0), 0.05, PLAIN_SGD),
    *(
        PC_SETTLED.claim(row, f"predictive_coding:variant={variant},loss=cross_entropy{more}", near, 0.05, *settings)
        for row, variant, more, near, settings in (
            ("strict", "strict", ",steps=200,rate=0.2", _near(1.5, "pc-settled-backprop", 90.0), ()),
            ("error-optimised", "error_optimised", ",steps=40,rate=0.2", _near(1.5, "pc-settled-backprop", 90.0), ()),
            ("incremental", "incremental", "", _near(10.0, "pc-settled-backprop-plain-sgd", 80.0), (PLAIN_SGD,)),
        )
    ),
)
