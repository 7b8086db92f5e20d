"""Circuits in time: closed forms against autograd, every rule that takes time, e-prop against traces kept forward."""

import copy
import itertools
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import apical
from apical import neurons, rules
from apical.errors import CircuitError, ConfigError
from apical.neurons import ALIF, IF, LIF, LeakyReadout, OverTime
from apical.neurons.surrogates import SURROGATES

LABELS = torch.tensor([0, 1, 2, 0])
TAKES_TIME = [name for name in rules.names() if rules.get(name).takes_time]
SWEEPS = [name for name in TAKES_TIME if name not in ("burst_ccn", "burstprop", "naca", "agrel", "brainprop")]


def sequence(*shape: int, moments: int = 6, constant: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    if constant:
        return (3 * torch.rand(4, *shape, generator=generator).double()).expand(moments, 4, *shape)
    return 3 * torch.rand(moments, 4, *shape, generator=generator).double()


def square(units: int, wanted: bool) -> nn.Linear | None:
    return nn.Linear(units, units, bias=False) if wanted else None


def dense(kind=LIF, *, average=True, recurrent=False, seed=1, **options) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(5, 7),
        kind(0.8, 0.5, recurrent=square(7, recurrent), **options),
        nn.Linear(7, 6),
        kind(0.8, 0.5, recurrent=square(6, recurrent), **options),
        nn.Linear(6, 3),
        LeakyReadout(0.7, average=average),
    ).double()


class Residual(nn.Module):
    def __init__(self, average: bool = True) -> None:
        super().__init__()
        self.first, self.one = nn.Linear(5, 6), LIF(0.8, 0.5)
        self.second, self.two = nn.Linear(6, 6), ALIF(0.8, 0.5)
        self.last, self.readout = nn.Linear(6, 3), LeakyReadout(0.7, average=average)

    def forward(self, x):
        x = self.one(self.first(x))
        return self.readout(self.last(x + self.two(self.second(x))))


def conv(average: bool = True) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), LIF(0.8, 0.5), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(64, 3), LeakyReadout(0.7, average=average)),
    )


def early(average: bool = True) -> nn.Sequential:
    """Averaged before the last synapses, or never."""
    middle = LeakyReadout(0.0, average=average)
    return nn.Sequential(nn.Linear(5, 7), LIF(0.8, 0.5), middle, nn.Linear(7, 3))


NETWORKS = {"dense": dense, "residual": Residual, "conv": conv, "early": early}


def network(name: str, average: bool = True) -> nn.Module:
    torch.manual_seed(1)
    return NETWORKS[name](average=average).double()


def inputs(name: str, **options) -> torch.Tensor:
    return sequence(*((1, 8, 8) if name == "conv" else (5,)), **options)


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def compare(model: nn.Module, other: nn.Module, x: torch.Tensor) -> None:
    """A circuit by backpropagation and plain autograd over time: outputs and gradients."""
    y, expected = apical.Circuit(model, "backprop")(x), OverTime(other)(x)
    assert torch.allclose(y, expected, atol=1e-12)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(3), dtype=y.dtype)
    (y * weights).sum().backward()
    (expected * weights).sum().backward()
    for name, found in gradients(model).items():
        own = gradients(other)[name]
        assert own.abs().max() > 0, name
        assert torch.allclose(found, own, rtol=1e-11, atol=1e-12), name


@pytest.mark.parametrize(("kind", "surrogate"), [*itertools.product((LIF, ALIF), SURROGATES)])
def test_gradients_are_those_of_a_plain_loop(kind, surrogate):
    """Resets, detached or not, recurrence, a constant input, averages: in float64."""
    for reset, detach, recurrent, constant, average in itertools.product(
        ("zero", "subtract", "none"), *[(False, True)] * 4
    ):
        options = {"reset": reset, "detach_reset": detach, "surrogate": surrogate, "recurrent": recurrent}
        model = dense(kind, average=average, **options)
        compare(model, copy.deepcopy(model), sequence(5, constant=constant))


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("kind", [LIF, ALIF])
def test_gradients_of_a_mean_are_those_of_a_plain_loop(kind, surrogate):
    """One layer whose spikes are averaged, behind synapses or before, in one part and in several."""
    for reset, detach, constant, early in itertools.product(("zero", "subtract", "none"), *[(False, True)] * 3):
        torch.manual_seed(1)
        last = [LeakyReadout(0.3), nn.Linear(7, 3)] if early else [nn.Linear(7, 3), LeakyReadout(0.7)]
        hidden = kind(0.8, 0.5, reset=reset, detach_reset=detach, surrogate=surrogate)
        model = nn.Sequential(nn.Linear(5, 7), hidden, *last).double()
        compare(model, copy.deepcopy(model), sequence(5, constant=constant))


