"""A comparison as `apical compare` would leave it: seven rules, three seeds, one cost that was not measured."""

import math
from dataclasses import dataclass, field

import numpy as np

LAYERS = ("1", "3", "5")
EPOCHS = 20


@dataclass(frozen=True)
class Rule:
    name: str
    title: str
    summary: str
    paper: str
    accuracy: float  # at the end of training
    speed: float  # of learning
    angles: tuple[float, ...]  # at the end of training
    ratio: float | None  # of a step's time
    settings: dict = field(default_factory=dict)
    notes: tuple[str, ...] = ()


RULES = [
    Rule(
        name="backprop",
        title="Backpropagation",
        summary="The exact gradient: every weight is told its own share of the error.",
        paper="Rumelhart, Hinton & Williams 1986",
        accuracy=0.972,
        speed=0.62,
        angles=(0.0, 0.0, 0.0),
        ratio=1.01,
    ),
    Rule(
        name="feedback_alignment",
        title="Feedback alignment",
        summary="Fixed random weights carry the error back; the forward weights come to agree with them.",
        paper="Lillicrap et al. 2016",
        accuracy=0.951,
        speed=0.42,
        angles=(64.0, 47.0, 0.0),
        ratio=1.02,
    ),
    Rule(
        name="sign_symmetry",
        title="Sign symmetry",
        summary="Feedback weights share the signs of the forward weights, not their sizes.",
        paper="Liao, Leibo & Poggio 2016",
        accuracy=0.966,
        speed=0.58,
        angles=(31.0, 24.0, 0.0),
        ratio=1.03,
        settings={"options": {"magnitude": "uniform"}},
    ),
    Rule(
        name="kolen_pollack",
        title="Kolen-Pollack",
        summary="Forward and feedback weights receive the same increments and decay, and so grow alike.",
        paper="Akrout et al. 2019",
        accuracy=0.969,
        speed=0.57,
        angles=(9.0, 6.0, 0.0),
        ratio=1.05,
        settings={"weight_decay": 0.001},
        notes=("uses a weight decay of 0.001, as the rule recommends",),
    ),
    Rule(
        name="weight_mirror",
        title="Weight mirror",
        summary="Noise sent forwards shows the feedback weights what the forward weights are.",
        paper="Akrout et al. 2019",
        accuracy=0.964,
        speed=0.5,
        angles=(24.0, 17.0, 0.0),
        ratio=1.31,
    ),
    Rule(
        name="direct_feedback_alignment",
        title="Direct feedback alignment",
        summary="The output error reaches every layer at once, through fixed random weights.",
        paper="Nøkland 2016",
        accuracy=0.953,
        speed=0.46,
        angles=(58.0, 43.0, 0.0),
        ratio=0.98,
    ),
    Rule(
        name="direct_random_target_projection",
        title="Direct random target projection",
        summary="The target itself, randomly projected, teaches each hidden layer: no error is sent back.",
        paper="Frenkel, Lefebvre & Bol 2021",
        accuracy=0.921,
        speed=0.3,
        angles=(82.0, 74.0, 0.0),
        ratio=None,
        settings={"learning_rate": 0.01},
        notes=("uses 0.1 times the shared learning rate, as the rule recommends",),
    ),
]


def demo_run(rng, seed, rule):
    accuracy = rule.accuracy + rng.normal(0, 0.004)
    epochs = []
    for epoch in range(1, EPOCHS + 1):
        progress = 1 - math.exp(-rule.speed * epoch)
        angles = {
            layer: end and end + (88 - end) * math.exp(-rule.speed * epoch / 2) + rng.normal(0, 1.2)
            for layer, end in zip(LAYERS, rule.angles, strict=True)
        }
        epochs.append(
            {
                "epoch": epoch,
                "step": 41 * epoch,
                "learning_rate": 0.1,
                "train_loss": 2.3 * (1 - progress) + (1 - accuracy) * 2 * (1 + rng.normal(0, 0.08)),
                "train_accuracy": 0.1 + (accuracy - 0.09) * progress,
                "validation_loss": 2.3 * (1 - progress) + (1 - accuracy) * 3,
                "validation_accuracy": 0.1 + (accuracy - 0.1) * progress + rng.normal(0, 0.004),
                "angles": angles if epoch % 2 == 0 else None,
            }
        )
    return {
        "seed": seed,
        "status": "finished",
        "error": None,
        "folder": f"runs/{rule.name}/seed-{seed}",
        "epochs": epochs,
        "test_accuracy": accuracy - 0.006,
        "test_loss": (1 - accuracy) * 3.2,
        "angles": epochs[-1]["angles"],
    }


