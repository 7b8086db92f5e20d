"""The memory: algorithm R against a slow reference and in its statistics, and examples that come back bit for bit."""

import io

import pytest
import torch

from apical.continual.reservoir import Reservoir
from apical.errors import CheckpointError, DataError


def filled(size: int, examples: int, batch: int, seed: int = 0) -> Reservoir:
    memory = Reservoir(size, seed)
    for numbers in torch.arange(examples).split(batch):
        memory.add(numbers[:, None].float(), numbers)
    return memory


@pytest.mark.parametrize(("size", "batch"), [(5, 1), (5, 12), (30, 7), (200, 9)])
def test_it_is_algorithm_r(size, batch):
    memory, generator, kept, seen = Reservoir(size, seed=3), torch.Generator().manual_seed(3), {}, 0
    for numbers in torch.arange(150).split(batch):
        memory.add(numbers[:, None].float(), numbers)
        for draw in torch.rand(len(numbers), generator=generator, dtype=torch.float64).tolist():
            place = seen if seen < size else int(draw * (seen + 1))
            if place < size:
                kept[place] = seen
            seen += 1
    assert memory.seen == seen
    assert len(memory) == len(kept)
    assert memory.entered.tolist() == [kept.get(place, -1) for place in range(size)]
    x, y = memory.draw(2000)
    assert set(y.tolist()) == set(kept.values())
    assert torch.equal(x[:, 0].long(), y)


@pytest.mark.parametrize("batch", [1, 7, 40])
def test_every_example_is_equally_likely_to_be_kept(batch):
    """Of 600 memories each example is in 600 · 10 / 40 = 150 on average, with a standard deviation of 10.6."""
    counts = torch.zeros(40)
    for seed in range(600):
        counts[filled(10, 40, batch, seed).entered] += 1
    assert counts.sum() == 6000
    assert (counts - 150).abs().max() < 4.5 * 10.6
    chi_square = ((counts - 150).square() / (150 * 0.75)).sum() * 39 / 40  # 39 on average, with a deviation of 8.8
    assert 12 < chi_square < 80


def test_kept_examples_are_drawn_equally_often():
    counts = filled(8, 20, 5).draw(8000)[1].bincount(minlength=20)
    assert ((counts > 0) == torch.isin(torch.arange(20), filled(8, 20, 5).entered)).all()
    assert (counts[counts > 0] - 1000).abs().max() < 4.5 * 29.6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5,), (2, 3, 3), (8,), (1,)])
def test_examples_come_back_bit_for_bit(dtype, shape):
    x, y, z = torch.randn(6, *shape, dtype=dtype), torch.arange(6) + 2**40, torch.randn(6, 3, dtype=dtype)
    memory = Reservoir(6, seed=0)
    memory.add(x.requires_grad_(), y, z)
    for of_x, of_y, of_z in zip(*memory.draw(30), strict=True):
        place = int(of_y - 2**40)
        assert not of_x.requires_grad
        assert torch.equal(of_x, x[place])
        assert torch.equal(of_z, z[place])


def test_it_takes_no_part_in_other_draws():
    before = torch.get_rng_state()
    filled(10, 40, 7).draw(5)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_memory_goes_on_from_its_state():
    memory, file = filled(10, 40, 7), io.BytesIO()
    torch.save(memory.state_dict(), file)
    file.seek(0)
    again = Reservoir(10, seed=99)
    again.load_state_dict(torch.load(file, weights_only=True), torch.device("cpu"))
    for each in (memory, again):
        each.add(torch.full((9, 1), -1.0), torch.arange(9))
    assert all(torch.equal(one, other) for one, other in zip(memory.draw(50), again.draw(50), strict=True))
    with pytest.raises(CheckpointError, match=r"10 examples.* 11"):
        Reservoir(11, seed=0).load_state_dict(memory.state_dict(), torch.device("cpu"))


def test_examples_of_another_shape_are_refused():
    with pytest.raises(DataError, match=r"\[1\].*\[2\]"):
        filled(10, 4, 4).add(torch.zeros(3, 2), torch.arange(3))


def test_a_memory_of_no_examples_keeps_none():
    assert filled(0, 40, 7).draw(5) == []
    assert Reservoir(3, seed=0).draw(5) == []