@pytest.mark.parametrize("constant", [True, False])
def test_a_batch_that_is_larger_than_the_cache_is_passed_in_parts(constant):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 20_000), LIF(0.8, 0.5), nn.Linear(20_000, 3), LeakyReadout(0.7)).double()
    compare(model, copy.deepcopy(model), sequence(5, constant=constant))


def kept(model: nn.Module, x: torch.Tensor) -> int:
    """Numbers that a forward pass saves for the backward pass, without the weights and the input."""
    given = {each.data_ptr() for each in (*model.parameters(), x)}
    sizes = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in given:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor

    circuit = apical.Circuit(model, "backprop")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        circuit(x)
    return sum(sizes.values())


def test_what_a_step_keeps_is_one_number_a_neuron_and_moment_or_none():
    model = nn.Sequential(nn.Linear(5, 50), LIF(), nn.Linear(50, 3), LeakyReadout()).double()
    changing = [kept(model, sequence(5, moments=moments)) for moments in (8, 16)]
    assert changing[1] - changing[0] == 8 * 4 * 50
    constant = [kept(model, sequence(5, moments=moments, constant=True)) for moments in (8, 16)]
    assert constant[1] == constant[0] < 4 * 50 * 3


@pytest.mark.parametrize("kind", [LIF, ALIF])
@pytest.mark.parametrize("reset", ["zero", "subtract", "none"])
def test_bursts_of_a_constant_input_are_those_of_every_moment(kind, reset):
    found, seen = [], {}
    for constant, observed in ((True, False), (True, True), (False, False)):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(5, 70), kind(0.8, 0.5, reset=reset), nn.Linear(70, 3), LeakyReadout(0.7))
        circuit = apical.Circuit(model.double(), "burst_ccn")
        x = sequence(5, constant=True)
        if observed:
            circuit.observe(lambda layer, quantities: seen.setdefault(layer, quantities))
        shown = x if constant else x.clone(memory_format=torch.contiguous_format)
        for _ in range(2):  # the watch on the scale of errors observes the first pass
            circuit.zero_grad()
            (5 * F.cross_entropy(circuit(shown), LABELS)).backward()
        found.append(model[0].weight.grad)
    assert found[0].abs().max() > 0
    assert torch.allclose(found[1], found[0], rtol=1e-11, atol=1e-13)
    assert torch.allclose(found[2], found[0], rtol=1e-11, atol=1e-13)
    silent = seen["0"]["event_rate"] < 0.5
    assert silent.any()
    assert not silent.all()
    assert not seen["0"]["burst_modulation"][silent].any()


