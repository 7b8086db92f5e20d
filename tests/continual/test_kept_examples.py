"""Protections that keep examples, outputs or gates: their equations in plain PyTorch, their limits, their states."""

import copy
import io
import warnings

import numpy as np
import protected
import pytest
import torch
from protected import Trainer, network, stream
from torch import nn
from torch.nn import functional as F

import apical
from apical import continual, neurons
from apical.continual import protections
from apical.errors import CheckpointError, ConfigError

OWN = ("replay", "der", "derpp", "agem", "lwf", "xdg", "freeze")
NOTHING = {
    "replay": {"size": 0},
    "der": {"alpha": 0},
    "derpp": {"alpha": 0, "beta": 0},
    "agem": {"size": 0},
    "lwf": {"strength": 0},
    "xdg": {"gated": 0},
}


def scenario_of(name: str) -> str:
    return "task" if name == "xdg" else "class"


class Kept:
    """A reservoir in a list, with the draws of the protections' generator."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seen, self.kept = size, 0, []
        self.generator = torch.Generator().manual_seed(seed)

    def add(self, *parts) -> None:
        draws = torch.rand(len(parts[0]), generator=self.generator, dtype=torch.float64).tolist()
        for draw, *example in zip(draws, *parts, strict=True):
            place = self.seen if self.seen < self.size else int(draw * (self.seen + 1))
            self.seen += 1
            self.kept[place : place + 1] = [example] if place < self.size else []

    def draw(self, count: int):
        places = torch.randint(len(self.kept), (count,), generator=self.generator).tolist()
        return [torch.stack([self.kept[place][part] for place in places]) for part in range(len(self.kept[0]))]


def plain_training(tasks, step, end=lambda task: None, begin=lambda model: None):
    """Steps of plain PyTorch on the batches of `Trainer`: step(model, x, y) leaves gradients."""
    batches = Trainer(protections.make("none"), tasks, rule=None).plan
    model = network(tasks.outputs)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for action, i, *places in batches:
        task = tasks[i]
        if action == "begin":
            begin(model)
        elif action == "end":
            end(task)
        else:
            optimizer.zero_grad()
            step(model, task.train.x[places[0]], task.train.y[places[0]])
            optimizer.step()
    return torch.cat([own.detach().flatten() for own in model.parameters()])


@pytest.mark.parametrize("batch", [None, 5])
def test_replay_learns_from_the_mean_over_both(batch):
    memory = Kept(20, seed=3)

    def step(model, x, y):
        if memory.kept:
            old_x, old_y = memory.draw(batch or len(y))
            total = F.cross_entropy(model(x), y, reduction="sum") + F.cross_entropy(
                model(old_x), old_y, reduction="sum"
            )
            (total / (len(y) + len(old_y))).backward()
        else:
            F.cross_entropy(model(x), y).backward()
        memory.add(x, y)

    found = Trainer(protections.make("replay", size=20, batch=batch, seed=3), stream()).run().weights()
    torch.testing.assert_close(found, plain_training(stream(), step), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "options"), [("der", {"alpha": 0.3}), ("derpp", {"alpha": 0.2, "beta": 0.7})])
def test_dark_experience_replay(name, options):
    memory = Kept(20, seed=3)

    def step(model, x, y):
        z = model(x)
        loss = F.cross_entropy(z, y)
        if memory.kept:
            old_x, _, old_z = memory.draw(len(y))
            loss = loss + options["alpha"] * torch.linalg.vector_norm(model(old_x) - old_z, dim=1).pow(2).mean()
        if memory.kept and "beta" in options:
            old_x, old_y, _ = memory.draw(len(y))
            loss = loss + options["beta"] * F.cross_entropy(model(old_x), old_y)
        loss.backward()
        memory.add(x, y, z.detach())

    found = Trainer(protections.make(name, size=20, seed=3, **options), stream()).run().weights()
    torch.testing.assert_close(found, plain_training(stream(), step), rtol=1e-3, atol=1e-4)


def test_averaged_gradient_memory():
    memory, projected = Kept(20, seed=3), []

    def step(model, x, y):
        F.cross_entropy(model(x), y).backward()
        if not memory.kept:
            return
        other = copy.deepcopy(model)
        old_x, old_y = memory.draw(len(y))
        F.cross_entropy(other(old_x), old_y).backward()
        g, r = (np.concatenate([p.grad.numpy().ravel() for p in each.parameters()]) for each in (model, other))
        projected.append(g @ r < 0)
        if projected[-1]:
            g = g - (g @ r) / (r @ r) * r
            for own, part in zip(model.parameters(), np.split(g, np.cumsum(sizes)[:-1]), strict=True):
                own.grad = torch.from_numpy(part.reshape(own.shape))

    sizes = [own.numel() for own in network().parameters()]
    plain = plain_training(stream(), step, lambda task: memory.add(task.train.x, task.train.y))
    found = Trainer(protections.make("agem", size=20, seed=3), stream()).run().weights()
    assert {True, False} == set(map(bool, projected))
    torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scenario", ["task", "class", "domain"])
def test_learning_without_forgetting(scenario):
    tasks, kept, heads = stream(scenario), [], {"task": [], "class": [[]], "domain": [[]]}[scenario]
    loss_of = protected.loss_on(tasks)

    def begin(model):
        kept[:] = [copy.deepcopy(model)]

    def end(task):
        if scenario == "task":
            heads.append(list(task.labels))
        else:
            heads[0][:] = sorted({*heads[0], *task.labels})

    def step(model, x, y):
        z, before = model(x), kept[0](x).detach()
        loss = loss_of(z, y)
        for head in filter(None, heads):
            p, q = (torch.softmax(each[:, head] / 3, 1) for each in (before, z))
            loss = loss + 0.6 * 3**2 * (p * (p.log() - q.log())).sum(1).mean()
        loss.backward()

    found = Trainer(protections.make("lwf", strength=0.6, temperature=3), tasks).run().weights()
    torch.testing.assert_close(found, plain_training(tasks, step, end, begin), rtol=1e-3, atol=1e-4)


def test_xdg_masks_hidden_units_by_task():
    tasks = stream("task")
    trainer = Trainer(protections.make("xdg", gated=0.7, seed=4), tasks)
    gates = [module for module in trainer.circuit.modules() if isinstance(module, apical.RandomGate)]
    masks = []
    for i in range(3):
        trainer.protection.select(i)
        masks.append([gate.factor(torch.ones(1, units))[0] for gate, units in zip(gates, (20, 12), strict=True)])
        assert [int(mask.sum()) for mask in masks[i]] == [6, 4]  # of 20 and 12 units
        assert all(set(mask.tolist()) == {0, 1} for mask in masks[i])
    assert not torch.equal(masks[0][0], masks[1][0])
    assert not torch.equal(masks[0][0][:12], masks[0][1])

    def begin(model):
        model.task = 0 if not hasattr(model, "task") else model.task + 1

    def step(model, x, y):
        first, _, second, _, third = model
        rates = torch.tanh(first(x)) * masks[model.task][0]
        loss = protected.loss_on(tasks)(third(torch.tanh(second(rates)) * masks[model.task][1]), y)
        loss.backward()

    plain = plain_training(tasks, step, begin=begin)
    torch.testing.assert_close(trainer.run().weights(), plain, rtol=1e-3, atol=1e-4)


def test_masks_depend_on_seed_and_layer_alone():
    def mask(seed: int, *extra: nn.Module):
        model = protections.make("xdg", seed=seed).prepare(network(6, *extra), 3)
        return next(m for m in model.modules() if isinstance(m, apical.RandomGate)).factor(torch.ones(1, 20))

    assert torch.equal(mask(0), mask(0, nn.Dropout()))
    assert not torch.equal(mask(0), mask(1))


class Functional(nn.Module):
    def __init__(self, function=F.relu) -> None:
        super().__init__()
        self.first, self.second, self.rectify = nn.Linear(6, 5), nn.Linear(5, 6), nn.ReLU()
        self.function = function

    def forward(self, x):
        return self.second(self.function(self.first(x)))


class Twice(Functional):
    def forward(self, x):
        return self.rectify(self.second(self.rectify(self.first(x))))


class Deep(nn.Module):
    """A residual network of convolutions, whose sum has an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(16, 3)
        self.norm, self.rectify, self.again, self.last = nn.BatchNorm2d(4), nn.ReLU(), nn.PReLU(), nn.Sigmoid()

    def forward(self, x):
        h = self.rectify(self.norm(self.first(x)))
        return self.last(self.out(self.again(h + self.second(h)).flatten(1)))


