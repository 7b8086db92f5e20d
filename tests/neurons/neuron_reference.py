"""Synapses and neurons straight from their equations, one at a time, in plain floats; slow, and no code of apical."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Float = float
THRESHOLD = 16.0


def classify(times: Sequence[float], threshold: float = THRESHOLD) -> list[str]:
    """What each spike of one train is: "event", "burst" (the second spike of a burst) or "" (a later one)."""
    kinds: list[str] = []
    for k, t in enumerate(times):
        if k == 0 or t - times[k - 1] > threshold - 1e-6:
            kinds.append("event")
        elif kinds[-1] == "event":
            kinds.append("burst")
        else:
            kinds.append("")
    return kinds


def synapse(
    pre: Sequence[float],
    post: Sequence[float],
    weight: float,
    *,
    eta: float,
    tau_pre: float,
    alpha: float,
    until: float,
    event_rate: float = 0.0,
    burst_probability: float = 0.0,
    homeostasis: tuple[float, float] | None = None,
    bounds: tuple[float, float] | None = None,
    learns: Callable[[float], bool] = lambda t: True,
) -> dict[str, float]:
    """One synapse: Payeur et al. 2021, eq. 1, and the authors' order of things; times in ms, rates in Hz."""
    E, B, trace, now = event_rate, event_rate * burst_probability, 0.0, 0.0
    moments = [(t, 0, kind) for t, kind in zip(pre, classify(pre), strict=True)]
    moments += [(t, 1, kind) for t, kind in zip(post, classify(post), strict=True)]
    for t, side, kind in sorted(moments):
        E *= math.exp(-(t - now) / alpha)
        B *= math.exp(-(t - now) / alpha)
        trace *= math.exp(-(t - now) / tau_pre)
        now = t
        change = 0.0
        if side == 0 and kind == "event":
            trace += 1
            if homeostasis and homeostasis[0] > E:
                change = homeostasis[0] - E
        if side == 1 and kind:
            h = -(E - homeostasis[1]) / E if homeostasis and homeostasis[1] < E else 0.0
            if kind == "event":
                P = min(1.0, B / E) if E > 0 else 0.0
                change = (-P + h) * trace
                E += 1000 / alpha
            else:
                change = (1 + h) * trace
                B += 1000 / alpha
        if change and learns(t):
            weight += eta * change
            if bounds:
                weight = min(max(weight, bounds[0]), bounds[1])
    E *= math.exp(-(until - now) / alpha)
    B *= math.exp(-(until - now) / alpha)
    trace *= math.exp(-(until - now) / tau_pre)
    return {"weight": weight, "event_rate": E, "burst_rate": B, "eligibility": trace}


def runge_kutta(slope: Callable[[list[float]], list[float]], x: list[float], time: float, parts: int) -> list[float]:
    """x after `time` under dx/dt = slope(x), in fourth order."""
    h = time / parts
    for _ in range(parts):
        k1 = slope(x)
        k2 = slope([a + h / 2 * k for a, k in zip(x, k1, strict=True)])
        k3 = slope([a + h / 2 * k for a, k in zip(x, k2, strict=True)])
        k4 = slope([a + h * k for a, k in zip(x, k3, strict=True)])
        x = [a + h / 6 * (p + 2 * q + 2 * r + s) for a, p, q, r, s in zip(x, k1, k2, k3, k4, strict=True)]
    return x


def sigmoid(v: float) -> float:
    return 1 / (1 + math.exp(-v))


class Pyramidal:
    """One pyramidal neuron with the published constants; the currents and f are held through each time step."""

    def __init__(self, *, coupled: bool, dt: float = 0.1) -> None:
        self.dt = dt
        self.coupled = coupled
        self.V_s, self.w_s, self.theta, self.V_d, self.w_d = -70.0, 0.0, -50.0, -70.0, 0.0
        self.midpoint = -38.0 if coupled else -57.0

    @property
    def f(self) -> float:
        return sigmoid((self.V_d - self.midpoint) / 6)

    def pass_time(self, I_s: float, I_d: float, K: float = 0.0) -> None:
        g_s, g_d, c_d = (1300.0, 1200.0, 2600.0) if self.coupled else (0.0, 0.0, 0.0)
        f = self.f

        def slope(x: list[float]) -> list[float]:
            V_s, w_s, theta, V_d, w_d = x
            return [
                (-(370 / 16) * (V_s + 70) + g_s * f - 200 * w_s + I_s) / 370,
                -w_s / 100,
                -(theta + 50) / 27,
                (-(170 / 7) * (V_d + 70) + g_d * f + c_d * K - 13 * w_d + I_d) / 170,
                (-w_d + (V_d + 70)) / 30,
            ]

        before = [self.V_s, self.w_s, self.theta, self.V_d, self.w_d]
        self.V_s, self.w_s, self.theta, self.V_d, self.w_d = runge_kutta(slope, before, self.dt, 8)

    def fire(self) -> None:
        self.V_s = -70.0
        self.w_s += 1
        self.theta += 2


