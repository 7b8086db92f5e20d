"""Measuring claims: every recipe is one that can be run; a small one is run, kept, recorded and judged."""

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import apical
from apical import data, papers
from apical.cli import app
from apical.errors import ConfigError, RunError
from apical.papers import (
    Ahead,
    AtLeast,
    Claim,
    Control,
    ErrorRate,
    Online,
    Paper,
    Protocol,
    Within,
    few_examples,
    ledger,
    measuring,
    networks,
    traces,
    tuned,
)
from apical.study import RunFolder
from apical.study.executors import pool

PAPER = Paper("small", "Small Claims", "Somebody", 2020, "https://example.org")


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A ledger of small claims on data of three clouds, and an empty file of measurements."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = generator.normal(size=(120, 5)) + 4 * np.eye(3, 5)[y]
    np.savez("clouds.npz", x_train=x[:80], y_train=y[:80], x_test=x[80:], y_test=y[80:])
    settings = (f"task=npz:{tmp_path}/clouds.npz", "model=mlp:8", "batch_size=8", "validation=0.0")
    protocol = Protocol("small", PAPER, "table 1", "as they say", ("It is small.",), settings, epochs=4, seeds=2)
    claims = (
        Claim("small-bp", protocol, "BP", "backprop", AtLeast(80.0), ("optimizer.lr=0.05",)),
        Claim(
            "small-fa",
            protocol,
            "FA",
            "feedback_alignment:init=xavier",
            Within(20.0, reference="small-bp", whose="backprop"),
            ("optimizer.lr=0.02",),
        ),
        Claim("small-far", protocol, "DFA", "backprop", AtLeast(80.0), out_of_reach="It takes a year."),
        Claim("small-wrong", protocol, "BP", "backprop", ErrorRate(99.0), ("optimizer.lr=0.05",)),
    )
    monkeypatch.setattr(ledger, "CLAIMS", claims)
    monkeypatch.setattr(ledger, "MEASURED", tmp_path / "measured.json")
    return {claim.name: claim for claim in claims}


@pytest.fixture
def no_processes(monkeypatch):
    """Runs happen here, one after the other."""
    monkeypatch.setattr(pool, "in_processes", lambda work, jobs, *_: ((job, work(job)) for job in jobs))


ONLINE = [claim for claim in papers.CLAIMS if claim.protocol.online is not None]
# Claims of training runs; tests/papers/test_one_class.py has those of one class a task.
TRAINED = [claim for claim in papers.CLAIMS if claim not in ONLINE and not claim.protocol.one_class]
TUNED = [claim for claim in TRAINED if claim.protocol.tuned]
TRAINED = [claim for claim in TRAINED if claim not in TUNED]
TRAINED = [claim for claim in TRAINED if claim.says.settle() is None]


@pytest.mark.parametrize("claim", ONLINE, ids=lambda claim: claim.name)
def test_every_online_claim_names_a_method_and_its_setting(claim, tmp_path):
    assert claim.rule in few_examples.METHODS
    setting = claim.protocol.online
    assert setting.inputs in few_examples.INPUTS
    assert setting.examples in few_examples.COUNTS
    assert claim.protocol.seeds == few_examples.Budget().seeds
    written = (f"inputs={setting.inputs}", f"hidden={setting.hidden}", f"examples={setting.examples}")
    assert claim.recipe == (f"rule={claim.rule}", *written)


@pytest.mark.parametrize("claim", TRAINED, ids=lambda claim: claim.name)
def test_every_claim_is_a_valid_run(claim, tmp_path):
    jobs = measuring._jobs(claim, tmp_path, None, None)
    configs = [job.resolved.config for job in jobs]
    assert [config.seed for config in configs] == list(range(claim.protocol.seeds))
    for config in configs:
        assert config.epochs == claim.protocol.epochs
        assert config.rule.options.get("seed", config.seed) == config.seed
        # What is written down is what is run: no recommended multiple of the learning rate, no default decay.
        written = dict(setting.split("=", 1) for setting in (*claim.protocol.settings, *claim.settings))
        assert config.optimizer.lr == float(written["optimizer.lr"])
        assert config.optimizer.weight_decay == float(written["optimizer.weight_decay"])
    assert len({job.folder for job in jobs}) == len(jobs)


