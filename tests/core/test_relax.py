"""The one relaxation, with systems whose way to rest is known; and the evaluation of what has moved."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from circuits import NETWORKS
from torch import Tensor, nn

import apical
from apical.errors import NonFiniteError
from apical.layers import Layer
from apical.layers.moving import MovingState
from apical.rules.energy.relax import ConvergenceMonitor, Outcome, Relaxation, UnsettledWarning, relax


class Halving:
    """A distance from rest that halves at every step."""

    def __init__(self) -> None:
        self.distance = 1.0
        self.measured: list[int] = []
        self.steps = 0

    def step(self, *, measured: bool) -> None:
        self.steps += 1
        self.distance /= 2
        if measured:
            self.measured.append(self.steps)

    def residual(self) -> float:
        return self.distance


def test_it_stops_with_the_step_at_which_the_system_has_settled():
    system = Halving()
    outcome = relax(system, 20, tolerance=0.1)
    assert (outcome.steps, outcome.residual, outcome.settled) == (4, 1 / 16, True)
    assert system.measured == [1, 2, 3, 4]


def test_all_steps_are_taken_and_the_last_alone_is_measured_where_it_does_not_stop():
    system = Halving()
    outcome = relax(system, 6, tolerance=0.1, stops=False)
    assert (outcome.steps, outcome.residual, outcome.settled) == (6, 1 / 64, True)
    assert system.measured == [6]


def test_nothing_is_measured_without_a_tolerance():
    system = Halving()
    outcome = relax(system, 6)
    assert (outcome.steps, outcome.residual, outcome.settled, outcome.diverged) == (6, None, None, False)
    assert system.measured == []


def test_every_step_is_recorded_with_its_residual():
    seen: list[tuple[int, float | None]] = []
    relax(Halving(), 20, tolerance=0.3, record=lambda steps, residual: seen.append((steps, residual)))
    assert seen == [(1, 0.5), (2, 0.25)]


def test_steps_can_be_taken_one_by_one():
    relaxation = Relaxation(Halving(), 2)
    assert not relaxation.done
    relaxation.step()
    assert not relaxation.done
    relaxation.step()
    assert relaxation.done
    assert Relaxation(Halving(), 0).done


def monitor() -> ConvergenceMonitor:
    return ConvergenceMonitor("rule", "the way left", if_unsettled="Raise steps.", if_diverged="Lower rate.")


@pytest.mark.parametrize("residual", [0.2, math.inf])
def test_what_has_not_settled_is_warned_of_once(residual):
    judge = monitor()
    with pytest.warns(UnsettledWarning, match=rf"^rule: after 7 steps.*{residual:.1e}.*1\.0e-01.*Raise steps\."):
        judge.check(Outcome(7, residual, 0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        judge.check(Outcome(7, residual, 0.1))
        monitor().check(Outcome(7, 0.1, 0.1))
        monitor().check(Outcome(7))


def test_what_diverges_is_stopped_unless_the_error_was_lost_before():
    with pytest.raises(NonFiniteError, match=r"^rule has diverged: after 7 steps.*Lower rate\.") as caught:
        monitor().check(Outcome(7, math.nan, 0.1), torch.zeros(2))
    assert caught.value.layer == "loss"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnsettledWarning)
        monitor().check(Outcome(7, math.nan, 0.1), torch.tensor([0.0, math.nan]))
    with pytest.raises(NonFiniteError, match=r"^stem: rule has diverged"):
        monitor().stop(7, "it is here", layer="stem")


# The evaluation of what has moved


def moving(network: str) -> tuple[nn.Module, apical.wiring.Wiring, MovingState, Tensor]:
    """The state of a forward pass of a network whose output depends on one sample alone."""
    model = NETWORKS[network].build().double()
    wiring = apical.Circuit(model, "backprop").wiring
    x = NETWORKS[network].batch()[0].double()
    with torch.no_grad():
        plan = wiring.plan((True,) * sum(1 for _ in model.parameters()), False)
        state = wiring.forward(x, plan, save_drives=True, save_rates=True)[1]
    return model, wiring, MovingState(state, anchored=False), x


@pytest.mark.parametrize("network", ["mlp", "line", "branching", "nested"])
def test_moved_rates_drive_all_that_follows_from_them(network):
    """Beside a forward pass of the plain model in which hooks move the same drives."""
    model, wiring, state, x = moving(network)
    generator = torch.Generator().manual_seed(0)
    shifts: dict[str, Tensor] = {}

    def potential(layer: Layer, moved: bool) -> Tensor | None:
        shift = shifts.get(layer.name)
        if not moved and shift is None:
            return None
        drive = state.drive(layer) if moved else state.state[layer].drive
        assert drive is not None
        return drive if shift is None else drive + shift

    with torch.no_grad():
        for layer in [*wiring.layers[::-1], *wiring.layers]:  # from the output down, and up again
            drive = state.state[layer].drive
            assert drive is not None
            shifts[layer.name] = torch.randn(drive.shape, generator=generator, dtype=drive.dtype)
            state.update(potential)
            hooks = [
                model.get_submodule(name).register_forward_hook(lambda module, args, drive, by=shift: drive + by)
                for name, shift in shifts.items()
            ]
            torch.testing.assert_close(state.rate(wiring.output), model(x), rtol=1e-12, atol=1e-12)
            for hook in hooks:
                hook.remove()


def test_what_has_not_moved_is_not_evaluated():
    _, wiring, state, _ = moving("branching")
    evaluated: list[str] = []

    def potential(layer: Layer, moved: bool) -> Tensor | None:
        if not moved:
            return None
        evaluated.append(layer.name)
        return state.drive(layer)

    with torch.no_grad():
        state.update(potential)
        assert evaluated == []
        left = next(layer for layer in wiring.layers if layer.name == "left.0")
        state.set_rate(left, state.rate(left.index + 1) + 1)
        state.update(potential)
        assert evaluated == ["merge", "gate", "readout"]
        state.update(potential)
        assert evaluated == ["merge", "gate", "readout"]
