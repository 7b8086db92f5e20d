"""The JAX side of `against_predictive.py`: it times steps of `pcx` and `fabricpc` when asked, in a Python of its own.

One request a line comes in and one answer a line goes out, as JSON. Every arm starts from the weights and the batch of
the file that it is told of, and does the same: states v at the somas of a tanh or ReLU network, the output clamped to
the target, half the squared error, `steps` steps of inference at `rate`, then one step of plain gradient descent on
the energy's mean over the batch.
"""

import argparse
import importlib.metadata
import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Weights = list[tuple[np.ndarray, np.ndarray]]
PHI: dict[str, Callable[[Any], Any]] = {"tanh": jnp.tanh, "relu": jax.nn.relu}


class Arm:
    """One way of making the step.

    Args:
        step: makes one, in place.
        weights: gives the weights, (units, fan-in), and biases as they are; waits until they are there.
    """

    def __init__(self, step: Callable[[], None], weights: Callable[[], Weights]) -> None:
        self.step = step
        self.weights = weights


def backprop(layers: Weights, x: np.ndarray, y: np.ndarray, steps: int, rate: float, phi: str, lr: float) -> Arm:
    """Plain JAX: one jitted step of backpropagation."""

    def loss(layers: Any) -> Any:
        a = x
        for index, (weight, bias) in enumerate(layers):
            a = (PHI[phi](a) if index else a) @ weight.T + bias
        return 0.5 * jnp.sum((a - y) ** 2) / len(x)

    @jax.jit
    def step(layers: Any) -> Any:
        return jax.tree.map(lambda w, g: w - lr * g, layers, jax.grad(loss)(layers))

    held = [jax.tree.map(jnp.asarray, layers)]

    def once() -> None:
        held[0] = step(held[0])

    return Arm(once, lambda: jax.tree.map(np.asarray, jax.block_until_ready(held[0])))


