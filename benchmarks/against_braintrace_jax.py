"""The JAX side of `against_braintrace.py`: the update of e-prop by braintrace, and its time, in a Python of its own.

Reads a network and its data from one file of arrays and writes the updates and the times of the steps to another.
"""

import sys
import time
from typing import Any

import brainstate
import braintrace
import jax
import jax.numpy as jnp
import numpy as np


@jax.custom_vjp
def spike(distance: Any) -> Any:
    """1 where a potential reaches the threshold; its derivative is a triangle."""
    return (distance >= 0).astype(distance.dtype)


def _forward(distance: Any) -> Any:
    return spike(distance), distance


def _backward(distance: Any, signal: Any) -> Any:
    return (signal * jnp.maximum(0.0, 1.0 - jnp.abs(distance)),)


spike.defvjp(_forward, _backward)


class Neurons(brainstate.nn.Module):  # type: ignore[misc]
    """LIF neurons, recurrent or not, and the synapses that drive them."""

    def __init__(self, arrays: Any) -> None:
        super().__init__()
        self.inputs, self.hidden = arrays["first"].shape[1], arrays["first"].shape[0]
        self.decay, self.threshold = float(arrays["decay"]), float(arrays["threshold"])
        self.first = self.synapses(arrays["first"])
        self.recurrent = self.synapses(arrays["recurrent"]) if "recurrent" in arrays else None

    @staticmethod
    def synapses(weight: np.ndarray) -> Any:
        return braintrace.nn.Linear(*weight.T.shape, w_init=jnp.asarray(weight.T), b_init=None)

    def init_state(self, batch_size: int | None = None, **_: Any) -> None:
        self.v = brainstate.HiddenState(jnp.zeros((batch_size, self.hidden)))

    def update(self, x: Any) -> Any:
        before = spike(self.v.value - self.threshold)
        drive = self.first(x) if self.recurrent is None else self.first(x) + self.recurrent(before)
        self.v.value = self.decay * self.v.value - self.threshold * before + drive
        return spike(self.v.value - self.threshold)


def main(source: str, target: str) -> None:
    arrays = dict(np.load(source))
    network = Neurons(arrays)
    x, labels = jnp.asarray(arrays["x"]), jnp.asarray(arrays["labels"])
    learner = braintrace.compile(network, "eprop", x[0], batch_size=x.shape[1])
    last = brainstate.ParamState(jnp.asarray(arrays["last"].T))
    synapses = {key[0]: state for key, state in network.states(brainstate.ParamState).items()}

    def loss(moment: Any) -> Any:
        logits = learner(moment) @ last.value
        return -jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels].mean()

    @brainstate.transform.jit  # type: ignore[untyped-decorator]
    def step() -> Any:
        brainstate.nn.init_all_states(network, batch_size=x.shape[1])
        learner.reset_state(x.shape[1])
        return learner.etrace_grad(x, step_fn=loss, weights={**synapses, "last": last})

    times = []
    for _ in range(int(arrays["turns"]) + 1):
        before = time.process_time()
        found = jax.block_until_ready(step())
        times.append(time.process_time() - before)
    updates = {key: np.asarray(value if key == "last" else value["weight"]).T for key, value in found.items()}
    np.savez(target, times=times[1:], **updates)


if __name__ == "__main__":
    main(*sys.argv[1:])
