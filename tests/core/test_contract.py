"""The contract of a learning rule: what holds for every registered rule, with every option, in any circuit."""

import contextlib
import copy
import gc
import io
import pickle
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from circuits import (
    CLASSES,
    EXPLORES,
    HEBBIAN,
    NETWORKS,
    Row,
    assert_same,
    circuit_of,
    gradients,
    learn,
    loss_of,
    loss_on,
    plain,
    rows,
    steps,
)
from torch import Tensor, nn

import apical
from apical.errors import CircuitError, NonFiniteError
from apical.layers import Junction

ROWS = rows()
STEADY = [row for row in ROWS if not row.redraws]
every_rule = pytest.mark.parametrize("row", ROWS, ids=str)
every_steady_rule = pytest.mark.parametrize("row", STEADY, ids=str)
# Between them: dropout, batch norm, pooling, work in place, junctions and shortcuts.
SOME_NETWORKS = ("conv", "residual")


def _in_networks(networks: Sequence[str], of_variants: int) -> pytest.MarkDecorator:
    """Every rule with its defaults in all of these networks; with other options in so many, in turns."""
    pairs = []
    for number, row in enumerate(ROWS):
        turned = [*networks[number % len(networks) :], *networks[: number % len(networks)]]
        pairs += [(row, network) for network in (turned[:of_variants] if row.options else networks)]
    return pytest.mark.parametrize(("row", "network"), pairs, ids=[f"{row}-{network}" for row, network in pairs])


in_some_networks = _in_networks(SOME_NETWORKS, 1)
in_every_network = _in_networks(list(NETWORKS), 3)
one_by_one = pytest.mark.parametrize("network", ["mlp", "branching"])


def same_as(circuit: apical.Circuit, network: str, passes: int = 2, other: apical.Circuit | None = None) -> None:
    """Two circuits give the same gradients from here on, to the last bit."""
    assert other is not None
    for step in range(passes):
        x, y = NETWORKS[network].batch(seed=200 + step)
        assert_same(learn(circuit, x, y, seed=step), learn(other, x, y, seed=step))


def reloaded(state: dict[str, Tensor]) -> dict[str, Tensor]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# What a rule says of itself


@every_rule
def test_a_rule_describes_itself(row):
    rule = row.make()
    assert all(isinstance(text, str) and text.strip() for text in (rule.title, rule.summary, rule.paper, rule.needs))
    assert "\n" not in rule.summary
    assert rule.recommended.keys() <= {"learning_rate_factor", "weight_decay"}
    assert all(value > 0 for value in rule.recommended.values())
    assert rule.learns_from in {"error", *apical.losses.LOSSES}
    assert type(rule).__doc__


@every_rule
def test_options_are_kept_under_their_names(row):
    rule = row.make()
    assert row.options.items() <= rule.options().items()
    again = apical.rules.make(row.name, **rule.options())
    assert again.options() == rule.options()
    assert repr(again) == repr(rule)
    assert all(repr(value) in repr(rule) for value in row.options.values())


# What comes out


@in_every_network
def test_every_parameter_of_the_model_learns_something_finite(row, network):
    circuit = circuit_of(network, row)
    model, keys = circuit.model, list(circuit.model.state_dict())
    parameters = dict(model.named_parameters())
    x, y = NETWORKS[network].batch()
    assert circuit(x).shape == (len(x), CLASSES)
    found = plain(learn(circuit, x, y))
    assert found.keys() == parameters.keys()
    for name, gradient in found.items():
        assert gradient.shape == parameters[name].shape
        assert gradient.dtype == torch.float32
        assert torch.isfinite(gradient).all(), name
    if row.name not in EXPLORES:  # whose rewards may all be as usual
        assert all(found[f"{path}.weight"].count_nonzero() for path in NETWORKS[network].synapses)
    assert all(parameter is parameters[name] for name, parameter in circuit.model.named_parameters())
    assert list(model.state_dict()) == keys
    assert [key.removeprefix("model.") for key in circuit.state_dict() if key.startswith("model.")] == keys


