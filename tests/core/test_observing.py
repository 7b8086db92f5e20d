"""What a rule carries can be observed, and messages of several streams travel as one error does."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from circuits import NETWORKS
from torch import Tensor, nn

import apical
from apical.layers import Layer, NodeState
from apical.rules import LearningRule
from apical.wiring import Credit, ForwardState, Wiring


def test_an_observer_sees_every_layers_teaching_signal_and_owns_it():
    torch.manual_seed(0)
    circuit = apical.Circuit(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), "backprop")
    seen: dict[str, Tensor] = {}
    x = torch.randn(5, 4)
    with circuit.observe(lambda layer, quantities: seen.__setitem__(layer, quantities["teaching_signal"])):
        circuit(x).square().sum().backward()
    assert list(seen) == ["2", "0"]
    assert torch.allclose(seen["0"].T @ x, circuit.model[0].weight.grad)
    seen["0"].zero_()
    assert circuit.model[0].weight.grad.abs().sum() > 0
    seen.clear()
    circuit(x).sum().backward()
    assert not seen, "the with block is over"


def test_a_copy_of_a_circuit_has_no_observers():
    circuit = apical.Circuit(nn.Linear(4, 3), "backprop")
    handle = circuit.observe(lambda layer, quantities: None)
    assert not copy.deepcopy(circuit).wiring.observers
    assert circuit.wiring.observers
    handle.remove()
    assert not circuit.wiring.observers


class _TwoStreams(LearningRule):
    """Backpropagation of the error, and of twice the error, as two streams side by side."""

    def assign_credit(self, wiring: Wiring, state: ForwardState, error: Tensor) -> Iterator[Credit]:
        descent = wiring.backward(state, (error, 2 * error))
        for layer, record, arrived in descent:
            if arrived is None:
                continue
            first = descent.somatic(layer, record, arrived[0])
            second = layer.neurons_backward(record, arrived[1], state.plan.requires_grad, {})
            assert torch.allclose(2 * first, second, rtol=1e-5)
            assert record.pre is not None
            yield Credit(layer, record.pre, second - first)
            if descent.goes_on(layer):
                descent.send(layer, (self._below(layer, record, first), self._below(layer, record, second)))

    def _below(self, layer: Layer, record: NodeState, post: Tensor) -> Tensor:
        assert record.pre is not None
        return layer.synapses.transpose_product(post, layer.weight, record.pre)


@pytest.mark.parametrize("name", NETWORKS)
def test_streams_go_every_way_that_an_error_goes(name):
    circuit = apical.Circuit(NETWORKS[name].build().double(), "backprop")
    x = NETWORKS[name].batch()[0].double()
    gradients = []
    for rule in (apical.Backprop(), _TwoStreams()):
        circuit.set_rule(rule)
        circuit.zero_grad()
        torch.manual_seed(1)
        circuit(x).square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in circuit.model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-9, atol=1e-12), name