@pytest.mark.parametrize("claim", TUNED, ids=lambda claim: claim.name)
def test_every_pair_of_a_rule_and_an_optimizer_is_tuned_with_the_same_trials(claim, tmp_path):
    (job,) = measuring._jobs(claim, tmp_path, None, None)
    rival = (ledger.select(claim.says.compared_with) if claim.says.compared_with else [claim])[0]
    (beside,) = measuring._jobs(rival, tmp_path, None, None)
    assert job.method in few_examples.METHODS
    apart = {key for key, value in job.about().items() if beside.about()[key] != value}
    assert apart == ({"method"} if rival is not claim else set())


def test_a_tuned_pair_takes_the_options_that_do_best_on_held_out_images(monkeypatch, tmp_path):
    monkeypatch.setattr(tuned, "HELD_OUT", 200)
    job = tuned.TunedJob(
        *("t", tmp_path, "digits", "feedback_alignment", "momentum", "mlp:8"),
        **{"examples": 3, "batch_size": 4, "epochs": 2, "trials": 3, "tuning_seeds": 1, "seeds": 2},
    )
    steps = []
    found = job.compute(lambda: steps.append(1))
    assert len(steps) == (3 * 1 + 2) * 2 * 7  # of 30 examples two are left over
    assert torch.tensor(1e-40) * 1 > 0  # the process keeps numbers of this size for other code
    digits = few_examples.Digits(
        data.load("digits"), "standardised", few_examples.Budget(counts=(3,), held_out=tuned.HELD_OUT)
    )
    trials = few_examples.draw_trials(few_examples.METHODS["momentum"], 3)
    tried = [job.train(digits, options, tuned.FIRST_TUNING_SEED, digits.held_out) for options in trials]
    assert (found["validation"], found["options"]) == (max(tried), trials[tried.index(max(tried))])
    assert found["accuracies"] == [job.train(digits, found["options"], seed, digits.test) for seed in (0, 1)]
    assert len(set(tried)) > 1
    assert job.train(digits, {"lr": 1e30}, 0, digits.test) == 0.0  # diverges


@pytest.mark.parametrize(
    ("name", "shape", "deviation"),
    [
        ("brainprop_dense", (1, 28, 28), lambda fan_in: 0.01),
        ("brainprop_conv", (1, 28, 28), lambda fan_in: 0.005),
        ("brainprop_deep", (3, 32, 32), lambda fan_in: 0.005),
        ("he_lenet", (3, 32, 32), lambda fan_in: (2 / fan_in) ** 0.5),
    ],
)
def test_networks_begin_as_their_protocols_say(name, shape, deviation):
    torch.manual_seed(0)
    model = getattr(networks, name)(input_shape=shape, classes=10)
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    for module in layers:
        expected = deviation(nn.init._calculate_fan_in_and_fan_out(module.weight)[0])
        drawn = module.weight.detach() / expected
        assert abs(drawn.std() - 1) < 4 / (2 * drawn.numel()) ** 0.5  # four standard errors
        assert module.bias is None or not module.bias.any()
    assert model(torch.randn(2, *shape)).shape == (2, 10)


def test_the_network_of_biotorch_is_the_one_of_its_table():
    from apical import models

    spec = measuring._jobs(papers.select("biotorch-mnist-bp")[0], Path("runs"), 1, 1)[0].resolved.config.model
    model = models.build(spec, input_shape=(1, 28, 28), classes=10, seed=0)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_channels, m.out_channels, m.kernel_size) for m in convolutions] == [
        (1, 6, (5, 5)),
        (6, 16, (5, 5)),
        (16, 120, (5, 5)),
    ]
    assert [(m.in_features, m.out_features) for m in linear] == [(120, 84), (84, 10)]
    for module in (*convolutions, *linear):
        fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(module.weight)
        edge = (6 / (fan_in + fan_out)) ** 0.5
        assert 0.9 * edge < module.weight.abs().max() <= edge
        assert not module.bias.any()
    # 28x28 is scaled up by itself: a picture that is constant stays so, with no border.
    assert torch.equal(model[0](torch.ones(1, 1, 28, 28)), torch.ones(1, 1, 32, 32))
    assert [layer.name for layer in apical.Circuit(model, "feedback_alignment").layers] == ["1", "4", "7", "10", "12"]


