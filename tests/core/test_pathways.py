"""The table of rules and feedback pathways: which go together, what holds for those that do, and why others do not."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from circuits import NETWORKS, Row, assert_same, gradients, learn, loss_of, loss_on, steps
from torch import Tensor, nn

import apical
from apical import feedback
from apical.errors import CircuitError, ConfigError, NonFiniteError
from apical.feedback import Pathway
from apical.layers import Layer
from apical.rules import Sweep

# Whether a relaxation has settled is for tests of its own; here half of the networks are random and untrained.
pytestmark = pytest.mark.filterwarnings("ignore::apical.rules.energy.relax.UnsettledWarning")

CARRYING = ("tied", "fixed", "sign_symmetric", "kolen_pollack", "weight_mirror")
EVERYWHERE = ("mlp", "conv", "residual", "branching")
CHAINS = ("mlp", "deep_tanh")


class Plain(Sweep):
    """One pass down, by any pathway."""

    name = "plain"

    def __init__(self, *, feedback: Any = "tied") -> None:
        super().__init__()
        self.take_pathway(feedback)


def hopfield(**options: Any) -> Row:
    return Row("equilibrium_propagation", {"network": "hopfield", "activation": "hard_sigmoid", **options})


RULES: Mapping[str, Row] = {
    "burst_ccn": Row("burst_ccn"),
    "burstprop": Row("burstprop"),
    "microcircuit": Row("dendritic_microcircuit"),
    "pc fixed prediction": Row("predictive_coding"),
    "pc zero divergence": Row("predictive_coding", {"variant": "zero_divergence"}),
    "pc strict": Row("predictive_coding", {"variant": "strict", "steps": 6}),
    "pc incremental": Row("predictive_coding", {"variant": "incremental", "steps": 5, "learning_rate": 0.001}),
    "pc error optimised": Row("predictive_coding", {"variant": "error_optimised", "rate": 0.2}),
    "ep": Row("equilibrium_propagation"),
    "ep hopfield": hopfield(free_steps=20, nudged_steps=8),
    "countercurrent": Row("countercurrent_inhibition"),
    "brainprop": Row("brainprop"),
    "agrel": Row("agrel"),
    "dfa": Row("direct_feedback_alignment"),
    "drtp": Row("direct_random_target_projection"),
    "segregated dendrites": Row("segregated_dendrites"),
}
DIRECT = ("dfa", "drtp", "segregated dendrites")
# Of each rule the pathways that it accepts, and the part of the reason that refuses each of the others.
NO_BURSTS, NO_DIRECT, NO_STEPS, NO_NOISE = "burst rates", "DirectFeedbackAlignment", "layer to layer", "noise"
ACCEPTED: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(RULES, CARRYING),
    "burst_ccn": (*CARRYING, "homeostatic"),
    "ep hopfield": tuple(name for name in CARRYING if name != "weight_mirror"),
    **dict.fromkeys(DIRECT, ("direct",)),
}
REFUSED: Mapping[str, Mapping[str, str]] = {
    **{name: {"homeostatic": NO_BURSTS, "direct": NO_DIRECT} for name in RULES},
    "burst_ccn": {"direct": NO_DIRECT},
    "ep hopfield": {"homeostatic": NO_BURSTS, "direct": NO_DIRECT, "weight_mirror": NO_NOISE},
    **{name: dict.fromkeys((*CARRYING, "homeostatic"), NO_STEPS) for name in DIRECT},
}
# Options beside the defaults that are worth a row: an object, or the rule's own where a pathway needs them.
OBJECTS: Mapping[str, Callable[[], Pathway]] = {
    "tied": feedback.Tied,
    "fixed": feedback.Fixed,
    "sign_symmetric": feedback.SignSymmetric,
    "kolen_pollack": feedback.KolenPollack,
    "weight_mirror": feedback.WeightMirror,
    "homeostatic": feedback.Homeostatic,
    "direct": feedback.Direct,
}
MORE: Mapping[str, Callable[[], Pathway]] = {
    "sign_symmetric, batchwise": lambda: feedback.SignSymmetric(magnitude="batchwise", seed=2),
    "sign_symmetric, fixed": lambda: feedback.SignSymmetric(magnitude="fixed", init="xavier"),
    "kolen_pollack, scaled": lambda: feedback.KolenPollack(init="weights", scale=0.5),
    "weight_mirror, in every pass": lambda: feedback.WeightMirror(every=1, rate=0.3, samples=4),
    "direct, sparse": lambda: feedback.Direct(density=0.5, init="outputs"),
}


def accepts(rule: str, pathway: str) -> bool:
    batchwise = rule == "ep hopfield" and "batchwise" in pathway
    return pathway.partition(",")[0] in ACCEPTED[rule] and not batchwise


CELLS = [(rule, pathway) for rule in RULES for pathway in (*OBJECTS, *MORE) if accepts(rule, pathway)]
every_cell = pytest.mark.parametrize(("rule", "pathway"), CELLS, ids=[f"{rule}-{pathway}" for rule, pathway in CELLS])


def make(rule: str, given: Any) -> apical.LearningRule:
    homeostatic = rule == "burst_ccn" and (given == "homeostatic" or isinstance(given, feedback.Homeostatic))
    return RULES[rule].make(feedback=given, **({"events": "learned"} if homeostatic else {}))


def circuit(rule: str, pathway: str, network: str, *, by_name: bool = False, seed: int = 0) -> apical.Circuit:
    """By an object, or by a name where the table has no more than that."""
    given = pathway if by_name else {**OBJECTS, **MORE}[pathway]()
    return apical.Circuit(NETWORKS[network].build(seed), make(rule, given))


def test_every_rule_that_takes_feedback_is_in_the_table_and_every_pathway():
    taking = {name for name in apical.rules._OWN if "feedback" in apical.rules.get(name).option_names()}
    taking.remove("e_prop")  # whose three are its own
    assert {row.name for row in RULES.values()} == taking
    own = {name for name in feedback.names() if feedback.get(name).__module__.startswith("apical.")}
    assert set(OBJECTS) == own
    for rule in RULES:
        assert set(ACCEPTED[rule]) | set(REFUSED[rule]) == own
        assert not set(ACCEPTED[rule]) & set(REFUSED[rule])


def turns(rule: str, pathway: str) -> str:
    """The networks take turns, so that every rule and every pathway meets each of them."""
    networks = CHAINS if rule == "ep hopfield" else EVERYWHERE
    return networks[(list(RULES).index(rule) + [*OBJECTS, *MORE].index(pathway)) % len(networks)]


# Pathways that a rule accepts


@every_cell
def test_a_pathway_teaches_every_layer_of_every_network(rule, pathway):
    """Twice the same: once by the object, and once by the name; pathways with options in one network."""
    everywhere = CHAINS if rule == "ep hopfield" else EVERYWHERE
    for network in everywhere if pathway in OBJECTS else (turns(rule, pathway),):
        x, y = NETWORKS[network].batch()
        found = learn(circuit(rule, pathway, network), x, y)
        assert all(part.isfinite().all() for part in found.values())
        assert all(found[f"model.{path}.weight"].count_nonzero() for path in NETWORKS[network].synapses)
        again = circuit(rule, pathway, network, by_name=pathway in OBJECTS)
        assert again.rule.pathway.name == pathway.partition(",")[0]
        assert_same(learn(again, x, y), found)


@every_cell
def test_a_state_is_made_of_tensors_and_survives_a_file_and_a_copy(rule, pathway):
    network = turns(rule, pathway)
    taught = circuit(rule, pathway, network)
    list(steps(taught, NETWORKS[network], 2, lr=0.01))
    state = taught.state_dict()
    assert all(isinstance(value, Tensor) for value in state.values())
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    restored = circuit(rule, pathway, network, seed=7)
    restored.load_state_dict(torch.load(file, weights_only=True))
    copied = copy.deepcopy(taught)
    for seed in (200, 201):
        x, y = NETWORKS[network].batch(seed=seed)
        expected = learn(taught, x, y)
        assert_same(learn(restored, x, y), expected)
        assert_same(learn(copied, x, y), expected)


@every_cell
def test_gradients_add_up(rule, pathway):
    network = turns(rule, pathway)
    together, apart = circuit(rule, pathway, network), circuit(rule, pathway, network)
    single = []
    for seed in (1, 2):
        x, y = NETWORKS[network].batch(seed=seed)
        single.append(learn(apart, x, y))
        torch.manual_seed(3)
        loss_on(together, x, y).backward()
    total = {name: single[0][name] + single[1][name] for name in single[0]}
    assert_same(gradients(together), total, rtol=1e-4, atol=1e-6)


@every_cell
def test_a_scaled_loss_teaches_the_same(rule, pathway):
    network = turns(rule, pathway)
    x, y = NETWORKS[network].batch()
    expected = learn(circuit(rule, pathway, network), x, y)
    scaled = circuit(rule, pathway, network)
    scaled.loss_scale = 1024.0
    found = learn(scaled, x, y, lambda output, target: loss_of(scaled)(output, target) * 1024)
    assert_same(found, {name: update * 1024 for name, update in expected.items()})


@pytest.mark.parametrize("pathway", [name for name in OBJECTS if OBJECTS[name]().sends_down])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_signal_is_sent_by_the_transpose_of_the_pathways_weights(pathway, network):
    """Rules whose networks settle use `weight` where a sweep uses `send`; both have to be one."""
    built, given = apical.Circuit(NETWORKS[network].build(), Plain()), OBJECTS[pathway]()
    given.setup(built.wiring)
    for layer in built.layers:
        if not layer.feeds_back:
            continue
        axes = layer.synapses.sample_axes - 1
        pre = torch.randn(2, layer.weight.shape[1] * getattr(layer.synapses, "groups", 1), *(6,) * axes)
        post = torch.randn_like(layer.synapses.forward(pre))
        assert given.weight(layer).shape == layer.weight.shape
        expected = layer.synapses.transpose_product(post, given.weight(layer), pre)
        torch.testing.assert_close(given.send(layer, post, pre), expected)


def test_symmetric_direct_feedback_is_the_product_of_the_weights_above():
    for name in ("direct_feedback_alignment", "segregated_dendrites", "direct_random_target_projection"):
        symmetric = {"name": "direct", "symmetric": True}
        taught = apical.Circuit(NETWORKS["mlp"].build(), apical.rules.make(name, feedback=symmetric))
        found = learn(taught, *NETWORKS["mlp"].batch())
        assert all(found[f"model.{path}.weight"].count_nonzero() for path in NETWORKS["mlp"].synapses)
        assert not [key for key in taught.state_dict() if "weights" in key]
        with pytest.raises(CircuitError, match="symmetric"):
            apical.Circuit(NETWORKS["conv"].build(), apical.rules.make(name, feedback=symmetric))


def test_a_hopfield_network_of_other_weights_gives_another_output():
    x, _ = NETWORKS["mlp"].batch()
    outputs = {name: circuit("ep hopfield", name, "mlp")(x) for name in ACCEPTED["ep hopfield"]}
    for name, output in outputs.items():
        assert output.isfinite().all()
        assert torch.equal(output, outputs["tied"]) == (name == "tied")


def test_inference_that_diverges_along_fixed_weights_is_noticed():
    """Without symmetric weights no energy descends, so that only the states themselves tell."""
    rule = apical.PredictiveCoding(variant="strict", rate=1.0, steps=300, feedback=feedback.Fixed(scale=40.0))
    x, y = NETWORKS["mlp"].batch()
    with pytest.raises(NonFiniteError, match=r"PredictiveCoding.* has diverged: after 300 steps"):
        loss_on(apical.Circuit(NETWORKS["mlp"].build(), rule), x, y).backward()


# Options of a pathway


def weights_of(taught: apical.Circuit) -> list[Tensor]:
    pathway = taught.rule.pathway
    return [pathway.weights[layer].detach() for layer in taught.layers if layer in pathway.weights]


@pytest.mark.parametrize("rule", [rule for rule in RULES if "kolen_pollack" in ACCEPTED[rule]])
def test_the_scale_of_learned_feedback_is_the_objects(rule):
    whole = weights_of(apical.Circuit(NETWORKS["mlp"].build(), make(rule, feedback.KolenPollack())))
    assert len(whole) == 2
    for given in (feedback.KolenPollack(scale=0.5), {"name": "kolen_pollack", "scale": 0.5}):
        halved = weights_of(apical.Circuit(NETWORKS["mlp"].build(), make(rule, given)))
        assert all(torch.equal(half, full * 0.5) for half, full in zip(halved, whole, strict=True))


def test_unmatched_events_are_apart_by_a_share_of_the_objects_spread():
    def mismatch(given: Any, **options: Any) -> list[Tensor]:
        rule = apical.BurstCCN(feedback=given, events="fixed", **options)
        built = apical.Circuit(NETWORKS["mlp"].build(), rule)
        return [rule.event_weights[layer] for layer in built.layers if layer in rule.event_weights]

    for options in ({"scale": 0.25}, {"init": "xavier"}):
        found, named = mismatch(feedback.Fixed(**options)), mismatch("fixed", **options)
        assert found
        assert all(torch.equal(a, b) for a, b in zip(found, named, strict=True))


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("rule", [rule for rule in RULES if "fixed" in ACCEPTED[rule]])
def test_fixed_feedback_of_one_seed_is_that_of_feedback_alignment(rule, seed):
    aligned = weights_of(apical.Circuit(NETWORKS["conv"].build(), apical.FeedbackAlignment(seed=seed)))
    network = "mlp" if rule == "ep hopfield" else "conv"
    if network == "mlp":
        aligned = weights_of(apical.Circuit(NETWORKS["mlp"].build(), apical.FeedbackAlignment(seed=seed)))
    rule_of_seed = RULES[rule].make(feedback="fixed", seed=seed)
    found = weights_of(apical.Circuit(NETWORKS[network].build(), rule_of_seed))
    assert len(found) == 2
    assert all(torch.equal(a, b) for a, b in zip(found, aligned, strict=True))


@pytest.mark.parametrize("option", [{"scale": 0.5}, {"init": "xavier"}])
@pytest.mark.parametrize("name", ["burst_ccn", "burstprop", "dendritic_microcircuit", "brainprop", "agrel"])
def test_an_option_of_a_pathway_is_not_given_beside_its_object(name, option):
    (key,) = option
    with pytest.raises(ConfigError, match=rf"{key}=.*Fixed\({key}="):
        apical.rules.make(name, feedback=feedback.Fixed(), **option)


def test_wrong_options_of_a_pathway_are_refused():
    for given, message in (
        ({"name": "fixed", "scal": 2}, r"'fixed'.*'scal'.*'scale'"),
        ({"name": "tied", "scale": 2}, r"'tied'.*'scale'"),
        ({"name": "fixed", "scale": -1}, r"scale=-1"),
        ({"name": "fixed", "scale": "big"}, r"'fixed'.*'big'"),
        ({"scale": 2}, r"'tied'.*'scale'"),  # of the default
        ({"name": 3}, r"lacks a name"),
        ("fixd", r"feedback='fixd'.*'fixed'"),
        ("feedback_alignment", r"feedback='feedback_alignment'.*'fixed'"),
        (3, r"feedback=3"),
        (None, r"feedback=None"),
    ):
        with pytest.raises(ConfigError, match=message):
            apical.PredictiveCoding(feedback=given)


# Pathways that a rule refuses


@pytest.mark.parametrize(("rule", "pathway"), [(rule, pathway) for rule in RULES for pathway in REFUSED[rule]])
def test_a_pathway_without_a_meaning_is_refused_with_the_reason(rule, pathway):
    """By the name, the class, an object and a mapping; with the rule, the pathway, the reason and the others."""
    for given in (pathway, OBJECTS[pathway], OBJECTS[pathway](), {"name": pathway}):
        with pytest.raises(ConfigError) as refused:
            RULES[rule].make(feedback=given)
        message = str(refused.value)
        assert message.startswith(apical.rules.get(RULES[rule].name).__name__)
        assert f"feedback={pathway!r}" in message
        assert REFUSED[rule][pathway] in message
        # Those that the message offers instead are accepted.
        assert any(repr(name) in message or f" {name}" in message for name in ACCEPTED[rule])


@pytest.mark.parametrize("pathway", ["homeostatic", "direct"])
def test_a_sweep_refuses_what_is_another_rule(pathway):
    with pytest.raises(ConfigError, match=rf"Plain: feedback='{pathway}'.*{REFUSED['ep'][pathway]}"):
        Plain(feedback=pathway)


def test_feedback_drawn_for_every_batch_is_no_part_of_a_hopfield_network():
    with pytest.raises(ConfigError, match="magnitude"):
        make("ep hopfield", feedback.SignSymmetric(magnitude="batchwise"))


def test_homeostatic_feedback_needs_events_to_cancel():
    with pytest.raises(ConfigError, match=r"homeostatic.*events="):
        apical.BurstCCN(feedback="homeostatic", events="matched")


TWINS = {
    "backprop": "tied",
    "feedback_alignment": "fixed",
    "sign_symmetry": "sign_symmetric",
    "kolen_pollack": "kolen_pollack",
    "weight_mirror": "weight_mirror",
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("given", [*TWINS, "burst_ccn"])
def test_a_learning_rule_in_place_of_a_pathway_is_refused_and_the_pathway_named(rule, given):
    named = f"feedback='{TWINS[given]}'" if given in TWINS else "kolen_pollack"
    for wrong in (apical.rules.make(given), apical.rules.get(given)):
        with pytest.raises(ConfigError) as refused:
            RULES[rule].make(feedback=wrong)
        assert "learning rule" in str(refused.value)
        assert named in str(refused.value)


@pytest.mark.parametrize("rule", RULES)
def test_one_pathway_has_one_rule(rule):
    shared = OBJECTS[ACCEPTED[rule][-2 if rule == "burst_ccn" else -1]]()
    first = RULES[rule].make(feedback=shared)
    with pytest.raises(ConfigError, match=rf"{type(first).__name__}: .*{type(shared).__name__}\(\.\.\.\)"):
        RULES[rule].make(feedback=shared)
    again = apical.rules.make(first.name, **first.options())  # with a pathway of its own
    assert again.pathway is not shared
    assert repr(again) == repr(first)


# Pathways of another package

SCALED = '''
from apical.feedback import Fixed, Pathway


class Scaled(Pathway):
    """A share of the forward weights."""

    name = "scaled"
    summary = "A share of the forward weights."

    def __init__(self, *, share: float = 1.0) -> None:
        super().__init__()
        self.share = share

    def weight(self, layer):
        return layer.weight.detach() * self.share


class Nameless(Pathway):
    summary = "Has no name."


class Impostor(Fixed):
    pass


number = 3
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Installs a package that offers entry points of the group apical.feedback."""

    def install(**points: str) -> Path:
        (tmp_path / "apical_scaled.py").write_text(SCALED, encoding="utf-8")
        info = tmp_path / "apical_scaled-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: apical-scaled\nVersion: 1.0\n", encoding="utf-8")
        lines = [f"{name} = {value}\n" for name, value in points.items()]
        (info / "entry_points.txt").write_text("[apical.feedback]\n" + "".join(lines), encoding="utf-8")
        monkeypatch.syspath_prepend(str(tmp_path))
        return tmp_path

    yield install
    sys.modules.pop("apical_scaled", None)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in DIRECT])