def pcx_strict(layers: Weights, x: np.ndarray, y: np.ndarray, steps: int, rate: float, phi: str, lr: float) -> Arm:
    """pcx, as its tutorials train: the energy's derivative by the states, `steps` times, then by the weights."""
    import pcx.functional as pxf
    import pcx.nn as pxnn
    import pcx.predictive_coding as pxc
    import pcx.utils as pxu

    class Network(pxc.EnergyModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.layers = [pxnn.Linear(weight.shape[1], weight.shape[0]) for weight, _ in layers]
            self.vodes = [pxc.Vode() for _ in layers]
            self.vodes[-1].h.frozen = True

        def __call__(self, x: Any, y: Any) -> Any:
            for index, (layer, vode) in enumerate(zip(self.layers, self.vodes, strict=True)):
                x = vode(layer(PHI[phi](x) if index else x))
            if y is not None:
                self.vodes[-1].set("h", y)
            return self.vodes[-1].get("u")

    model = Network()
    for own, (weight, bias) in zip(model.layers, layers, strict=True):
        own.nn.weight.set(jnp.asarray(weight))
        own.nn.bias.set(jnp.asarray(bias))
    of_a_sample = pxu.M(pxc.VodeParam | pxc.VodeParam.Cache).to((None, 0))

    @pxf.vmap(of_a_sample, in_axes=(0, 0), out_axes=0)
    def forward(x: Any, y: Any, *, model: Any) -> Any:
        return model(x, y)

    @pxf.vmap(of_a_sample, in_axes=(0,), out_axes=(None, 0), axis_name="batch")
    def energy(x: Any, *, model: Any) -> Any:
        answer = model(x, None)
        return jax.lax.psum(model.energy(), "batch"), answer

    @pxf.jit()
    def train(x: Any, y: Any, *, model: Any, of_weights: Any, of_states: Any) -> None:
        with pxu.step(model, pxc.STATUS.INIT, clear_params=pxc.VodeParam.Cache):
            forward(x, y, model=model)
        of_states.init(pxu.M_hasnot(pxc.VodeParam, frozen=True)(model))
        by_states = pxf.value_and_grad(pxu.M_hasnot(pxc.VodeParam, frozen=True).to([False, True]), has_aux=True)
        for _ in range(steps):
            with pxu.step(model, clear_params=pxc.VodeParam.Cache):
                _, slopes = by_states(energy)(x, model=model)
            of_states.step(model, slopes["model"])
        with pxu.step(model, clear_params=pxc.VodeParam.Cache):
            by_weights = pxf.value_and_grad(pxu.M(pxnn.LayerParam).to([False, True]), has_aux=True)
            _, slopes = by_weights(energy)(x, model=model)
        of_weights.step(model, slopes["model"], scale_by=1.0 / x.shape[0])

    # A first answer makes the states, so that the step keeps its shapes and is compiled once.
    with pxu.step(model, pxc.STATUS.INIT, clear_params=pxc.VodeParam.Cache):
        forward(jnp.asarray(x), jnp.asarray(y), model=model)
    of_weights = pxu.Optim(lambda: optax.sgd(lr), pxu.M(pxnn.LayerParam)(model))
    of_states = pxu.Optim(lambda: optax.sgd(rate), pxu.M_hasnot(pxc.VodeParam, frozen=True)(model))
    batch = jnp.asarray(x), jnp.asarray(y)

    def weights() -> Weights:
        held = [(own.nn.weight.get(), own.nn.bias.get()) for own in model.layers]
        return [(np.asarray(weight), np.asarray(bias)) for weight, bias in jax.block_until_ready(held)]

    return Arm(lambda: train(*batch, model=model, of_weights=of_weights, of_states=of_states), weights)


def fabricpc_strict(kind: str) -> Callable[..., Arm]:
    """fabricpc, by its own training step.

    Args:
        kind: "soma" (a node of ours by its interface, with the nonlinearity before the weights, as in the other arms),
            "stock" (its Linear: the nonlinearity behind them) or "explicit" (its LinearExplicitGrad: the same, with
            products in closed form instead of autodiff's).
    """

    def make(layers: Weights, x: np.ndarray, y: np.ndarray, steps: int, rate: float, phi: str, lr: float) -> Arm:
        from fabricpc.core.activations import IdentityActivation, ReLUActivation, TanhActivation
        from fabricpc.core.inference import InferenceSGD
        from fabricpc.core.topology import Edge
        from fabricpc.core.types import GraphParams, NodeParams
        from fabricpc.graph_assembly import TaskMap, graph
        from fabricpc.nodes import Linear
        from fabricpc.nodes.linear_explicit_grad import LinearExplicitGrad
        from fabricpc.training import make_train_step

        class Soma(Linear):  # type: ignore[misc]
            @staticmethod
            def predict(params: Any, inputs: Any, state: Any, node_info: Any) -> Any:
                activation = node_info.activation
                ((edge, rate),) = inputs.items()
                drive = type(activation).forward(rate, activation.config) @ params.weights[edge] + params.biases["b"]
                return drive, drive

        chosen = {"soma": Soma, "stock": Linear, "explicit": LinearExplicitGrad}[kind]
        last = len(layers) - 1
        nodes = [Linear(shape=(x.shape[1],), name="input")]
        for index, (weight, _) in enumerate(layers):
            plain = index == (0 if kind == "soma" else last)
            activation = IdentityActivation() if plain else {"tanh": TanhActivation, "relu": ReLUActivation}[phi]()
            nodes.append(chosen(shape=(weight.shape[0],), name=f"layer{index}", activation=activation))
        structure = graph(
            nodes=nodes,
            edges=[Edge(source=a, target=b.slot("in")) for a, b in itertools.pairwise(nodes)],
            task_map=TaskMap(x=nodes[0], y=nodes[-1]),
            inference=InferenceSGD(eta_infer=rate, infer_steps=steps),
        )
        names = ["input", *(f"layer{index}" for index in range(len(layers)))]
        parameters = {"input": NodeParams(weights={}, biases={})}
        for below, name, (weight, bias) in zip(names, names[1:], layers, strict=False):
            parameters[name] = NodeParams(
                weights={f"{below}->{name}:in": jnp.asarray(weight.T)}, biases={"b": jnp.asarray(bias)[None]}
            )
        optimizer = optax.sgd(lr)
        step = make_train_step(structure, optimizer)
        held: list[Any] = [GraphParams(nodes=parameters)]
        state = optimizer.init(held[0])
        batch = {"x": jnp.asarray(x), "y": jnp.asarray(y)}
        key = jax.random.PRNGKey(0)

        def once() -> None:
            held[0] = step(held[0], state, batch, key)[0]

        def weights() -> Weights:
            found = jax.block_until_ready(held[0]).nodes
            return [
                (np.asarray(next(iter(found[name].weights.values()))).T, np.asarray(found[name].biases["b"])[0])
                for name in names[1:]
            ]

        return Arm(once, weights)

    return make


MAKERS: dict[str, tuple[str, Callable[..., Arm]]] = {
    "backprop": ("jax", backprop),
    "pcx strict": ("pcx", pcx_strict),
    "fabricpc strict": ("fabricpc", fabricpc_strict("soma")),
    "fabricpc strict, its Linear": ("fabricpc", fabricpc_strict("stock")),
    "fabricpc strict, its LinearExplicitGrad": ("fabricpc", fabricpc_strict("explicit")),
}
"""Every arm, the package that it needs, and what makes it."""


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def load(path: str) -> tuple[Weights, np.ndarray, np.ndarray]:
    with np.load(path) as kept:
        count = sum(name.startswith("weight") for name in kept)
        layers = [(kept[f"weight{index}"], kept[f"bias{index}"]) for index in range(count)]
        return layers, kept["x"], kept["y"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="weights and a batch, as against_predictive.py wrote them")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--activation", choices=PHI, required=True)
    chosen = parser.parse_args()
    # Whatever the libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    layers, x, y = load(chosen.data)
    arms: dict[str, Arm] = {}
    for line in sys.stdin:
        request = json.loads(line)
        answer: Any
        if request["do"] == "arms":
            answer = {
                name: {"package": package, "version": version(package), "jax": version("jax")}
                for name, (package, _) in MAKERS.items()
            }
        elif request["do"] == "update":  # what one step at a learning rate of 1 takes off the weights
            arm = MAKERS[request["arm"]][1](layers, x, y, chosen.steps, chosen.rate, chosen.activation, 1.0)
            arm.step()
            moved = [before - after for own, new in zip(layers, arm.weights(), strict=True)
                     for before, after in zip(own, new, strict=True)]  # fmt: skip
            np.savez(request["to"], *moved)
            answer = request["to"]
        else:
            name = request["arm"]
            if name not in arms:
                arms[name] = MAKERS[name][1](layers, x, y, chosen.steps, chosen.rate, chosen.activation, 1e-4)
            arm = arms[name]
            started = time.perf_counter()
            for _ in range(request["count"]):
                arm.step()
            arm.weights()
            answer = (time.perf_counter() - started) / request["count"]
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
