"""A configuration: three ways to write it, one meaning; and what a mistake is answered with."""

import os
import pickle
import tomllib
from types import SimpleNamespace
from typing import get_args, get_type_hints
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

import apical
from apical import rules
from apical.cli.options import read_rules
from apical.errors import ConfigError
from apical.study import Config, RuleConfig
from apical.study.configuration.parsing import lines_of, parse_setting, parse_settings, split_list
from apical.study.configuration.resolution import resolve
from apical.study.configuration.tables import DEFAULTS, OPTIMIZERS

TOML = """
# a comment
task = "mnist"
epochs = 3

[rule]
name = "sign_symmetry"
magnitude = "fixed"

[optimizer]
name = "adam"
betas = [
  0.8,
  0.99,
]
"""


@pytest.fixture
def toml(tmp_path):
    def write(text):
        path = tmp_path / "study.toml"
        path.write_text(text)
        return path

    return write


def refusal(action):
    with pytest.raises(ConfigError) as caught:
        action()
    return str(caught.value)


def test_toml_flags_and_python_say_the_same(toml):
    from_file = Config.load(toml(TOML))
    settings = [
        "task=mnist",
        "epochs=3",
        "rule=sign_symmetry",
        'rule.magnitude="fixed"',
        'optimizer={name = "adam", betas = [0.8, 0.99]}',
    ]
    assert Config().with_settings(settings) == from_file
    values = {
        "task": "mnist",
        "epochs": 3,
        "rule": {"name": "sign_symmetry", "magnitude": "fixed"},
        "optimizer.name": "adam",
        "optimizer.betas": [0.8, 0.99],
    }
    assert Config().with_values(values) == from_file


@pytest.mark.parametrize("name", rules.names())
def test_every_rule_survives_toml(toml, name):
    config = resolve(Config().with_settings([f"rule={name}"])).config
    again = Config.load(toml(config.to_toml()))
    assert again == config
    assert again.rule.options == config.rule.options


@hypothesis_settings(max_examples=40)
@given(
    epochs=st.integers(1, 10**6),
    lr=st.floats(min_value=1e-300, allow_infinity=False, allow_nan=False),
    model=st.sampled_from(["mlp:5", "conv:3,4:tanh", 'C:\\a "quoted" path\\net.py:make', "é.py:f"]),
    finite=st.booleans(),
    seed=st.integers(0, 2**63 - 1),
)
def test_toml_keeps_every_value_exactly(tmp_path_factory, epochs, lr, model, finite, seed):
    values = {"epochs": epochs, "optimizer.lr": lr, "model": model, "check_finite": finite, "seed": seed}
    config = Config().with_values(values)
    path = tmp_path_factory.mktemp("toml") / "c.toml"
    path.write_text(config.to_toml(), encoding="utf-8")
    assert Config.load(path) == config


def test_python_is_answered_alike():
    assert Config(epochs=3, rule="kolen_pollack") == Config().with_settings(["epochs=3", "rule=kolen_pollack"])
    assert "did you mean 'epochs'?" in refusal(lambda: Config(epoch=3))
    assert "rule.scale: " in refusal(lambda: Config(rule={"name": "feedback_alignment", "scale": -1.0}))