def test_a_pathway_of_another_package_is_one_like_any_other(package, rule):
    """With the whole of the forward weights it is the tied pathway, in every rule."""
    package(scaled="apical_scaled:Scaled")
    assert feedback.names() == [*OBJECTS, "scaled"]
    for network in CHAINS if rule == "ep hopfield" else ("mlp", "residual"):
        x, y = NETWORKS[network].batch()
        found = learn(apical.Circuit(NETWORKS[network].build(), make(rule, "scaled")), x, y)
        tied = learn(circuit(rule, "tied", network), x, y)
        exact = rule not in ("pc incremental", "ep hopfield")  # which move the tied weights with the forward ones
        if exact:
            assert_same(found, tied, rtol=1e-4, atol=1e-6)
        halved = apical.Circuit(NETWORKS[network].build(), make(rule, {"name": "scaled", "share": 0.5}))
        lowest = f"model.{NETWORKS[network].synapses[0]}.weight"
        assert not torch.allclose(learn(halved, x, y)[lowest], found[lowest])


@pytest.mark.parametrize("rule", DIRECT)
def test_a_pathway_of_another_package_that_sends_down_is_no_direct_one(package, rule):
    package(scaled="apical_scaled:Scaled")
    with pytest.raises(ConfigError, match=r"feedback='scaled'.*layer to layer"):
        make(rule, "scaled")


