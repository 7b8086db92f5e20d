"""Mutations keep up with the source: every one still finds the text that it breaks."""

import dataclasses
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from mutants import MUTATIONS


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_applies_and_leaves_python(mutation, tmp_path):
    source = Path(__file__).parents[2] / "src"
    copy = tmp_path / "apical" / mutation.file
    copy.parent.mkdir(parents=True)
    shutil.copy(source / "apical" / mutation.file, copy)
    mutation.apply(tmp_path)
    text = copy.read_text(encoding="utf-8")
    compile(text, mutation.file, "exec")
    assert text != (source / "apical" / mutation.file).read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["no such line", "import"])
def test_a_mutation_that_fits_nowhere_or_everywhere_is_refused(text, tmp_path):
    (tmp_path / "apical").mkdir()
    (tmp_path / "apical" / "some.py").write_text("import this\nimport that\n", encoding="utf-8")
    mutation = dataclasses.replace(MUTATIONS[0], file="some.py", old=text)
    with pytest.raises(ValueError, match="times, and not once"):
        mutation.apply(tmp_path)


def test_mutations_have_names_and_tests_that_exist():
    assert len(MUTATIONS) >= 10
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)
    assert all((Path(__file__).parents[1] / mutation.tests).exists() for mutation in MUTATIONS)
