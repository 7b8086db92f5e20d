"""Golden traces: losses and the size of each layer's update over 20 training steps, for every rule and main option.

    python tests/core/golden.py                # compare with golden.json; exit code 1 where a trace differs
    python tests/core/golden.py --write        # record the traces that differ or are missing, and name them

In float64, on a chain, a convolutional, a residual and a branching network. A change of the code that is not meant to
change a result reproduces every trace to 1e-9; a change that is meant to says which traces it records again and why.
"""

from __future__ import annotations

import json
import math
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from circuits import NETWORKS, Row, loss_on, rows

import apical
from apical.errors import ApicalError

FILE = Path(__file__).with_name("golden.json")
CIRCUITS = ("mlp", "deep_tanh", "conv", "residual", "branching")
STEPS = 20
TOLERANCE = 1e-9
RUNAWAY = 1e3  # an update of this size diverges, and rounding decides what comes of it
# Options with an engine of their own that the contract's table has no row for.
_MORE = [
    Row("backprop", {}),
    Row("predictive_coding", {"variant": "strict", "tolerance": 0.02, "momentum": 0.5, "rate": 0.2}),
    Row("predictive_coding", {"variant": "strict", "clamped": True, "nudging": 0.1}),
    Row(
        "predictive_coding", {"variant": "error_optimised", "tolerance": 0.05, "momentum": 0.2, "loss": "cross_entropy"}
    ),
    Row("predictive_coding", {"variant": "incremental", "loss": "cross_entropy", "learning_rate": 0.02}),
    Row("predictive_coding", {"variant": "incremental", "feedback": "kolen_pollack", "learning_rate": 0.02}),
    Row("equilibrium_propagation", {"beta": 0.3, "loss": "cross_entropy"}),
    Row("equilibrium_propagation", {"beta": 0.3, "feedback": "fixed", "nudging": "negative"}),
    Row("equilibrium_propagation", {"nudging": "clamped", "step": 0.5, "beta": 0.1}),
    Row("equilibrium_propagation", {"nudging": "holomorphic", "points": 4, "beta": 0.1}),
    Row("equilibrium_propagation", {"network": "hopfield", "free_steps": 30}),
    Row("equilibrium_propagation", {"network": "hopfield", "nudging": "positive", "loss": "cross_entropy"}),
    Row("equilibrium_propagation", {"network": "hopfield", "nudging": "holomorphic", "points": 4}),
    Row("equilibrium_propagation", {"network": "hopfield", "feedback": "fixed", "activation": "hard_sigmoid"}),
    Row("dendritic_microcircuit", {"dynamics": "steady_state", "tolerance": 1e-3, "settle_steps": 300}),
    Row("dendritic_microcircuit", {"feedback": "inverse", "cancellation_rate": 1.0, "self_predicting": False}),
    Row("segregated_dendrites", {"feedback": {"name": "direct", "symmetric": True}}),
    Row("weight_mirror", {"every": 2}),
    Row("burstprop", {"feedback": "tied"}),
    Row("brainprop", {"feedback": "kolen_pollack"}),
]


def table() -> list[Row]:
    """Every rule with its defaults, the contract's variants, and the options above, each once."""
    return list({str(row): row for row in [*rows(), *_MORE]}.values())


def trace(network: str, row: Row) -> dict[str, Any] | None:
    """One arm's trace, or None where the rule refuses the network or diverges there."""
    model = NETWORKS[network].build().double()
    try:
        circuit = apical.Circuit(model, row.make())
    except ApicalError:
        return None
    optimizer = torch.optim.SGD(circuit.parameters(), lr=0.02, momentum=0.5, weight_decay=1e-3)
    losses = []
    squares = {layer.name: 0.0 for layer in circuit.layers}
    for step in range(STEPS):
        x, y = NETWORKS[network].batch(seed=100 + step)
        optimizer.zero_grad()
        torch.manual_seed(step)
        loss = loss_on(circuit, x.double(), y)
        try:
            loss.backward()
        except ApicalError:
            return None
        losses.append(loss.item())
        for layer in circuit.layers:
            assert layer.weight.grad is not None
            squares[layer.name] += float(layer.weight.grad.square().sum())
        optimizer.step()
    updates = {name: math.sqrt(square) for name, square in squares.items()}
    return {"losses": losses, "updates": updates} if max(updates.values()) < RUNAWAY else None


def traces(network: str) -> dict[str, dict[str, Any] | None]:
    """All traces of one network, by the rule's options."""
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {str(row): trace(network, row) for row in table()}


def distance(found: dict[str, Any] | None, known: dict[str, Any] | None) -> float:
    """The largest relative difference of two traces; infinite where only one of them exists."""
    if found is None or known is None:
        return 0.0 if found is known else math.inf
    if found["updates"].keys() != known["updates"].keys():
        return math.inf
    pairs = [
        *zip(found["losses"], known["losses"], strict=True),
        *((found["updates"][name], value) for name, value in known["updates"].items()),
    ]
    return max(abs(a - b) / max(abs(b), 1e-12) for a, b in pairs)


def differences(found: dict[str, Any], known: dict[str, Any]) -> dict[str, float]:
    """The arms of one network whose traces differ by more than the tolerance, and by how much."""
    names = dict.fromkeys([*found, *known])
    apart = {name: distance(found.get(name), known.get(name)) for name in names}
    missing = {name: math.inf for name in names if (name in found) != (name in known)}
    return {name: size for name, size in {**apart, **missing}.items() if size > TOLERANCE}


def rounded(value: Any) -> Any:
    """The digits that are compared, and two more."""
    if isinstance(value, float):
        return float(f"{value:.11e}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def main() -> None:
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    changed = False
    for network in CIRCUITS:
        before = known.get(network, {})
        now = traces(network)
        apart = differences(now, before)
        for name, size in apart.items():
            print(f"{network}: {name}: {'new, gone or refused' if math.isinf(size) else f'{size:.1e}'}")
        changed = changed or bool(apart)
        if "--write" in sys.argv:
            known[network] = {name: rounded(now[name]) if name in apart else before[name] for name in now}
    if "--write" in sys.argv:
        lines = (
            f'"{net}": {{\n' + ",\n".join(f"{json.dumps(n)}: {json.dumps(t)}" for n, t in arms.items()) + "}"
            for net, arms in known.items()
        )
        FILE.write_text("{" + ",\n".join(lines) + "}\n")
    elif changed:
        sys.exit(1)


if __name__ == "__main__":
    main()