def test_another_process_finds_the_pathway_and_the_command_line_its_options(package):
    folder = package(scaled="apical_scaled:Scaled")
    code = (
        f"import sys; sys.path.insert(0, {str(folder)!r})\n"
        "from apical.study.config import RuleConfig\n"
        "print(RuleConfig.parse('burst_ccn:feedback=scaled,feedback.share=0.5').make().pathway)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "Scaled(share=0.5)"


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ({"gone": "apical_gone:Pathway"}, r"'gone'.*apical_gone:Pathway.*No module named"),
        ({"scaled": "apical_scaled:Missing"}, r"'scaled'.*apical_scaled:Missing"),
        ({"number": "apical_scaled:number"}, r"apical_scaled:number.*'number'.*Pathway"),
        ({"fixed": "apical_scaled:Impostor"}, r"'fixed'.*apical_scaled:Impostor.*name"),
        ({"nameless": "apical_scaled:Nameless"}, r"'nameless'.*apical_scaled:Nameless.*name="),
        ({"other": "apical_scaled:Scaled"}, r"'other'.*apical_scaled:Scaled.*name="),
    ],
)
def test_a_broken_pathway_is_named_and_harms_no_other(package, points, message):
    package(**points)
    with pytest.warns(UserWarning, match=message):
        assert set(feedback.names()) == set(OBJECTS)
    assert feedback.get("fixed") is feedback.Fixed


