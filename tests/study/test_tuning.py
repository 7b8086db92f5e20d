"""Learning rates chosen on validation data: from runs of other seeds, one for each arm, the same grid for all."""

import pytest

from apical.errors import ConfigError
from apical.study import Config, OptimizerConfig, RunFolder, compare, train
from apical.study.comparison.parts import Tuning
from apical.study.comparison.tuning import FIRST_SEED, RUNS, tuning_seeds
from apical.study.configuration.resolution import resolve

GRID = [0.0001, 0.02, 0.05]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    config = Config().with_settings(["model=mlp:20:relu", "epochs=4", "batch_size=100"])
    return folder, compare(config, ["backprop", "feedback_alignment"], 1, folder, jobs=1, cost=False, lr=GRID)


def test_each_arm_takes_the_rate_of_the_highest_validation_accuracy(tuned):
    folder, comparison = tuned
    assert comparison.config["optimizer"]["lr"] == GRID
    for arm in comparison.arms:
        assert arm.tuning.rates == GRID
        assert arm.tuning.seeds == [FIRST_SEED, FIRST_SEED + 1]
        tried = folder / "tuning"
        means = [
            sum(
                RunFolder(tried / f"lr-{rate}" / arm.rule / f"seed-{seed}").result()["validation_accuracy"]
                for seed in arm.tuning.seeds
            )
            / RUNS
            for rate in GRID
        ]
        assert arm.tuning.accuracies == pytest.approx(means)
        chosen = GRID[means.index(max(means))]
        assert chosen != GRID[0]
        # It is the arm's own rate: the factor for rectified networks has no part in it.
        assert arm.settings.learning_rate == arm.tuning.chosen == chosen
        assert not any("learning rate" in note for note in arm.notes)
        assert RunFolder(folder / arm.runs[0].folder).config().optimizer.lr == chosen


def test_a_rate_at_the_edge_of_the_grid_has_a_badge(tuned):
    for arm in tuned[1].arms:
        assert ("rate at the edge of the grid" in arm.badges) == (arm.settings.learning_rate in (min(GRID), max(GRID)))


def test_a_finished_grid_is_kept(tuned, monkeypatch):
    folder, comparison = tuned
    monkeypatch.setattr("apical.study.executors.jobs.perform", lambda job: pytest.fail(f"{job.title} again"))
    config = Config().with_settings(["model=mlp:20:relu", "epochs=4", "batch_size=100"])
    again = compare(config, ["backprop", "feedback_alignment"], 1, folder, jobs=1, cost=False, lr=GRID)
    assert again.arms == comparison.arms
    assert "optimizer.lr=[0.0001, 0.02, 0.05]" in again.command


def test_the_seeds_of_a_grid_are_never_reported():
    assert tuning_seeds([0, 1]) == [FIRST_SEED, FIRST_SEED + 1]
    assert tuning_seeds([FIRST_SEED]) == [FIRST_SEED + 1, FIRST_SEED + 2]


@pytest.mark.parametrize(
    ("accuracies", "losses", "chosen", "edge"),
    [
        ([0.8, 0.9, 0.7], [0.5, 0.4, 0.6], 0.02, False),
        ([0.9, 0.9, 0.7], [0.3, 0.4, 0.6], 0.01, True),
        ([0.9, 0.9, 0.7], [None, 0.4, 0.6], 0.02, False),
        ([0.8, None, 0.7], [0.5, None, 0.6], 0.01, True),
        ([None, None, None], [None, None, None], 0.01, True),
    ],
)
def test_the_choice(accuracies, losses, chosen, edge):
    tuning = Tuning(rates=[0.01, 0.02, 0.03], seeds=[7], accuracies=accuracies, losses=losses)
    assert (tuning.chosen, tuning.at_edge) == (chosen, edge)


def test_one_rate_in_a_list_is_taken_as_it_is(tmp_path):
    config = Config().with_settings(["model=mlp:6:relu", "epochs=1", "batch_size=400", "optimizer.lr=[0.03]"])
    (arm,) = compare(config, ["feedback_alignment"], 1, tmp_path, jobs=1, cost=False).arms
    assert arm.settings.learning_rate == 0.03
    assert arm.tuning is None
    assert arm.notes == []


@pytest.mark.parametrize("rates", [[], [0.1, 0.1], [0.1, -0.1], [0.1, "a"], [True], [float("inf")]])
def test_a_grid_that_is_none_is_refused(rates):
    with pytest.raises(ConfigError, match=r"optimizer\.lr"):
        Config().with_values({"optimizer.lr": rates})


def test_a_single_run_has_one_rate(tmp_path):
    config = Config().with_values({"optimizer.lr": GRID})
    with pytest.raises(ConfigError, match=r"a list is for comparisons.*Pass one rate"):
        train(config, tmp_path / "a")
    assert OptimizerConfig(lr=0.1).rate == 0.1


def test_what_validation_data_cannot_choose(tmp_path):
    grid = Config().with_values({"optimizer.lr": GRID})
    with pytest.raises(ConfigError, match="validation = 0"):
        compare(grid.with_settings(["validation=0"]), ["backprop"], 1, tmp_path)
    with pytest.raises(ConfigError, match="on a stream"):
        compare(grid.with_settings(["stream=split"]), ["backprop"], 1, tmp_path)


@pytest.mark.parametrize(
    ("settings", "factor"),
    [
        (["model=mlp:6:relu", "rule=feedback_alignment"], 0.2),
        (["model=mlp:6:relu", "rule=direct_feedback_alignment"], 0.2),
        (["model=mlp:6:relu", "rule=dendritic_microcircuit"], 0.1 * 0.2),
        (["model=mlp:6:relu", "rule=kolen_pollack"], 1.0),
        (["model=mlp:6:relu", "rule=backprop"], 1.0),
        (["model=mlp:6:tanh", "rule=feedback_alignment"], 1.0),
    ],
)
def test_random_feedback_takes_smaller_steps_where_a_network_rectifies(settings, factor):
    config = Config().with_settings(settings)
    for given, shared, expected in ((None, False, 0.05), (None, True, 0.05), (0.1, True, 0.1), (0.1, False, None)):
        own = config if given is None else config.with_values({"optimizer.lr": given})
        resolved = resolve(own, shared=shared)
        rate = given if expected is None else expected * factor
        assert resolved.config.optimizer.lr == pytest.approx(rate)
        assert any("rectifies" in note for note in resolved.notes) == (
            factor not in (1.0, 0.1) and expected is not None
        )


def test_a_network_of_a_file_is_read_for_whether_it_rectifies(tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def plain(input_shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, classes))\n"
        "def rectified(input_shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, classes))\n"
    )
    for name, rate in (("plain", 0.05), ("rectified", 0.01)):
        config = Config().with_settings([f"model={tmp_path}/net.py:{name}", "epochs=1", "batch_size=400"])
        (arm,) = compare(config, ["feedback_alignment"], 1, tmp_path / name, jobs=1, cost=False).arms
        assert arm.settings.learning_rate == pytest.approx(rate)
