r"""Can reward alone teach what to remember? The saccade/antisaccade task, learned by AuGMEnT.

A mark says whether to look to the cue or away from it, the cue is shown for one step, and only two steps later may the
eyes move, before an empty screen. Several networks learn at once, with and without memory units. Writes
saccade_antisaccade.html, their learning curves.

python examples/saccade_antisaccade.py

takes some seconds, at learning rates above the paper's, and shows the beginning. As in the paper, and with a hundred
networks, it takes some minutes:

python examples/saccade_antisaccade.py --networks 100 --trials 25000 --control-trials 25000 \
    --learning-rate 0.15 --trace-decay 0.2
"""

import argparse

import numpy as np
from plotly import graph_objects

from apical.reinforcement import Learned, Solved, evaluate, learn, network_for

TASK = "apical/SaccadeAntisaccade-v0"
# About as in the authors' program, which asks for more than 85: of each kind of trial, 85 of the last 100 right.
CRITERION = Solved(at_least=0.85, score="correct", window=100, by="kind")


def curve(learned: Learned, every: int = 100) -> list[float]:
    """Share of right trials in each hundred, over all networks; one that has learned the task keeps its last share."""
    length = max(learned.trials) // every
    rows = []
    for scores in learned.scores:
        shares = [np.mean(scores[start : start + every]) for start in range(0, len(scores), every)]
        rows.append([*shares, *[np.mean(scores[-every:])] * length][:length])
    return np.mean(rows, axis=0).tolist()


def main() -> None:
    """Learn with and without memory, and say how many networks learned the task."""
    options = argparse.ArgumentParser(description="AuGMEnT learns the saccade/antisaccade task.")
    options.add_argument("--networks", type=int, default=8)
    options.add_argument("--trials", type=int, default=600, help="at most, for each network")
    options.add_argument("--control-trials", type=int, default=200, help="for each network without memory")
    options.add_argument("--learning-rate", type=float, default=0.4)
    options.add_argument("--trace-decay", type=float, default=0.4)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--progress", action="store_true")
    chosen = options.parse_args()

    figure = graph_objects.Figure()
    for memory, regular, trials in ((4, 3, chosen.trials), (0, 7, chosen.control_trials)):
        networks = network_for(
            TASK,
            environments=chosen.networks,
            population=True,
            memory=memory,
            regular=regular,
            learning_rate=chosen.learning_rate,
            trace_decay=chosen.trace_decay,
            seed=chosen.seed,
        )
        learned = learn(TASK, networks, trials=trials, seed=chosen.seed, until=CRITERION, progress=chosen.progress)
        if learned.interrupted:
            print("stopped by Ctrl-C")
        solved = [trial is not None for trial in learned.solved_at]
        tested = evaluate(TASK, networks, trials=40, seed=chosen.seed + 1, score="correct")
        perfect = sum(min(scores) == 1 for scores, met in zip(tested.scores, solved, strict=True) if met)
        print(f"{memory} memory and {regular} regular units, {chosen.networks} networks, {max(learned.trials)} trials:")
        print(f"  {sum(solved)} learned the task")
        if learned.median_trials:
            slowest = max(trial for trial in learned.solved_at if trial)
            print(f"  after {learned.median_trials:.0f} trials (median), the slowest after {slowest}")
            print(f"  {perfect} of these make no mistake in 40 trials without exploration")
        print(f"  {learned.mean_score():.0%} of all networks' last 100 trials were right")
        shares = curve(learned)
        figure.add_scatter(x=[100 * (i + 1) for i in range(len(shares))], y=shares, name=f"{memory} memory units")
    figure.update_xaxes(title="trial").update_yaxes(title="share of trials right", range=[0, 1])
    figure.write_html("saccade_antisaccade.html", include_plotlyjs=True)


if __name__ == "__main__":
    main()
