"""Limits that keep the code small: lines in a file and in all, branches in a function, private calls of PyTorch."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "apical"
MODULES = sorted(SOURCE.rglob("*.py"))

# Lines of code of src without comments, docstrings and blank lines. Raise it on purpose only, with the reason in the
# commit that does. 27,700: shares of a mean over time, views and operators in place, options of a model that change.
BUDGET = 27_700
LONGEST = 400
MOST_BRANCHED = 15
PRIVATE = re.compile(r"\btorch\._C\b")
COMPAT = "compat.py"

NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def code_lines(text: str) -> int:
    """Lines that hold code: neither blank, nor a comment, nor part of a docstring."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            docstring = node.body[0]
            lines -= set(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    return len(lines)


def branches(node: ast.AST) -> int:
    """What one node adds to a function's cyclomatic complexity, counted as radon does."""
    match node:
        case ast.If() | ast.IfExp() | ast.Assert():
            return 1
        case ast.For() | ast.While() | ast.AsyncFor():
            return 1 + bool(node.orelse)
        case ast.BoolOp():
            return len(node.values) - 1
        case ast.comprehension():
            return 1 + len(node.ifs)
        case ast.Try() | ast.TryStar():
            return len(node.handlers) + bool(node.orelse)
        case ast.Match():
            return len(node.cases)
    return 0


def functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Every function and method below a node, those inside other functions included, with its dotted name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if not isinstance(child, ast.ClassDef):
                yield prefix + child.name, child
            yield from functions(child, f"{prefix}{child.name}.")
        else:
            yield from functions(child, prefix)


def own(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below a function, without functions inside it and without the content of assertions."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Assert):
            yield from own(child)


def complexities(text: str) -> dict[str, int]:
    """The cyclomatic complexity of every function of a module, by name."""
    return {name: 1 + sum(map(branches, own(node))) for name, node in functions(ast.parse(text))}


def test_the_lines_of_code_stay_within_the_budget():
    assert sum(code_lines(path.read_text(encoding="utf-8")) for path in MODULES) <= BUDGET


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_file_is_short_enough_to_be_read(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST, f"{lines} lines: split a file that holds two ideas"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_function_has_few_branches(path):
    found = complexities(path.read_text(encoding="utf-8"))
    assert not {name: complexity for name, complexity in found.items() if complexity > MOST_BRANCHED}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_private_calls_of_torch_are_in_one_file(path):
    found = PRIVATE.findall(path.read_text(encoding="utf-8"))
    assert bool(found) == (name_of(path) == COMPAT), f"put a call of torch._C, with a fallback, into {COMPAT}"


def test_only_code_is_counted():
    text = '"""A module."""\n\n# A comment.\nx = """text\nover lines"""\n\n\n'
    assert code_lines(text) == 2
    text += 'def f():\n    """It does."""\n    return (\n        x\n    )\n'
    assert code_lines(text) == 6


def test_branches_are_counted_as_radon_counts_them():
    text = (
        "def f(a, b):\n"
        "    if a and b or a:\n"
        "        return [x for x in a if x] if b else 0\n"
        "    for x in b:\n"
        "        pass\n"
        "    else:\n"
        "        try:\n"
        "            pass\n"
        "        except ValueError:\n"
        "            pass\n"
        "class C:\n"
        "    def g(self):\n"
        "        def h():\n"
        "            return 1 if self else 0\n"
        "        assert self or h()\n"
    )
    assert complexities(text) == {"f": 10, "C.g": 2, "C.g.h": 2}
