"""The gate of hidden units by context: its equation, and what each context leaks."""

import copy
import warnings

import naca_reference
import pytest
import torch
import torch.nn.functional as F
from circuits import assert_same, learn
from torch import Tensor, nn

import apical
from apical.errors import CircuitError, ConfigError, DataError

LABELS = torch.arange(8) % 3


def inputs(samples: int = 8, seed: int = 1) -> Tensor:
    return torch.randn(samples, 3, 6, generator=torch.Generator().manual_seed(seed))


def network(mode: str = "none", **options: float) -> tuple[apical.Context, nn.Sequential]:
    """Two gated hidden layers that share a context."""
    torch.manual_seed(0)
    context = apical.Context(mode, contexts=3 if mode == "oracle" else None)
    if mode == "oracle":
        context.tell(LABELS)
    first = (nn.Linear(18, 30), nn.Tanh(), apical.ContextGate(context, **options))
    second = (nn.Linear(30, 12), nn.Tanh(), apical.ContextGate(context, **options))
    return context, nn.Sequential(nn.Flatten(), context, *first, *second, nn.Linear(12, 3))


def expected(mode: str, x: Tensor, units: int, margin: float = 0.2, sharpness: float = 1000.0) -> Tensor:
    rows = []
    for sample, label in zip(x, LABELS.tolist(), strict=False):
        if mode == "oracle":
            rows.append(torch.tensor([float(j % 3 == label) for j in range(units)]))
        else:
            image = x.mean(0) if mode == "batch" else sample
            rows.append(torch.from_numpy(naca_reference.gate(image.numpy(), units, margin, sharpness)).float())
    return torch.stack(rows)


@pytest.mark.parametrize("mode", ["batch", "sample", "oracle"])
@pytest.mark.parametrize("options", [{}, {"margin": 0.5, "sharpness": 3.0}], ids=str)
def test_the_gate_in_loops(mode, options):
    context, model = network(mode, **options)
    x = inputs()
    context(x)
    rates = torch.rand(8, 30) + 1
    torch.testing.assert_close(model[4](rates), rates * expected(mode, x, 30, **options))
    maps = rates.view(8, 5, 6)
    torch.testing.assert_close(model[4](maps), (rates * expected(mode, x, 30, **options)).view(8, 5, 6))


def test_winners_of_a_projection_are_open():
    def gates(x: Tensor, seed: int, share: float, units: int) -> Tensor:
        context = apical.Context("projection", share=share, seed=seed)
        context(x)
        return apical.ContextGate(context)(torch.ones(len(x), units))

    x = inputs()
    for share, units, count in ((0.2, 30, 6), (0.01, 30, 1), (1.0, 12, 12)):
        found = gates(x, 4, share, units)
        assert found.sum(1).tolist() == [count] * 8
        assert set(found.unique().tolist()) <= {0.0, 1.0}
    found = gates(x, 4, 0.2, 30)
    assert torch.equal(gates(x, 4, 0.2, 30), found)
    assert torch.equal(gates(3 * x + 2, 4, 0.2, 30), found)  # neither contrast nor brightness matters
    assert not torch.equal(gates(x, 5, 0.2, 30), found)
    # Drives are linear: those of the 18 inputs, one at a time, give those of x, and the largest are open.
    context = apical.Context("projection", share=0.2, seed=4)
    context(torch.eye(18))
    apical.ContextGate(context)(torch.ones(18, 30))
    drives = x.flatten(1) @ context._projections[30]
    for row, opened in zip(drives, found, strict=True):
        assert {*row.argsort()[-6:].tolist()} == {*opened.nonzero()[:, 0].tolist()}
    torch.testing.assert_close(context._projections[30].sum(0), torch.zeros(30), atol=1e-5, rtol=0)


def test_it_is_off_by_default():
    _, model = network()
    assert apical.Context().mode == "none"
    plain = nn.Sequential(*(m for m in model if not isinstance(m, apical.Context | apical.ContextGate)))
    assert torch.equal(model(inputs()), plain(inputs()))


@pytest.mark.parametrize(
    ("mode", "leaks"), [("none", False), ("sample", False), ("projection", False), ("batch", True)]
)
@pytest.mark.parametrize("size", [1, 3])
def test_what_the_other_samples_of_a_batch_change(mode, leaks, size):
    _, model = network(mode)
    model.eval()
    x = inputs()
    cut = torch.cat([model(part) for part in x.split(size)])
    assert (not torch.allclose(cut, model(x), atol=1e-5)) == leaks


