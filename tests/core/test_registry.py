"""Rules by name, rules from other packages, and rules written outside in a few lines."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from circuits import NETWORKS, Row, assert_same, circuit_of, learn, plain, rows
from torch import Tensor, nn

import apical
from apical.errors import CircuitError, ConfigError
from apical.feedback import Pathway
from apical.layers import BackwardPass, Layer, NodeState
from apical.rules import LearningRule, Sweep
from apical.wiring import Credit, ForwardState, Wiring

OWN = list(apical.rules._OWN)


def test_the_rules_of_this_package_are_there():
    assert {"backprop", "feedback_alignment", "sign_symmetry", "direct_feedback_alignment"} <= set(OWN)
    assert set(OWN) <= set(apical.rules.names())
    assert apical.rules.names()[0] == "backprop"
    for name in OWN:
        rule = apical.rules.get(name)
        assert rule.name == name
        assert getattr(apical, rule.__name__) is rule


@pytest.mark.parametrize(
    "spelling", ["sign_symmetry", "sign-symmetry", "Sign_Symmetry", "SignSymmetry", "signsymmetry"]
)
def test_a_rule_goes_by_several_spellings(spelling):
    assert apical.rules.get(spelling) is apical.SignSymmetry
    assert isinstance(apical.Circuit(nn.Linear(2, 2), spelling).rule, apical.SignSymmetry)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: apical.rules.get("sign_symetry"), r"'sign_symetry'.*'sign_symmetry'.*backprop"),
        (lambda: apical.rules.make("quantum"), r"'quantum'.*backprop, "),
        (
            lambda: apical.rules.make("feedback_alignment", scal=2),
            r"'scal'.*'scale'.*init",
        ),
        (lambda: apical.rules.make("weight_mirror", xyz=2), r"'xyz'.*rate, samples, every"),
        (lambda: apical.rules.make("backprop", seed=1), r"'backprop'.*'seed'"),
        (lambda: apical.rules.make("sign_symmetry", magnitude="big"), r"magnitude='big'.*'uniform'"),
        (
            lambda: apical.rules.make("sign_symmetry", init="weights"),
            r"init='weights'.*'match'.*'xavier'",
        ),
        (lambda: apical.rules.make("sign_symmetry", scale=0), r"scale=0 "),
        (
            lambda: apical.rules.make("feedback_alignment", init="zero"),
            r"init='zero'.*'match', 'xavier'",
        ),
        (lambda: apical.rules.make("feedback_alignment", scale=float("nan")), r"scale=nan "),
        (lambda: apical.rules.make("kolen_pollack", scale="big"), r"'kolen_pollack'.*\{'scale': 'big'\}"),
        (lambda: apical.rules.make("weight_mirror", rate=0.0), r"rate=0\.0 .*0.*1"),
        (lambda: apical.rules.make("weight_mirror", every=0), r"every=0 .*1"),
        (
            lambda: apical.rules.make("direct_feedback_alignment", init="xavier"),
            r"init='xavier'.*'match'",
        ),
        (lambda: apical.rules.make("direct_random_target_projection", scale=-1), r"scale=-1 "),
    ],
)
def test_a_wrong_name_or_option_is_told_with_what_was_meant(call, told):
    with pytest.raises(ConfigError, match=told):
        call()


# Rules from another package, built on the spot

SHARED = '''
from apical.feedback import Pathway
from apical.rules import Sweep


class Share(Pathway):
    """A share of the forward weights."""

    name = "share"
    summary = "A share of the forward weights."

    def __init__(self, *, share: float = 1.0) -> None:
        super().__init__()
        self.share = share

    def weight(self, layer):
        return layer.weight.detach() * self.share


class Shared(Sweep):
    """Errors travel down a share of the forward weights."""

    name = "shared"
    title = "Shared"
    summary = "A share of the forward weights."
    paper = "an example"

    def __init__(self, *, share: float = 1.0) -> None:
        super().__init__()
        self.share = share
        self.take_pathway(Share(share=share))


class Nameless(Sweep):
    title = summary = paper = "nameless"


class Impostor(Shared):
    name = "backprop"


number = 3
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Installs a package that offers entry points of the group apical.rules."""

    def install(**points: str) -> Path:
        (tmp_path / "apical_shared.py").write_text(SHARED, encoding="utf-8")
        info = tmp_path / "apical_shared-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: apical-shared\nVersion: 1.0\n", encoding="utf-8")
        lines = [f"{name} = {value}\n" for name, value in points.items()]
        (info / "entry_points.txt").write_text("[apical.rules]\n" + "".join(lines), encoding="utf-8")
        monkeypatch.syspath_prepend(str(tmp_path))
        return tmp_path

    yield install
    sys.modules.pop("apical_shared", None)


