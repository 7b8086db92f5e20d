"""Learning from reward in tasks that unfold in time: AuGMEnT, its task, and a loop for any gymnasium environment.

The network stands on torch alone. Environments need gymnasium (`pip install "apical[gymnasium]"`); where it is
installed, importing this package registers `apical/SaccadeAntisaccade-v0`.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from apical.reinforcement.augment import Augment
from apical.reinforcement.learning import Learned, Solved, evaluate, learn, network_for

if TYPE_CHECKING:
    from apical.reinforcement.saccade import SaccadeAntisaccade as SaccadeAntisaccade
    from apical.reinforcement.saccade import SaccadeAntisaccadeVector as SaccadeAntisaccadeVector

__all__ = [
    "Augment",
    "Learned",
    "SaccadeAntisaccade",
    "SaccadeAntisaccadeVector",
    "Solved",
    "evaluate",
    "learn",
    "network_for",
]

_TASKS = ("SaccadeAntisaccade", "SaccadeAntisaccadeVector")
_ID = "apical/SaccadeAntisaccade-v0"


def _register() -> None:
    """Make the task known to `gymnasium.make`, once."""
    if find_spec("gymnasium") is None:
        return
    import gymnasium

    if _ID not in gymnasium.registry:
        place = "apical.reinforcement.saccade"
        gymnasium.register(
            _ID, entry_point=f"{place}:SaccadeAntisaccade", vector_entry_point=f"{place}:SaccadeAntisaccadeVector"
        )


def __getattr__(name: str) -> Any:
    """A task, loaded now: its class needs gymnasium."""
    if name not in _TASKS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("apical.reinforcement.saccade"), name)


_register()