@in_some_networks
def test_one_seed_gives_one_result(row, network):
    same_as(circuit_of(network, row), network, other=circuit_of(network, row))


@every_rule
def test_a_rule_leaves_the_generator_of_torch_alone(row):
    model = NETWORKS["mlp"].build()
    x, y = NETWORKS["mlp"].batch()
    before = torch.get_rng_state()
    circuit = apical.Circuit(model, row.make())
    for _ in range(3):
        loss_on(circuit, x, y).backward()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("row", [row for row in ROWS if row.seeded], ids=str)
@pytest.mark.parametrize("seed", [-1, 0, 2**40])
def test_any_integer_is_a_seed(row, seed):
    x, y = NETWORKS["mlp"].batch()
    found = [learn(apical.Circuit(NETWORKS["mlp"].build(), row.make(seed=seed)), x, y) for _ in range(2)]
    assert_same(*found)


@in_some_networks
def test_the_answer_is_the_models_own(row, network):
    circuit, model = circuit_of(network, row), NETWORKS[network].build()
    x, _ = NETWORKS[network].batch()
    if row.name in EXPLORES:
        circuit.eval(), model.eval()
    for _ in range(2):
        torch.manual_seed(5)
        answer = circuit(x)
        torch.manual_seed(5)
        assert torch.equal(answer, model(x))
    assert_same(dict(circuit.model.named_buffers()), dict(model.named_buffers()))


# State


@in_some_networks
def test_state_survives_a_file(row, network):
    circuit = circuit_of(network, row)
    list(steps(circuit, NETWORKS[network], 3))
    other = apical.Circuit(NETWORKS[network].build(seed=7), row.make(**({"seed": 7} if row.seeded else {})))
    other.load_state_dict(reloaded(circuit.state_dict()))
    same_as(circuit, network, other=other)


@every_rule
def test_state_can_be_loaded_before_and_after_the_first_answer(row):
    circuit = circuit_of("conv", row)
    untouched = copy.deepcopy(circuit)
    late, early = (apical.Circuit(NETWORKS["conv"].build(seed=7), row.make()) for _ in range(2))
    list(steps(late, NETWORKS["conv"], 1))
    list(steps(circuit, NETWORKS["conv"], 1))
    late.load_state_dict(reloaded(circuit.state_dict()))
    early.load_state_dict(reloaded(untouched.state_dict()))
    same_as(copy.deepcopy(circuit), "conv", other=late)
    same_as(untouched, "conv", other=early)


@pytest.mark.parametrize(("how", "answered"), [("deepcopy", False), ("deepcopy", True), ("pickle", True)])
@in_some_networks
def test_a_copy_goes_its_own_way(row, network, how, answered):
    circuit = circuit_of(network, row)
    if answered:
        list(steps(circuit, NETWORKS[network], 2))
    other = copy.deepcopy(circuit) if how == "deepcopy" else pickle.loads(pickle.dumps(circuit))
    before = copy.deepcopy(circuit.state_dict())
    list(steps(copy.deepcopy(other), NETWORKS[network], 2))
    same_as(circuit, network, other=other)
    circuit.load_state_dict(before)
    list(steps(other, NETWORKS[network], 1))
    now = circuit.state_dict()
    assert all(torch.equal(now[key], value) for key, value in before.items() if isinstance(value, Tensor))


@in_some_networks
def test_evaluation_changes_nothing(row, network):
    circuit = circuit_of(network, row)
    list(steps(circuit, NETWORKS[network], 2))
    x, y = NETWORKS[network].batch()
    circuit.eval()
    assert not circuit.model.training
    assert not circuit.rule.training
    before = copy.deepcopy(circuit.state_dict())
    with torch.no_grad():
        expected = circuit.model(x)
        assert torch.equal(circuit(x), expected)
    with torch.inference_mode():
        assert torch.equal(circuit(x), expected)
    answer = circuit(x)
    assert torch.equal(answer, expected)
    loss_of(circuit)(answer, y).backward()
    after = circuit.state_dict()
    assert before.keys() == after.keys()
    for key, value in before.items():
        if not key.endswith("_extra_state"):  # a backward pass draws, in every mode
            assert torch.equal(value, after[key]), key