def test_a_rule_of_another_package_is_a_rule_like_any_other(package):
    package(shared="apical_shared:Shared")
    assert apical.rules.names() == [*OWN, "shared"]
    assert Row("shared") in rows()  # so the contract suite holds it to the same
    rule = apical.rules.make("shared", share=0.5)
    assert rule.options() == {"share": 0.5}
    with pytest.raises(ConfigError, match=r"'shar'.*'share'"):
        apical.rules.make("shared", shar=1)
    for network in NETWORKS:
        x, y = NETWORKS[network].batch()
        assert_same(learn(circuit_of(network, "shared"), x, y), learn(circuit_of(network, "backprop"), x, y))
    x, y = NETWORKS["deep_tanh"].batch()
    halved = plain(learn(apical.Circuit(NETWORKS["deep_tanh"].build(), rule), x, y))
    truth = learn(NETWORKS["deep_tanh"].build(), x, y)
    for depth, path in enumerate(reversed(NETWORKS["deep_tanh"].synapses)):
        torch.testing.assert_close(halved[f"{path}.weight"], truth[f"{path}.weight"] / 2**depth)


def test_another_process_finds_it_too(package):
    folder = package(shared="apical_shared:Shared")
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); import apical; print(apical.rules.names()[-1])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "shared"


@pytest.mark.parametrize(
    ("points", "told"),
    [
        ({"gone": "apical_gone:Rule"}, r"'gone'.*apical_gone:Rule.*No module named"),
        ({"shared": "apical_shared:Missing"}, r"'shared'.*apical_shared:Missing"),
        ({"number": "apical_shared:number"}, r"apical_shared:number.*'number'.*LearningRule"),
        ({"backprop": "apical_shared:Impostor"}, r"'backprop'.*apical_shared:Impostor.*name"),
        ({"nameless": "apical_shared:Nameless"}, r"'nameless' .* name"),
        ({"other": "apical_shared:Shared"}, r"'other' .*'shared'"),
    ],
)
def test_a_broken_plug_in_is_told_and_harms_nobody(package, points, told):
    package(**points)
    with pytest.warns(UserWarning, match=told) as warned:
        found = apical.rules.names()
    assert warned[0].filename.endswith(("rules/__init__.py", "test_registry.py"))
    assert set(found) == set(OWN)
    assert apical.rules.get("backprop") is apical.Backprop
    with pytest.warns(UserWarning, match=told), pytest.raises(ConfigError, match="no rule 'unheard of'"):
        apical.rules.get("unheard of")


# Rules written outside


class Signs(Pathway):
    """The sizes of the forward weights, with signs drawn for every batch."""

    name = "signs"
    summary = "The sizes of the forward weights, with signs drawn for every batch."

    def weight(self, layer: Layer) -> Tensor:
        return (torch.randint_like(layer.weight, 2) * 2 - 1) * layer.weight.abs()