def test_measuring_trains_what_the_claim_says_and_what_it_is_compared_with(small, no_processes):
    found = papers.measure([small["small-fa"]], "runs", jobs=1)
    assert list(found) == ["small-bp", "small-fa"]
    for name, rate in (("small-bp", 0.05), ("small-fa", 0.02)):
        results = [RunFolder(f"runs/{name}/epochs-4/seed-{seed}") for seed in (0, 1)]
        assert found[name].accuracies == tuple(run.result()["test_accuracy"] for run in results)
        assert found[name].recipe == small[name].recipe
        assert (found[name].epochs, found[name].seeds, found[name].test_examples) == (4, (0, 1), 40)
        assert found[name].command == f"apical reproduce {name}"
        assert {run.config().optimizer.lr for run in results} == {rate}
    assert papers.verdicts([small["small-fa"]], found)["small-fa"].outcome == "reproduced"


def test_claims_with_the_same_settings_share_their_runs(small, no_processes):
    found = papers.measure([small["small-wrong"], small["small-bp"]], "runs", epochs=1)
    assert found["small-wrong"].accuracies == found["small-bp"].accuracies
    assert {path.parents[2].name for path in Path("runs").rglob("result.json")} == {"small-bp"}


def test_measuring_again_keeps_what_has_finished(small, no_processes):
    papers.measure([small["small-bp"]], "runs")
    before = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("result.json")}
    papers.measure([small["small-bp"]], "runs")
    assert len(before) == 2
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_processes_find_the_same(small, no_processes, monkeypatch, tmp_path):
    here = papers.measure([small["small-bp"]], "here", epochs=1, seeds=1)
    monkeypatch.undo()
    # The ledger is needed only to find references, which this claim has none of.
    monkeypatch.setattr(measuring, "with_references", lambda claims: list(claims))
    there = papers.measure([small["small-bp"]], tmp_path / "there", epochs=1, seeds=1, jobs=1)
    assert there["small-bp"].accuracies == here["small-bp"].accuracies


def test_a_folder_of_other_settings_is_refused(small, no_processes):
    papers.measure([small["small-bp"]], "runs", epochs=1, seeds=1)
    config = Path("runs/small-bp/epochs-1/seed-0/config.toml")
    config.write_text(config.read_text().replace("batch_size = 8", "batch_size = 9"))
    with pytest.raises(RunError, match=r"other settings \(batch_size: 9 there, 8 now\)"):
        papers.measure([small["small-bp"]], "runs", epochs=1, seeds=1)


def test_a_measurement_keeps_the_trace_of_its_code(small, no_processes, monkeypatch):
    found = papers.measure([small["small-wrong"]], "runs", epochs=1)
    assert found["small-wrong"].trace == traces.digest(small["small-wrong"])
    assert papers.verdicts([small["small-wrong"]], found)["small-wrong"].code == "today's"
    monkeypatch.setattr(traces, "digest", lambda claim: "of tomorrow")
    assert papers.verdicts([small["small-wrong"]], found)["small-wrong"].code == "other"


def test_a_trace_shows_a_rule_that_changes_by_a_millionth(monkeypatch):
    claim = papers.select("mnist-mlp-fa")[0]
    before = traces.digest(claim)
    traces._digest.cache_clear()
    assert traces.digest(claim) == before  # the same again
    own = apical.FeedbackAlignment.assign_credit
    changed = lambda self, wiring, state, error: own(self, wiring, state, error * (1 + 1e-6))  # noqa: E731
    monkeypatch.setattr(apical.FeedbackAlignment, "assign_credit", changed)
    traces._digest.cache_clear()
    assert traces.digest(claim) != before
    monkeypatch.undo()
    traces._digest.cache_clear()


@pytest.mark.parametrize("name", ["mnist-mlp-backprop", "few-examples-30-abs", "naca-mnist-naca", "pc-mnist-pc-ce"])
def test_the_ledger_has_figures_of_each_kind_by_todays_code(name):
    """A change that shows in a trace makes figures stale: `apical reproduce NAME --record` measures them again."""
    (claim,) = papers.select(name)
    assert papers.verdicts([claim])[name].code == "today's"


def test_a_reference_of_other_settings_is_as_good_as_none(small, no_processes):
    found = papers.measure([small["small-fa"]], "runs", epochs=1)
    found["small-bp"] = dataclasses.replace(found["small-bp"], recipe=("rule=backprop", "optimizer.lr=9.0"))
    assert "backprop is not measured yet" in papers.verdicts([small["small-fa"]], found)["small-fa"].why


def test_what_is_out_of_reach_is_not_measured(small):
    with pytest.raises(ConfigError, match="small-far is out of reach here: It takes a year"):
        papers.measure([small["small-far"]], "runs")