@in_some_networks
def test_the_model_stays_an_ordinary_one(row, network):
    circuit = circuit_of(network, row)
    list(steps(circuit, NETWORKS[network], 1))
    alone = NETWORKS[network].build()
    alone.load_state_dict(circuit.model.state_dict())
    x, y = NETWORKS[network].batch()
    loss_on(circuit, x, y)  # an answer in between disturbs nobody
    alone.load_state_dict(circuit.model.state_dict())
    assert_same(learn(circuit.model, x, y), learn(alone, x, y))


@pytest.mark.parametrize("wrapped", [torch.no_grad, torch.inference_mode])
@every_rule
def test_no_gradient_wanted_none_made(row, wrapped):
    circuit = circuit_of("mlp", row)
    x, _ = NETWORKS["mlp"].batch()
    with wrapped():
        answer = circuit(x)
    assert not answer.requires_grad
    assert torch.equal(answer, circuit.model(x))
    assert not gradients(circuit)


# What a pass leaves behind


@pytest.fixture(scope="module")
def _small_heap():
    """Only what is made from here on is in the collector's sight, so that looking through it takes no time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@in_some_networks
def test_what_is_kept_of_an_answer_goes_with_it(row, network):
    circuit = circuit_of(network, row)
    forward = circuit.rule.forward
    kept: list[weakref.ref[Tensor]] = []

    def remember(*args: Any) -> Any:
        y, state = forward(*args)
        kept.extend(weakref.ref(tensor) for tensor in state.pack()[0] if tensor is not x)
        return y, state

    circuit.rule.forward = remember
    x, y = NETWORKS[network].batch()
    loss = loss_on(circuit, x, y)
    assert kept
    assert any(tensor() is not None for tensor in kept)
    loss.backward()
    del loss
    assert all(tensor() is None for tensor in kept)
    kept.clear()
    circuit(x)  # nobody learns from it
    assert kept
    assert all(tensor() is None for tensor in kept)


@pytest.mark.usefixtures("_small_heap")
@in_some_networks
def test_no_graph_is_left_behind(row, network):
    circuit = circuit_of(network, row)
    x, y = NETWORKS[network].batch()

    def step() -> int:
        circuit.zero_grad()
        loss_on(circuit, x, y).backward()
        circuit.zero_grad()
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())

    step()
    gc.collect()
    gc.disable()
    try:
        assert step() == step()
        gc.set_debug(gc.DEBUG_SAVEALL)
        step()
        loss_on(circuit, x, y)  # an answer that nobody learns from
        gc.collect()
        left = [type(thing) for thing in gc.garbage if type(thing).__module__.startswith(("torch", "apical"))]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not left


@in_some_networks
def test_gradients_accumulate(row, network):
    together, apart = circuit_of(network, row), circuit_of(network, row)
    batches = [NETWORKS[network].batch(seed=seed) for seed in (1, 2)]
    single = []
    for x, y in batches:
        single.append(learn(apart, x, y))
        torch.manual_seed(3)
        loss_on(together, x, y).backward()
    total = {name: single[0][name] + single[1][name] for name in single[0]}
    assert_same(gradients(together), total, rtol=1e-5, atol=1e-7)


@one_by_one
@every_steady_rule
def test_a_batch_learns_what_its_halves_learn(row, network):
    circuit = circuit_of(network, row)
    x, y = NETWORKS[network].batch(8)
    whole = learn(circuit, x, y)
    halves = [learn(circuit, *half) for half in ((x[:4], y[:4]), (x[4:], y[4:]))]
    mean = {name: (halves[0][name] + halves[1][name]) / 2 for name in whole}
    assert_same(whole, mean, rtol=1e-4, atol=1e-6)


@every_rule
def test_a_summed_loss_teaches_the_batch_size_times_as_much(row):
    x, y = NETWORKS["branching"].batch(8)
    mean = learn(circuit_of("branching", row), x, y)
    summed = circuit_of("branching", row, reduction="sum")
    total = learn(summed, x, y, partial(loss_of(summed), reduction="sum"))
    assert_same(total, {name: 8 * gradient for name, gradient in mean.items()}, rtol=1e-4, atol=1e-6)


@every_rule
@pytest.mark.parametrize("answered", [False, True])
def test_an_empty_batch_teaches_nothing(row, answered):
    circuit = circuit_of("deep_tanh", row)
    x, y = NETWORKS["deep_tanh"].batch()
    if answered:
        learn(circuit, x, y)
    circuit.zero_grad()
    loss_on(circuit, x[:0], y[:0], reduction="sum").backward()
    found = gradients(circuit)
    assert {f"model.{name}" for name, _ in circuit.model.named_parameters()} <= found.keys()
    assert not any(gradient.any() for gradient in found.values())


@in_some_networks
def test_one_graph_can_teach_twice_if_it_is_kept(row, network):
    circuit = circuit_of(network, row)
    x, y = NETWORKS[network].batch()
    loss = loss_on(circuit, x, y)
    loss.backward(retain_graph=True)
    first = gradients(circuit)
    circuit.zero_grad()
    loss.backward()
    if not row.redraws or row.name == "weight_mirror":
        assert_same(gradients(circuit), first)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@every_rule
def test_a_rules_update_is_not_differentiated_again(row):
    circuit = circuit_of("mlp", row)
    x, y = NETWORKS["mlp"].batch()
    weight = circuit.layers[0].weight
    (gradient,) = torch.autograd.grad(loss_on(circuit, x, y).square(), [weight], create_graph=True)
    with pytest.raises(CircuitError, match="create_graph"):
        gradient.square().sum().backward()


@every_rule
def test_an_answer_may_be_overwritten(row):
    x, y = NETWORKS["mlp"].batch()
    one, other = circuit_of("mlp", row), circuit_of("mlp", row)
    expected = learn(one, x, y, lambda answer, y: loss_of(one)(answer * 2 / 2, y))
    found = learn(other, x, y, lambda answer, y: loss_of(other)(answer.mul_(2) / 2, y))
    assert_same(found, expected)


def test_running_statistics_that_moved_since_the_answer_are_noticed():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)).eval()
    for hooks in (contextlib.nullcontext, torch.autograd.graph.save_on_cpu):
        with hooks():
            answer = apical.Circuit(model, apical.Backprop())(torch.randn(5, 4))
        model[1].reset_running_stats()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            answer.sum().backward()


def test_what_inference_mode_made_is_refused_with_the_remedy():
    with torch.inference_mode():
        x = torch.randn(5, 4)
    circuit = apical.Circuit(nn.Linear(4, 3), apical.Backprop())
    with pytest.raises(CircuitError, match=r"inference_mode.*x\.clone\(\)"):
        circuit(x)
    circuit(x.clone()).sum().backward()


@every_rule
def test_a_weight_that_moved_since_the_answer_is_noticed(row):
    circuit = circuit_of("mlp", row)
    x, y = NETWORKS["mlp"].batch()
    loss = loss_on(circuit, x, y)
    with torch.no_grad():
        circuit.layers[1].weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@in_some_networks
def test_two_circuits_live_side_by_side(row, network):
    alone = [circuit_of(network, row, seed=seed) for seed in (0, 1)]
    together = [copy.deepcopy(circuit) for circuit in alone]
    x, y = NETWORKS[network].batch()
    expected = [learn(circuit, x, y) for circuit in alone]
    losses = []
    for circuit in together:
        torch.manual_seed(3)
        losses.append(loss_on(circuit, x, y))
    for loss in losses:
        loss.backward()
    for circuit, one in zip(together, expected, strict=True):
        assert_same(gradients(circuit), one)


def test_two_circuits_share_one_model():
    model = NETWORKS["mlp"].build()
    x, y = NETWORKS["mlp"].batch()
    expected = {
        name: learn(apical.Circuit(NETWORKS["mlp"].build(), name), x, y) for name in ("backprop", "feedback_alignment")
    }
    circuits = {name: apical.Circuit(model, name) for name in expected}
    losses = {name: loss_on(circuit, x, y) for name, circuit in circuits.items()}
    for name, loss in losses.items():
        model.zero_grad()
        loss.backward()
        assert_same(gradients(circuits[name]), expected[name])


@every_rule
def test_activations_may_work_in_place(row):
    def network(inplace: bool) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(2, 4, 3),
            nn.ReLU(inplace),
            nn.Conv2d(4, 4, 1),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace),
            nn.Dropout(0.3, inplace),
            nn.Flatten(),
            nn.Linear(64, 8),
            nn.ELU(inplace=inplace),
            nn.Linear(8, CLASSES),
        )

    x, y = NETWORKS["conv"].batch()
    before = x.clone()
    assert_same(*(learn(apical.Circuit(network(inplace), row.make()), x, y) for inplace in (True, False)))
    assert torch.equal(x, before)


# Frozen parameters


def recorded(verb: Callable[..., Any], names: set[str], name: str) -> Callable[..., Any]:
    def record(*args: Any, **options: Any) -> Any:
        names.add(name)
        return verb(*args, **options)

    return record


def watched(circuit: apical.Circuit) -> dict[str, set[str]]:
    """The layers that were asked for an update, and for a way down, from now on."""
    asked: dict[str, set[str]] = {"plasticity": set(), "transpose_product": set()}
    for layer in circuit.layers:
        for verb, names in asked.items():
            setattr(layer.synapses, verb, recorded(getattr(layer.synapses, verb), names, layer.name))
    return asked


@in_some_networks
def test_frozen_parameters_cost_nothing(row, network):
    circuit = circuit_of(network, row, example=NETWORKS[network].batch()[0])
    *lower, last = NETWORKS[network].synapses
    circuit.model.requires_grad_(False)
    circuit.model.get_submodule(last).requires_grad_(True)
    asked = watched(circuit)
    found = learn(circuit, *NETWORKS[network].batch())
    assert plain(found).keys() == {f"{last}.weight", f"{last}.bias"}
    assert asked == {"plasticity": {last}, "transpose_product": set()}
    circuit.model.requires_grad_(True)
    circuit.model.get_submodule(lower[0]).requires_grad_(False)
    found = plain(learn(circuit, *NETWORKS[network].batch()))
    assert asked["plasticity"] == {*lower[1:], last}
    assert not any(name.startswith(f"{lower[0]}.") for name in found)


@in_some_networks
def test_what_is_not_frozen_learns_as_before(row, network):
    x, y = NETWORKS[network].batch()
    expected = learn(circuit_of(network, row), x, y)
    circuit = circuit_of(network, row)
    frozen = {f"model.{path}.{name}" for path in NETWORKS[network].synapses[::2] for name in ("weight", "bias")}
    for name, parameter in circuit.named_parameters():
        parameter.requires_grad_(name not in frozen)
    found = learn(circuit, x, y)
    assert not found.keys() & frozen
    missing = expected.keys() - found.keys() - frozen
    assert all(name.startswith("rule.") for name in missing)
    assert_same(found, {name: expected[name] for name in found})
    circuit.requires_grad_(True)
    if not row.redraws:
        assert_same(learn(circuit, x, y), expected)


@every_rule
def test_all_frozen_is_plain_answering(row):
    circuit = circuit_of("mlp", row)
    circuit.model.requires_grad_(False)
    circuit.rule.requires_grad_(False)
    x, _ = NETWORKS["mlp"].batch()
    assert not circuit(x).requires_grad


# The input


@every_rule
def test_the_input_is_taught_or_the_wish_refused(row):
    x, y = NETWORKS["mlp"].batch()
    x.requires_grad_()
    circuit = circuit_of("mlp", row)
    if circuit.rule.teaches_input:
        loss_on(circuit, x, y).backward()
        assert x.grad.shape == x.shape
        assert x.grad.count_nonzero()
    else:
        with pytest.raises(CircuitError, match=r"teach_input=True.*detach"):
            circuit(x)
    circuit = taught_input("mlp", row)
    x.grad = None
    loss_on(circuit, x, y).backward()
    assert x.grad.shape == x.shape
    assert torch.isfinite(x.grad).all()
    assert x.grad.count_nonzero()


def taught_input(network: str, row: Row) -> apical.Circuit:
    """A circuit that teaches its input, where the rule can."""
    try:
        return circuit_of(network, row, teach_input=True)
    except CircuitError as refused:
        if "teach_input=True" not in str(refused):
            raise
        pytest.skip("says that it cannot teach the input")


@every_rule
def test_a_taught_input_changes_no_other_update(row):
    circuit = taught_input("branching", row)
    x, y = NETWORKS["branching"].batch()
    twin = copy.deepcopy(circuit)
    assert_same(learn(circuit, x.requires_grad_(), y), learn(twin, x.detach(), y))


# A scaled loss


@every_rule
@pytest.mark.parametrize("given", [1024.0, 0.25, lambda: 1024.0], ids=["number", "accumulation", "function"])
def test_a_scaled_loss_teaches_the_same(row, given):
    """Powers of two, so that not one bit may differ."""
    x, y = NETWORKS["mlp"].batch()
    expected = learn(circuit_of("mlp", row), x, y)
    circuit = circuit_of("mlp", row, loss_scale=given)
    scale = given() if callable(given) else given
    found = learn(circuit, x, y, lambda output, target: loss_of(circuit)(output, target) * scale)
    assert_same(found, {name: update * scale for name, update in expected.items()})


# Numbers that are none


def lost_in(circuit: apical.Circuit, x: Tensor, y: Tensor, scale: float = 1.0) -> NonFiniteError:
    with pytest.raises(NonFiniteError) as caught:
        (loss_on(circuit, x, y) * scale).backward()
    return caught.value


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
@every_rule
def test_numbers_that_are_none_are_named(row, poison):
    x, y = NETWORKS["mlp"].batch()
    spoilt = x.clone()
    spoilt[2, 1, 1] = poison
    error = lost_in(circuit_of("mlp", row), spoilt, y)
    assert error.layer == "input"
    assert "input" in str(error)

    error = lost_in(circuit_of("mlp", row), x, y, abs(poison))
    assert error.layer == "loss"
    assert "loss" in str(error)

    circuit = circuit_of("mlp", row)
    circuit(x)
    with torch.no_grad():
        circuit.layers[1].weight[0, 0] = poison
    error = lost_in(circuit, x, y)
    assert error.layer == "3"
    assert str(error).startswith("3: the weight of its Linear holds NaN or infinity")


@pytest.mark.parametrize(
    ("parameter", "layer", "told"),
    [
        ("blocks.0.bn1.weight", "blocks.0.conv1", "the weight of its BatchNorm2d"),
        ("blocks.0.bn1.bias", "blocks.0.conv1", "the bias of its BatchNorm2d"),
        ("readout.bias", "readout", "the bias of its Linear"),
    ],
)
@every_rule
def test_the_parameter_that_is_none_is_named(row, parameter, layer, told):
    x, y = NETWORKS["residual"].batch()
    circuit = circuit_of("residual", row)
    circuit(x)
    with torch.no_grad():
        circuit.model.get_parameter(parameter)[0] = float("nan")
    error = lost_in(circuit, x, y)
    assert error.layer == layer
    assert str(error).startswith(f"{layer}: {told} holds NaN")


class SteepAtZero(nn.Module):
    """A neuron whose derivative is infinite where it is silent."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sign() * x.abs().sqrt()