@pytest.mark.parametrize("average", [True, False])
def test_bursts_of_a_spiking_output_are_those_of_every_moment(average):
    found = []
    for constant in (True, False):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(5, 7), LIF(0.8, 0.5), *[LeakyReadout(0.7)] * average).double()
        circuit, x = apical.Circuit(model, "burst_ccn"), sequence(5, constant=True)
        shown = x if constant else x.clone(memory_format=torch.contiguous_format)
        for _ in range(2):  # the watch on the scale of errors observes the first pass
            circuit.zero_grad()
            y = circuit(shown)
            (5 * F.cross_entropy(y if average else y.mean(0), LABELS)).backward()
        found.append(model[0].weight.grad)
    assert found[0].abs().max() > 0
    assert torch.allclose(*found, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_its_plain_self_over_time(name, constant, average):
    model = network(name, average)
    other = copy.deepcopy(model)
    x = inputs(name, constant=constant)
    compare(model, other, x)
    with torch.no_grad():  # batch norm: over time x batch, with the same running statistics
        assert torch.allclose(apical.Circuit(model, "backprop").eval()(x), OverTime(other).eval()(x), atol=1e-12)


def test_what_is_the_same_at_every_moment_passes_synapses_once():
    model = dense()
    seen = []
    circuit = apical.Circuit(model, "backprop")
    kind = type(circuit.layers[0].synapses)
    forward = kind.forward

    def counted(own, pre):
        seen.append(len(pre))
        return forward(own, pre)

    kind.forward = counted
    try:
        circuit(sequence(5, constant=True))
    finally:
        kind.forward = forward
    assert seen == [4, 24, 4]  # and the last, whose spikes are averaged, once


def loss(rule: str, y: torch.Tensor) -> torch.Tensor:
    if rules.get(rule).learns_from == "error":
        return F.cross_entropy(y, LABELS)
    return apical.losses.reward_prediction(y, LABELS, generator=torch.Generator().manual_seed(0))


def learned(rule: str, name: str, average: bool, x: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    circuit = apical.Circuit(network(name, average), rule)
    y = circuit(inputs(name) if x is None else x)
    loss(rule, y if average else y.mean(0)).backward()
    return {path: own.grad for path, own in circuit.named_parameters()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["dense", "conv", "residual"])
@pytest.mark.parametrize("rule", [name for name in TAKES_TIME if name != "burstprop"])
def test_a_mean_in_the_model_teaches_what_a_mean_in_the_loss_does(rule, name):
    inside, outside = learned(rule, name, True), learned(rule, name, False)
    assert all(found is not None and found.abs().max() > 0 for found in inside.values())
    for path, found in inside.items():
        assert torch.allclose(found, outside[path], rtol=1e-9, atol=1e-13), path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rule", TAKES_TIME)
def test_a_constant_input_teaches_as_one_that_is_repeated(rule):
    constant = inputs("dense", constant=True)
    once, repeated = (learned(rule, "dense", True, x) for x in (constant, constant.contiguous()))
    for path, found in once.items():
        assert torch.allclose(found, repeated[path], rtol=1e-10, atol=1e-14), path


class Apart(torch.autograd.Function):
    """A product with W, back over V."""

    @staticmethod
    def forward(ctx, x, w, v):
        ctx.save_for_backward(x, v)
        return x @ w.T

    @staticmethod
    def backward(ctx, error):
        x, v = ctx.saved_tensors
        return error @ v, error.T @ x, None


class LinearApart(nn.Module):
    def __init__(self, linear: nn.Linear, feedback: torch.Tensor) -> None:
        super().__init__()
        self.weight, self.bias, self.feedback = linear.weight, linear.bias, feedback

    def forward(self, x):
        return Apart.apply(x, self.weight, self.feedback) + self.bias


@pytest.mark.parametrize("kind", [LIF, ALIF])
@pytest.mark.parametrize("feedback", ["tied", "fixed", "kolen_pollack", "sign_symmetric"])
@pytest.mark.parametrize(
    ("rule", "loss"), [("brainprop", apical.losses.reward_prediction), ("agrel", apical.losses.agrel)]
)
def test_a_choice_in_time_teaches_as_autograd_does_over_feedback_apart(rule, loss, feedback, kind):
    """A loop over moments, whose products go back over the attention's weights."""
    for constant in (False, True):
        model, x = dense(kind), sequence(5, constant=constant)
        circuit = apical.Circuit(model, rules.make(rule, feedback=feedback)).double()
        copied = copy.deepcopy(model)
        synapses = {
            int(layer.name): circuit.rule.pathway.weight(layer).detach().clone() for layer in circuit.layers[1:]
        }
        plain = [LinearApart(each, synapses[at]) if at in synapses else each for at, each in enumerate(copied)]
        action = torch.tensor([2, 1, 0, 0])
        for learner in (circuit, OverTime(nn.Sequential(*plain))):
            loss(learner(x), LABELS, action=action).backward()
        for name, found in gradients(model).items():
            assert found.abs().max() > 0, name
            assert torch.allclose(found, gradients(copied)[name], rtol=1e-11, atol=1e-13), name


@pytest.mark.parametrize("rule", sorted(set(rules.names()) - set(TAKES_TIME)))
def test_rules_without_a_meaning_in_time_are_refused(rule):
    with pytest.raises(CircuitError, match="memory"):
        apical.Circuit(dense(), rule)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rule", SWEEPS)
def test_recurrent_synapses_learn_from_the_spike_before(rule):
    """Their update is the neuron's own signal times the spike before, whatever brought the signal."""
    model = nn.Sequential(nn.Linear(5, 7), LIF(0.8, 0.5, recurrent=square(7, True)), nn.Linear(7, 3)).double()
    circuit, signals = apical.Circuit(model, rule), {}
    x = sequence(5)

    def keep(layer, quantities):
        if "teaching_signal" in quantities:
            signals[layer] = quantities["teaching_signal"]

    with circuit.observe(keep):
        F.cross_entropy(circuit(x).flatten(0, 1), LABELS.repeat(6)).backward()
    with torch.no_grad():
        spikes = OverTime(model[:2])(x)
    before = torch.cat([torch.zeros_like(spikes[:1]), spikes[:-1]]).flatten(0, 1)
    assert torch.allclose(model[1].recurrent.weight.grad, signals["0"].t() @ before, atol=1e-12)


@pytest.mark.parametrize("rule", ["backprop", "feedback_alignment", "direct_feedback_alignment", "burst_ccn", "e_prop"])
def test_copies_pickles_and_saved_tensors(rule):
    x = sequence(5)

    def update(circuit):
        circuit.zero_grad()
        F.cross_entropy(circuit(x), LABELS).backward()
        return [own.grad.clone() for own in circuit.parameters()]

    recurrent = rule != "burst_ccn"
    circuit = apical.Circuit(dense(recurrent=recurrent), rule, example=x)
    expected = update(circuit)
    others = [copy.deepcopy(circuit), pickle.loads(pickle.dumps(circuit))]
    fresh = apical.Circuit(dense(recurrent=recurrent, seed=5), rule, example=x)
    fresh.load_state_dict(circuit.state_dict())
    for other in (*others, fresh):
        assert all(torch.equal(a, b) for a, b in zip(update(other), expected, strict=True))
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.clone(), lambda tensor: tensor):
        assert all(torch.allclose(a, b) for a, b in zip(update(circuit), expected, strict=True))


def test_the_input_can_be_taught():
    x, other = sequence(5).requires_grad_(), sequence(5).requires_grad_()
    model = dense()
    apical.Circuit(model, "backprop", teach_input=True)(x).sum().backward()
    OverTime(copy.deepcopy(model))(other).sum().backward()
    assert torch.allclose(x.grad, other.grad, atol=1e-12)
    still = sequence(5)[0].clone().requires_grad_()
    apical.Circuit(model, "backprop", teach_input=True)(still.expand(6, 4, 5)).sum().backward()
    plain = sequence(5)[0].clone().requires_grad_()
    OverTime(copy.deepcopy(model))(plain.expand(6, 4, 5)).sum().backward()
    assert torch.allclose(still.grad, plain.grad, atol=1e-12)
    whole = sequence(5, constant=True).requires_grad_()  # itself a leaf: each moment has a gradient
    apical.Circuit(copy.deepcopy(model), "backprop", teach_input=True)(whole).sum().backward()
    plain = sequence(5, constant=True).contiguous().requires_grad_()
    OverTime(copy.deepcopy(model))(plain).sum().backward()
    assert torch.allclose(whole.grad, plain.grad, atol=1e-12)


def test_a_state_continues_where_it_ended():
    model, x = dense(ALIF, average=False, recurrent=True), sequence(5, moments=8)
    whole = apical.Circuit(copy.deepcopy(model), "backprop")(x)
    circuit = apical.Circuit(model, "backprop")
    circuit.continue_state()
    pieces = [circuit(x[:3]), circuit(x[3:])]
    assert torch.allclose(torch.cat(pieces), whole, atol=1e-12)
    pieces[1].sum().backward()  # credit ends where the piece began
    circuit.continue_state(False)
    assert torch.allclose(circuit(x), whole, atol=1e-12)


@pytest.mark.parametrize("rule", ["backprop", "e_prop"])
def test_another_rule_continues_the_state(rule):
    model, x = dense(average=False), sequence(5)
    found = []
    for second in ("backprop", rule):
        circuit = apical.Circuit(copy.deepcopy(model), "backprop")
        circuit.continue_state()
        circuit(x)
        circuit.set_rule(second)  # whose state is made at rest
        found.append(circuit(x))
    assert torch.allclose(*found, atol=1e-12)
    assert not torch.allclose(found[0], apical.Circuit(model, "backprop")(x))
    with pytest.raises(CircuitError, match="4 samples"):
        circuit(x[:, :3])


@pytest.mark.parametrize("rule", ["naca", "burst_ccn"])
def test_a_rule_that_is_refused_leaves_the_old_one_as_it_was(rule):
    circuit, x = apical.Circuit(network("residual"), rule), inputs("residual")

    def update():
        circuit.zero_grad()
        F.cross_entropy(circuit(x), LABELS).backward()
        return [own.grad.clone() for own in circuit.parameters()]

    expected = update()
    with pytest.raises(CircuitError, match="chain"):
        circuit.set_rule(apical.EProp(feedback="symmetric"))
    assert circuit.rule.name == rule
    assert all(torch.equal(a, b) for a, b in zip(update(), expected, strict=True))


def test_naca_knows_the_spike_before_a_piece():
    model, x = dense(), sequence(5)
    found = []
    for cuts in ((6,), (5, 1)):
        circuit = apical.Circuit(copy.deepcopy(model), apical.NACA(seed=4), example=x)
        circuit.continue_state()
        for piece in x.split(cuts):
            circuit.zero_grad()
            F.cross_entropy(circuit(piece), LABELS).backward()
        found.append(circuit.model[0].weight.grad)
    assert torch.equal(*(update != 0 for update in found))


class Before(nn.Module):
    """A network with another module before the neurons, in training."""

    def __init__(self, module: nn.Module, at_drive: bool) -> None:
        super().__init__()
        parts = [nn.Linear(5, 7), module] if at_drive else [module, nn.Linear(5, 7)]
        self.parts = nn.Sequential(*parts, LIF(0.8, 0.5), nn.Linear(7, 3), LeakyReadout(0.7))

    def forward(self, x):
        return self.parts(x)


class Noise(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


@pytest.mark.parametrize(
    ("module", "at_drive"),
    [(nn.Dropout(0.5), False), (nn.Dropout(0.5), True), (nn.BatchNorm1d(7), True), (Noise(), False)],
)
def test_what_varies_from_moment_to_moment_does_so_for_a_constant_input(module, at_drive):
    torch.manual_seed(1)
    model = Before(module, at_drive).double()
    other, x, found = copy.deepcopy(model), sequence(5, constant=True), []
    for run in (apical.Circuit(model, "backprop"), OverTime(other)):
        torch.manual_seed(0)
        found.append(run(x))
    assert torch.allclose(*found, atol=1e-12)
    for one, two in zip(model.buffers(), other.buffers(), strict=True):
        assert torch.allclose(one, two, atol=1e-12)


def test_a_circuit_that_computes_its_input_learns_from_each_moment():
    torch.manual_seed(1)
    model, x = nn.Sequential(nn.Linear(5, 7), LIF(0.8, 0.5), nn.Linear(7, 5)).double(), sequence(5)
    other = copy.deepcopy(model)
    value = apical.Circuit(model, "backprop").learn(x)
    expected = (OverTime(other)(x) - x).square().sum(2).mean() / 2
    expected.backward()
    assert torch.allclose(value, expected)
    assert torch.allclose(model[0].weight.grad, other[0].weight.grad, atol=1e-13)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rule", ["direct_feedback_alignment", "burst_ccn", "e_prop"])
def test_the_batch_axis_is_the_second_whether_named_or_not(rule):
    found = []
    for axis in (0, 1):
        circuit = apical.Circuit(dense(), rule, batch_axis=axis)
        F.cross_entropy(circuit(sequence(5)), LABELS).backward()
        found.append(circuit.model[0].weight.grad)
    assert torch.equal(*found)


def test_neurons_of_ones_own_plug_in():
    class Integrator(neurons.TemporalNeuron):
        def start(self, drive):
            return torch.zeros_like(drive)

        def advance(self, drive, state):
            state = 0.9 * state + drive
            return state.tanh(), state

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), Integrator(), nn.Linear(7, 3)).double()
    for constant in (False, True):
        compare(copy.deepcopy(model), copy.deepcopy(model), sequence(5, constant=constant))
    for rule in ("direct_feedback_alignment", "burst_ccn", "e_prop"):
        apical.Circuit(copy.deepcopy(model), rule)(sequence(5)).square().mean().backward()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("rule", ["backprop", "e_prop"])
