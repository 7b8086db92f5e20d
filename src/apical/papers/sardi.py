"""Sardi et al. 2020: step sizes that grow with coherent steps, said to learn best from a few examples."""

from apical.papers.claim import Claim, Online, Paper, Protocol
from apical.papers.expectations import Ahead, AtLeast

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
            "An accuracy counts as above another when it is so by two standard errors over 60 paired seeds.",
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


CLAIMS = (
    *_claims(_protocol(30, "standardised"), "adam"),
    *_claims(_protocol(100, "standardised"), "rmsprop"),
    *_claims(_protocol(30, "raw"), "rmsprop"),
)
