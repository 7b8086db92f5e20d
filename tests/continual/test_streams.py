"""Streams: which examples and labels each task has, in each scenario, and what is refused before training."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from apical import continual, data
from apical.data import Examples, Task
from apical.errors import ConfigError, DataError


def tiny(classes: int = 6, each: int = 5, shape: tuple[int, ...] = (1, 4, 4), **changes: object) -> Task:
    """A task whose examples differ in all their values."""
    y = torch.arange(classes).repeat(each)
    x = torch.arange(len(y) * math.prod(shape), dtype=torch.float32).view(-1, *shape)
    return Task(**{"name": "tiny", "train": Examples(x, y), "test": Examples(-x, y), "classes": classes, **changes})


def test_a_split_has_every_example_once_in_order():
    task = data.load("digits")
    stream = continual.split("digits", classes_per_task=2, scenario="class")
    assert len(stream) == 5
    assert stream.outputs == 10
    for i, own in enumerate(stream):
        assert own.index == i
        assert own.classes == own.labels == (2 * i, 2 * i + 1)
        assert own.validation is None
        for part, whole in ((own.train, task.train), (own.test, task.test)):
            mine = (whole.y // 2) == i
            assert torch.equal(part.x, whole.x[mine])
            assert torch.equal(part.y, whole.y[mine])


def test_any_partition_of_some_classes():
    stream = continual.split(tiny(), classes=[(4, 1), (3,), (0, 2)])
    assert [set(own.train.y.tolist()) for own in stream] == [{1, 4}, {3}, {0, 2}]
    assert stream[-1].classes == (0, 2)
    assert [own.index for own in stream[1:]] == [1, 2]


def test_the_labels_of_the_scenarios():
    by_class = continual.split(tiny(), classes=[(4, 1), (0, 2)])[0]
    in_domain = continual.split(tiny(), classes=[(4, 1), (0, 2)], scenario="domain")
    in_task = continual.split(tiny(), classes=[(4, 1), (0, 2)], scenario="task")[0]
    assert in_domain.outputs == 2
    assert in_domain[0].labels == (0, 1)
    assert torch.equal(in_domain[0].train.y, (by_class.train.y == 1).long())
    assert torch.equal(in_domain[0].test.x, by_class.test.x)
    assert torch.equal(in_task.train.y, by_class.train.y)
    assert by_class.outputs == tuple(range(6))
    assert in_task.outputs == (4, 1)


def test_only_the_task_s_outputs_compete_where_its_identity_is_given():
    own = continual.split(tiny(), scenario="task")[1]
    y = torch.randn(7, 6, requires_grad=True)
    restricted = own.restrict(y)
    assert set(restricted.argmax(1).tolist()) <= {2, 3}
    loss = F.cross_entropy(restricted, torch.full((7,), 2))
    loss.backward()
    assert torch.equal(y.grad.abs().sum(0) > 0, torch.tensor([False, False, True, True, False, False]))
    assert loss.item() == pytest.approx(F.cross_entropy(y[:, 2:4], torch.zeros(7, dtype=torch.long)).item())
    assert continual.split(tiny(), scenario="class")[1].restrict(y) is y


def test_the_validation_part_is_cut_from_the_training_part():
    stream = continual.split(tiny(each=10), validation=0.2, seed=3)
    own = stream[1]
    assert len(own.validation) == 4
    assert sorted(own.validation.y.tolist()) == [2, 2, 3, 3]
    both = torch.cat([own.train.x, own.validation.x]).flatten(1)[:, 0]
    assert sorted(both.tolist()) == sorted(continual.split(tiny(each=10))[1].train.x.flatten(1)[:, 0].tolist())
    assert torch.equal(own.validation.x, continual.split(tiny(each=10), validation=0.2, seed=3)[1].validation.x)
    assert not torch.equal(own.validation.x, continual.split(tiny(each=10), validation=0.2, seed=4)[1].validation.x)


def test_a_drawn_order_of_classes_depends_on_the_seed_alone():
    orders = {continual.one_class(tiny(), shuffle=True, seed=seed).classes for seed in (0, 0, 1)}
    assert len(orders) == 2
    assert all(sorted(order) == [(c,) for c in range(6)] for order in orders)


def test_one_class_a_task():
    stream = continual.one_class("digits")
    assert [set(own.train.y.tolist()) for own in stream] == [{c} for c in range(10)]
    assert stream.scenario == "class"


def test_permutations_keep_the_values_and_differ_by_task():
    task = tiny()
    stream = continual.permuted(task, tasks=3, seed=1)
    first, second, third = (own.train.x.flatten(1) for own in stream)
    assert torch.equal(first, task.train.x.flatten(1))
    assert not torch.equal(second, third)
    assert torch.equal(second.sort(1).values, first.sort(1).values)
    order = second[0].argsort()
    assert torch.equal(second[:, order], first)  # one permutation for all examples ...
    assert torch.equal(stream[1].test.x.flatten(1)[:, order], task.test.x.flatten(1))  # ... and for both parts
    assert torch.equal(continual.permuted(task, tasks=3, seed=1)[1].train.x, stream[1].train.x)
    assert not torch.equal(continual.permuted(task, tasks=3, seed=2)[1].train.x, stream[1].train.x)


@pytest.mark.parametrize(("scenario", "outputs", "labels"), [("domain", 6, 0), ("task", 18, 12), ("class", 18, 12)])
def test_the_labels_of_permuted_tasks(scenario, outputs, labels):
    task = tiny()
    stream = continual.permuted(task, tasks=3, scenario=scenario)
    assert stream.outputs == outputs
    assert torch.equal(stream[2].train.y, task.train.y + labels)
    assert len(stream[2].outputs) == (18 if scenario == "class" else 6)


def test_rotations_by_right_angles_are_exact():
    task = tiny(shape=(2, 4, 4))
    stream = continual.rotated(task, angles=[0, 90, 180, 270])
    for turns, own in enumerate(stream):
        assert torch.allclose(own.train.x, torch.rot90(task.train.x, turns, (2, 3)), rtol=1e-4, atol=1e-3)


def test_a_rotation_of_a_picture_that_is_not_square_keeps_its_proportions():
    """A point 3 to the right of the centre lies 3 above it after a quarter turn."""
    x = torch.zeros(1, 1, 9, 15)
    x[0, 0, 4, 10] = 1
    both = Examples(x.repeat(2, 1, 1, 1), torch.arange(2))
    turned = continual.rotated(Task("point", both, both, 2), angles=[90])[0].train.x[0, 0]
    assert turned[1, 7] == pytest.approx(1, abs=1e-4)


def test_an_angle_may_come_again():
    assert len(continual.rotated(tiny(), angles=[0, 30, 0])) == 3


def test_evenly_spaced_rotations():
    assert [own.name for own in continual.rotated(tiny(), tasks=4)] == [f"{a} degrees" for a in (0, 45, 90, 135)]


def test_own_tasks_of_every_kind():
    a, b = tiny(classes=2), Examples(torch.randn(4, 1, 4, 4), torch.tensor([2, 2, 4, 4]))
    pair = (TensorDataset(b.x, b.y), b)
    stream = continual.from_tasks([a, pair])
    assert stream.outputs == 5
    assert stream.labels == ((0, 1), (2, 4))
    assert torch.equal(stream[1].train.x, b.x)
    separate = continual.from_tasks([a, pair, a], scenario="task", separate=True)
    assert separate.labels == ((0, 1), (2, 3), (4, 5))
    assert separate[1].classes == (2, 4)
    assert torch.equal(separate[1].test.y, torch.tensor([2, 2, 3, 3]))
    assert torch.equal(separate[2].train.y, a.train.y + 4)


def test_own_domains_share_their_labels_as_they_are():
    a, b = tiny(classes=3), Examples(torch.randn(4, 1, 4, 4), torch.tensor([2, 2, 2, 2]))
    stream = continual.from_tasks([a, (b, b)], scenario="domain")
    assert stream.outputs == 3
    assert torch.equal(stream[1].train.y, b.y)
    assert len(stream[1].outputs) == 3


def test_a_stream_says_what_it_is():
    assert "0 1 | 2 3 | 4 5" in repr(continual.split(tiny()))
    assert "0 to 5 | 0 to 5" in repr(continual.permuted(tiny(), tasks=2))


def with_nan(part: str) -> Task:
    task = tiny()
    broken = Examples(getattr(task, part).x.clone(), task.train.y)
    broken.x[7, 0, 0, 0] = math.nan
    return tiny(**{part: broken})


def doubled() -> Task:
    task = tiny()
    return tiny(**{part: Examples(getattr(task, part).x.double(), getattr(task, part).y) for part in ("train", "test")})


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"classes": [(0, 1), (1, 2)]}, "class 1 is in task 0 and in task 1"),
        ({"classes": [(0, 0)]}, "class 0"),
        ({"classes": [(0, 1), ()]}, "task 1"),
        ({"classes": []}, "no task"),
        ({"classes": [], "scenario": "domain"}, "no task"),
        ({"classes_per_task": 4}, "classes_per_task=4"),
        ({"classes_per_task": 0}, "classes_per_task=0"),
        ({"classes": [(0, 1), (2, 3, 4)], "scenario": "domain"}, "2, 3 classes"),
        ({"classes_per_task": 1, "scenario": "task"}, "one class"),
        ({"classes_per_task": 1, "scenario": "domain"}, "one class"),
        ({"scenario": "instance"}, "scenario='instance'"),
        ({"validation": 1.0}, "validation fraction 1.0"),
    ],
)
def test_a_split_that_cannot_be_is_refused(options, fact):
    with pytest.raises(ConfigError, match=fact):
        continual.split(tiny(), **options)


@pytest.mark.parametrize(
    ("make", "fact"),
    [
        (lambda: continual.split(tiny(), classes=[(0, 9)]), "class 9"),
        (lambda: continual.split(tiny(test=tiny(classes=5).test)), "the test data have no example of class 5"),
        (lambda: continual.split(with_nan("train")), "training example 7"),
        (lambda: continual.permuted(with_nan("test")), "test example 7"),
        (lambda: continual.split(tiny(test=tiny().test.take([]))), "no test examples"),
        (lambda: continual.split(tiny(), validation=0.01), "0.01"),
        (lambda: continual.rotated(tiny(shape=(16,))), r"\(16,\)"),
        (lambda: continual.from_tasks([tiny(), tiny(shape=(16,))], "domain"), r"task 1 .*\(16,\)"),
        (lambda: continual.from_tasks([tiny(train=tiny(classes=5).train)]), "task 0 .* class 5"),
        (lambda: continual.from_tasks([with_nan("train")]), "task 0 .*example 7"),
        (lambda: continual.from_tasks([tiny(), doubled()], "domain"), "task 1 .*float64"),
        (lambda: continual.from_tasks([tiny(train=tiny().train.take([]))]), "task 0 .*no training"),
    ],
)
def test_data_that_cannot_be_learned_are_refused_before_training(make, fact):
    with pytest.raises(DataError, match=fact):
        make()


@pytest.mark.parametrize(
    ("make", "fact"),
    [
        (lambda: continual.from_tasks([tiny(), tiny()]), "class 0 is in task 0 and in task 1"),
        (lambda: continual.from_tasks([tiny(), 3]), "task 1"),
        (lambda: continual.from_tasks([]), "no task"),
        (lambda: continual.from_tasks([tiny(), tiny()], "domain", separate=True), "task 1 has the labels 6, 7"),
        (lambda: continual.permuted(tiny(), tasks=0), "no task"),
        (lambda: continual.rotated(tiny(), angles=[math.inf]), "inf"),
        (lambda: continual.split(3), "int"),
    ],
)
def test_options_that_cannot_be_are_refused(make, fact):
    with pytest.raises(ConfigError, match=fact):
        make()