def test_a_compiler_reads_it(rule):
    x = sequence(5, moments=3)
    circuit = apical.Circuit(dense(), rule, example=x)
    F.cross_entropy(circuit(x), LABELS).backward()
    expected = [own.grad.clone() for own in circuit.parameters()]
    circuit.zero_grad()
    F.cross_entropy(torch.compile(circuit, backend="aot_eager")(x), LABELS).backward()
    for found, own in zip(circuit.parameters(), expected, strict=True):
        assert torch.allclose(found.grad, own, atol=1e-12)


# E-prop


@pytest.mark.parametrize("kind", [LIF, ALIF])
@pytest.mark.parametrize("reset", ["zero", "subtract", "none"])
def test_symmetric_e_prop_is_backpropagation_through_time_where_it_must_be(kind, reset):
    found = {}
    for recurrent, rule in itertools.product((False, True), ("backprop", "e_prop")):
        torch.manual_seed(1)
        hidden = kind(0.8, 0.5, reset=reset, recurrent=square(7, recurrent))
        model = nn.Sequential(nn.Linear(5, 7), hidden, nn.Linear(7, 3), LeakyReadout(0.7)).double()
        how = apical.EProp(feedback="symmetric") if rule == "e_prop" else "backprop"
        F.cross_entropy(apical.Circuit(model, how)(sequence(5)), LABELS).backward()
        found[recurrent, rule] = model[0].weight.grad
    assert torch.allclose(found[False, "e_prop"], found[False, "backprop"], atol=1e-14)
    cosine = F.cosine_similarity(found[True, "e_prop"].flatten(), found[True, "backprop"].flatten(), 0)
    assert 0 < cosine < 0.999


