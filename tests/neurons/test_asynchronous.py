"""Networks whose inputs arrive one after another against plain loops; what they learn from few examples; decisions."""

import math

import numpy as np
import pytest
import torch

from apical.errors import ConfigError, DataError
from apical.neurons import AsynchronousNetwork, decision_curve, teacher_and_student
from apical.optim import Adaptation


def reference(w, gain, x, times, decay, threshold, target):
    """One example of one output: potentials, bits and what synapses and gains learn, as the equations stand."""
    dendrites, each = w.shape
    potential, dw, dj = np.zeros_like(w), np.zeros_like(w), np.zeros(dendrites)
    x, times = x.reshape(w.shape), times.reshape(w.shape)
    for k in range(dendrites):

        def before(j, i, t=times[k]):  # at one time inputs count in their order
            return t[j] < t[i] or (t[j] == t[i] and j <= i)

        for i in range(each):
            for j in range(each):
                if before(j, i):
                    potential[k, i] += gain[k] * w[k, j] * x[k, j] * math.exp(-(times[k, i] - times[k, j]) / decay)
            error = float(target[k, i]) - float(potential[k, i] >= threshold)
            for j in range(each):
                if before(j, i):
                    dw[k, j] += error * x[k, j] * math.exp(-(times[k, i] - times[k, j]) / decay)
            dj[k] += error * potential[k, i] / gain[k]
    return potential, potential >= threshold, dw, dj


@pytest.mark.parametrize("own_inputs", [False, True])
@pytest.mark.parametrize("ties", [False, True])
def test_responses_and_changes_are_the_equations(own_inputs, ties):
    batch, outputs, dendrites, each = 3, 2, 4, 5
    network = AsynchronousNetwork(20, outputs, dendrites=dendrites, threshold=0.3, decay=30.0, seed=1).double()
    generator = torch.Generator().manual_seed(0)
    shape = (batch, outputs, 20) if own_inputs else (batch, 20)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    times = network.arrivals(shape, generator).double()
    if ties:
        times = (times / 25).round() * 25
    target = torch.rand(batch, outputs, dendrites, each, generator=generator) < 0.5
    with torch.no_grad():
        network.gain.uniform_(0.5, 2.0, generator=generator)
    responses = network.teach(x, times, target)
    dw, dj = np.zeros((outputs, dendrites, each)), np.zeros((outputs, dendrites))
    for b in range(batch):
        for o in range(outputs):
            row = (b, o) if own_inputs else (b,)
            own = (network.weight[o], network.gain[o], x[row], times[row])
            potential, bits, *changes = reference(
                *(part.detach().numpy() for part in own), 30.0, 0.3, target[b, o].numpy()
            )
            np.testing.assert_allclose(responses.potential[b, o].numpy(), potential, rtol=1e-10, atol=1e-12)
            np.testing.assert_array_equal(responses.bits[b, o].numpy(), bits)
            dw[o] += changes[0] / batch
            dj[o] += changes[1] / batch
    np.testing.assert_allclose(-network.weight.grad.numpy(), dw, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(-network.gain.grad.numpy(), dj, rtol=1e-9, atol=1e-12)


def test_single_precision_bears_the_longest_window():
    network = AsynchronousNetwork(50, 1, window=2000.0, decay=20.0)
    generator = torch.Generator().manual_seed(0)
    times = network.arrivals((8, 50), generator)
    times[:, 0], times[:, 1] = 0.0, 2000.0
    x = torch.randn(8, 50, generator=generator)
    single = network(x, times).potential
    network.double()
    torch.testing.assert_close(single.double(), network(x.double(), times.double()).potential, rtol=1e-3, atol=1e-4)


def test_an_input_that_arrives_alone_and_one_that_has_faded():
    network = AsynchronousNetwork(2, 1, decay=10.0, gain_range=(0.5, 2.0))
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[[3.0, 1.0]]]))
    responses = network(torch.ones(1, 2), torch.tensor([[0.0, 20.0]]))
    assert responses.potential.flatten().tolist() == pytest.approx([3.0, 1 + 3 * math.exp(-2)])
    assert responses.bits.all()


def test_a_network_that_is_right_learns_nothing():
    network = AsynchronousNetwork(12, 3, dendrites=2)
    generator = torch.Generator().manual_seed(0)
    x, times = torch.randn(4, 12, generator=generator), network.arrivals((4, 12), generator)
    network.teach(x, times, network(x, times).bits)
    assert not network.weight.grad.any()
    assert not network.gain.grad.any()


def test_gains_swing_between_reflecting_boundaries():
    network = AsynchronousNetwork(6, 1, dendrites=6, gain_range=(1.0, 3.0))
    assert network.gain.detach().flatten().tolist() == pytest.approx([math.sqrt(3)] * 6)
    with torch.no_grad():
        network.gain.copy_(torch.tensor([[0.5, 1.0, 2.2, 3.0, 3.5, 6.0]]))
    network.reflect()
    assert network.gain.detach().flatten().tolist() == pytest.approx([1.5, 1.0, 2.2, 3.0, 2.5, 2.0])


