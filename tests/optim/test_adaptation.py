"""The optimizer Adaptation against its equations in plain NumPy, its limits, and what torch.optim promises."""

import copy
import io
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import apical
from apical.errors import ConfigError
from apical.kernels import tanh_
from apical.optim import Adaptation, adaptation

VARIANTS = ("base", "abs", "step", "sign")
OPTIONS = {"lr": 0.05, "gain": 0.3, "slope": 2.0, "relaxation": 0.2}


def reference(w, gradients, variant, lr, gain, slope, relaxation, weight_decay=0.0, maximize=False):
    """Weights after every step, synapse by synapse, as the equations stand."""
    history = []
    w = w.copy()
    eta = np.zeros_like(w)
    before = np.zeros_like(w)
    for gradient in gradients:
        for i in range(w.size):
            g = -gradient[i] if maximize else gradient[i]
            w[i] = w[i] - lr * weight_decay * w[i]
            eta[i] = eta[i] * math.exp(-relaxation)
            if variant != "sign":
                eta[i] += gain * math.tanh(slope * g)
            elif (g > 0 and before[i] > 0) or (g < 0 and before[i] < 0):
                eta[i] += gain * abs(math.tanh(slope * g))
            before[i] = g
            if variant == "base":
                w[i] -= (lr + lr * abs(eta[i])) * g
            elif variant in {"abs", "sign"}:
                w[i] -= lr * abs(eta[i]) * g
            else:
                w[i] -= lr * eta[i]
        history.append(w.copy())
    return history


def gradients_for(size, steps, seed=0):
    """Gradients of every scale, with signs that persist for a while, and zeros."""
    generator = np.random.default_rng(seed)
    signs = np.cumprod(np.where(generator.random((steps, size)) < 0.2, -1.0, 1.0), axis=0)
    scales = 10.0 ** generator.uniform(-4, 1, (steps, size))
    return signs * scales * (generator.random((steps, size)) > 0.1)


def follow(parameter, gradients, **options):
    """Step through the gradients; yields the optimizer after every step."""
    optimizer = Adaptation([parameter], **{**OPTIONS, **options})
    for gradient in gradients:
        parameter.grad = torch.as_tensor(gradient, dtype=parameter.dtype).reshape(parameter.shape)
        optimizer.step()
        yield optimizer


def run(gradients, dtype=torch.float64, **options):
    parameter = nn.Parameter(torch.zeros(len(gradients[0]), dtype=dtype))
    return parameter, list(follow(parameter, gradients, **options))[-1]


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("variant", VARIANTS)
def test_equations(variant, weight_decay, maximize, foreach):
    gradients = gradients_for(12, 200)
    start = np.random.default_rng(1).normal(size=12)
    switches = {"variant": variant, "weight_decay": weight_decay, "maximize": maximize}
    expected = reference(start, gradients, **OPTIONS, **switches)
    parameter = nn.Parameter(torch.tensor(start))
    for wanted, _ in zip(expected, follow(parameter, gradients, foreach=foreach, **switches), strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_single_precision_follows_the_equations(variant):
    gradients = gradients_for(12, 50).astype(np.float32)
    expected = reference(np.zeros(12), gradients.astype(float), variant, **OPTIONS)[-1]
    parameter, _ = run(gradients, torch.float32, variant=variant)
    np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("variant", VARIANTS)
def test_foreach_and_blocks_change_no_bit(variant, dtype, monkeypatch):
    monkeypatch.setattr(adaptation, "BLOCK", 37)  # so that parameters are cut, with a rest
    shapes = [(10, 11), (11,), (), (4, 3, 2, 2), (0,)]

    def trained(foreach):
        generator = torch.Generator().manual_seed(0)
        parameters = [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]
        parameters.append(nn.Parameter(torch.randn(2, 3, 4, 4, generator=generator).to(dtype)))
        parameters[-1].data = parameters[-1].data.to(memory_format=torch.channels_last)
        optimizer = Adaptation(parameters, **OPTIONS, variant=variant, weight_decay=0.1, foreach=foreach)
        for _ in range(10):
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator).to(dtype)
            optimizer.step()
        return parameters, optimizer

    one, many, default = trained(False), trained(True), trained(None)
    for other in (many, default):
        for left, right in zip(one[0], other[0], strict=True):
            assert torch.equal(left, right)
            for name, value in one[1].state[left].items():
                assert torch.equal(value, other[1].state[right][name])


def test_step_with_a_slope_towards_0_is_heavy_ball_momentum():
    gradients = gradients_for(20, 300)
    ours, _ = run(gradients, variant="step", slope=2.0**-40, gain=2.0**40)
    theirs = nn.Parameter(torch.zeros(20, dtype=torch.float64))
    momentum = torch.optim.SGD([theirs], lr=OPTIONS["lr"], momentum=math.exp(-OPTIONS["relaxation"]))
    for gradient in gradients:
        theirs.grad = torch.tensor(gradient)
        momentum.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)


