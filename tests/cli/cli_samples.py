"""Data small enough to learn in no time."""

import numpy as np

SMALL = ["--task", "npz:clouds.npz", "--model", "mlp:6", "--batch-size", "16"]


def clouds(path, *, seed: int = 0, width: int = 5) -> None:
    """Three overlapping clouds of points as an npz task."""
    generator = np.random.default_rng(seed)
    y = np.arange(90) % 3
    x = generator.normal(size=(90, width)) + 3 * np.eye(3, width)[y]
    np.savez(path, x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
