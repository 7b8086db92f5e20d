"""Losses recognised from their derivative: which they are, by what they are multiplied, and what is refused."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from circuits import NETWORKS, Row, assert_same, circuit_of, learn, loss_of, plain, rows
from torch import Tensor, nn

import apical
from apical import PredictiveCoding
from apical.errors import CircuitError, NonFiniteError
from apical.rules.energy.recognition import Recognised, recognise

Loss = Callable[[Tensor, Tensor], Tensor]
WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 3.0, 0.25], dtype=torch.float64)


def output(classes: int = 5, samples: int = 16, seed: int = 0, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = scale * torch.randn(samples, classes, generator=generator, dtype=torch.float64)
    return y, torch.randint(0, classes, (samples,), generator=generator)


def seen(loss: Loss, y: Tensor, target: Tensor, dtype: torch.dtype = torch.float32) -> Recognised | None:
    """A loss as its derivative shows it, to a circuit whose loss is a mean."""
    y = y.to(dtype).requires_grad_()
    (error,) = torch.autograd.grad(loss(y, target), y)
    axis = 1 - y.dim() if y.dim() > 1 else -1
    return recognise(y.detach(), error, len(y), 0, axis, mean=True, squares=True)


def one_hot(y: Tensor, target: Tensor) -> Tensor:
    return F.one_hot(target, y.shape[1]).to(y.dtype)


def weighted(y: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(y, target, weight=WEIGHTS.to(y.dtype))


def focal(y: Tensor, target: Tensor) -> Tensor:
    negative = F.cross_entropy(y, target, reduction="none")
    return ((1 - (-negative).exp()).square() * negative).mean()


def generalised(y: Tensor, target: Tensor) -> Tensor:
    likelihood = (-F.cross_entropy(y, target, reduction="none")).exp()
    return ((1 - likelihood**0.7) / 0.7).mean()


def ignoring(y: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(y, target.where(torch.arange(len(target)) % 3 > 0, -100))


def half(y: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (y - one_hot(y, target)).square().sum(1).mean()


# What is recognised

KNOWN: dict[str, tuple[Loss, str, float, float]] = {
    "mean": (F.cross_entropy, "cross_entropy", 1.0, 1.0),
    "sum": (lambda y, t: F.cross_entropy(y, t, reduction="sum"), "cross_entropy", 1.0, 16.0),
    "smoothed": (lambda y, t: F.cross_entropy(y, t, label_smoothing=0.1), "cross_entropy", 1.0, 1.0),
    "smoothed sum": (
        lambda y, t: F.cross_entropy(y, t, label_smoothing=0.3, reduction="sum"),
        "cross_entropy",
        1.0,
        16.0,
    ),
    "mse": (lambda y, t: F.mse_loss(y, one_hot(y, t)), "squared_error", 2 / 5, 1.0),
    "mse sum": (lambda y, t: F.mse_loss(y, one_hot(y, t), reduction="sum"), "squared_error", 2.0, 16.0),
    "half": (half, "squared_error", 1.0, 1.0),
    "binary targets": (lambda y, t: F.mse_loss(y, (y > t[:, None] / 5).to(y.dtype)), "squared_error", 2 / 5, 1.0),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.1, 2.0, 20.0])
@pytest.mark.parametrize("name", KNOWN)
def test_a_loss_is_recognised_in_its_own_unit(name, scale, dtype):
    loss, kind, unit, factor = KNOWN[name]
    found = seen(loss, *output(scale=scale), dtype)
    assert found is not None
    assert (found.loss, found.unit) == (kind, pytest.approx(unit))
    torch.testing.assert_close(
        torch.as_tensor(found.factor, dtype=dtype).expand(16, 1), torch.full((16, 1), factor, dtype=dtype)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.1, 2.0, 20.0])
@pytest.mark.parametrize(
    ("loss", "factors"),
    [
        (weighted, lambda y, t: 16 * WEIGHTS[t] / WEIGHTS[t].sum()),
        (ignoring, lambda y, t: torch.where(torch.arange(16) % 3 > 0, 16 / 10, 0.0)),
        (lambda y, t: F.cross_entropy(y, t) / 4, lambda y, t: torch.full((16,), 0.25)),
        (lambda y, t: F.cross_entropy(y, t) * 2.0**16, lambda y, t: torch.full((16,), 2.0**16)),
        (lambda y, t: F.cross_entropy(y, t) * 0.3, lambda y, t: torch.full((16,), 0.3)),
    ],
    ids=["weighted", "ignoring", "accumulated", "scaled", "by three tenths"],
)
def test_the_factor_of_each_sample_is_found(loss, factors, scale, dtype):
    y, target = output(scale=scale)
    found = seen(loss, y, target, dtype)
    assert found is not None
    assert found.loss == "cross_entropy"
    assert isinstance(found.factor, Tensor)
    lost = y.softmax(1).gather(1, target[:, None]).squeeze(1) > 1 - 1e-6  # nothing of these is left to learn
    torch.testing.assert_close(
        found.factor.squeeze(1)[~lost].double(), factors(y, target)[~lost].double(), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize(
    "loss",
    [
        F.cross_entropy,
        lambda y, t: F.cross_entropy(y, t, ignore_index=0),
        lambda y, t: F.cross_entropy(y, t, reduction="sum"),
    ],
)
def test_positions_have_factors_of_their_own(loss):
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(4, 5, 3, 2, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 5, (4, 3, 2), generator=generator)
    found = seen(loss, y, target)
    assert found is not None
    y = y.float().requires_grad_()
    (error,) = torch.autograd.grad(loss(y, target), y)
    hot = F.one_hot(target, 5).movedim(-1, 1)
    torch.testing.assert_close(found.factor * found.unit * (y.softmax(1) - hot), 4 * error, rtol=1e-4, atol=1e-6)


# What is not

SOFT = torch.softmax(3 * output(seed=5)[0], 1)
UNKNOWN: dict[str, Loss] = {
    "soft targets": lambda y, t: F.cross_entropy(y, SOFT.to(y.dtype)),
    "mixed up": lambda y, t: 0.7 * F.cross_entropy(y, t) + 0.3 * F.cross_entropy(y, t.roll(1)),
    "smoothed and weighted": lambda y, t: F.cross_entropy(y, t, weight=WEIGHTS.to(y.dtype), label_smoothing=0.1),
    "smoothed and accumulated": lambda y, t: F.cross_entropy(y, t, label_smoothing=0.1) / 4,
    "climbing": lambda y, t: -F.cross_entropy(y, t),
    "sigmoids": lambda y, t: F.binary_cross_entropy_with_logits(y, one_hot(y, t)),
    "hinge": lambda y, t: F.multi_margin_loss(y, t),
    "regression": lambda y, t: F.mse_loss(y, SOFT.to(y.dtype)),
    "huber": lambda y, t: F.huber_loss(y, one_hot(y, t)),
    "squares of weighted samples": lambda y, t: (WEIGHTS.to(y.dtype)[t] * (y - one_hot(y, t)).square().mean(1)).mean(),
    "penalty": lambda y, t: F.cross_entropy(y, t) + 1e-3 * y.square().mean(),
    "sum": lambda y, t: y.sum(),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", UNKNOWN)
def test_other_losses_are_not_guessed(name, dtype):
    assert seen(UNKNOWN[name], *output(), dtype) is None


@pytest.mark.parametrize("samples", [1, 2, 16])
@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_two_classes_are_recognised_without_factors_and_smoothing_alone(samples, scale):
    y, target = output(2, samples, scale=scale)
    found = seen(F.cross_entropy, y, target)
    assert found is not None
    assert (found.loss, found.factor) == ("cross_entropy", 1)
    assert seen(lambda y, t: F.cross_entropy(y, t) * 0.3, y, target) is None
    assert seen(lambda y, t: F.cross_entropy(y, t, label_smoothing=0.1), y, target) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_not_guessed(dtype):
    assert seen(F.cross_entropy, *output(), dtype) is None


# What a circuit makes of it

VARIANTS = ("strict", "error_optimised", "incremental")
every_variant = pytest.mark.parametrize("variant", VARIANTS)
close = {"rtol": 1e-8, "atol": 1e-12}


def taught(of: Loss, /, *, network: str = "mlp", samples: int = 8, batch: slice = slice(None), **options: object):
    """The update of a rule, in double precision."""
    circuit_options = {name: options.pop(name) for name in ("reduction", "loss_scale") if name in options}
    model = NETWORKS[network].build().double()
    circuit = apical.Circuit(model, PredictiveCoding(**options), **circuit_options)
    x, y = NETWORKS[network].batch(samples)
    return plain(learn(circuit, x.double()[batch], y[batch], of))


@every_variant
@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (F.cross_entropy, "cross_entropy"),
        (lambda y, t: F.mse_loss(y, one_hot(y, t)), "mse"),
        (half, "squared_error"),
    ],
    ids=["cross_entropy", "mse", "squared_error"],
)
def test_a_recognised_loss_teaches_as_one_that_was_passed(loss, told, variant):
    update = taught(loss, variant=variant)
    assert_same(update, taught(loss, variant=variant, loss=told), **close)
    linear = taught(loss, variant=variant, loss="linear")
    assert any(not torch.allclose(update[name], linear[name], rtol=1e-3) for name in update)


@every_variant
@pytest.mark.parametrize("told", [None, "cross_entropy"])
@pytest.mark.parametrize("network", ["mlp", "line"])
def test_an_accumulated_loss_teaches_its_part(network, told, variant):
    """Where classes are three and more, with and without the right scale, and with a wrong one."""
    options = {"network": network, "variant": variant, "loss": told, "learning_rate": 0.0}
    whole = taught(F.cross_entropy, **options)
    for scale in (1.0, 0.25, 3.0):
        part = taught(lambda y, t: F.cross_entropy(y, t) / 4, loss_scale=scale, **options)
        assert_same({name: 4 * update for name, update in part.items()}, whole, **close)


@pytest.mark.parametrize("variant", ["strict", "error_optimised"])
@pytest.mark.parametrize("told", [None, "cross_entropy"])
def test_a_weighted_sample_learns_what_it_learns_alone_times_its_weight(told, variant):
    """The slow reference: every sample in a batch of its own, without a weight."""
    weights = WEIGHTS

    def loss(y: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(y, target, weight=weights.to(y.dtype))

    _, y = NETWORKS["mlp"].batch()
    expected: dict[str, Tensor] = {}
    for sample, target in enumerate(y.tolist()):
        alone = taught(F.cross_entropy, batch=slice(sample, sample + 1), variant=variant, loss=told)
        for name, update in alone.items():
            expected[name] = expected.get(name, 0) + update * (weights[target] / weights[y].sum())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert_same(taught(loss, variant=variant, loss=told), expected, **close)
    assert len(caught) == (told is None)


@every_variant
def test_an_ignored_sample_is_left_out(variant):
    def ignoring_the_last(y: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(y, target.where(torch.arange(8) < 5, -100))

    options = {"variant": variant, "learning_rate": 0.0}
    assert_same(taught(ignoring_the_last, **options), taught(F.cross_entropy, batch=slice(5), **options), **close)


@pytest.mark.parametrize("loss", [focal, generalised])
def test_a_factor_of_each_sample_is_said_once_as_other_losses_look_the_same(loss):
    circuit = circuit_of("mlp", Row("predictive_coding", {"variant": "strict"}))
    with pytest.warns(UserWarning, match="Focal and generalised"):
        learn(circuit, *NETWORKS["mlp"].batch(), loss)
    learn(circuit, *NETWORKS["mlp"].batch(), loss)


@every_variant
@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_loss_is_refused_at_full_nudging_and_linear_below(name, variant):
    loss = UNKNOWN[name]
    if name in ("soft targets", "regression"):
        loss = lambda y, t: UNKNOWN[name](y, t) if len(y) == 16 else pytest.fail("of sixteen")  # noqa: E731
    with pytest.raises(CircuitError, match=r"loss='cross_entropy'.*loss='linear'"):
        taught(loss, samples=16, variant=variant)
    options = {"samples": 16, "variant": variant, "nudging": 1e-3, "learning_rate": 0.0}
    assert_same(taught(loss, **options), taught(loss, loss="linear", **options))


@every_variant
def test_a_clamped_output_and_fixed_predictions_ask_for_no_loss(variant):
    for options in ({"variant": variant, "clamped": True, "nudging": 0.1}, {}):
        assert taught(UNKNOWN["sum"], **options)


@pytest.mark.parametrize("rule", ["predictive_coding", "equilibrium_propagation"])
@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_a_cross_entropy_that_was_passed_has_no_target_below_zero(rule, factor):
    """With two classes a factor is in no sample to be seen, but one above 1 is impossible."""
    options = {
        "loss": "cross_entropy",
        **({"variant": "strict"} if rule == "predictive_coding" else {"beta": 0.3, "sweeps": 9}),
    }
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.randint(0, 2, (6,))
    circuit = apical.Circuit(model, apical.rules.make(rule, **options))
    if factor > 1:
        with pytest.raises(CircuitError, match=r"loss='cross_entropy'.*loss_scale="):
            learn(circuit, x, y, lambda a, t: factor * F.cross_entropy(a, t))
    circuit.loss_scale = factor
    scaled = learn(circuit, x, y, lambda a, t: factor * F.cross_entropy(a, t))
    circuit.loss_scale = 1.0
    whole = learn(circuit, x, y)
    assert_same(scaled, {name: factor * update for name, update in whole.items()}, **close)


def test_a_nudged_network_follows_the_weights_of_the_samples():
    """Feed-forward equilibrium propagation at an output that moves: each derivative is that of the weighted loss."""
    y, target = output()
    y.requires_grad_()
    (error,) = torch.autograd.grad(weighted(y, target), y)
    nudge = apical.rules.energy.nudging.Nudge("cross_entropy", y.detach(), error, 16)
    moved = (y.detach() + 0.5 * output(seed=7)[0]).requires_grad_()
    (expected,) = torch.autograd.grad(16 * weighted(moved, target), moved)
    torch.testing.assert_close(nudge(moved.detach()), expected, rtol=1e-6, atol=1e-9)


def test_an_error_that_is_not_finite_is_named_by_its_layer():
    circuit = circuit_of("mlp", Row("predictive_coding", {"variant": "strict"}))
    x, y = NETWORKS["mlp"].batch()
    with pytest.raises(NonFiniteError):
        learn(circuit, x, y, lambda a, t: a.sum() * math.inf)


@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*should not be instantiated:DeprecationWarning")
@every_variant
def test_a_compiler_sees_no_values_and_the_loss_is_asked_for(variant):
    torch._dynamo.reset()
    circuit = circuit_of("mlp", Row("predictive_coding", {"variant": variant}))
    whole = torch.compile(circuit, backend="aot_eager", fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="loss=None"):
        learn(whole, *NETWORKS["mlp"].batch())
    torch._dynamo.reset()


# The guard


@every_variant
@pytest.mark.parametrize("loss", [F.cross_entropy, half], ids=["cross_entropy", "half"])
def test_inference_whose_energy_rises_is_stopped(loss, variant):
    """Steep weights: the rate is above 2 / (1 + |J|^2 H)."""
    model = NETWORKS["mlp"].build().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    rate, steps = (1.0, 51) if variant == "error_optimised" else (0.5, 7)  # before the numbers are infinite
    rule = PredictiveCoding(variant=variant, rate=rate, steps=steps, learning_rate=0.0)
    x, y = NETWORKS["mlp"].batch()
    with pytest.raises(NonFiniteError, match=rf"variant='{variant}'.*more energy than at the start"):
        learn(apical.Circuit(model, rule), x.double(), y, loss)


@every_variant
@pytest.mark.parametrize("network", NETWORKS)
def test_no_default_is_stopped_on_a_network_that_learns(network, variant):
    circuit = circuit_of(network, Row("predictive_coding", {"variant": variant}))
    optimizer = torch.optim.SGD(circuit.parameters(), 0.05)
    for step in range(8):
        optimizer.zero_grad()
        x, y = NETWORKS[network].batch(seed=100 + step % 2)
        F.cross_entropy(circuit(x), y).backward()
        optimizer.step()


def test_incremental_teaches_the_lowest_layer_by_default():
    """Momentum brings it a fifth of what backpropagation gives; without it, less than a tenth arrives in time."""
    truth = plain(learn(circuit_of("mlp", "backprop"), *NETWORKS["mlp"].batch()))["1.weight"].norm()
    sizes = [
        taught(F.cross_entropy, variant="incremental", momentum=momentum)["1.weight"].norm() for momentum in (None, 0)
    ]
    assert sizes[0] > 0.2 * truth
    assert sizes[1] < 0.1 * truth


# The scale of a loss


@pytest.mark.parametrize("row", [row for row in rows() if not row.redraws], ids=str)
def test_the_scale_of_a_loss_scales_the_update_and_nothing_else(row):
    x, y = NETWORKS["mlp"].batch()
    expected = learn(circuit_of("mlp", row), x, y)
    circuit = circuit_of("mlp", row, loss_scale=lambda: 2.0**10)
    own = circuit_of("mlp", row)  # by whose loss it learns
    found = learn(circuit, x, y, lambda a, t: 2.0**10 * loss_of(own)(a, t))
    assert_same({name: update / 2.0**10 for name, update in found.items()}, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("row", "factor"),
    [
        (Row("burst_ccn", {"error_scale": 1.0}), 25.0),
        (Row("burstprop", {"error_scale": 1.0}), 25.0),
        (Row("segregated_dendrites", {"gain": 20.0}), 25.0),
        (Row("equilibrium_propagation"), 2.0**12),
    ],
    ids=str,
)
def test_signals_at_their_bounds_are_said_once_with_the_remedy(row, factor):
    x, y = NETWORKS["deep_tanh"].batch()
    circuit = circuit_of("deep_tanh", row)
    learn(circuit, x, y)

    def many(times: int) -> None:
        for _ in range(times):
            learn(circuit, x, y, lambda a, t: factor * F.cross_entropy(a, t))

    with pytest.warns(UserWarning, match="circuit.loss_scale"):
        many(3)  # bounded signals are measured in passes 1, 4, 16, ...
    learn(circuit, x, y, lambda a, t: factor * F.cross_entropy(a, t))
    circuit = circuit_of("deep_tanh", row, loss_scale=factor)
    learn(circuit, x, y, lambda a, t: factor * F.cross_entropy(a, t))