def test_a_configuration_travels_between_processes():
    config = Config(rule={"name": "sign_symmetry", "magnitude": "fixed"}, optimizer="adam")
    again = pickle.loads(pickle.dumps(config))
    assert again == config
    assert again.given() == config.given()


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Config().epochs = 3


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("a=0.1", 0.1),
        ("a=3", 3),
        ("a=true", True),
        ("a=False", False),
        ("a=None", None),
        ('a="True"', "True"),
        ("a=[1, 2]", [1, 2]),
        ('a="text"', "text"),
        ("a=mlp:500,500", "mlp:500,500"),
        ("a = spaced ", "spaced"),
        ("a=", ""),
        ("a=x=y", "x=y"),
        ("a=1\nb = 2", "1\nb = 2"),
    ],
)
def test_a_setting_is_a_toml_literal_or_a_bare_string(setting, expected):
    path, value = parse_setting(setting)
    assert path == ("a",)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("epochz=3", ["--set epochz=3", "unknown setting 'epochz'", "did you mean 'epochs'?", "batch_size"]),
        ("dataset=mnist", ["did you mean 'task'?"]),
        ("epochs=1.5", ["epochs = 1.5", "integer"]),
        ("epochs=0", ["epochs = 0", "greater than or equal to 1"]),
        ("epochs=three", ["epochs = 'three'", "integer"]),
        ("epochs.x=3", ["--set epochs.x=3"]),
        ("epochs", ["write it as key=value"]),
        ("=3", ["write it as key=value"]),
        ("batch_size=[1", ["batch_size=[1", "not valid TOML"]),
        ("validation=nan", ["validation", "finite number"]),
        ("task=minst", ["unknown task 'minst'", "did you mean 'mnist'?", "npz:PATH"]),
        ("model=mpl:500", ["unknown model 'mpl'", "did you mean 'mlp:500,500'?", "file.py:function"]),
        ("model=mlp:5:tahn", ["unknown activation 'tahn'", "did you mean 'tanh'?"]),
        ("loss=mes", ["unknown value 'mes'", "did you mean 'mse'?", "cross_entropy"]),
        ("device=gpu0", ["no such device 'gpu0'", "cuda"]),
        ("rule=feedbak_alignment", ["unknown rule", "did you mean 'feedback_alignment'?", "backprop"]),
        ("rule.bias=1", ["unknown option of backprop 'bias'", "allowed: none"]),
        ("optimizer.name=sdg", ["optimizer.name", "did you mean 'sgd'?", "rmsprop"]),
        ("optimizer.lr=-1", ["optimizer.lr = -1", "greater than 0"]),
        ("optimizer.learning_rate=1", ["unknown option of sgd", "did you mean 'lr'?"]),
        ("optimizer.lerning_rate=1", ["did you mean 'lr'?"]),
        ("optimizer.momentum=x", ["optimizer.momentum", "'x'", "a valid number"]),
        ("optimizer.momentum=-1", ["optimizer.momentum", "-1"]),
        ("optimizer.nesterov=1", ["optimizer.nesterov", "a valid boolean"]),
        ("optimizer.foreach=3", ["optimizer.foreach", "a valid boolean"]),
        ("optimizer.maximize=true", ["unknown option of sgd 'maximize'"]),
        ("optimizer.dampening=2", ["optimizer.dampening", "from 0 to 1"]),
        ("optimizer={name = 'adam', betas = ['a', 0.9]}", ["optimizer.betas", "a valid number"]),
        ("optimizer={name = 'rprop', step_sizes = ['1', 2]}", ["optimizer.step_sizes", "a valid number"]),
        ("threads=100000", ["threads = 100000", "less than or equal to 1024"]),
        ("optimizer={name = 'adaptation', variant = 3}", ["optimizer.variant", "3", "'base', 'abs'"]),
        ("optimizer={name = 'adaptation', variant = 'bse'}", ["optimizer.variant", "'bse'", "'base', 'abs'"]),
        ("optimizer={name = 'adaptation', gain = -1}", ["optimizer.gain", "at least 0"]),
        ("optimizer={name = 'adaptation', gain = 'x'}", ["optimizer.gain", "'x'", "a valid number"]),
        ("optimizer={name = 'rprop', weight_decay = 0.1}", ["optimizer.weight_decay", "rprop has no weight decay"]),
        ("schedule.name=cosin", ["did you mean 'cosine'?"]),
        ("schedule.warmpu=1", ["unknown setting in [schedule] 'warmpu'", "did you mean 'warmup'?"]),
    ],
)
def test_a_wrong_setting_is_named_explained_and_corrected(setting, says):
    message = refusal(lambda: Config().with_settings([setting]))
    for part in says:
        assert part in message


def test_a_wrong_option_of_a_rule_is_told_with_what_the_rule_takes():
    base = Config().with_settings(["rule=sign_symmetry"])
    unknown = refusal(lambda: base.with_settings(["rule.magnitdue=fixed"]))
    assert "did you mean 'magnitude'?" in unknown
    assert "rule.magnitude: " in refusal(lambda: base.with_settings(["rule.magnitude=huge"]))
    assert "rule.seed: " in refusal(lambda: base.with_settings(["rule.seed=abc"]))


