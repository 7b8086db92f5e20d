"""Predictive coding: the papers' equations in loops, their identities, and the limits in which they are known."""

from __future__ import annotations

import gc
import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import predictive_reference as slow
import pytest
import torch
import torch.nn.functional as F
from circuits import NETWORKS, assert_same, learn, plain
from reference import softmax_error
from torch import Tensor, nn

import apical
from apical import PredictiveCoding
from apical.errors import CircuitError, ConfigError, NonFiniteError
from apical.rules.energy.relax import UnsettledWarning

SIZES = (4, 6, 5, 3)
Loss = Callable[[Tensor, Tensor], Tensor]


def chain(seed: int = 0, function: type[nn.Module] = nn.Tanh, sizes: tuple[int, ...] = SIZES) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, units in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, units), function()]
    return nn.Sequential(*layers[:-1]).double()


def batch(samples: int = 4, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, SIZES[0], generator=generator, dtype=torch.float64)
    return x, torch.randint(0, SIZES[-1], (samples,), generator=generator)


class Shortcuts(nn.Module):
    """Smooth: a residual sum, a concatenation, and a shortcut to the output; ways of different lengths."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 6)
        self.inner = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6) if norm else nn.Identity()
        self.side = nn.Linear(6, 3)
        self.merge = nn.Linear(9, 5)
        self.direct = nn.Linear(6, 3)
        self.readout = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        stem = torch.tanh(self.stem(x))
        x = self.norm(stem + torch.tanh(self.inner(stem)))
        merged = torch.tanh(self.merge(torch.cat([x, torch.sigmoid(self.side(x))], 1)))
        return self.readout(merged) + self.direct(stem)


def shortcuts(norm: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return Shortcuts(norm).double()


def numbers(model: nn.Sequential) -> tuple[list[Any], list[Any]]:
    layers = [layer for layer in model if isinstance(layer, nn.Linear)]
    return [layer.weight.detach().numpy() for layer in layers], [layer.bias.detach().numpy() for layer in layers]


def found(model: nn.Module, taken: Loss = F.cross_entropy, /, **options: Any) -> dict[str, Tensor]:
    """What the rule leaves in `.grad`."""
    return plain(learn(apical.Circuit(model, PredictiveCoding(**options)), *batch(), taken))


def expected(model: nn.Sequential, ends: Callable[[Any, int], slow.Ends], unit: float = 1.0) -> dict[str, Tensor]:
    """The mean over the batch of what the reference's synapses see."""
    x, y = batch()
    total = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    names = [name.removesuffix(".weight") for name in total if name.endswith("weight")]
    for sample, target in zip(x.numpy(), y.tolist(), strict=True):
        for name, post, pre in zip(names, *ends(sample, target), strict=True):
            total[f"{name}.weight"] += unit * torch.from_numpy(np.outer(post, pre)) / len(x)
            total[f"{name}.bias"] += unit * torch.from_numpy(post) / len(x)
    return total


def push(target: int, kind: str, at: Any) -> slow.Push:
    """The loss's derivative at an output: followed there, or as it was at the free one."""
    if kind == "linear":
        constant = softmax_error(at, target)
        return lambda y: constant
    if kind == "mse":
        return lambda y: 2 / len(y) * (y - np.eye(len(y))[target])
    return lambda y: softmax_error(y, target)