class RandomSigns(Sweep):
    """Errors travel down weights whose signs are drawn for every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.take_pathway(Signs())


class Contrast(LearningRule):
    """Two signals for each layer, one of each sign, as rules with two states yield them."""

    def assign_credit(self, wiring: Wiring, state: ForwardState, error: Tensor) -> Iterator[Credit]:
        walk = wiring.backward(state, error)
        for layer, own in walk:
            post = walk.somatic(layer, own, walk.receive(layer))
            yield Credit(layer, own.pre, 3 * post)
            yield Credit(layer, own.pre, -2 * post)
            walk.send(layer, layer.synapses.transpose_product(post, layer.weight, own.pre))
        yield from walk.credits()


@pytest.mark.parametrize("network", NETWORKS)
def test_a_rule_in_a_few_lines_works_in_every_network(network):
    x, y = NETWORKS[network].batch()
    circuit = apical.Circuit(NETWORKS[network].build(), RandomSigns())
    found = plain(learn(circuit, x, y))
    truth = learn(NETWORKS[network].build(), x, y)
    *lower, last = NETWORKS[network].synapses
    torch.testing.assert_close(found[f"{last}.weight"], truth[f"{last}.weight"])
    with pytest.raises(CircuitError, match=r"rule of another circuit.*RandomSigns\(\.\.\.\)"):
        apical.Circuit(NETWORKS[network].build(), circuit.rule)
    assert all(found[f"{path}.weight"].count_nonzero() for path in lower)
    assert not torch.allclose(found[f"{lower[0]}.weight"], truth[f"{lower[0]}.weight"])


@pytest.mark.parametrize("network", NETWORKS)
def test_a_rule_may_give_a_layer_several_credits(network):
    x, y = NETWORKS[network].batch()
    found = plain(learn(apical.Circuit(NETWORKS[network].build(), Contrast()), x, y))
    assert_same(found, learn(NETWORKS[network].build(), x, y), rtol=1e-4, atol=1e-6)


class Recorder(apical.Backprop):
    """A rule that reads all that a circuit can save for it."""

    saves_drives = True
    saves_rates = True

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, Tensor, Tensor, Tensor]] = []

    def visit(self, walk: BackwardPass, layer: Layer, own: NodeState) -> Iterator[Credit]:
        self.found.append((layer.name, own.pre, own.drive, own.rate))
        yield from super().visit(walk, layer, own)


@pytest.mark.parametrize("inplace", [True, False])
def test_what_is_recorded_is_what_was_there(inplace):
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.ReLU(inplace), nn.Linear(5, 3))
    x, y = torch.randn(7, 4), torch.arange(7) % 3
    circuit = apical.Circuit(model, Recorder())
    F.cross_entropy(circuit(x), y).backward()
    lowest = model[0](x)
    h1 = torch.tanh(lowest)
    drive = model[2](h1)
    expected = {
        "4": (drive.relu(), model[4](drive.relu()), model[4](drive.relu())),
        "2": (h1, drive, drive.relu()),
        "0": (x, lowest, h1),
    }
    assert [name for name, *_ in circuit.rule.found] == ["4", "2", "0"]
    for name, *tensors in circuit.rule.found:
        for tensor, right in zip(tensors, expected[name], strict=True):
            torch.testing.assert_close(tensor, right)


class Chains(RandomSigns):
    """A rule that cannot do with every circuit."""

    def setup(self, wiring: Wiring) -> None:
        if len(wiring.nodes) != len(wiring.layers):
            junction = next(node for node in wiring.nodes if node not in wiring.layers)
            raise CircuitError(f"{junction.name}: a junction, and this rule needs a chain. Take the branch out.")


def test_a_rule_that_cannot_teach_a_circuit_leaves_it_its_old_one():
    apical.Circuit(NETWORKS["nested"].build(), Chains())
    with pytest.raises(CircuitError, match="add: a junction"):
        apical.Circuit(NETWORKS["residual"].build(), Chains())
    circuit = circuit_of("residual", "feedback_alignment")
    x, y = NETWORKS["residual"].batch()
    expected = learn(circuit_of("residual", "feedback_alignment"), x, y)
    old, refused = circuit.rule, Chains()
    with pytest.raises(CircuitError, match="add: a junction"):
        circuit.set_rule(refused)
    assert circuit.rule is old
    assert_same(learn(circuit, x, y), expected)
    apical.Circuit(NETWORKS["nested"].build(), refused)  # and stays free for another