def test_base_without_gain_is_gradient_descent():
    gradients = gradients_for(20, 50)
    ours, _ = run(gradients, gain=0.0)
    torch.testing.assert_close(ours.detach(), torch.tensor(-OPTIONS["lr"] * gradients.sum(axis=0)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_adaptation_stays_below_its_bound_and_coherent_steps_reach_it(variant):
    bound = OPTIONS["gain"] / (1 - math.exp(-OPTIONS["relaxation"]))
    wild = nn.Parameter(torch.zeros(30, dtype=torch.float64))
    for optimizer in follow(wild, 100 * gradients_for(30, 200), variant=variant):
        assert optimizer.state[wild]["adaptation"].abs().max() <= bound * (1 + 1e-12)
    coherent, optimizer = run(np.full((300, 1), -50.0), variant=variant)
    reached = OPTIONS["lr"] * (bound + (variant == "base")) * (-1 if variant == "step" else 1)
    assert optimizer.step_size(coherent).item() == pytest.approx(reached, rel=1e-9)


@pytest.mark.parametrize("variant", ["base", "abs"])
def test_stationary_step_grows_with_training_frequency(variant):
    """Trained every k-th step, and without gradient between, a synapse ends at A tanh(β g) / (1 - exp(-k τ))."""
    sizes = []
    for every in (8, 4, 2, 1):
        gradients = np.zeros((800, 1))
        gradients[every - 1 :: every] = 0.3
        parameter, optimizer = run(gradients, variant=variant)
        push = OPTIONS["gain"] * math.tanh(OPTIONS["slope"] * 0.3)
        stationary = push / (1 - math.exp(-every * OPTIONS["relaxation"])) + (variant == "base")
        sizes.append(optimizer.step_size(parameter).item())
        assert sizes[-1] == pytest.approx(OPTIONS["lr"] * stationary, rel=1e-9)
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_fresh_synapse_goes_down_its_gradient_in_both_directions(variant, maximize):
    """A signed adaptation times the gradient would lower every weight."""
    parameter, _ = run(np.tile([0.5, -0.5, 0.0], (2, 1)), variant=variant, maximize=maximize)
    expected = [1.0, -1.0, 0.0] if maximize else [-1.0, 1.0, 0.0]
    assert parameter.sign().tolist() == expected


@pytest.mark.parametrize("variant", ["base", "abs", "sign"])
def test_no_step_goes_up_its_gradient(variant):
    gradients = gradients_for(30, 100)
    parameter = nn.Parameter(torch.zeros(30, dtype=torch.float64))
    before = parameter.detach().clone()
    for gradient, _ in zip(gradients, follow(parameter, gradients, variant=variant), strict=True):
        assert ((parameter.detach() - before) * torch.tensor(gradient) <= 0).all()
        before = parameter.detach().clone()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("foreach", [False, True])
def test_weight_decay_is_not_accelerated(variant, foreach):
    parameter = nn.Parameter(torch.ones(1, dtype=torch.float64))
    list(follow(parameter, np.zeros((10, 1)), variant=variant, weight_decay=0.1, foreach=foreach))
    assert parameter.item() == pytest.approx((1 - OPTIONS["lr"] * 0.1) ** 10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("foreach", [False, True])
def test_denormal_adaptations_become_0(foreach, dtype):
    parameter, optimizer = run([[1.0]], dtype, foreach=foreach)
    tiny = torch.finfo(dtype).tiny
    parameter.grad = torch.zeros_like(parameter)
    for start, left in ((1.1 * tiny, 0.0), (4 * tiny, 4 * tiny * math.exp(-OPTIONS["relaxation"]))):
        optimizer.state[parameter]["adaptation"].fill_(start)
        optimizer.step()
        assert optimizer.state[parameter]["adaptation"].item() == pytest.approx(left, rel=0.02, abs=0)


def test_tanh_is_exact_to_single_precision():
    x = torch.cat([torch.logspace(-37, 2, 100_000), torch.linspace(0, 12, 100_000)])
    x = torch.cat([x, -x, torch.tensor([0.0, math.inf, -math.inf])])
    for grad in (False, True):  # NumPy's, and that of many threads
        value, lost = x.clone(), torch.tensor([math.nan])
        with torch.set_grad_enabled(grad):
            tanh_(value, torch.empty_like(x))
            tanh_(lost, lost.clone())
        torch.testing.assert_close(value.double(), x.double().tanh(), rtol=4e-7, atol=1e-44)
        assert lost.isnan().all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_state_round_trip_continues_to_the_same_bits(variant):
    gradients = gradients_for(9, 20)
    whole, _ = run(gradients, variant=variant)
    parameter, optimizer = run(gradients[:10], variant=variant)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    resumed = Adaptation([parameter], lr=1.0, gain=1.0, slope=1.0, relaxation=1.0)
    resumed.load_state_dict(torch.load(file))
    for gradient in gradients[10:]:
        parameter.grad = torch.tensor(gradient)
        resumed.step()
    assert torch.equal(parameter, whole)


def test_groups_have_options_of_their_own_and_schedules_act_on_them():
    gradients = gradients_for(5, 10)
    first, second = (nn.Parameter(torch.zeros(5, dtype=torch.float64)) for _ in range(2))
    groups = [{"params": first}, {"params": [second], "lr": 0.2, "variant": "step", "slope": 1.0}]
    optimizer = Adaptation(groups, **OPTIONS)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=10, gamma=0.0)
    for gradient in gradients:
        first.grad = second.grad = torch.tensor(gradient)
        optimizer.step()
        schedule.step()
    assert torch.equal(first, run(gradients)[0])
    assert torch.equal(second, run(gradients, lr=0.2, variant="step", slope=1.0)[0])
    before = first.detach().clone(), second.detach().clone()
    optimizer.step()
    assert torch.equal(first, before[0])
    assert torch.equal(second, before[1])


def test_a_parameter_without_gradient_is_left_alone():
    parameter, optimizer = run([[1.0]])
    size = optimizer.step_size(parameter)
    weight = parameter.item()
    optimizer.zero_grad()
    optimizer.step()
    assert parameter.item() == weight
    assert torch.equal(optimizer.step_size(parameter), size)


def test_closure_is_evaluated_with_gradients():
    parameter = nn.Parameter(torch.tensor([3.0]))
    optimizer = Adaptation([parameter], **OPTIONS)

    def closure():
        optimizer.zero_grad()
        loss = (parameter**2).sum()
        loss.backward()
        return loss.detach()

    losses = [float(optimizer.step(closure)) for _ in range(20)]
    assert losses[0] == 9.0
    assert losses[-1] < 0.5


@pytest.mark.parametrize("rule", [apical.Backprop, apical.FeedbackAlignment, apical.BurstCCN])
def test_learns_after_a_rule(rule):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 3))
    circuit = apical.Circuit(model, rule())
    x = torch.randn(64, 20)
    target = x[:, :3].argmax(dim=1)
    circuit(x)
    optimizer = Adaptation(circuit.parameters(), lr=0.1, gain=0.1, slope=10.0, relaxation=0.07)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.cross_entropy(circuit(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("option", "value", "remedy"),
    [
        ("lr", -0.1, "at least 0"),
        ("lr", torch.tensor(0.1), "at least 0"),
        ("gain", math.nan, "at least 0"),
        ("weight_decay", -1.0, "at least 0"),
        ("slope", 0.0, "above 0"),
        ("slope", True, "above 0"),
        ("relaxation", 0.0, "above 0"),
        ("relaxation", math.inf, "above 0"),
        ("variant", "momentum", "'base', 'abs', 'step', 'sign'"),
        ("differentiable", True, "leave it False"),
    ],
)
def test_bad_options_are_refused(option, value, remedy):
    parameter = nn.Parameter(torch.zeros(1))
    with pytest.raises(ConfigError, match=f"{option} is .*{remedy}"):
        Adaptation([parameter], **{**OPTIONS, option: value})
    with pytest.raises(ConfigError, match=f"{option} is .*{remedy}"):
        Adaptation([{"params": [parameter], option: value}], **OPTIONS)


def test_complex_parameters_are_refused():
    with pytest.raises(ConfigError, match="view_as_real"):
        Adaptation([nn.Parameter(torch.zeros(1, dtype=torch.complex64))], **OPTIONS)


def test_sparse_gradients_are_refused_before_any_weight_changes():
    dense, embedding = nn.Parameter(torch.ones(1)), nn.Embedding(4, 2, sparse=True)
    optimizer = Adaptation([dense, *embedding.parameters()], **OPTIONS)
    (embedding(torch.tensor([1])).sum() + dense.sum()).backward()
    with pytest.raises(ConfigError, match="sparse=False"):
        optimizer.step()
    assert dense.item() == 1.0


def test_step_size_of_a_parameter():
    parameter, stranger = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    optimizer = Adaptation([parameter], **OPTIONS)
    torch.testing.assert_close(optimizer.step_size(parameter), torch.full((2,), OPTIONS["lr"]))
    with pytest.raises(ConfigError, match="add_param_group"):
        optimizer.step_size(stranger)


def test_named_parameters_and_copies():
    model = nn.Linear(3, 2)
    optimizer = Adaptation(model.named_parameters(), **OPTIONS)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    copied = copy.deepcopy(optimizer)
    assert copied.param_groups[0]["param_names"] == ["weight", "bias"]
