"""Help answers at once, for every verb and option, and mistakes of typing are met with what was meant."""

import subprocess
import sys

import pytest
import typer

import apical as library
from apical.cli import app

HEAVY = {"torch", "sklearn", "plotly", "numpy", "scipy", "pooch", "jinja2"}
ROOT = typer.main.get_command(app)


def commands(group=ROOT, path=()):
    """Every command with the words that lead to it."""
    for name, command in group.commands.items():
        yield [*path, name], command
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))


COMMANDS = list(commands())


def test_the_verbs_are_there():
    assert {" ".join(path) for path, _ in COMMANDS} == {
        *(
            "compare",
            "continual",
            "train",
            "resume",
            "evaluate",
            "hippocampus",
            "report",
            "figure",
            "rules",
            "protections",
            "data",
            "data fetch",
        ),
        *("bench", "locality", "papers", "reproduce"),
    }


def modules_after_help(*of):
    """What is imported, in a fresh interpreter, once the command has shown help for these verbs."""
    code = f"""
import contextlib, io, sys
from apical.cli import app
for words in {list(of)}:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        app([*words, "--help"], prog_name="apical")
    assert " ".join(["Usage: apical", *words]) in shown.getvalue(), shown.getvalue()
print("MODULES", *sorted({{name.partition(".")[0] for name in sys.modules}}))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.rpartition("MODULES")[2].split())


def test_help_imports_nothing_heavy():
    assert not modules_after_help([]) & {*HEAVY, "pydantic"}
    # Typer itself reads a verb's options with pydantic, from its version 0.29 on.
    assert not modules_after_help(*(path for path, _ in COMMANDS)) & HEAVY


OPTIONS = [(path, option) for path, command in COMMANDS for option in command.params if option.name != "help"]


@pytest.mark.parametrize(("path", "option"), OPTIONS, ids=lambda value: getattr(value, "name", None))
def test_every_option_is_explained_with_an_example(path, option):
    assert "Example: " in option.help
    if option.param_type_name == "option":
        example = option.help.partition("Example: ")[2]
        assert {word for word in example.split() if word.startswith("--")} & {*option.opts, *option.secondary_opts}


@pytest.mark.parametrize("path", [path for path, _ in COMMANDS], ids=" ".join)
def test_every_verb_has_an_example(path, apical):
    assert f"Example: apical {path[0]}" in " ".join(apical(*path, "--help").stdout.split())


def test_help_fits_80_columns(apical):
    for path, _ in COMMANDS:
        assert max(map(len, apical(*path, "--help").stdout.splitlines())) <= 80


def test_version(apical):
    assert apical("--version").stdout == f"apical {library.__version__}\n"


def test_the_command_without_anything_shows_help():
    result = subprocess.run([sys.executable, "-m", "apical.cli"], capture_output=True, text=True, check=False)
    assert "Usage: apical" in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train'?"),
        (["comapre"], "Did you mean 'compare'?"),
        (["train", "--epoch", "3"], "No such option: --epoch"),
        (["train", "--epochs", "many"], "Invalid value for '--epochs'"),
        (["data", "fetc", "mnist"], "Did you mean 'fetch'?"),
        (["resume"], "Missing argument 'RUN'"),
    ],
)
def test_typing_errors_are_met_with_what_was_meant(complaint, arguments, said):
    # Long paths make lines break anywhere.
    assert said.replace(" ", "") in complaint(*arguments).replace(" ", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--task", "mnits"], "task: unknown task 'mnits'; did you mean 'mnist'?"),
        (["train", "--model", "mpl:5"], "unknown model 'mpl'; did you mean 'mlp:500,500'?"),
        (["train", "--rule", "feedback_alignement"], "did you mean 'feedback_alignment'?"),
        (["train", "--rule", "sign_symmetry:magnitud=fixed"], "did you mean 'magnitude'?"),
        (["train", "--optimizer", "adan"], "optimizer.name: unknown value 'adan'; did you mean 'adam'?"),
        (["train", "--epochs", "0"], "epochs = 0: input should be greater than or equal to 1"),
        (["train", "--lr", "-1"], "optimizer.lr = -1.0"),
        (["train", "--device", "cud"], "no such device 'cud'"),
        (["train", "--log", "wandb"], "log: unknown value 'wandb'"),
        (["train", "--set", "epoch=3"], "--set epoch=3: unknown setting 'epoch'; did you mean 'epochs'?"),
        (["train", "--set", "epochs"], "write it as key=value"),
        (["train", "--config", "no.toml"], "cannot read the configuration no.toml"),
        (["train", "--task", "npz:no.npz"], "no.npz: there is no such file"),
        (["resume", "nowhere"], "nowhere is not the folder of a run: it does not exist"),
        (["evaluate", "nowhere"], "nowhere is not the folder of a run: it does not exist"),
        (["report", "nowhere"], "nowhere is not the folder of a run: it does not exist"),
        (["compare", "--rules", "backprop,kolen_pollak"], "did you mean 'kolen_pollack'?"),
        (["compare", "--seeds", "a"], "--seeds a: write how many (--seeds 3), or which (--seeds 0,7)"),
        (["compare", "--seeds", "0"], "--seeds 0: at least one is needed"),
        (["compare", "--seeds", "1,1"], "seeds [1, 1]: at least one is needed, and each once"),
        (["compare", "--jobs", "0"], "Invalid value for '--jobs'"),
        (["rules", "backprob"], "there is no rule 'backprob'. Did you mean 'backprop'?"),
        (["data", "fetch", "mnits"], "there is no task 'mnits'. Did you mean mnist?"),
        (["bench", "--networks", "lenett"], "unknown network 'lenett'; did you mean 'lenet'?"),
        (["bench", "--batches", "8,x"], "--batches 8,x: write whole numbers above 0"),
        (["bench", "--threads", "0"], "--threads 0: write whole numbers above 0"),
        (["bench", "--networks", ","], "nothing to measure"),
        (["locality", "--neurons", "relus"], "neurons='relus'"),
        (["locality", "--feedback", "tide"], "Did you mean 'tied'?"),
        (["locality", "--rules", "agrel", "--feedback", "direct"], "--feedback direct: none of these rules accepts it"),
        (["papers", "biotroch-mnist"], "there is no claim 'biotroch-mnist'. Did you mean 'biotorch-mnist'?"),
        (["reproduce", "mnist-mpl"], "there is no claim 'mnist-mpl'. Did you mean 'mnist-mlp'?"),
        (["reproduce", "mnist-mlp", "--epochs", "0"], "epochs: 0 is too few"),
    ],
)
def test_mistaken_values_are_named_with_the_remedy(complaint, arguments, said):
    # Long paths make lines break anywhere.
    assert said.replace(" ", "") in complaint(*arguments).replace(" ", "")


def test_a_bug_keeps_its_traceback(monkeypatch):
    from typer.testing import CliRunner

    from apical import rules

    def broken():
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(rules, "names", broken)
    assert isinstance(CliRunner().invoke(app, ["rules"]).exception, ZeroDivisionError)
