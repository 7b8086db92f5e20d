"""The training loop: what it computes, what it holds to, when it ends."""

import dataclasses
import json

import doomed
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from apical import data
from apical.errors import ConfigError, DataError, NonFiniteError, RunError
from apical.study import Config, RunFolder, train
from apical.study.configuration import ScheduleConfig
from apical.study.configuration.resolution import resolve
from apical.study.training import testing
from apical.study.training.criteria import LOSSES
from apical.study.training.loop import Training
from apical.study.training.making import reproducible, seed_for
from apical.study.training.schedules import factor_at


@pytest.fixture
def run(tmp_path):
    def go(*settings, task=None, name="run"):
        given = Config().with_settings(["model=mlp:12", "threads=1", "epochs=3", "batch_size=16", *settings])
        return train(given, tmp_path / name, task=task or doomed.blobs())

    return go


def plain_pytorch(task, epochs, learning_rate, seed=0, batch_size=16):
    """The same training written without apical's trainer, rules or data."""
    from apical.study import build

    train_part, validation = data.split(task.train, 0.1, seed=seed_for(seed, "validation"))
    model = build("mlp:12", input_shape=(10,), classes=4, seed=seed_for(seed, "weights"))
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9)
    order = torch.Generator().manual_seed(seed_for(seed, "order"))
    losses = []
    for _ in range(epochs):
        total = 0.0
        for indices in torch.randperm(len(train_part), generator=order).split(batch_size):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(train_part.x[indices]), train_part.y[indices])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(indices)
        losses.append(total / len(train_part))
    with torch.no_grad():
        answer = model(task.test.x)
        held_out = F.cross_entropy(model(validation.x), validation.y).item()
    accuracy = (answer.argmax(1) == task.test.y).float().mean().item()
    return model, losses, held_out, accuracy


def test_backprop_is_plain_pytorch(run, tmp_path):
    result = run("optimizer.lr=0.1", "alignment=1")
    model, losses, held_out, accuracy = plain_pytorch(doomed.blobs(), 3, 0.1)
    trained = torch.load(tmp_path / "run" / "model.pt", weights_only=True)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(trained[name], tensor, rtol=1e-4, atol=1e-6)
    records = RunFolder(tmp_path / "run").epochs()
    assert [record["train_loss"] for record in records] == pytest.approx(losses, rel=1e-5)
    assert records[-1]["validation_loss"] == pytest.approx(held_out, rel=1e-5)
    assert result.test_accuracy == pytest.approx(accuracy)
    assert all(angle < 0.1 for record in records for angle in record["angles"].values())


@pytest.mark.parametrize(
    ("part", "taken", "reason"),
    [
        ("train", lambda whole: whole.take([]), "the training part is empty"),
        ("test", lambda whole: whole.take([]), "the test part is empty"),
        ("both", lambda whole: data.Examples(whole.x.double(), whole.y), r"torch.float64.*Pass x\.float\(\)"),
    ],
)
def test_data_from_which_nothing_can_be_learned_are_refused(run, tmp_path, part, taken, reason):
    task = doomed.blobs()
    parts = {each: taken(getattr(task, each)) for each in ("train", "test") if part in (each, "both")}
    with pytest.raises(DataError, match=reason):
        run(task=dataclasses.replace(task, **parts))
    assert not (tmp_path / "run").exists()


def test_the_same_configuration_gives_the_same_bits(run, tmp_path):
    for name in ("a", "b"):
        torch.manual_seed(len(name))  # whatever the program did before
        run("rule=weight_mirror", name=name)
    first, second = (torch.load(tmp_path / name / "model.pt", weights_only=True) for name in "ab")
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert RunFolder(tmp_path / "a").metrics.read_bytes() == RunFolder(tmp_path / "b").metrics.read_bytes()