@every_rule
def test_a_teaching_signal_that_is_none_is_named(row):
    model = nn.Sequential(nn.Linear(7, 8), nn.Tanh(), nn.Linear(8, 8), SteepAtZero(), nn.Linear(8, CLASSES))
    with torch.no_grad():
        model[2].weight[3] = 0
        model[2].bias[3] = 0
    circuit, batch = apical.Circuit(model, row.make()), NETWORKS["deep_tanh"].batch()
    if row.name in HEBBIAN:  # an infinite derivative is nothing to them
        assert all(torch.isfinite(gradient).all() for gradient in learn(circuit, *batch).values())
        return
    error = lost_in(circuit, *batch)
    assert error.layer == "2"
    assert "teaching signal" in str(error)


@every_rule
def test_weights_that_have_grown_too_large_are_named(row):
    x, y = NETWORKS["branching"].batch()
    circuit = circuit_of("branching", row)
    circuit(x)
    with torch.no_grad():
        circuit.model.merge.weight.fill_(3e38)
    error = lost_in(circuit, x, y)
    assert error.layer == "merge"
    assert "too large" in str(error)


@every_rule
def test_the_check_can_be_turned_off(row):
    x, y = NETWORKS["branching"].batch()
    circuit = circuit_of("branching", row, check_finite=False)
    circuit(x)
    (loss_on(circuit, x, y) * float("inf")).backward()
    assert not all(torch.isfinite(p.grad).all() for p in circuit.model.parameters())