def test_a_run_that_fails_is_named(small, monkeypatch):
    monkeypatch.setattr(pool, "in_processes", lambda work, jobs, *_: ((job, "it burst") for job in jobs))
    with pytest.raises(RunError, match="small-bp/epochs-1/seed-0: it burst"):
        papers.measure([small["small-bp"]], "runs", epochs=1, seeds=1)


def test_the_ledger_keeps_measurements(small, no_processes):
    assert papers.measurements() == {}
    found = papers.measure([small["small-fa"]], "runs")
    assert papers.record({"small-fa": found["small-fa"]}) == ledger.MEASURED
    papers.record({"small-bp": found["small-bp"]})
    assert papers.measurements() == found
    assert list(json.loads(ledger.MEASURED.read_text())) == ["small-bp", "small-fa"]  # in the order of the claims


def test_verdicts_are_of_the_whole_ledger_unless_told_otherwise(small, no_processes):
    papers.record(papers.measure([small["small-bp"]], "runs"))
    assert {name: verdict.outcome for name, verdict in papers.verdicts().items()} == {
        "small-bp": "control",
        "small-fa": "not measured",
        "small-far": "out of reach",
        "small-wrong": "not measured",
    }


def test_a_scaled_down_measurement_never_replaces_a_full_one(small, no_processes):
    papers.record(papers.measure([small["small-bp"]], "runs", epochs=1, seeds=1))
    full = papers.measure([small["small-bp"]], "runs")
    papers.record(full)
    with pytest.raises(RunError, match="scaled down to 1 of 4 epochs, 1 of 2 seeds would replace a full one"):
        papers.record(papers.measure([small["small-bp"]], "runs", epochs=1, seeds=1))
    assert papers.measurements() == full


def test_a_damaged_ledger_is_named(small):
    ledger.MEASURED.write_text("{")
    with pytest.raises(RunError, match=r"measured\.json: the measurements cannot be read"):
        papers.measurements()


def test_the_ledger_that_is_shipped_speaks_of_claims_that_exist():
    assert set(papers.measurements()) <= {claim.name for claim in papers.CLAIMS}


def run(*arguments, exit_code=0):
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == exit_code, f"{result.output}\n{result.exception!r}"
    return result


def test_reproduce_shows_the_papers_value_ours_and_the_verdict(small, no_processes):
    shown = run("reproduce", "small-fa", "--record").stdout
    measured = papers.measurements()["small-fa"]
    row = f"small-fa reproduced {100 * measured.mean:.2f} ± {100 * measured.deviation:.2f} % 2 4"
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert row in lines
    assert "within 20.00 points of backprop" in lines
    assert any(line.startswith("small-fa: reproduced: ") for line in lines)
    assert "Departs: It is small." in lines
    assert max(map(len, shown.splitlines()[:-1])) <= 80
    assert row in [" ".join(line.split()) for line in run("papers", "small").stdout.splitlines()]


def test_reproduce_says_when_it_was_scaled_down(small, no_processes):
    shown = " ".join(run("reproduce", "small-wrong", "--epochs", "1", "--seeds", "1").stdout.split())
    assert "small-wrong: inconclusive: " in shown
    assert "scaled down to 1 of 4 epochs, 1 of 2 seeds; one seed decides nothing." in shown
    assert not ledger.MEASURED.exists()


def test_reproduce_as_json(small, no_processes):
    (claim,) = json.loads(run("reproduce", "small-wrong", "--seeds", "1", "--json").stdout)
    assert (claim["verdict"], claim["control"], claim["code"], claim["stale"]) == (
        *("inconclusive", False),
        *("today's", False),
    )
    assert claim["measured"]["command"] == "apical reproduce small-wrong --seeds 1"


def test_papers_lists_every_claim_with_its_verdict():
    shown = run("papers").stdout
    listed = json.loads(run("papers", "--json").stdout)
    assert [each["name"] for each in listed] == [claim.name for claim in papers.CLAIMS]
    for each in listed:
        assert each["name"] in shown
        assert each["verdict"] in shown
        assert each["stale"] == (each["code"] == "other")
    assert " ".join(papers.summary(papers.CLAIMS, papers.verdicts()).split()) in " ".join(shown.split())
    assert "controls of mnist-mlp" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_papers_shows_a_protocol_with_its_departures():
    shown = " ".join(run("papers", "biotorch-mnist").stdout.split())
    protocol = papers.select("biotorch-mnist")[0].protocol
    for text in (protocol.theirs, *protocol.departures, protocol.where, protocol.paper.title):
        assert " ".join(text.split()) in shown