def triangle(v: np.ndarray) -> np.ndarray:
    return np.maximum(0, 1 - np.abs(v))


def causal_updates(
    x: np.ndarray, model: nn.Sequential, error_at: list[np.ndarray], feedback: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """E-prop with a trace a synapse, forward in time: of the input synapses and of the recurrent ones.

    x (time, batch, inputs); error_at[t] (batch, outputs), at the read-out's soma; feedback (outputs, units). The trace
    follows the neuron's own state: eps_v for the potential, eps_a for the adaptation.
    """
    synapses, neuron = model[0], model[1]
    weight, bias = synapses.weight.detach().numpy(), synapses.bias.detach().numpy()
    recurrent = neuron.recurrent.weight.detach().numpy()
    samples, units = x.shape[1], len(weight)
    before, v, a = (np.zeros((samples, units)) for _ in range(3))
    inputs_in, inputs_rec = x.shape[2], units
    eps_v = np.zeros((samples, units, inputs_in + inputs_rec))
    eps_a, last = np.zeros_like(eps_v), np.zeros_like(eps_v)  # `last`: the effect on the spike before
    total = np.zeros((units, inputs_in + inputs_rec))
    for moment, error in zip(x, error_at, strict=True):
        arriving = np.concatenate([moment, before], 1)
        new = neuron.decay * v * (1 - before) + moment @ weight.T + bias + before @ recurrent.T
        eps_v = (
            neuron.decay * (1 - before)[:, :, None] * eps_v - neuron.decay * v[:, :, None] * last + arriving[:, None, :]
        )
        v = new
        eps_a = neuron.adaptation * eps_a + last
        a = neuron.adaptation * a + before
        distance = v - neuron.threshold - neuron.strength * a
        slope = triangle(distance)[:, :, None]
        last = slope * (eps_v - neuron.strength * eps_a)
        total += ((error @ feedback)[:, :, None] * last).sum(0)
        before = (distance >= 0).astype(float)
    return total[:, :inputs_in], total[:, inputs_in:]


@pytest.mark.parametrize("feedback", ["random", "symmetric", "adaptive"])
@pytest.mark.parametrize("kind", [LIF, ALIF])
def test_e_prop_is_that_of_traces_kept_forward_in_time(kind, feedback):
    torch.manual_seed(1)
    hidden = kind(0.8, 0.5, recurrent=square(7, True))
    model = nn.Sequential(nn.Linear(5, 7), hidden, nn.Linear(7, 3), LeakyReadout(0.7)).double()
    x = sequence(5, moments=9)
    circuit = apical.Circuit(model, apical.EProp(feedback=feedback, seed=3), example=x)
    y = circuit(x)
    F.cross_entropy(y, LABELS).backward()
    if feedback == "symmetric":
        weights = model[2].weight.detach()
    else:
        weights = circuit.rule.direct.weights[circuit.layers[0]].detach()
    at_output = ((y.softmax(1) - F.one_hot(LABELS, 3)) / len(LABELS) / len(x)).detach().numpy()
    at_soma, above = [], np.zeros_like(at_output)
    for _ in range(len(x)):
        above = at_output + 0.7 * above
        at_soma.append(above)
    from_input, recurrent = causal_updates(x.numpy(), model, at_soma[::-1], weights.numpy())
    assert np.allclose(model[0].weight.grad.numpy(), from_input, rtol=0, atol=1e-12)
    assert np.allclose(model[1].recurrent.weight.grad.numpy(), recurrent, rtol=0, atol=1e-12)
    if feedback == "adaptive":  # the feedback weights' own update is the read-out's
        own = circuit.rule.direct.weights[circuit.layers[0]].grad
        assert torch.allclose(own, model[2].weight.grad, atol=1e-14)


@pytest.mark.parametrize("feedback", ["random", "symmetric", "adaptive"])
def test_e_prop_learns_a_toy_in_several_layers(feedback):
    x = sequence(5)
    model = dense(ALIF, recurrent=True)
    circuit = apical.Circuit(model, apical.EProp(feedback=feedback), example=x)
    optimizer = torch.optim.Adam(circuit.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        value = F.cross_entropy(circuit(x), LABELS)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.7 * losses[0]


# NACA in spikes


@pytest.mark.parametrize("constant", [True, False])
def test_naca_changes_a_synapse_once_a_sequence(constant):
    """dW = -eta phi(lambda) ([v_T > threshold - width] - s_(T-1)) x_T, averaged over the batch; beside plain loops."""
    model, x = dense(), sequence(5, constant=constant)
    circuit = apical.Circuit(model, apical.NACA(scale=0.5, width=0.3, seed=4), example=x)
    F.cross_entropy(circuit(x), LABELS).backward()
    phi = {
        name: circuit.rule.direct.modulated(circuit.rule.direct.weights[layer])[LABELS] * 0.5
        for layer in circuit.layers[:2]
        for name in (layer.name,)
    }
    arriving = x
    for place in ("0", "2"):
        synapses, neuron = model[int(place)], model[int(place) + 1]
        v = s = torch.zeros(4, synapses.out_features, dtype=torch.float64)
        spikes, potentials = [], []
        for moment in arriving:
            v = neuron.decay * v * (1 - s) + synapses(moment).detach()
            s = (v >= neuron.threshold).double()
            spikes.append(s)
            potentials.append(v)
        change = (potentials[-1] > neuron.threshold - 0.3).double() - spikes[-2]
        expected = (phi[place] * change).t() @ arriving[-1] / len(LABELS)
        assert torch.allclose(synapses.weight.grad, expected, atol=1e-14)
        assert expected.abs().max() > 0
        arriving = torch.stack(spikes)


def test_dropout_with_one_mask_a_sequence():
    model = nn.Sequential(nn.Linear(5, 7), neurons.SequenceDropout(0.5), LIF(0.8, 0.5), nn.Linear(7, 3)).double()
    with torch.no_grad():
        torch.manual_seed(0)
        left_out = OverTime(model[:2])(sequence(5)) == 0
    assert left_out.any()
    assert not left_out.all()
    assert torch.equal(left_out, left_out[:1].expand_as(left_out))
    found = []
    for kind in (lambda own: apical.Circuit(own, "backprop"), OverTime):
        own = copy.deepcopy(model)
        torch.manual_seed(0)
        kind(own)(sequence(5)).sum().backward()
        found.append(own[0].weight.grad)
    assert torch.allclose(*found, atol=1e-12)


def test_autocast_computes_in_half_precision():
    model, x = dense().float(), sequence(5).float()
    circuit = apical.Circuit(model, "backprop")
    with torch.autocast("cpu", torch.bfloat16):
        value = F.cross_entropy(circuit(x).float(), LABELS)
    value.backward()
    assert all(own.grad.isfinite().all() and own.grad.dtype == torch.float32 for own in model.parameters())


# What cannot be right


class Inside(neurons.TemporalNeuron):
    """A neuron with synapses of its own inside."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.Linear(3, 3)

    def start(self, drive):
        return torch.zeros_like(drive)

    def advance(self, drive, state):
        state = (drive + self.recurrent(state)).tanh()
        return state, state


@pytest.mark.parametrize(
    ("make", "error", "fact"),
    [
        (lambda: LIF(1.5), ConfigError, "decay"),
        (lambda: LIF(nn.Parameter(torch.tensor(0.9))), ConfigError, "decay is a Parameter"),
        (lambda: LIF(threshold=torch.tensor(0.5)), ConfigError, "threshold is a Tensor"),
        (lambda: ALIF(strength=nn.Parameter(torch.tensor(0.2))), ConfigError, "strength is a Parameter"),
        (lambda: ALIF(strength=float("inf")), ConfigError, "strength"),
        (lambda: LeakyReadout("0.9"), ConfigError, "decay is a str"),
        (lambda: LIF(threshold=0.0), ConfigError, "threshold"),
        (lambda: LIF(reset="half"), ConfigError, "reset"),
        (lambda: LIF(surrogate="triangel"), ConfigError, "surrogate"),
        (lambda: LIF(recurrent=nn.Linear(3, 4, bias=False)), ConfigError, "recurrent"),
        (lambda: LIF(recurrent=nn.Linear(3, 3)), ConfigError, "recurrent"),
        (lambda: LIF(recurrent=True), ConfigError, "recurrent"),
        (
            lambda: apical.Circuit(LIF(recurrent=weight_norm(square(3, True))), "backprop"),
            CircuitError,
            "other tensors",
        ),
        (lambda: apical.Circuit(nn.Sequential(Inside(), nn.Linear(3, 3)), "backprop"), CircuitError, "Linear inside"),
        (lambda: apical.Circuit(dense(), "backprop", batch_axis=2), ConfigError, "time, batch"),
        (lambda: ALIF(adaptation=2.0), ConfigError, "adaptation"),
        (lambda: LeakyReadout(-1.0), ConfigError, "decay"),
        (lambda: apical.EProp(feedback="fixed"), ConfigError, "feedback"),
        (lambda: apical.Circuit(conv(), apical.EProp(feedback="symmetric")), CircuitError, "chain"),
        (lambda: apical.Circuit(conv(), apical.EProp(feedback="adaptive")), CircuitError, "nn.Linear alone"),
        (lambda: apical.Circuit(dense(recurrent=True), "burst_ccn"), CircuitError, "recurrent"),
        (lambda: apical.Circuit(dense(), "backprop")(torch.rand(4, 5).double()), CircuitError, "time"),
        (lambda: apical.Circuit(dense(), "backprop")(torch.rand(0, 4, 5).double()), CircuitError, "moment"),
        (
            lambda: apical.Circuit(
                nn.Sequential(nn.Linear(5, 4), LeakyReadout(), nn.Linear(4, 4), LIF(), nn.Linear(4, 3)), "backprop"
            ),
            CircuitError,
            "averages over time",
        ),
    ],
)
def test_what_cannot_be_right_is_refused(make, error, fact):
    with pytest.raises(error, match=fact):
        make()


def test_integrate_and_fire_has_no_leak():
    assert IF().decay == 1


def test_a_read_out_beside_the_way_to_the_output_ends_no_time():
    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.neuron = nn.Linear(3, 4), LIF()
            self.seen, self.readout = nn.Linear(4, 2), LeakyReadout()

        def forward(self, x):
            spikes = self.neuron(self.first(x))
            self.kept = self.readout(self.seen(spikes))
            return spikes

    assert OverTime(Beside())(torch.rand(6, 5, 3)).shape == (6, 5, 4)