@every_rule
def test_large_finite_numbers_are_no_mistake(row):
    circuit = circuit_of("deep_tanh", row)
    x, y = NETWORKS["deep_tanh"].batch(4)
    x = torch.full_like(x, 3e38)  # their sum is infinite
    if row.name in HEBBIAN and row.name != "three_factor":  # and so is a drive, of which their update is made
        assert lost_in(circuit, x, y).layer == "0"
        return
    learn(circuit, x, y)


# Rules come and go


@every_rule
def test_another_rule_finds_the_same_weights(row):
    circuit = circuit_of("residual", "backprop")
    parameters = dict(circuit.model.named_parameters())
    before = copy.deepcopy(circuit.model.state_dict())
    assert circuit.set_rule(row.make()) is circuit
    after = circuit.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(parameter is parameters[name] for name, parameter in circuit.model.named_parameters())
    x, y = NETWORKS["residual"].batch()
    assert_same(learn(circuit, x, y), learn(circuit_of("residual", row), x, y))
    circuit.rule = apical.Backprop()
    assert isinstance(circuit.rule, apical.Backprop)
    assert set(circuit.parameters()) == set(circuit.model.parameters())


@every_rule
def test_a_rule_does_not_teach_what_another_answered(row):
    circuit = circuit_of("mlp", "backprop")
    x, y = NETWORKS["mlp"].batch()
    loss = loss_on(circuit, x, y)
    circuit.set_rule(row.make())
    with pytest.raises(CircuitError, match="rule was changed"):
        loss.backward()


