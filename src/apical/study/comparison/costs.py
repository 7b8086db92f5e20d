"""What a training step of each rule costs, on the network and batch of a comparison, one thread."""

from collections.abc import Callable, Mapping
from dataclasses import asdict

import torch

from apical import data, measure, models
from apical.study.comparison.parts import Cost
from apical.study.configuration import Config
from apical.study.training.criteria import teaching
from apical.study.training.making import reproducible, seed_for

TURNS = 20
STEPS_PER_TURN = 8  # what a rule does only every so many steps is in each turn
# So small a learning rate that the weights stay what they are while steps are timed.
RATE = 1e-6


def measure_costs(
    config: Config, task: data.Task, arms: Mapping[str, Config], *, on_turn: Callable[[int], None] | None = None
) -> dict[str, Cost]:
    """Whole-step time of each arm as a ratio to plain PyTorch, all alternating.

    Args:
        config: what all share: network, loss, optimizer, batch size.
        task: where the batch comes from.
        arms: a resolved configuration for each label.
        on_turn: called with the number of turns done, of `measure.step_cost`'s default warm-up and `TURNS`.

    Returns:
        the cost for each label.
    """
    optimizer = config.with_values({"optimizer.lr": RATE}).optimizer
    batch = task.train.take(range(min(config.batch_size, len(task.train)))).to(config.device)
    with reproducible(config):
        seed = seed_for(config.seed, "weights")
        model = models.build(config.model, input_shape=task.input_shape, classes=task.classes, seed=seed)
        costs = measure.step_cost(
            model.to(config.device),
            {label: arm.rule.make for label, arm in arms.items()},
            batch.x,
            batch.y,
            loss=teaching(config.loss, exploration=config.exploration, generator=torch.Generator()),
            optimizer=lambda parameters: optimizer.make(list[torch.Tensor](parameters)),
            repeats=TURNS,
            steps_per_turn=STEPS_PER_TURN,
            check_finite=config.check_finite,
            on_turn=on_turn,
        )
    return {
        label: Cost(**{key: value for key, value in asdict(cost).items() if key != "threads"})
        for label, cost in costs.items()
    }