def test_early_stopping_needs_something_to_watch():
    message = refusal(lambda: Config().with_settings(["validation=0.0", "patience=3"]))
    assert "validation above 0" in message


def test_an_error_in_a_file_has_its_line(toml):
    text = TOML.replace("magnitude", "magnitdue").replace("0.99,", "1.99,").replace("epochs = 3", "epochs = 'three'")
    message = refusal(lambda: Config.load(toml(text)))
    for place in ("study.toml:4: epochs =", "study.toml:8: rule.magnitdue:", "study.toml:12: optimizer.betas:"):
        assert message.count(place) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("epochs = 3\nfoo bar\n", "study.toml:2: not valid TOML"),
        ("epochs = ", "study.toml:1: not valid TOML"),
        ("rule.name = 'backprop'\nrule.beta = 1", "study.toml:2: rule.beta"),
        ("rule = {name = 'backprop', beta = 1}", "study.toml:1: rule.beta"),
        ("[optimizer]\nname = 'adam'\nbetas = [3.0,\n 1]", "study.toml:3: optimizer.betas"),
    ],
)
def test_the_line_is_found_however_toml_is_written(toml, text, says):
    assert says in refusal(lambda: Config.load(toml(text)))


def test_a_file_that_cannot_be_read(tmp_path):
    assert "No such file" in refusal(lambda: Config.load(tmp_path / "none.toml"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    assert "UTF-8" in refusal(lambda: Config.load(tmp_path / "binary.toml"))


def test_the_search_for_lines_skips_comments_and_strings_over_several_lines():
    text = 'a = """\nb = 1\n"""\n# b = 2\nb = 3\n[t]\n\nc = [\n1,\n]\nd = 1'
    assert lines_of(text) == {("a",): 1, ("b",): 5, ("t",): 6, ("t", "c"): 8, ("t", "d"): 11}


def test_many_mistakes_are_located_in_one_pass(toml, monkeypatch):
    """The time that a search for each would take is squared; so the parsed lines are counted."""
    parsed = []
    original = tomllib.loads
    monkeypatch.setattr(tomllib, "loads", lambda text: parsed.append(text.count("\n") + 1) or original(text))
    path = toml("[optimizer]\n" + "".join(f"[wrong{number}]\nx = 1\n" for number in range(200)))
    message = refusal(lambda: Config.load(path))
    assert "study.toml:40: unknown setting 'wrong19'" in message
    assert message.splitlines()[20:] == ["and 180 more wrong settings"]
    assert sum(parsed) < 1000


def test_what_is_nested_deeply_is_refused(toml):
    assert "not valid TOML" in refusal(lambda: Config.load(toml("a = " + "[" * 5000 + "]" * 5000)))
    assert "not valid TOML" in refusal(lambda: Config().with_settings(["a=" + "[" * 5000]))
    assert "not valid TOML" in refusal(lambda: Config.load(toml("epochs = " + "9" * 5000)))
    assert "unknown setting 'a'" in refusal(lambda: Config.load(toml(".".join("a" * 3000) + " = 1")))


def test_a_long_value_is_not_repeated_whole(toml):
    assert "seed = 'xxx" in refusal(lambda: Config.load(toml('seed = "xxx"')))
    assert len(refusal(lambda: Config.load(toml(f'seed = "{"x" * 10**6}"')))) < 500


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.toml")
    assert "not a regular file" in refusal(lambda: Config.load(tmp_path / "pipe.toml"))


def test_a_named_table_may_be_its_name_alone(toml):
    config = Config.load(toml('rule = "kolen_pollack"\noptimizer = "adam"\nschedule = "cosine"'))
    assert (config.rule.name, config.optimizer.name, config.schedule.name) == ("kolen_pollack", "adam", "cosine")


def test_another_rule_by_name_forgets_the_options_of_the_first():
    config = Config().with_settings(["rule=sign_symmetry", "rule.magnitude=fixed"])
    assert config.with_settings(["rule=backprop"]).rule.options == {}


@pytest.mark.parametrize("text", ["backprop", "sign_symmetry:magnitude=fixed", "feedback_alignment:scale=0.5,seed=3"])
def test_a_rule_on_one_line(text):
    assert RuleConfig.parse(text).label == text


TEXTS = st.one_of(st.sampled_from(["True", "none", "0.5", "a,b", "[1", "it's", 'x="y"', " a", "1 # 2", ""]), st.text())
VALUES = {
    int: st.integers(-9, 9),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    str: TEXTS,
    type(None): st.none(),
}


def values_of(hint):
    """Values of a rule's option by its type; pathways by name, with options."""
    kinds = get_args(hint) or (hint,)
    if len(kinds) > 2:
        return st.one_of(
            st.sampled_from(["fixed", "kolen_pollack"]),
            st.builds(lambda s: {"name": "fixed", "scale": s}, VALUES[float]),
        )
    return st.one_of(*(VALUES[kind] for kind in kinds))


def test_an_empty_table_of_feedback_is_the_default():
    assert RuleConfig.parse("brainprop:feedback={}") == RuleConfig(name="brainprop")


@hypothesis_settings(max_examples=50)
@given(name=st.sampled_from(rules.names()), data=st.data())
def test_the_label_of_a_rule_and_its_file_are_read_back_to_it(name, data):
    """Over all options of all rules, of any value of their type: what the rule itself refuses is left out here."""
    kind = rules.get(name)
    hints = get_type_hints(kind.__init__)
    options = data.draw(st.fixed_dictionaries({}, optional={key: values_of(hints[key]) for key in kind.option_names()}))
    with (
        mock.patch.object(kind, "__init__", autospec=True, side_effect=nn.Module.__init__),
        mock.patch.object(RuleConfig, "make", return_value=SimpleNamespace(pathway=apical.feedback.Fixed())),
    ):
        rule = RuleConfig(name=name, **options)
        assert rule.options == {key: value for key, value in options.items() if value is not None}
        assert {type(value) for value in rule.options.values()} <= {int, float, bool, str, dict}
        again = RuleConfig.parse(rule.label)
        assert (again, bits(again)) == (rule, bits(rule))
        table = Config().with_values({"rule": rule.model_dump()}).to_toml()
        assert bits(RuleConfig(**tomllib.loads(table)["rule"])) == bits(rule)
        assert read_rules([f"backprop,{rule.label},oja"]) == ["backprop", rule.label, "oja"]


def bits(rule):
    return {key: (type(value), repr(value)) for key, value in rule.options.items()}


@pytest.mark.parametrize(
    ("text", "option", "value"),
    [
        ("oja:readout=False", "readout", False),
        ("oja:readout=true", "readout", True),
        ("predictive_coding:rate=1", "rate", 1.0),
        ("predictive_coding:feedback=fixed,feedback.scale=2", "feedback", {"name": "fixed", "scale": 2.0}),
        ("predictive_coding:feedback={name = 'fixed', scale = 2}", "feedback", {"name": "fixed", "scale": 2.0}),
    ],
)
def test_an_option_has_the_type_that_its_rule_names(text, option, value):
    found = RuleConfig.parse(text).options[option]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["predictive_coding:steps=None", "predictive_coding:steps=none", "predictive_coding"])
def test_none_is_the_option_left_out(text):
    assert RuleConfig.parse(text).label == "predictive_coding"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("weight_mirror:seed='1'", "seed: weight_mirror cannot take '1'"),
        ("weight_mirror:scale=true", "scale: weight_mirror cannot take True"),
        ("predictive_coding:steps=5.0", "steps: predictive_coding cannot take 5.0"),
        ("oja:readout='False'", "readout: oja cannot take 'False'"),
        ("oja:readout=None", "readout: oja cannot take None"),
        ("predictive_coding:feedback=fixed,feedback.scale=true", "feedback.scale: predictive_coding cannot take True"),
        ("feedback_alignmnt", "did you mean 'feedback_alignment'"),
    ],
)
def test_an_option_of_another_type_is_refused(text, says):
    assert says in refusal(lambda: RuleConfig.parse(text))