@every_rule
def test_a_rule_belongs_to_one_circuit(row):
    circuit = circuit_of("mlp", row)
    with pytest.raises(CircuitError, match="rule of another circuit") as refused:
        apical.Circuit(NETWORKS["deep_tanh"].build(), circuit.rule)
    assert f"{type(circuit.rule).__name__}(...)" in str(refused.value)
    freed = circuit.rule
    circuit.set_rule("backprop")
    x, y = NETWORKS["deep_tanh"].batch()
    other = apical.Circuit(NETWORKS["deep_tanh"].build(), freed)
    assert_same(learn(other, x, y), learn(circuit_of("deep_tanh", row), x, y))


def test_nodes_have_names_of_their_own():
    for network in NETWORKS.values():
        circuit = apical.Circuit(network.build(), "backprop")
        names = [node.name for node in circuit.wiring.nodes]
        assert len(set(names)) == len(names)
        assert tuple(layer.name for layer in circuit.layers) == network.synapses
        assert all(node.name in repr(node) for node in circuit.wiring.nodes)
        assert not any(isinstance(layer, Junction) for layer in circuit.layers)


def test_every_registered_rule_is_in_the_table():
    assert {row.name for row in ROWS} == set(apical.rules.names())
    assert all(isinstance(row, Row) for row in ROWS)
