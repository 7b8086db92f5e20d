"""Breaks the core on purpose, in named ways, and shows which test notices.

    python benchmarks/mutations.py                 # all of them; exit code 1 if one goes unnoticed
    python benchmarks/mutations.py --list
    python benchmarks/mutations.py "signs dropped" # some of them

Each mutation (they are listed in the folder `mutants`) replaces one piece of text, which must occur exactly once, in a
copy of src; the tests that should notice run against the copy. First of all the same tests run against a copy that is
not broken: they must pass there.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from mutants import MUTATIONS

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
SECONDS = 900


@dataclass(frozen=True)
class Outcome:
    """What a run of tests said: which test failed first (None: none did), and how long it took."""

    failed: str | None
    seconds: float


def run(source: Path, tests: str, only: str) -> Outcome:
    """Run a file of tests against a copy of src, up to the first that fails."""
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--no-header", "-rfE"]
    command += [f"tests/{tests}", *(["-k", only] if only else [])]
    start = time.perf_counter()
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return Outcome(f"no end within {SECONDS} s", time.perf_counter() - start)
    seconds = time.perf_counter() - start
    if done.returncode == 0:
        return Outcome(None, seconds)
    found = re.search(r"^(?:FAILED|ERROR) tests/(\S+(?: \S+)*?)(?: - .*)?$", done.stdout, re.MULTILINE)
    if done.returncode != 1 or found is None:
        raise RuntimeError(f"pytest ended with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-1000:]}")
    return Outcome(found.group(1), seconds)


def comes_from(source: Path) -> bool:
    """Whether the tests would import the copy."""
    environment = {**os.environ, "PYTHONPATH": str(source)}
    code = "import apical; print(apical.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.stdout.startswith(str(source))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which mutations; without any, all")
    parser.add_argument("--list", action="store_true", help="only say what there is")
    chosen = parser.parse_args()
    known = {mutation.name: mutation for mutation in MUTATIONS}
    if chosen.list:
        print("\n".join(f"{m.name:48} {m.file}" for m in MUTATIONS))
        return 0
    if unknown := [name for name in chosen.names if name not in known]:
        parser.error(f"there is no mutation {unknown[0]!r}; --list says what there is")
    mutations = [known[name] for name in chosen.names] or list(MUTATIONS)
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        shutil.copytree(SOURCE, whole, ignore=shutil.ignore_patterns("__pycache__"))
        if not comes_from(whole):
            print("the tests do not import the copy of src: is another apical ahead on the path?")
            return 1
        for tests in sorted({m.tests for m in mutations}):
            wanted = sorted({m.only for m in mutations if m.tests == tests})
            only = "" if "" in wanted else " or ".join(f"({one})" for one in wanted)
            if failed := run(whole, tests, only).failed:
                print(f"a test fails without any mutation: {failed}")
                return 1
        width = max(len(mutation.name) for mutation in mutations)
        for mutation in mutations:
            broken = Path(folder) / "broken"
            shutil.copytree(whole, broken)
            mutation.apply(broken)
            outcome = run(broken, mutation.tests, mutation.only)
            shutil.rmtree(broken)
            if outcome.failed is None:
                survivors.append(mutation.name)
            said = f"caught by {outcome.failed}" if outcome.failed else "NOT NOTICED"
            print(f"{mutation.name:{width}}  {outcome.seconds:5.1f} s  {said}", flush=True)
    print(f"\n{len(mutations) - len(survivors)} of {len(mutations)} mutations were caught.")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