@pytest.mark.parametrize("model", [Functional(), Functional(torch.sin), Twice(), nn.Linear(6, 6)], ids=str)
def test_activations_that_no_gate_can_follow_are_refused(model):
    with pytest.raises(ConfigError, match=r"xdg: .*(first|hidden)"):
        protections.make("xdg").prepare(model, 3)


def test_a_model_is_gated_once():
    model = protections.make("xdg").prepare(network(), 3)
    with pytest.raises(ConfigError, match="gates"):
        protections.make("xdg").prepare(model, 3)


class Own(nn.Module):
    """Neurons of unknown traits."""

    def forward(self, x):
        return x * x.sigmoid().square()


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Deep(), {"rectify.1", "again.1"}),
        (nn.Sequential(Own(), nn.Flatten(), nn.Linear(16, 5), Own(), nn.Dropout(), nn.Linear(5, 3)), {"3.1"}),
        (apical.models.build("lenet", input_shape=(1, 28, 28), classes=3, seed=0), {"2.1", "5.1", "8.1", "11.1"}),
    ],
    ids=["residual", "own neurons", "lenet"],
)
def test_gates_follow_every_hidden_activation_of_any_graph(model, expected):
    given, model = model, protections.make("xdg").prepare(model, 3)
    assert not any(isinstance(module, apical.RandomGate) for module in given.modules())
    gated = {path for path, module in model.named_modules() if isinstance(module, apical.RandomGate)}
    assert gated == expected
    x = torch.rand(2, 1, 28, 28) if len(expected) == 4 else torch.rand(2, 1, 4, 4)
    circuit = apical.Circuit(model, "feedback_alignment", example=x)
    circuit(x).sum().backward()
    assert all(own.grad is not None for own in model.parameters())