def squares(answer: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(answer, F.one_hot(y, answer.shape[1]).to(answer.dtype))


LOSSES = {"linear": F.cross_entropy, "cross_entropy": F.cross_entropy, "mse": squares}
close = {"rtol": 1e-10, "atol": 1e-14}


# Each variant against the equations in loops


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("momentum", [0.0, 0.6])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_strict_is_the_papers_equations(loss, momentum, steps):
    model = chain()
    W, b = numbers(model)

    def ends(x: Any, target: int) -> slow.Ends:
        return slow.strict(W, b, x, push(target, loss, slow.free(W, b, x)[-1]), steps, 0.2, momentum)[-1]

    options = {"variant": "strict", "steps": steps, "rate": 0.2, "momentum": momentum, "loss": loss}
    assert_same(found(model, LOSSES[loss], **options), expected(model, ends), **close)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("momentum", [0.0, 0.6])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_error_optimised_is_the_papers_equations(loss, momentum, steps):
    model = chain()
    W, b = numbers(model)

    def ends(x: Any, target: int) -> slow.Ends:
        return slow.error_optimised(W, b, x, push(target, loss, slow.free(W, b, x)[-1]), steps, 0.3, momentum)

    options = {"variant": "error_optimised", "steps": steps, "rate": 0.3, "momentum": momentum, "loss": loss}
    assert_same(found(model, LOSSES[loss], **options), expected(model, ends), **close)


class Shortened(nn.Module):
    """A chain, and a way from its lowest layer to the output that carries nothing, neither up nor down.

    With ways of different lengths the relaxation runs step by step, and comes to what one wave gives without it.
    """

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers
        self.short = nn.Linear(SIZES[1], SIZES[-1], bias=False).double()
        nn.init.zeros_(self.short.weight)

    def forward(self, x: Tensor) -> Tensor:
        first = self.layers[1](self.layers[0](x))
        return self.layers[4](self.layers[3](self.layers[2](first))) + self.short(first)


@pytest.mark.parametrize("by", ["wave", "steps"])
@pytest.mark.parametrize(("steps", "rate", "momentum"), [(1, 1.0, 0.0), (2, 0.4, 0.0), (9, 0.1, 0.0), (6, 0.3, 0.5)])
def test_fixed_prediction_is_the_papers_equations(by, steps, rate, momentum):
    model = chain()
    W, b = numbers(model)

    def ends(x: Any, target: int) -> slow.Ends:
        error = softmax_error(slow.free(W, b, x)[-1], target)
        return slow.fixed_prediction(W, b, x, error, steps, rate, momentum)

    options = {"variant": "fixed_prediction", "steps": steps, "rate": rate, "momentum": momentum}
    if by == "wave":
        update = found(model, **options)
    else:
        longer = found(Shortened(model), **options)
        update = {name.removeprefix("layers."): part for name, part in longer.items() if name != "short.weight"}
    assert_same(update, expected(model, ends), **close)


def test_zero_divergence_is_the_papers_schedule():
    model = chain()
    W, b = numbers(model)
    truth = expected(model, lambda x, target: slow.zero_divergence(W, b, x, push(target, "cross_entropy", None)))
    assert_same(found(model, variant="zero_divergence"), truth, **close)


@pytest.mark.parametrize("loss", LOSSES)
def test_incremental_leaves_what_takes_plain_descent_to_the_papers_weights(loss):
    model = chain()
    W, b = numbers(model)
    x, y = batch()
    pushes = [push(int(t), loss, slow.free(W, b, s)[-1]) for s, t in zip(x.numpy(), y, strict=True)]
    W_end, b_end = slow.incremental(W, b, x.numpy(), pushes, 6, 0.2, 0.7)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    circuit = apical.Circuit(
        model, PredictiveCoding(variant="incremental", steps=6, rate=0.2, momentum=0, loss=loss, learning_rate=0.7)
    )
    optimizer = torch.optim.SGD(circuit.parameters(), 0.7)
    learn(circuit, x, y, LOSSES[loss])
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    optimizer.step()
    layers = [layer for layer in model if isinstance(layer, nn.Linear)]
    for layer, weight, bias in zip(layers, W_end, b_end, strict=True):
        torch.testing.assert_close(layer.weight.detach(), torch.from_numpy(weight), **close)
        torch.testing.assert_close(layer.bias.detach(), torch.from_numpy(bias), **close)


# Equal to backpropagation


@pytest.mark.parametrize("variant", ["zero_divergence", "fixed_prediction"])
@pytest.mark.parametrize("network", [*NETWORKS, "shortcuts"])
def test_two_variants_are_backpropagation(variant, network):
    if network == "shortcuts":
        x, y = batch()
        build = lambda: shortcuts(norm=True)  # noqa: E731
    else:
        x, y = NETWORKS[network].batch()
        x, build = x.double(), lambda: NETWORKS[network].build().double()
    truth = learn(build(), x, y)
    circuit = apical.Circuit(build(), PredictiveCoding(variant=variant))
    assert_same(plain(learn(circuit, x, y)), truth, rtol=1e-12, atol=1e-14)


def test_fixed_prediction_needs_rate_one_or_many_steps():
    truth = learn(shortcuts(), *batch())

    def off(**options: Any) -> float:
        return distance(found(shortcuts(), variant="fixed_prediction", **options), truth)

    assert off(steps=2) > 0.01
    assert off(rate=0.1, steps=5) > 0.1
    assert off(rate=0.1, steps=400) < 1e-12


def test_each_level_has_the_share_of_backpropagation_that_a_binomial_gives():
    truth = learn(chain(sizes=(4, 6, 5, 5, 6, 3)), *batch())
    update = found(chain(sizes=(4, 6, 5, 5, 6, 3)), variant="fixed_prediction", steps=12, rate=0.3)
    for name, part in update.items():
        level = 4 - int(name.partition(".")[0]) // 2
        tail = sum(math.comb(12, k) * 0.3**k * 0.7 ** (12 - k) for k in range(level, 13))
        torch.testing.assert_close(part, tail * truth[name], rtol=1e-10, atol=1e-15)


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Relative, over all parameters."""
    squared = sum(float((a[name] - b[name]).square().sum()) for name in b)
    return math.sqrt(squared / sum(float(value.square().sum()) for value in b.values()))


# The minimum of the energy


def linear_minimum(model: nn.Sequential) -> dict[str, Tensor]:
    """The closed form for a linear chain under the mean squared error.

    y = y_0 + sum_l M_l e_l with M_l = W_L ... W_(l+1), so dF/de_l = 0 is e_l = -M_l^T c (y - t), c = 2 / outputs, and
    (1 + c sum_l M_l M_l^T) (y - t) = y_0 - t.
    """
    W, b = numbers(model)
    outputs = len(b[-1])
    c = 2 / outputs
    M = [np.eye(outputs)]
    for weight in reversed(W[1:]):
        M.insert(0, M[0] @ weight)

    def ends(x: Any, target: int) -> slow.Ends:
        y = x
        for weight, bias in zip(W, b, strict=True):
            y = weight @ y + bias
        stiffness = np.eye(outputs) + c * sum(m @ m.T for m in M[:-1])
        lack = np.linalg.solve(stiffness, y - np.eye(outputs)[target])
        posts, pres, value = [c * m.T @ lack for m in M], [], x
        for weight, bias, post in zip(W, b, posts, strict=True):
            pres.append(value)
            value = weight @ value + bias - post
        return posts, pres

    return expected(model, ends)


@pytest.mark.parametrize("variant", ["strict", "error_optimised"])
def test_on_a_linear_network_the_minimum_is_the_closed_form(variant):
    model = chain(function=nn.Identity)
    options = {"variant": variant, "rate": 0.3, "steps": 5000, "tolerance": 1e-13, "loss": "mse"}
    assert_same(found(model, squares, **options), linear_minimum(model), rtol=1e-9, atol=1e-12)


def settled(model: nn.Module, x: Tensor, y: Tensor, taken: Loss, /, **options: Any) -> tuple[dict[str, Tensor], Any]:
    """The update, and the last prediction errors."""
    circuit = apical.Circuit(model, PredictiveCoding(**options))
    errors: dict[str, Tensor] = {}

    def keep(layer: str, carried: dict[str, Tensor]) -> None:
        if "prediction_error" in carried:
            errors[layer] = carried["prediction_error"]

    with circuit.observe(keep):
        return plain(learn(circuit, x, y, taken)), errors


@pytest.mark.parametrize("variant", ["strict", "error_optimised"])
@pytest.mark.parametrize("name", ["deep_tanh", "line", "shortcuts"])
def test_at_the_minimum_autograd_finds_no_slope_and_the_same_update(variant, name):
    """The energy is written once more, with hooks on a plain model: its slope by every error, and by every weight."""
    model = shortcuts() if name == "shortcuts" else NETWORKS[name].build().double()
    x, y = batch() if name == "shortcuts" else NETWORKS[name].batch()
    x = x.double()
    options = {"variant": variant, "rate": 0.1, "steps": 3000, "tolerance": 1e-11, "loss": "cross_entropy"}
    update, errors = settled(model, x, y, F.cross_entropy, **options)
    assert len(errors) >= 2
    hooks = []
    local: list[Tensor] = []
    for layer, error in errors.items():
        error.requires_grad_()

        def perturb(module: nn.Module, args: Any, drive: Tensor, error: Tensor = error) -> Tensor:
            return drive + error

        hooks.append(model.get_submodule(layer).register_forward_hook(perturb))
    energy = sum(error.square().sum() / 2 for error in errors.values())
    slopes = torch.autograd.grad(energy + F.cross_entropy(model(x), y, reduction="sum"), list(errors.values()))
    assert max(float(slope.abs().max()) for slope in slopes) < 1e-8
    assert max(float(error.detach().abs().max()) for error in errors.values()) > 1e-2

    for hook in hooks:
        hook.remove()
    for layer, error in errors.items():

        def hold(module: nn.Module, args: Any, drive: Tensor, error: Tensor = error) -> Tensor:
            value = (drive + error).detach()
            local.append((value - drive).square().sum() / 2)
            return value

        model.get_submodule(layer).register_forward_hook(hold)
    model.zero_grad()
    loss = F.cross_entropy(model(x), y, reduction="sum")
    ((loss + sum(local)) / len(x)).backward()
    truth = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert_same(update, truth, rtol=1e-6, atol=1e-10)


def test_error_optimised_reaches_the_minimum_of_strict_and_sooner():
    options = {"loss": "cross_entropy"}
    far = found(shortcuts(), variant="strict", rate=0.2, steps=3000, **options)
    near = found(shortcuts(), variant="error_optimised", rate=0.5, steps=30, **options)
    assert distance(near, far) < 1e-6
    assert distance(found(shortcuts(), variant="strict", rate=0.2, steps=30, **options), far) > 1e-4
    assert distance(far, learn(shortcuts(), *batch())) > 0.1, "the minimum is not backpropagation"


# Nudging and clamping


@pytest.mark.parametrize("loss", ["linear", "cross_entropy"])
def test_a_weak_nudge_gives_the_gradient_to_first_order(loss):
    truth = learn(shortcuts(), *batch())
    off = []
    for nudging in (1e-2, 1e-3, -1e-3):
        options = {"variant": "error_optimised", "steps": 60, "loss": loss, "nudging": nudging}
        off.append(distance(found(shortcuts(), **options), truth))
    assert off[0] == pytest.approx(10 * off[1], rel=0.05)
    assert off[1] == pytest.approx(off[2], rel=0.05)
    assert off[1] < 1e-2


def test_a_clamped_output_does_not_converge_to_the_gradient():
    truth = learn(shortcuts(), *batch())
    options = {"variant": "error_optimised", "steps": 400, "rate": 0.2, "clamped": True}
    off = [distance(found(shortcuts(), nudging=nudging, **options), truth) for nudging in (1e-2, 1e-4, 1e-6)]
    assert min(off) > 0.1
    assert off[1] == pytest.approx(off[2], rel=0.01)


def test_half_squares_clamp_the_output_to_the_target():
    def half(answer: Tensor, y: Tensor) -> Tensor:
        return squares(answer, y) * answer.shape[1] / 2

    options = {"variant": "strict", "rate": 0.2, "steps": 30, "clamped": True}
    model = chain()
    W, b = numbers(model)

    def ends(x: Any, target: int) -> slow.Ends:
        return slow.strict(W, b, x, lambda y: y - np.eye(len(y))[target], 30, 0.2)[-1]

    assert_same(found(model, half, **options), expected(model, ends), **close)


# Feedback weights


@pytest.mark.parametrize("variant", ["zero_divergence", "fixed_prediction", "strict", "error_optimised", "incremental"])
def test_feedback_that_equals_the_weights_is_tied_and_other_feedback_is_not(variant):
    options: dict[str, Any] = {"variant": variant}
    if variant in ("strict", "error_optimised", "incremental"):
        options["loss"] = "cross_entropy"
    if variant == "incremental":
        options["learning_rate"] = 0.0
    tied = found(chain(), **options)
    circuit = apical.Circuit(chain(), PredictiveCoding(feedback="fixed", **options))
    other = plain(learn(circuit, *batch()))
    assert distance(other, tied) > 0.01
    for layer in circuit.layers[1:]:
        circuit.rule.pathway.weights[layer].copy_(layer.weight.detach())
    assert_same(plain(learn(circuit, *batch())), tied, rtol=1e-12, atol=1e-15)


def test_learned_feedback_takes_the_increments_of_the_weights():
    rule = PredictiveCoding(variant="strict", loss="cross_entropy", feedback="kolen_pollack")
    circuit = apical.Circuit(chain(), rule)
    gradients = learn(circuit, *batch())
    assert torch.equal(gradients["rule.pathway.weights.2"], gradients["model.2.weight"])
    assert torch.equal(gradients["rule.pathway.weights.4"], gradients["model.4.weight"])
    assert "rule.pathway.weights.0" not in gradients, "nothing lies below it"


# Norms, dropout, memory


@pytest.mark.parametrize("variant", ["strict", "error_optimised", "incremental"])
@pytest.mark.parametrize("network", ["conv", "residual", "pre_activation"])
def test_inference_leaves_statistics_and_draws_to_the_free_pass(variant, network):
    x, y = NETWORKS[network].batch()
    model = NETWORKS[network].build()
    circuit = apical.Circuit(NETWORKS[network].build(), PredictiveCoding(variant=variant, loss="cross_entropy"))
    torch.manual_seed(4)
    model(x)
    state = torch.get_rng_state()
    learn(circuit, x, y, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(dict(circuit.model.named_buffers()), dict(model.named_buffers()))


@pytest.mark.parametrize("network", ["conv", "residual", "pre_activation"])
def test_a_weak_nudge_gives_the_gradient_through_norms_and_dropout(network):
    x, y = NETWORKS[network].batch()
    truth = learn(NETWORKS[network].build().double(), x.double(), y)
    rule = PredictiveCoding(variant="error_optimised", steps=60, nudging=1e-6)
    update = plain(learn(apical.Circuit(NETWORKS[network].build().double(), rule), x.double(), y))
    assert distance(update, truth) < 1e-4


@pytest.mark.parametrize("variant", ["strict", "error_optimised"])
def test_memory_does_not_grow_with_the_steps(variant):
    circuit = apical.Circuit(chain(), PredictiveCoding(variant=variant, steps=40, loss="cross_entropy"))
    alive: list[int] = []

    def count(layer: str, carried: dict[str, Tensor]) -> None:
        if layer == "2" and "step" in carried:
            alive.append(sum(issubclass(type(thing), Tensor) for thing in gc.get_objects()))

    gc.collect()
    gc.freeze()  # only what is made from here on is looked through
    try:
        with circuit.observe(count):
            learn(circuit, *batch())
    finally:
        gc.unfreeze()
    assert len(alive) >= 39
    assert alive[-1] <= alive[3]


# What it says


def test_what_has_not_settled_says_so_once_and_what_has_stops_early():
    circuit = apical.Circuit(chain(), PredictiveCoding(variant="strict", steps=5, tolerance=1e-6, loss="mse"))
    with pytest.warns(UnsettledWarning, match=r"after 5 steps.*tolerance is 1\.0e-06.*Raise steps"):
        learn(circuit, *batch(), squares)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learn(circuit, *batch(), squares)
    steps: list[int] = []
    rule = PredictiveCoding(variant="strict", steps=10000, rate=0.2, tolerance=1e-6, loss="mse")
    circuit = apical.Circuit(chain(), rule)
    with circuit.observe(lambda layer, carried: steps.append(int(carried.get("step", 0)))):
        learn(circuit, *batch(), squares)
    assert 10 < max(steps) < 2000


@pytest.mark.parametrize("by", ["wave", "steps"])
def test_fixed_prediction_settles_in_as_many_steps_as_there_are_levels(by):
    model = chain() if by == "wave" else shortcuts()
    with pytest.warns(UnsettledWarning):
        found(model, variant="fixed_prediction", rate=0.5, steps=4, tolerance=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found(model, variant="fixed_prediction", steps=10, tolerance=1e-12)


@pytest.mark.parametrize("loss", ["mse", "linear"])
def test_what_diverges_stops_and_names_the_remedy(loss):
    model = chain(function=nn.ReLU)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    with pytest.raises(NonFiniteError, match=r"has diverged.*[Ll]ower\s+rate") as caught:
        found(model, squares, variant="strict", steps=200, rate=0.9, loss=loss)
    assert caught.value.layer in ("0", "2")
    assert ("loss='cross_entropy'" in str(caught.value)) == (loss == "linear")


def test_neurons_that_answer_otherwise_each_time_are_refused():
    model = nn.Sequential(nn.Linear(4, 6), nn.AlphaDropout(0.2), nn.Linear(6, 3))
    with pytest.raises(CircuitError, match=r"^0: .*AlphaDropout draws other random numbers.*nn\.Dropout"):
        apical.Circuit(model, PredictiveCoding(variant="strict"))
    apical.Circuit(model, PredictiveCoding())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"variant": "lazy"}, "variant='lazy' is unknown"),
        ({"feedback": "none"}, "feedback='none' is unknown"),
        ({"variant": "strict", "loss": "hinge"}, "loss='hinge' is unknown"),
        ({"variant": "zero_divergence", "rate": 0.5}, "its rate is exactly 1"),
        ({"variant": "zero_divergence", "steps": 3}, "its rate is exactly 1"),
        ({"loss": "mse"}, "predictions stay those of the free pass"),
        ({"nudging": 0.1}, "predictions stay those of the free pass"),
        ({"variant": "strict", "loss": "mse", "clamped": True}, "not both"),
        ({"variant": "incremental", "tolerance": 0.1}, "Leave out tolerance"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"rate": 1.5}, "rate=1.5"),
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"tolerance": 2.0}, "tolerance=2.0"),
        ({"variant": "strict", "nudging": 0.0}, "nudging=0.0"),
        ({"variant": "incremental", "learning_rate": -1.0}, "learning_rate=-1.0"),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused(options, told):
    with pytest.raises(ConfigError, match=told):
        PredictiveCoding(**options)


def test_what_it_carries_is_what_it_says():
    seen: dict[str, set[str]] = {}
    circuit = apical.Circuit(chain(), PredictiveCoding(variant="strict", tolerance=0.9, steps=30, loss="mse"))
    with circuit.observe(lambda layer, carried: seen.setdefault(layer, set()).update(carried)):
        learn(circuit, *batch(), squares)
    assert seen["0"] == seen["2"] == {*PredictiveCoding.observables, "teaching_signal"}
    assert seen["4"] == {"teaching_signal"}


class Turning(nn.Module):
    """The axes of time and batch change places between a layer's neurons and the next layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.readout = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(torch.tanh(self.stem(x)).transpose(0, 1))


@pytest.mark.parametrize("variant", ["fixed_prediction", "strict", "error_optimised", "incremental"])
def test_an_energy_is_of_one_sample_wherever_the_batch_is(variant):
    moments, samples = 3, 5
    x = torch.randn(moments, samples, 4, generator=torch.Generator().manual_seed(0))
    seen: dict[str, Tensor] = {}
    circuit = apical.Circuit(Turning(), PredictiveCoding(variant=variant), batch_axis=1)
    with circuit.observe(lambda layer, carried: seen.update(carried) if "energy" in carried else None):
        circuit(x).square().sum().backward()
    assert seen["prediction_error"].shape == (moments, samples, 6)
    torch.testing.assert_close(seen["energy"], seen["prediction_error"].square().sum((0, 2)) / 2)


def course(variant: str, steps: int, rate: float) -> list[list[Any]]:
    """After 0, 1, ... steps, for every sample: every hidden layer's a - v, and the signal that arrives there then."""
    model = chain()
    W, b = numbers(model)
    x, y = batch()
    states: list[list[Any]] = [[] for _ in range(steps + 1)]
    for sample, target in zip(x.numpy(), y.tolist(), strict=True):
        follow = push(target, "cross_entropy", None)
        if variant in ("strict", "incremental"):
            for state, (posts, pres) in zip(states, slow.strict(W, b, sample, follow, steps, rate), strict=True):
                above = zip(W[1:], posts[1:], pres[1:], strict=True)
                state.append((posts[:-1], [(1 - pre**2) * (weight.T @ post) for weight, post, pre in above]))
            continue
        error = softmax_error(slow.free(W, b, sample)[-1], target)
        ends = [
            slow.error_optimised(W, b, sample, follow, taken, rate)[0][:-1]
            if variant == "error_optimised"
            else slow.fixed_prediction(W, b, sample, error, taken, rate)[0][:-1]
            for taken in range(steps + 2)
        ]
        for state, now, then in zip(states, ends, ends[1:], strict=False):  # then = now + rate (signal - now)
            moved = zip(now, then, strict=True)
            state.append((now, [post + (after - post) / rate for post, after in moved]))
    return states


def residual_of(state: list[Any]) -> float:
    """The largest |post - signal| / max(|post|, |signal|) of a layer, over the batch; infinite before every signal."""
    ratios = []
    for layer in range(len(SIZES) - 2):
        posts, signals = (np.stack([sample[end][layer] for sample in state]) for end in (0, 1))
        size = max((posts**2).sum(), (signals**2).sum())
        ratios.append(math.sqrt(((posts - signals) ** 2).sum() / size) if size else math.inf)
    return max(ratios)


@pytest.mark.parametrize("variant", ["fixed_prediction", "strict", "error_optimised", "incremental"])
def test_what_is_carried_is_the_papers_equations_after_every_step(variant):
    steps, rate = 5, 0.2
    expected = course(variant, steps, rate)
    loss = None if variant == "fixed_prediction" else "cross_entropy"
    # Where nothing moves the weights, incremental inference is strict; its last step is the weights' alone.
    more: dict[str, Any] = {"learning_rate": 0.0, "momentum": 0.0} if variant == "incremental" else {"tolerance": 1e-9}
    rule = PredictiveCoding(variant=variant, steps=steps, rate=rate, loss=loss, **more)
    circuit, seen = apical.Circuit(chain(), rule), []
    with (
        circuit.observe(lambda layer, carried: seen.append((layer, carried)) if "energy" in carried else None),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", UnsettledWarning)
        learn(circuit, *batch())
    taken = {"fixed_prediction": {steps}, "incremental": set(range(1, steps))}.get(variant, set(range(1, steps + 1)))
    assert {int(carried["step"]) for _, carried in seen} == taken
    for layer, carried in seen:
        step = int(carried["step"])
        errors = np.stack([-posts[int(layer) // 2] for posts, _ in expected[step]])
        np.testing.assert_allclose(carried["prediction_error"].numpy(), errors, rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(carried["energy"].numpy(), (errors**2).sum(1) / 2, rtol=1e-9, atol=1e-20)
        if variant != "incremental":
            residual = residual_of(expected[step - 1])
            assert float(carried["residual"]) == pytest.approx(residual, rel=1e-6, abs=0)


def energies(model: nn.Sequential, steps: int, rate: float) -> list[float]:
    """The energy of the batch after 0, 1, ... steps of strict inference, with the squared error in it."""
    W, b = numbers(model)
    total = np.zeros(steps + 1)
    for sample, target in zip(*(part.numpy() for part in batch()), strict=True):
        for step, (posts, pres) in enumerate(slow.strict(W, b, sample, push(target, "mse", None), steps, rate)):
            y = W[-1] @ pres[-1] + b[-1]
            total[step] += sum((post**2).sum() for post in posts[:-1]) / 2 + ((y - np.eye(len(y))[target]) ** 2).mean()
    return total.tolist()


@pytest.mark.parametrize("steps", [1, 4])
def test_strict_inference_stops_where_the_energy_has_risen_and_nowhere_else(steps):
    """The loss is quadratic, so that its change by the trapezoid rule is exact, however near the energies are."""
    outcomes = []
    for seed in range(2):
        model = chain(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2.5)
        for rate in np.linspace(0.1, 1, 31).tolist():
            first, *_, last = energies(model, steps, rate)
            options = {"variant": "strict", "steps": steps, "rate": rate, "loss": "mse"}
            if last > first:
                with pytest.raises(NonFiniteError, match="diverged"):
                    found(model, squares, **options)
            else:
                found(model, squares, **options)
            model.zero_grad()
            outcomes.append(last / first)
    assert min(outcomes) < 0.9
    assert max(outcomes) > 1.1
    assert any(0.9 < outcome < 1 for outcome in outcomes)
    assert any(1 < outcome < 1.1 for outcome in outcomes)


@pytest.mark.parametrize("variant", ["strict", "error_optimised", "incremental"])
def test_the_sum_of_the_losses_teaches_the_sum_of_what_the_mean_teaches(variant):
    """Also where weights move while values settle: by the step that the optimizer takes for a mean."""
    options = {"variant": variant, "steps": 5, "rate": 0.2, "loss": "cross_entropy", "learning_rate": 0.7}
    x, y = batch()
    updates = []
    for reduction in ("mean", "sum"):
        circuit = apical.Circuit(chain(), PredictiveCoding(**options), reduction=reduction)
        updates.append(plain(learn(circuit, x, y, lambda *ends: F.cross_entropy(*ends, reduction=reduction))))  # noqa: B023
    assert_same(updates[1], {name: len(x) * part for name, part in updates[0].items()}, **close)


@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*should not be instantiated:DeprecationWarning")
def test_incremental_compiles_with_weights_that_move():
    options = {"variant": "incremental", "steps": 2, "learning_rate": 0.5, "loss": "cross_entropy"}
    circuit = apical.Circuit(chain(sizes=(4, 5, 3)), PredictiveCoding(**options))
    expected = learn(circuit, *batch())
    found = learn(torch.compile(circuit, backend="aot_eager", fullgraph=True), *batch())
    assert_same({name.removeprefix("_orig_mod."): part for name, part in found.items()}, expected, **close)
