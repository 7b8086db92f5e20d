"""The floors of continual learning on a stream of one class a task: accuracy on all classes, after one pass.

python benchmarks/floors.py
"""

import argparse
import time

from apical import continual, data
from apical.continual import NearestClassMean, RandomFeatures, StreamingLDA


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="mnist", help="as for apical.data.load")
    parser.add_argument("--seeds", type=int, default=3, help="of the random features")
    options = parser.parse_args()
    task = data.load(options.task)
    stream = continual.one_class(task)
    floors = [NearestClassMean(), StreamingLDA()]
    floors += [RandomFeatures(StreamingLDA(), features=1000, seed=seed) for seed in range(options.seeds)]
    for floor in floors:
        start = time.perf_counter()
        for each in stream:
            floor.partial_fit(each.train.x, each.train.y)
        right = (floor.predict(task.test.x) == task.test.y).double().mean().item()
        print(f"{100 * right:6.2f} %  {time.perf_counter() - start:6.1f} s  {floor}", flush=True)


if __name__ == "__main__":
    main()
