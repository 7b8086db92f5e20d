"""Direct feedback begins in the size that backpropagation has, in every layer: so one learning rate suits both."""

import pytest
import torch
from torch import nn

import apical

NETWORKS = {
    "relu": (nn.Sequential, [nn.Linear(50, 300), nn.ReLU(), nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 10)], (50,)),
    "tanh": (nn.Sequential, [nn.Linear(50, 200), nn.Tanh(), nn.Linear(200, 200), nn.Tanh(), nn.Linear(200, 10)], (50,)),
    "conv": (
        nn.Sequential,
        [nn.Conv2d(3, 32, 5, stride=2), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)],
        (3, 16, 16),
    ),
}


def teaching_signals(circuit: apical.Circuit, x: torch.Tensor, error: torch.Tensor) -> dict[str, float]:
    """The root mean square of what each layer's soma is taught."""
    wiring = circuit.wiring
    with torch.no_grad():
        _, state = circuit.rule.forward(wiring, x, wiring.plan((True,) * len(list(circuit.parameters())), False))
        state.batch_axes = wiring.batch_axes_of(x, state)
        return {
            credit.layer.name: float(credit.post.square().mean().sqrt())
            for credit in circuit.rule.assign_credit(wiring, state, error)
        }


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_is_taught_in_the_size_of_backpropagation(name):
    torch.manual_seed(0)
    make, modules, shape = NETWORKS[name]
    model = make(*modules)
    x, error = torch.randn(200, *shape), torch.randn(200, 10)
    truth = teaching_signals(apical.Circuit(model, "backprop"), x, error)
    direct = apical.Circuit(model, "direct_feedback_alignment")
    direct(x)
    for layer, size in teaching_signals(direct, x, error).items():
        assert 0.5 < size / truth[layer] < 2, layer
