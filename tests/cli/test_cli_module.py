"""`python -m apical` is the command."""

import subprocess
import sys


def test_python_runs_the_package_as_the_command():
    done = subprocess.run([sys.executable, "-m", "apical", "--help"], capture_output=True, text=True, check=True)
    assert "compare" in done.stdout
