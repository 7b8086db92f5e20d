"""`apical continual` and `apical protections`: forgetting, shown; leaks, named."""

import pytest

from apical import study
from apical.cli.forgetting import read_stream
from apical.errors import ConfigError

FAST = ["continual", "--stream", "split-npz:clouds.npz", "--model", "mlp:6", "--epochs", "1", "--seeds", "2"]
FAST += ["--jobs", "1", "--set", "stream.classes_per_task=1", "--set", "validation=0", "--batch-size", "16"]


def test_continual_shows_forgetting_beside_floors(apical, answer):
    found = answer(*FAST, "--protect", "none", "--out", "here")
    assert [arm["settings"]["joint"] for arm in found["arms"]] == [False, True]
    comparison = study.Comparison.load("here")
    first = found["arms"][0]
    assert first["matrix"] == comparison.arms[0].matrix()
    assert first["metrics"]["forgetting_max"]["count"] == 2
    assert first["leaks"] is False
    assert first["assumptions"]["passes"] == 1
    assert len(found["floors"]) == 3
    shown = apical(*FAST, "--protect", "none", "--out", "here").stdout
    assert "Streaming LDA" in shown
    assert "class-incremental" in shown
    page = (comparison_page := study.RunFolder("here").path / "report.html").read_text()
    assert comparison_page.is_file()
    assert page.count('class="heatmap"') == 5


def test_equal_compute_names_its_epochs(apical):
    shown = apical(*FAST, "--protect", "none,derpp", "--equal-compute", "--no-floors", "--out", "equal").stdout
    assert "1 to 3 epochs" in " ".join(shown.split())


def test_a_leak_is_named_everywhere(apical, answer):
    with open("net.py", "w") as file:
        file.write(
            "from torch import nn\n"
            "class Centred(nn.Module):\n"
            "    def forward(self, x):\n"
            "        return x - x.mean(0)\n"
            "def make(input_shape, classes):\n"
            "    return nn.Sequential(Centred(), nn.Linear(input_shape[0], 8), nn.Tanh(), nn.Linear(8, classes))\n"
        )
    leaky = [*FAST[:4], "net.py:make", *FAST[5:], "--protect", "none", "--no-joint", "--no-floors", "--out", "leaky"]
    leaky[3:5] = ["--model", "net.py:make"]
    assert answer(*leaky)["arms"][0]["leaks"] is True
    assert "LEAKS" in apical(*leaky).stdout
    assert ">leaks<" in (study.RunFolder("leaky").path / "report.html").read_text()
    run = next(study.RunFolder("leaky").path.glob("runs/backprop/none/seed-*"))
    assert "LEAKS" in apical("evaluate", str(run)).stdout


def test_train_on_a_stream_shows_its_matrix(apical):
    shown = apical(
        *("train", "--task", "npz:clouds.npz", "--model", "mlp:6", "--epochs", "1", "--set", "stream=split"),
        *("--set", "stream.classes_per_task=1", "--set", "validation=0", "--out", "a"),
    ).stdout
    assert "forgetting max" in shown
    assert "classes 2" in shown


def test_settings_are_checked_together(apical):
    apical(
        *("train", "--task", "npz:clouds.npz", "--model", "mlp:6:relu", "--epochs", "1", "--set", "protect=xdg"),
        *("--set", "stream=permuted", "--set", "stream.tasks=2", "--set", "stream.scenario=task"),
        *("--set", "validation=0", "--out", "a"),
    )
    assert study.RunFolder("a").config().protect.name == "xdg"


def test_protections_are_listed_and_explained(apical, answer):
    assert "none" in apical("protections").stdout
    assert {each["name"] for each in answer("protections")} >= {"none"}
    assert answer("protections", "none")["needs_boundaries"] is False


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("split-mnist", ("split", "mnist")),
        ("one-class-fashion-mnist", ("one_class", "fashion-mnist")),
        ("permuted-npz:a-b.npz", ("permuted", "npz:a-b.npz")),
    ],
)
def test_a_stream_is_a_kind_and_a_task(text, expected):
    assert read_stream(text) == expected


@pytest.mark.parametrize("text", ["mnist", "split", "split-", "cut-mnist"])
def test_what_is_no_stream_is_refused(text):
    with pytest.raises(ConfigError, match="split-mnist"):
        read_stream(text)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--stream", "split-mnits"], "did you mean 'mnist'?"),
        (["--scenario", "time"], "stream.scenario"),
        (["--protect", "nonee"], "did you mean 'none'?"),
        (["--set", "stream.classes_per_task=3"], "cannot be cut into tasks"),
    ],
)
def test_mistakes_are_refused_before_training(complaint, arguments, said):
    assert said in complaint("continual", *arguments)