@pytest.fixture
def online(monkeypatch, tmp_path):
    """Two claims of learning online, on the digits that scikit-learn brings, with little tuning."""
    setting = Online("digits", "standardised", 4, 3)
    protocol = Protocol("online", PAPER, "abstract", "as they say", (), ("examples=3",), 1, 3, setting)
    claims = (
        Claim("online-sgd", protocol, "sgd", "sgd", AtLeast(10.0)),
        Claim("online-base", protocol, "base", "adaptation:base", Ahead("online-sgd", "sgd")),
    )
    monkeypatch.setattr(ledger, "CLAIMS", claims)
    monkeypatch.setattr(ledger, "MEASURED", tmp_path / "measured.json")
    little = functools.partial(few_examples.Budget, counts=(3, 5), trials=2, tuning_seeds=2, held_out=50, test=100)
    monkeypatch.setattr(few_examples, "Budget", little)
    return claims


def test_online_claims_are_measured_as_the_benchmark_does_it(online, no_processes, tmp_path):
    measured = papers.measure(online[1:], tmp_path / "runs", progress=False)
    assert set(measured) == {"online-sgd", "online-base"}
    for claim in online:
        found = few_examples.cell(data.load("digits"), "standardised", 4, claim.rule, few_examples.Budget(seeds=3))
        assert measured[claim.name].accuracies == found[3].accuracies
        assert measured[claim.name].seeds == (0, 1, 2)
    papers.record(measured)
    assert ledger.measurements() == measured
    outcome = tmp_path / "runs" / "online-base" / "online" / "seeds-3" / "outcome.json"
    kept = outcome.stat().st_mtime_ns
    assert papers.measure(online, tmp_path / "runs", progress=False) == measured
    assert outcome.stat().st_mtime_ns == kept
    outcome.write_text("{")
    with pytest.raises(RunError, match="is damaged"):
        papers.measure(online, tmp_path / "runs", progress=False)


def test_fewer_seeds_are_a_scaled_down_measurement(online, no_processes, tmp_path):
    measured = papers.measure(online[:1], tmp_path / "runs", seeds=2, progress=False)
    assert measured["online-sgd"].command == "apical reproduce online-sgd --seeds 2"
    assert "2 of 3 seeds" in papers.verdicts(online[:1], measured)["online-sgd"].why


@pytest.fixture
def one_class(monkeypatch, tmp_path):
    """Claims of one class a task, on the digits that scikit-learn brings: two of the same networks, and a control."""
    settings = ("task=digits", "hidden=32", "margin=0.5")
    protocol = Protocol("forget", PAPER, "table 1", "as they say", (), settings, epochs=3, seeds=2, one_class=True)
    rows = (
        ("pure", "naca", "batch", "pure 256", AtLeast(0.0)),
        ("mixed", "naca", "batch", "mixed 256", Ahead("forget-frozen", "a frozen layer")),
        ("frozen", "frozen", "batch", "mixed 256", Control()),
    )
    claims = tuple(
        Claim(f"forget-{row}", protocol, row, signal, says, (f"gate={gate}", "units=sigmoid", f"test={test}"))
        for row, signal, gate, test, says in rows
    )
    monkeypatch.setattr(ledger, "CLAIMS", claims)
    monkeypatch.setattr(ledger, "MEASURED", tmp_path / "measured.json")
    return claims


def test_claims_of_one_class_a_task_share_networks_and_differ_in_the_test(one_class, no_processes, tmp_path):
    measured = papers.measure(one_class[:2], tmp_path / "runs", progress=False)
    assert set(measured) == {claim.name for claim in one_class}
    assert len(list((tmp_path / "runs").rglob("outcome.json"))) == 4
    pure, mixed, frozen = (measured[claim.name] for claim in one_class)
    assert pure.cuts == mixed.cuts != frozen.cuts
    assert (pure.accuracies, mixed.accuracies) == (pure.cuts["pure 256"], pure.cuts["mixed 256"])
    assert (pure.seeds, pure.epochs, len(pure.task_epochs)) == ((0, 1), 3, 2)
    papers.record(measured)
    assert ledger.measurements() == measured
    assert papers.verdicts()["forget-frozen"].outcome == "control"
    again = papers.measure(one_class[:1], tmp_path / "runs", epochs=1, progress=False)["forget-pure"]
    assert again.task_epochs == (1.0, 1.0)
    assert "1 of 3 epochs" in papers.verdicts(one_class[:1], {"forget-pure": again})["forget-pure"].why