def test_the_oracle_depends_on_the_label_alone():
    context, model = network("oracle")
    together = model(inputs())
    for label in range(3):
        context.tell(label)
        chosen = label == LABELS
        torch.testing.assert_close(model(inputs()[chosen]), together[chosen])
    context.tell((LABELS + 1) % 3)
    assert not torch.allclose(model(inputs()), together, atol=1e-3)


@pytest.mark.parametrize("mode", ["none", "batch", "sample", "projection", "oracle"])
def test_backprop_through_the_gate_is_autograds(mode):
    _, model = network(mode)
    circuit = apical.Circuit(copy.deepcopy(model), "backprop")
    found = {name.removeprefix("model."): g for name, g in learn(circuit, inputs(), LABELS).items()}
    assert_same(found, learn(model, inputs(), LABELS))


@pytest.mark.parametrize("mode", ["batch", "sample", "oracle"])
def test_naca_learns_at_open_gates_alone(mode):
    _, model = network(mode)
    circuit = apical.Circuit(model, "naca")
    x = inputs()
    found = learn(circuit, x, LABELS)["model.2.weight"]
    levels = circuit.rule.pathway.weights[circuit.layers[0]].numpy()
    told = torch.stack([torch.from_numpy(naca_reference.told(levels, label, 0.5, 1.2)) for label in LABELS.tolist()])
    slope = 1 - torch.tanh(model[2](x.flatten(1))).square()
    delta = told.float() * slope * expected(mode, x, 30)
    torch.testing.assert_close(found, (delta.T @ x.flatten(1) / 8).detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rule", apical.rules.names())
@pytest.mark.parametrize("mode", ["batch", "sample"])
def test_every_rule_teaches_a_gated_network(rule, mode):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        circuit = apical.Circuit(network(mode)[1], rule)
        gradients = learn(circuit, inputs(), LABELS)
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert gradients["model.2.weight"].any()


def test_a_network_that_settles_keeps_the_gate_of_its_forward_pass():
    rule = {"variant": "strict", "steps": 5, "loss": "cross_entropy"}
    circuits = [apical.Circuit(network("sample")[1], apical.PredictiveCoding(**rule)) for _ in range(2)]
    outputs = [circuit(inputs()) for circuit in circuits]
    circuits[0].model(inputs(seed=2))  # another input is read in between
    for output in outputs:
        F.cross_entropy(output, LABELS).backward()
    first, second = ([p.grad for p in circuit.model.parameters()] for circuit in circuits)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_copy_has_a_context_of_its_own():
    _, model = network("sample")
    twin, before = copy.deepcopy(model), model(inputs())
    twin(inputs(seed=2))
    assert torch.equal(model[4:](torch.tanh(model[2](inputs().flatten(1)))), before)
    assert not [key for key in model.state_dict() if "gate" in key or "context" in key]


# Refusals


def test_wrong_options_are_refused():
    with pytest.raises(ConfigError, match="mode='mean'"):
        apical.Context("mean")
    for share in (0, 1.5, float("nan")):
        with pytest.raises(ConfigError, match="share"):
            apical.Context("projection", share=share)
    for options in ({"mode": "oracle"}, {"mode": "batch", "contexts": 3}, {"mode": "oracle", "contexts": 0}):
        with pytest.raises(ConfigError, match="contexts="):
            apical.Context(**options)
    for options in ({"margin": 0.0}, {"sharpness": float("inf")}):
        with pytest.raises(ConfigError, match=r"margin=0\.0|sharpness=inf"):
            apical.ContextGate(apical.Context(), **options)


def test_an_oracle_without_the_labels_of_this_batch_is_refused():
    context = apical.Context("oracle", contexts=3)
    with pytest.raises(CircuitError, match=r"no labels .*tell"):
        context(inputs())
    context.tell(LABELS)
    with pytest.raises(CircuitError, match=r"8 labels for 5 .*tell"):
        context(inputs(5))
    for labels in (3, -1, torch.tensor([0.5])):
        with pytest.raises(DataError, match="0 to 2"):
            context.tell(labels)
    with pytest.raises(ConfigError, match="'sample'"):
        apical.Context("sample").tell(0)


def test_a_context_that_has_read_nothing_is_refused():
    with pytest.raises(CircuitError, match="ContextGate"):
        apical.ContextGate(apical.Context("batch"))(torch.rand(2, 3))