@pytest.mark.parametrize("text", ["fa", "FA", "FeedbackAlignment", "feedback-alignment", "feedback alignment"])
def test_a_rule_by_the_name_that_people_say(text):
    assert RuleConfig.parse(text) == RuleConfig(name="feedback_alignment")


OWN_RULE = """
import apical
class Slow(apical.FeedbackAlignment):
    def __init__(self, *, scale: float = 0.5, seed: int = 0):
        super().__init__(scale=scale, seed=seed)
"""


def test_a_rule_of_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN_RULE)
    rule = RuleConfig.parse("own.py:Slow:scale=2")
    assert (rule.label, rule.make().scale) == ("own.py:Slow:scale=2.0", 2.0)
    assert resolve(Config(rule=rule)).config.rule.name == f"{tmp_path}/own.py:Slow"
    assert read_rules(["bp, own.py:Slow:scale=2"]) == ["bp", "own.py:Slow:scale=2"]
    (tmp_path / "own.py").write_text(OWN_RULE.replace("0.5", "0.25"))
    assert RuleConfig.parse("own.py:Slow").make().scale == 0.25
    assert "did you mean 'Slow'" in refusal(lambda: RuleConfig.parse("own.py:slow"))
    (tmp_path / "own.py").write_text("def make(): pass")
    assert "not a class derived" in refusal(lambda: RuleConfig.parse("own.py:make"))