class Turned(feedback.Fixed):
    """A pathway written on the spot, with no name of its own and no registration."""

    def weight(self, layer: Layer) -> Tensor:
        return -super().weight(layer)

    def send(self, layer: Layer, post: Tensor, pre: Tensor) -> Tensor:
        return Pathway.send(self, layer, post, pre)


@pytest.mark.parametrize("given", [Turned, Turned()], ids=["class", "object"])
def test_a_class_that_no_registry_has_is_the_class_that_is_used(given):
    """It inherits the name of its base, and is not its base."""
    rule = apical.FeedbackAlignment()
    x, y = NETWORKS["mlp"].batch()
    model = NETWORKS["mlp"].build()
    found = learn(apical.Circuit(model, Plain(feedback=given)), x, y)["model.3.weight"]
    expected = learn(apical.Circuit(NETWORKS["mlp"].build(), rule), x, y)["model.3.weight"]
    torch.testing.assert_close(found, -expected)


class Doubled(feedback.Tied):
    """Overrides the weights of the pathway by which energies descend."""

    def weight(self, layer: Layer) -> Tensor:
        return super().weight(layer) * 2

    def send(self, layer: Layer, post: Tensor, pre: Tensor) -> Tensor:
        return Pathway.send(self, layer, post, pre)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in DIRECT])
