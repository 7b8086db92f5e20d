"""Sardi et al. 2020: step sizes that grow with coherent steps, said to learn best from a few examples."""

from collections.abc import Iterator

from apical.papers.claim import Claim, Online, Paper, Protocol
from apical.papers.expectations import Ahead, AtLeast, Control

PAPER = Paper(
    key="sardi",
    title="Brain experiments imply adaptation mechanisms which outperform common AI learning algorithms",
    authors="Sardi et al.",
    year=2020,
    link="https://doi.org/10.1038/s41598-020-63755-5",
)
COMMON = ("sgd", "momentum", "adam", "rmsprop", "rprop")
VARIANTS = ("base", "abs", "step", "sign")


def _protocol(hidden: int, inputs: str) -> Protocol:
    short = "" if inputs == "standardised" else "-raw"
    return Protocol(
        name=f"few-examples-{hidden}{short}",
        paper=PAPER,
        where=f"abstract; here 784-{hidden}-10, 30 examples of each digit, {inputs} inputs",
        theirs=(
            "MNIST online, batch 1, each example once, a few examples: success rates for brain-inspired algorithms "
            "substantially outperform the commonly used ML algorithms."
        ),
        departures=(
            "No figures, sizes or constants of the paper could be read: the rule is a reconstruction in four variants.",
            "Sigmoid units, cross-entropy for each output; 32 trials tune every method on held-out training images.",
            "An accuracy counts as above another when the 95 % interval of the gain over 60 paired seeds is above 0.",
        ),
        settings=(f"inputs={inputs}", f"hidden={hidden}", "examples=30"),
        epochs=1,
        seeds=60,
        online=Online("mnist", inputs, hidden, 30),
    )


def _claims(protocol: Protocol, rival: str) -> tuple[Claim, ...]:
    """Common methods have to be in order; the variants have to be above the best of them."""
    above = Ahead(f"{protocol.name}-{rival}", whose=f"{rival}, the best of the common methods")
    return (
        *(Claim(f"{protocol.name}-{name}", protocol, name, name, AtLeast(50.0)) for name in COMMON),
        *(Claim(f"{protocol.name}-{name}", protocol, name, f"adaptation:{name}", above) for name in VARIANTS),
    )


CROSSED = (
    "The paper has no other rules than backpropagation: what is said of those is a control.",
    "Every pair of a rule and an optimizer has the same number of trials on held-out training images: {trials}. The "
    "variant is `abs`, the best of the reconstructions on few examples.",
    "Softmax and cross-entropy; images standardised one by one.",
)
FEW = Protocol(
    name="adaptation-few",
    paper=PAPER,
    where="abstract; here 784-100-10 of sigmoid units by three rules, 30 examples of each digit, each seen once",
    theirs=(
        "MNIST online, batch 1, each example once, a few examples: success rates for brain-inspired algorithms "
        "substantially outperform the commonly used ML algorithms."
    ),
    departures=tuple(text.format(trials="16, each from 4 seeds") for text in CROSSED),
    settings=("task=mnist", "model=mlp:100:sigmoid", "examples=30", "batch_size=1", "trials=16", "tuning_seeds=4"),
    epochs=1,
    seeds=20,
    tuned=True,
)
WHOLE = Protocol(
    name="adaptation-mnist",
    paper=PAPER,
    where="no part of the paper: the claim on all of MNIST, 784-128-64-10 of ReLU units by three rules, batches of 64",
    theirs="The paper learns from few examples; whether its rule helps with many is our question.",
    departures=(
        *(text.format(trials="12, each from one seed") for text in CROSSED),
        "Two epochs of 55,000 images; slopes may be thirty times as large, since the gradient is a batch's mean.",
    ),
    settings=("task=mnist", "model=mlp:128,64", "examples=0", "batch_size=64", "trials=12", "tuning_seeds=1"),
    epochs=2,
    seeds=5,
    tuned=True,
)
RULES = (("bp", "backprop"), ("fa", "feedback_alignment"), ("ccn", "burst_ccn"))


def _crossed(protocol: Protocol) -> Iterator[Claim]:
    """For every rule the rivals, and adaptation beside each: the paper's claim is that of backprop on few examples."""
    for short, rule in RULES:
        for rival in ("momentum", "adam"):
            name = f"{protocol.name}-{short}"
            above = Ahead(f"{name}-{rival}", whose=f"{rival} by the same rule")
            yield Claim(f"{name}-{rival}", protocol, f"{rule}, {rival}", rule, Control(), (f"method={rival}",))
            settings = ("method=adaptation:abs",)
            ours = (protocol, rule) != (FEW, "backprop")
            yield Claim(f"{name}-over-{rival}", protocol, f"{rule}, abs", rule, above, settings, own=ours)


CLAIMS = (
    *_crossed(FEW),
    *_crossed(WHOLE),
    *_claims(_protocol(30, "standardised"), "adam"),
    *_claims(_protocol(100, "standardised"), "rmsprop"),
    *_claims(_protocol(30, "raw"), "rmsprop"),
)
