"""Neuromodulated plasticity: its factors in loops over examples and units, its limits, its state."""

import copy
import io
import math
import warnings
from functools import partial

import pytest
import torch
from protected import Trainer, network, stream
from torch import Tensor, nn
from torch.nn import functional as F

import apical
from apical.continual import protections
from apical.continual.modulating import COMPARED
from apical.errors import CheckpointError, ConfigError
from apical.neurons import LIF, LeakyReadout, OverTime
from apical.neurons.encoders import constant
from apical.rules.neuromodulation.naca import Modulatory

BY = [{"by": "label", "exponent": 2.0}, {"by": "novelty", "exponent": 3.0}]


def make(**options):
    return protections.make("neuromodulation", size=20, seed=3, **options)


def phi(level: float) -> float:
    """The modulation curve's size, L = 1/2 and theta = 1.2."""
    below = min(level, 1 - level)
    return 1.2 - 0.2 * (4 * below - 0.5) ** 2 / 0.25 if below <= 0.25 else 4 * (below - 0.5) ** 2 / 0.25


def plasticity(units: int, name: str, exponent: float) -> Tensor:
    """Of each unit for each of 6 classes."""
    levels = Modulatory(seed=3).draw(torch.zeros(6, units), next(n for n in LAYERS if n.name == name))
    raw = [math.sqrt(2 * math.log(6 / i)) for i in range(1, 7)]
    first = [math.floor(each / raw[0] * 10) for each in raw]
    rows = [[phi(float(levels[k, j] + levels[k + 1, j]) / 2) ** exponent for j in range(units)] for k in first]
    return torch.tensor(rows) / torch.tensor(rows).mean()


LAYERS = apical.Circuit(network(), "backprop").layers


