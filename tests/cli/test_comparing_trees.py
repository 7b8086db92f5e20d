"""`benchmarks/compare_trees.py`: two trees are timed in pairs; refusals, failures and dead workers are reported."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from apical.measure import benchmark

ROOT = Path(__file__).parents[2]

# A package that has what the workers use, and rules that do as they are named.
TREE = """
import os, sys, torch
from apical.errors import CircuitError

class Circuit(torch.nn.Module):
    def __init__(self, model, rule):
        super().__init__()
        if rule.name == "refuses" and {refuses}:
            raise CircuitError("not on Sundays")
        if rule.name == "is_broken":
            raise TypeError("a mistake")
        self.model, self.rule = model, rule
        self.steps = 0

    def forward(self, x):
        self.steps += 1
        print("a line on standard output")
        if self.rule.name == "dies":
            print("the last words", file=sys.stderr, flush=True)
            os._exit(3)
        if self.rule.name == "diverges" and self.steps > 3:
            raise CircuitError("diverged")
        return self.model(x)
"""
RULES = """
class Rule:
    learns_from = "error"

def make(name, **options):
    rule = Rule()
    rule.name = name
    rule.options = options
    return rule
"""


def tree(folder: Path, *, refuses: bool = True) -> str:
    package = folder / "apical"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(TREE.format(refuses=refuses))
    (package / "errors.py").write_text("class CircuitError(Exception):\n    pass\n")
    (package / "rules.py").write_text(RULES)
    (package / "losses.py").write_text("LOSSES = {}\n")
    return str(folder)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare_trees", ROOT / "benchmarks" / "compare_trees.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["compare_trees"] = module  # where a dataclass looks its own module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def compare(script, monkeypatch, capsys):
    """The exit status of the script, its table without the title, and its messages."""

    def run(*arguments: str) -> tuple[int, list[str], str]:
        quick = ["--networks", "mlp", "--batches", "2", "--seconds", "0", "--rounds", "1"]
        monkeypatch.setattr(sys, "argv", ["compare_trees.py", *arguments[:2], *quick, *arguments[2:]])
        status = script.main()
        shown = capsys.readouterr()
        return status, shown.out.splitlines()[1:], shown.err

    return run


def test_the_rules_are_those_of_the_benchmark(script):
    assert list(script.RULES) == benchmark.default_rules()


@pytest.mark.parametrize("name", ["mlp", "conv", "residual"])
def test_every_network_answers(script, name):
    import torch

    make, shape = script.NETWORKS[name]
    assert make()(torch.zeros(2, *shape)).shape == (2, script.CLASSES)


def test_two_trees_are_timed_rule_by_rule(compare, script, monkeypatch):
    monkeypatch.setattr(script, "LIMIT_OF_SMALL_BATCHES", -1.0)
    source = str(ROOT / "src")
    status, lines, messages = compare(source, source, "--rules", "backprop", "agrel", "--clock", "wall")
    assert [line.split()[:3] for line in lines] == [["mlp", "2", "backprop"], ["mlp", "2", "agrel"]]
    for line in lines:
        old, new, ratio, bounds, networks = line.split()[3:8]
        low, high = map(float, bounds.split("-"))
        assert float(old) > 0
        assert float(new) > 0
        assert low <= float(ratio) <= high
        assert int(networks) == 1
        assert line.endswith("above -1.00")
    assert status == 1
    assert "round 1 of 1" in messages


@pytest.mark.parametrize(("batch", "high", "marked"), [(8, 1.04, False), (8, 1.06, True), (128, 1.04, True)])
def test_the_limit_is_stricter_for_large_batches(script, batch, high, marked):
    pairs = [[(1.0, high)]] * 3
    assert script.line(script.Case("mlp", batch, "backprop"), pairs)[1] == marked


def test_a_rule_that_cannot_be_timed_does_not_stop_the_rest(compare, tmp_path):
    old, new = tree(tmp_path / "old", refuses=False), tree(tmp_path / "new")
    rules = ["refuses", "is_broken", "diverges", "dies", "works"]
    status, shown, _ = compare(old, new, "--rounds", "2", "--rules", *rules)
    lines = dict(zip(rules, (line for line in shown if line.startswith("mlp")), strict=True))
    assert "refused by only new: CircuitError: not on Sundays" in lines["refuses"]
    assert "old: TypeError: a mistake" in lines["is_broken"]
    assert "old: CircuitError: diverged" in lines["diverges"]
    assert f"old: the worker of {old} ended with exit status 3" in lines["dies"]
    assert any(line.strip() == "the last words" for line in shown)
    # A worker took the place of the one that died.
    ratio, _, networks = lines["works"].split()[5:8]
    assert float(ratio) > 0
    assert networks == "2"
    assert status == 1


def test_a_refusal_by_both_trees_is_reported_once(script):
    class Refusing:
        def __init__(self, name):
            self.name = name

        def ask(self, **request):
            return {"refusal": "not on Sundays"}

    with pytest.raises(script.RefusedError) as refused:
        script.measure([Refusing("old"), Refusing("new")], script.Case("mlp", 8, "a"), seconds=0)
    assert str(refused.value) == "refused by old and new: not on Sundays"


def test_a_folder_without_the_package_is_named(compare, tmp_path):
    status, lines, messages = compare(str(tmp_path / "none"), str(tmp_path), "--rules", "works")
    assert (status, lines) == (2, [])
    assert f"old: {tmp_path / 'none'} holds no package apical" in messages


def test_a_tree_that_cannot_be_imported_is_named(compare, tmp_path):
    old = tree(tmp_path / "old")
    (tmp_path / "old" / "apical" / "losses.py").write_text("import nothing_of_this_name\n")
    status, _, messages = compare(old, old, "--rules", "works")
    assert status == 2
    assert f"old: the worker of {old} ended" in messages
    assert "nothing_of_this_name" in messages


@pytest.mark.parametrize("wrong", [("--networks", "mpl"), ("--batches", "8,x"), ("--batches", "0"), ("--rounds", "0")])
def test_mistaken_options_are_named(compare, capsys, wrong):
    with pytest.raises(SystemExit, match="2"):
        compare("old", "new", *wrong)
    assert wrong[0] in capsys.readouterr().err.splitlines()[-1]


def test_a_rule_is_read_with_its_options(script):
    assert script.parse_rule("backprop") == ("backprop", {})
    with pytest.raises(script.RefusedError, match="twice"):
        script.parse_rule("some:steps=4,steps=5")
    name, options = script.parse_rule("some:variant=strict,recurrent=true,rate=1e-3,steps=4")
    assert name == "some"
    assert options == {"variant": "strict", "recurrent": True, "rate": 0.001, "steps": 4}


def test_blocks_hold_what_a_weight_mirror_does_every_few_steps(script):
    assert [script.period(rule) for rule in ("backprop", "weight_mirror", "weight_mirror:every=4")] == [1, 8, 4]


def test_each_network_is_timed_old_new_new_old_or_the_reverse(script):
    asked = []

    class Fake:
        def __init__(self, name, seconds):
            self.name = name
            self.seconds = seconds

        def ask(self, **request):
            asked.append((self.name, request.get("steps")))
            return {"seconds": self.seconds}

    script.measure([Fake("old", 0.001), Fake("new", 0.004)], script.Case("mlp", 8, "weight_mirror"), seconds=-1)
    steps = 8  # a mirror's, at least as long as a block
    assert asked == [("old", None), ("new", None), *((name, steps) for name in ("old", "new", "new", "old"))]
    assert script.ORDERS == ((0, 1, 1, 0), (1, 0, 0, 1))


def test_a_drift_of_the_machine_cancels(script):
    """Every block takes longer than the one before it by the same factor."""
    now = [1.0]

    class Slowing:
        def __init__(self, name, factor):
            self.name = name
            self.factor = factor

        def ask(self, **request):
            if "steps" in request:
                now[0] *= 1.1
            return {"seconds": self.factor * now[0]}

    (pair,) = script.measure([Slowing("old", 1.0), Slowing("new", 1.5)], script.Case("mlp", 8, "a"), seconds=-1)
    assert pair[1] / pair[0] == pytest.approx(1.5)


def test_the_interval_is_that_of_the_median(script):
    import numpy as np

    generator = np.random.default_rng(1)
    rounds = [[(1.0, ratio) for ratio in generator.normal(1.1, 0.1, size=80)] for _ in range(10)]
    ratio, low, high = script.interval(rounds)
    assert low < 1.1 < high
    assert low < ratio < high
    # The standard error of the median of 800 draws is 1.25 * 0.1 / sqrt(800).
    assert 0.5 < (high - low) / (2 * 1.96 * 1.25 * 0.1 / 800**0.5) < 2
    # What all of a round have in common does not average out within it.
    shifted = [[(1.0, new + shift) for _, new in one] for one, shift in zip(rounds, [-0.2, 0.2] * 5, strict=True)]
    _, wider_low, wider_high = script.interval(shifted)
    assert wider_high - wider_low > 3 * (high - low)