def test_weights_that_override_the_tied_ones_are_used_by_every_rule(rule):
    assert feedback.Tied.descends
    assert not Doubled.descends
    x, y = NETWORKS["mlp"].batch()
    found = learn(apical.Circuit(NETWORKS["mlp"].build(), make(rule, Doubled())), x, y)
    tied = learn(circuit(rule, "tied", "mlp"), x, y)
    assert not torch.allclose(found["model.1.weight"], tied["model.1.weight"], rtol=1e-3)


class Bare(Pathway):
    """The least that a pathway has: weights, and no name."""

    def weight(self, layer: Layer) -> Tensor:
        return layer.weight.detach() * 2


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in DIRECT])
def test_a_pathway_needs_no_name(rule):
    built = apical.Circuit(NETWORKS["mlp"].build(), make(rule, Bare()))
    assert all(part.isfinite().all() for part in learn(built, *NETWORKS["mlp"].batch()).values())
    with pytest.raises(ConfigError, match=r"feedback='Bare'"):
        apical.DirectFeedbackAlignment(feedback=Bare())


def test_a_pathway_without_weights_says_so():
    class Empty(Pathway):
        name = "empty"

    built = apical.Circuit(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)), Plain(feedback=Empty()))
    with pytest.raises(NotImplementedError, match="Empty"):
        built(torch.randn(2, 4)).sum().backward()