@pytest.mark.parametrize("make", [Deep, lambda: network(3)])
def test_frozen_layers_never_learn(make):
    before = make()
    model = protections.make("freeze").prepare(before, 3)
    assert all(own.requires_grad for own in before.parameters())
    x = torch.rand(5, 1, 4, 4) if isinstance(model, Deep) else torch.rand(5, 6)
    circuit = apical.Circuit(model, "feedback_alignment", example=x)
    optimizer = torch.optim.SGD(circuit.parameters(), lr=0.5, weight_decay=0.1)
    F.cross_entropy(circuit(x), torch.arange(5) % 3).backward()
    optimizer.step()
    changed = {n for (n, p), q in zip(model.named_parameters(), before.parameters(), strict=True) if not p.equal(q)}
    assert changed == ({"out.weight", "out.bias"} if isinstance(model, Deep) else {"4.weight", "4.bias"})


@pytest.mark.parametrize("name", ["xdg", "freeze"])
def test_what_works_in_the_network_is_built_into_it(name):
    with pytest.raises(ConfigError, match=f"{name}: .*prepare"):
        protections.make(name).attach(apical.Circuit(network(), "backprop"), F.cross_entropy)


@pytest.mark.parametrize("name", ["xdg", "freeze"])
def test_networks_that_encode_their_input_are_prepared_as_their_model_is(name):
    torch.manual_seed(0)
    parts = [nn.Linear(6, 40), neurons.LIF(0.9, 0.3), nn.Linear(40, 12), neurons.ALIF(0.9, 0.1), nn.Linear(12, 6)]
    inside = nn.Sequential(*parts, neurons.LeakyReadout())
    tasks = stream(scenario_of(name))
    whole = neurons.OverTime(inside, lambda x: torch.stack([x, 2 * x, x / 2]))
    model = protections.make(name).prepare(whole, len(tasks))
    assert str(model.model) == str(protections.make(name).prepare(inside, len(tasks)))
    gates = [path for path, module in model.model.named_modules() if isinstance(module, apical.RandomGate)]
    assert gates == (["1.1", "3.1"] if name == "xdg" else [])
    learn = [path for path, own in model.model.named_parameters() if own.requires_grad]
    assert name == "xdg" or learn == ["4.weight", "4.bias"]
    trainer = Trainer(protections.make(name), tasks, whole)
    before = trainer.accuracy()
    assert trainer.run().accuracy() > before + 0.1


def test_there_must_be_something_to_freeze():
    tied = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
    tied[2].weight = tied[0].weight
    for model in (nn.Linear(6, 3), tied):
        with pytest.raises(ConfigError, match="freeze"):
            protections.make("freeze").prepare(model, 3)


@pytest.mark.parametrize("rule", [None, "burst_ccn"])
@pytest.mark.parametrize("name", NOTHING)
def test_nothing_protected_is_no_protection_bit_for_bit(name, rule):
    tasks = stream(scenario_of(name))
    found = Trainer(protections.make(name, **NOTHING[name]), tasks, network(6, nn.Dropout(0.2)), rule)
    plain = Trainer(protections.make("none"), tasks, network(6, nn.Dropout(0.2)), rule)
    for trainer in (found, plain):
        torch.manual_seed(0)
        trainer.run(9)
    assert torch.equal(found.weights(), plain.weights())
    assert found.protection.assumptions().passes == 1


