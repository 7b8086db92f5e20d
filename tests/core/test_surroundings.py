"""The contract of a rule within PyTorch: types, autocast, the compiler, optimizers and schedules."""

import copy

import pytest
import torch
import torch.nn.functional as F
from circuits import (
    EXPLORES,
    HEBBIAN,
    NETWORKS,
    assert_same,
    circuit_of,
    gradients,
    learn,
    loss_of,
    loss_on,
    plain,
    rows,
)
from torch import Tensor, nn

import apical

ROWS = rows()
STEADY = [row for row in ROWS if not row.redraws]
every_rule = pytest.mark.parametrize("row", ROWS, ids=str)
every_steady_rule = pytest.mark.parametrize("row", STEADY, ids=str)


# Types of numbers


@pytest.mark.parametrize("network", ["mlp", "residual"])
@every_rule
def test_double_precision(row, network):
    x, y = NETWORKS[network].batch()
    single = circuit_of(network, row)
    double = copy.deepcopy(single).double()
    built_double = apical.Circuit(NETWORKS[network].build().double(), row.make())
    expected = learn(single, x, y)
    for circuit in (double, built_double):
        found = learn(circuit, x.double(), y)
        assert all(gradient.dtype == torch.float64 for gradient in found.values())
        assert all(b.dtype == torch.float64 for b in circuit.rule.buffers() if b.is_floating_point())
        assert_same({name: gradient.float() for name, gradient in found.items()}, expected, rtol=1e-3, atol=1e-5)


def flat(named: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in named.values()]).double()


@pytest.mark.parametrize("network", ["line", "residual", "branching", "nested"])
@every_rule
def test_autocast_to_bfloat16(row, network):
    x, y = NETWORKS[network].batch(32)
    expected = learn(circuit_of(network, row), x, y)
    circuit = circuit_of(network, row)
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16):
        answer = circuit(x)
        loss = loss_of(circuit)(answer, y)
    assert answer.dtype == torch.bfloat16
    loss.backward()
    found = gradients(circuit)
    assert all(gradient.dtype == torch.float32 for gradient in found.values())
    assert found.keys() == expected.keys()
    if row.name not in EXPLORES:
        assert torch.cosine_similarity(flat(found), flat(expected), dim=0) > 0.98


@every_rule
def test_autocast_leaves_the_plain_model_its_gradients(row):
    """Autocast keeps casts of the weights: one that was made without a graph must not serve the model."""
    circuit = circuit_of("mlp", row)
    x, y = NETWORKS["mlp"].batch()
    with torch.autocast("cpu", torch.bfloat16):
        circuit(x)
        loss = F.cross_entropy(circuit.model(x), y)
    loss.backward()
    assert gradients(circuit.model).keys() == dict(circuit.model.named_parameters()).keys()


# The compiler


# PyTorch's own: its compiler makes an instance of every autograd function that it reads.
compiles = pytest.mark.filterwarnings(
    "ignore:.*autograd.function.Function.*should not be instantiated:DeprecationWarning"
)


def compiled(circuit: apical.Circuit, x: Tensor, y: Tensor, *, whole: bool = True) -> dict[str, Tensor]:
    torch._dynamo.reset()
    try:
        found = learn(torch.compile(circuit, fullgraph=whole, backend="aot_eager"), x, y)
    finally:
        torch._dynamo.reset()
    return {name.removeprefix("_orig_mod."): gradient for name, gradient in found.items()}


@compiles
@every_rule
def test_the_compiler_sees_one_graph(row):
    circuit = circuit_of("mlp", row)
    x, y = NETWORKS["mlp"].batch()
    circuit(x)  # a rule whose weights depend on an answer's shape has them now
    expected = learn(copy.deepcopy(circuit), x, y)
    found = compiled(circuit, x, y)
    assert found.keys() == expected.keys()
    if row.redraws:  # there are no generators inside the compiler: other draws, of the same kind
        assert row.name in EXPLORES or torch.cosine_similarity(flat(found), flat(expected), dim=0) > 0.8
    else:
        assert_same(found, expected, rtol=1e-4, atol=1e-6)


@compiles
@pytest.mark.parametrize("given", [1024.0, lambda: 1024.0], ids=["number", "function"])
def test_the_compiler_divides_the_loss_scale_out(given):
    x, y = NETWORKS["mlp"].batch()
    expected = learn(circuit_of("mlp", "burst_ccn"), x, y)
    circuit = circuit_of("mlp", "burst_ccn", example=x, loss_scale=given)
    torch._dynamo.reset()
    scaled = torch.compile(circuit, backend="aot_eager")
    found = learn(scaled, x, y, lambda output, target: F.cross_entropy(output, target) * 1024)
    torch._dynamo.reset()
    for name, update in expected.items():
        torch.testing.assert_close(found[f"_orig_mod.{name}"], update * 1024, rtol=1e-4, atol=1e-3)


@compiles
@pytest.mark.parametrize("network", ["line", "residual", "branching"])
def test_the_compiler_sees_one_graph_of_a_larger_network(network):
    x, y = NETWORKS[network].batch()
    expected = learn(circuit_of(network, "feedback_alignment"), x, y)
    assert_same(compiled(circuit_of(network, "feedback_alignment"), x, y), expected, rtol=1e-3, atol=1e-5)


# PyTorch's own, too: its compiler looks at the .grad of every tensor of a graph that it is about to leave alone.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@compiles
def test_a_neuron_without_a_closed_form_breaks_the_graph_and_nothing_else():
    x, y = NETWORKS["nested"].batch()
    expected = learn(circuit_of("nested", "feedback_alignment"), x, y)
    found = compiled(circuit_of("nested", "feedback_alignment"), x, y, whole=False)
    assert_same(found, expected, rtol=1e-4, atol=1e-6)