def demo_arm(rng, rule, seeds):
    cost = None
    if rule.ratio is not None:
        cost = {"ratio": rule.ratio, "low": rule.ratio - 0.015, "high": rule.ratio + 0.02, "repeats": 60}
        cost |= {"batch_size": 32, "milliseconds": 0.4 * rule.ratio, "plain_milliseconds": 0.4}
    return {
        "rule": rule.name,
        "title": rule.title,
        "summary": rule.summary,
        "paper": rule.paper,
        "settings": {"learning_rate": 0.1, "weight_decay": 0.0, "options": {}} | rule.settings,
        "notes": list(rule.notes),
        "runs": [demo_run(rng, seed, rule) for seed in seeds],
        "cost": cost,
    }


def demo_comparison(seeds=(0, 1, 2)):
    rng = np.random.default_rng(0)
    return {
        "format": 1,
        "title": "7 learning rules on digits",
        "created": "2026-03-14T15:09:26+00:00",
        "command": "apical compare --task digits --model mlp:128,64 --epochs 20 --seeds 0,1,2",
        "environment": {
            "apical": "0.1.0",
            "torch": "2.13.0+cpu",
            "numpy": "2.3.1",
            "python": "3.12.4",
            "platform": "Linux-6.1.0-x86_64-with-glibc2.36",
            "cpu": "AMD EPYC 7763 64-Core Processor",
            "gpu": None,
            "threads": 1,
            "deterministic": False,
        },
        "task": {
            "name": "digits",
            "train": 1294,
            "validation": 143,
            "test": 360,
            "classes": 10,
            "input_shape": [1, 8, 8],
            "source": "Optical recognition of handwritten digits, UCI, as scikit-learn holds it",
            "licence": "CC BY 4.0",
        },
        "config": {
            "task": "digits",
            "model": "mlp:128,64",
            "rule": {"name": "backprop"},
            "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": None},
            "schedule": {"name": "constant", "warmup": 0.0},
            "loss": "cross_entropy",
            "epochs": EPOCHS,
            "batch_size": 32,
            "seed": 0,
            "device": "cpu",
            "threads": 1,
            "validation": 0.1,
            "patience": 0,
            "alignment": 2,
            "check_finite": True,
        },
        "arms": [demo_arm(rng, rule, seeds) for rule in RULES],
    }


def fail(run, error, *, epochs):
    """Make of a run one that failed after so many epochs."""
    run |= {"status": "failed", "error": error, "test_accuracy": None, "test_loss": math.nan, "angles": None}
    run["epochs"] = run["epochs"][:epochs]


def with_failures(document):
    """The weight mirror loses one seed, direct random target projection all three."""
    nan = "The loss became NaN at step 212, first seen in layer 3. Try a lower learning rate."
    fail(document["arms"][4]["runs"][2], nan, epochs=5)
    for run in document["arms"][6]["runs"]:
        fail(run, "its process died; memory may have run out", epochs=0)
    return document


def with_tuning(document):
    """Every rule chose among three rates; feedback alignment diverged, and lies at the edge of the grid."""
    for number, arm in enumerate(document["arms"]):
        accuracies = [0.9, 0.95, 0.96] if number == 1 else [0.9, 0.95, None]
        arm["tuning"] = {"rates": [0.01, 0.05, 0.1], "seeds": [10, 11], "accuracies": accuracies}
        arm["tuning"]["losses"] = [value and 1 - value for value in accuracies]
        arm["settings"]["learning_rate"] = 0.1 if number == 1 else 0.05
    for run in document["arms"][1]["runs"]:
        run["epochs"][-1]["train_loss"] = 1e4
    return document


def only_run(document):
    """What is left when there is one rule, one seed and no cost."""
    arm = document["arms"][1]
    arm |= {"runs": arm["runs"][:1], "cost": None}
    command = "apical train --rule feedback_alignment"
    return document | {"title": "Feedback alignment on digits", "arms": [arm], "command": command}


DEMO = demo_comparison()
