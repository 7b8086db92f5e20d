"""Networks drawn at random: whatever PyTorch itself can do with one, a circuit does the same or refuses."""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from circuits import assert_same, plain
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import apical
from apical.errors import CircuitError

WIDTH = 4
ONE_RATE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu in place": lambda x: F.relu(x, inplace=True),
    "tanh": torch.tanh,
    "tanh in place": torch.tanh_,
    "elu in place": lambda x: F.elu(x, inplace=True),
    "scaled in place": lambda x: x.mul_(1.5),
    "doubled": lambda x: x + x,
    "view": lambda x: x.view(x.size(0), 2, -1).flatten(1),
    "halves": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "dropout": lambda x: F.dropout(x, 0.3),
    "detached": lambda x: x.detach(),
    "softmax": lambda x: F.softmax(x, 1),
    "normalised": lambda x: F.layer_norm(x, (WIDTH,)),
}
TWO_RATES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": torch.add,
    "sum in place": lambda a, b: a.add_(b),
    "difference": torch.sub,
    "gate": lambda a, b: a * torch.sigmoid(b),
    "beside": lambda a, b: torch.cat([a[:, : WIDTH // 2], b[:, WIDTH // 2 :]], 1),
    "greater": torch.maximum,
}
MODULES: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(WIDTH, WIDTH),
    "batch norm": lambda: nn.BatchNorm1d(WIDTH),
    "relu module": lambda: nn.ReLU(inplace=True),
    "prelu": nn.PReLU,
    "identity": nn.Identity,
    "leaky": lambda: nn.LeakyReLU(0.2),
}
Program = list[tuple[str, int, int]]


class Drawn(nn.Module):
    """A program: each line takes one or two of the values so far, and adds one; all that nobody took is read out."""

    def __init__(self, program: Program, output: int) -> None:
        super().__init__()
        self.program = program
        self.output = output
        taken = {output, *(a for _, a, _ in program), *(b for name, _, b in program if name in TWO_RATES)}
        self.rest = [place for place in range(len(program) + 1) if place not in taken]
        self.steps = nn.ModuleList(MODULES.get(name, nn.Identity)() for name, _, _ in program)
        self.first = nn.Linear(3, WIDTH)
        self.last = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        values = [self.first(x)]
        for (name, a, b), module in zip(self.program, self.steps, strict=True):
            if name in ONE_RATE:
                values.append(ONE_RATE[name](values[a]))
            elif name in TWO_RATES:
                values.append(TWO_RATES[name](values[a], values[b]))
            else:
                values.append(module(values[a]))
        answer = self.last(values[self.output])
        for place in self.rest:
            answer = answer + values[place].sum(1, keepdim=True)
        return answer

    def __repr__(self) -> str:
        lines = [f"{name}({a}, {b})" if name in TWO_RATES else f"{name}({a})" for name, a, b in self.program]
        return f"{'; '.join(lines)} -> {self.output}"


@st.composite
def networks(draw: Callable[..., Any]) -> Drawn:
    names = st.sampled_from([*ONE_RATE, *TWO_RATES, *MODULES, "linear", "linear"])
    program: Program = []
    for line in range(draw(st.integers(1, 8))):
        # Mostly the last value, so that the program is deep.
        places = st.one_of(st.just(line), st.integers(0, line))
        program.append((draw(names), draw(places), draw(places)))
    places = st.one_of(st.just(len(program)), st.integers(0, len(program)))
    torch.manual_seed(draw(st.integers(0, 1000)))
    return Drawn(program, draw(places))


def found_by(network: nn.Module, x: Tensor, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(seed)
    network.zero_grad()
    answer = network(x.clone())
    rewarded = isinstance(network, apical.Circuit) and network.rule.learns_from != "error"  # of one unit, then
    (answer * torch.tensor([0.1, 0.0 if rewarded else -0.2])).sum().backward()
    return answer.detach(), {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@settings(max_examples=100)
@given(model=networks(), seed=st.integers(0, 1000), rule=st.sampled_from(apical.rules.names()))
def test_a_circuit_does_with_a_random_network_what_autograd_does(model, seed, rule):
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
    alone = copy.deepcopy(model)
    try:
        answer, truth = found_by(alone, x, seed)
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            raise
        assume(False)  # what PyTorch itself cannot do
    try:
        circuit = apical.Circuit(model, "backprop")
    except CircuitError as error:
        if "Do not work in place here" not in str(error):
            raise
        event("refused")
        return
    event("done")
    own, found = found_by(circuit, x, seed)
    torch.testing.assert_close(own, answer)
    assert_same(plain(found), truth, rtol=1e-4, atol=1e-5)
    assert_same(dict(circuit.model.named_buffers()), dict(alone.named_buffers()), rtol=1e-5, atol=1e-6)
    try:
        circuit.set_rule(rule)
    except CircuitError as error:
        if "the answer is read from every layer" not in str(error):
            raise
        event("nothing for this rule")
        return
    own, found = found_by(circuit, x, seed)
    assert plain(found).keys() <= truth.keys()
    assert all(torch.isfinite(gradient).all() for gradient in found.values())
