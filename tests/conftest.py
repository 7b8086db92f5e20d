"""What holds for every test: one thread, Ctrl-C, PyTorch's generator seeded, and a quiet clock for hypothesis."""

import signal
from collections.abc import Iterator

import hypothesis
import pytest
import torch

# No test may depend on how long something takes; and a test that passed must pass again.
hypothesis.settings.register_profile(
    "apical",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    derandomize=True,
    database=None,
    max_examples=12,
)
hypothesis.settings.load_profile("apical")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c() -> Iterator[None]:
    """Ctrl-C interrupts, in tests and in the processes that they start: a shell's background job ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
