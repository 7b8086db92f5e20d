"""Where a run was made: versions, processor, threads and switches, as far as they can change a result or a time."""

import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from apical import __version__

# What decides the last bits beside the versions in a fingerprint: with one of these changed a resumed run may differ.
DECIDING = ("platform", "cpu", "capability")


def versions() -> dict[str, str]:
    """The versions of the packages that compute a run."""
    return {"apical": __version__, "torch": torch.__version__, "numpy": np.__version__}


def describe() -> dict[str, Any]:
    """The environment of this process, ready for JSON."""
    return {
        **versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def cpu_name() -> str:
    """The processor's own name, or the best that the system tells."""
    table = Path("/proc/cpuinfo")
    if table.is_file():
        for line in table.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()


def changes(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs, of that which decides the last bits, as `cpu ... then, ... now`."""
    return [f"{key} {then.get(key)} then, {now[key]} now" for key in DECIDING if then.get(key) != now[key]]