def test_rules_as_objects_classes_and_functions():
    rule = apical.PredictiveCoding(steps=3, feedback=apical.feedback.KolenPollack(scale=0.5))
    given = Config(rule=rule).rule
    assert given.options == {
        "steps": 3,
        "feedback": {"name": "kolen_pollack", "init": "match", "scale": 0.5, "seed": 0},
    }
    assert RuleConfig.parse(given.label) == given
    assert (
        Config(rule=apical.BurstCCN).rule == Config(rule=lambda: apical.BurstCCN()).rule == RuleConfig(name="burst_ccn")
    )
    assert "not a learning rule" in refusal(lambda: Config(rule=lambda: 3))


def test_a_list_is_split_outside_quotes_and_brackets():
    assert split_list('a=[1, 2], b="x,y\\",", c=\'d,e\',, f') == ["a=[1, 2]", 'b="x,y\\","', "c='d,e'", "f"]


@pytest.mark.parametrize(
    ("options", "twice"),
    [
        ("seed=1,seed=2", "seed"),
        ("feedback=kolen_pollack,feedback.scale=.5,feedback=tied", "feedback"),
        ("feedback.name=tied,feedback=tied", "feedback"),
        ('feedback={name="kolen_pollack",scale=1},feedback.scale=2', "feedback.scale"),
        ('feedback.scale=2,feedback={name="kolen_pollack"}', "feedback.scale"),
    ],
)
def test_an_option_is_given_once(options, twice):
    assert f"{twice} is given twice" in refusal(lambda: RuleConfig.parse(f"burst_ccn:{options}"))
    settings = [f"rule.{option}" for option in split_list(options)]
    assert f"rule.{twice} is given twice" in refusal(lambda: list(parse_settings(["rule=burst_ccn", *settings])))


def test_a_rule_on_one_line_is_checked_too():
    assert "did you mean 'magnitude'?" in refusal(lambda: RuleConfig.parse("sign_symmetry:magnitdue=1"))
    assert "did you mean 'backprop'?" in refusal(lambda: RuleConfig.parse("backprob"))


