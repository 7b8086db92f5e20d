"""Two signals in one spike train: events carry one, the share of them that become bursts carries another.

First two populations alone, of simplified neurons and of full ones: one slow current into their somata, another into
their dendrites. Then the motif of Payeur et al. 2021, figure 3, with fewer neurons. There a current drives the somata
of the lower of two populations, and depressing synapses hand its *events* up to the somata of the upper one. Another
current drives the dendrites of the upper one, and facilitating synapses hand its *bursts* down to the dendrites of the
lower one. Parvalbumin cells keep the events in bounds, somatostatin cells the bursts. Prints how well each message
follows each signal; writes multiplexing.html.

python examples/multiplexing.py

SIZE is the number of neurons in each population (4000 in the paper), SECONDS how long it runs, SEED of everything.
"""

import math

import torch
from plotly.subplots import make_subplots
from torch import Tensor

from apical.neurons import (
    AdaptiveExponentialNeuron,
    ConductanceSynapses,
    Projection,
    ShortTermPlasticity,
    StochasticBurstNeuron,
    TwoCompartmentNeuron,
    messages,
)

SIZE = 400
SECONDS = 4.0
SEED = 0
BURN_IN = 1.0  # seconds at the start that are not looked at
STEP = 0.2  # ms
BIN = 50.0  # ms
NOISE = 500.0  # Hz, of excitatory and of inhibitory background spikes into each compartment
FULL, LOWER, UPPER, SIMPLIFIED = range(4)  # the populations


class Background:
    """Poisson spikes from elsewhere into one kind of compartment, drawn for many steps at once."""

    def __init__(self, *shape: int, excitatory: float, inhibitory: float, generator: torch.Generator) -> None:
        self.shape = (500, 2, *shape)
        self.weights = torch.tensor([excitatory, inhibitory]).view(2, *[1] * len(shape))
        self.generator = generator
        self.drawn: list[Tensor] = []

    def into(self, excitatory: Tensor, inhibitory: Tensor) -> None:
        """Open conductances by the spikes of one step."""
        if not self.drawn:
            spikes = torch.rand(self.shape, generator=self.generator) < NOISE * STEP / 1000
            self.drawn = list((spikes * self.weights).unbind())
        more = self.drawn.pop()
        excitatory.add_(more[0])
        inhibitory.add_(more[1])


def simplified(size: int, somatic: Tensor, dendritic: Tensor, seed: int) -> Tensor:
    """Neurons whose dendrites only set the chance of a burst, under the two signals; their spikes, (time, size)."""
    noise = torch.randn(len(somatic), size, generator=torch.Generator().manual_seed(seed))
    into_soma = 700 + somatic[:, None] + 450 * noise
    return StochasticBurstNeuron(time_step=STEP, seed=seed)(into_soma, 300 + dendritic[:, None]).spikes


def simulate(size: int, somatic: Tensor, dendritic: Tensor, seed: int) -> Tensor:
    """The full neurons, alone and in the motif, under two signals (time,) in pA; their spikes, (time, 3, size)."""
    generator = torch.Generator().manual_seed(seed)
    few = size // 4
    into_soma = torch.stack([somatic, somatic, torch.full_like(somatic, -100)], 1)[..., None]
    into_dendrite = torch.stack([dendritic, torch.full_like(dendritic, 50), dendritic], 1)[..., None]

    def project(pre: int, post: int, weight: float) -> Projection:
        # each neuron has as many inputs as in the paper, or fewer and stronger ones where there are too few neurons
        inputs = 0.05 * (4000 if pre == size else 1000)
        probability = min(1.0, inputs / pre)
        weight *= inputs / (probability * pre)
        return Projection(pre, post, probability=probability, weight=weight, generator=generator)

    up, up_to_pv, pv_to_upper = project(size, size, 0.05), project(size, few, 0.05), project(few, size, 0.07)
    down, down_to_som, som_to_lower = project(size, size, 0.37), project(size, few, 0.3), project(few, size, 0.035)
    within = project(size, size, 0.1)  # inhibition by neighbours' bursts

    pyramidal = TwoCompartmentNeuron(time_step=STEP)
    pv, som = AdaptiveExponentialNeuron.pv(time_step=STEP), AdaptiveExponentialNeuron.som(time_step=STEP)
    state, pv_state, som_state = pyramidal.start(3, size), pv.start(few), som.start(few)
    step, pv_step, som_step = pyramidal.stepper(state), pv.stepper(pv_state), som.stepper(som_state)

    soma, dendrite, pv_cell, som_cell = (
        ConductanceSynapses(cell.leak_conductance, time_step=STEP)
        for cell in (pyramidal.soma, pyramidal.dendrite, pv, som)
    )
    at_soma, at_dendrite = soma.start(3, size), dendrite.start(3, size)
    at_pv, at_som = pv_cell.start(few), som_cell.start(few)
    depressing = ShortTermPlasticity.depressing(time_step=STEP)
    facilitating = ShortTermPlasticity.facilitating(time_step=STEP)
    depression, facilitation = depressing.start(size), facilitating.start(2, size)
    background = [
        (Background(3, size, excitatory=0.35, inhibitory=0.35, generator=generator), at_soma),
        (Background(3, size, excitatory=0.05, inhibitory=0.05, generator=generator), at_dendrite),
        (Background(few, excitatory=0.75, inhibitory=1.125, generator=generator), at_pv),
        (Background(few, excitatory=0.4, inhibitory=0.5, generator=generator), at_som),
    ]

    raster = torch.empty(len(somatic), 3, size, dtype=torch.bool)
    for fired, soma_drive, dendrite_drive in zip(raster, into_soma, into_dendrite, strict=True):
        for noise, conductances in background:
            noise.into(*conductances)
        fired.copy_(
            step(
                soma.step(at_soma, state.soma).add_(soma_drive),
                dendrite.step(at_dendrite, state.dendrite).add_(dendrite_drive),
            )
        )
        pv_spikes = pv_step(pv_cell.step(at_pv, pv_state.soma).add_(205))
        som_spikes = som_step(som_cell.step(at_som, som_state.soma))

        events = depressing.step(depression, fired[LOWER])
        up(fired[LOWER], at_soma.excitatory[UPPER], events)
        up_to_pv(fired[LOWER], at_pv.excitatory, events)
        pv_to_upper(pv_spikes, at_soma.inhibitory[UPPER])

        bursts = facilitating.step(facilitation, fired[LOWER:])
        down(fired[UPPER], at_dendrite.excitatory[LOWER], bursts[1])
        down_to_som(fired[UPPER], at_som.excitatory, bursts[1])
        som_to_lower(som_spikes, at_dendrite.inhibitory[LOWER])
        within(fired[LOWER:], at_dendrite.inhibitory[LOWER:], bursts)
    return raster


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's, at the lag of up to 100 ms at which it is strongest: adaptation is early, transmission is late."""
    most = round(100 / BIN)
    n = len(a) - 2 * most
    centre = b[most : most + n]
    found = [torch.corrcoef(torch.stack([a[lag : lag + n], centre]))[0, 1].item() for lag in range(2 * most + 1)]
    return max(found, key=abs)


