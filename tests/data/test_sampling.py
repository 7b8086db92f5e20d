import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from apical.data import Examples, batches, split
from apical.errors import ConfigError, DataError


def numbered(labels: list[int]) -> Examples:
    """Examples whose only value is their index."""
    return Examples(torch.arange(len(labels), dtype=torch.float32)[:, None], torch.tensor(labels, dtype=torch.int64))


def indices(examples: Examples) -> list[int]:
    return [int(value) for value in examples.x[:, 0]]


labels = st.lists(st.integers(0, 4), min_size=2, max_size=60)


@given(labels=labels, fraction=st.floats(0.05, 0.95), seed=st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_split_is_a_stratified_partition(labels: list[int], fraction: float, seed: int) -> None:
    examples = numbered(labels)
    counts = torch.bincount(examples.y)
    try:
        train, validation = split(examples, fraction, seed=seed)
    except DataError:
        # Only where rounding leaves nothing, or every class needs its examples for training.
        assert round(fraction * len(labels)) == 0 or counts.max() == 1 or fraction * counts.max() < 1
        return
    assert sorted(indices(train) + indices(validation)) == list(range(len(labels)))
    assert indices(train) == sorted(indices(train))
    assert indices(validation) == sorted(indices(validation))
    for part in (train, validation):
        assert part.y.tolist() == [labels[index] for index in indices(part)]
    taken = torch.bincount(validation.y, minlength=len(counts))
    assert (taken - fraction * counts).abs().max() <= 1.0
    assert ((taken < counts) | (counts == 0)).all(), "every class keeps a training example"
    if counts[counts > 0].min() > 1 / (1 - fraction):
        assert len(validation) == round(fraction * len(labels))


def test_split_depends_on_the_seed_alone() -> None:
    examples = numbered([0, 1] * 50)
    torch.manual_seed(1)
    first = split(examples, 0.2, seed=3)
    torch.manual_seed(2)
    again, other = split(examples, 0.2, seed=3), split(examples, 0.2, seed=4)
    assert indices(first[1]) == indices(again[1])
    assert indices(first[1]) != indices(other[1])
    assert len(first[1]) == 20


def test_split_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    split(numbered([0, 1] * 10), 0.5, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_split_by_nothing_keeps_all() -> None:
    train, validation = split(numbered([0, 1, 1]), 0, seed=0)
    assert (len(train), len(validation)) == (3, 0)
    assert validation.x.shape == (0, 1)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 1.5, float("nan")])
def test_split_refuses_what_is_no_share(fraction: float) -> None:
    with pytest.raises(ConfigError, match=r"0 <= fraction < 1"):
        split(numbered([0, 1]), fraction, seed=0)


def test_split_refuses_to_cut_nothing() -> None:
    with pytest.raises(DataError, match="leaves nothing to cut off"):
        split(numbered([0, 1, 2]), 0.1, seed=0)


@given(count=st.integers(0, 40), size=st.integers(1, 50), shuffled=st.booleans())
@settings(max_examples=60, deadline=None)
def test_batches_bring_every_example_once(count: int, size: int, shuffled: bool) -> None:
    examples = numbered([index % 3 for index in range(count)])
    generator = torch.Generator().manual_seed(count) if shuffled else None
    pairs = list(batches(examples, size, generator=generator))
    seen = [int(value) for x, _ in pairs for value in x[:, 0]]
    assert sorted(seen) == list(range(count))
    assert [int(label) for _, y in pairs for label in y] == [index % 3 for index in seen]
    assert [len(y) for _, y in pairs] == [size] * (count // size) + [count % size] * (count % size > 0)
    if not shuffled:
        assert seen == list(range(count))


def test_batches_follow_the_generator_and_draw_at_the_call() -> None:
    examples = numbered([0] * 50)
    generator = torch.Generator().manual_seed(7)
    state = generator.get_state()
    pairs = batches(examples, 8, generator=generator)
    moved = generator.get_state()
    assert not torch.equal(moved, state), "the permutation is drawn before the first batch is asked for"
    first = torch.cat([x for x, _ in pairs])
    assert torch.equal(generator.get_state(), moved)
    generator.set_state(state)
    assert torch.equal(torch.cat([x for x, _ in batches(examples, 8, generator=generator)]), first)
    assert not torch.equal(torch.cat([x for x, _ in batches(examples, 8, generator=generator)]), first)


def test_batches_in_order_are_views() -> None:
    examples = numbered([0] * 10)
    _, (x, _), *_ = batches(examples, 4)
    assert x.data_ptr() == examples.x[4:].data_ptr()


def test_batches_can_drop_a_smaller_last_one() -> None:
    assert [len(y) for _, y in batches(numbered([0] * 10), 4, drop_last=True)] == [4, 4]
    assert [len(y) for _, y in batches(numbered([0] * 8), 4, drop_last=True)] == [4, 4]


@pytest.mark.parametrize(
    ("size", "drop_last", "reason"), [(0, False, "at least one"), (11, True, "leaves nothing of 10")]
)
def test_batches_of_nothing_are_refused_at_the_call(size: int, drop_last: bool, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        batches(numbered([0] * 10), size, drop_last=drop_last)
