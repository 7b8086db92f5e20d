"""The errors that apical raises on purpose: each names the thing, the reason and the remedy.

Every one derives from `ApicalError`, so that a program (the command line does) can show the message alone
and keep the traceback for real bugs. Where Python has a built-in that callers would expect to catch, the
error is also one of those.
"""


class ApicalError(Exception):
    """Base of every error that apical raises on purpose."""


class CircuitError(ApicalError, ValueError):
    """A network, or a network with this rule, that cannot become a circuit."""


class NonFiniteError(ApicalError, ArithmeticError):
    """NaN or infinity where a number is needed.

    Attributes:
        layer: the module path of the layer where it was first seen, or "input" or "loss".
    """

    def __init__(self, message: str, *, layer: str) -> None:
        super().__init__(message)
        self.layer = layer


class DataError(ApicalError):
    """Data that is missing, broken or not of the form that was asked for."""


class ConfigError(ApicalError, ValueError):
    """A setting that does not exist or a value that it cannot take."""


class CheckpointError(ApicalError):
    """A checkpoint that cannot be read or does not fit."""


class RunError(ApicalError):
    """A run folder that is missing, in use, finished or not one."""
