"""What is shipped: one version everywhere, pins for every requirement, and a wheel with all that it needs."""

import re
import runpy
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import apical

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(folder))
    with zipfile.ZipFile(path) as archive:
        yield archive


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def requirements() -> list[Requirement]:
    groups = [
        PROJECT["build-system"]["requires"],
        PROJECT["project"]["dependencies"],
        *PROJECT["project"]["optional-dependencies"].values(),
    ]
    found = (Requirement(text) for group in groups for text in group)
    return [requirement for requirement in found if requirement.name != "apical"]


def test_there_is_one_version():
    version = PROJECT["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert apical.__version__ == version
    assert citation["version"] == version
    assert re.findall(r"^## \[(\d+\.\d+\.\d+)\]", changelog, re.MULTILINE)[0] == version


def test_the_citation_has_what_the_format_demands():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    assert citation["type"] == "software"
    assert citation["license"] == PROJECT["project"]["license"]
    assert all(author.get("name") or author.get("family-names") for author in citation["authors"])


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.name)
def test_every_requirement_is_pinned_to_a_version_that_it_allows(requirement):
    version = pins().get(canonicalize_name(requirement.name))
    assert version is not None, f"constraints.txt does not pin {requirement.name}"
    assert requirement.specifier.contains(version)


def test_the_wheel_ships_the_whole_package(wheel):
    source = ROOT / "src"
    wanted = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    wanted = {name for name in wanted if "__pycache__" not in name}
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert "apical/py.typed" in shipped
    assert shipped == wanted


def test_the_wheel_carries_licence_and_command(wheel):
    info = f"apical-{apical.__version__}.dist-info"
    assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert b"apical = apical.cli:main" in wheel.read(f"{info}/entry_points.txt")
    metadata = Parser().parsestr(wheel.read(f"{info}/METADATA").decode("utf-8"))
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata.get_payload() == (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_smoke_test_of_the_wheel_passes_here_too(capsys):
    """.ci/run runs this script in an empty environment; here it shows that the script itself is right."""
    runpy.run_path(str(Path(__file__).with_name("smoke.py")), run_name="__main__")
    assert f"{len(apical.rules.names())} rules learn" in capsys.readouterr().out


def test_hooks_ask_what_ci_asks():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = {hook["id"]: hook for repo in config["repos"] for hook in repo["hooks"]}
    assert hooks.keys() == {"ruff-format", "ruff-check", "mypy"}
    assert {hook["language"] for hook in hooks.values()} == {"system"}
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    steps = script.splitlines()
    assert {"ruff format --check", "ruff check", "mypy", "pytest"} <= set(steps)
