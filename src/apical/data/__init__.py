"""Real data: tasks by name, a user's own arrays and datasets, and cutting them into parts and batches."""

from apical.data.datasets import from_dataset
from apical.data.examples import Examples, Task
from apical.data.idx import read_idx
from apical.data.sampling import batches, split, stratified_indices
from apical.data.scaling import Scaling
from apical.data.tasks import TaskStatus, fetch, load, names, status

__all__ = [
    "Examples",
    "Scaling",
    "Task",
    "TaskStatus",
    "batches",
    "fetch",
    "from_dataset",
    "load",
    "names",
    "read_idx",
    "split",
    "status",
    "stratified_indices",
]
