"""The house stands on its floors: a module imports from below only, and what is heavy is imported late."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "apical"

# For each part of the package, the parts that it may import at run time. `errors` is open to all; a part may
# always import itself. This table is the design: a new part gets its line here first.
CORE = {
    *(
        "options",
        "reading",
        "sources",
        "kernels",
        "compat",
        "layers",
        "functions",
        "tracing",
        "wiring",
        "feedback",
        "rules",
    ),
    *("finiteness", "vigilance", "autograd", "circuit"),
}
BESIDE = {"statistics", "interrupts", "models", "neurons", "optim", "data", "losses", "reinforcement"}
MEASURED = {"measure", "continual", "hippocampus"}
BELOW: dict[str, set[str]] = {
    "errors": set(),
    "statistics": set(),
    "interrupts": set(),
    "options": set(),
    "reading": set(),
    "sources": {"options", "reading"},
    "kernels": set(),
    "compat": set(),
    "layers": {"kernels", "compat"},
    "functions": {"layers"},
    "tracing": {"layers", "functions"},
    "wiring": {"layers", "functions", "tracing"},
    "feedback": {"options", "layers", "wiring"},
    "rules": {"options", "sources", "kernels", "compat", "layers", "functions", "tracing", "wiring", "feedback"},
    "finiteness": {"layers", "wiring", "rules"},
    "vigilance": {"layers"},
    "autograd": {"compat", "layers"},
    "circuit": {"compat", "layers", "tracing", "wiring", "rules", "finiteness", "vigilance", "autograd"},
    "neurons": {"options", "compat", "kernels", "layers"},
    "models": {"options", "neurons", "sources"},
    "optim": CORE | {"losses", "measure"},
    "losses": {"options"},
    "reinforcement": {"options", "interrupts"},
    "data": {"reading"},
    "measure": CORE | BESIDE - {"optim"},
    "continual": CORE | BESIDE | {"measure"},
    "hippocampus": CORE | BESIDE | {"measure"},
    "study": CORE | BESIDE | MEASURED,
    "report": CORE | BESIDE | MEASURED | {"study"},
    "papers": CORE | BESIDE | MEASURED | {"study", "report"},
    "cli": CORE | BESIDE | MEASURED | {"study", "report", "papers"},
    "__init__": CORE | BESIDE | MEASURED | {"study", "report", "papers"},
    "__main__": {"cli"},
}
# The rooms of study, in the order in which they stand on each other; `study/__init__.py` and `study/config.py` only
# lend names.
ROOMS = ("configuration", "runs", "training", "executors", "comparison")
# What the learning itself may stand on; everything else is for those who run and show experiments.
LIGHT = {"errors", "statistics", "models", "losses", "neurons", "optim", "measure", *CORE}
CORE_LIBRARIES = {"torch", "numpy"}
LATE = {"pydantic", "sklearn", "plotly", "typer", "rich", "pooch", "jinja2", "tensorboard", "gymnasium"}

MODULES = sorted(SOURCE.rglob("*.py"))


def dotted(path: Path) -> list[str]:
    """The module's name under the package: src/apical/rules/rule.py is ["rules", "rule"]."""
    parts = list(path.relative_to(SOURCE).with_suffix("").parts)
    return parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts


def is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def running(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node that can run: an import under TYPE_CHECKING is an annotation, not an arrow."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and is_for_types_only(child):
            for other in child.orelse:
                yield other
                yield from running(other)
        else:
            yield child
            yield from running(child)


def imported(path: Path) -> set[str]:
    """Absolute dotted names of what a file imports, functions' own imports included."""
    names: set[str] = set()
    package = ["apical", *dotted(path)]
    if path.name != "__init__.py":
        package = package[:-1]
    elif path.parent == SOURCE:
        package = ["apical"]
    for node in running(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *((node.module or "").split(".") if node.module else [])])
            names.update(f"{start}.{alias.name}" for alias in node.names)
    return names


def parts_of_apical(names: set[str]) -> set[str]:
    """Which parts of the package these names reach; "__init__" for a public name taken from the top."""
    parts = set()
    for name in names:
        top, _, rest = name.partition(".")
        if top != "apical":
            continue
        part = rest.partition(".")[0]
        if part == "__version__":  # a constant of the package that is being imported anyway
            continue
        parts.add(part if part in BELOW else "__init__")
    return parts