@pytest.mark.parametrize("name", ["replay", "der", "derpp", "agem", "lwf"])
def test_it_begins_as_training_without_protection(name):
    """The first step, and for those that need boundaries the first task."""
    made, plain = (Trainer(protections.make(each), stream(), rule="feedback_alignment") for each in (name, "none"))
    actions = 8 if made.protection.needs_boundaries else 2
    assert torch.equal(made.run(actions).weights(), plain.run(actions).weights())
    assert not torch.equal(made.run(4).weights(), plain.run(4).weights())


@pytest.mark.parametrize("name", OWN)
def test_it_goes_on_from_its_state_to_the_same_bits(name):
    def trainer():
        return Trainer(protections.make(name), stream(scenario_of(name)), rule="burst_ccn")

    whole = trainer().run()
    for stop in (3, 8, 12):  # in the first task, at its end, and in the second
        file = io.BytesIO()
        torch.save(trainer().run(stop).state(), file)
        file.seek(0)
        again = trainer().load(torch.load(file, weights_only=True)).run()
        assert torch.equal(again.weights(), whole.weights())
        assert again.protection.assumptions() == whole.protection.assumptions()


@pytest.mark.parametrize("name", OWN)
def test_the_state_of_another_is_refused(name):
    trainer = Trainer(protections.make(name), stream(scenario_of(name)))
    with pytest.raises(CheckpointError, match=name):
        trainer.protection.load_state_dict({"importance": torch.zeros(3)})


WITHOUT_ERROR = {"oja", "soft_hebb"}
WITHOUT_FREE_ERROR = {*WITHOUT_ERROR, "three_factor", "agrel", "brainprop", "naca", "direct_random_target_projection"}
REFUSED = {"agem": WITHOUT_ERROR} | dict.fromkeys(("der", "derpp", "lwf"), WITHOUT_FREE_ERROR)


