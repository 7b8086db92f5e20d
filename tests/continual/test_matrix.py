"""The figures of an accuracy matrix against cases computed by hand, and against plain loops."""

import math

import pytest
import torch

import apical
from apical.continual import metrics
from apical.errors import ConfigError

# Task 0 gets better after task 1 (0.8 to 0.9) before it is forgotten, so that the two definitions of forgetting differ.
R = [[0.8, 0.1, 0.3], [0.9, 0.7, 0.2], [0.5, 0.6, 1.0]]


def test_the_figures_of_a_matrix_by_hand():
    found = metrics(R, before=[0.1, 0.2, 0.1])
    assert found.accuracy == pytest.approx((0.5 + 0.6 + 1.0) / 3)
    assert found.average_incremental_accuracy == pytest.approx((0.8 + (0.9 + 0.7) / 2 + 0.7) / 3)
    assert found.backward_transfer == pytest.approx(((0.5 - 0.8) + (0.6 - 0.7)) / 2)
    assert found.forward_transfer == pytest.approx(((0.1 - 0.2) + (0.2 - 0.1)) / 2)
    assert found.forgetting_max == pytest.approx(((0.9 - 0.5) + (0.7 - 0.6)) / 2)
    assert found.forgetting_initial == pytest.approx(((0.8 - 0.5) + (0.7 - 0.6)) / 2)
    assert found.forgetting == found.forgetting_max
    assert found.tasks == 3


def test_forgetting_below_zero_where_the_last_task_helps():
    found = metrics([[0.5, 0.1], [0.7, 0.9]])
    assert found.forgetting_max == pytest.approx(-0.2)
    assert found.backward_transfer == pytest.approx(0.2)


def test_the_best_earlier_accuracy_may_precede_the_task_itself():
    """Chaudhry et al. take the maximum over all rows before the last."""
    assert metrics([[0.9, 0.8, 0.0], [0.9, 0.7, 0.0], [0.9, 0.6, 0.9]]).forgetting_max == pytest.approx((0 + 0.2) / 2)


@pytest.mark.parametrize("tasks", [2, 5])
def test_the_equations_written_as_loops(tasks):
    matrix, before = torch.rand(tasks, tasks, dtype=torch.float64), torch.rand(tasks, dtype=torch.float64)
    found, last = metrics(matrix, before=before), tasks - 1
    backward = forward = best = initial = 0.0
    for j in range(last):
        backward += float(matrix[last, j] - matrix[j, j])
        initial += float(matrix[j, j] - matrix[last, j])
        best += max(float(matrix[row, j]) for row in range(last)) - float(matrix[last, j])
    for j in range(1, tasks):
        forward += float(matrix[j - 1, j] - before[j])
    given = (found.backward_transfer, found.forward_transfer, found.forgetting_max, found.forgetting_initial)
    assert given == pytest.approx([value / last for value in (backward, forward, best, initial)])


def test_percent_give_percent():
    percent = [[100 * value for value in row] for row in R]
    assert metrics(percent).forgetting == pytest.approx(100 * metrics(R).forgetting)


def test_a_single_task_has_an_accuracy_and_no_transfer():
    found = metrics(torch.tensor([[0.7]], dtype=torch.float64), before=[0.1])
    assert found.accuracy == pytest.approx(0.7)
    assert (found.backward_transfer, found.forward_transfer, found.forgetting) == (None, None, None)


def test_future_tasks_need_no_test():
    nan = math.nan
    found = metrics([[0.8, nan, nan], [0.9, 0.7, nan], [0.5, 0.6, 1.0]])
    assert found.forgetting_max == metrics(R).forgetting_max
    assert found.forward_transfer is None


def test_the_repr_is_readable():
    assert "accuracy=0.7" in repr(metrics(R))
    assert "forward_transfer=None" in repr(metrics(R))
    assert apical.continual.Metrics is type(metrics(R))


@pytest.mark.parametrize(
    ("matrix", "options", "fact"),
    [
        ([[0.1, 0.2]], {}, r"\(1, 2\)"),
        ([0.1], {}, r"\(1,\)"),
        (torch.zeros(0, 0), {}, r"\(0, 0\)"),
        ([[0.1], [0.2, 0.3]], {}, "R: it cannot be read"),
        ([["a"]], {}, "R: it cannot be read"),
        ([[0.1, 0.2], [math.nan, 0.3]], {}, r"\(1, 0\)"),
        ([[-0.1]], {}, "-0.1"),
        ([[101]], {}, "101"),
        ([[math.inf]], {}, "inf"),
        (R, {"before": [0.1]}, "before"),
        (R, {"before": [0.1, math.nan, 0.1]}, r"before\[1\]"),
        ([[0.1, math.nan], [0.2, 0.3]], {"before": [0.1, 0.1]}, r"R\[0, 1\]"),
    ],
)
def test_what_is_not_a_matrix_of_accuracies_is_refused(matrix, options, fact):
    with pytest.raises(ConfigError, match=fact):
        metrics(matrix, **options)