def test_training_leaves_pytorchs_switches_as_they_were(run):
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    run(f"threads={threads + 1}")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_all_rules_of_a_seed_see_the_same_start_and_order():
    def first_steps(rule, seed):
        config = resolve(Config().with_settings([f"rule={rule}", f"seed={seed}", "threads=1", "model=mlp:12"])).config
        with reproducible(config):
            training = Training(config, doomed.blobs())
            weights = [p.clone() for p in training.circuit.model.parameters()]
            batches = data.batches(training.train, 16, generator=training._order)
            return weights, [x for x, _ in batches], training.validation.x

    reference, other, seed = first_steps("backprop", 0), first_steps("kolen_pollack", 0), first_steps("backprop", 1)
    for ours, theirs in zip(reference, other, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    for ours, theirs in zip(reference, seed, strict=True):
        assert not all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_the_test_set_is_measured_once_and_only_at_the_end(run, monkeypatch):
    seen = []
    original = testing.answer_all
    monkeypatch.setattr(
        testing, "answer_all", lambda circuit, part, *rest: seen.append(part) or original(circuit, part, *rest)
    )
    task = doomed.blobs()
    run("epochs=4", task=task)
    assert [part.x is task.test.x for part in seen] == [False] * 4 + [True]


def test_the_validation_part_is_cut_from_training_data_in_every_class(run, tmp_path):
    run("validation=0.25")
    kept = RunFolder(tmp_path / "run").task()
    assert (kept["train"], kept["validation"], kept["test"]) == (120, 40, 40)
    run("validation=0", name="without")
    records = RunFolder(tmp_path / "without").epochs()
    assert {record["validation_loss"] for record in records} == {None}


def test_early_stopping_tests_the_best_weights(tmp_path):
    (tmp_path / "net.py").write_text(doomed.NET)
    given = doomed.config(tmp_path, "epochs=200", "patience=4", "optimizer.lr=0.3", "alignment=0")
    result = train(given, tmp_path / "run", task=doomed.blobs())
    losses = [record["validation_loss"] for record in RunFolder(tmp_path / "run").epochs()]
    best = losses.index(min(losses)) + 1
    assert result.status == "stopped early"
    assert (result.tested_epoch, result.epochs) == (best, best + 4)
    assert result.validation_loss == min(losses)
    repeat = train(given.with_values({"epochs": best, "patience": 0}), tmp_path / "to-best", task=doomed.blobs())
    assert repeat.test_loss == result.test_loss


def test_without_patience_the_last_weights_are_tested(run):
    result = run("epochs=5")
    assert (result.status, result.tested_epoch, result.epochs, result.steps) == ("finished", 5, 5, 45)


def test_the_gradient_is_clipped_over_all_parameters(run, monkeypatch):
    norms = []
    original = torch.optim.SGD.step

    def step(self, *args):
        gradients = [p.grad.flatten() for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.cat(gradients).norm().item())
        return original(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    run()
    assert max(norms) > 0.5
    norms.clear()
    run("clip=0.05", name="clipped")
    assert max(norms) == pytest.approx(0.05, rel=1e-3)


class TestSchedules:
    """The factor on the learning rate."""

    def factors(self, steps, **settings):
        schedule = ScheduleConfig(**settings)
        return [factor_at(schedule, step, steps_per_epoch=10, epochs=4) for step in steps]

    def test_constant(self):
        assert self.factors(range(40)) == [1.0] * 40

    def test_step(self):
        assert self.factors([0, 19, 20, 39], name="step", every=2, factor=0.5) == [1, 1, 0.5, 0.5]

    def test_milestones_are_shares_of_the_training(self):
        factors = self.factors(range(40), name="milestones", milestones=[0.5, 0.75], factor=0.1)
        assert factors == pytest.approx([1.0] * 20 + [0.1] * 10 + [0.01] * 10)

    def test_cosine_against_pytorch(self):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40, eta_min=0.2)
        expected = []
        for _ in range(40):
            expected.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            reference.step()
        assert self.factors(range(40), name="cosine", final=0.2) == pytest.approx(expected)

    def test_warm_up_rises_to_the_rate_and_stays(self):
        factors = self.factors(range(20), warmup=1.0)
        assert factors[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
        assert factors[10:] == [1.0] * 10

    def test_the_rate_is_used_and_recorded(self, run, tmp_path):
        run("optimizer.lr=0.2", "schedule=step", "schedule.every=1", "schedule.factor=0.5")
        rates = [record["learning_rate"] for record in RunFolder(tmp_path / "run").epochs()]
        assert rates == pytest.approx([0.2, 0.1, 0.05])

    def test_a_rate_of_nothing_learns_nothing(self, run, tmp_path):
        run("schedule=cosine", "epochs=1", "schedule.warmup=1000000")
        trained = torch.load(tmp_path / "run" / "model.pt", weights_only=True)
        start = plain_pytorch(doomed.blobs(), 0, 0.1)[0].state_dict()
        assert all(torch.allclose(trained[key], start[key], atol=1e-5) for key in start)


def test_squared_error_is_half_the_distance_to_one_hot():
    answer = torch.tensor([[1.0, 2.0], [0.0, 0.5]], requires_grad=True)
    loss = LOSSES["mse"](answer, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx((0.5 * (0 + 4) + 0.5 * (0 + 0.25)) / 2)
    loss.backward()
    expected = torch.tensor([[0.0, 2.0], [0.0, -0.5]]) / 2
    assert torch.equal(answer.grad, expected)


@pytest.mark.parametrize("rule", ["backprop", "direct_feedback_alignment"])
def test_squared_error_trains(run, rule):
    assert run("loss=mse", f"rule={rule}", "epochs=20", "optimizer.lr=0.01").test_accuracy > 0.6


@pytest.mark.parametrize("rule", ["backprop", "brainprop", "agrel"])
def test_a_reward_trains_and_its_choices_are_of_the_seed(run, rule):
    settings = [f"rule={rule}", "loss=reward_prediction" if rule == "backprop" else "epochs=15", "epochs=15"]
    found = [run(*settings, f"seed={seed}", name=f"{number}") for number, seed in enumerate((0, 0, 1))]
    assert all(result.test_accuracy > 0.5 for result in found)  # of four classes
    assert found[0].test_loss == found[1].test_loss != found[2].test_loss


def test_measuring_draws_no_choices_of_training(run, tmp_path):
    plain = run("rule=brainprop", "exploration=0.5", name="plain")
    measured = run("rule=brainprop", "exploration=0.5", "alignment=1", name="measured")
    assert measured.test_loss == plain.test_loss
    for record in RunFolder(tmp_path / "measured").epochs():
        assert all(angle == pytest.approx(0, abs=1e-3) for angle in record["angles"].values())  # of the same choices


def test_a_rewards_loss_is_measured_without_exploration(run, tmp_path):
    result = run("rule=brainprop", "exploration=1.0", name="run")
    task = doomed.blobs()
    training = Training(RunFolder(tmp_path / "run").config(), task)
    training.circuit.model.load_state_dict(torch.load(tmp_path / "run" / "model.pt", weights_only=True))
    with torch.no_grad():
        value, choice = training.circuit.eval()(task.test.x).max(1)
    expected = 0.5 * ((choice == task.test.y).float() - value).square().mean()
    assert result.test_loss == pytest.approx(expected.item(), rel=1e-5)


class TestNotANumber:
    """Training that comes to NaN stops, and says where, when, and what to try."""

    def test_it_names_the_step_the_layer_and_the_remedies(self, run, tmp_path):
        with pytest.raises(NonFiniteError) as caught:
            run("optimizer.lr=1e30", "checkpoints.steps=1")
        message = str(caught.value)
        assert f"stopped at step 2 of {tmp_path / 'run'}, in layer" in message
        assert caught.value.layer in {"1", "3", "loss"}
        for remedy in ("a smaller learning rate (optimizer.lr = 1e+30 now)", "clip = 1", "warm-up"):
            assert remedy in message

    def test_a_rate_beyond_the_weights_type_is_a_message(self, run):
        with pytest.raises(RunError, match=r"too large for the weights' type .*optimizer\.lr = 1e\+300 now"):
            run("optimizer.lr=1e300")

    def test_the_last_good_checkpoint_stays(self, run, tmp_path, monkeypatch):
        original = Training.run_epoch

        def run_epoch(self, after_step):
            if self.epoch == 2:
                self.circuit.model[1].weight.data[0, 0] = float("nan")
            original(self, after_step)

        monkeypatch.setattr(Training, "run_epoch", run_epoch)
        with pytest.raises(NonFiniteError, match=r"step 19 .* layer '1': .*; the checkpoint of step 18 is kept"):
            run("epochs=5")
        content = RunFolder(tmp_path / "run").checkpoints.latest().content
        assert content["epoch"] == 2
        assert all(torch.isfinite(t).all() for t in content["circuit"].values() if isinstance(t, torch.Tensor))
        assert len(RunFolder(tmp_path / "run").epochs()) == 2

    def test_weights_destroyed_by_the_last_step_are_not_saved(self, run, tmp_path, monkeypatch):
        def end_epoch(self):
            self.epoch += 1
            self.circuit.model[3].bias.data[0] = float("inf")
            return {}

        monkeypatch.setattr(Training, "end_epoch", end_epoch)
        with pytest.raises(NonFiniteError, match=r"model\.3\.bias holds NaN or infinity") as caught:
            run()
        assert caught.value.layer == "3"
        assert RunFolder(tmp_path / "run").checkpoints.latest() is None

    def test_without_the_check_of_every_step_the_epoch_tells(self, run):
        with pytest.raises(NonFiniteError, match="the training loss of the epoch is nan"):
            run("optimizer.lr=1e30", "check_finite=false")


def test_a_graphics_card_that_is_not_there_is_refused(run, tmp_path):
    with pytest.raises(ConfigError, match=r"PyTorch sees [0-9]+ GPUs here"):
        run("device=cuda:77")
    assert not (tmp_path / "run").exists()


def test_no_record_holds_a_clock(run, tmp_path):
    run("alignment=2", "rule=feedback_alignment")
    records = RunFolder(tmp_path / "run").epochs()
    assert [list(record) for record in records] == [
        [
            "task",
            "epoch",
            "step",
            "learning_rate",
            "train_loss",
            "train_accuracy",
            "validation_loss",
            "validation_accuracy",
            "angles",
            "carried",
            "tested",
        ]
    ] * 3
    assert [record["angles"] is None for record in records] == [True, False, False]
    assert list(records[1]["angles"]) == ["1", "3"]
    timing = [json.loads(line) for line in (tmp_path / "run" / "timing.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in timing] == [1, 2, 3]


def test_an_epoch_has_whole_batches_alone():
    """A last batch of two examples would be a step as long as the others, in a direction of its own."""
    config = resolve(Config(task="digits", model="mlp:4", batch_size=500, epochs=1, validation=0.0)).config
    with reproducible(config):
        training = Training(config, data.load("digits"))
        training.run_epoch(lambda: None)
    assert training.step == training.steps_per_epoch == len(training.train) // 500


def test_a_spiking_network_keeps_its_spikes(run, tmp_path):
    result = run("model=mlp:30:lif", "rule=e_prop")
    kept = json.loads((tmp_path / "run" / "result.json").read_text())["spikes"]
    (layer,) = result.spikes.layers.values()
    assert (kept["moments"], layer.neurons, len(layer.raster)) == (25, 30, 24)
    assert 0 < layer.rate < 1
    rates = [len(moments) / 25 for moments in layer.raster]
    assert 0 < sum(rates) / len(rates) < 1
    assert result.spikes.products == {"0.1": 10 * 30, "0.3": 30 * 4}
    assert result.spikes.events["0.3"] == pytest.approx(layer.rate * 25 * 30 * 4, rel=1e-9)
    assert "spikes" not in json.loads(
        (RunFolder(run("rule=backprop", name="rates").folder).path / "result.json").read_text()
    )