def test_initial_potentials_are_of_the_size_of_the_gain():
    network = AsynchronousNetwork(400, 200, seed=3)
    generator = torch.Generator().manual_seed(0)
    late = network(torch.randn(20, 400, generator=generator), network.arrivals((20, 400), generator))
    assert late.potential.std().item() == pytest.approx(network.gain[0, 0].item(), rel=0.15)


def sgd(rate):
    return lambda parameters: torch.optim.SGD(parameters, lr=rate)


@pytest.mark.parametrize("seed", [0, 1])
def test_several_outputs_for_each_example_teach_faster_than_one(seed):
    """The paper's ordering, at the best of three rates for the classical perceptron: far below its error."""
    counts = (0, 100)
    options = {"inputs": 60, "runs": 8, "test": 100, "seed": seed}
    classical = min(
        teacher_and_student("classical", counts, sgd(rate), **options)[:, 1].mean() for rate in (0.1, 0.3, 1)
    )
    synaptic = teacher_and_student("synaptic", counts, sgd(0.03), **options)
    dendritic = teacher_and_student("dendritic", counts, sgd(0.01), **options)
    assert synaptic[:, 0].mean() > 0.4
    assert synaptic[:, 1].mean() < 0.5 * classical
    assert (dendritic[:, 1] < 0.5 * dendritic[:, 0]).all()


def test_adaptive_step_sizes_learn_too():
    def adaptive(parameters):
        return Adaptation(parameters, lr=1.0, gain=0.01, slope=1.0, relaxation=0.1, variant="abs")

    errors = teacher_and_student("synaptic", (0, 60), adaptive, inputs=40, runs=8, test=100)
    assert errors[:, 1].mean() < 0.5 * errors[:, 0].mean()


def test_what_is_learned_from_in_two_parts_is_the_same():
    whole = teacher_and_student("synaptic", (0, 20), sgd(0.03), inputs=20, runs=3, test=20)
    parts = teacher_and_student("synaptic", (0, 7, 20), sgd(0.03), inputs=20, runs=3, test=20)
    assert torch.equal(whole, parts[:, [0, 2]])


def test_decisions_by_hand():
    """Two classes, four arrivals; the first dendrite's inputs arrive at 10 and 30, the second's at 20 and 40."""
    bits = torch.tensor(
        [
            [[[True, True], [True, False]], [[False, False], [False, False]]],  # class 0 leads: 1, 2, 3, 3
            [[[True, False], [False, False]], [[False, True], [True, True]]],  # then 0, -1, -2: class 1 in the end
        ]
    )
    times = torch.tensor([[10.0, 30.0, 20.0, 40.0]] * 2)
    curve = decision_curve(bits, times, torch.tensor([0, 1]), [1, 2, 3])
    assert curve.thresholds.tolist() == [1, 2, 3]
    assert curve.time.tolist() == [10.0, (20 + 40) / 2, (30 + 40) / 2]
    assert curve.accuracy.tolist() == [0.5, 1.0, 1.0]
    assert curve.decided.tolist() == [1.0, 1.0, 0.5]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dendrites": 7}, "do not divide"),
        ({"decay": 0.5}, "a shorter window or a longer decay"),
        ({"decay": -1.0}, "positive"),
        ({"threshold": -1.0}, "at least 0"),
        ({"gain_range": (2.0, 1.0)}, "two rising"),
        ({"gain_range": (0.0, 1.0)}, "positive"),
    ],
)
def test_constants_out_of_range_are_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        AsynchronousNetwork(10, 2, **options)


def test_what_does_not_fit_is_refused():
    network = AsynchronousNetwork(4, 2)
    with pytest.raises(DataError, match=r"wanted are \(batch, 4\)"):
        network(torch.ones(3, 5), torch.ones(3, 5))
    with pytest.raises(DataError, match="both of one shape"):
        network(torch.ones(3, 4), torch.ones(2, 4))
    with pytest.raises(DataError, match="between 0 and the window"):
        network(torch.ones(1, 4), torch.full((1, 4), 101.0))
    with pytest.raises(ConfigError, match="unknown"):
        teacher_and_student("axonal", (1,), sgd(0.1))
    with pytest.raises(ConfigError, match="positive"):
        decision_curve(torch.ones(1, 2, 1, 4, dtype=torch.bool), torch.ones(1, 4), torch.zeros(1), [0])
    with pytest.raises(DataError, match="wanted are"):
        decision_curve(torch.ones(1, 2, 1, 4, dtype=torch.bool), torch.ones(1, 5), torch.zeros(1), [1])
