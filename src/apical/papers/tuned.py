"""Optimizers beside learning rules: each pair is tuned with the same number of trials, and then tested.

1. Tuning: trials of the optimizer's options, spread evenly on a logarithmic scale as in `apical.papers.few_examples`;
   the highest mean accuracy on training images that are held out chooses. A trial that diverges counts as 0 % right.
2. Testing: the chosen options on other seeds, which no trial has seen, tested once.

A seed is of the initial weights, of the rule's draws, and of the choice and order of examples: the same for all pairs.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from apical import data, models
from apical.circuit import Circuit
from apical.errors import NonFiniteError
from apical.models.perceptrons import balanced_order
from apical.papers.claim import Claim
from apical.papers.few_examples import METHODS, Budget, Digits, Method, Options, draw_trials
from apical.papers.measurement import settings_of
from apical.papers.outcomes import OutcomeJob, without_denormals
from apical.study import Config, RuleConfig
from apical.study.configuration.resolution import resolve

FIRST_TUNING_SEED = 1_000_000  # the seeds that are tested count from 0
HELD_OUT = 5000  # training images
# The gradient of a mean over a batch is smaller than that of one example: slopes, in units of 1 / gradient, are larger.
BATCHED = {"adaptation:abs": {"slope": (10.0, 3000.0)}}


@dataclass(frozen=True)
class TunedJob(OutcomeJob):
    """One rule with one optimizer: its tuning, and its tests from every seed.

    Attributes:
        rule: as it is written for `apical train --rule`.
        method: the optimizer, by its name in `few_examples.METHODS`.
        model: the network, by name.
        examples: of each class, drawn for each seed; 0 for all that are not held out.
        batch_size: of a step.
        epochs: passes over the examples.
        trials: of the options.
        tuning_seeds: on which each trial is tried.
        seeds: how many are tested.
    """

    rule: str
    method: str
    model: str
    examples: int
    batch_size: int
    epochs: int
    trials: int
    tuning_seeds: int
    seeds: int

    def about(self) -> dict[str, Any]:
        return {key: value for key, value in dataclasses.asdict(self).items() if key not in ("title", "folder")}

    @without_denormals()
    def compute(self, advance: Callable[..., None]) -> dict[str, Any]:
        task = data.load(self.task)
        digits = Digits(task, "standardised", Budget(held_out=HELD_OUT))
        trials = draw_trials(self._method(), self.trials)
        tuning = range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + self.tuning_seeds)

        def score(options: Options, seeds: Sequence[int], exam: tuple[Tensor, Tensor]) -> list[float]:
            return [self.train(digits, options, seed, exam, advance) for seed in seeds]

        tried = [fmean(score(options, tuning, digits.held_out)) for options in trials]
        best = max(range(len(trials)), key=tried.__getitem__)
        accuracies = score(trials[best], range(self.seeds), digits.test)
        return {
            "test": len(digits.test[1]),
            "options": dict(trials[best]),
            "validation": tried[best],
            "accuracies": accuracies,
        }

    def _method(self) -> Method:
        method = METHODS[self.method]
        own = BATCHED.get(self.method, {}) if self.batch_size > 1 else {}
        return dataclasses.replace(method, ranges={**method.ranges, **own})

    def train(
        self,
        digits: Digits,
        options: Options,
        seed: int,
        exam: tuple[Tensor, Tensor],
        advance: Callable[..., None] = lambda: None,
    ) -> float:
        """Train from one seed, and return the accuracy on images (n, inputs) with labels (n,); 0 where it diverges."""
        (x, y), (shown, labels) = digits.train, exam
        config = resolve(Config(task=self.task, rule=RuleConfig.parse(self.rule), seed=seed)).config
        torch.manual_seed(seed)
        model = models.build(self.model, input_shape=x.shape[1:], classes=digits.classes, seed=seed)
        circuit = Circuit(model, config.rule.make())
        optimizer = METHODS[self.method].kind(circuit.parameters(), **options)
        try:
            for chosen in self._batches(y, seed):
                advance()
                optimizer.zero_grad()
                F.cross_entropy(circuit(x[chosen]), y[chosen]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            with torch.no_grad():
                return float((circuit.eval()(shown).argmax(1) == labels).double().mean())
        except NonFiniteError:
            return 0.0

    def figures(self) -> dict[str, Any]:
        """Of the work when it is done: see `apical.papers.measuring`."""
        content = self.outcome()
        return {
            "accuracies": tuple(content["accuracies"]),
            "seeds": tuple(range(self.seeds)),
            "epochs": self.epochs,
            "test_examples": content["test"],
            "environment": content["environment"],
        }

    def _batches(self, labels: Tensor, seed: int) -> list[Tensor]:
        """The examples of each step, as indices."""
        generator = torch.Generator().manual_seed(seed)
        chosen = balanced_order(labels, [self.examples], seed) if self.examples else torch.arange(len(labels))
        orders = [chosen[torch.randperm(len(chosen), generator=generator)] for _ in range(self.epochs)]
        return [
            batch for order in orders for batch in torch.split(order, self.batch_size) if len(batch) == self.batch_size
        ]


def job_of(claim: Claim, folder: Path, epochs: int | None, seeds: int | None) -> TunedJob:
    """What measures a claim, in the same folder for all claims of the same pair."""
    of = settings_of(claim.recipe)
    passes, count = epochs or claim.protocol.epochs, seeds or claim.protocol.seeds
    names = (claim.protocol.name, of["rule"], of["method"])
    place = folder / "-".join(names).replace(":", "-") / f"epochs-{passes}-seeds-{count}"
    numbers = {key: int(of[key]) for key in ("examples", "batch_size", "trials", "tuning_seeds")}
    return TunedJob(
        claim.name, place, of["task"], of["rule"], of["method"], of["model"], epochs=passes, seeds=count, **numbers
    )