def main() -> None:
    """Simulate, compare what each population says with each signal, and draw it."""
    time = torch.arange(round(SECONDS * 1000 / STEP)) * STEP
    somatic = 200 * torch.sin(2 * math.pi * time / 500)
    dendritic = 100 + 100 * torch.sin(2 * math.pi * time / (500 * math.sqrt(5)))
    spikes = simulate(SIZE, somatic, dendritic, SEED)
    spikes = torch.cat([spikes, simplified(SIZE, somatic, dendritic, SEED)[:, None]], 1)

    first, width = round(BURN_IN * 1000 / STEP), round(BIN / STEP)
    event_rate, burst_rate, burst_probability = messages(spikes[first:], width=BIN, step=STEP)
    signals = {
        name: signal[first:].view(-1, width).mean(1).double()
        for name, signal in (("somatic signal", somatic), ("dendritic signal", dendritic))
    }

    titles = ["Signals (pA)", "Event rate (Hz)", "Burst probability"]
    figure = make_subplots(3, 1, shared_xaxes=True, subplot_titles=titles)
    seconds = [BURN_IN + BIN / 1000 * (k + 0.5) for k in range(len(event_rate))]
    for (name, signal), dash in zip(signals.items(), ("solid", "dash"), strict=True):
        look = {"line": {"color": "#1d1f24", "dash": dash}, "name": name}
        figure.add_scatter(x=seconds, y=signal.tolist(), row=1, col=1, **look)

    print(f"correlations, {SIZE} neurons in each population: {'   '.join(signals)}")
    names = {
        SIMPLIFIED: ("simplified, alone", "#149bd8"),
        FULL: ("full, alone", "#27508f"),
        LOWER: ("lower of two", "#a8330a"),
        UPPER: ("upper of two", "#b08b1e"),
    }
    for population, (name, colour) in names.items():
        for row, what, said in ((2, "event rate", event_rate), (3, "burst probability", burst_probability)):
            series = said[:, population]
            look = {"line": {"color": colour}, "name": name, "legendgroup": name, "showlegend": row == 2}
            figure.add_scatter(x=seconds, y=series.tolist(), row=row, col=1, **look)
            found = "   ".join(f"{correlation(series, signal):+14.2f}" for signal in signals.values())
            print(f"{name:<18} {what:<18} {found}   (mean {series.mean():.2f})")
    told_up = correlation(event_rate[:, UPPER], event_rate[:, LOWER])
    told_down = correlation(burst_probability[:, LOWER], burst_rate[:, UPPER])
    print(f"handed up: the upper population's event rate and the lower one's {told_up:+.2f}")
    print(f"handed down: the lower population's burst probability and the upper one's burst rate {told_down:+.2f}")
    figure.update_xaxes(title="seconds", row=3, col=1)
    figure.write_html("multiplexing.html", include_plotlyjs=True)


if __name__ == "__main__":
    main()