def two_compartment(soma: Iterable[float], dendrite: Iterable[float]) -> tuple[list[bool], list[dict[str, float]]]:
    """The full neuron under two currents, one value a time step: its spikes and potentials."""
    neuron, last = Pyramidal(coupled=True), None
    spikes, traces = [], []
    for step, (I_s, I_d) in enumerate(zip(soma, dendrite, strict=True)):
        # the box of 2 ms begins with the first step after the spike
        neuron.pass_time(I_s, I_d, K=float(last is not None and step - last <= 20))
        spikes.append(neuron.theta < neuron.V_s)
        if spikes[-1]:
            neuron.fire()
            last = step
        traces.append({"soma": neuron.V_s, "dendrite": neuron.V_d, "threshold": neuron.theta})
    return spikes, traces


def stochastic_burst(
    soma: Sequence[Sequence[float]], dendrite: Sequence[Sequence[float]], draw: Callable[[int], Any]
) -> tuple[list[list[bool]], list[list[float]]]:
    """Simplified neurons, (time, units); draw(n) gives n chances and n uniform numbers for the delays."""
    neurons = [Pyramidal(coupled=False) for _ in soma[0]]
    last = [-math.inf] * len(neurons)  # step of the last spike
    second: list[int | None] = [None] * len(neurons)  # step at which a burst's second spike is due
    spikes, potentials = [], []
    for step, (currents_s, currents_d) in enumerate(zip(soma, dendrite, strict=True)):
        events = []
        for i, neuron in enumerate(neurons):
            neuron.pass_time(currents_s[i], currents_d[i])
            if neuron.theta < neuron.V_s and step - last[i] > 200:  # 20 ms
                neuron.fire()
                events.append(i)
        fired = set(events)
        if events:
            chances, delays = draw(len(events))
            for i, chance, delay in zip(events, chances, delays, strict=True):
                second[i] = step + round((5 + 10 * float(delay)) / 0.1) if float(chance) < neurons[i].f else None
        fired |= {i for i in range(len(neurons)) if second[i] == step}
        for i in fired:
            last[i] = step
        spikes.append([i in fired for i in range(len(neurons))])
        potentials.append([neuron.V_s for neuron in neurons])
    return spikes, potentials


def short_term(spikes: Sequence[bool], U: float, f: float, tau_D: float, tau_F: float, dt: float) -> list[float]:
    """The efficacy of every step of one synapse, zero where there is no spike."""
    u, x, last, efficacies = U, 1.0, -1, []
    for step, spike in enumerate(spikes):
        if not spike:
            efficacies.append(0.0)
            continue
        silence = (step - last) * dt
        x = 1 + (x - 1) * math.exp(-silence / tau_D)
        u = U + (u - U) * math.exp(-silence / tau_F)
        efficacies.append(u * x)
        x -= u * x
        u += f * (1 - u)
        last = step
    return efficacies


def adaptive_exponential(
    currents: Iterable[float],
    *,
    g_L: float,
    tau: float,
    V_T: float,
    D: float,
    a: float,
    b: float,
    tau_w: float,
    reset: float,
    refractory: int,
    dt: float = 0.1,
) -> list[bool]:
    """One AdEx neuron with E_L = -70 mV and its peak at 0; the exponential and the current are held through a step."""
    V, w, last, spikes = -70.0, 0.0, -math.inf, []
    for step, current in enumerate(currents):
        upward = (g_L * D * math.exp((V - V_T) / D) - w + current) / g_L
        V = -70 + upward + (V + 70 - upward) * math.exp(-dt / tau)
        if step - last <= refractory:
            V = reset
        spikes.append(V > 0)
        if spikes[-1]:
            V, last = reset, step
        w = a * (V + 70) + (w - a * (V + 70)) * math.exp(-dt / tau_w)
        if spikes[-1]:
            w += b
    return spikes