class TestResolve:
    """What is left open is chosen, and said."""

    def test_nothing_is_left_open_and_once_is_enough(self):
        for name in rules.names():
            resolved = resolve(Config().with_settings([f"rule={name}"]))
            assert resolved.config.optimizer.lr
            assert resolved.config.optimizer.weight_decay is not None
            assert resolved.config.threads > 0
            again = resolve(resolved.config)
            assert again.config == resolved.config
            assert again.notes == ()

    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_another_optimizer_has_its_own_defaults(self, name):
        config = resolve(Config().with_settings([f"optimizer.name={name}"])).config
        assert config.optimizer.lr == DEFAULTS[name]["lr"]
        assert ("momentum" in config.optimizer.options) == (name == "sgd")

    def test_the_default_momentum_counts_when_options_are_checked(self):
        config = Config().with_settings(["optimizer.nesterov=true"])
        assert resolve(config).config.optimizer.options == {"nesterov": True, "momentum": 0.9}
        assert "momentum" in refusal(lambda: config.with_settings(["optimizer.momentum=0"]))

    def test_what_was_given_stays(self):
        given = Config().with_settings(
            ["rule=kolen_pollack", "rule.seed=7", "optimizer.lr=0.3", "optimizer.weight_decay=0", "threads=1", "seed=5"]
        )
        resolved = resolve(given)
        assert resolved.notes == ()
        assert resolved.config.optimizer.lr == 0.3
        assert resolved.config.optimizer.weight_decay == 0
        assert resolved.config.rule.options["seed"] == 7

    def test_the_rules_own_seed_follows_the_runs(self):
        config = Config().with_settings(["rule=feedback_alignment", "seed=5"])
        assert resolve(config).config.rule.options["seed"] == 5

    @pytest.mark.parametrize(("loss", "told"), [("cross_entropy", "cross_entropy"), ("mse", "squared_error")])
    @pytest.mark.parametrize(
        "rule",
        [
            ["rule=predictive_coding", "rule.variant=strict"],
            ["rule=predictive_coding", "rule.variant=incremental"],
            ["rule=equilibrium_propagation"],
        ],
    )
    def test_a_rule_that_follows_its_loss_is_told_it(self, rule, loss, told):
        config = Config().with_settings([*rule, f"loss={loss}"])
        resolved = resolve(config).config
        assert resolved.rule.options["loss"] == resolved.rule.make().loss == told
        given = config.with_settings(["rule.loss=linear"])
        assert resolve(given).config.rule.options["loss"] == "linear"

    @pytest.mark.parametrize(
        "rule",
        [
            ["rule=predictive_coding"],
            ["rule=predictive_coding", "rule.variant=strict", "rule.clamped=true"],
            ["rule=feedback_alignment"],
        ],
    )
    def test_a_rule_that_has_no_use_for_its_loss_is_not_told_it(self, rule):
        assert "loss" not in resolve(Config().with_settings(rule)).config.rule.options

    @pytest.fixture
    def picky(self, monkeypatch):
        kind = rules.get("feedback_alignment")
        monkeypatch.setattr(kind, "recommended", {"learning_rate_factor": 0.1, "weight_decay": 0.01})
        return Config().with_settings(["rule=feedback_alignment"])

    def test_a_recommendation_is_followed_and_said(self, picky):
        resolved = resolve(picky)
        assert resolved.config.optimizer.lr == pytest.approx(0.1 * DEFAULTS["sgd"]["lr"])
        assert resolved.config.optimizer.weight_decay == 0.01
        assert ["0.1 times the default learning rate" in resolved.notes[0], "0.01" in resolved.notes[1]] == [True, True]

    def test_what_is_recommended_may_hang_on_an_option(self):
        learned = Config().with_settings(["rule=burst_ccn"])
        fixed = learned.with_settings(["rule.feedback=fixed"])
        assert resolve(learned).config.optimizer.weight_decay == 1e-3
        assert resolve(fixed).config.optimizer.weight_decay == 0.0

    def test_a_given_rate_is_this_rules_or_shared_by_all(self, picky):
        given = picky.with_settings(["optimizer.lr=0.2"])
        assert resolve(given).config.optimizer.lr == 0.2
        shared = resolve(given, shared=True)
        assert shared.config.optimizer.lr == pytest.approx(0.02)
        assert "0.1 times the shared learning rate (0.02 instead of 0.2)" in shared.notes[0]

    def test_a_rule_that_learns_from_a_reward_has_the_loss_that_gives_it_one(self):
        given = Config().with_settings(["rule=brainprop"])
        resolved = resolve(given)
        assert resolved.config.loss == "reward_prediction"
        assert "scalar reward" in resolved.notes[0]
        assert "sees no label" in resolved.notes[0]
        assert resolve(given.with_settings(["loss=agrel"])).config.loss == "agrel"
        shared = given.with_settings(["loss=mse"])
        assert resolve(shared, shared=True).config.loss == "reward_prediction"
        assert resolve(shared.with_settings(["rule=backprop"]), shared=True).config.loss == "mse"
        assert resolve(given.with_settings(["loss=reward_prediction"]), shared=True).notes == ()

    def test_paths_are_found_again_from_elsewhere(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        config = resolve(Config().with_settings(["task=npz:data.npz", "model=net.py:make"])).config
        assert config.task == f"npz:{tmp_path / 'data.npz'}"
        assert config.model == f"{tmp_path / 'net.py'}:make"
