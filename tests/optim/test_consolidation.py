"""Consolidation: each protection against its paper's equations in plain PyTorch, on a small stream of tasks."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import apical
from apical import continual, measure
from apical.continual import protections
from apical.errors import CheckpointError, CircuitError, ConfigError
from apical.neurons import LIF, LeakyReadout
from apical.optim.consolidation import EWC, MAS, SI, OnlineEWC, Protection

OUTPUTS = ((0, 1), (2, 3), (0, 3))
EXACT = {"rtol": 1e-9, "atol": 1e-12}


@dataclass
class Examples:
    x: Tensor
    y: Tensor


def tasks(
    samples: int = 12, shape: tuple[int, ...] = (5,), dtype=torch.float64
) -> Iterator[tuple[tuple[int, ...], Examples]]:
    """Tasks, each with outputs of its own."""
    generator = torch.Generator().manual_seed(1)
    for outputs in OUTPUTS:
        x = torch.randn(samples, *shape, generator=generator, dtype=dtype)
        places = torch.randint(0, len(outputs), (samples,), generator=generator)
        yield outputs, Examples(x, torch.tensor(outputs)[places])


def network(dtype=torch.float64) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4)).to(dtype)


def loss_on(outputs: tuple[int, ...]) -> Callable[[Tensor, Tensor], Tensor]:
    """The mean loss on the outputs that compete."""
    among = torch.tensor(outputs)
    return lambda answer, y: F.cross_entropy(answer[:, among], (y[:, None] == among).long().argmax(1))


class Learner:
    """A circuit that learns tasks with a protection, as a trainer lets it."""

    def __init__(self, model: nn.Module, protection: Protection, rule: str = "backprop", lr: float = 0.2) -> None:
        self.protection = protection
        self.circuit = apical.Circuit(protection.prepare(model, len(OUTPUTS)), rule)
        self.outputs = OUTPUTS[0]
        protection.attach(self.circuit, lambda answer, y: loss_on(self.outputs)(answer, y))
        self.optimizer = torch.optim.SGD(self.circuit.parameters(), lr=lr, momentum=0.5)

    def step(self, examples: Examples) -> None:
        self.optimizer.zero_grad()
        _, loss = self.protection.loss(examples.x, examples.y)
        loss.backward()
        self.protection.correct()
        self.protection.step(self.optimizer)

    def learn(self, outputs: tuple[int, ...], examples: Examples, steps: int = 4) -> None:
        self.outputs = outputs
        self.protection.begin_task(outputs)
        for _ in range(steps):
            self.step(examples)
        self.protection.end_task(examples)

    def learn_all(self, **options) -> dict[str, Tensor]:
        for outputs, examples in tasks(**options):
            self.learn(outputs, examples)
        return self.weights()

    def weights(self) -> dict[str, Tensor]:
        return {name: own.detach().clone() for name, own in self.circuit.model.named_parameters()}


class Reference:
    """The same in plain PyTorch: a subclass writes the penalty, and what happens in steps and at the end of tasks."""

    def __init__(self, lr: float = 0.2) -> None:
        self.model = network()
        self.theta = list(self.model.parameters())
        optimizer = torch.optim.SGD(self.theta, lr=lr, momentum=0.5)
        self.start()
        for outputs, examples in tasks():
            for _ in range(4):
                optimizer.zero_grad()
                task = loss_on(outputs)(self.model(examples.x), examples.y)
                plain = torch.autograd.grad(task, self.theta, retain_graph=True)
                (task + self.penalty()).backward()
                before = self.now()
                optimizer.step()
                self.moved(plain, [a - b for a, b in zip(self.now(), before, strict=True)])
            self.end(outputs, examples)
        self.final = {name: own.detach() for name, own in self.model.named_parameters()}

    def now(self) -> list[Tensor]:
        return [own.detach().clone() for own in self.theta]

    def start(self) -> None: ...

    def moved(self, gradient: tuple[Tensor, ...], step: list[Tensor]) -> None: ...

    def penalty(self) -> Tensor: ...

    def end(self, outputs: tuple[int, ...], examples: Examples) -> None: ...

    def gradients(self, value: Tensor) -> list[Tensor]:
        return [
            torch.zeros_like(own) if found is None else found
            for own, found in zip(
                self.theta, torch.autograd.grad(value, self.theta, retain_graph=True, allow_unused=True), strict=True
            )
        ]

    def fisher(self, outputs: tuple[int, ...], examples: Examples) -> list[Tensor]:
        total = [torch.zeros_like(own) for own in self.theta]
        for x in examples.x:
            log_p = self.model(x[None])[0, list(outputs)].log_softmax(0)
            for c in range(len(outputs)):
                for sum_, g in zip(total, self.gradients(log_p[c]), strict=True):
                    sum_ += log_p[c].detach().exp() * g**2 / len(examples.x)
        return total


class ReferenceEWC(Reference):
    def start(self):
        self.terms = []

    def penalty(self):
        return sum(
            (
                7.0 / 2 * (F_ * (own - anchor) ** 2).sum()
                for term in self.terms
                for F_, anchor, own in zip(*term, self.theta, strict=True)
            ),
            torch.zeros(()),
        )

    def end(self, outputs, examples):
        self.terms.append((self.fisher(outputs, examples), self.now()))


class ReferenceOnlineEWC(ReferenceEWC):
    def end(self, outputs, examples):
        faded = [0.6 * own for own in self.terms[0][0]] if self.terms else [0.0] * len(self.theta)
        self.terms = [([a + b for a, b in zip(self.fisher(outputs, examples), faded, strict=True)], self.now())]


class ReferenceSI(Reference):
    def start(self):
        self.omega = [torch.zeros_like(own) for own in self.theta]
        self.big = [torch.zeros_like(own) for own in self.theta]
        self.anchor = self.now()

    def penalty(self):
        return 7.0 * sum(
            (o * (own - a) ** 2).sum() for o, a, own in zip(self.big, self.anchor, self.theta, strict=True)
        )

    def moved(self, gradient, step):
        self.omega = [o - g * d for o, g, d in zip(self.omega, gradient, step, strict=True)]

    def end(self, outputs, examples):
        now = self.now()
        self.big = [
            b + o / ((n - a) ** 2 + 0.01) for b, o, n, a in zip(self.big, self.omega, now, self.anchor, strict=True)
        ]
        self.anchor, self.omega = now, [torch.zeros_like(own) for own in self.theta]


class ReferenceMAS(ReferenceSI):
    def end(self, outputs, examples):
        for x in examples.x:
            found = self.gradients(self.model(x[None])[0, list(outputs)].square().sum())
            self.big = [b + g.abs() / len(examples.x) for b, g in zip(self.big, found, strict=True)]
        self.anchor = self.now()


EQUATIONS: dict[str, tuple[Callable[[], Protection], type[Reference]]] = {
    "ewc": (lambda: EWC(7.0), ReferenceEWC),
    "online_ewc": (lambda: OnlineEWC(7.0, decay=0.6), ReferenceOnlineEWC),
    "si": (lambda: SI(7.0, damping=0.01), ReferenceSI),
    "mas": (lambda: MAS(7.0), ReferenceMAS),
}
STRENGTHS = ["ewc", "online_ewc", "si", "mas"]
RULES = ["feedback_alignment", "kolen_pollack", "direct_feedback_alignment", "burst_ccn", "predictive_coding"]


@pytest.mark.parametrize("name", EQUATIONS)
def test_the_weights_are_those_of_the_papers_equations(name):
    make, reference = EQUATIONS[name]
    found, wanted = Learner(network(), make()).learn_all(), reference().final
    for key in wanted:
        torch.testing.assert_close(found[key], wanted[key], **EXACT)
    assert not torch.allclose(found["0.weight"], Learner(network(), Protection()).learn_all()["0.weight"], rtol=1e-3)


@pytest.mark.parametrize("name", STRENGTHS)
def test_without_strength_no_bit_moves(name):
    with torch.random.fork_rng(devices=[]):
        found = Learner(network(), protections.make(name, strength=0.0)).learn_all()
        random = torch.get_rng_state()
    with torch.random.fork_rng(devices=[]):
        plain = Learner(network(), Protection()).learn_all()
        assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(found[key], plain[key]) for key in plain)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", STRENGTHS)
def test_what_is_added_to_a_rules_update_is_the_derivative_of_the_penalty(name, rule):
    learner = Learner(network(), protections.make(name, strength=3.0), rule)
    (outputs, first), (others, second), _ = tasks()
    learner.learn(outputs, first)
    learner.protection.begin_task(others)
    learner.step(second)
    _, loss = learner.protection.loss(second.x, second.y)
    learner.optimizer.zero_grad()
    loss.backward()
    before = {name: own.grad.clone() for name, own in learner.circuit.named_parameters()}
    learner.protection.correct()
    kept, share = learner.protection.importance, learner.protection.share
    for key, own in learner.circuit.named_parameters():
        wanted = before[key]
        if key.startswith("model."):
            inner = key.removeprefix("model.")
            wanted = wanted + 2 * share * 3.0 * kept[inner] * (own - learner.protection.anchor[inner])
        torch.testing.assert_close(own.grad, wanted, **EXACT)
    assert any(importance.any() for importance in kept.values())


@pytest.mark.parametrize(
    "name", [name for name in protections.names() if protections.get(name).__module__.startswith("apical.optim")]
)
def test_a_run_that_is_resumed_has_the_same_bits(name):
    def learner() -> Learner:
        return Learner(network(), protections.make(name))

    first, (second, third) = learner(), list(tasks())[1:]
    first.learn(*next(tasks()))
    first.protection.begin_task(second[0])
    first.outputs = second[0]
    first.step(second[1])
    other = learner()
    other.circuit.load_state_dict(copy.deepcopy(first.circuit.state_dict()))
    other.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    other.protection.load_state_dict(copy.deepcopy(first.protection.state_dict()))
    other.outputs = second[0]
    state, found = torch.get_rng_state(), []
    for one in (first, other):
        torch.set_rng_state(state)
        one.step(second[1])
        one.protection.end_task(second[1])
        one.learn(*third)
        found.append(one.weights())
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])
    assert first.protection.assumptions() == other.protection.assumptions()


def test_the_state_of_another_protection_or_network_is_refused():
    learner = Learner(network(), EWC())
    with pytest.raises(CheckpointError, match="mas"):
        Learner(network(), MAS()).protection.load_state_dict({"outputs": None, "anchor": {}})
    learner.learn(*next(tasks()))
    state = learner.protection.state_dict()
    other = Learner(nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 4)), EWC())
    with pytest.raises(CheckpointError, match=r"0\.weight"):
        other.protection.load_state_dict(state)


def test_what_is_kept_does_not_grow_with_the_tasks():
    learner = Learner(network(), EWC())
    first, second, third = tasks()
    learner.learn(*first)
    size = learner.protection.assumptions().bytes
    assert size == 2 * 8 * sum(own.numel() for own in learner.circuit.model.parameters())
    learner.learn(*second)
    learner.learn(*third)
    assert learner.protection.assumptions().bytes == size


def test_frozen_and_shared_and_computed_parameters():
    model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    model[2].weight = model[0].weight
    model[0].bias.requires_grad_(False)
    nn.utils.parametrizations.weight_norm(model[4])
    for name in STRENGTHS:
        learner = Learner(copy.deepcopy(model), protections.make(name, strength=2.0))
        learner.learn_all()
        kept = learner.protection.importance
        assert "0.bias" not in learner.protection.learning()
        assert torch.equal(learner.circuit.model[0].bias, model[0].bias)
        assert kept["0.weight"].any()
        assert kept["4.parametrizations.weight.original1"].any()


def test_samples_and_kinds():
    (outputs, examples), *_ = tasks()
    learner = Learner(network(), EWC(fisher="empirical", samples=5, seed=3))
    learner.learn(outputs, examples)
    chosen = torch.randperm(12, generator=torch.Generator().manual_seed(3))[:5]
    wanted = measure.fisher(learner.circuit, examples.x[chosen], examples.y[chosen], kind="empirical", outputs=outputs)
    assert all(torch.equal(learner.protection.importance[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda: EWC(-1.0), "strength"),
        (lambda: EWC(float("nan")), "strength"),
        (lambda: EWC(fisher="true"), "fisher"),
        (lambda: EWC(samples=0), "samples"),
        (lambda: OnlineEWC(decay=1.5), "decay"),
        (lambda: SI(damping=0.0), "damping"),
        (lambda: MAS(float("inf")), "strength"),
        (lambda: protections.make("ewc", lambda_=1.0), "lambda_"),
        (lambda: protections.make("ewcs"), "ewc"),
        (lambda: EWC().attach(apical.Circuit(network(), "backprop", loss_scale=2.0), F.cross_entropy), "loss_scale"),
    ],
)
def test_options_that_cannot_be_are_refused(make, option):
    with pytest.raises(ConfigError, match=option):
        make()


BENEFIT = {
    "ewc": {"strength": 1.0},
    "online_ewc": {"strength": 1.0},
    "si": {"strength": 0.1},
    "mas": {"strength": 0.01},
    "owm": {},
    "metaplasticity": {"m": 5.0, "binary": False},
    "mesu": {},
}


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def retained(
    name: str, seed: int, make: Callable[[], nn.Module] = mlp, count: int = 3, **options
) -> tuple[float, float]:
    """The accuracy on the first and on the last of some tasks at the end; each permutes the inputs of digits."""
    stream = list(continual.permuted("digits", tasks=count, seed=seed))
    torch.manual_seed(seed)
    protection = protections.make(name, **options)
    circuit = apical.Circuit(protection.prepare(make(), count), "backprop")
    protection.attach(circuit, F.cross_entropy)
    kind, lr = (torch.optim.SGD, 0.1) if make is mlp else (torch.optim.Adam, 0.005)
    optimizer = kind(circuit.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(seed)
    for task in stream:
        protection.begin_task(range(10))
        circuit.train()
        for _ in range(4):
            for batch in torch.randperm(len(task.train), generator=generator).split(32):
                optimizer.zero_grad()
                protection.loss(task.train.x[batch], task.train.y[batch])[1].backward()
                protection.correct()
                protection.step(optimizer)
        protection.end_task(task.train)
    circuit.eval()
    with torch.no_grad():
        first, *_, last = ((circuit(task.test.x).argmax(1) == task.test.y).double().mean().item() for task in stream)
    return first, last


@pytest.fixture(scope="module")
def unprotected() -> list[tuple[float, float]]:
    return [retained("none", seed) for seed in range(2)]


@pytest.mark.parametrize("name", ["ewc", "online_ewc", "mas", "owm"])
def test_what_needs_samples_apart_refuses_a_network_in_time_before_it_learns(name):
    """A sample has parts at several moments, whose squares are not the square of their sum."""
    model = nn.Sequential(nn.Linear(4, 6), LIF(), nn.Linear(6, 3), LeakyReadout())
    with pytest.raises(CircuitError, match="LIF has a memory"):
        protections.make(name).attach(apical.Circuit(model, "backprop"), F.cross_entropy)


@pytest.mark.parametrize("name", BENEFIT)
def test_more_of_the_first_task_is_kept_than_without(name, unprotected):
    for seed, (plain, _) in enumerate(unprotected):
        first, last = retained(name, seed, **BENEFIT[name])
        assert first > plain + 0.05
        assert last > 0.75


def test_binary_weights_keep_more_where_they_are_metaplastic():
    def make() -> nn.Module:
        norms = [nn.LayerNorm(width, elementwise_affine=False) for width in (128, 10)]
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), norms[0], nn.Hardtanh(), nn.Linear(128, 10), norms[1])

    for seed in range(2):
        plain, metaplastic = (retained("metaplasticity", seed, make, 2, m=m) for m in (0.0, 20.0))
        assert metaplastic[0] > plain[0] + 0.2
        assert metaplastic[1] > 0.3