# Optimizers


def fit(network: nn.Module, optimizer: torch.optim.Optimizer, count: int, clip: float = 0.0) -> list[float]:
    x, y = NETWORKS["line"].batch(16)
    losses = []
    for _ in range(count):
        optimizer.zero_grad()
        loss = loss_on(network, x, y)
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
            assert flat(gradients(network)).norm() <= clip * 1.001
        optimizer.step()
        losses.append(loss.item())
    return losses


OPTIMIZERS = {
    "sgd": lambda parameters, factor=1.0: torch.optim.SGD(parameters, 0.1 * factor, momentum=0.9, nesterov=True),
    "adam": lambda parameters, factor=1.0: torch.optim.Adam(parameters, 0.01),
    "adamw": lambda parameters, factor=1.0: torch.optim.AdamW(parameters, 0.01, weight_decay=0.01),
    "rmsprop": lambda parameters, factor=1.0: torch.optim.RMSprop(parameters, 0.003),
}


# Learned interneurons lose track of weights that move by Adam's steps, and say so.
@pytest.mark.filterwarnings("ignore:.*interneurons='reciprocal':UserWarning")
@every_rule
def test_optimizers_learn_by_every_rule(row):
    """They take turns: an optimizer sees gradients alone, and the next test has each of them."""
    place = [str(each) for each in ROWS].index(str(row))
    optimizer = [*OPTIMIZERS][place % len(OPTIMIZERS)]
    circuit = circuit_of("line", row)
    factor = circuit.rule.recommended.get("learning_rate_factor", 1.0)
    losses = fit(circuit, OPTIMIZERS[optimizer](circuit.parameters(), factor), 50, clip=1.0)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_makes_the_same_of_backprop_and_autograd(optimizer):
    circuit, model = circuit_of("line", "backprop"), NETWORKS["line"].build()
    losses = [fit(network, OPTIMIZERS[optimizer](network.parameters()), 10) for network in (circuit, model)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def descend(network: nn.Module) -> tuple[list[float], int]:
    """The losses at the start of some steps, and how often a gradient was asked for."""
    x, y = NETWORKS["branching"].batch(16)
    optimizer = torch.optim.LBFGS(network.parameters(), lr=0.05, max_iter=4)
    asked = 0

    def closure() -> Tensor:
        nonlocal asked
        asked += 1
        optimizer.zero_grad()
        loss = loss_on(network, x, y)
        loss.backward()
        return loss

    return [optimizer.step(closure).item() for _ in range(3)], asked


@every_rule
def test_an_optimizer_may_ask_several_times_a_step(row):
    circuit = circuit_of("branching", row)
    before = copy.deepcopy(circuit.model.state_dict())
    _, asked = descend(circuit)
    assert asked > 3
    after = circuit.model.state_dict()
    assert all(torch.isfinite(value).all() for value in after.values())
    moved = {name.removesuffix(".weight") for name, value in after.items() if not torch.equal(value, before[name])}
    resting = {"norm", "left.1"} if row.name in HEBBIAN else set()  # the gains of norms
    assert {name.removesuffix(".weight") for name in after if name.endswith("weight")} - moved == resting


def test_lbfgs_makes_the_same_of_backprop_and_autograd():
    found, expected = descend(circuit_of("branching", "backprop")), descend(NETWORKS["branching"].build())
    assert found[0] == pytest.approx(expected[0], rel=1e-3)
    assert found[0][-1] < found[0][0]


def test_hooks_of_parameters_see_the_rules_update():
    circuit = circuit_of("mlp", "feedback_alignment")
    seen = []
    circuit.layers[0].weight.register_hook(lambda gradient: seen.append(gradient.clone()))
    found = learn(circuit, *NETWORKS["mlp"].batch())
    assert torch.equal(seen[0], found["model.1.weight"])


def test_a_circuit_is_a_part_of_a_larger_network():
    """Autograd above and below, the rule in between."""
    encoder, decoder = nn.Linear(4, 7), nn.Linear(5, 3)
    middle = NETWORKS["branching"].build()
    x = torch.randn(6, 4)
    whole = nn.Sequential(encoder, middle, decoder)
    expected = learn(whole, x, torch.arange(6) % 3)
    taught = nn.Sequential(encoder, apical.Circuit(middle, "backprop"), decoder)
    found = {name.replace("model.", ""): g for name, g in learn(taught, x, torch.arange(6) % 3).items()}
    assert_same(found, expected, rtol=1e-4, atol=1e-6)
    taught = nn.Sequential(encoder, apical.Circuit(middle, "feedback_alignment", teach_input=True), decoder)
    found = learn(taught, x, torch.arange(6) % 3)
    assert found["0.weight"].count_nonzero()
    torch.testing.assert_close(found["2.weight"], expected["2.weight"])


def test_channels_last_changes_no_number():
    x, y = NETWORKS["residual"].batch()
    expected = plain(learn(circuit_of("residual", "backprop"), x, y))
    circuit = circuit_of("residual", "backprop").to(memory_format=torch.channels_last)
    found = plain(learn(circuit, x.to(memory_format=torch.channels_last), y))
    assert_same(found, expected, rtol=1e-4, atol=1e-6)


@every_rule
def test_one_sample_is_a_batch(row):
    x, y = NETWORKS["line"].batch(1)
    found = learn(circuit_of("line", row), x, y)
    assert all(torch.isfinite(gradient).all() for gradient in found.values())