@pytest.mark.parametrize("rule", apical.rules.names())
@pytest.mark.parametrize("name", [name for name in OWN if name != "der"])  # as derpp
def test_every_rule_is_protected_or_refused_with_the_reason(name, rule):
    tasks = stream(scenario_of(name))
    protection = protections.make(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if rule in REFUSED.get(name, ()):
            with pytest.raises(ConfigError, match=f"{name}: {apical.rules.get(rule).__name__}"):
                Trainer(protection, tasks, rule=rule)
            return
        loss = apical.losses.LOSSES.get(apical.rules.get(rule).learns_from)
        trainer = Trainer(protection, tasks, rule=rule, loss=loss, lr=0.02)
        before = trainer.weights()
        trainer.run(9)
    assert trainer.weights().isfinite().all()
    assert not torch.equal(trainer.weights(), before)


@pytest.mark.parametrize("rule", ["equilibrium_propagation", "predictive_coding"])
def test_a_rule_that_is_given_its_loss_takes_no_other_term(rule):
    options = {"variant": "strict"} if rule == "predictive_coding" else {}
    made = apical.rules.make(rule, loss="cross_entropy", **options)
    with pytest.raises(ConfigError, match=r"lwf: .*loss='cross_entropy'"):
        Trainer(protections.make("lwf"), stream(), rule=made)


@pytest.mark.parametrize("name", ["replay", "derpp", "agem"])
def test_batches_of_other_sizes_need_a_mean(name):
    circuit = apical.Circuit(network(), "burst_ccn", reduction=16)
    with pytest.raises(ConfigError, match=f"{name}: reduction=16"):
        protections.make(name).attach(circuit, F.cross_entropy)


def test_gradient_memory_needs_unscaled_gradients():
    circuit = apical.Circuit(network(), "backprop", loss_scale=128.0)
    with pytest.raises(ConfigError, match=r"agem: .*loss_scale"):
        protections.make("agem").attach(circuit, F.cross_entropy)


def test_gradient_memory_keeps_learned_feedback_reciprocal():
    trainer = Trainer(protections.make("agem"), stream(), rule="kolen_pollack")
    trainer.run(12)
    feedback = {own.shape: own.grad for own in trainer.circuit.rule.parameters()}
    assert len(feedback) == 2
    for layer in (2, 4):
        grad = trainer.circuit.model[layer].weight.grad
        assert torch.equal(feedback[grad.shape], grad)


def test_gradient_memory_removes_what_opposes_it():
    trainer = Trainer(protections.make("agem"), stream()).run(12)
    protection, task = trainer.protection, trainer.tasks[2]
    trainer.optimizer.zero_grad()
    protection.loss(task.train.x[:16], task.train.y[:16])[1].backward()
    generator = protection.memory.generator.clone_state()
    before = [own.grad.clone() for own in trainer.circuit.parameters()]
    protection.correct()
    protection.memory.generator.set_state(generator.get_state())
    old_x, old_y = protection.memory.draw(16)
    parameters = list(trainer.circuit.parameters())
    reference = torch.autograd.grad(F.cross_entropy(trainer.circuit(old_x), old_y), parameters)
    assert sum((one * other).sum() for one, other in zip(before, reference, strict=True)) < 0
    after = sum((own.grad * other).sum() for own, other in zip(parameters, reference, strict=True))
    assert abs(after) < 1e-5


def test_a_batch_norm_sees_current_and_drawn_examples_together():
    model = network(6, nn.BatchNorm1d(20, momentum=1.0))
    trainer = Trainer(protections.make("replay", size=4), stream(), model, rule=None).run(2)
    below, memory = copy.deepcopy(model[:2]), trainer.protection.memory
    x, y = trainer.tasks[1].train.x[:8], trainer.tasks[1].train.y[:8]
    generator = memory.generator.clone_state()
    old = memory.draw(8)[0]
    memory.generator.set_state(generator.get_state())
    trainer.step(x, y)
    torch.testing.assert_close(model[2].running_mean, below(torch.cat([x, old])).mean(0))


@pytest.mark.parametrize(
    ("name", "options", "fact"),
    [
        ("replay", {"size": -1}, "size=-1"),
        ("replay", {"size": 2.5}, "size=2.5"),
        ("replay", {"batch": 0}, "batch=0"),
        ("replay", {"length": 3}, "length"),
        ("der", {"alpha": -1}, "alpha=-1"),
        ("derpp", {"beta": float("nan")}, "beta=nan"),
        ("lwf", {"strength": -1}, "strength=-1"),
        ("lwf", {"temperature": 0}, "temperature=0"),
        ("xdg", {"gated": 1}, "gated=1"),
        ("xdg", {"gated": -0.1}, "gated=-0.1"),
    ],
)
def test_bad_options_are_refused(name, options, fact):
    with pytest.raises(ConfigError, match=f"{name}: .*{fact}"):
        protections.make(name, **options)


@pytest.mark.parametrize("name", ["replay", "derpp", "agem", "lwf"])
def test_a_protection_that_is_attached_again_begins_again(name):
    """What the first run kept are tasks that the second has not seen."""
    first, other = (protections.make(name) for _ in range(2))
    learned = [Trainer(each, stream(scenario_of(name))).run().weights() for each in (first, first, other)]
    assert torch.equal(learned[0], learned[2])
    assert torch.equal(learned[0], learned[1])


def test_assumptions_are_data():
    found = {name: Trainer(protections.make(name), stream(scenario_of(name))).run() for name in OWN}
    assumed = {name: trainer.protection.assumptions() for name, trainer in found.items()}
    assert {name for name, each in assumed.items() if each.boundaries} == {"agem", "lwf"}
    assert {name for name, each in assumed.items() if each.identity} == {"xdg"}
    assert {name for name, each in assumed.items() if each.samples} == {"replay", "der", "derpp", "agem"}
    assert {name: each.passes for name, each in assumed.items()} == {
        "replay": 2,
        "der": 2,
        "derpp": 3,
        "agem": 2,
        "lwf": pytest.approx(4 / 3),
        "xdg": 1,
        "freeze": 1,
    }
    assert assumed["replay"].bytes >= 500 * (6 * 4 + 8)  # inputs and labels
    assert assumed["derpp"].bytes - assumed["replay"].bytes == 500 * 6 * 4  # outputs
    assert assumed["lwf"].bytes >= 4 * len(found["lwf"].weights())
    quarter = Trainer(protections.make("replay", batch=4), stream()).run(2).protection
    assert quarter.assumptions().passes == 1.25


def test_a_memory_keeps_what_is_forgotten_without_it():
    """Split digits, class-incremental: paired seeds."""
    tasks = continual.split("digits")

    def accuracy(name: str, rule: str, initial: int, **options) -> float:
        torch.manual_seed(initial)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        protection = protections.make(name, **options)
        return Trainer(protection, tasks, model, rule, lr=0.02).run().accuracy()

    for rule in ("backprop", "feedback_alignment", "burst_ccn"):
        for seed in range(2):
            plain = accuracy("none", rule, seed)
            assert plain < 0.25
            assert accuracy("replay", rule, seed, size=200, seed=seed) > plain + 0.5
    assert accuracy("derpp", "burst_ccn", 0, size=200) > 0.7
