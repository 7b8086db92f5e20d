"""Continual learning on one task: the floors on a stream of one class a task; fine-tuning and joint training on split.

python benchmarks/floors.py
python benchmarks/floors.py --networks
"""

import argparse
import time

import torch
from torch import nn

from apical import continual, data
from apical.continual import NearestClassMean, RandomFeatures, StreamingLDA


def floors(task: data.Task, seeds: int) -> None:
    """Accuracy on all classes after one pass, one class after another."""
    stream = continual.one_class(task)
    learners = [NearestClassMean(), StreamingLDA()]
    learners += [RandomFeatures(StreamingLDA(), features=1000, seed=seed) for seed in range(seeds)]
    for floor in learners:
        start = time.perf_counter()
        for each in stream:
            floor.partial_fit(each.train.x, each.train.y)
        right = (floor.predict(task.test.x) == task.test.y).double().mean().item()
        print(f"{100 * right:6.2f} %  {time.perf_counter() - start:6.1f} s  {floor}", flush=True)


def networks(task: data.Task) -> None:
    """One pass of Adam at batch 128 through two hidden layers of 400, two classes a task, seed 0."""
    inputs = task.train.x[0].numel()
    for scenario in ("task", "domain", "class"):
        stream = continual.split(task, 2, scenario)
        for learn in (continual.run, continual.joint):
            torch.manual_seed(0)
            hidden = (nn.Linear(inputs, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU())
            found = learn(stream, nn.Sequential(nn.Flatten(), *hidden, nn.Linear(400, stream.outputs)))
            matrix = found.matrix[-1] if isinstance(found, continual.Outcome) else found
            print(f"{100 * matrix.mean().item():6.2f} %  {scenario}-incremental, {learn.__name__}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="mnist", help="as for apical.data.load")
    parser.add_argument("--seeds", type=int, default=2, help="of the random features")
    parser.add_argument("--networks", action="store_true", help="fine-tuning and joint training in place of the floors")
    options = parser.parse_args()
    task = data.load(options.task)
    if options.networks:
        networks(task)
    else:
        floors(task, options.seeds)


if __name__ == "__main__":
    main()
