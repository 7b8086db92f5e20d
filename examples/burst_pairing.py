"""How does a synapse change when two neurons fire together? The pairing protocols of burst-dependent plasticity.

On the left, pairs of spikes at a fixed frequency: the change turns where the interval gets shorter than a burst's
16 ms. On the right, random events of which a share become bursts: the change turns where bursts are as frequent as
the neuron expects, whatever its event rate. Writes burst_pairing.html, a figure to look at.

python examples/burst_pairing.py
"""

import torch
from plotly.subplots import make_subplots

from apical.neurons import BurstDependentPlasticity, burst_poisson, periodic_pairing

REALISATIONS = 100
EXPECTED = 0.2  # the burst probability that the neuron has known so far


def periodic(rule: BurstDependentPlasticity, frequencies: torch.Tensor) -> torch.Tensor:
    """The change of one synapse for each frequency, all in one run: 15 sequences of 5 pairings."""
    times = torch.stack([periodic_pairing(frequency) for frequency in frequencies.tolist()])[:, None]
    weights = torch.zeros(len(frequencies), 1, 1, dtype=torch.float64)
    state = rule.start(weights, event_rate=5.0, burst_probability=0.15)
    return rule.run_times(state, times, times).weights.flatten()


def random(rule: BurstDependentPlasticity, event_rate: float, burst_probability: float) -> torch.Tensor:
    """The changes of as many synapses as there are realisations, after 30 s of both neurons firing on their own."""
    generator = torch.Generator().manual_seed(0)
    shape = (REALISATIONS, 1)
    pre, post = (burst_poisson(event_rate, burst_probability, 30_000, shape, generator=generator) for _ in range(2))
    weights = torch.zeros(REALISATIONS, 1, 1, dtype=torch.float64)
    state = rule.start(weights, event_rate=event_rate, burst_probability=EXPECTED)
    return rule.run_times(state, pre, post).weights.flatten()


def main() -> None:
    """Run both protocols, print the published points, draw the curves."""
    rule = BurstDependentPlasticity(learning_rate=0.1, eligibility_time=50.0, averaging_time=15_000.0)
    figure = make_subplots(1, 2, subplot_titles=["Periodic pairing", "Random events and bursts"])

    frequencies = (
        torch.cat([torch.tensor([1.0]), torch.arange(2.5, 101, 2.5), torch.tensor([62.4, 62.6])]).sort().values
    )
    changes = periodic(rule, frequencies)
    figure.add_scatter(x=frequencies.tolist(), y=changes.tolist(), mode="lines+markers", showlegend=False, row=1, col=1)
    print("pairing frequency (Hz) and weight change")
    for frequency, change in zip(frequencies.tolist(), changes.tolist(), strict=True):
        if frequency in {1, 10, 30, 55, 60, 65, 80, 100}:
            print(f"{frequency:6.0f}  {change:+.4f}")

    probabilities = [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4]
    print(f"burst probability and weight change, mean and standard deviation of {REALISATIONS} realisations")
    for event_rate in (5, 10):
        changes = torch.stack([random(rule, event_rate, probability) for probability in probabilities])
        means, deviations = changes.mean(1), changes.std(1)
        figure.add_scatter(
            x=[100 * probability for probability in probabilities],
            y=means.tolist(),
            error_y={"array": deviations.tolist()},
            name=f"{event_rate} events/s",
            row=1,
            col=2,
        )
        for probability, mean, deviation in zip(probabilities, means.tolist(), deviations.tolist(), strict=True):
            print(f"{event_rate:4d} Hz {probability:5.0%}  {mean:+.4f} ± {deviation:.4f}")

    figure.update_xaxes(title="pairing frequency (Hz)", row=1, col=1)
    figure.update_xaxes(title="burst probability (%)", row=1, col=2)
    figure.update_yaxes(title="weight change")
    figure.add_hline(y=0, line={"dash": "dot", "width": 1})
    figure.write_html("burst_pairing.html", include_plotlyjs=True)


if __name__ == "__main__":
    main()