@pytest.mark.parametrize("path", MODULES, ids=lambda path: ".".join(dotted(path)))
def test_a_module_imports_from_below_only(path):
    part = dotted(path)[0]
    assert part in BELOW, f"{part} has no floor: say in {Path(__file__).name} what it may stand on"
    above = parts_of_apical(imported(path)) - BELOW[part] - {part, "errors"}
    assert not above, f"{path.relative_to(SOURCE)} imports {sorted(above)}, which is not below {part}"


@pytest.mark.parametrize("path", sorted((SOURCE / "study").glob("*/*.py")), ids=lambda path: ".".join(dotted(path)))
def test_a_room_of_study_imports_from_the_rooms_below_only(path):
    assert path.parent.name in ROOMS
    inside = [name.split(".")[2] for name in imported(path) if name.startswith("apical.study.")]
    allowed = ROOMS[: ROOMS.index(path.parent.name) + 1]
    assert not set(inside) - set(allowed), f"{path.relative_to(SOURCE)} imports {inside}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: ".".join(dotted(path)))
def test_nothing_needs_torchvision(path):
    assert "torchvision" not in {name.partition(".")[0] for name in imported(path)}


def test_learning_itself_needs_only_torch_and_numpy():
    reached = {
        (part, name.partition(".")[0])
        for path in MODULES
        if (part := dotted(path)[0]) in LIGHT
        for name in imported(path)
    }
    allowed = CORE_LIBRARIES | set(sys.stdlib_module_names) | {"apical"}
    intervals = {("statistics", "scipy")}  # imported where an interval is computed, which no rule does
    assert not {(part, library) for part, library in reached if library not in allowed} - intervals


def test_private_calls_of_torch_are_in_compat_alone():
    private = re.compile(r"torch\._C|from torch import _C")
    found = {".".join(dotted(path)) for path in MODULES if private.search(path.read_text(encoding="utf-8"))}
    assert found == {"compat"}


def test_the_floor_table_has_no_cycle():
    """Parts can be put in one order, so that "below" means something."""
    placed: set[str] = set()
    while ready := {part for part in BELOW.keys() - placed if BELOW[part] <= placed}:
        placed |= ready
    assert placed == BELOW.keys()


def test_the_reader_of_imports_sees_what_it_must(tmp_path, monkeypatch):
    """The checks above are worth what `imported` finds: relative, nested, aliased; not those for types."""
    package = tmp_path / "apical" / "rules"
    package.mkdir(parents=True)
    (package / "x.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "import torch.nn as nn\n"
        "from ..circuit import Circuit\n"
        "from .rule import Sweep\n"
        "from .. import study\n"
        "if TYPE_CHECKING:\n    from apical.report import write\n"
        "def late():\n    from apical import data\n    import plotly\n"
    )
    monkeypatch.setitem(globals(), "SOURCE", tmp_path / "apical")
    assert imported(package / "x.py") == {
        "typing.TYPE_CHECKING",
        "torch.nn",
        "apical.circuit.Circuit",
        "apical.rules.rule.Sweep",
        "apical.study",
        "apical.data",
        "plotly",
    }


REPORT = """
import json, sys
print("MODULES", json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def modules_after(code: str) -> set[str]:
    """Top-level names in sys.modules of a fresh interpreter after running the code."""
    command = [sys.executable, "-c", code + REPORT]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.rpartition("MODULES ")[2]))


def test_importing_apical_brings_in_nothing_heavy():
    assert not modules_after("import apical") & LATE


def test_the_core_brings_in_nothing_heavy():
    code = "import apical, torch; apical.Circuit(torch.nn.Linear(2, 1), 'backprop'); apical.rules.names()"
    assert not modules_after(code) & LATE


HELP = """
import contextlib, io, sys
from apical.cli import main
sys.argv = ["apical", "--help"]
shown = io.StringIO()
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(shown):
    main()
assert "Usage" in shown.getvalue(), shown.getvalue()
"""


def test_help_does_not_wait_for_torch():
    """`apical --help` answers at once because it imports neither torch nor what stands on it."""
    assert not modules_after(HELP) & {"torch", "sklearn", "plotly", "scipy"}