def modulated(model: nn.Module, x: Tensor, y: Tensor, factors: dict[int, Tensor]) -> list[Tensor]:
    """The mean over examples of autograd's gradients, each hidden unit's times its factor for the example."""
    total = [torch.zeros_like(own) for own in model.parameters()]
    for b in range(len(y)):
        found = torch.autograd.grad(F.cross_entropy(model(x[b : b + 1]), y[b : b + 1]), list(model.parameters()))
        for place, grad in enumerate(found):
            factor = factors[place // 2][b] if place // 2 in factors else torch.ones(len(grad))
            total[place] += factor.view(-1, *[1] * (grad.dim() - 1)) * grad / len(y)
    return total


def over_time(encode) -> OverTime:
    """The network of rates with spiking neurons, which takes an input for each sample."""
    parts = [LIF(0.8, 0.5) if isinstance(part, nn.Tanh) else part for part in network()]
    return OverTime(nn.Sequential(*parts, LeakyReadout()), encode)


@pytest.mark.parametrize(
    "encode", [None, partial(constant, moments=3), lambda x: torch.stack([x, 2 * x, x / 2])], ids=["", "same", "other"]
)
@pytest.mark.parametrize("replayed", [True, False])
@pytest.mark.parametrize("options", BY, ids=lambda options: options["by"])
def test_each_example_changes_hidden_synapses_by_its_factor(options, replayed, encode):
    trainer = Trainer(make(replayed=replayed, **options), stream(), encode and over_time(encode)).run(12)
    protection, task = trainer.protection, trainer.tasks[1]
    x, y = task.train.x[:8], task.train.y[:8]
    model = copy.deepcopy(trainer.circuit.model)
    model = OverTime(model, encode) if encode else model
    memory, typical, seen = copy.deepcopy(protection.memory), protection._typical.item(), protection._seen
    trainer.optimizer.zero_grad()
    answer, loss = protection.loss(x, y)
    loss.backward()
    protection.correct()
    torch.testing.assert_close(answer, model(x))
    if replayed:
        old = memory.draw(8)
        x, y = torch.cat([x, old[0]]), torch.cat([y, old[1]])
    if options["by"] == "label":
        factors = {i: plasticity(n, name, 2.0)[y] for i, n, name in ((0, 20, "0"), (1, 12, "2"))}
    else:
        kept = memory.draw(COMPARED)[0]
        nearest = []
        for each in x:
            distances = [float((each - other).square().sum()) for other in kept]
            nearest.append(min(distance for distance in distances if distance > 1e-4))
        typical += (sum(nearest) / len(nearest) - typical) * len(x) / (seen + len(x))
        own = torch.tensor([2 * d**3 / (d**3 + typical**3) for d in nearest])
        assert own.max() > 1.2
        assert own.min() < 0.8
        factors = {0: own[:, None].expand(-1, 20), 1: own[:, None].expand(-1, 12)}
    for own, expected in zip(trainer.circuit.model.parameters(), modulated(model, x, y, factors), strict=True):
        torch.testing.assert_close(own.grad, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("by", ["label", "novelty"])
def test_without_exponent_it_is_replay_bit_for_bit(by):
    found = Trainer(make(by=by, exponent=0), stream(), rule="feedback_alignment").run().weights()
    plain = Trainer(protections.make("replay", size=20, seed=3), stream(), rule="feedback_alignment").run().weights()
    assert torch.equal(found, plain)


def test_steps_without_the_protection_are_not_modulated():
    trainer = Trainer(make(), stream()).run(5)
    x, y = trainer.tasks[0].train.x[:5], trainer.tasks[0].train.y[:5]
    plain = copy.deepcopy(trainer.circuit.model)
    trainer.optimizer.zero_grad()
    F.cross_entropy(trainer.circuit(x), y).backward()
    F.cross_entropy(plain(x), y).backward()
    for own, other in zip(trainer.circuit.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad)


@pytest.mark.parametrize("options", BY, ids=lambda options: options["by"])
def test_it_goes_on_from_its_state_to_the_same_bits(options):
    whole = Trainer(make(**options), stream()).run()
    file = io.BytesIO()
    torch.save(Trainer(make(**options), stream()).run(9).state(), file)
    file.seek(0)
    again = Trainer(make(**options), stream()).load(torch.load(file, weights_only=True)).run()
    assert torch.equal(again.weights(), whole.weights())
    assert again.protection.assumptions() == whole.protection.assumptions()
    with pytest.raises(CheckpointError, match="neuromodulation"):
        again.protection.load_state_dict({"memory": {}, "share": 1.0})


def test_assumptions_count_what_is_replayed_and_the_tables():
    label, novelty = (Trainer(make(**options), stream()).run(4).protection.assumptions() for options in BY)
    assert (label.passes, label.samples, label.boundaries) == (2, 20, False)
    assert Trainer(make(replayed=False), stream()).run(4).protection.assumptions().passes == 1
    assert label.bytes - novelty.bytes == 4 * 6 * (20 + 12)


@pytest.mark.parametrize("rule", apical.rules.names())
def test_every_rule_is_modulated_or_refused(rule):
    loss = apical.losses.LOSSES.get(apical.rules.get(rule).learns_from)

    def after(**options):
        return Trainer(make(**options), stream(), rule=rule, loss=loss, lr=0.02).run(3).weights()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if rule in ("oja", "soft_hebb", "three_factor"):
            with pytest.raises(ConfigError, match=f"neuromodulation: .*{apical.rules.get(rule).__name__}"):
                after()
        else:
            found = after()
            assert found.isfinite().all()
            assert not torch.equal(found, after(exponent=0))


class Picture(nn.Module):
    """Pictures of one row, a convolution, a norm and a read-out."""

    def __init__(self) -> None:
        super().__init__()
        self.filters, self.norm, self.out = nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.Linear(16, 6)

    def forward(self, x):
        return self.out(self.norm(self.filters(x[:, None])).relu().flatten(1))


@pytest.mark.parametrize("options", BY, ids=lambda options: options["by"])
def test_maps_have_a_factor_for_each_place(options):
    trainer = Trainer(make(**options), stream(), Picture()).run(6)
    assert trainer.weights().isfinite().all()
    assert [tuple(own.shape) for own in trainer.protection._plasticity.values()] == [(6, 4, 4)] * (
        options["by"] == "label"
    )


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"by": "surprise"}, "surprise"),
        ({"exponent": -1}, "exponent=-1"),
        ({"by": "novelty", "size": 0}, "size=0"),
        ({"size": 1.5}, "size=1.5"),
    ],
)
def test_bad_options_are_refused(options, fact):
    with pytest.raises(ConfigError, match=f"neuromodulation: .*{fact}"):
        protections.make("neuromodulation", **options)


@pytest.mark.parametrize(
    ("circuit", "fact"),
    [
        (lambda: network(), "rule"),
        (lambda: apical.Circuit(nn.Linear(6, 6), "backprop"), "hidden"),
        (lambda: apical.Circuit(network(), "backprop", batch_axis=1), "batch_axis=1"),
    ],
)
def test_circuits_without_what_is_modulated_are_refused(circuit, fact):
    with pytest.raises(ConfigError, match=f"neuromodulation: .*{fact}"):
        make().attach(circuit(), F.cross_entropy)


def test_a_backward_pass_without_the_factors_is_refused_before_the_step():
    """As that of a compiled circuit, which keeps the backward pass that it was traced with."""
    trainer = Trainer(make(), stream())
    trainer.protection.circuit = trainer.circuit.model
    before = trainer.weights()
    with pytest.raises(ConfigError, match=r"neuromodulation: .*compiled"):
        trainer.run(2)
    assert torch.equal(trainer.weights(), before)
