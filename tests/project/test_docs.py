"""What README and documentation say is true: their Python runs, their commands and settings exist."""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from markdown_it import MarkdownIt
from markdown_it.token import Token
from sybil import Document
from sybil.parsers.markdown import PythonCodeBlockParser

import apical

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# The commands that the README promises; .ci/run keeps the second promise on every change.
TRY = "pip install -c constraints.txt . && apical compare"
TEST = 'pip install -c constraints.txt ".[test]" && pytest'
# Which kinds of block are held to their word; "text" is for trees, output and drawings.
CHECKED = {"python", "console", "toml"}
UNCHECKED = {"text"}
TOOLS = {"bash", "cd", "git", "mypy", "pre-commit", "pytest", "python", "ruff", "source", "sphinx-build"}


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def fences(page: Path) -> list[Token]:
    tokens = MarkdownIt().parse(page.read_text(encoding="utf-8"))
    return [token for token in tokens if token.type in {"fence", "code_block"}]


def blocks(language: str) -> list[object]:
    """One test case for each block of a language, named by page and line."""
    return [
        pytest.param(token.content, id=f"{page_name(page)}:{(token.map or [0])[0] + 1}")
        for page in PAGES
        for token in fences(page)
        if token.info.strip() == language
    ]


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    """The blocks of a page run in order, as a reader would type them, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    document = Document.parse(str(page), PythonCodeBlockParser())
    document.namespace["__name__"] = "__main__"
    for example in document.examples():
        example.evaluate()


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_block_is_of_a_kind_that_is_checked(page):
    """A misspelt language would take a block out of the tests in silence."""
    kinds = {token.info.strip() for token in fences(page)}
    assert not {kind for kind in kinds if not kind.startswith("{")} - CHECKED - UNCHECKED


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_between_files_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", text)
    local = [a or b for a, b in targets if not re.match(r"[a-z]+:|#", a or b)]
    missing = [target for target in local if not (page.parent / target.partition("#")[0]).exists()]
    assert not missing, f"{page_name(page)} links to {missing}"


@pytest.mark.parametrize("text", blocks("toml"))
def test_configurations_are_valid(text, tmp_path):
    from apical.study.configuration import Config

    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    Config.load(path)


@pytest.mark.parametrize("text", blocks("console"))
def test_commands_exist(text):
    commands = [line[2:] for line in text.splitlines() if line.startswith("$ ")]
    assert commands, "a console block shows what to type after '$ '"
    for command in commands:
        for words in split_at_operators(command):
            check_command(words)


def split_at_operators(command: str) -> Iterator[list[str]]:
    """The simple commands of a shell line: `a && b` is two."""
    words: list[str] = []
    for word in shlex.split(command, comments=True):
        if word in {"&&", ";", "|"}:
            yield words
            words = []
        else:
            words.append(word)
    yield words


def check_command(words: list[str]) -> None:
    """Refuse a command line that could not be typed as it stands."""
    name, *arguments = words
    if name == "apical":
        check_apical(arguments)
    elif name == "pip":
        asked = {extra for word in arguments for extra in re.findall(r"[a-z]+", word.partition("[")[2])}
        assert asked <= set(metadata("apical").get_all("Provides-Extra") or []), f"{words}: no such extra"
    elif name == "python" and arguments[0] != "-m":
        assert (ROOT / arguments[0]).is_file(), f"{words} names a file that is not there"
    else:
        assert name in TOOLS, f"{words}: what is {name}?"


def check_apical(arguments: list[str]) -> None:
    """Parse the arguments as the command line does, without running the command."""
    import typer
    from typer.testing import CliRunner

    from apical.cli import app

    if not arguments or {"--help", "--version"} & set(arguments):
        assert CliRunner().invoke(app, arguments or ["--help"]).exit_code == 0, arguments
        return
    command: Any = typer.main.get_command(app)
    while arguments and hasattr(command, "commands"):
        verb, *arguments = arguments
        assert verb in command.commands, f"there is no `apical ... {verb}`"
        command = command.commands[verb]
    command.make_context(command.name, arguments)


@pytest.mark.parametrize(
    "wrong",
    [
        "apical trian",
        "apical compare --no-such-option",
        "apical data fetch",
        "pip install '.[tests]'",
        "python no.py",
        "aptcal",
    ],
)
def test_the_check_of_commands_can_fail(wrong):
    with pytest.raises(Exception, match=r"."):
        check_command(shlex.split(wrong))


def own_rules() -> list[str]:
    """The rules of apical itself, without those of other packages on this machine."""
    return [name for name in apical.rules.names() if apical.rules.get(name).__module__.startswith("apical.")]


def test_the_readme_has_its_two_commands_and_ci_runs_the_second():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    install, test = TEST.split(" && ")
    assert TRY in readme
    assert TEST in readme
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert install.replace("pip install", "pip install --quiet") in script
    assert f"\n{test}\n" in script


def test_the_readme_lists_every_rule():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in own_rules() if f"`{name}`" not in readme] == []


def test_the_table_of_the_readme_is_of_todays_rules():
    """`python docs/readme.py` writes it."""
    spec = importlib.util.spec_from_file_location("readme", ROOT / "docs" / "readme.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert script.with_table(readme) == readme
    assert script.with_table(readme.replace("| `oja` |", "| `oia` |")) == readme


@pytest.mark.parametrize("name", own_rules())
def test_every_rule_is_documented(name):
    """The fourth place of a rule: a section of the rules page."""
    rule = apical.rules.get(name)
    rules_page = (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")
    assert re.search(rf"autoclass:: apical\.(rules\.)?{rule.__name__}$", rules_page, re.MULTILINE)
    assert f"## {rule.title}\n" in rules_page
