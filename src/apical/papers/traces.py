"""The trace of a claim's code: a few steps of its rule, loss and optimizer on tiny networks, as a digest.

A measurement keeps the digest of the code that made it. Where today's code has another one, the figure is stale.

    rule        losses and update sizes of three steps on a convolutional network (where the rule refuses it, on a fully
                connected one), in float64, with the claim's own options and loss, by plain descent
    optimizer   weights of a small perceptron after twenty examples, in float64, with the first trial's options
    one class   accuracies of a network of eight units that learns three classes one after another

Numbers are rounded to nine significant digits, so another processor's order of sums gives the same digest but for one
row in several hundred. A trace cannot show a change of anything it does not run: the data, their scaling and order,
schedules, the claim's own network, and effects that take many steps to be seen. The first two kinds of PyTorch's own
draws (initial weights, noise) are part of it, so another version of PyTorch may change a digest, too.
"""

import hashlib
import warnings
from collections.abc import Callable, Iterator
from functools import cache

import torch
from torch import nn

from apical.circuit import Circuit
from apical.data import Examples, Task
from apical.errors import ApicalError
from apical.losses import Loss
from apical.models.perceptrons import Perceptrons, once
from apical.papers import few_examples, one_class
from apical.papers.claim import Claim
from apical.papers.measurement import settings_of
from apical.rules import LearningRule
from apical.study import Config, RuleConfig
from apical.study.configuration.resolution import resolve
from apical.study.training.criteria import teaching

CLASSES, STEPS = 3, 3
OF_CODE = ("loss", "exploration")  # settings that a trace is made with
RATE = 0.1


def digest(claim: Claim) -> str:
    """Of today's code for a claim; empty where the claim takes no measurement."""
    if claim.says.settle() is not None:
        return ""
    of = settings_of(claim.recipe)
    if claim.protocol.online is not None:
        return _digest(_of_optimizer, (claim.rule,))
    if claim.protocol.one_class:
        return _digest(_of_one_class, (claim.rule, of["gate"], of["units"]))
    if claim.protocol.tuned:
        return f"{_digest(_of_rule, (claim.rule,))}-{_digest(_of_optimizer, (of['method'],))}"
    chosen = tuple(f"{key}={value}" for key, value in of.items() if key.startswith(OF_CODE))
    return _digest(_of_rule, (claim.rule, *chosen))


@cache
def _digest(trace: Callable[..., Iterator[float]], settings: tuple[str, ...]) -> str:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        try:
            text = "\n".join(map(_rounded, trace(*settings)))
        finally:
            torch.set_num_threads(threads)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _rounded(value: float) -> str:
    return f"{value:.8e}" if abs(value) > 1e-12 else "0"


def _convolutional() -> nn.Module:
    hidden = (nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(6, 4), nn.Sigmoid())
    return nn.Sequential(*hidden, nn.Linear(4, CLASSES))


def _dense() -> nn.Module:
    hidden = (nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.Sigmoid())
    return nn.Sequential(*hidden, nn.Linear(4, CLASSES))


def _of_rule(rule: str, *settings: str) -> Iterator[float]:
    given = Config().with_settings(settings).with_values({"rule": RuleConfig.parse(rule).model_dump()})
    config = resolve(given).config
    loss = teaching(config.loss, exploration=config.exploration, generator=torch.Generator().manual_seed(0))
    try:
        yield from _taught(_convolutional, config.rule.make(), loss)
    except ApicalError:
        yield from _taught(_dense, config.rule.make(), loss)


def _taught(build: Callable[[], nn.Module], rule: LearningRule, loss: Loss) -> Iterator[float]:
    torch.manual_seed(0)
    circuit = Circuit(build().double(), rule)
    optimizer = torch.optim.SGD(circuit.parameters(), lr=RATE)
    for x in 4 * torch.rand(STEPS, 8, 1, 2, 3, dtype=torch.float64) - 2:
        optimizer.zero_grad()
        value = loss(circuit(x), torch.arange(len(x)) % CLASSES)
        value.backward()  # type: ignore[no-untyped-call]
        yield value.item()
        for parameter in circuit.parameters():
            if parameter.grad is not None:
                yield float(parameter.grad.norm())
        optimizer.step()


def _of_optimizer(name: str) -> Iterator[float]:
    networks, method = Perceptrons(6, 4, CLASSES, [0], torch.float64), few_examples.METHODS[name]
    optimizer = networks.optimizer(method.kind, few_examples.draw_trials(method, 1))
    torch.manual_seed(0)
    x, steps = 4 * torch.rand(20, 6, dtype=torch.float64) - 2, torch.arange(20)
    for taken in once(networks, optimizer, x, steps % CLASSES, steps[None], range(1, 21)):
        yield taken
        yield float(networks.weights.norm())


def _of_one_class(signal: str, gate: str, units: str) -> Iterator[float]:
    torch.manual_seed(0)
    y = torch.arange(60) % CLASSES
    x = torch.rand(60, 6) + torch.eye(CLASSES, 6)[y]
    task = Task("trace", Examples(x, y), Examples(x, y), CLASSES, "", "")
    found = one_class.run(task, signal, gate, 0, hidden=8, margin=0.2, units=units, epochs=3)
    yield from (found.task_epochs, *found.accuracies.values())
