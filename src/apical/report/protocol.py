"""How each number on the page was made: what was measured, on which data, what the bars mean."""

from collections.abc import Mapping
from types import MappingProxyType

from apical.study.comparison.schema import Comparison

LOSSES: Mapping[str, str] = MappingProxyType(
    {
        "cross_entropy": "cross-entropy",
        "mse": "squared error",
        "reward_prediction": "half the squared error of the reward that was predicted of the chosen class",
        "agrel": "half the squared error of the reward that was expected of the drawn class",
    }
)


def protocol(comparison: Comparison) -> list[tuple[str, str]]:
    """(number, how it was made) for every kind of number that the page shows."""
    entries = [
        ("Test accuracy", _test(comparison)),
        ("± and bars", _spread(comparison)),
        ("Training loss", _training(comparison)),
        ("Validation accuracy", _validation(comparison)),
        ("Settings", _settings(comparison)),
        ("Angle to the gradient", _angle(comparison)),
        ("Cost", _cost(comparison)),
    ]
    if comparison.failures:
        entries.append(
            (
                "Failed runs",
                "Listed with their errors; they enter no mean, no curve and no standard deviation.",
            )
        )
    return entries


def _examples(comparison: Comparison, part: str) -> str:
    return f"{getattr(comparison.task, part):,} "


def _test(comparison: Comparison) -> str:
    return (
        f"Share of the {_examples(comparison, 'test')}test examples that were classified correctly. "
        "Each run measured it once, after its training had ended; the test set served for nothing else."
    )


def _spread(comparison: Comparison) -> str:
    seeds = comparison.seeds
    if len(seeds) < 2:
        return "One seed was run, so there is no spread to show."
    return (
        f"Mean ± sample standard deviation (n − 1 in the denominator) over n = {comparison.sample} seeds "
        f"({', '.join(map(str, seeds))}), each a training of its own. Bands and error bars show the same. "
        "Where a point of a curve stands on fewer runs, its n is given beside it."
    )


def _training(comparison: Comparison) -> str:
    loss = LOSSES.get(str(comparison.config.get("loss")), "loss")
    losses = [(arm.label, arm.settings.loss) for arm in comparison.arms if arm.settings.loss]
    own = [f"of {label}: {LOSSES.get(loss, loss)}" for label, loss in losses]
    apart = (
        f" A rule that learns from a reward has a loss of its own ({'; '.join(own)}), on another scale." if own else ""
    )
    return (
        f"Mean {loss} over the {_examples(comparison, 'train')}training examples of an epoch, "
        f"each taken as it was learned, so while the weights still changed.{apart}"
    )


def _validation(comparison: Comparison) -> str:
    if not comparison.task.validation:
        return "No part of the training data was held out."
    patience = comparison.config.get("patience")
    use = (
        f"Training stopped after {patience} epochs without a lower validation loss; the best weights were tested."
        if patience
        else "It chose neither when to stop nor which weights to test."
    )
    return (
        f"Measured after every epoch on {_examples(comparison, 'validation')}examples cut from the training data. {use}"
    )


def _settings(comparison: Comparison) -> str:
    if len(comparison.arms) == 1:
        return "As listed under Configuration; nothing was tuned here."
    return (
        "All rules share the configuration below, except where a note says otherwise; nothing was tuned here. "
        "For one seed all rules start from the same weights and see the same examples in the same order."
    )


def _angle(comparison: Comparison) -> str:
    if not comparison.layers:
        return "Not measured in these runs."
    every = comparison.config.get("alignment")
    often = f" Measured every {every} epochs and at the end." if isinstance(every, int) and every > 1 else ""
    rewarded = any(arm.settings.loss for arm in comparison.arms)
    own = (
        " A rule that learns from a reward is held to its own loss's gradient, of the same choices." if rewarded else ""
    )
    return (
        "Degrees between a rule's update of one layer's weights and that of the true gradient, for the same "
        "weights and a fixed draw of training examples. 0° is the gradient's own direction; "
        f"two random directions are about 90° apart.{own}{often}"
    )


def _cost(comparison: Comparison) -> str:
    costs = [arm.cost for arm in comparison.arms if arm.cost is not None]
    if not costs:
        return "Not measured in these runs."
    sizes = sorted({cost.batch_size for cost in costs})
    repeats = sorted({cost.repeats for cost in costs})
    threads = comparison.environment.get("threads")
    at = f", batch size {' and '.join(map(str, sizes))}"
    on = f", {threads} thread{'s' * (threads != 1)}" if threads else ""
    turns = f"{' or '.join(map(str, repeats))} turns"
    return (
        "Time of one whole training step (zero_grad, forward, loss, backward, optimizer) divided by that of the "
        f"same step in plain PyTorch, both measured alternating in one process{at}{on}: the median over {turns}, "
        "and in small print and as a bar its quartiles."
    )
